# SPDX-License-Identifier: Apache-2.0
"""Which connections the rules of today would let begin, case by case."""

from __future__ import annotations

import ipaddress

import pytest

from agent.core.items import GroupRules, ZoneFilter
from agent.core.model import Direction, OwnerId, SecurityGroupRule
from agent.drivers.conntrack_judge import Addresses, CompiledRules, Judge, fixed_verdict, loses_rules, narrows
from tests.fakes.conntrack import connection

US, THEM, FRIEND = "10.0.0.5", "192.0.2.9", "10.0.0.7"
SENT, RECEIVED = 1, 2  # marks
ICMP, TCP, UDP, DCCP, GRE, ICMPV6 = 1, 6, 17, 33, 47, 58
FRIENDS = OwnerId("friends")


def rule(direction: str, ip_version: int = 4, **fields) -> SecurityGroupRule:
    return SecurityGroupRule("r", Direction(direction), ip_version, **fields)


def judge(*rules: SecurityGroupRule, members: tuple[str, ...] = (), is_open: bool = False) -> Judge:
    zone = ZoneFilter(1, "port", (US, "fd00::5"), ("g", "unknown"), is_open)
    return Judge({1: zone}, {"g": CompiledRules(GroupRules(rules))}, {FRIENDS: Addresses(members)})


WEB = rule("ingress", protocol=TCP, port_min=80, port_max=81)
PING = rule("ingress", protocol=ICMP, port_min=8, port_max=0)
TO_PREFIX = rule("egress", remote_prefix="192.0.2.0/24")
FROM_FRIENDS = rule("ingress", remote_owner=FRIENDS)
IN_TCP80 = connection(1, TCP, THEM, US, 80, 40000, RECEIVED)
OUT_TCP80 = connection(1, TCP, US, THEM, 80, 40000, SENT)


@pytest.mark.parametrize(
    ("rules", "one", "allowed"),
    [
        ((), IN_TCP80, False),
        ((WEB,), IN_TCP80, True),
        ((WEB,), IN_TCP80._replace(service=81), True),
        ((WEB,), IN_TCP80._replace(service=82), False),
        ((WEB,), IN_TCP80._replace(protocol=UDP), False),
        ((WEB,), OUT_TCP80, False),  # what an instance may be asked, it may not ask
        ((rule("ingress"),), IN_TCP80, True),
        ((rule("ingress", ip_version=6),), IN_TCP80, False),
        ((rule("ingress", protocol=GRE),), connection(1, GRE, THEM, US, mark=RECEIVED), True),
        ((PING,), connection(1, ICMP, THEM, US, 8 << 8, mark=RECEIVED), True),
        ((PING,), connection(1, ICMP, THEM, US, 13 << 8, mark=RECEIVED), False),
        ((rule("ingress", protocol=ICMP, port_min=8),), connection(1, ICMP, THEM, US, 8 << 8 | 3, mark=2), True),
        # ICMP in a rule for IPv6 is ICMPv6
        ((rule("egress", 6, protocol=ICMP),), connection(1, ICMPV6, "fd00::5", "fd00::6", 128 << 8, mark=1), True),
        ((TO_PREFIX,), OUT_TCP80, True),
        ((TO_PREFIX,), connection(1, TCP, US, "192.0.3.9", 80, 40000, SENT), False),
        ((rule("egress", remote_prefix="0.0.0.0/0"),), OUT_TCP80, True),
        # The other side is whom the packet went to or came from, never ourselves.
        ((rule("ingress", remote_prefix=f"{US}/32"),), IN_TCP80, False),
        ((FROM_FRIENDS,), connection(1, TCP, FRIEND, US, 22, 40000, RECEIVED), True),
        ((FROM_FRIENDS,), connection(1, TCP, "10.9.3.4", US, 22, 40000, RECEIVED), True),
        ((FROM_FRIENDS,), IN_TCP80, False),
        ((rule("ingress", remote_owner=OwnerId("nobody")),), IN_TCP80, False),
        # Where the kernel keeps no ports, nothing tells that it was one of those of the rule.
        ((rule("egress", protocol=DCCP, port_min=80, port_max=80),), connection(1, DCCP, US, THEM, mark=SENT), False),
        ((rule("egress", protocol=DCCP),), connection(1, DCCP, US, THEM, mark=SENT), True),
    ],
)
def test_rules_are_read_as_the_chains_read_them(rules, one, allowed):
    assert judge(*rules, members=(FRIEND, "10.9.0.0/16")).allows(one) is allowed


@pytest.mark.parametrize(
    ("source", "destination", "ways"),
    [
        (US, THEM, {"egress"}),
        (THEM, US, {"ingress"}),
        (US, US, {"egress", "ingress"}),
        (THEM, FRIEND, {"egress", "ingress"}),
    ],
)
@pytest.mark.parametrize("mark", [0, 3, 0x10])
def test_without_a_mark_the_addresses_tell_the_way_and_where_they_do_not_both_ways_must_be_allowed(
    source, destination, ways, mark
):
    one = connection(1, TCP, source, destination, 80, 40000, mark)
    assert judge(*(rule(way) for way in ways)).allows(one)
    for way in ways:
        assert not judge(*(rule(other) for other in {"egress", "ingress"} - {way})).allows(one)


def test_the_bits_of_a_mark_that_are_others_mean_nothing():
    assert judge(WEB).allows(IN_TCP80._replace(mark=0xFF00 | RECEIVED))


def test_an_open_zone_allows_everything_and_an_unknown_one_nothing():
    assert judge(is_open=True).allows(IN_TCP80)
    assert not judge(rule("ingress")).allows(IN_TCP80._replace(zone=2))


@pytest.mark.parametrize(
    ("family", "source_port", "port", "egress", "verdict"),
    [
        (4, 68, 67, True, True),
        (4, 67, 68, False, True),
        (4, 67, 68, True, False),  # an instance is no DHCP server, whatever its groups say
        (4, 68, 67, False, None),
        (6, 546, 547, True, True),
        (6, 547, 546, False, True),
        (6, 547, 546, True, False),
        (6, 68, 67, True, None),
        (4, 40000, 67, True, None),
    ],
)
def test_dhcp_is_for_clients(family, source_port, port, egress, verdict):
    address = "10.0.0.1" if family == 4 else "fd00::1"
    one = connection(1, UDP, address, address, port, source_port)
    assert fixed_verdict(one, egress) is verdict


def test_addresses_are_counted_so_that_two_who_give_one_may_each_take_it_back():
    addresses = Addresses(["10.0.0.1", "10.0.0.1", "10.1.0.0/16", "fd00::/64", "::/0"])
    packed = {text: ipaddress.ip_address(text).packed for text in ("10.0.0.1", "10.1.255.1", "fd00::9", "2001:db8::1")}
    assert all(map(addresses.cover, packed.values()))
    addresses.remove("10.0.0.1")
    addresses.remove("::/0")
    assert [text for text in packed if addresses.cover(packed[text])] == ["10.0.0.1", "10.1.255.1", "fd00::9"]
    assert not Addresses(["10.0.0.0/24"]).cover(ipaddress.ip_address("::10.0.0.1").packed)
    for gone in ("10.0.0.1", "10.1.0.0/16", "fd00::/64"):
        addresses.remove(gone)
    assert not addresses


def test_only_less_is_a_reason_to_judge():
    zone = ZoneFilter(1, "p", (US,), ("a",))
    wider, elsewhere = ZoneFilter(1, "p", (), ("b", "a")), ZoneFilter(1, "p", (THEM,), ("a",))
    everything = ZoneFilter(1, "p", (US,), (), open=True)
    assert not narrows(zone, wider)
    assert not narrows(zone, elsewhere)
    assert not narrows(zone, everything)
    assert narrows(wider, zone)
    assert narrows(everything, zone)

    same = SecurityGroupRule("other id", WEB.direction, 4, TCP, 80, 81)
    assert not loses_rules(GroupRules((WEB,)), GroupRules((same, PING)))
    assert loses_rules(GroupRules((WEB, PING)), GroupRules((WEB,)))
    assert loses_rules(GroupRules((WEB,)), None)
