# SPDX-License-Identifier: Apache-2.0
"""Whether a router is ready on a host, and what is said when it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from agent.core import naming
from agent.core.model import HostName, PortId, RouterId
from agent.core.plan import ItemRef, ObjectId
from agent.core.report import ItemState, ObjectStatus, RouterState
from agent.port_states import first_by_object
from agent.router_states import RouterFacts, router_states, unfinished_routers
from tests.golden.router_world import EXTERNAL_PATCH, RouterWorld, edge_world

EDGE = RouterId("edge")
OUTSIDE = naming.router_link_names(PortId("edge-public"), gateway=True)[0]


def facts(world: RouterWorld, *, why_not: str = "", unfinished: Mapping[RouterId, str] | None = None) -> RouterFacts:
    plan = world.plan()
    problems = first_by_object(plan.problems)
    return RouterFacts(world.snapshot(), plan, world.switch(), world.gateways, why_not, unfinished or {}, problems)


def state(world: RouterWorld, **more: object) -> RouterState:
    return router_states(facts(world, **more), {}, now=5.0)[EDGE]  # type: ignore[arg-type]


@pytest.mark.parametrize("distributed", [False, True])
def test_a_router_is_ready_when_all_of_it_is_there(distributed: bool) -> None:
    assert state(edge_world(distributed=distributed)) == RouterState(EDGE, True, True, "", 5.0)
    standby = state(edge_world(distributed=distributed, active="there"), why_not="the host is drained")
    assert (standby.active, standby.ready) == (False, True)
    assert standby.reason == "host there has the gateway; the host is drained"


@pytest.mark.parametrize("active", ["here", "there"])
def test_it_is_not_ready_before_the_switch_has_numbered_its_devices(active: str) -> None:
    world = edge_world(distributed=False, active=active)
    number = world.ofports.pop(OUTSIDE)
    waiting = state(world)
    assert (waiting.ready, waiting.reason) == (False, f"device {OUTSIDE} has no OpenFlow port number yet")
    world.ofports[OUTSIDE] = number
    assert state(world).ready


def test_it_is_not_ready_while_its_external_network_leads_nowhere() -> None:
    world = edge_world(distributed=False)
    patch = next(name for name, number in world.ofports.items() if number == EXTERNAL_PATCH)
    del world.ofports[patch]
    assert (state(world).ready, state(world).reason) == (
        False,
        f"network public: port {patch} of br-int has no OpenFlow number yet",
    )


def test_it_is_not_ready_while_nobody_has_the_gateway() -> None:
    waiting = state(edge_world(distributed=True, active=None), why_not="the host has not converged yet")
    assert not waiting.ready
    assert waiting.reason == "nobody has the gateway; the host has not converged yet"


def test_a_host_without_the_router_waits_for_the_gateway_only() -> None:
    world = edge_world(distributed=False, active=None)
    world.change_router("edge", gateway_hosts=(HostName("there"), HostName("beyond")))
    world.ofports = {name: number for name, number in world.ofports.items() if not name.startswith("hpr-")}
    assert state(world).reason == "nobody has the gateway"
    world.use("edge", "there")
    assert (state(world).ready, state(world).reason) == (True, "")


def test_a_router_that_is_to_be_down_says_so() -> None:
    world = edge_world(distributed=False)
    world.change_router("edge", admin_state_up=False)
    assert state(world).reason == "the router is administratively down"


def test_what_is_left_out_is_said_of_a_router_that_is_ready() -> None:
    world = edge_world(distributed=False)
    shown = facts(world)
    shown = replace(shown, problems={"router:edge": "router edge: route to 10.9.0.0/16: ...; left out"})
    said = router_states(shown, {}, now=5.0)[EDGE]
    assert (said.ready, said.reason) == (True, "router edge: route to 10.9.0.0/16: ...; left out")


def test_an_unchanged_state_stays_the_same_object() -> None:
    shown = facts(edge_world(distributed=False))
    before = router_states(shown, {}, now=5.0)
    assert router_states(shown, before, now=9.0)[EDGE] is before[EDGE]
    later = router_states(replace(shown, unfinished={EDGE: "nat: refused"}), before, now=9.0)[EDGE]
    assert (later.ready, later.reason, later.since) == (False, "nat: refused", 9.0)


@pytest.mark.parametrize(
    ("driver", "owner", "text"),
    [
        ("netns", "router:edge", "netns: refused"),
        ("routes", "router:edge/gateway", "routes: refused"),
        ("nat", "floating_ip:f3", "nat: refused"),
        ("nat", "port_forwarding:w2", "nat: refused"),
        ("fallback", "floating_ip:f3", None),
        ("translations", "router:edge/gateway", None),
        ("nat", "floating_ip:gone", None),
        ("flows", "port:p1", None),
    ],
)
def test_what_is_not_in_place_is_its_routers(driver: str, owner: str, text: str | None) -> None:
    ref = ItemRef(driver, "key")
    unfinished = {ref: ObjectStatus(ItemState.ERROR, "refused", 1.0)}
    found = unfinished_routers(unfinished, {ref: ObjectId(owner)}.get, edge_world(distributed=False).snapshot())
    assert found.get(EDGE) == text
