# SPDX-License-Identifier: Apache-2.0
"""The pass over executable fakes: the end depends on the last plan alone, whatever happened before."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import ApplyError
from agent.core.plan import Group, ItemRef, ObjectId, Plan
from agent.core.reconciler import Reconciler
from agent.core.report import ItemState, cause_of
from agent.core.retry import Backoff
from tests.fakes.drivers import Crash, FakeDriver, FakeSlicedDriver, Fuse
from tests.golden.host_states import Clock

DRIVERS = ("links", "ovs", "flows")
FOREIGN = {"foreign": "not ours"}


class Host:
    """A simulated host that outlives the reconcilers working on it."""

    def __init__(self) -> None:
        self.links = FakeDriver("links", foreign=FOREIGN)
        self.ovs = FakeDriver("ovs", foreign=FOREIGN)
        self.flows = FakeSlicedDriver("flows", slices=4, foreign=FOREIGN)
        self.drivers = (self.links, self.ovs, self.flows)
        self.clock = Clock()
        self.start()

    def start(self) -> None:
        self.reconciler = Reconciler(self.drivers, self.clock, self.clock, Backoff(lambda a, b: (a + b) / 2))

    def run(self, plan: Plan, sweep: bool = True):
        return self.reconciler.run(plan, revision=1, sweep=sweep)

    def settle(self, plan: Plan) -> None:
        """Pass until nothing is due any more."""
        for _ in range(30):
            self.run(plan)
            due = self.reconciler.next_due()
            if due is None:
                return
            self.clock.time = max(self.clock.time, due)
        raise AssertionError("the passes do not come to rest")

    def state(self) -> dict[str, dict]:
        return {driver.name: dict(driver.items) for driver in self.drivers}

    def operations(self) -> int:
        return sum(driver.operations for driver in self.drivers)


def wanted(plan: Plan) -> dict[str, dict]:
    """What a plan asks for, worked out the slow and obvious way."""
    state: dict[str, dict] = {name: {} for name in DRIVERS}
    for oid in sorted(plan.groups, reverse=True):
        for driver, items in plan.groups[oid].items.items():
            state[driver].update(items)
    return state


KEYS = st.sampled_from(["k1", "k2", "k3", "k4"])
VALUES = st.sampled_from(["a", "b"])
ITEMS = st.dictionaries(st.sampled_from(DRIVERS), st.dictionaries(KEYS, VALUES, max_size=3), max_size=3)
PLANS = st.dictionaries(st.sampled_from(["port:1", "port:2", "network:1"]), ITEMS, max_size=3).map(
    lambda groups: Plan({ObjectId(oid): Group(ObjectId(oid), items) for oid, items in groups.items()})
)
HISTORIES = st.lists(PLANS, min_size=1, max_size=5)


def check_end(host: Host, plan: Plan) -> None:
    assert host.state() == wanted(plan)
    assert all(driver.foreign == FOREIGN for driver in host.drivers)
    before = host.operations()
    host.run(plan)
    assert host.operations() == before, "a second pass must write nothing"
    host.reconciler.need_resync()
    host.run(plan)
    assert host.operations() == before, "a resync of an unchanged host must write nothing"


@given(HISTORIES)
def test_the_end_depends_only_on_the_last_plan(history):
    host = Host()
    for plan in history:
        host.run(plan)
    check_end(host, history[-1])


@given(HISTORIES, st.integers(0, 25))
def test_a_crash_at_any_step_is_repaired_by_the_next_process(history, operations):
    host = Host()
    fuse = Fuse(operations)
    for driver in host.drivers:
        driver.fuse = fuse
    try:
        for plan in history:
            host.run(plan)
    except Crash:
        pass
    for driver in host.drivers:
        driver.fuse = None
    host.start()
    host.settle(history[-1])
    check_end(host, history[-1])


@given(HISTORIES, st.lists(st.tuples(st.sampled_from(DRIVERS), KEYS, st.none() | VALUES), max_size=4))
def test_what_somebody_changes_behind_our_back_is_found_and_repaired(history, changes):
    host = Host()
    for plan in history:
        host.run(plan)
    for name, key, value in changes:
        driver = next(d for d in host.drivers if d.name == name)
        driver.tamper(key, value, ObjectId("port:1"))
    changed = sum(
        host.state()[name].get(key) != wanted(history[-1])[name].get(key) for name, key in {c[:2] for c in changes}
    )
    found = 0
    for driver in (host.links, host.ovs):
        found += host.reconciler.read_back(driver, 0, 1)
    slices = host.flows.slices()
    for index in range(slices):
        found += host.reconciler.read_back(host.flows, index, slices)
    assert found >= changed
    report = host.run(history[-1])
    assert sum(o.drifted for o in report.operations.values()) >= changed
    check_end(host, history[-1])


@given(HISTORIES, st.lists(st.tuples(st.sampled_from(DRIVERS), KEYS, st.integers(1, 3)), max_size=4), st.booleans())
def test_failures_end_and_leave_no_trace(history, failures, whole):
    host = Host()
    for name, key, times in failures:
        driver = next(d for d in host.drivers if d.name == name)
        driver.fail(key, times)
        if whole:
            driver.fail_apply(times)
            driver.fail_observe(1)
    for plan in history:
        host.run(plan)
    host.settle(history[-1])
    check_end(host, history[-1])


@given(PLANS, PLANS)
def test_without_sweep_nothing_goes_away(first, second):
    host = Host()
    host.run(first)
    before = {(name, key) for name, items in host.state().items() for key in items}
    host.run(second, sweep=False)
    assert before <= {(name, key) for name, items in host.state().items() for key in items}
    host.reconciler.need_resync()
    host.settle(second)
    check_end(host, second)


def test_without_sweep_what_nobody_wants_is_left_alone_and_does_not_keep_the_loop_busy():
    host = Host()
    plan = plan_of(p={"flows": {"k": "v"}})
    host.flows.tamper("stray", "x", ObjectId("p"))
    host.run(plan, sweep=False)
    host.ovs.tamper("stray", "y")
    for driver in host.drivers:
        assert host.reconciler.read_back(driver, 0, 1) == 0
    assert host.reconciler.next_due() is None
    assert host.flows.items == {"k": "v", "stray": "x"}
    host.reconciler.need_resync()
    host.settle(plan)
    check_end(host, plan)


def test_what_others_may_still_use_is_not_taken_away_before_they_are_gone():
    host = Host()
    host.run(plan_of(p={"ovs": {"number": "1"}, "flows": {"user": "1"}}))
    host.flows.fail_apply(1)
    host.run(Plan())
    assert host.ovs.items == {"number": "1"}, "a flow that uses it is still there"
    host.settle(Plan())
    check_end(host, Plan())


def test_what_an_unreadable_driver_may_still_use_is_not_taken_away():
    host = Host()
    host.run(plan_of(p={"ovs": {"number": "1"}, "flows": {"user": "1"}}))
    host.reconciler.need_resync(["flows"])
    host.flows.fail_observe(1)
    for _ in range(2):  # the second pass comes before the driver is due again
        host.run(Plan())
        assert host.ovs.items == {"number": "1"}
    host.settle(Plan())
    check_end(host, Plan())


def plan_of(**groups: dict) -> Plan:
    return Plan({ObjectId(name): Group(ObjectId(name), items) for name, items in groups.items()})


def test_one_bad_item_does_not_hold_the_others():
    host = Host()
    host.flows.fail("bad")
    report = host.run(plan_of(p1={"flows": {"bad": "x", "good": "y"}}, p2={"ovs": {"o": "z"}}))
    assert host.flows.items == {"good": "y"}
    assert host.ovs.items == {"o": "z"}
    assert set(report.unfinished) == {ItemRef("flows", "bad")}
    assert [ref for ref, _ in host.reconciler.unfinished_of(ObjectId("p1"))] == [ItemRef("flows", "bad")]


def test_retries_back_off_and_start_over_when_the_item_changes():
    host = Host()
    host.flows.fail("bad")
    plan = plan_of(p1={"flows": {"bad": "x"}})
    delays = []
    for _ in range(12):
        host.run(plan)
        due = host.reconciler.next_due()
        assert due is not None
        delays.append(due - host.clock.time)
        host.clock.time = due
    assert delays == sorted(delays)
    assert delays[0] < 0.2 < 50 < delays[-1] <= 60
    host.flows.heal()
    host.run(plan_of(p1={"flows": {"bad": "new"}}))
    assert host.flows.items == {"bad": "new"}
    assert host.reconciler.next_due() is None


def test_an_item_is_blocked_while_what_it_requires_has_failed_and_follows_at_once_when_it_recovers():
    host = Host()
    host.links.fail("filter", 1)
    gate = {ItemRef("flows", "open"): frozenset({ItemRef("links", "filter")})}
    items = {"links": {"filter": "f"}, "flows": {"open": "output"}}
    plan = Plan({ObjectId("p"): Group(ObjectId("p"), items, gate)})
    report = host.run(plan)
    assert host.flows.items == {}
    blocked = ItemRef("flows", "open")
    assert report.unfinished[blocked].state is ItemState.BLOCKED
    assert cause_of(blocked, report.unfinished) == report.unfinished[blocked].waits_for == ItemRef("links", "filter")
    host.settle(plan)
    check_end(host, plan)


def test_what_requires_a_blocked_item_of_the_same_batch_is_blocked_as_well():
    host = Host()
    host.links.fail("space", 1)
    space, chain, jump = ItemRef("links", "space"), ItemRef("flows", "chain"), ItemRef("flows", "a jump")
    gates = {jump: frozenset({chain}), chain: frozenset({space})}
    items = {"links": {"space": "s"}, "flows": {"a jump": "goto", "chain": "new"}}
    plan = Plan({ObjectId("p"): Group(ObjectId("p"), items, gates)})
    report = host.run(plan)
    assert host.flows.items == {}
    assert {report.unfinished[ref].state for ref in (jump, chain)} == {ItemState.BLOCKED}
    assert cause_of(jump, report.unfinished) == space
    host.settle(plan)
    check_end(host, plan)


def test_an_item_whose_requirement_nobody_plans_stays_shut():
    host = Host()
    gate = {ItemRef("flows", "open"): frozenset({ItemRef("links", "absent")})}
    host.run(Plan({ObjectId("p"): Group(ObjectId("p"), {"flows": {"open": "output"}}, gate)}))
    assert host.flows.items == {}


def test_two_objects_that_want_one_key_are_told_apart_by_id_whoever_comes_first():
    first = {"a": {"flows": {"k": "a"}}, "b": {"flows": {"k": "b"}}}
    for order in itertools.permutations(first):
        host = Host()
        plan = Plan()
        for oid in order:
            plan = Plan({**plan.groups, ObjectId(oid): Group(ObjectId(oid), first[oid])})
            host.run(plan)
        assert host.flows.items == {"k": "a"}
        (problem,) = host.reconciler.clashes()
        assert problem.object_id == "b"
        host.run(Plan({ObjectId("b"): plan.groups[ObjectId("b")]}))
        assert host.flows.items == {"k": "b"}
        assert host.reconciler.clashes() == []


def test_one_changed_port_of_a_thousand_costs_one_port():
    host = Host()
    groups = {ObjectId(f"p{i}"): Group(ObjectId(f"p{i}"), {"flows": {f"f{i}": "x"}}) for i in range(1000)}
    host.run(Plan(groups))
    before = host.operations()
    groups = {**groups, ObjectId("p7"): Group(ObjectId("p7"), {"flows": {"f7": "y"}})}
    report = host.run(Plan(groups))
    assert host.operations() - before == 1
    assert report.groups_changed == 1


def test_what_was_written_is_read_back_and_a_difference_is_an_error_that_is_repaired():
    host = Host()
    plan = plan_of(p={"flows": {"k": "v", "gone": "w"}})
    host.run(plan)
    host.flows.tamper("k", "other", ObjectId("p"))
    assert host.reconciler.verify_written() == 1
    assert "other" in host.reconciler.unfinished()[ItemRef("flows", "k")].message
    host.settle(plan)
    check_end(host, plan)
    assert host.reconciler.verify_written() == 0


def test_a_driver_that_cannot_be_read_stops_no_other_and_is_retried():
    host = Host()
    host.ovs.fail_observe(3)
    plan = plan_of(p={"links": {"l": "1"}, "ovs": {"o": "2"}, "flows": {"f": "3"}})
    host.run(plan)
    assert host.reconciler.troubles() == ()  # once is nothing to tell people
    host.clock.time = host.reconciler.next_due() or 0.0
    host.run(plan)
    (trouble,) = host.reconciler.troubles()
    assert (trouble.field, trouble.text) == ("ovs", "ovs cannot be used, retried: ovs: cannot be read")
    assert host.links.items
    assert host.flows.items
    assert not host.ovs.items
    assert host.reconciler.unusable() == {"ovs"}
    host.settle(plan)
    assert host.reconciler.troubles() == ()
    check_end(host, plan)


def test_the_preview_names_the_difference_and_changes_nothing():
    host = Host()
    plan = plan_of(p={"flows": {"k": "v"}})
    host.run(plan)
    before = host.state()
    deltas = host.reconciler.preview(plan_of(p={"flows": {"k": "w", "n": "x"}}))
    assert deltas["flows"].updates == {"k": ("v", "w")}
    assert deltas["flows"].creates == {"n": "x"}
    assert host.state() == before


def test_an_unknown_outcome_is_read_again_and_not_believed():
    host = Host()
    plan = plan_of(p={"flows": {"k": "v"}})
    host.run(plan)
    real = host.flows.apply

    def applied_but_timed_out(delta):
        real(delta)
        raise ApplyError("timed out")

    host.flows.apply = applied_but_timed_out  # type: ignore[method-assign]
    changed = plan_of(p={"flows": {"k": "w"}})
    host.run(changed)
    host.flows.apply = real  # type: ignore[method-assign]
    operations = host.operations()
    host.settle(changed)
    assert host.operations() == operations, "it was applied; reading it again shows that nothing is to do"
    check_end(host, changed)


def test_an_item_that_never_reads_back_as_written_is_tried_less_and_less_often():
    host = Host()
    real = host.flows.observe
    host.flows.observe = lambda keys=None: dict.fromkeys(real(keys), "altered")  # type: ignore[method-assign]
    plan = plan_of(p={"flows": {"k": "v"}})
    delays = []
    for _ in range(10):
        host.run(plan)
        host.reconciler.verify_written()
        due = host.reconciler.next_due()
        assert due is not None
        delays.append(due - host.clock.time)
        host.clock.time = due
    assert delays[-1] > 20
