# SPDX-License-Identifier: Apache-2.0
"""Security group rules in iptables' words, and those for which it has none."""

import pytest

from agent.core.model import Direction
from agent.drivers.iptables_rule import rebuild
from agent.l2 import iptables_text
from agent.l2.rule_matches import InexpressibleError, rule_match
from tests.golden.l2_world import rule

EGRESS = Direction.EGRESS

EXPRESSED = [
    ("anything", rule("r"), ""),
    ("TCP", rule("r", protocol=6), "-p tcp"),
    ("a port", rule("r", protocol=6, ports=(80, 80)), "-p tcp -m tcp --dport 80"),
    ("a range of ports", rule("r", protocol=6, ports=(80, 90)), "-p tcp -m tcp --dport 80:90"),
    ("port 0", rule("r", protocol=17, ports=(0, 0)), "-p udp -m udp --dport 0"),
    ("to the last port", rule("r", protocol=17, ports=(1, 65535)), "-p udp -m udp --dport 1:65535"),
    ("every port", rule("r", protocol=17, ports=(0, 65535)), "-p udp"),
    ("SCTP", rule("r", protocol=132, ports=(5, 6)), "-p sctp -m sctp --dport 5:6"),
    ("every port, SCTP", rule("r", protocol=132, ports=(0, 65535)), "-p sctp"),
    ("UDP-Lite", rule("r", protocol=136, ports=(53, 53)), "-p udplite -m multiport --dports 53"),
    ("DCCP", rule("r", protocol=33, ports=(53, 60)), "-p dccp -m multiport --dports 53:60"),
    ("GRE", rule("r", protocol=47), "-p 47"),
    ("the last protocol", rule("r", protocol=255), "-p 255"),
    ("ICMP", rule("r", protocol=1), "-p icmp"),
    ("an ICMP type", rule("r", protocol=1, ports=(8, None)), "-p icmp -m icmp --icmp-type 8"),
    ("ICMP type and code", rule("r", protocol=1, ports=(3, 0)), "-p icmp -m icmp --icmp-type 3/0"),
    ("ICMP type 0", rule("r", protocol=1, ports=(0, None)), "-p icmp -m icmp --icmp-type 0"),
    ("ICMPv6", rule("r", ip_version=6, protocol=58), "-p ipv6-icmp"),
    (
        "an ICMPv6 type",
        rule("r", ip_version=6, protocol=58, ports=(128, 0)),
        "-p ipv6-icmp -m icmp6 --icmpv6-type 128/0",
    ),
    ("ICMP for IPv6", rule("r", ip_version=6, protocol=1, ports=(1, None)), "-p ipv6-icmp -m icmp6 --icmpv6-type 1"),
    (
        "ICMPv6 type 255",
        rule("r", ip_version=6, protocol=58, ports=(255, 255)),
        "-p ipv6-icmp -m icmp6 --icmpv6-type 255/255",
    ),
    ("from a prefix", rule("r", prefix="10.0.0.0/24"), "-s 10.0.0.0/24"),
    ("to an address", rule("r", EGRESS, prefix="10.0.0.1/32"), "-d 10.0.0.1/32"),
    ("from everywhere", rule("r", prefix="0.0.0.0/0", protocol=6), "-p tcp"),
    ("from half of everywhere", rule("r", prefix="128.0.0.0/1"), "-s 128.0.0.0/1"),
    ("to everywhere, IPv6", rule("r", EGRESS, 6, prefix="::/0"), ""),
    ("from an IPv6 prefix", rule("r", ip_version=6, prefix="2001:db8::/32"), "-s 2001:db8::/32"),
    ("from a mapped address", rule("r", ip_version=6, prefix="::ffff:a00:1/128"), "-s ::ffff:a00:1/128"),
    (
        "all at once",
        rule("r", protocol=6, ports=(80, 80), prefix="10.0.0.0/8"),
        "-s 10.0.0.0/8 -p tcp -m tcp --dport 80",
    ),
    ("from members", rule("r", owner="web"), "-m set --match-set hp-4-508009649aa59674 src"),
    (
        "to members",
        rule("r", EGRESS, 6, 17, (53, 53), owner="web"),
        "-p udp -m udp --dport 53 -m set --match-set hp-6-508009649aa59674 dst",
    ),
]

INEXPRESSIBLE = [
    ("protocol 0", rule("r", protocol=0), "protocol 0"),
    ("ICMP type 255", rule("r", protocol=1, ports=(255, None)), "255"),
    ("ICMP code without type", rule("r", protocol=1, ports=(None, 0)), "no type of ICMP"),
    ("ICMP type too high", rule("r", protocol=1, ports=(256, None)), "256"),
    ("ICMP code too high", rule("r", ip_version=6, protocol=58, ports=(1, 256)), "256"),
    ("ports reversed", rule("r", protocol=6, ports=(90, 80)), "90 to 80"),
    ("one end of a range", rule("r", protocol=6, ports=(90, None)), "no range"),
    ("port too high", rule("r", protocol=6, ports=(1, 65536)), "65536"),
    ("ports of any protocol", rule("r", ports=(80, 80)), "any protocol"),
    ("ports of GRE", rule("r", protocol=47, ports=(80, 80)), "protocol 47"),
    ("type of another family's ICMP", rule("r", protocol=58, ports=(128, None)), "protocol 58"),
    ("IPv6 prefix in an IPv4 rule", rule("r", prefix="2001:db8::/32"), "2001:db8::/32"),
    ("IPv4 prefix in an IPv6 rule", rule("r", ip_version=6, prefix="10.0.0.0/8"), "10.0.0.0/8"),
    *((f"extension header {n}", rule("r", ip_version=6, protocol=n), f"protocol {n}") for n in (43, 44, 51, 60)),
]


@pytest.mark.parametrize(("source", "expected"), [pytest.param(*case[1:], id=case[0]) for case in EXPRESSED])
def test_rule_is_said_as_it_is_read_back(source, expected):
    assert rule_match(source) == expected
    line = iptables_text.rule(expected, iptables_text.jump("hp-accept"))
    assert rebuild(line) == line


@pytest.mark.parametrize(("source", "why"), [pytest.param(*case[1:], id=case[0]) for case in INEXPRESSIBLE])
def test_what_iptables_cannot_say_is_refused_and_never_widened(source, why):
    with pytest.raises(InexpressibleError, match=why):
        rule_match(source)


@pytest.mark.parametrize("rate", [1, 3, 7, 100, 999, 7000, 300_000, 1_000_000, 5_000_000])
def test_rate_of_a_log_is_rounded_as_the_kernel_does(rate):
    line = iptables_text.log("hp-0123456789ab", rate, 25, "a:0123456789abcdef")
    assert rebuild(line) == line
