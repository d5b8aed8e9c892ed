# SPDX-License-Identifier: Apache-2.0
"""Wake-ups coalesce, and reading back spreads over its interval."""

from __future__ import annotations

import threading
import time

from agent.core.plan import Group, ObjectId, Plan
from agent.core.reconciler import Reconciler
from agent.core.retry import Allowance, Backoff
from agent.read_back import ReadBack
from agent.wake import Wake
from tests.fakes.drivers import FakeDriver, FakeSlicedDriver
from tests.golden.host_states import Clock


def test_any_number_of_events_is_one_wake_up_that_knows_the_first_time_of_each():
    clock = Clock()
    wake = Wake(clock)
    wake.set("store")
    clock.time += 1
    for reason in ("store", "switch", "store"):
        wake.set(reason)
    assert wake.wait(0) == {"store": 1000.0, "switch": 1001.0}
    assert wake.wait(0) == {}


def test_a_waiting_loop_is_woken_by_another_thread():
    wake = Wake()
    woken: list[object] = []
    thread = threading.Thread(target=lambda: woken.append(wake.wait(30)))
    thread.start()
    wake.set("store")
    thread.join(10)
    assert [set(reasons) for reasons in woken] == [{"store"}]  # type: ignore[call-overload]


def test_what_is_held_back_wakes_nobody_and_is_not_forgotten():
    clock = Clock()
    wake = Wake(clock)
    wake.hold_back("rules", 1002.0)
    wake.set("rules")
    assert wake.wait(0) == {}
    wake.set("store")
    assert wake.wait(0) == {"store": 1000.0}
    clock.time = 1002.0
    assert wake.wait(0) == {"rules": 1000.0}


def test_a_loop_that_waits_gets_what_was_held_back_as_soon_as_it_is_due():
    wake = Wake()
    wake.hold_back("rules", time.monotonic() + 0.1)
    wake.set("rules")
    begun = time.monotonic()
    assert set(wake.wait(30)) == {"rules"}
    assert 0.09 < time.monotonic() - begun < 10


def test_others_get_their_share_of_the_time_whatever_they_do():
    clock = Clock()
    allowance = Allowance(most=1.0, share=0.1, monotonic=clock)
    spent, end = 0.0, clock.time + 100.0
    while clock.time < end:
        spent += 0.08
        clock.time = max(clock.time + 0.08, allowance.spend(0.08))
    assert 10.0 <= spent < 12.0
    clock.time += 1000.0
    assert allowance.spend(0.08) == clock.time, "who has been quiet is served at once"


def test_the_whole_host_is_read_back_once_in_each_interval():
    clock = Clock()
    ovs, flows = FakeDriver("ovs"), FakeSlicedDriver("flows", slices=4)
    reconciler = Reconciler((ovs, flows), clock, clock, Backoff())
    plan = Plan({ObjectId("p"): Group(ObjectId("p"), {"flows": {"f": "x"}, "ovs": {"o": "y"}})})
    reconciler.run(plan, 1)
    read_back = ReadBack((ovs, flows), clock, interval=60.0)
    flows.tamper("f", "altered", ObjectId("p"))
    ovs.tamper("stray", "z")
    found, steps, end = 0, 0, clock.time + 120.0
    while read_back.next_due() <= end:
        clock.time = read_back.next_due()
        found += read_back.step(reconciler)
        steps += 1
    assert found == 2
    assert 5 <= steps <= 7, "one reading of the database and four slices a round"
    clock.time -= 1
    assert read_back.step(reconciler) == 0
