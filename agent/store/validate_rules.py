# SPDX-License-Identifier: Apache-2.0
"""Checks of security group rules: what a rule as people write it comes to, or InputError naming group and rule.

Values and their meaning are those of the Neutron API (Networking API v2.0, "Security
group rules").  Other than there a rule may leave its ethertype open and may list ports:
it then stands for several of Neutron's rules.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from agent.core.errors import InputError
from agent.core.model import Direction
from agent.store.document import RuleFields
from agent.store.ipam import IPNetwork
from agent.store.validate import Subject

IPV4, IPV6 = "IPv4", "IPv6"
ETHERTYPES = (IPV4, IPV6)
ICMP, ICMPV6 = 1, 58
# Neutron's names (neutron_lib.constants.IP_PROTOCOL_MAP); icmpv6 is a second name of ipv6-icmp.
PROTOCOLS: Final[Mapping[str, int]] = {
    "ah": 51,
    "dccp": 33,
    "egp": 8,
    "esp": 50,
    "gre": 47,
    "icmp": ICMP,
    "icmpv6": ICMPV6,
    "igmp": 2,
    "ipip": 4,
    "ipv6-encap": 41,
    "ipv6-frag": 44,
    "ipv6-icmp": ICMPV6,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "ipv6-route": 43,
    "ospf": 89,
    "pgm": 113,
    "rsvp": 46,
    "sctp": 132,
    "tcp": 6,
    "udp": 17,
    "udplite": 136,
    "vrrp": 112,
}
PROTOCOL_NAMES: Final[Mapping[int, str]] = {number: name for name, number in PROTOCOLS.items() if name != "icmpv6"}
PORT_PROTOCOLS = frozenset({6, 17, 33, 132, 136})
_IPV6_ONLY = frozenset({41, 43, 44, 58, 59, 60})
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class RuleSubject(Subject):
    """A rule that an error is about: ``name`` is its group's.

    ``position`` counts from 1, None for a rule that is given alone; ``field`` is optional.
    """

    position: int | None = None
    field: str = ""

    def error(self, text: str) -> InputError:
        """Return the error *text* about this rule."""
        which = "" if self.position is None else f", rule {self.position}"
        field = f"{self.field}: " if self.field else ""
        return Subject(self.kind, self.name + which, self.line).error(field + text)


class RuleShape(NamedTuple):
    """One rule as the store has it, but for the groups that it refers to.

    ``protocol`` is a number, None any; the ports are ICMP type and code for ICMP;
    ``remote_ip_prefix`` is canonical.
    """

    direction: str
    ethertype: str
    protocol: int | None
    port_range_min: int | None
    port_range_max: int | None
    remote_ip_prefix: str | None


def protocol_name(number: int | None) -> str | None:
    """Return how the API calls a protocol: its name, or its number as text."""
    return None if number is None else PROTOCOL_NAMES.get(number, str(number))


def shapes(subject: RuleSubject, rule: RuleFields) -> tuple[RuleShape, ...]:
    """Return what *rule* stands for: a shape for each family and port range."""
    if rule.direction is None:
        raise subject.error(f"direction is required ({', '.join(Direction)})")
    if rule.direction not in tuple(Direction):
        raise subject.error(f"direction {rule.direction!r} is not one of {', '.join(Direction)}")
    remotes = [
        field
        for field in ("remote_ip_prefix", "remote_group", "remote_address_group")
        if getattr(rule, field) is not None
    ]
    if len(remotes) > 1:
        raise subject.error(f"{' and '.join(remotes)} are given: at most one of them says who the other side is")
    prefix = None if rule.remote_ip_prefix is None else _prefix(subject, rule.remote_ip_prefix)
    number = _protocol(subject, rule.protocol)
    families = _families(subject, rule, number, prefix)
    ranges = tuple(_ranges(subject, rule, number))
    text = None if prefix is None else str(prefix)
    return tuple(
        RuleShape(rule.direction, family, _in_family(number, family), low, high, text)
        for family in families
        for low, high in ranges
    )


def _prefix(subject: RuleSubject, text: str) -> IPNetwork:
    # Host bits are masked, as Neutron does (normalized_cidr).
    try:
        if "%" in text:
            raise ValueError("a zone means nothing here")
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise subject.error(f"remote_ip_prefix {text!r} is not an address with prefix length") from None


def _protocol(subject: RuleSubject, value: str | int | None) -> int | None:
    """Return a protocol's number; None for any, which the API also calls ``any`` and 0."""
    if value is None:
        return None
    text = str(value).strip().lower()
    if text == "any" and isinstance(value, str):
        return None
    if text in PROTOCOLS:
        return PROTOCOLS[text]
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and int(text) <= 255):
        raise subject.error(f"protocol {value!r} is not one of {', '.join(PROTOCOLS)}, any, or a number in 0..255")
    return int(text) or None


def _families(
    subject: RuleSubject, rule: RuleFields, protocol: int | None, prefix: IPNetwork | None
) -> tuple[str, ...]:
    """Return the ethertypes that the rule is for: the given one, else all that fit."""
    fit = list(ETHERTYPES)
    if prefix is not None:
        fit = [f"IPv{prefix.version}"]
    if rule.ethertype is not None:
        given = next((e for e in ETHERTYPES if e.lower() == str(rule.ethertype).lower()), None)
        if given is None:
            raise subject.error(f"ethertype {rule.ethertype!r} is not one of {', '.join(ETHERTYPES)}")
        if given not in fit:
            raise subject.error(f"remote_ip_prefix {prefix} is {fit[0]}, but the rule's ethertype is {given}")
        fit = [given]
    if protocol in _IPV6_ONLY and IPV6 not in fit:
        why = f"remote_ip_prefix {prefix} is IPv4" if rule.ethertype is None else "the rule's ethertype is IPv4"
        raise subject.error(f"protocol {rule.protocol} is of IPv6 only, but {why}")
    if protocol in _IPV6_ONLY:
        return (IPV6,)
    if protocol == ICMP and len(fit) > 1:
        return (IPV4,)
    return tuple(fit)


def _in_family(protocol: int | None, family: str) -> int | None:
    """Return the protocol number in *family*: ICMP of an IPv6 rule is ICMPv6, as in Neutron."""
    return ICMPV6 if protocol == ICMP and family == IPV6 else protocol


def _ranges(subject: RuleSubject, rule: RuleFields, protocol: int | None) -> Iterator[tuple[int | None, int | None]]:
    named = f"protocol {protocol_name(protocol)}"
    if protocol in (ICMP, ICMPV6):
        if rule.ports is not None:
            raise subject.error(f"ports do not go with {named}: it has icmp_type and icmp_code")
        if rule.icmp_type is None and rule.icmp_code is not None:
            raise subject.error(f"icmp_code {rule.icmp_code} needs an icmp_type")
        yield _octet(subject, "icmp_type", rule.icmp_type), _octet(subject, "icmp_code", rule.icmp_code)
        return
    if rule.icmp_type is not None or rule.icmp_code is not None:
        what = "icmp_type and icmp_code"
        raise subject.error(f"{what} need protocol icmp" if protocol is None else f"{what} do not go with {named}")
    if rule.ports is None:
        yield None, None
        return
    if protocol not in PORT_PROTOCOLS:
        names = ", ".join(sorted(PROTOCOL_NAMES[number] for number in PORT_PROTOCOLS))
        why = "need a protocol" if protocol is None else f"do not go with {named}"
        raise subject.error(f"ports {why}: only {names} have them")
    yield from _ports(subject, rule.ports)


def _octet(subject: RuleSubject, field: str, value: int | None) -> int | None:
    if value is not None and (isinstance(value, bool) or not 0 <= value <= 255):
        raise subject.error(f"{field} {value} is outside 0..255")
    return value


def _ports(subject: RuleSubject, ports: str | int) -> list[tuple[int, int]]:
    """Return the inclusive ranges of ``80,443,8000-8100`` in order."""
    found = []
    for part in str(ports).split(","):
        first, dash, last = (text.strip() for text in part.partition("-"))
        low = _port(subject, ports, first)
        high = _port(subject, ports, last) if dash else low
        if low > high:
            raise subject.error(f"ports {part.strip()} is reversed: did you mean {high}-{low}?")
        found.append((low, high))
    found.sort()
    for (low, high), (following, _) in itertools.pairwise(found):
        if following <= high:
            raise subject.error(f"ports {ports} overlap at {following} ({low}-{high})")
    return found


def _port(subject: RuleSubject, ports: str | int, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or isinstance(ports, bool):
        raise subject.error(f"ports {ports!r} is not a list of ports and ranges such as 80,443,8000-8100")
    if not 1 <= int(text) <= _LAST_PORT:
        raise subject.error(f"port {text} is outside 1..{_LAST_PORT}")
    return int(text)
