# SPDX-License-Identifier: Apache-2.0
"""What routers are planned to have, given to the real kernel: a fresh process finds every item as it is wanted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.command import CommandRunner
from agent.core.model import NetworkId
from agent.core.plan import Delta, ObjectId
from agent.drivers.links import LinksDriver
from agent.drivers.nat import NatDriver
from agent.drivers.netns import NetnsDriver
from agent.drivers.routes import RoutesDriver
from tests.golden.router_world import edge_world
from tests.ovs.namespace_lab import host

OWNER = ObjectId("router:edge")


def world(*, distributed: bool, snat: bool, scopes: dict[str, str]):
    made = edge_world(distributed=distributed)
    routes = (
        ("10.9.0.0/16", "10.0.0.13"),
        ("192.168.0.0/24", "10.0.0.11"),
        ("192.168.0.0/24", "10.1.0.12"),
        ("fd00:9::/64", "fd00:1::11"),
        ("fd00:9::/64", "fd00:1::12"),
    )
    made.change_router("edge", enable_snat=snat, routes=routes)
    made.forwarding("edge", 3, "203.0.113.10:5000-5004", "10.1.0.12:5000-5004", 17)
    for network, scope in scopes.items():
        first, *rest = made.subnets[NetworkId(network)]
        made.subnets[NetworkId(network)] = (replace(first, address_scope=scope), *rest)
    return made


@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize(
    ("distributed", "snat", "scopes"),
    [
        (False, True, {}),
        (False, True, {"blue": "s", "red": "t", "public": "s"}),
        (False, False, {"blue": "s", "red": "t", "public": "t"}),
        (True, True, {"blue": "s", "public": "s"}),
        (True, False, {}),
    ],
)
def test_each_item_reads_back_as_it_was_planned(tmp_path, monkeypatch, backend, distributed, snat, scopes):
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    planned = world(distributed=distributed, snat=snat, scopes=scopes)
    with host():
        for make in (NetnsDriver, LinksDriver, RoutesDriver, lambda: NatDriver(CommandRunner(), backend)):
            driver, fresh = make(), make()
            items = {key: item for key, item in planned.items(driver.name).items() if "qrouter" in key or "hpr-" in key}
            assert items
            assert driver.apply(Delta(creates=items, owners=dict.fromkeys(items, OWNER))) == {}
            found = fresh.observe() | fresh.observe({key: OWNER for key in items if " sysctl " in key})
            assert found == items
