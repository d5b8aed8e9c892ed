# SPDX-License-Identifier: Apache-2.0
"""When connections are judged anew: after a filter was found open, and not because a device is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.core.errors import ApplyError
from agent.core.items import HybridBridge, ZoneFilter
from agent.core.plan import Group, ObjectId, Plan
from agent.core.reconciler import Reconciler
from agent.core.retry import Backoff
from agent.drivers.conntrack import ConntrackDriver
from agent.drivers.zones_nft import BRIDGE, NftTables
from agent.filtering import ORDERS, Rejudging
from tests.fakes.conntrack import FakeTable
from tests.fakes.drivers import FakeDriver
from tests.golden.host_states import Clock

BRIDGE_NAME = "qbrp1"
WHOLE = HybridBridge(BRIDGE_NAME, "tapp1", "qvbp1")


@pytest.mark.parametrize(
    ("driver", "key", "found", "judged"),
    [
        ("bridges", BRIDGE_NAME, HybridBridge(BRIDGE_NAME, "", "qvbp1"), False),  # an instance is switched off
        ("bridges", BRIDGE_NAME, HybridBridge(BRIDGE_NAME, "tapp1", "qvbp1", filtered=False), False),
        ("iptables", "4 filter hp-forward", "-j ACCEPT", True),
        ("members", "hp-4-x 192.0.2.1", "", True),
        ("zones", BRIDGE_NAME, None, True),
    ],
)
def test_connections_are_judged_again_if_some_may_have_begun_that_must_not(driver, key, found, judged):
    table, clock = FakeTable(), Clock()
    drivers = {name: FakeDriver(name) for name in ("bridges", "iptables", "members", "zones")}
    conntrack = ConntrackDriver(table)
    reconciler = Reconciler((*drivers.values(), conntrack), clock, clock, Backoff(), orders=ORDERS)
    rejudging = Rejudging(conntrack)
    items: dict[str, dict[str, Any]] = {
        "bridges": {BRIDGE_NAME: WHOLE},
        "iptables": {"4 filter hp-forward": "-j DROP"},
        "zones": {BRIDGE_NAME: "1"},
        "conntrack": {"zone 1": ZoneFilter(1, "p1", (), ())},
    }
    plan = Plan({ObjectId("port:p1"): Group(ObjectId("port:p1"), items)})
    rejudging.after_pass(reconciler.run(plan, 1), reconciler)
    drivers[driver].tamper(key, found)
    reconciler.read_back(drivers[driver], 0, 1)
    table.dumps.clear()

    again = rejudging.after_pass(reconciler.run(plan, 1), reconciler)
    reconciler.run(plan, 1)

    assert again is judged
    assert bool(table.dumps) is judged


class NoElements:
    """Zones that nobody asks for."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AssertionError(name)


@pytest.mark.parametrize("printed", ["", "null", "[]", '{"nftables": 3}', '{"nftables": [{"chain": {"hook": "x"}}]}'])
def test_an_nft_that_is_not_understood_is_an_unusable_driver_and_no_bug(printed):
    tables = NftTables(lambda argv, **_: printed, (BRIDGE,), NoElements())
    with pytest.raises(ApplyError, match="bridge hostplane: nft prints"):
        tables.read()
