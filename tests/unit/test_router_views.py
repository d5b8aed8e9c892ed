# SPDX-License-Identifier: Apache-2.0
"""What operators are told of one router and one floating IP, from the plan to what ``hostplane status`` prints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from agent.config import StatusConfig
from agent.core.errors import Actor, CommandError, Problem
from agent.core.model import HostName, PortId, RouterId
from agent.core.plan import ItemRef
from agent.core.report import ItemState, ObjectStatus, PortState
from agent.core.router_report import RoutersReport, RouterStatus
from agent.core.router_view import FloatingIpView, RouterView
from agent.router_views import Facts, floating_ip_views, router_views
from agent.status.server import StatusServer
from tests.fakes.status_source import FakeSource
from tests.golden.router_world import RouterWorld, edge_world

EDGE, HERE, THERE = RouterId("edge"), HostName("here"), HostName("there")
SPACE = "qrouter-edge"
OWN, FAR = "203.0.113.21", "203.0.113.31"  # of an instance here, and of one on host there
UPSTREAM = "203.0.113.1"
STAND_FOR = {OWN: "10.0.0.11", "203.0.113.23": "10.0.0.13", FAR: "10.0.0.21", "203.0.113.33": "10.0.0.23"}


class Looked:
    """A namespace in which the next hop is silent, and the floating IP of our instance was used twice."""

    def neighbors(self, name: str, wanted: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        return {(device, address): "" for device, address in wanted if address == UPSTREAM}

    def translated(self, name: str) -> Mapping[str, int]:
        used = {OWN: 2}
        into = {f"hp-dnat -d {ip}/32 -j DNAT --to-destination {own}": used.get(ip, 0) for ip, own in STAND_FOR.items()}
        return into | {f"hp-floating -s {own}/32 -j SNAT --to-source {ip}": 0 for ip, own in STAND_FOR.items()}


class Flushed(Looked):
    """A namespace whose rules somebody has removed."""

    def translated(self, name: str) -> Mapping[str, int]:
        return {}


class Blind:
    """A namespace that cannot be looked into."""

    def neighbors(self, name: str, wanted: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        raise CommandError(("ip",), 1, "no")

    def translated(self, name: str) -> Mapping[str, int]:
        raise CommandError(("iptables-save",), 127, "iptables-save is not installed")


def facts(
    world: RouterWorld,
    unfinished: Mapping[ItemRef, ObjectStatus] | None = None,
    reason: str = "",
    *,
    ready: bool = True,
) -> Facts:
    router = world.routers[EDGE]
    host, active = world.gateways.hosts[EDGE], EDGE in world.gateways.active
    status = RouterStatus(
        EDGE, "edge", router.distributed, router.gateway_hosts, host, active, lives_here=True,
        floating_ips=4, port_forwardings=2, since=900.0, ready=ready, reason=reason,
    )  # fmt: skip
    return Facts(world.snapshot(), world.plan(), world.settings, unfinished or {}, RoutersReport((status,)))


def floating(world: RouterWorld, address: str, **more: Any) -> FloatingIpView:
    (found,) = floating_ip_views(address, facts(world, **more), Looked())
    return found


def router(world: RouterWorld, **more: Any) -> RouterView:
    (found,) = router_views("edge", facts(world, **more), Looked())
    return found


def test_where_the_gateway_is_active_floating_ips_are_in_place_and_counted() -> None:
    found = floating(edge_world(distributed=False), OWN)
    assert (found.is_here, found.reason, found.begun_in, found.begun_out) == (True, "", 2, 0)
    assert found.mac == "fa:16:3e:ff:00:03"  # the gateway's: a centralised router has one outside
    assert [(hop.address, hop.mac) for hop in found.next_hops] == [(UPSTREAM, "")]


def test_a_standby_names_the_host_that_answers() -> None:
    found = floating(edge_world(distributed=False, active="there"), OWN)
    assert (found.host, found.is_here, found.reason) == (THERE, False, "")
    assert (found.begun_in, found.next_hops) == (None, ())


def test_floating_ips_of_a_distributed_router_are_where_their_instances_are() -> None:
    world = edge_world(distributed=True, active="there")
    own = floating(world, OWN)
    assert (own.is_here, own.reason, own.mac) == (True, "", "fa:16:3e:ff:ff:01")
    assert floating(world, FAR).host == THERE
    assert floating(world, "203.0.113.33").host == THERE  # its own host has no external network


def test_without_a_gateway_in_use_it_says_why() -> None:
    found = floating(edge_world(distributed=False, active=None), OWN, reason="nobody has the gateway", ready=False)
    assert (found.host, found.is_here, found.reason) == (None, False, "nobody has the gateway")


def test_what_is_missing_is_named_by_its_cause_and_counted() -> None:
    world = edge_world(distributed=False)
    space = ItemRef("netns", SPACE)
    items = world.group("router:edge").items
    waiting = ObjectStatus(ItemState.BLOCKED, "waits for netns", 1.0, waits_for=space)
    unfinished = {space: ObjectStatus(ItemState.ERROR, "it was not made by hostplane", 1.0)}
    unfinished |= {ItemRef("nat", key): waiting for key in items["nat"]}
    found = router(world, unfinished=unfinished, reason="no namespace", ready=False)
    assert found.unfinished == (f"netns {SPACE}: it was not made by hostplane ({len(items['nat']) + 1} items)",)
    assert {each.reason for each in found.floating_ips} == {"no namespace"}


def test_what_is_missing_of_one_floating_ip_is_its_own() -> None:
    world = edge_world(distributed=False)
    rule = ItemRef("nat", f"{SPACE} 4 nat hp-dnat -d {OWN}/32 -j DNAT --to-destination 10.0.0.11")
    unfinished = {rule: ObjectStatus(ItemState.ERROR, "the lock is held", 1.0)}
    assert floating(world, OWN, unfinished=unfinished).reason.endswith(": the lock is held")
    assert floating(world, "203.0.113.23", unfinished=unfinished).reason == ""


def test_a_gateway_that_the_switch_has_not_numbered_yet_is_a_reason() -> None:
    world = edge_world(distributed=False)
    world.ofports = {name: number for name, number in world.ofports.items() if number != 2003}
    assert "not connected" in floating(world, OWN).reason


def test_a_namespace_that_cannot_be_looked_into_hides_nothing_else() -> None:
    (found,) = router_views("edge", facts(edge_world(distributed=False)), Blind())
    assert str(found.look_error).endswith("iptables-save is not installed")
    assert {leg.network_name for leg in found.interfaces} == {"blue", "red"}
    assert all(each.begun_in is None and each.is_here for each in found.floating_ips)


def test_rules_that_somebody_has_removed_are_missed() -> None:
    (found,) = floating_ip_views(OWN, facts(edge_world(distributed=False)), Flushed())
    assert found.reason.startswith("its rules are not in the router's namespace")
    (away,) = floating_ip_views(OWN, facts(edge_world(distributed=False, active="there")), Flushed())
    assert away.reason == ""


def test_routes_of_the_store_are_shown_with_their_next_hops() -> None:
    world = edge_world(distributed=False)
    world.change_router("edge", routes=(("10.9.0.0/16", "10.0.0.9"),))
    shown = {(hop.destination, hop.address): hop.mac for hop in router(world).next_hops}
    assert shown["0.0.0.0/0", UPSTREAM] == ""
    assert shown["10.9.0.0/16", "10.0.0.9"] is None


@pytest.fixture
def hostplane(tmp_path: Path, capsys: Any, monkeypatch: Any) -> Any:
    source = FakeSource()
    known = facts(edge_world(distributed=False))
    source.views = router_views("edge", known, Looked())
    source.floating_ips = tuple(view for address in (OWN, FAR) for view in floating_ip_views(address, known, Looked()))
    port = PortState(
        PortId("p1"), "vm1", known.snapshot.ports[PortId("p1")].network, up=False, reason="not plugged in", since=1.0
    )
    source.current.ports[port.id] = port  # type: ignore[index]
    problem = Problem("router:edge", "routes", "a route is left out", Actor.CLOUD)
    object.__setattr__(source.current, "problems", (problem,))
    config = StatusConfig(tmp_path / "agent.sock", metrics_port=0)
    served = StatusServer(config, source, lambda accept: ("text/plain", b""))
    served.start()
    monkeypatch.setenv("HOSTPLANE_SOCKET", str(config.socket))
    monkeypatch.setattr("time.time", lambda: 960.0)

    def run(*words: str, status: int = 0) -> str:
        assert main(["status", *words]) == status
        text: str = capsys.readouterr().out if status == 0 else capsys.readouterr().err
        return text

    yield run
    served.stop()


def test_people_see_why_a_floating_ip_is_not_reached(hostplane: Callable[..., str]) -> None:
    lines = hostplane("floating-ip", OWN).splitlines()
    assert lines[0] == f"{OWN} (f1) of router edge on network public"
    assert "stands for 10.0.0.11 of port vm1, which is DOWN: not plugged in" in lines
    assert f"next hop   {UPSTREAM} to 0.0.0.0/0: DOES NOT ANSWER" in lines
    assert "begun      2 connections from outside, 0 to the outside" in lines
    assert "gateway    used on here for 1 min, hosts in order: here, there" in lines
    assert "problem    a route is left out (who must act: cloud)" in lines
    far = hostplane("floating-ip", FAR)
    assert "on host there: hostplane status port there says more" in far


def test_people_see_all_of_a_router(hostplane: Callable[..., str]) -> None:
    text = hostplane("router", "edge")
    assert "state      ready, its gateway is active here" in text
    assert f"namespace  {SPACE}" in text
    row = next(line.split() for line in text.splitlines() if line.startswith(OWN))
    assert row == [OWN, "10.0.0.11", "vm1", "here", "2", "0", "its", "port", "is", "down"]
    assert "203.0.113.40:8000-8009  udp" in text


def test_what_this_host_does_not_know_is_said_with_where_to_ask(hostplane: Callable[..., str]) -> None:
    assert "hostplane router show other" in hostplane("router", "other", status=1)
    assert "hostplane floating-ip show 203.0.113.9" in hostplane("floating-ip", "203.0.113.9", status=1)
    assert "say which one, by address or id" in hostplane("floating-ip", status=1)
