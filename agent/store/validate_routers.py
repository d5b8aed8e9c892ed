# SPDX-License-Identifier: Apache-2.0
"""Checks of what routers, floating IPs, port forwardings and subnet pools are given; as ``validate`` does them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from agent.store import service_values, validate
from agent.store.document import HostRoute, Unset
from agent.store.validate import Subject
from agent.store.validate_rules import PORT_PROTOCOLS, PROTOCOL_NAMES, PROTOCOLS

LAST_PORT = 65535
_HAVE_PORTS = ", ".join(sorted(PROTOCOL_NAMES[number] for number in PORT_PROTOCOLS))


class PortRange(NamedTuple):
    """Ports of a transport protocol, both ends included."""

    first: int
    last: int

    @property
    def width(self) -> int:
        """How many ports these are."""
        return self.last - self.first + 1


def gateway_hosts(subject: Subject, names: Iterable[str]) -> tuple[str, ...]:
    """Return gateway hosts in the order in which they are to be used, each once."""
    hosts = tuple(validate.host_name(subject, name) for name in names)
    for host in hosts:
        if hosts.count(host) > 1:
            raise subject.error(f"gateway hosts: {host} is given twice")
    return hosts


def routes(subject: Subject, given: Iterable[HostRoute]) -> list[str]:
    """Return the static routes of a router, as the store keeps them."""
    found = []
    for route in given:
        try:
            version = 6 if ":" in route.destination else 4
            found.append(" ".join(service_values.host_route(route.destination, route.nexthop, version)))
        except ValueError as err:
            raise subject.error(f"routes: {err}") from None
    for text in found:
        if found.count(text) > 1:
            raise subject.error(f"routes: {text.replace(' ', ' by way of ')} is given twice")
    return sorted(found)


def ipv4_address(subject: Subject, field: str, text: str) -> str:
    """Return an address to be translated; IPv6 is routed as it is."""
    value = validate.address(subject, field, text)
    if value.version != 4:
        raise subject.error(f"{field} {value}: only IPv4 is translated, IPv6 is routed")
    return str(value)


def external_ports(subject: Subject, text: str) -> tuple[str, PortRange]:
    """Return address and ports of ``ADDRESS:PORT`` or ``ADDRESS:FIRST-LAST``."""
    address, colon, ports = text.rpartition(":")
    if not colon or not address:
        raise subject.error(f"external {text!r} is not ADDRESS:PORT or ADDRESS:FIRST-LAST")
    return ipv4_address(subject, "external address", address), port_range(subject, "external", ports)


def port_range(subject: Subject, field: str, text: str) -> PortRange:
    """Return the range of ``PORT`` or ``FIRST-LAST``."""
    first, dash, last = text.partition("-")
    ends = (first, last if dash else first)
    if not all(end.isascii() and end.isdigit() and len(end) <= 5 for end in ends):
        raise subject.error(f"{field} ports {text!r} are not PORT or FIRST-LAST")
    found = PortRange(int(ends[0]), int(ends[1]))
    if not 1 <= found.first <= found.last <= LAST_PORT:
        raise subject.error(f"{field} ports {text} are no range in 1..{LAST_PORT}")
    return found


def forwarded_protocol(subject: Subject, given: str | int | Unset) -> int:
    """Return the number of a protocol that has ports."""
    if isinstance(given, Unset):
        raise subject.error(f"protocol is required ({_HAVE_PORTS})")
    text = str(given).lower()
    number = PROTOCOLS.get(text, int(text) if text.isascii() and text.isdigit() else -1)
    if number not in PORT_PROTOCOLS:
        raise subject.error(f"protocol {given!r} is not one of {_HAVE_PORTS}")
    return number


def ip_version(subject: Subject, value: int | Unset) -> int:
    """Return the IP version of an address scope."""
    if isinstance(value, Unset):
        raise subject.error("ip_version is required (4 or 6)")
    if isinstance(value, bool) or value not in (4, 6):
        raise subject.error(f"ip_version {value} is neither 4 nor 6")
    return value


def prefixes(subject: Subject, texts: Iterable[str]) -> list[str]:
    """Return the prefixes of a subnet pool, neighbours joined; all must be of one IP version."""
    found = [validate.cidr(subject, text) for text in texts]
    if not found:
        raise subject.error("prefixes are required (10.0.0.0/8, ...)")
    if len({prefix.version for prefix in found}) > 1:
        raise subject.error("prefixes: those of a pool are all of IPv4 or all of IPv6")
    four = [prefix for prefix in found if isinstance(prefix, ipaddress.IPv4Network)]
    six = [prefix for prefix in found if isinstance(prefix, ipaddress.IPv6Network)]
    return [*map(str, ipaddress.collapse_addresses(four)), *map(str, ipaddress.collapse_addresses(six))]


def prefix_lengths(subject: Subject, version: int, default: int, least: int, most: int) -> tuple[int, int, int]:
    """Return default, shortest and longest length of what a subnet pool gives."""
    longest = 32 if version == 4 else 128
    for field, value in (("default_prefixlen", default), ("min_prefixlen", least), ("max_prefixlen", most)):
        if isinstance(value, bool) or not 1 <= value <= longest:
            raise subject.error(f"{field} {value} is outside 1..{longest}")
    if least > most:
        raise subject.error(f"min_prefixlen {least} is more than max_prefixlen {most}")
    if not least <= default <= most:
        raise subject.error(f"default_prefixlen {default} is outside {least}..{most}")
    return default, least, most
