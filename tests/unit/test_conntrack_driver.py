# SPDX-License-Identifier: Apache-2.0
"""Driver ``conntrack`` over a table in memory: what it looks for, when, and what it remembers."""

from __future__ import annotations

import pytest

from agent.core.items import GroupRules, ZoneFilter
from agent.core.model import AddressChunk, Direction, OwnerId, SecurityGroupRule
from agent.core.plan import Delta, Value
from agent.drivers.conntrack import UNJUDGED, ConntrackDriver
from tests.fakes.conntrack import FakeTable, connection

WEB = SecurityGroupRule("1", Direction.INGRESS, 4, 6, 80, 80)
SSH = SecurityGroupRule("2", Direction.INGRESS, 4, 6, 22, 22, remote_owner=OwnerId("admins"))
ADMINS = AddressChunk(OwnerId("admins"), "0", frozenset(["192.0.2.1", "192.0.2.2"]))


def zone(number: int, *groups: str) -> ZoneFilter:
    return ZoneFilter(number, f"port{number}", (f"10.0.0.{number}",), groups)


def incoming(number: int, port: int, source: str = "192.0.2.1"):
    return connection(number, 6, source, f"10.0.0.{number}", port, 40000, mark=2)


ITEMS: dict[str, Value] = {
    "group web": GroupRules((WEB,)),
    "group ssh": GroupRules((SSH,)),
    "members admins/0": ADMINS,
    "zone 1": zone(1, "ssh", "web"),
    "zone 2": zone(2, "web"),
    "zone 3": zone(3),
}
ALLOWED = [incoming(1, 80), incoming(1, 22), incoming(1, 22, "192.0.2.2"), incoming(2, 80)]
HOSTS_OWN = connection(0, 6, "192.0.2.1", "10.0.0.1", 23, 40000)


@pytest.fixture
def table() -> FakeTable:
    return FakeTable([*ALLOWED, HOSTS_OWN])


@pytest.fixture
def driver(table) -> ConntrackDriver:
    """A driver that has judged by ITEMS."""
    driver = ConntrackDriver(table)
    assert driver.apply(Delta(creates=ITEMS)) == {}
    table.dumps.clear()
    return driver


def change(key: str, new: Value | None) -> Delta:
    if new is None:
        return Delta(deletes={key: ITEMS[key]})
    return Delta(updates={key: (ITEMS[key], new)}) if key in ITEMS else Delta(creates={key: new})


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ("group web", GroupRules((WEB, SSH))),
        ("members admins/0", AddressChunk(OwnerId("admins"), "0", ADMINS.addresses | {"192.0.2.3"})),
        ("members admins/1", AddressChunk(OwnerId("admins"), "1", frozenset(["192.0.2.4"]))),
        ("zone 2", zone(2, "ssh", "web")),
        ("zone 2", ZoneFilter(2, "port2", ("10.0.0.9",), ("web",))),
        ("group new", GroupRules((WEB,))),
    ],
)
def test_what_allows_more_looks_for_nothing(driver, table, key, new):
    assert driver.apply(change(key, new)) == {}
    assert table.dumps == []
    assert driver.observe({key: ""}) == {key: new}


@pytest.mark.parametrize(
    ("key", "new", "judged", "ended"),
    [
        ("group web", GroupRules(()), {1, 2}, {ALLOWED[0], ALLOWED[3]}),
        ("group ssh", None, {1}, {ALLOWED[1], ALLOWED[2]}),
        ("members admins/0", AddressChunk(OwnerId("admins"), "0", frozenset(["192.0.2.1"])), {1}, {ALLOWED[2]}),
        ("members admins/0", None, {1}, {ALLOWED[1], ALLOWED[2]}),
        ("zone 1", zone(1, "web"), {1}, {ALLOWED[1], ALLOWED[2]}),
        ("zone 2", None, {2}, {ALLOWED[3]}),
        # The zone is another port's now: that its rules allow as much does not matter.
        ("zone 2", ZoneFilter(2, "another", ("10.0.0.2",), ("web",)), {2}, {ALLOWED[3]}),
    ],
)
def test_what_allows_less_ends_what_only_it_allowed_and_looks_nowhere_else(driver, table, key, new, judged, ended):
    assert driver.apply(change(key, new)) == {}
    assert table.dumps == [judged]
    assert {*ALLOWED, HOSTS_OWN} - table.connections == ended
    assert driver.observe().get(key) == new
    assert driver.ended == len(ended)


def test_what_is_the_same_in_other_words_looks_for_nothing(driver, table):
    renamed = SecurityGroupRule("another id", Direction.INGRESS, 4, 6, 80, 80)
    driver.apply(change("group web", GroupRules((renamed,))))
    assert table.dumps == []


def test_members_of_a_group_that_no_port_here_refers_to_are_nobodys_loss(driver, table):
    loss = AddressChunk(OwnerId("others"), "0", frozenset())
    driver.apply(change("members others/0", AddressChunk(OwnerId("others"), "0", frozenset(["192.0.2.1"]))))
    driver.apply(Delta(updates={"members others/0": (loss, loss)}))
    assert table.dumps == []


def test_a_fresh_process_judges_every_zone_once(table):
    stray = incoming(2, 443)
    table.connections.add(stray)
    driver = ConntrackDriver(table)
    assert driver.observe() == {}
    driver.apply(Delta(creates=ITEMS))
    assert table.dumps == [{1, 2, 3}]
    assert table.connections == {*ALLOWED, HOSTS_OWN}


def test_a_table_that_cannot_be_used_is_asked_again(driver, table):
    table.failures = 1
    wanted: dict[str, Value] = {"group web": GroupRules(()), "zone 3": zone(3, "ssh")}
    delta = Delta(updates={key: (ITEMS[key], new) for key, new in wanted.items()})
    failed = driver.apply(delta)
    assert list(failed) == ["group web"], "what only allows more needs no table"
    assert driver.observe() == {**ITEMS, "zone 3": zone(3, "ssh")}
    assert set(ALLOWED) < table.connections
    assert driver.apply(change("group web", GroupRules(()))) == {}
    assert table.connections == {ALLOWED[1], ALLOWED[2], HOSTS_OWN}


def test_a_permission_that_comes_back_before_it_could_be_judged_ends_nothing(driver, table):
    table.failures = 1
    assert driver.apply(change("zone 1", zone(1)))
    assert driver.apply(Delta(updates={"zone 1": (ITEMS["zone 1"], ITEMS["zone 1"])})) == {}
    assert driver.apply(change("group web", GroupRules(()))) == {}
    assert table.connections == {ALLOWED[1], ALLOWED[2], HOSTS_OWN}


def test_after_a_filter_was_opened_by_hand_every_zone_is_judged_again(driver, table):
    stray = incoming(3, 443)
    table.connections.add(stray)
    driver.judge_all()
    seen = driver.observe()
    assert {key for key, value in seen.items() if value == UNJUDGED} == {"zone 1", "zone 2", "zone 3"}
    updates = {key: (seen[key], ITEMS[key]) for key in ("zone 1", "zone 3")}
    assert driver.apply(Delta(updates=updates, deletes={"zone 2": UNJUDGED})) == {}
    assert table.connections == {*ALLOWED[:3], HOSTS_OWN}
    assert driver.observe() == {key: value for key, value in ITEMS.items() if key != "zone 2"}


def test_a_tcp_session_stays_ended_until_it_is_allowed_again(driver, table):
    none = GroupRules(())
    driver.apply(change("group web", none))
    assert {(one.zone, one.mark) for one in table.dead} == {(1, 2 | 4), (2, 2 | 4)}
    table.dumps.clear()
    driver.apply(Delta(updates={"group ssh": (ITEMS["group ssh"], GroupRules((SSH, SSH)))}))
    assert table.dumps == [{1}], "not where no session was ended because of it"
    assert len(table.dead) == driver.ended == 2
    driver.apply(Delta(updates={"group web": (none, ITEMS["group web"])}))
    assert (table.dead, driver.ended) == (set(), 2)
    table.dumps.clear()
    driver.apply(Delta(updates={"group web": (ITEMS["group web"], GroupRules((WEB, SSH)))}))
    assert table.dumps == [], "nothing is ended any more"


def test_a_fresh_process_leaves_ended_what_is_still_forbidden(driver, table):
    driver.apply(change("group web", GroupRules(())))
    fresh = ConntrackDriver(table)
    fresh.apply(Delta(creates={**ITEMS, "group web": GroupRules(())}))
    assert (len(table.dead), fresh.ended) == (2, 0)
    fresh.apply(Delta(creates={"group web": ITEMS["group web"]}))
    assert table.dead == set()


def test_only_what_the_next_segment_would_bring_back_is_kept(driver, table):
    """Of other protocols either side may begin anew; and a mark is not for guesses."""
    table.connections = {connection(2, 17, "192.0.2.1", "10.0.0.2", 80, 1, mark=2), incoming(2, 81)._replace(mark=0)}
    driver.apply(change("group web", GroupRules(())))
    assert (table.connections, table.dead, driver.ended) == (set(), set(), 2)


def test_with_a_zone_goes_what_was_ended_in_it(driver, table):
    driver.apply(change("group web", GroupRules(())))
    driver.apply(change("zone 1", None))
    assert {one.zone for one in table.dead} == {2}
    driver.flush([2])
    assert table.dead == set()


def test_a_port_that_has_left_a_group_is_not_looked_at_because_of_it(driver, table):
    driver.apply(change("zone 2", zone(2)))
    table.dumps.clear()
    driver.apply(change("group web", GroupRules(())))
    assert table.dumps == [{1}]


def test_a_zone_that_was_emptied_in_the_same_pass_is_not_read(driver, table):
    driver.flush([9])
    driver.apply(Delta(creates={"zone 9": zone(9)}))

    assert table.dumps == []


def test_a_zone_that_was_emptied_in_an_earlier_pass_is_judged(driver, table):
    driver.flush([9])
    driver.end_of_pass()
    table.connections.add(incoming(9, 80))

    driver.apply(Delta(creates={"zone 9": zone(9)}))

    assert incoming(9, 80) not in table.connections
