# SPDX-License-Identifier: Apache-2.0
"""Allocated numbers are free again once nothing uses them, whatever else is missing on the host."""

from __future__ import annotations

from agent.core import naming
from agent.core.reconciler import Reconciler
from agent.core.retry import Backoff
from agent.filtering import ORDERS
from agent.planner import NUMBERED_DRIVERS, Planning
from tests.fakes.drivers import FakeDriver
from tests.golden.host_states import Clock
from tests.golden.l2_world import SETTINGS, World

OFF = 1  # the number of a port whose instance is switched off
ORDER = ("ovs", "bridges", "ipset", "iptables", "members", "zones", "flows", "conntrack")


def _bridge(number: int) -> str:
    return naming.hybrid_bridge_name(f"p{number}")


class Host:
    """A host with one instance that is switched off: its bridge lacks a device."""

    def __init__(self) -> None:
        self.drivers = {name: FakeDriver(name) for name in ORDER}
        self.drivers["bridges"].fail(_bridge(OFF))
        clock = Clock()
        self.planning = Planning(SETTINGS)
        self.planning.adopt_numbers({})
        self.reconciler = Reconciler(tuple(self.drivers.values()), clock, clock, Backoff(), orders=ORDERS)

    def world(self, *numbers: int) -> World:
        world = World()
        world.network("blue", "local")
        world.group("web")
        for number in (OFF, *numbers):
            world.port(number, "blue", f"10.0.0.{number}", groups=("web",), hybrid=True)
        return world

    def run(self, *numbers: int) -> None:
        world = self.world(*numbers)
        plan, _ = self.planning.make(world.snapshot(), world.switch())
        self.reconciler.run(plan, 1)
        if self.reconciler.is_clean(NUMBERED_DRIVERS):
            self.planning.settled()

    def zones(self) -> list[int]:
        return sorted(int(str(v)) for k, v in self.drivers["ovs"].items.items() if k.startswith("allocation/zone/"))


def test_ports_come_and_go_on_a_host_where_an_instance_is_switched_off():
    host = Host()
    highest = 0
    for number in range(2, 30):
        host.run(number)
        highest = max(highest, *host.zones())
        host.run()
        assert host.zones() == [1]
    assert highest == 2, "a number that nobody uses was not given again"


def test_a_number_that_something_old_still_uses_is_nobody_elses():
    host = Host()
    host.run(2)
    host.drivers["zones"].fail(_bridge(2))
    host.run()
    host.run(3)
    assert host.zones() == [1, 3]
