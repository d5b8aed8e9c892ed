# SPDX-License-Identifier: Apache-2.0
"""What others change in a router's namespace is read back there and then; what a pass has just written is not."""

from __future__ import annotations

from agent.core.plan import Group, ObjectId, Plan
from agent.core.reconciler import Reconciler
from agent.core.retry import Backoff
from agent.drivers.space_watch import Changed
from agent.read_back import ReadBack
from agent.router_repair import SPACES_CHANGED, RouterRepair
from tests.fakes.drivers import FakePlacedDriver
from tests.golden.host_states import Clock

ONE, OTHER = "qrouter-1", "qrouter-2"
NOTHING: frozenset[str] = frozenset()


def plan(value: str = "x") -> Plan:
    routers = {ObjectId(f"router:{space[-1]}"): space for space in (ONE, OTHER)}
    return Plan({
        oid: Group(oid, {"routes": {f"{space} address": value}, "nat": {f"{space} 4 rule": value}})
        for oid, space in routers.items()
    })  # fmt: skip


class Host:
    """Two routers that are in place, with all that was written read back."""

    def __init__(self):
        self.clock = Clock()
        self.woken: list[str] = []
        self.routes, self.nat = FakePlacedDriver("routes"), FakePlacedDriver("nat")
        drivers = (self.nat, self.routes)
        self.reconciler = Reconciler(drivers, self.clock, self.clock, Backoff())
        self.everything = ReadBack(drivers, self.clock, interval=60.0)
        self.repair = RouterRepair(drivers, lambda pid: False, self.woken.append)
        self.reconciler.run(plan(), 1)
        self.reconciler.verify_written()

    def read(self) -> tuple[list[str], list[str]]:
        """Read back what was heard of; return the places of addresses, and those of rules."""
        self.routes.read.clear()
        self.nat.read.clear()
        self.repair.read_back(self.reconciler, self.everything)
        return list(self.routes.read), list(self.nat.read)


def test_what_somebody_took_away_is_put_right_by_the_next_pass():
    host = Host()
    host.routes.tamper(f"{ONE} address", None)
    host.repair.hear(Changed(frozenset({ONE}), NOTHING))
    assert host.woken == [SPACES_CHANGED]
    assert host.read() == ([ONE], [])
    host.reconciler.run(plan(), 1)
    assert host.routes.items == {f"{ONE} address": "x", f"{OTHER} address": "x"}
    assert host.read() == ([], [])


def test_only_rules_are_read_where_only_rules_changed():
    host = Host()
    host.repair.hear(Changed(NOTHING, frozenset({OTHER})))
    host.repair.hear(Changed(NOTHING, frozenset({OTHER})))
    assert host.read() == ([], [OTHER])


def test_what_a_pass_has_written_is_looked_at_anyway():
    host = Host()
    host.reconciler.run(plan("y"), 2)
    host.repair.hear(Changed(frozenset({ONE, OTHER}), frozenset({ONE})))
    host.repair.after_pass(host.reconciler)
    assert host.read() == ([], [])


def test_what_was_heard_of_others_meanwhile_is_kept():
    host = Host()
    before = plan().groups
    changed = {**before, ObjectId("router:1"): plan("y").groups[ObjectId("router:1")]}
    host.reconciler.run(Plan(changed), 2)
    host.repair.hear(Changed(frozenset({ONE, OTHER}), NOTHING))
    host.woken.clear()
    host.repair.after_pass(host.reconciler)
    assert host.woken == [SPACES_CHANGED]
    assert host.read() == ([OTHER], [])
