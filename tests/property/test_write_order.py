# SPDX-License-Identifier: Apache-2.0
"""When things are written within a pass: filters never open while they change, and what judges comes last."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import ApplyError
from agent.core.plan import Delta, Group, ItemRef, Key, ObjectId, Plan, Value
from agent.core.reconciler import Reconciler
from agent.core.report import ItemState
from agent.core.retry import Backoff
from agent.filtering import ORDERS
from tests.fakes.drivers import Crash, FakeDriver, Fuse
from tests.golden.host_states import Clock

NAMES = ("ipset", "iptables", "members", "flows", "conntrack")


class WatchedDriver(FakeDriver):
    """A fake that tells after each item that it has written, or after each batch if it writes these as one."""

    def __init__(self, name: str, look: Callable[[FakeDriver], None], whole: bool) -> None:
        super().__init__(name)
        self._look = look
        self._whole = whole

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        if not self._whole:
            return super().apply(delta)
        if self.fuse is not None:  # died before the batch or after it, never within
            self.fuse.burn()
        fuse, self.fuse = self.fuse, None
        failed = super().apply(delta)
        self.fuse = fuse
        self._look(self)
        return failed

    def _write(self, key: Key, value: Value | None, owner: ObjectId | None, failed: dict[Key, Exception]) -> None:
        super()._write(key, value, owner, failed)
        if not self._whole:
            self._look(self)


class Host:
    """Chains (key: service, value: the set of those who may use it), sets with members, and what comes after.

    ``look`` is called with a driver after each thing that it has written.
    """

    def __init__(self) -> None:
        self.look: Callable[[FakeDriver], None] = lambda driver: None
        self.by_name = {name: WatchedDriver(name, self._looked, whole=name == "iptables") for name in NAMES}
        self.clock = Clock()
        self.start()

    def _looked(self, driver: FakeDriver) -> None:
        self.look(driver)

    def start(self) -> None:
        backoff = Backoff(lambda a, b: (a + b) / 2)
        self.reconciler = Reconciler(tuple(self.by_name.values()), self.clock, self.clock, backoff, orders=ORDERS)

    def run(self, plan: Plan):
        return self.reconciler.run(plan, revision=1)

    def settle(self, plan: Plan) -> None:
        """Pass until nothing is due any more."""
        for _ in range(40):
            self.run(plan)
            due = self.reconciler.next_due()
            if due is None:
                return
            self.clock.time = max(self.clock.time, due)
        raise AssertionError("the passes do not come to rest")

    def state(self) -> dict[str, dict]:
        return {name: dict(driver.items) for name, driver in self.by_name.items()}

    def open_to(self) -> set[tuple[str, str]]:
        return open_to(self.state())


def open_to(state: dict[str, dict]) -> set[tuple[str, str]]:
    """Who may use what: the rules' sets times their members."""
    members = [key.split() for key in state["members"]]
    return {(service, who) for service, of in state["iptables"].items() for name, who in members if name == of}


def wanted(plan: Plan) -> dict[str, dict]:
    state: dict[str, dict] = {name: {} for name in NAMES}
    for group in plan.groups.values():
        for driver, items in group.items.items():
            state[driver].update(items)
    return state


SETS = st.sampled_from(["A", "B", "C"])
CHAINS = st.dictionaries(st.sampled_from(["ssh", "web"]), SETS)
MEMBERS = st.sets(st.tuples(SETS, st.sampled_from(["x", "y"])), max_size=5)


@st.composite
def plans(draw) -> Plan:
    chains = draw(CHAINS)
    members = {f"{name} {who}": "" for name, who in draw(MEMBERS)}
    items = {
        "ipset": dict.fromkeys({key.split()[0] for key in members} | set(chains.values()), "hash:net"),
        "iptables": chains,
        "members": members,
        "flows": {"port": draw(st.sampled_from(["a", "b"]))},
        "conntrack": {"zone 1": draw(st.sampled_from(["a", "b"])), **{f"group {c}": chains[c] for c in chains}},
    }
    return Plan({ObjectId(name): Group(ObjectId(name), {name: items[name]}) for name in items})


HISTORIES = st.lists(plans(), min_size=1, max_size=4)
FAILURES = st.lists(
    st.tuples(
        st.sampled_from(["ipset", "iptables", "members", "conntrack"]),
        st.sampled_from(["ssh", "web", "A", "A x", "B x", "B y", "C x", "zone 1", "group ssh"]),
        st.integers(1, 3),
    ),
    max_size=4,
)


def check_end(host: Host, plan: Plan) -> None:
    assert host.state() == wanted(plan)
    before = sum(driver.operations for driver in host.by_name.values())
    host.run(plan)
    host.reconciler.need_resync()
    host.run(plan)
    assert sum(driver.operations for driver in host.by_name.values()) == before, "another pass must write nothing"


@given(HISTORIES, st.lists(st.integers(0, 12), max_size=3))
def test_nothing_passes_that_neither_the_old_nor_the_new_rules_allow_whenever_the_process_dies(history, deaths):
    host = Host()
    allowed: set[tuple[str, str]] = set()

    def look(driver: FakeDriver) -> None:
        assert host.open_to() <= allowed

    host.look = look
    lives = iter(deaths)
    for plan in history:
        allowed |= open_to(wanted(plan))
        fuse = Fuse(next(lives, 1_000_000))
        for driver in host.by_name.values():
            driver.fuse = fuse
        try:
            host.run(plan)
        except Crash:
            host.start()
            continue  # the next process may know a later plan already
        assert host.open_to() == open_to(wanted(plan))
        allowed = open_to(wanted(plan))
    for driver in host.by_name.values():
        driver.fuse = None
    host.settle(history[-1])
    check_end(host, history[-1])


@given(HISTORIES, FAILURES, st.integers(0, 2), st.integers(0, 2))
def test_the_last_driver_sees_nothing_that_is_to_go_and_has_all_in_the_end(history, failures, unwritable, unreadable):
    host = Host()
    plan = history[0]

    def look(driver: FakeDriver) -> None:
        if driver.name != "conntrack":
            return
        state, want = host.state(), wanted(plan)
        for name in ("iptables", "members"):
            given_up = {ref.key for ref in host.reconciler.hopeless() if ref.driver == name}
            there = {(key, value) for key, value in state[name].items() if key not in given_up}
            assert there <= want[name].items(), f"{name} holds what is to go or to change"

    host.look = look
    host.run(plan)
    for name, key, times in failures:
        host.by_name[name].fail(key, times)
    host.by_name["members"].fail_apply(unwritable)
    host.by_name["iptables"].fail_observe(unreadable)
    for following in history[1:]:
        plan = following
        host.run(plan)
    host.settle(plan)
    check_end(host, plan)


@given(HISTORIES, st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["web", "A x", "zone 1"])), max_size=3))
def test_what_somebody_changes_by_hand_is_put_right_whatever_the_order(history, changes):
    host = Host()
    for plan in history:
        host.run(plan)
    for name, key in changes:
        host.by_name[name].tamper(key, "by hand", ObjectId(name))
    for driver in host.by_name.values():
        host.reconciler.read_back(driver, 0, 1)
    host.settle(history[-1])
    check_end(host, history[-1])


def plan_of(**items: dict) -> Plan:
    return Plan({ObjectId(name): Group(ObjectId(name), {name: of}) for name, of in items.items()})


def test_a_rule_that_cannot_be_taken_away_holds_the_judge_until_it_is_gone_and_no_longer():
    host = Host()
    host.run(plan_of(iptables={"web": "A"}, conntrack={"zone 1": "a"}))
    host.by_name["iptables"].fail("web", 2)
    plan = plan_of(conntrack={"zone 1": "b"})
    report = host.run(plan)

    waiting = report.unfinished[ItemRef("conntrack", "zone 1")]
    assert waiting.state is ItemState.BLOCKED
    assert "iptables item 'web'" in waiting.message
    due = host.reconciler.next_due()
    assert due is not None
    assert due > host.clock.time, "who waits does not keep the loop busy"

    host.clock.time = due
    host.run(plan)
    assert host.by_name["conntrack"].items == {"zone 1": "a"}
    due = host.reconciler.next_due()
    assert due is not None
    host.clock.time = due
    host.run(plan)  # the rule goes
    due = host.reconciler.next_due()
    assert due is not None
    assert due <= host.clock.time, "and who waited is due at once"
    host.run(plan)
    assert host.by_name["conntrack"].items == {"zone 1": "b"}
    check_end(host, plan)


def test_what_only_fails_to_open_holds_nobody():
    host = Host()
    host.by_name["iptables"].fail("web")
    host.run(plan_of(iptables={"web": "A"}, conntrack={"zone 1": "a"}))
    assert host.by_name["conntrack"].items == {"zone 1": "a"}


def test_those_who_waited_are_judged_together_with_those_who_come_later():
    """A zone alone would be judged by less than all the rules: its groups may be among those that wait."""
    host = Host()
    first = plan_of(iptables={"web": "A"})
    host.run(first)
    host.by_name["iptables"].fail("web", 1)
    host.run(plan_of(conntrack={"group 1": "rules"}))
    due = host.reconciler.next_due()
    assert due is not None
    host.clock.time = due
    judge, batches = host.by_name["conntrack"], []
    real = judge.apply
    judge.apply = lambda delta: batches.append(set(delta.keys())) or real(delta)  # type: ignore[method-assign,func-returns-value]
    both = plan_of(conntrack={"group 1": "rules", "zone 1": "a"})
    host.settle(both)
    assert batches == [{"group 1", "zone 1"}]
    check_end(host, both)


def test_members_that_cannot_be_written_at_all_are_tried_once_a_pass():
    host = Host()
    host.run(plan_of(members={"A x": ""}))
    calls = 0

    def unusable(delta: Delta) -> dict[Key, Exception]:
        nonlocal calls
        calls += 1
        raise ApplyError("unusable")

    real, host.by_name["members"].apply = host.by_name["members"].apply, unusable  # type: ignore[method-assign]
    plan = plan_of(members={"A y": ""})
    host.run(plan)
    assert calls == 1
    assert host.reconciler.unusable() == {"members"}
    host.by_name["members"].apply = real  # type: ignore[method-assign]
    host.settle(plan)
    check_end(host, plan)


def test_what_is_repaired_with_what_it_needs_does_not_wait_for_it():
    """All rules of a filter were taken away at once: one pass puts them back."""
    chains = FakeDriver("iptables")
    clock = Clock()
    reconciler = Reconciler([chains], clock, clock, Backoff(lambda a, b: (a + b) / 2), orders=ORDERS)
    ends = {"end": "accept", "rule": "-j end", "jump": "-j rule"}
    needs = {
        ItemRef("iptables", "rule"): frozenset((ItemRef("iptables", "end"),)),
        ItemRef("iptables", "jump"): frozenset((ItemRef("iptables", "rule"),)),
    }
    plan = Plan({ObjectId("port:1"): Group(ObjectId("port:1"), {"iptables": ends}, needs)})
    reconciler.run(plan, 1)
    for key in ends:
        chains.tamper(key, None)
    assert reconciler.read_back(chains, 0, 1) == len(ends)

    report = reconciler.run(plan, 1)

    assert not report.unfinished
    assert chains.items == ends
