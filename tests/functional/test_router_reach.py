# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom across routers, under which address, compared with an oracle that knows the file only."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from agent.sandbox.reach import Ping, ping_all
from agent.store.document import FloatingIpFields, HostFields
from tests.functional.lab import Lab
from tests.functional.router_document import BEHIND_INSTANCES, DOCUMENT, UPSTREAM_ADDRESSES
from tests.functional.router_oracle import UPSTREAM, World, read_world
from tests.functional.router_tools import move, new_router_lab, wait_converged, wait_gateway, wait_revision

pytestmark = pytest.mark.alone

WORLD = read_world(DOCUMENT, BEHIND_INSTANCES, UPSTREAM_ADDRESSES)
SECONDS = 1.5
ROUNDS = 5
DRAINED = ("host1", "host2")[: int(os.environ.get("HOSTPLANE_TEST_FAILOVERS", "1"))]
GATEWAYS = {"c": "host1", "t": "host2", "d": "host1", "l": "host2", "n": "host1", "s": "host2"}


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_router_lab(new_lab, DOCUMENT)
    for name, addresses in BEHIND_INSTANCES.items():
        for address in addresses:
            lab.output(name, "ip", "address", "add", address, "dev", "lo")
    wait_preferred(lab)
    return lab


def wait_preferred(lab: Lab) -> None:
    """Wait until all gateways are where the file wants them most."""
    for router, host in GATEWAYS.items():
        wait_gateway(lab, router, host, lab.sandbox.host_names)


def asks(world: World) -> list[tuple[str, str]]:
    """Return each source with each address that it could try: its tenant's, and all that is outside."""
    outside = [
        *world.floating,
        *world.upstream,
        *(each for router in world.routers.values() for each in router.outside),
    ]
    found = []
    for source in (*world.instances, UPSTREAM):
        tenant = [each for each in world.instances.values() if each.name[0] == source[0] or ":" in each.addresses[-1]]
        inside = [address for each in tenant for address in (*each.addresses, *each.behind)]
        known = [leg for router in world.routers.values() for leg in router.legs.items()]
        legs = [address for subnet, address in known if world.subnets[subnet].network[0] == source[0]]
        own = world.own(source)
        found += [(source, target) for target in dict.fromkeys((*inside, *legs, *outside)) if target not in own]
    return found


def difference(world: World, ping: Ping) -> str:
    """Return what is not as the oracle says, "" if nothing."""
    wanted = world.expect(ping.source, ping.address)
    arrived = ping.arrived_at <= wanted.arrives_at and bool(ping.arrived_at) is bool(wanted.arrives_at)
    seen = ping.seen_from == ({wanted.seen_from} if wanted.arrives_at else set())
    if arrived and seen and ping.answered is wanted.answered:
        return ""
    got = f"{sorted(ping.arrived_at)} from {sorted(ping.seen_from)}, {'' if ping.answered else 'not '}answered"
    return f"{ping.source} -> {ping.address}: {got}; wanted {wanted}"


def is_unwanted(world: World, ping: Ping) -> bool:
    """Tell whether something came of a request that should not: to ask again would make nothing better."""
    wanted = world.expect(ping.source, ping.address)
    seen_from = {wanted.seen_from} if wanted.arrives_at else set()
    return not (
        ping.arrived_at <= wanted.arrives_at and ping.seen_from <= seen_from and ping.answered <= wanted.answered
    )


def assert_reachability(lab: Lab, world: World = WORLD) -> None:
    """Ask everybody for everything at once; what the machine was too busy to answer in time is asked for again."""
    left = asks(world)
    wrong: list[str] = []
    for _ in range(ROUNDS):
        pings = ping_all(lab.sandbox, left, SECONDS)
        wrong = [text for ping in pings if (text := difference(world, ping))]
        left = [(ping.source, ping.address) for ping in pings if difference(world, ping)]
        if not wrong or any(is_unwanted(world, ping) for ping in pings):
            break
        print(f"{len(left)} of {len(pings)} were not answered")
    print("\n".join(wrong))
    assert not wrong


@pytest.mark.parametrize("router", ["c", "d"], ids=["centralised", "distributed"])
def test_floating_ips_are_asked_for_from_everywhere(router: str) -> None:
    """By who has one and who has none, on the same host, another, and the gateway's: and there is an answer."""
    owners = {pair: address for address, pair in WORLD.floating.items()}
    cells = set()
    for source, target in asks(WORLD):
        owner, fixed = WORLD.floating.get(target, ("", ""))
        if source == UPSTREAM or owner != router or not WORLD.expect(source, target).answered:
            continue
        asking = WORLD.instances[source]
        asked = next(each for each in WORLD.instances.values() if each.network[0] == router and fixed in each.addresses)
        where = {GATEWAYS[router]: "gateway", asking.host: "same"}.get(asked.host, "other")
        if asking is not asked and source[0] == router:
            cells.add(((router, asking.address(4)) in owners, asking.host == GATEWAYS[router], where))
    assert cells == {(True, True, "same"), (True, True, "other"), (False, True, "same"), (False, True, "other")} | {
        (has_one, False, where) for has_one in (True, False) for where in ("same", "other", "gateway")
    }


def test_everybody_reaches_exactly_whom_routers_lead_to(lab: Lab) -> None:
    assert_reachability(lab)


def test_restarted_agents_change_nothing(lab: Lab) -> None:
    def namespaces() -> dict[str, str]:
        script = "cd /run/netns; stat -c '%n %i' qrouter-*; for n in qrouter-*; do ip -n $n -o link; done"
        return {host: lab.output(host, "sh", "-c", script) for host in lab.sandbox.host_names}

    before = namespaces()
    for host, kill in (("host1", True), ("host2", False), ("host3", True)):
        lab.sandbox.restart(host, kill=kill)
    for host in lab.sandbox.host_names:
        wait_converged(lab, host)
    assert namespaces() == before
    for router, host in GATEWAYS.items():
        wait_gateway(lab, router, host, lab.sandbox.host_names, 1)
    assert_reachability(lab)


@pytest.mark.parametrize("drained", DRAINED)
def test_gateways_lead_to_the_same_wherever_they_are(lab: Lab, drained: str) -> None:
    """Without the host that has some of them, and after it has taken them back."""
    other = "host2" if drained == "host1" else "host1"
    lab.writer.set_host(drained, HostFields(drain=True))
    for router in GATEWAYS:
        wait_gateway(lab, router, other, lab.sandbox.host_names)
    assert_reachability(lab)
    lab.writer.set_host(drained, HostFields(drain=False))
    wait_preferred(lab)
    assert_reachability(lab)


def test_ports_that_move_are_reached_where_they_are(lab: Lab) -> None:
    """With floating IPs and without, towards gateways and away from them, on tunnels and on wires."""
    for port, host in (("cb1", "host3"), ("cb3", "host2"), ("db3", "host1"), ("dr1", "host3"), ("ll1", "host3")):
        move(lab, port, lab.writer.get_port(port).host, host)
        for address in BEHIND_INSTANCES.get(port, ()):
            lab.output(port, "ip", "address", "add", address, "dev", "lo")
        lab.wait_port(port, up=True)
    assert_reachability(lab)


def test_floating_ips_that_go_elsewhere_lead_there(lab: Lab) -> None:
    changed = DOCUMENT.replace("203.0.113.11: {port: cb1}", "203.0.113.11: {port: cr3}")
    changed = changed.replace("203.0.113.33: {port: db3}", "203.0.113.33: {port: db2}")
    written = None
    for floating_ip, port in (("203.0.113.11", "cr3"), ("203.0.113.33", "db2")):
        written = lab.writer.set_floating_ip(floating_ip, FloatingIpFields(port=port))
    assert written is not None
    wait_revision(lab, written.revision)
    assert_reachability(lab, read_world(changed, BEHIND_INSTANCES, UPSTREAM_ADDRESSES))
