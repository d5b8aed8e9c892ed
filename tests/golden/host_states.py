# SPDX-License-Identifier: Apache-2.0
"""Random states of a host, and a host that is led through them without root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st

from agent.core import naming
from agent.core.model import Direction, SecurityGroupRule
from agent.core.plan import Driver
from agent.core.reconciler import Reconciler
from agent.core.report import PassReport
from agent.core.retry import Backoff
from agent.filtering import ORDERS, Rejudging
from agent.planner import NUMBERED_DRIVERS, Planning
from tests.fakes.drivers import FakeDriver, Fuse
from tests.fakes.packet_filter import FakeFilter
from tests.golden.l2_world import SETTINGS, World, rule, underlay

Key = TypeVar("Key")
Value = TypeVar("Value")

NETWORKS = {
    "local": ("local", None),
    "vx": ("vxlan", 77),
    "gen": ("geneve", 78),
    "vlan": ("vlan", 10),
    "flat": ("flat", None),
}
NUMBERS = (1, 2, 3, 4, 11, 12)  # of ports: of some the filters share a leaf of the tree
TCP, ICMP, ICMPV6 = 6, 1, 58
EGRESS = Direction.EGRESS
RULES: tuple[dict, ...] = (
    {"protocol": TCP, "ports": (22, 22)},
    {"protocol": TCP, "ports": (80, 81), "owner": "office"},
    {"owner": "web"},
    {"direction": EGRESS},
    {"direction": EGRESS, "ip_version": 6},
    {"ip_version": 6, "protocol": TCP, "ports": (22, 22), "owner": "web"},
    {"protocol": ICMP, "ports": (8, 0), "prefix": "10.0.0.0/8"},
    {"direction": EGRESS, "protocol": TCP, "ports": (22, 80), "owner": "db"},
    {"protocol": TCP, "ports": (80, 22)},  # nothing that can be said to iptables
    {"ip_version": 6, "protocol": ICMPV6, "ports": (128, None)},
    {"direction": EGRESS, "ip_version": 6, "protocol": TCP, "owner": "office"},
    {"prefix": "192.0.2.0/24"},
)
GROUPS = ("web", "db")
ADDRESSES = ("10.0.0.2", "10.0.0.0/28", "192.0.2.0/24", "0.0.0.0/0", "2001:db8::2", "2001:db8:9::/64")


class Slot(NamedTuple):
    """One port of a random state; ``groups`` are None if it is not filtered, ``hybrid`` tells how it is plugged."""

    network: str
    here: bool
    plugged: bool
    up: bool
    secure: bool
    addresses: int
    pair: bool
    groups: tuple[str, ...] | None
    hybrid: bool


class GroupState(NamedTuple):
    """A security group of a random state; ``rules`` are places in ``RULES``."""

    rules: frozenset[int]
    stateful: bool
    logs: bool


@dataclass(frozen=True)
class State:
    """Everything random: ports by number, security groups by name, addresses by who owns them."""

    slots: Mapping[int, Slot]
    second_host: bool
    groups: Mapping[str, GroupState]
    members: Mapping[str, frozenset[str]]


class Change(NamedTuple):
    """What becomes different; None takes away."""

    slots: Mapping[int, Slot | None]
    groups: Mapping[str, GroupState | None]
    members: Mapping[str, frozenset[str] | None]


# Mostly what gets a filter: plugged, up, hybrid, with groups.
MOSTLY = st.sampled_from((True, True, True, False))
SLOTS = st.builds(
    Slot,
    st.sampled_from(sorted(NETWORKS)),
    here=MOSTLY,
    plugged=MOSTLY,
    up=MOSTLY,
    secure=st.booleans(),
    addresses=st.integers(0, 2),
    pair=st.booleans(),
    groups=st.sampled_from((("web",), ("db",), ("db", "web"), ("gone", "web"), (), None)),
    hybrid=MOSTLY,
)
GROUP_STATES = st.builds(
    GroupState,
    st.frozensets(st.sampled_from(range(len(RULES))), max_size=5),
    stateful=MOSTLY,
    logs=MOSTLY.map(lambda often: not often),
)
OWNERS = ("web", "db", "office")
MEMBERS = st.frozensets(st.sampled_from(ADDRESSES), max_size=4)
STATES = st.builds(
    State,
    st.dictionaries(st.sampled_from(NUMBERS), SLOTS, max_size=5),
    st.booleans(),
    st.dictionaries(st.sampled_from(GROUPS), GROUP_STATES),
    st.dictionaries(st.sampled_from(OWNERS), MEMBERS),
)
CHANGES = st.builds(
    Change,
    st.dictionaries(st.sampled_from(NUMBERS), SLOTS | st.none(), max_size=2),
    st.dictionaries(st.sampled_from(GROUPS), GROUP_STATES | st.none(), max_size=1),
    st.dictionaries(st.sampled_from(OWNERS), MEMBERS | st.none(), max_size=2),
)


def changed(state: State, change: Change) -> State:
    """Return *state* after *change*."""
    return State(
        _merged(state.slots, change.slots),
        state.second_host,
        _merged(state.groups, change.groups),
        _merged(state.members, change.members),
    )


def _merged(before: Mapping[Key, Value], change: Mapping[Key, Value | None]) -> dict[Key, Value]:
    merged = {**before, **change}
    return {key: value for key, value in merged.items() if value is not None}


@cache
def _rule(group: str, number: int) -> SecurityGroupRule:
    """Return one object each time, as a store's reader does for rows that have not changed."""
    return rule(f"{group}-{number:02d}", **RULES[number])


def build(state: State) -> World:
    """Return what the store and the switch say in *state*."""
    world = World()
    if state.second_host:
        world.host("there", underlay(2))
    for name, (kind, segment) in NETWORKS.items():
        if any(slot.network == name and slot.here for slot in state.slots.values()):
            world.network(name, kind, segment)
    for number, slot in sorted(state.slots.items()):
        addresses = own_addresses(number)[: slot.addresses]
        pairs = (("10.9.0.0/24", "fa:16:3e:99:00:01"),) if slot.pair else ()
        if slot.here:
            world.port(
                number,
                slot.network,
                *addresses,
                pairs=pairs,
                secure=slot.secure,
                up=slot.up,
                plugged=slot.plugged,
                groups=slot.groups,
                hybrid=slot.hybrid,
            )
        elif slot.network in world.networks:
            world.endpoint(number, slot.network, "there", *addresses)
    for name, group in state.groups.items():
        rules = (_rule(name, number) for number in group.rules)
        world.group(name, *rules, stateful=group.stateful, log_accepted=group.logs, log_dropped=group.logs)
    for owner, members in state.members.items():
        for chunk in range(2):
            world.members(owner, *members.intersection(ADDRESSES[chunk::2]), chunk=str(chunk))
    return world


WORLDS = STATES.map(build)


def _led(first: State, changes: list[Change]) -> list[World]:
    return list(map(build, accumulate(changes, changed, initial=first)))


def histories(at_most: int, at_least: int = 0) -> st.SearchStrategy[list[World]]:
    """Return the strategy of a state and what becomes of it by so many changes."""
    return st.builds(_led, STATES, st.lists(CHANGES, min_size=at_least, max_size=at_most))


_REFERRING = tuple(place for place, parts in enumerate(RULES) if "owner" in parts)
_GROUP = st.builds(
    GroupState, st.frozensets(st.sampled_from(_REFERRING), min_size=1, max_size=3), stateful=MOSTLY, logs=st.just(False)
)
_SERVED = Slot("vx", True, True, True, True, 2, False, ("web",), True)
_SHARED = st.fixed_dictionaries({"web": MEMBERS, "office": MEMBERS})
# One port, and rules and members of what they refer to that all change at once: where the order of writes matters most.
ENTANGLED = st.builds(
    _led,
    st.builds(State, st.just({1: _SERVED}), st.just(False), st.fixed_dictionaries({"web": _GROUP}), _SHARED),
    st.lists(st.builds(Change, st.just({}), st.fixed_dictionaries({"web": _GROUP}), _SHARED), min_size=1, max_size=3),
)


def own_addresses(number: int) -> tuple[str, str]:
    """Return the addresses that port *number* has, or would have."""
    return f"10.0.0.{number}", f"2001:db8::{number:x}"


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class SimulatedHost:
    """Planning, reconciler and drivers of one host.  ``start`` is a new process.

    Filters are in memory (``filter``), and so is the switch's database (``ovs``);
    *flows* is the driver of the flows.
    """

    def __init__(self, flows: Driver) -> None:
        self.ovs = FakeDriver("ovs")
        self.filter = FakeFilter()
        self.flows_driver = flows
        self.clock = Clock()
        self.start()

    def start(self) -> None:
        """Forget everything, as a new process has."""
        before, conntrack = self.filter.drivers()
        self.drivers: tuple[Driver, ...] = (self.ovs, *before, self.flows_driver, conntrack)
        backoff = Backoff(lambda low, high: (low + high) / 2)
        self.reconciler = Reconciler(self.drivers, self.clock, self.clock, backoff, orders=ORDERS)
        self.planning = Planning(SETTINGS)
        self.rejudging = Rejudging(conntrack)
        self.misread = 0  # items of the last pass that were not as they had been written
        self.judges = False  # whether a pass is due because connections are to be judged

    def light(self, fuse: Fuse | None) -> None:
        """Let *fuse* burn with everything that is written."""
        self.filter.light(fuse)
        self.ovs.fuse = fuse

    def run(self, world: World) -> PassReport:
        """Make one pass towards *world*, whose devices are there."""
        if not self.planning.knows_numbers:
            self.planning.adopt_numbers(self.ovs.observe())
        self.filter.bridges.plug(hybrid_suffixes(world))
        plan, _ = self.planning.make(world.snapshot(), world.switch())
        report = self.reconciler.run(plan, 1)
        if self.reconciler.is_clean(NUMBERED_DRIVERS):
            self.planning.settled()
        self.misread = self.reconciler.verify_written()
        self.judges = self.rejudging.after_pass(report, self.reconciler)
        return report

    def settle(self, world: World) -> None:
        """Pass until nothing is due any more."""
        for _ in range(30):
            self.run(world)
            due = self.reconciler.next_due()
            if due is None and not self.judges:
                return
            self.clock.time = max(self.clock.time, due or 0.0)
        raise AssertionError(f"the passes do not come to rest: {self.reconciler.unfinished()}")


def hybrid_suffixes(world: World) -> list[str]:
    """Return what the names of the devices of hybrid plugs end in."""
    interfaces = world.interfaces.values()
    return [i.name.removeprefix("qvo") for i in interfaces if naming.is_hybrid_interface(i.name)]
