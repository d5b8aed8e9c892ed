# SPDX-License-Identifier: Apache-2.0
"""What a security group rule matches, in iptables' words.

A rule that iptables cannot express as meant is refused, never widened.
"""

from __future__ import annotations

from agent.core import naming
from agent.core.model import Direction, SecurityGroupRule
from agent.l2 import iptables_text as text

ICMP, TCP, UDP, DCCP, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 33, 58, 132, 136
_NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp", DCCP: "dccp", ICMPV6: "ipv6-icmp", SCTP: "sctp", UDPLITE: "udplite"}
_OWN_MATCH = frozenset((TCP, UDP, SCTP))
_MULTIPORT = frozenset((DCCP, UDPLITE))  # udplite has no match of its own, dccp's is a module that few kernels have
_LAST_PORT = 65535
_ANY_PROTOCOL = 0  # to iptables "-p 0" is every protocol
_ANY_ICMP_TYPE = 255  # to iptables every type of ICMP for IPv4
# Headers that ip6tables looks behind of (ipv6_ext_hdr() of the kernel): "-p" never sees them.
_EXTENSION_HEADERS = frozenset((43, 44, 51, 60))


class InexpressibleError(ValueError):
    """iptables has no words for a rule; says why."""


def rule_match(rule: SecurityGroupRule) -> str:
    """Return the matches of *rule*, "" for everything.  Raises InexpressibleError."""
    ingress = rule.direction is Direction.INGRESS
    address = ""
    if rule.remote_prefix is not None:
        if (":" in rule.remote_prefix) != (rule.ip_version == 6):
            raise InexpressibleError(f"{rule.remote_prefix} is no prefix of IPv{rule.ip_version}")
        address = text.source(rule.remote_prefix) if ingress else text.destination(rule.remote_prefix)
    members = ""
    if rule.remote_owner is not None:
        members = text.in_set(naming.member_set(rule.remote_owner, rule.ip_version), as_source=ingress)
    return text.rule(address, _protocol(rule), members)


def _protocol(rule: SecurityGroupRule) -> str:
    number = rule.protocol
    if number is None:
        _refuse_ports(rule, "any protocol")
        return ""
    if number == _ANY_PROTOCOL:
        raise InexpressibleError("protocol 0 means every protocol to iptables")
    if rule.ip_version == 6:
        if number in _EXTENSION_HEADERS:
            raise InexpressibleError(f"protocol {number} is an extension header of IPv6, which iptables looks behind")
        if number == ICMP:  # as in Neutron
            number = ICMPV6
    if (number, rule.ip_version) in ((ICMP, 4), (ICMPV6, 6)):
        return _icmp(rule, number)
    name = _NAMES.get(number, str(number))
    if number in _OWN_MATCH or number in _MULTIPORT:
        ports = _ports(rule)
        if not ports:
            return f"-p {name}"
        if number in _OWN_MATCH:
            return f"-p {name} -m {name} --dport {ports}"
        return f"-p {name} -m multiport --dports {ports}"
    _refuse_ports(rule, f"protocol {number}")
    return f"-p {name}"


def _refuse_ports(rule: SecurityGroupRule, what: str) -> None:
    if rule.port_min is not None or rule.port_max is not None:
        raise InexpressibleError(f"{what} has no ports")


def _ports(rule: SecurityGroupRule) -> str:
    """Return the destination ports, "" for all."""
    first, last = rule.port_min, rule.port_max
    if first is None and last is None:
        return ""
    if first is None or last is None or not 0 <= first <= last <= _LAST_PORT:
        raise InexpressibleError(f"{_number(first)} to {_number(last)} is no range of ports")
    if (first, last) == (0, _LAST_PORT):
        return ""
    return str(first) if first == last else f"{first}:{last}"


def _icmp(rule: SecurityGroupRule, number: int) -> str:
    kind, code = rule.port_min, rule.port_max
    if kind is None and code is None:
        return f"-p {_NAMES[number]}"
    if kind is None or not 0 <= kind <= 255 or not 0 <= (code or 0) <= 255:
        raise InexpressibleError(f"{_number(kind)} with code {_number(code)} is no type of ICMP")
    if number == ICMP and kind == _ANY_ICMP_TYPE:
        raise InexpressibleError("ICMP type 255 means every type to iptables")
    value = str(kind) if code is None else f"{kind}/{code}"
    if number == ICMP:
        return f"-p icmp -m icmp --icmp-type {value}"
    return f"-p ipv6-icmp -m icmp6 --icmpv6-type {value}"


def _number(value: int | None) -> str:
    return "none" if value is None else str(value)
