# SPDX-License-Identifier: Apache-2.0
"""Rows of the store to frozen nouns, one row at a time, trusting nothing.

Every function takes an IDL row and returns the noun, or raises RowError that names
the column.  The raw data of the row is read (``row._data``), not the attributes:
those build Python objects for referenced rows, which costs ten times as much and
gives an ``Atom`` where the referenced row is outside this host's conditions.  What
only DHCP and metadata are made of is added in ``service_rows``.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from types import MappingProxyType
from typing import Any

from agent.core.errors import Actor
from agent.core.model import (
    AddressPair,
    Endpoint,
    EndpointId,
    FixedIp,
    Host,
    HostName,
    Network,
    NetworkId,
    NetworkType,
    Port,
    PortId,
    SecurityGroupId,
    Subnet,
    SubnetId,
)

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_KNOWN_TYPES = frozenset(NetworkType)
_LARGEST_SEGMENT = {NetworkType.VLAN: 4094, NetworkType.VXLAN: 16777215, NetworkType.GENEVE: 16777215}


class RowError(Exception):
    """A column holds what cannot be served; the text is a sentence without the object's name."""

    def __init__(self, column: str, text: str, actor: Actor = Actor.CLOUD) -> None:
        super().__init__(text)
        self.column = column
        self.actor = actor


def one(row: Any, column: str) -> Any:
    """Return the value of a column that holds exactly one."""
    return next(iter(row._data[column].values)).value


def optional(row: Any, column: str) -> Any:
    """Return the value of a column that holds at most one, None when it is empty."""
    for atom in row._data[column].values:
        return atom.value
    return None


def many(row: Any, column: str) -> list[Any]:
    """Return the values of a set column."""
    return [atom.value for atom in row._data[column].values]


def mapping(row: Any, column: str) -> dict[Any, Any]:
    """Return a map column."""
    return {key.value: value.value for key, value in row._data[column].values.items()}


def shared(value: object) -> str:
    """Return *value* as text, one copy for all rows that say the same: thousands name one network or host."""
    return sys.intern(str(value))


def network(row: Any) -> Network:
    """Freeze a Network row."""
    try:
        kind = NetworkType(one(row, "type"))
    except ValueError:
        text = f"type {one(row, 'type')!s} is not one that this version knows"
        raise RowError("type", text, Actor.OPERATOR) from None
    segment, physnet = optional(row, "segmentation_id"), optional(row, "physnet")
    largest = _LARGEST_SEGMENT.get(kind)
    if largest is not None and (segment is None or not 1 <= segment <= largest):
        raise RowError("segmentation_id", f"segmentation id {segment} is outside 1..{largest}")
    if kind.is_physical and not physnet:
        raise RowError("physnet", f"a {kind} network needs a physical network")
    return Network(
        id=NetworkId(str(row.uuid)),
        name=one(row, "name"),
        type=kind,
        segmentation_id=segment if largest is not None else None,
        physnet=physnet if kind.is_physical else None,
        mtu=one(row, "mtu"),
        admin_state_up=one(row, "admin_state_up"),
    )


def subnet(row: Any) -> Subnet:
    """Freeze a Subnet row."""
    cidr = prefix("cidr", one(row, "cidr"), strict=True)
    gateway = optional(row, "gateway_ip")
    return Subnet(
        id=SubnetId(str(row.uuid)),
        name=one(row, "name"),
        network=NetworkId(shared(one(row, "network"))),
        cidr=cidr,
        gateway=None if gateway is None else canonical_address("gateway_ip", gateway),
        ipv6_address_mode=optional(row, "ipv6_address_mode"),
        ipv6_ra_mode=optional(row, "ipv6_ra_mode"),
        dhcp=one(row, "enable_dhcp"),
        address_scope=shared(optional(row, "address_scope") or ""),
    )


def port(row: Any) -> Port:
    """Freeze a Port row."""
    mac = unicast_mac("mac_address", one(row, "mac_address"))
    groups = tuple(SecurityGroupId(shared(group)) for group in sorted(map(str, many(row, "security_groups"))))
    return Port(
        id=PortId(str(row.uuid)),
        name=one(row, "name"),
        network=NetworkId(shared(one(row, "network"))),
        mac=mac,
        fixed_ips=fixed_ips(row),
        admin_state_up=one(row, "admin_state_up"),
        port_security=one(row, "port_security_enabled"),
        allowed_address_pairs=tuple(_address_pair(text, mac) for text in sorted(many(row, "allowed_address_pairs"))),
        device_owner=one(row, "device_owner"),
        device_id=one(row, "device_id"),
        project=shared(one(row, "project")),
        filtered=one(row, "filtered") or bool(groups),  # a row that says both means the closed one
        security_groups=groups,
    )


def fixed_ips(row: Any) -> tuple[FixedIp, ...]:
    """Return the addresses of a Port row, sorted as text."""
    pairs = mapping(row, "fixed_ips").items()
    found = sorted((canonical_address("fixed_ips", address), shared(owner)) for address, owner in pairs)
    return tuple(FixedIp(address, SubnetId(owner)) for address, owner in found)


def endpoint(row: Any) -> Endpoint:
    """Freeze an Endpoint row."""
    return Endpoint(
        id=EndpointId(str(row.uuid)),
        network=NetworkId(shared(one(row, "network"))),
        mac=unicast_mac("mac", one(row, "mac")),
        addresses=tuple(sorted(canonical_address("addresses", address) for address in many(row, "addresses"))),
        host=HostName(shared(one(row, "host"))),
    )


def host(row: Any) -> Host:
    """Freeze a Host row."""
    address = optional(row, "tunnel_address")
    try:
        tunnel_address = None if address is None else canonical_address("tunnel_address", address)
    except RowError as err:
        raise RowError(err.column, str(err), Actor.OPERATOR) from None
    return Host(
        name=HostName(one(row, "name")),
        tunnel_address=tunnel_address,
        encapsulations=frozenset(NetworkType(kind) for kind in many(row, "encapsulations") if kind in _KNOWN_TYPES),
        bridge_mappings=MappingProxyType(mapping(row, "bridge_mappings")),
        drain=one(row, "drain"),
    )


def unicast_mac(column: str, text: str) -> str:
    """Return a MAC address as all of ours are written; RowError names *column*."""
    mac = text.lower()
    if not _MAC.fullmatch(mac):
        raise RowError(column, f"{text!r} is not a MAC address")
    if int(mac[:2], 16) & 1:
        raise RowError(column, f"{text} is a multicast address; a port needs a unicast MAC address")
    return mac


def canonical_address(column: str, text: str) -> str:
    """Return an IP address in its one form; RowError names *column*."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as err:
        raise RowError(column, f"{err}") from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise RowError(column, f"{text} has a zone; an address of the store has none")
    return str(address)


def prefix(column: str, text: str, *, strict: bool = False) -> str:
    """Return a canonical CIDR; *strict* refuses bits beyond the prefix length."""
    if "%" in text:  # ip_network would keep whatever stands behind it
        raise RowError(column, f"{text!r} has a zone; a prefix of the store has none")
    try:
        return str(ipaddress.ip_network(text, strict=strict))
    except ValueError as err:
        raise RowError(column, f"{err}") from None


def _address_pair(text: str, port_mac: str) -> AddressPair:
    cidr, *mac = text.split()
    if len(mac) > 1:
        raise RowError("allowed_address_pairs", f"{text!r} is not 'CIDR' or 'CIDR MAC'")
    return AddressPair(
        prefix("allowed_address_pairs", cidr), unicast_mac("allowed_address_pairs", mac[0]) if mac else port_mac
    )
