# SPDX-License-Identifier: Apache-2.0
"""The connection table of the real kernel, in a network namespace of the test's own.  Needs root."""

from __future__ import annotations

import ipaddress
from collections import Counter

import pytest

from agent.core.errors import ApplyError
from agent.core.items import GroupRules, ZoneFilter
from agent.core.model import Direction, SecurityGroupRule
from agent.core.plan import Delta
from agent.drivers.conntrack import ConntrackDriver
from agent.drivers.conntrack_table import ConntrackTable, open_netfilter
from tests.ovs.conntrack_entries import ICMP, ICMPV6, TCP, UDP, Entry, listed, make, own_network_namespace

A, B, C = "10.0.0.1", "10.0.0.2", "2001:db8::1"
SCTP, UDPLITE, OSPF = 132, 136, 89


@pytest.fixture(autouse=True)
def _namespace():
    with own_network_namespace():
        yield


@pytest.fixture(params=["the kernel selects", "we select"])
def table(request) -> ConntrackTable:
    """A table as before and after Linux 6.8, which came to list one zone alone."""
    table = ConntrackTable()
    table._selects = request.param == "the kernel selects"
    return table


def zones() -> Counter[int]:
    return Counter(int(entry["zone"]) for entry in listed())


@pytest.mark.parametrize(
    ("entry", "source_port", "service"),
    [
        (Entry(5, TCP, A, B, 40000, 80, mark=0x2), 40000, 80),
        (Entry(65535, UDP, "fd00::1", C, 546, 547, mark=0xFFFFFFFF), 546, 547),
        (Entry(5, SCTP, A, B, 1, 65535), 1, 65535),
        (Entry(5, UDPLITE, C, "fd00::1", 7, 9), 7, 9),
        (Entry(5, ICMP, A, B, 13, 0), None, 13 << 8),
        (Entry(5, ICMPV6, C, "fd00::1", 128, 0, mark=1), None, 128 << 8),
        (Entry(5, OSPF, A, B), None, None),
        (Entry(0, UDP, A, B, 1, 2), 1, 2),
    ],
    ids=["tcp", "udp6", "sctp", "udplite6", "icmp", "icmpv6", "another", "the host's own"],
)
def test_a_connection_is_read_as_its_first_packet_made_it(entry, source_port, service):
    make([entry])
    (found,) = ConntrackTable().dump()
    (seen,) = listed()
    assert (found.zone, found.mark) == (entry.zone, entry.mark)
    assert (str(found.zone), str(found.mark)) == (seen["zone"], seen["mark"])
    assert f"ipv{found.family}" == seen["family"]
    assert found.protocol == int(seen["protocol"]) == entry.protocol
    assert found.source == ipaddress.ip_address(seen["src"]).packed == ipaddress.ip_address(entry.source).packed
    assert found.destination == ipaddress.ip_address(seen["dst"]).packed
    assert (found.source_port, found.service) == (source_port, service)


def test_what_is_expected_because_of_another_connection_is_read_as_that_one():
    control = Entry(5, TCP, A, B, 40000, 21, mark=1)
    make([control, Entry(5, TCP, B, A, 20, 50000, mark=1, master=control)])
    found = list(ConntrackTable().dump([5]))
    assert {(one.source_port, one.service) for one in found} == {(40000, 21)}
    assert ConntrackTable().end(found) == 2, "and is ended as itself"


def test_only_the_zones_that_are_asked_for_are_listed(table):
    make(Entry(zone, UDP, A, B, port, 53) for zone in range(30) for port in range(1, 4))
    for asked in ([7], [0], [3, 4, 60000], range(1, 25), []):
        found = Counter(one.zone for one in table.dump(asked))
        assert found == {zone: 3 for zone in asked if zone < 30}
    assert sum(1 for _ in table.dump()) == 90


def test_a_connection_is_ended_in_its_zone_and_nowhere_else(table):
    make(Entry(zone, protocol, A, B, 8, 0) for zone in (0, 1, 2) for protocol in (TCP, UDP, ICMP, OSPF))
    make([Entry(1, UDP, C, "fd00::2", 1, 2)])
    (one,) = (found for found in table.dump([1]) if found.protocol == UDP and found.family == 4)
    assert table.end([one]) == 1
    assert zones() == {0: 4, 1: 4, 2: 4}
    assert table.end([one]) == 0, "who has gone already is no error"
    assert table.end(table.dump([1])) == 4
    assert zones() == {0: 4, 2: 4}


def test_a_connection_is_marked_as_ended_in_its_zone_and_nowhere_else(table):
    make(Entry(zone, TCP, A, B, 40000, 80, mark=0x10 | zone) for zone in (0, 1, 2))
    make([Entry(1, TCP, A, B, 40001, 80)])
    (one,) = (found for found in table.dump([1]) if found.source_port == 40000)
    assert table.mark_ended([one]) == 1
    marks = {(entry["zone"], entry["sport"]): int(entry["mark"]) for entry in listed()}
    assert marks == {("0", "40000"): 0x10, ("1", "40000"): 0x15, ("2", "40000"): 0x12, ("1", "40001"): 0}
    assert table.end(table.dump([1])) == 2
    assert table.mark_ended([one]) == 0, "who has gone already is no error, and is not made"
    with pytest.raises(ValueError, match="zone 0"):
        table.mark_ended(table.dump([0]))


def test_one_of_the_same_tuple_that_came_later_is_not_ended(table):
    entry = Entry(1, UDP, A, B, 1, 2)
    make([entry])
    old = list(table.dump([1]))
    for port in range(1, 1000):
        table.end(table.dump([1]))
        # The kernel derives an id from where a connection lies in memory: take that place.
        make([Entry(2, UDP, A, B, port, 2), entry])
        if next(table.dump([1])).key != old[0].key:
            break
    assert table.end(old) == 0
    assert zones()[1] == 1


def test_the_hosts_own_connections_cannot_be_ended(table):
    make([Entry(0, UDP, A, B, 1, 2), Entry(1, UDP, A, B, 1, 2)])
    with pytest.raises(ValueError, match="zone 0"):
        table.end(table.dump())
    with pytest.raises(ValueError, match="zone 0"):
        table.flush([1, 0])
    assert zones() == {0: 1, 1: 1}


def test_zones_are_emptied_and_their_neighbours_are_not(table):
    make(Entry(zone, UDP, A, B, port, 53) for zone in range(5) for port in range(1, 301))
    table.flush([2, 4])
    assert zones() == {0: 300, 1: 300, 3: 300}
    table.flush([])
    table.flush([2, 4])
    assert zones() == {0: 300, 1: 300, 3: 300}


def test_one_that_cannot_be_ended_hinders_no_other():
    table = ConntrackTable()
    make(Entry(1, UDP, A, B, port, 53) for port in range(1, 301))
    found = list(table.dump([1]))
    key = found[3].key
    found[3] = found[3]._replace(key=key[:8] + bytes(8) + key[16:])  # no source address
    with pytest.raises(ApplyError, match="Invalid argument"):
        table.end(found)
    assert zones() == {1: 1}


@pytest.mark.parametrize("spoil", [lambda key: b"", lambda key: bytes(len(key)), lambda key: key[:-8]])
def test_a_request_that_could_empty_the_table_is_never_sent(spoil):
    """To the kernel a deletion without a tuple means everything."""
    table = ConntrackTable()
    make(Entry(zone, UDP, A, B, 1, 2) for zone in (0, 1, 2))
    (one,) = table.dump([1])
    for spoiled in (one._replace(key=spoil(one.key)), one._replace(zone=2)):
        with pytest.raises(ValueError, match="as it was read"):
            table.end([spoiled])
    assert zones() == {0: 1, 1: 1, 2: 1}


def test_a_kernel_that_does_not_answer_is_an_error_of_ours():
    def closed():
        sock = open_netfilter()
        sock.close()
        return sock

    table = ConntrackTable(closed)
    with pytest.raises(ApplyError):
        list(table.dump([1]))
    driver = ConntrackDriver(table)
    zone = ZoneFilter(1, "p", (), ())
    assert set(driver.apply(Delta(creates={"zone 1": zone}))) == {"zone 1"}
    assert driver.observe() == {}


def test_of_many_connections_those_of_a_group_that_lost_a_rule_are_ended():
    """400 ports and somebody else's connections around: nobody else's, and all of the rule's."""
    make(Entry(zone, TCP, "192.0.2.1", f"10.1.{zone >> 8}.{zone & 255}", 40000, port, mark=2)
         for zone in range(1, 401) for port in (22, 80))  # fmt: skip
    make(Entry(0, TCP, "192.0.2.1", B, port, 22) for port in range(1, 4001))
    rules = [SecurityGroupRule(str(port), Direction.INGRESS, 4, TCP, port, port) for port in (22, 80)]
    items = {f"zone {zone}": ZoneFilter(zone, str(zone), (), ("g",)) for zone in range(1, 401)}
    driver = ConntrackDriver(ConntrackTable())
    group = GroupRules(tuple(rules))
    assert driver.apply(Delta(creates={**items, "group g": group})) == {}
    assert driver.ended == 0
    assert driver.apply(Delta(updates={"group g": (group, GroupRules((rules[1],)))})) == {}
    assert driver.ended == 400
    assert Counter((entry["dport"], entry["mark"]) for entry in listed() if entry["zone"] != "0") == {
        ("80", "2"): 400,
        ("22", "6"): 400,
    }
    assert zones()[0] == 4000
