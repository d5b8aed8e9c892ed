# SPDX-License-Identifier: Apache-2.0
"""Through random states of a host whose responder comes and goes: nobody is ever answered as somebody else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.items import Served
from agent.core.model import MetadataService
from agent.core.reconciler import Reconciler
from agent.core.report import PassReport
from agent.core.retry import Backoff
from agent.core.service_identity import identity_mac
from agent.planner import NUMBERED_DRIVERS, Planning
from tests.fakes.drivers import FakeDriver
from tests.golden.host_states import Clock
from tests.golden.l2_world import OFPORTS, SERVICE_OFPORTS, SERVING, World, mac

ORDER = ("netns", "links", "routes", "ovs", "connects", "responder", "flows")
NUMBERS = (1, 2, 3, 4)  # of ports, and their OpenFlow numbers
IDENTITY = re.compile(r"dl_src=02:48:50:01:(\w\w):(\w\w)$")
WAY = re.compile(r"in_port=1005,.*_dst=([0-9a-f.:]+),tp_src=80$")


class Slot(NamedTuple):
    """One port of a random state."""

    network: str
    plugged: bool
    up: bool
    owner: str
    addresses: int
    hostname: str


class State(NamedTuple):
    """Everything random: ports by number, whether DHCP is on, and what goes wrong with the responder meanwhile."""

    slots: dict[int, Slot]
    dhcp: bool
    service: bool
    devices: bool
    trouble: str


MOSTLY = st.sampled_from((True, True, True, False))
SLOTS = st.builds(
    Slot,
    st.sampled_from(("blue", "green")),
    MOSTLY,
    MOSTLY,
    st.sampled_from(("compute:nova", "compute:nova", "network:dhcp")),
    st.integers(0, 2),
    st.sampled_from(("", "web")),
)
TROUBLES = ("", "", "away", "unread", "refuses", "restart of the agent", "new responder")
TROUBLE = st.sampled_from(TROUBLES)
STATES = st.builds(State, st.dictionaries(st.sampled_from(NUMBERS), SLOTS), MOSTLY, st.booleans(), MOSTLY, TROUBLE)
# One after the other: a port or two that come, go or become different; the rest mostly as it was.
CHANGES = st.tuples(
    st.dictionaries(st.sampled_from(NUMBERS), SLOTS | st.none(), min_size=1, max_size=2), TROUBLE, st.none() | STATES
)


def changed(state: State, change: tuple[dict[int, Slot | None], str, State | None]) -> State:
    """Return *state* after *change*."""
    slots, trouble, other = change
    merged = {number: slot for number, slot in {**state.slots, **slots}.items() if slot is not None}
    return (other or state)._replace(slots=merged, trouble=trouble)


HISTORIES = st.builds(
    lambda first, changes: list(accumulate(changes, changed, initial=first)),
    STATES,
    st.lists(CHANGES, min_size=1, max_size=5),
)


def build(state: State) -> World:
    """Return what the store and the switch say in *state*."""
    world = World(settings=SERVING, ofports={**OFPORTS, **(SERVICE_OFPORTS if state.devices else {})})
    for network in ("blue", "green"):
        world.network(network, "local")
        world.subnet(network, "10.0.0.0/24", dhcp=state.dhcp, server_address="10.0.0.254")
        world.subnet(network, "2001:db8::/64", ipv6_address_mode="slaac", ipv6_ra_mode="slaac")
    for number, slot in state.slots.items():
        addresses = ("10.0.0.1", "2001:db8::1")[: slot.addresses]  # the same for all
        world.port(number, slot.network, *addresses, up=slot.up, plugged=slot.plugged)
        world.change_port(number, device_owner=slot.owner, hostname=slot.hostname)
    if state.service:
        world.metadata_service = MetadataService("http://nova", "/secret")
    return world


class Host:
    """A host with fakes for all that the responder needs."""

    def __init__(self) -> None:
        self.drivers = {name: FakeDriver(name) for name in ORDER}
        self.clock = Clock()
        self.start()

    def start(self) -> None:
        """Begin as a new process."""
        backoff = Backoff(lambda low, high: (low + high) / 2)
        self.reconciler = Reconciler(tuple(self.drivers.values()), self.clock, self.clock, backoff)
        self.planning = Planning(SERVING)
        self.planning.adopt_numbers(self.drivers["ovs"].observe())

    def run(self, world: World) -> PassReport:
        """Make one pass."""
        plan, problems = self.planning.make(world.snapshot(), world.switch())
        assert problems == ()
        report = self.reconciler.run(plan, 1)
        if self.reconciler.is_clean(NUMBERED_DRIVERS):
            self.planning.settled()
        return report

    def suffer(self, trouble: str) -> None:
        """Let something happen to the responder, or to the agent."""
        responder = self.drivers["responder"]
        if trouble == "away":
            responder.fail_apply()
        elif trouble == "unread":
            responder.fail_observe()
            self.reconciler.need_resync(["responder"])
        elif trouble == "refuses":
            for number in NUMBERS[:2]:
                responder.fail(f"dhcp p{number}")
                responder.fail(f"metadata p{number}")
        elif trouble == "restart of the agent":
            self.start()
        elif trouble == "new responder":
            responder.items.clear()
            self.reconciler.need_resync(["responder"], lost=True)

    def settle(self, world: World) -> None:
        """Pass until nothing is due any more."""
        for driver in self.drivers.values():
            driver.heal()
        for _ in range(30):
            self.run(world)
            due = self.reconciler.next_due()
            if due is None:
                return
            self.clock.time = max(self.clock.time, due)
        raise AssertionError(f"the passes do not come to rest: {self.reconciler.unfinished()}")

    def state(self) -> dict[str, dict[str, object]]:
        """Return all items."""
        return {name: dict(driver.items) for name, driver in self.drivers.items()}

    def ways(self) -> Iterator[tuple[str, str]]:
        """Yield the ends of installed ways: identity or alias, and the actions to the port."""
        for key, actions in self.drivers["flows"].items.items():
            if found := IDENTITY.search(key):
                yield str(int(found[1] + found[2], 16)), str(actions)
            elif found := WAY.search(key):
                yield found[1], str(actions)


def check_ways(host: Host) -> None:
    """Check that what leads to a port stands for that port, and that the responder knows it, and only it, as that."""
    items = host.drivers["responder"].items.items()
    served = {key: json.loads(value.data) for key, value in items if isinstance(value, Served) and key != "service"}
    identities = {key.split()[1]: data["identity"] for key, data in served.items() if key.startswith("dhcp ")}
    aliases = {key.split()[1]: dict(data["aliases"]) for key, data in served.items() if key.startswith("metadata ")}
    assert len(set(identities.values())) == len(identities)
    every = [alias for own in aliases.values() for alias in own]
    assert len(set(every)) == len(every)
    for end, actions in host.ways():
        target = re.search(r"set_field:(0x\w+)->reg1", actions)
        assert target is not None
        port = f"p{int(target[1], 16)}"
        if end.isdigit():
            assert host.drivers["ovs"].items[f"allocation/responder/{port}"] == end
            assert identities[port] == identity_mac(int(end))
        else:
            assert end in aliases[port]
            assert f"set_field:{mac(int(port[1:]))}->eth_dst" in actions


def check_end(host: Host, world: World) -> None:
    """Check that all is as if nothing had ever been different, but for the numbers."""
    fresh = Host()
    fresh.drivers["ovs"].items = {k: v for k, v in host.drivers["ovs"].items.items() if k.startswith("allocation/")}
    fresh.start()
    fresh.settle(world)
    assert host.state() == fresh.state()
    before = sum(driver.operations for driver in host.drivers.values())
    host.run(world)
    assert sum(driver.operations for driver in host.drivers.values()) == before
    for key, value in host.drivers["flows"].items.items():
        assert "reg4=0x" not in key or str(value).startswith("set_field:100.64.") or "fd00:a9fe::" in str(value)


@settings(max_examples=settings().max_examples // 2)
@given(HISTORIES)
def test_nobody_is_ever_answered_as_somebody_else(states):
    host = Host()
    for state in states:
        world = build(state)
        for driver in host.drivers.values():
            driver.heal()
        host.suffer(state.trouble)
        host.run(world)
        check_ways(host)
    host.settle(build(states[-1]))
    check_ways(host)
    check_end(host, build(states[-1]))


def test_a_port_that_comes_while_the_responder_is_away_is_shut_to_it_until_it_is_back():
    host, slot = Host(), Slot("blue", True, True, "compute:nova", 2, "")
    host.settle(build(State({1: slot}, True, False, True, "")))
    world = build(State({1: slot, 2: slot}, True, False, True, ""))
    host.drivers["responder"].fail_apply()
    report = host.run(world)
    ends = [actions for _, actions in host.ways()]
    assert ends
    assert all("set_field:0x1->reg1" in actions for actions in ends)
    assert {ref.driver for ref in report.unfinished} == {"responder", "flows"}
    host.settle(world)
    assert any("set_field:0x2->reg1" in actions for _, actions in host.ways())


def test_a_number_that_the_responder_still_knows_is_nobody_elses():
    host, slot = Host(), Slot("blue", True, True, "compute:nova", 2, "")
    host.settle(build(State({1: slot}, True, False, True, "")))
    host.drivers["responder"].fail("dhcp p1")
    host.run(build(State({}, True, False, True, "")))
    host.run(build(State({3: slot}, True, False, True, "")))
    check_ways(host)
    assert host.drivers["ovs"].items["allocation/responder/p3"] == "2"
    host.settle(build(State({3: slot, 4: slot}, True, False, True, "")))
    assert host.drivers["ovs"].items["allocation/responder/p4"] != "2"
    check_ways(host)
