# SPDX-License-Identifier: Apache-2.0
"""A driver whose subsystem lies in several places is read back one place at a time."""

from __future__ import annotations

from agent.core.plan import Group, ObjectId, Plan
from agent.core.reconciler import Reconciler
from agent.core.retry import Backoff
from agent.read_back import ReadBack
from tests.fakes.drivers import FakePlacedDriver
from tests.golden.host_states import Clock

ROUTER, FLOATING = ObjectId("router:1"), ObjectId("floating_ip:1")


def plan(**more: str) -> Plan:
    router = Group(ROUTER, {"nat": {"a 1": "x", "b 1": "x"}})
    floating = Group(FLOATING, {"nat": {"a 2": "x", **more}})
    return Plan({ROUTER: router, FLOATING: floating})


class Host:
    def __init__(self):
        self.driver, self.clock = FakePlacedDriver("nat"), Clock()
        self.reconciler = Reconciler((self.driver,), self.clock, self.clock, Backoff())
        self.reconciler.run(plan(), 1)
        self.read_back = ReadBack((self.driver,), self.clock, interval=60.0)

    def round(self) -> int:
        """Read back for one interval; return how many items have drifted."""
        found, end = 0, self.clock.time + 60.0
        while self.read_back.next_due() <= end:
            self.clock.time = self.read_back.next_due()
            found += self.read_back.step(self.reconciler)
        self.clock.time = end
        return found


def test_each_place_is_read_once_in_each_interval():
    host = Host()
    assert host.round() + host.round() == 0
    host.driver.read.clear()
    assert host.round() == 0
    assert sorted(host.driver.read) == ["a", "b"]


def test_what_is_missing_changed_or_stray_is_found_in_its_place():
    host = Host()
    host.driver.tamper("a 2", None)
    host.driver.tamper("b 1", "changed", ROUTER)
    host.driver.tamper("c 1", "stray")
    assert host.round() + host.round() == 3

    host.reconciler.run(plan(), 1)
    assert host.driver.items == {"a 1": "x", "b 1": "x", "a 2": "x"}
    assert host.round() + host.round() == 0


def test_a_place_that_is_gone_misses_all_that_was_wanted_there():
    host = Host()
    host.round()
    host.driver.tamper("b 1", None)
    assert host.round() + host.round() == 1


def test_what_objects_want_since_is_looked_for_from_the_next_round_on():
    host = Host()
    host.round()
    host.reconciler.run(plan(**{"d 1": "x"}), 2)
    assert host.round() == 0
    host.driver.tamper("d 1", None)
    assert host.round() + host.round() == 1


def test_places_that_cannot_be_listed_are_a_driver_that_cannot_be_read():
    host = Host()
    host.driver.fail_observe(2)
    assert host.round() == 0
    assert host.reconciler.unusable() == {"nat"}
