# SPDX-License-Identifier: Apache-2.0
"""What passes wrote is looked at in parts, behind passes that are due, with what hangs on it."""

from __future__ import annotations

from collections.abc import Mapping

from agent.core.items import Link
from agent.core.plan import Group, Key, ObjectId, Plan, Value
from agent.core.reconciler import Reconciler
from agent.core.report import ItemState
from agent.core.retry import Backoff
from agent.read_back import ReadBack
from agent.verification import PATIENCE, Verification
from tests.fakes.drivers import FakeDriver, FakePlacedDriver
from tests.golden.host_states import Clock

ROUTER = ObjectId("router:1")
ROUTERS = 300


class Host:
    """Devices, namespaces with rules, and flows, of one router; no pass has been yet."""

    def __init__(self) -> None:
        self.links, self.nat, self.flows = FakePlacedDriver("links", "/"), FakePlacedDriver("nat"), FakeDriver("flows")
        drivers, self.clock = (self.links, self.nat, self.flows), Clock()
        self.reconciler = Reconciler(drivers, self.clock, self.clock, Backoff())
        read_back = ReadBack(drivers, self.clock, interval=60.0)
        self.verification = Verification(drivers, read_back, self.clock)

    def run(self, plan: Plan) -> None:
        self.reconciler.run(plan, 1)
        self.verification.after_pass(self.reconciler)

    def finish(self) -> int:
        """Look at all; return in how many parts."""
        parts = 0
        while self.verification.is_pending():
            self.verification.step(self.reconciler)
            parts += 1
        return parts

    def settle(self, plan: Plan) -> None:
        self.run(plan)
        self.finish()
        for driver in (self.links, self.nat):
            driver.read.clear()


def plan(**items: Mapping[Key, Value]) -> Plan:
    return Plan({ROUTER: Group(ROUTER, items)})


def veth(key: str, peer: str) -> Link:
    return Link(key.rpartition("/")[2], "veth", "router:1", 1500, peer=peer, namespace=key.rpartition("/")[0])


PAIR = {"outer": veth("outer", "a/inner"), "a/inner": veth("a/inner", "outer"), "b/alone": veth("b/alone", "")}
RULES = {"a 1": "x", "b 1": "x"}


def test_what_differs_from_what_was_written_is_tried_again():
    host = Host()
    host.run(plan(nat=RULES))
    host.nat.tamper("b 1", "changed")
    host.finish()
    assert {ref.key: o.state for ref, o in host.reconciler.unfinished().items()} == {"b 1": ItemState.ERROR}

    host.clock.time += 60.0
    host.settle(plan(nat=RULES))
    assert host.nat.items == RULES


def test_what_two_passes_wrote_is_looked_at_together():
    host = Host()
    host.run(plan(nat={"a 1": "x"}))
    host.run(plan(nat={"a 1": "x", "b 1": "x"}))
    host.nat.tamper("a 1", None)
    host.nat.tamper("b 1", None)
    host.finish()
    assert {ref.key for ref in host.reconciler.unfinished()} == {"a 1", "b 1"}


def test_much_is_looked_at_in_parts_each_of_few_places():
    host = Host()
    rules = {f"r{number} {rule}": "x" for number in range(ROUTERS) for rule in range(5)}
    host.run(plan(nat=rules))
    host.nat.read.clear()
    assert host.finish() > 10
    assert sorted(host.nat.read) == sorted(f"r{number}" for number in range(ROUTERS))


def test_passes_come_first_but_not_for_ever():
    host = Host()
    host.run(plan(nat=RULES))
    assert not host.verification.is_late()
    host.clock.time += PATIENCE
    host.run(plan(nat=RULES, flows={"f": "x"}))
    assert host.verification.is_late()

    host.finish()
    host.run(plan(nat=RULES, flows={"f": "y"}))
    assert not host.verification.is_late(), "the others have been looked at"


def test_a_pass_that_wrote_nothing_leaves_nothing_to_look_at():
    host = Host()
    host.settle(plan(nat=RULES))
    host.run(plan(nat=RULES))
    assert not host.verification.is_pending()


def test_what_was_all_written_is_read_once():
    host = Host()
    host.run(plan(links=PAIR, nat=RULES))
    host.links.read.clear()
    host.nat.read.clear()
    host.finish()
    assert host.nat.read == ["a", "b"]
    assert sorted(host.links.read) == ["/", "a", "b"]


def test_what_hangs_on_what_was_made_anew_is_read_back_and_nothing_else():
    host = Host()
    host.settle(plan(links=PAIR, nat=RULES))
    host.links.tamper("outer", None)  # and with it, unnoticed, its other end and what that had
    host.reconciler.read_back(host.links, 0, 1)
    host.links.read.clear()
    host.run(plan(links=PAIR, nat=RULES))
    host.links.tamper("a/inner", None)
    host.nat.tamper("a 1", None)
    host.nat.tamper("b 1", None)
    host.finish()

    assert host.nat.read == ["a"]
    assert "b" not in host.links.read
    assert {ref.key for ref in host.reconciler.unfinished()} == {"a/inner", "a 1"}
    host.run(plan(links=PAIR, nat=RULES))
    assert host.nat.items == {"a 1": "x"}
    assert host.links.items == PAIR
