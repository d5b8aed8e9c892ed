# SPDX-License-Identifier: Apache-2.0
"""Would the rules of today let the first packet of a connection pass?  Pure; the same answer as the chains give.

A connection is judged as its first packet was: in its original direction, by the
rules of the port's groups in that direction.  Which way that was is written in its
mark by the chain that let it in; where the mark says nothing, the port's own
addresses tell.  Where these say nothing either (both sides are ours, or none), it is
allowed only if it would be in both directions: what is ended by mistake comes back
with its next packet, through the chains; what is left by mistake stays open.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias, TypeVar

from agent.core.items import GroupRules, ZoneFilter
from agent.core.model import Direction, OwnerId, SecurityGroupRule
from agent.core.naming import CONNMARK_MASK, EGRESS_CONNMARK, INGRESS_CONNMARK
from agent.drivers.conntrack_table import Connection

_Key = TypeVar("_Key", bytes, int)

_ICMP, _UDP, _ICMPV6 = 1, 17, 58
_DHCP = {4: (68, 67), 6: (546, 547)}  # ports of client and server: RFC 2131, RFC 8415


class Addresses:
    """A multiset of addresses and prefixes that tells quickly whether one of them covers an address."""

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self._single: dict[bytes, int] = {}
        self._prefixes: dict[tuple[int, int], dict[int, int]] = {}  # bytes and bits to drop -> what is left -> count
        for address in addresses:
            self.add(address)

    def add(self, address: str) -> None:
        """Add a canonical address or CIDR."""
        self._count(address, 1)

    def remove(self, address: str) -> None:
        """Take away what was added once."""
        self._count(address, -1)

    def cover(self, address: bytes) -> bool:
        """Tell whether *address* (network byte order) is among them."""
        if address in self._single:
            return True
        number = int.from_bytes(address)
        size = len(address)
        return any(number >> drop in found for (of, drop), found in self._prefixes.items() if of == size)

    def __bool__(self) -> bool:
        return bool(self._single or self._prefixes)

    def _count(self, address: str, change: int) -> None:
        base, slash, length = address.partition("/")
        packed = socket.inet_pton(socket.AF_INET6 if ":" in base else socket.AF_INET, base)
        drop = len(packed) * 8 - int(length) if slash else 0
        if not drop:
            _change(self._single, packed, change)
            return
        kind = (len(packed), drop)
        found = self._prefixes.setdefault(kind, {})
        _change(found, int.from_bytes(packed) >> drop, change)
        if not found:
            del self._prefixes[kind]


def _change(counts: dict[_Key, int], key: _Key, change: int) -> None:
    left = counts.get(key, 0) + change
    if left > 0:
        counts[key] = left
    else:
        counts.pop(key, None)


@dataclass(slots=True)
class _Remotes:
    """Whom one sort of rules admits as the other side."""

    anybody: bool = False
    prefixes: Addresses = field(default_factory=Addresses)
    owners: list[OwnerId] = field(default_factory=list)

    def add(self, rule: SecurityGroupRule) -> None:
        if rule.remote_owner is not None:
            self.owners.append(rule.remote_owner)
        elif rule.remote_prefix is None or rule.remote_prefix.endswith("/0"):
            self.anybody = True
        else:
            self.prefixes.add(rule.remote_prefix)

    def admit(self, address: bytes, members: Mapping[OwnerId, Addresses]) -> bool:
        if self.anybody or self.prefixes.cover(address):
            return True
        return any(owner in members and members[owner].cover(address) for owner in self.owners)


@dataclass(slots=True)
class _Services:
    """Rules of one direction, family and protocol, by what they ask of the destination port or ICMP type."""

    every: _Remotes | None = None
    single: dict[int, _Remotes] = field(default_factory=dict)
    ranges: dict[tuple[int, int], _Remotes] = field(default_factory=dict)

    def remotes(self, low: int | None, high: int | None) -> _Remotes:
        """Return where a rule for services from *low* to *high* is to be added."""
        if low is None or high is None:
            self.every = self.every or _Remotes()
            return self.every
        if low == high:
            return self.single.setdefault(low, _Remotes())
        return self.ranges.setdefault((low, high), _Remotes())

    def admit(self, service: int | None, remote: bytes, members: Mapping[OwnerId, Addresses]) -> bool:
        if self.every is not None and self.every.admit(remote, members):
            return True
        if service is None:  # nothing says that it was one of the services that the rules name
            return False
        found = self.single.get(service)
        if found is not None and found.admit(remote, members):
            return True
        return any(
            low <= service <= high and admitted.admit(remote, members) for (low, high), admitted in self.ranges.items()
        )


_ServiceTable: TypeAlias = dict[tuple[bool, int, int | None], _Services]  # by egress, family and protocol


class CompiledRules:
    """The rules of one security group, found by direction, family, protocol and service.

    Compiled when somebody is judged by them: most changes judge nobody.
    """

    def __init__(self, rules: GroupRules) -> None:
        self.owners = frozenset(rule.remote_owner for rule in rules.rules if rule.remote_owner is not None)
        self._rules = rules
        self._services: _ServiceTable | None = None

    def admit(self, connection: Connection, egress: bool, members: Mapping[OwnerId, Addresses]) -> bool:
        """Tell whether a rule lets the first packet of *connection* pass if it was sent that way."""
        if self._services is None:
            self._services = _compile(self._rules)
        remote = connection.destination if egress else connection.source
        for protocol in (connection.protocol, None):
            services = self._services.get((egress, connection.family, protocol))
            if services is not None and services.admit(connection.service, remote, members):
                return True
        return False


def _compile(rules: GroupRules) -> _ServiceTable:
    table: _ServiceTable = {}
    for rule in rules.rules:
        protocol = _protocol(rule)
        services = table.setdefault((rule.direction is Direction.EGRESS, rule.ip_version, protocol), _Services())
        services.remotes(*_service_range(rule, protocol)).add(rule)
    return table


def _protocol(rule: SecurityGroupRule) -> int | None:
    """Return the protocol: ICMP of IPv6 is ICMPv6, as everywhere in the Neutron API."""
    return _ICMPV6 if rule.ip_version == 6 and rule.protocol == _ICMP else rule.protocol


def _service_range(rule: SecurityGroupRule, protocol: int | None) -> tuple[int | None, int | None]:
    """Return the first and last destination port, or ICMP type times 256 plus code, None for any."""
    if rule.port_min is None:
        return None, None
    if protocol not in (_ICMP, _ICMPV6):
        return rule.port_min, rule.port_min if rule.port_max is None else rule.port_max
    first = rule.port_min << 8
    return (first, first | 0xFF) if rule.port_max is None else (first | rule.port_max, first | rule.port_max)


class Way(Enum):
    """Which way the first packet of a connection went, seen from the instance."""

    EGRESS = auto()
    INGRESS = auto()
    UNCLEAR = auto()


class Judge:
    """Judges the connections of zones.  What it is given may change afterwards: it looks at it again each time."""

    def __init__(
        self,
        zones: Mapping[int, ZoneFilter],
        groups: Mapping[str, CompiledRules],
        members: Mapping[OwnerId, Addresses],
    ) -> None:
        self._zones = zones
        self._groups = groups
        self._members = members
        self._own: dict[int, Addresses] = {}

    def allows(self, connection: Connection) -> bool:
        """Tell whether *connection* may go on.  A zone or a group that is not known allows nothing."""
        zone = self._zones.get(connection.zone)
        if zone is None:
            return False
        if zone.open:
            return True
        way = self._way(connection, zone)
        if way is Way.UNCLEAR:
            return self._admits(connection, zone, egress=True) and self._admits(connection, zone, egress=False)
        return self._admits(connection, zone, egress=way is Way.EGRESS)

    def _way(self, connection: Connection, zone: ZoneFilter) -> Way:
        mark = connection.mark & CONNMARK_MASK
        if mark == EGRESS_CONNMARK:
            return Way.EGRESS
        if mark == INGRESS_CONNMARK:
            return Way.INGRESS
        own = self._own.get(zone.zone)
        if own is None:
            own = self._own[zone.zone] = Addresses(zone.addresses)
        sent, received = own.cover(connection.source), own.cover(connection.destination)
        if sent == received:
            return Way.UNCLEAR
        return Way.EGRESS if sent else Way.INGRESS

    def _admits(self, connection: Connection, zone: ZoneFilter, *, egress: bool) -> bool:
        fixed = fixed_verdict(connection, egress)
        if fixed is not None:
            return fixed
        groups = (self._groups.get(group) for group in zone.groups)
        return any(group is not None and group.admit(connection, egress, self._members) for group in groups)


def fixed_verdict(connection: Connection, egress: bool) -> bool | None:
    """Return what the rules that every port has say of a connection, None if nothing.

    An instance asks for its address and hears the answer, and never serves others.
    Neighbor discovery, the other half of these rules, is not tracked by the kernel.
    """
    if connection.protocol != _UDP:
        return None
    client, server = _DHCP[connection.family]
    ports = (connection.source_port, connection.service)
    if ports == (client, server):
        return True if egress else None
    if ports == (server, client):
        return not egress
    return None


def narrows(old: ZoneFilter, new: ZoneFilter) -> bool:
    """Tell whether *new* may allow less than *old*.  (Whose addresses they are changes no rule.)"""
    return not new.open and (old.open or not set(old.groups) <= set(new.groups))


def loses_rules(old: GroupRules, new: GroupRules | None) -> bool:
    """Tell whether a rule of *old* is missing from *new*, whatever its id."""
    kept = {_content(rule) for rule in new.rules} if new is not None else set()
    return any(_content(rule) not in kept for rule in old.rules)


def _content(rule: SecurityGroupRule) -> tuple[object, ...]:
    selector = (rule.protocol, rule.port_min, rule.port_max)
    return (rule.direction, rule.ip_version, selector, rule.remote_prefix, rule.remote_owner)
