# SPDX-License-Identifier: Apache-2.0
"""What a security group rule as people write it comes to, and what is refused with which words."""

from __future__ import annotations

import pytest

from agent.core.errors import InputError
from agent.store.document import RuleFields
from agent.store.validate_rules import PROTOCOLS, RuleShape, RuleSubject, protocol_name, shapes

SUBJECT = RuleSubject("security_group", "web", 7, 2)


def rule(**fields) -> RuleFields:
    return RuleFields(**{"direction": "ingress", **fields})


def brief(given: RuleFields) -> list[tuple]:
    return [(s.ethertype, s.protocol, s.port_range_min, s.port_range_max) for s in shapes(SUBJECT, given)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (rule(), [("IPv4", None, None, None), ("IPv6", None, None, None)]),
        (rule(ethertype="ipv6"), [("IPv6", None, None, None)]),
        (rule(protocol="tcp", ports=22, ethertype="IPv4"), [("IPv4", 6, 22, 22)]),
        (
            rule(protocol="udp", ports=" 53, 8000-8100 ,9", remote_ip_prefix="10.0.0.0/8"),
            [("IPv4", 17, 9, 9), ("IPv4", 17, 53, 53), ("IPv4", 17, 8000, 8100)],
        ),
        (rule(protocol=132, remote_ip_prefix="2001:db8::/32"), [("IPv6", 132, None, None)]),
        (rule(protocol="UDPLITE", ethertype="IPv6", ports="1-65535"), [("IPv6", 136, 1, 65535)]),
        # icmp is ICMP of IPv4, or ICMPv6 where the rule says IPv6: as in Neutron.
        (rule(protocol="icmp"), [("IPv4", 1, None, None)]),
        (rule(protocol="icmp", ethertype="IPv6", icmp_type=128), [("IPv6", 58, 128, None)]),
        (rule(protocol=1, remote_ip_prefix="2001:db8::1"), [("IPv6", 58, None, None)]),
        (rule(protocol="icmp", icmp_type=3, icmp_code=4), [("IPv4", 1, 3, 4)]),
        (rule(protocol="icmpv6", icmp_type=0), [("IPv6", 58, 0, None)]),
        (rule(protocol="ipv6-frag"), [("IPv6", 44, None, None)]),
        # The API's words for any protocol.
        (rule(protocol="any", ethertype="IPv4"), [("IPv4", None, None, None)]),
        (rule(protocol=0, ethertype="IPv4"), [("IPv4", None, None, None)]),
        (rule(protocol="255", ethertype="IPv4"), [("IPv4", 255, None, None)]),
    ],
)
def test_a_rule_stands_for_all_families_and_ports_that_fit(given: RuleFields, expected: list[tuple]) -> None:
    assert brief(given) == expected


def test_prefixes_are_canonical_and_masked() -> None:
    given = rule(direction="egress", remote_ip_prefix="10.1.2.3/8")
    assert shapes(SUBJECT, given) == (RuleShape("egress", "IPv4", None, None, None, "10.0.0.0/8"),)
    assert shapes(SUBJECT, rule(remote_ip_prefix="2001:DB8:0::1"))[0].remote_ip_prefix == "2001:db8::1/128"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_name_of_the_api_is_understood_and_shown(name: str) -> None:
    shape = shapes(SUBJECT, rule(protocol=name))[-1]
    assert shape.protocol == PROTOCOLS[name]
    assert protocol_name(shape.protocol) == ("ipv6-icmp" if name == "icmpv6" else name)
    assert protocol_name(200) == "200"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (RuleFields(), r"direction is required \(ingress, egress\)"),
        (rule(direction="in"), "direction 'in' is not one of ingress, egress"),
        (rule(ethertype="IPv5"), "ethertype 'IPv5' is not one of IPv4, IPv6"),
        (rule(protocol="tpc"), "protocol 'tpc' is not one of ah, .*, or a number in 0..255"),
        (rule(protocol=256), "protocol 256 is not one of"),
        (rule(protocol=-1), "protocol -1 is not one of"),
        (rule(protocol=True), "protocol True is not one of"),
        (rule(protocol="tcp", ports="90-80"), r"ports 90-80 is reversed: did you mean 80-90\?"),
        (rule(protocol="tcp", ports="80,70-90"), r"ports 80,70-90 overlap at 80 \(70-90\)"),
        (rule(protocol="tcp", ports="80,80"), r"ports 80,80 overlap at 80"),
        (rule(protocol="tcp", ports="http"), "ports 'http' is not a list of ports"),
        (rule(protocol="tcp", ports="80,"), "ports '80,' is not a list of ports"),
        (rule(protocol="tcp", ports="-80"), "ports '-80' is not a list of ports"),
        (rule(protocol="tcp", ports=True), "ports True is not a list of ports"),
        (rule(protocol="tcp", ports=0), r"port 0 is outside 1\.\.65535"),
        (rule(protocol="tcp", ports="80-65536"), r"port 65536 is outside 1\.\.65535"),
        (rule(ports=80), "ports need a protocol: only dccp, sctp, tcp, udp, udplite have them"),
        (rule(protocol="gre", ports=80), "ports do not go with protocol gre: only dccp, "),
        (rule(protocol="icmp", ports=8), "ports do not go with protocol icmp: it has icmp_type and icmp_code"),
        (rule(protocol="icmp", icmp_type=256), r"icmp_type 256 is outside 0\.\.255"),
        (rule(protocol="icmp", icmp_type=3, icmp_code=-1), r"icmp_code -1 is outside 0\.\.255"),
        (rule(protocol="icmp", icmp_code=4), "icmp_code 4 needs an icmp_type"),
        (rule(protocol="udp", icmp_type=8), "icmp_type and icmp_code do not go with protocol udp"),
        (rule(ethertype="IPv4", remote_ip_prefix="2001:db8::/32"), "remote_ip_prefix 2001:db8::/32 is IPv6, but"),
        (rule(protocol="ipv6-icmp", ethertype="IPv4"), "protocol ipv6-icmp is of IPv6 only, but the rule's ethertype"),
        (rule(protocol=58, remote_ip_prefix="10.0.0.0/8"), r"protocol 58 is of IPv6 only, but remote_ip_prefix 10\.0"),
        (rule(remote_ip_prefix="10.0.0.0/33"), "remote_ip_prefix '10.0.0.0/33' is not an address with prefix length"),
        (rule(remote_ip_prefix="fe80::%1/64"), "remote_ip_prefix 'fe80::%1/64' is not an address"),
        (
            rule(remote_ip_prefix="10.0.0.0/8", remote_group="web"),
            "remote_ip_prefix and remote_group are given: at most one of them",
        ),
        (rule(remote_group="a", remote_address_group="b"), "remote_group and remote_address_group are given"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_by_group_rule_line_and_field(given: RuleFields, words: str) -> None:
    with pytest.raises(InputError, match=f"^line 7: security group web, rule 2: {words}"):
        shapes(SUBJECT, given)
