# SPDX-License-Identifier: Apache-2.0
"""What a writer of the store may say about an object: only the fields that it gives.

The same values serve the commands (``network set blue --mtu 1400``), a cloud's
driver and the declarative file: a field that is not given is ``UNSET`` and stays as
it is, or gets its default when the object is made.  Nothing is checked here; the
writer checks everything and names object and field (``agent.store.validate``).

Names follow the file format, values are as people write them: addresses and
prefixes as text in any notation that ``ipaddress`` understands, other objects by
name or id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Final, Generic, TypeAlias, TypeVar


class Unset(Enum):
    """The type of ``UNSET``: no value is given (None is a value: "none")."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class NetworkFields:
    """A network.

    ``type`` is local, flat, vlan, vxlan or geneve; ``segmentation_id`` the VNI or
    VLAN id; ``physnet`` the physical network of flat and vlan; ``mtu`` in bytes.
    ``port_security`` is the default for new ports.
    """

    type: str | Unset = UNSET
    segmentation_id: int | Unset | None = UNSET
    physnet: str | Unset | None = UNSET
    mtu: int | Unset = UNSET
    admin_state_up: bool | Unset = UNSET
    external: bool | Unset = UNSET
    dns_domain: str | Unset = UNSET
    port_security: bool | Unset = UNSET
    project: str | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


@dataclass(frozen=True, slots=True)
class SubnetFields:
    """A subnet.

    ``network`` by name or id; ``gateway`` None means none; ``allocation_pools`` are
    ``first-last``.  ``ipv6_mode`` (slaac, dhcpv6-stateful, dhcpv6-stateless) sets both
    ``ipv6_address_mode`` and ``ipv6_ra_mode``, which a cloud may give one by one.
    """

    network: str | Unset = UNSET
    cidr: str | Unset = UNSET
    gateway: str | Unset | None = UNSET
    dhcp: bool | Unset = UNSET
    allocation_pools: tuple[str, ...] | Unset = UNSET
    ipv6_mode: str | Unset | None = UNSET
    ipv6_address_mode: str | Unset | None = UNSET
    ipv6_ra_mode: str | Unset | None = UNSET
    project: str | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


@dataclass(frozen=True, slots=True)
class FixedIpRequest:
    """An address that a port shall have: this one, any one of a subnet, or this one of that subnet."""

    address: str | None = None
    subnet: str | None = None


@dataclass(frozen=True, slots=True)
class PortFields:
    """A port.

    ``host`` is the hypervisor's name, empty for none.  Without ``fixed_ips`` a new
    port gets one IPv4 address, one IPv6 address of a subnet with pools, and one of
    each subnet with automatic addresses; an empty tuple makes it unaddressed.
    ``allowed_address_pairs`` are ``CIDR`` or ``CIDR MAC``.
    """

    network: str | Unset = UNSET
    host: str | Unset = UNSET
    mac_address: str | Unset = UNSET
    fixed_ips: tuple[FixedIpRequest, ...] | Unset = UNSET
    admin_state_up: bool | Unset = UNSET
    port_security: bool | Unset = UNSET
    allowed_address_pairs: tuple[str, ...] | Unset = UNSET
    device_owner: str | Unset = UNSET
    device_id: str | Unset = UNSET
    project: str | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


@dataclass(frozen=True, slots=True)
class HostFields:
    """A hypervisor, for those that do not announce themselves; ``bridge_mappings`` maps physnet to bridge."""

    tunnel_address: str | Unset | None = UNSET
    encapsulations: tuple[str, ...] | Unset = UNSET
    bridge_mappings: Mapping[str, str] | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


Fields: TypeAlias = NetworkFields | SubnetFields | PortFields | HostFields
T = TypeVar("T")
F = TypeVar("F", NetworkFields, SubnetFields, PortFields, HostFields)


@dataclass(frozen=True, slots=True)
class Entry(Generic[F]):
    """One object of a file: its name, the fields given, and the line (from 1) where it stands, for errors."""

    name: str
    fields: F
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A declarative file, in the order in which it is written."""

    networks: tuple[Entry[NetworkFields], ...] = ()
    subnets: tuple[Entry[SubnetFields], ...] = ()
    ports: tuple[Entry[PortFields], ...] = ()
    hosts: tuple[Entry[HostFields], ...] = ()


def given(values: Fields) -> dict[str, object]:
    """Return the fields that are given, by name."""
    pairs = ((f.name, getattr(values, f.name)) for f in fields(values))
    return {name: value for name, value in pairs if value is not UNSET}


def or_default(value: T | Unset, default: T) -> T:
    """Return *value* if it is given, else *default*."""
    return default if isinstance(value, Unset) else value
