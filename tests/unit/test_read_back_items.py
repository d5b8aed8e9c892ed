# SPDX-License-Identifier: Apache-2.0
"""Reading back single items finds what somebody changed there, and nothing else."""

from __future__ import annotations

from agent.core.plan import Group, ObjectId, Plan
from agent.core.reconciler import Reconciler
from agent.core.retry import Backoff
from tests.fakes.drivers import FakeDriver
from tests.golden.host_states import Clock

PORT = ObjectId("port:1")
PLAN = Plan({PORT: Group(PORT, {"bridges": {"a": "1", "b": "1", "c": "1"}})})


def converged() -> tuple[Reconciler, FakeDriver]:
    driver, clock = FakeDriver("bridges"), Clock()
    reconciler = Reconciler((driver,), clock, clock, Backoff())
    reconciler.run(PLAN, 1)
    driver.tamper("a", "changed", PORT)
    driver.tamper("b", None)
    driver.tamper("theirs", "1", PORT)
    return reconciler, driver


def test_what_was_changed_is_found_and_repaired_where_somebody_looked():
    reconciler, driver = converged()
    assert reconciler.read_back_items(driver, ["a", "b", "c", "theirs", "unknown"]) == 2
    report = reconciler.run(PLAN, 1)
    assert report.operations["bridges"].drifted == 2
    assert driver.items == {"a": "1", "b": "1", "c": "1", "theirs": "1"}


def test_what_nobody_looked_at_is_left_for_the_whole_reading():
    reconciler, driver = converged()
    assert reconciler.read_back_items(driver, ["c"]) == 0
    assert reconciler.read_back(driver, 0, 1) == 3


def test_a_driver_that_cannot_be_read_is_read_whole_when_it_can():
    reconciler, driver = converged()
    driver.fail_observe()
    assert reconciler.read_back_items(driver, ["a"]) == 0
    assert reconciler.unusable() == {"bridges"}
