# SPDX-License-Identifier: Apache-2.0
"""Random states of a host, and a host that is led through them without root."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from agent.core.plan import Driver
from agent.core.reconciler import Reconciler
from agent.core.report import PassReport
from agent.core.retry import Backoff
from agent.planner import Planning
from tests.golden.l2_world import SETTINGS, World, underlay

NETWORKS = {
    "local": ("local", None),
    "vx": ("vxlan", 77),
    "gen": ("geneve", 78),
    "vlan": ("vlan", 10),
    "flat": ("flat", None),
}


class Slot(NamedTuple):
    """One port of a random state."""

    network: str
    here: bool
    plugged: bool
    up: bool
    secure: bool
    addresses: int
    pair: bool


SLOTS = st.builds(
    Slot,
    st.sampled_from(sorted(NETWORKS)),
    here=st.booleans(),
    plugged=st.booleans(),
    up=st.booleans(),
    secure=st.booleans(),
    addresses=st.integers(0, 2),
    pair=st.booleans(),
)


def _world(slots: dict[int, Slot], second_host: bool) -> World:
    world = World()
    if second_host:
        world.host("there", underlay(2))
    for name, (kind, segment) in NETWORKS.items():
        if any(slot.network == name and slot.here for slot in slots.values()):
            world.network(name, kind, segment)
    for number, slot in sorted(slots.items()):
        addresses = (f"10.0.0.{number}", f"2001:db8::{number:x}")[: slot.addresses]
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
            )
        elif slot.network in world.networks:
            world.endpoint(number, slot.network, "there", *addresses)
    return world


WORLDS = st.builds(_world, st.dictionaries(st.integers(1, 6), SLOTS, max_size=5), st.booleans())


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class SimulatedHost:
    """Planning and reconciler of one host over given drivers; ``start`` is a new process."""

    def __init__(self, *drivers: Driver) -> None:
        self.drivers = drivers
        self.clock = Clock()
        self.start()

    def start(self) -> None:
        """Forget everything, as a new process has."""
        self.reconciler = Reconciler(self.drivers, self.clock, self.clock, Backoff(lambda low, high: (low + high) / 2))
        self.planning = Planning(SETTINGS)

    def run(self, world: World) -> PassReport:
        """Make one pass towards *world*."""
        if not self.planning.knows_numbers:
            ovs = next(driver for driver in self.drivers if driver.name == "ovs")
            self.planning.adopt_numbers(ovs.observe())
        plan, _ = self.planning.make(world.snapshot(), world.switch())
        report = self.reconciler.run(plan, 1)
        if not report.unfinished and not self.reconciler.unusable():
            self.planning.settled()
        return report

    def settle(self, world: World) -> None:
        """Pass until nothing is due any more."""
        for _ in range(30):
            self.run(world)
            due = self.reconciler.next_due()
            if due is None:
                return
            self.clock.time = max(self.clock.time, due)
        raise AssertionError(f"the passes do not come to rest: {self.reconciler.unfinished()}")
