# SPDX-License-Identifier: Apache-2.0
"""Connections of real packets: those that a rule or member had let in end with it, and no others.  Needs root."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from agent.core.items import GroupRules, ZoneFilter
from agent.core.model import AddressChunk, Direction, OwnerId, SecurityGroupRule
from agent.core.plan import Delta, Key, Value
from agent.drivers.conntrack import ConntrackDriver
from agent.drivers.conntrack_table import ConntrackTable
from tests.ovs.conntrack_entries import ICMP, TCP, UDP, listed
from tests.ovs.conntrack_lab import INSTANCE, OUTSIDE, Lab, Stream, lab, ping, tcp, udp

FRIENDS = OwnerId("friends")
OUR_ZONES = {1, 2}

# What each rule is, to us and to iptables.
RULES = {
    "ssh": (SecurityGroupRule("ssh", Direction.INGRESS, 4, TCP, 22, 22), "-A hp-in -p tcp --dport 22 -j ACCEPT"),
    "web": (SecurityGroupRule("web", Direction.INGRESS, 4, TCP, 80, 90), "-A hp-in -p tcp --dport 80:90 -j ACCEPT"),
    "dns": (SecurityGroupRule("dns", Direction.INGRESS, 4, UDP, 53, 53), "-A hp-in -p udp --dport 53 -j ACCEPT"),
    "ping": (SecurityGroupRule("ping", Direction.INGRESS, 4, ICMP, 8), "-A hp-in -p icmp --icmp-type 8 -j ACCEPT"),
    "time": (
        SecurityGroupRule("time", Direction.EGRESS, 4, UDP, 123, 123, remote_prefix="10.0.0.0/29"),
        "-A hp-out -d 10.0.0.0/29 -p udp --dport 123 -j ACCEPT",
    ),
    "friends": (
        SecurityGroupRule("friends", Direction.INGRESS, 6, UDP, remote_owner=FRIENDS),
        f"-A hp-in -s {OUTSIDE[6]} -p udp -j ACCEPT",
    ),
}
ALL = frozenset(RULES)
GROUP = GroupRules(tuple(rule for rule, _ in RULES.values()))
MEMBERS = AddressChunk(FRIENDS, "0", frozenset([OUTSIDE[6], "fd00::9"]))
ITEMS: dict[Key, Value] = {
    "zone 1": ZoneFilter(1, "one", tuple(INSTANCE.values()), ("changing",)),
    "zone 2": ZoneFilter(2, "two", tuple(INSTANCE.values()), ("staying",)),
    "group changing": GROUP,
    "group staying": GROUP,
    "members friends/0": MEMBERS,
}


def written(lab: Lab, rules: frozenset[str], *more: str) -> None:
    lines = {family: [line for name, (rule, line) in RULES.items() if name in rules and rule.ip_version == family]
             for family in (4, 6)}  # fmt: skip
    lab.filter({family: [*lines[family], *more, "-A hp-in -j DROP", "-A hp-out -j DROP"] for family in lines})


def judged(zones: set[int]) -> set[tuple[str, ...]]:
    """The connections of *zones* that go on, neighbor discovery and such apart."""
    fields = ("zone", "protocol", "src", "dst", "sport", "dport", "id")
    entries = [entry for entry in listed() if int(entry["zone"]) in zones and not int(entry["mark"]) & 4]
    return {tuple(entry.get(name, "") for name in fields) for entry in entries}


@dataclass
class Traffic:
    """A stream for each rule, through each of the two ports, and one of the host's own; all of them pass."""

    streams: dict[tuple[int, str], Stream] = field(default_factory=dict)
    host: list[socket.socket] = field(default_factory=list)

    def start(self, lab: Lab) -> None:
        for port in (1, 2):  # the same addresses and ports in both
            self.streams |= {
                (port, "ssh"): tcp(lab, port, 22, 40022),
                (port, "web"): tcp(lab, port, 88, 40088),
                (port, "dns"): udp(lab, port, 53, 40053),
                (port, "ping"): ping(lab, port, 4000),
                (port, "time"): udp(lab, port, 123, 40123, egress=True),
                (port, "friends"): udp(lab, port, 53, 40053, family=6),
            }
        self.host = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        self.host[0].bind(("127.0.0.1", 0))
        self.host[1].connect(self.host[0].getsockname())
        self.host[1].send(b"to ourselves")
        assert all(stream.passes() for stream in self.streams.values())

    def close(self) -> None:
        for stream in self.streams.values():
            stream.close()
        for sock in self.host:
            sock.close()

    def check(self, *, cut: set[tuple[int, str]]) -> None:
        """Assert that nothing passes any more of the streams in *cut*, either way, and all of the others."""
        for name in cut:
            self.streams[name].arrived()
            self.streams[name].send()
        # The others go there and back behind them, so what could arrive has arrived.
        for name in self.streams.keys() - cut:
            assert self.streams[name].passes(), f"{name} was cut"
        for name in cut:
            assert not self.streams[name].arrived(), f"{name} goes on"


@pytest.fixture(scope="module")
def host() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture
def traffic(host) -> Iterator[Traffic]:
    written(host, ALL)
    traffic = Traffic()
    try:
        traffic.start(host)
        yield traffic
    finally:
        traffic.close()
        ConntrackTable().flush(OUR_ZONES)


@pytest.fixture
def driver() -> ConntrackDriver:
    driver = ConntrackDriver(ConntrackTable())
    assert driver.apply(Delta(creates=ITEMS)) == {}
    assert driver.ended == 0
    return driver


def test_a_fresh_process_ends_nothing_that_is_allowed(host, traffic, driver):
    traffic.check(cut=set())


@pytest.mark.parametrize("name", ["ssh", "dns", "ping", "time"])
def test_with_a_rule_end_the_connections_that_it_had_let_in_and_no_others(host, traffic, driver, name):
    written(host, ALL - {name})
    traffic.check(cut=set())  # what is established passes, until it is judged
    before = judged({0, *OUR_ZONES})
    fewer = GroupRules(tuple(rule for other, (rule, _) in RULES.items() if other != name))
    assert driver.apply(Delta(updates={"group changing": (GROUP, fewer)})) == {}
    after = judged({0, *OUR_ZONES})

    traffic.check(cut={(1, name)})
    assert driver.ended == len(before - after) == 1
    assert any(entry[0] == "0" and entry[2] == "127.0.0.1" for entry in after), "the host's own"


def test_a_session_is_over_for_both_sides_even_if_one_may_send(host, traffic, driver):
    """The kernel would make a connection of its own from the server's next segment, and the client's belong to it."""
    may_send = SecurityGroupRule("anything", Direction.EGRESS, 4)
    fewer = GroupRules((*(rule for name, (rule, _) in RULES.items() if name != "ssh"), may_send))
    written(host, ALL - {"ssh"}, "-A hp-out -j ACCEPT")
    assert driver.apply(Delta(updates={"group changing": (GROUP, fewer)})) == {}
    traffic.check(cut={(1, "ssh")})
    assert driver.apply(Delta(updates={"group changing": (fewer, GROUP)})) == {}
    written(host, ALL)
    assert traffic.streams[1, "ssh"].passes(), "allowed again, it does not go on"


def test_with_a_member_end_its_connections_and_with_another_nothing(host, traffic, driver):
    only = AddressChunk(FRIENDS, "0", frozenset([OUTSIDE[6]]))
    assert driver.apply(Delta(updates={"members friends/0": (MEMBERS, only)})) == {}
    assert driver.ended == 0
    written(host, ALL - {"friends"})
    assert driver.apply(Delta(deletes={"members friends/0": only})) == {}
    traffic.check(cut={(1, "friends"), (2, "friends")})
    assert driver.ended == 2


def test_with_a_group_end_its_connections_of_that_port_only(host, traffic, driver):
    written(host, frozenset())
    none = ZoneFilter(1, "one", tuple(INSTANCE.values()), ())
    assert driver.apply(Delta(updates={"zone 1": (ITEMS["zone 1"], none)})) == {}
    traffic.check(cut={(1, name) for name in RULES})
    assert {entry[0] for entry in judged({0, *OUR_ZONES})} == {"0", "2"}


def test_what_came_in_while_somebody_had_opened_the_filter_is_ended_when_all_is_judged_again(host, traffic, driver):
    opened = "-I hp-in 1 -j ACCEPT"
    host.filter({4: [opened], 6: [opened]})
    intruder = udp(host, 1, 9999, 40999)
    try:
        traffic.streams[1, "intruder"] = intruder
        assert intruder.passes()
        written(host, ALL)
        traffic.check(cut=set())
        driver.judge_all()
        seen = driver.observe()
        updates = {key: (seen[key], ITEMS[key]) for key in ITEMS if seen[key] != ITEMS[key]}
        assert driver.apply(Delta(updates=updates)) == {}
        traffic.check(cut={(1, "intruder")})
    finally:
        intruder.close()
