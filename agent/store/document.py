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
from dataclasses import dataclass, field, fields
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
class HostRoute:
    """A route that instances are told: a prefix and the address of the router that leads there."""

    destination: str
    nexthop: str


@dataclass(frozen=True, slots=True)
class SubnetFields:
    """A subnet.

    ``network`` by name or id; ``gateway`` None means none; ``allocation_pools`` are
    ``first-last``.  ``ipv6_mode`` (slaac, dhcpv6-stateful, dhcpv6-stateless) sets both
    ``ipv6_address_mode`` and ``ipv6_ra_mode``, which a cloud may give one by one.
    ``server_address`` is what DHCP is answered from, chosen if it is not given.  ``dns``
    are the addresses of name servers in the order in which they are to be asked.
    With ``subnet_pool`` (by name or id) a prefix of ``prefixlen`` bits is taken from there, or
    ``cidr`` if that is given.
    """

    network: str | Unset = UNSET
    cidr: str | Unset = UNSET
    subnet_pool: str | Unset = UNSET
    prefixlen: int | Unset = UNSET
    gateway: str | Unset | None = UNSET
    dhcp: bool | Unset = UNSET
    allocation_pools: tuple[str, ...] | Unset = UNSET
    ipv6_mode: str | Unset | None = UNSET
    ipv6_address_mode: str | Unset | None = UNSET
    ipv6_ra_mode: str | Unset | None = UNSET
    server_address: str | Unset = UNSET
    dns: tuple[str, ...] | Unset = UNSET
    host_routes: tuple[HostRoute, ...] | Unset = UNSET
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
    ``allowed_address_pairs`` are ``CIDR`` or ``CIDR MAC``.  ``security_groups`` by name or
    id filter what passes, an empty tuple lets only pass what every instance needs, None
    means no filter.  A new port that does not say gets its project's default group, as
    in Neutron; one without a project, one without port security and one of the network
    itself (``device_owner`` begins with ``network:``) are not filtered.

    ``hostname`` is what the instance is to call itself, empty for a name made of its
    address.  ``dhcp_options`` by dnsmasq's names or numbers, with ``option6:`` in front for
    DHCPv6 (``agent.dhcp.v4_options``, ``v6_options``); an empty value takes an option away.
    ``metadata`` by the keys of ``agent.core.port_metadata``; empty leaves them to the
    metadata service, or to what follows from the port.
    """

    network: str | Unset = UNSET
    host: str | Unset = UNSET
    mac_address: str | Unset = UNSET
    fixed_ips: tuple[FixedIpRequest, ...] | Unset = UNSET
    admin_state_up: bool | Unset = UNSET
    port_security: bool | Unset = UNSET
    allowed_address_pairs: tuple[str, ...] | Unset = UNSET
    security_groups: tuple[str, ...] | Unset | None = UNSET
    device_owner: str | Unset = UNSET
    device_id: str | Unset = UNSET
    hostname: str | Unset = UNSET
    dhcp_options: Mapping[str, str] | Unset = UNSET
    metadata: Mapping[str, str] | Unset = UNSET
    project: str | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


@dataclass(frozen=True, slots=True)
class RuleFields:
    """A rule of a security group, as people write it; the writer makes one row or more of it.

    ``direction`` is ingress or egress.  ``ethertype`` is IPv4 or IPv6; None means both,
    as far as the rest fits.  ``protocol`` is a name (Neutron's) or number, None any.
    ``ports`` are destination ports, ``80``, ``8000-8100`` or several with commas.  The
    other side is ``remote_ip_prefix``, ``remote_group`` or ``remote_address_group`` (by name
    or id), at most one of them.  ``line`` is where it stands in a file, for errors.
    """

    direction: str | None = None
    ethertype: str | None = None
    protocol: str | int | None = None
    ports: str | int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    remote_ip_prefix: str | None = None
    remote_group: str | None = None
    remote_address_group: str | None = None
    description: str = ""
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class SecurityGroupFields:
    """A security group; ``rules`` are all its rules.

    A group that is made without ``rules`` gets those that let everything out, as in
    Neutron.  ``log`` holds accept, drop or both; ``log_rate`` in packets a second.
    """

    rules: tuple[RuleFields, ...] | Unset = UNSET
    stateful: bool | Unset = UNSET
    description: str | Unset = UNSET
    log: tuple[str, ...] | Unset = UNSET
    log_rate: int | Unset = UNSET
    log_burst: int | Unset = UNSET
    project: str | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


@dataclass(frozen=True, slots=True)
class AddressGroupFields:
    """A list of addresses and prefixes that rules refer to."""

    addresses: tuple[str, ...] | Unset = UNSET
    description: str | Unset = UNSET
    project: str | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


@dataclass(frozen=True, slots=True)
class HostFields:
    """A hypervisor, for those that do not announce themselves; ``bridge_mappings`` maps physnet to bridge.

    ``drain`` asks its agent to hand over what gateways it has.
    """

    tunnel_address: str | Unset | None = UNSET
    encapsulations: tuple[str, ...] | Unset = UNSET
    bridge_mappings: Mapping[str, str] | Unset = UNSET
    drain: bool | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


@dataclass(frozen=True, slots=True)
class MetadataServiceFields:
    """The metadata service of all instances that have no metadata of their own: Nova's metadata API.

    ``url`` is its base, http or https, without a path.  The files are absolute paths on
    each host; ``secret_file`` holds the secret that requests are signed with, ``ca_file`` (or
    the system's authorities) and the client's certificate and key are for https.
    ``insecure`` means not to look at Nova's certificate.  ``timeout`` in seconds.
    """

    url: str | Unset = UNSET
    secret_file: str | Unset = UNSET
    ca_file: str | Unset | None = UNSET
    client_cert_file: str | Unset | None = UNSET
    client_key_file: str | Unset | None = UNSET
    insecure: bool | Unset = UNSET
    timeout: float | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


@dataclass(frozen=True, slots=True)
class RouterFields:
    """A router.

    ``external_network`` is where its gateway is (None: it has none), ``external_fixed_ips`` what addresses
    the gateway has there, one of each IP version if they are not given.  ``gateway_hosts`` are in the
    order in which they are to be used.  ``interfaces`` are all its interfaces: of each a
    subnet, and an address if it is not to be the subnet's gateway.  Several ``routes`` to one destination
    share what is sent there.
    """

    external_network: str | Unset | None = UNSET
    external_fixed_ips: tuple[FixedIpRequest, ...] | Unset = UNSET
    gateway_hosts: tuple[str, ...] | Unset = UNSET
    interfaces: tuple[FixedIpRequest, ...] | Unset = UNSET
    routes: tuple[HostRoute, ...] | Unset = UNSET
    admin_state_up: bool | Unset = UNSET
    distributed: bool | Unset = UNSET
    ha: bool | Unset = UNSET
    enable_snat: bool | Unset = UNSET
    project: str | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


@dataclass(frozen=True, slots=True)
class FloatingIpFields:
    """A floating IP.

    ``network`` is the external network that it is of, by default the one with a subnet around
    its address.  ``port`` (None: none) is what it stands for, ``fixed_ip`` which of the
    port's addresses if it has several.
    """

    network: str | Unset = UNSET
    port: str | Unset | None = UNSET
    fixed_ip: str | Unset = UNSET
    mac_address: str | Unset = UNSET
    project: str | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


@dataclass(frozen=True, slots=True)
class PortForwardingFields:
    """Where ports of an external address lead; which ones is what a forwarding is called.

    ``internal`` is ``PORT:NUMBER`` or ``PORT:FIRST-LAST``; ``fixed_ip`` one of the port's
    addresses if it has several.
    """

    protocol: str | int | Unset = UNSET
    internal: str | Unset = UNSET
    fixed_ip: str | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


@dataclass(frozen=True, slots=True)
class SubnetPoolFields:
    """Prefixes from which subnets take theirs; lengths are those of the prefixes that are taken."""

    prefixes: tuple[str, ...] | Unset = UNSET
    default_prefixlen: int | Unset = UNSET
    min_prefixlen: int | Unset = UNSET
    max_prefixlen: int | Unset = UNSET
    address_scope: str | Unset | None = UNSET
    project: str | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


@dataclass(frozen=True, slots=True)
class AddressScopeFields:
    """Within an address scope no address is there twice, and none is translated."""

    ip_version: int | Unset = UNSET
    project: str | Unset = UNSET
    external_ids: Mapping[str, str] | Unset = UNSET


Fields: TypeAlias = (
    NetworkFields
    | SubnetFields
    | PortFields
    | HostFields
    | SecurityGroupFields
    | AddressGroupFields
    | MetadataServiceFields
    | RouterFields
    | FloatingIpFields
    | PortForwardingFields
    | SubnetPoolFields
    | AddressScopeFields
)
T = TypeVar("T")
F = TypeVar(
    "F",
    NetworkFields,
    SubnetFields,
    PortFields,
    HostFields,
    SecurityGroupFields,
    AddressGroupFields,
    MetadataServiceFields,
    RouterFields,
    FloatingIpFields,
    PortForwardingFields,
    SubnetPoolFields,
    AddressScopeFields,
)


@dataclass(frozen=True, slots=True)
class Entry(Generic[F]):
    """One object of a file: its name, the fields given, and the line (from 1) where it stands, for errors."""

    name: str
    fields: F
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A declarative file, in the order in which it is written; of the metadata service there is at most one."""

    networks: tuple[Entry[NetworkFields], ...] = ()
    subnets: tuple[Entry[SubnetFields], ...] = ()
    ports: tuple[Entry[PortFields], ...] = ()
    hosts: tuple[Entry[HostFields], ...] = ()
    security_groups: tuple[Entry[SecurityGroupFields], ...] = ()
    address_groups: tuple[Entry[AddressGroupFields], ...] = ()
    metadata_service: Entry[MetadataServiceFields] | None = None
    address_scopes: tuple[Entry[AddressScopeFields], ...] = ()
    subnet_pools: tuple[Entry[SubnetPoolFields], ...] = ()
    routers: tuple[Entry[RouterFields], ...] = ()
    floating_ips: tuple[Entry[FloatingIpFields], ...] = ()
    port_forwardings: tuple[Entry[PortForwardingFields], ...] = ()


def given(values: Fields) -> dict[str, object]:
    """Return the fields that are given, by name."""
    pairs = ((f.name, getattr(values, f.name)) for f in fields(values))
    return {name: value for name, value in pairs if value is not UNSET}


def or_default(value: T | Unset, default: T) -> T:
    """Return *value* if it is given, else *default*."""
    return default if isinstance(value, Unset) else value
