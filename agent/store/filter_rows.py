# SPDX-License-Identifier: Apache-2.0
"""Rows of security groups, rules and address lists to frozen nouns, one row at a time.

The rules are those of the Neutron API.  A rule that makes no sense is left out as a
whole: it allows nothing.  Of a list of addresses only what makes no sense is.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from agent.core.model import (
    AddressChunk,
    AddressOwner,
    Direction,
    OwnerId,
    OwnerKind,
    SecurityGroup,
    SecurityGroupId,
    SecurityGroupRule,
)
from agent.store import rows
from agent.store.rows import RowError, many, one, optional, shared

PROTOCOLS_WITH_PORTS = frozenset((6, 17, 33, 132, 136))  # TCP, UDP, DCCP, SCTP, UDP-Lite
ICMP_PROTOCOLS = frozenset((socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6))
_VERSIONS = {"IPv4": 4, "IPv6": 6}


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A rule and the group that it is of."""

    group: SecurityGroupId
    rule: SecurityGroupRule


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """Some addresses, and what was found there that is none."""

    chunk: AddressChunk
    not_addresses: tuple[str, ...] = ()


def security_group(row: Any) -> SecurityGroup:
    """Freeze a Security_Group row; its rules have rows of their own."""
    log = many(row, "log")
    return SecurityGroup(
        id=SecurityGroupId(str(row.uuid)),
        name=one(row, "name"),
        stateful=one(row, "stateful"),
        log_accepted="accept" in log,
        log_dropped="drop" in log,
        log_rate=one(row, "log_rate"),
        log_burst=one(row, "log_burst"),
    )


def address_group(row: Any) -> AddressOwner:
    """Freeze an Address_Group row; its addresses have rows of their own."""
    return AddressOwner(OwnerId(str(row.uuid)), OwnerKind.ADDRESS_GROUP, one(row, "name"))


def rule(row: Any) -> RuleRow:
    """Freeze a Security_Group_Rule row."""
    direction, ethertype = one(row, "direction"), one(row, "ethertype")
    if direction not in tuple(Direction):
        raise RowError("direction", f"direction {direction} is neither ingress nor egress")
    version = _VERSIONS.get(ethertype)
    if version is None:
        raise RowError("ethertype", f"ethertype {ethertype} is neither IPv4 nor IPv6")
    protocol = _protocol(optional(row, "protocol"), version)
    first, last = optional(row, "port_range_min"), optional(row, "port_range_max")
    _check_ports(protocol, first, last)
    prefix = optional(row, "remote_ip_prefix")
    group, addresses = optional(row, "remote_group"), optional(row, "remote_address_group")
    if sum(remote is not None for remote in (prefix, group, addresses)) > 1:
        raise RowError("remote_ip_prefix", "more than one of remote prefix, remote group and remote address group")
    owner = group if group is not None else addresses
    frozen = SecurityGroupRule(
        id=str(row.uuid),
        direction=Direction(direction),
        ip_version=version,
        protocol=protocol,
        port_min=first,
        port_max=last,
        remote_prefix=None if prefix is None else _prefix(prefix, version),
        remote_owner=None if owner is None else OwnerId(shared(owner)),
    )
    return RuleRow(SecurityGroupId(shared(one(row, "group"))), frozen)


def address_chunk(row: Any, before: ChunkRow | None) -> ChunkRow:
    """Freeze an Address_Chunk row; only what is not in *before*, as it was last time, is looked at closely."""
    known = before.chunk.addresses if before is not None else frozenset()
    found, strange = set(), []
    for atom in row._data["addresses"].values:  # a map: its keys are the addresses
        text = atom.value
        address = text if text in known else _canonical(text)
        if address is None:
            strange.append(text)
        else:
            found.add(address)
    owner, chunk = OwnerId(shared(one(row, "owner"))), one(row, "chunk")
    frozen = AddressChunk(owner, chunk, frozenset(found))
    if before is not None and before.chunk == frozen:
        frozen = before.chunk  # other ports may have come to an address or left it
    return ChunkRow(frozen, tuple(sorted(strange)))


def _protocol(number: int | None, version: int) -> int | None:
    if number is None:
        return None
    if not 0 <= number <= 255:
        raise RowError("protocol", f"protocol {number} is outside 0..255")
    if version == 6 and number == socket.IPPROTO_ICMP:
        return socket.IPPROTO_ICMPV6  # as in the API: the ICMP of its family
    if version == 4 and number == socket.IPPROTO_ICMPV6:
        raise RowError("protocol", "ICMPv6 in a rule for IPv4")
    return number


def _check_ports(protocol: int | None, first: int | None, last: int | None) -> None:
    """Raise RowError unless *protocol* has ports (or ICMP types) like these."""
    if first is None and last is None:
        return
    if protocol in ICMP_PROTOCOLS:
        if first is None:
            raise RowError("port_range_max", f"ICMP code {last} without a type")
        for column, value in (("port_range_min", first), ("port_range_max", last)):
            if value is not None and not 0 <= value <= 255:
                raise RowError(column, f"ICMP type or code {value} is outside 0..255")
    elif protocol not in PROTOCOLS_WITH_PORTS:
        which = "without a protocol" if protocol is None else f"of protocol {protocol}, which has none"
        raise RowError("port_range_min", f"ports {first}..{last} {which}")
    elif first is None or last is None or not 0 <= first <= last <= 65535:
        raise RowError("port_range_min", f"ports {first}..{last} are no range within 0..65535")


def _prefix(text: str, version: int) -> str:
    cidr = rows.prefix("remote_ip_prefix", text)
    if (6 if ":" in cidr else 4) != version:
        raise RowError("remote_ip_prefix", f"{text} in a rule for IPv{version}")
    return cidr


def _canonical(text: str) -> str | None:
    """Return an address without prefix length, else a CIDR; None if *text* is neither."""
    if "%" in text:
        return None  # a zone: ip_network would keep whatever stands behind it
    try:
        if "/" not in text:
            return str(ipaddress.ip_address(text))
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
