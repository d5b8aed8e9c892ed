# SPDX-License-Identifier: Apache-2.0
"""Nouns of the store, frozen: what one host must know to plan its dataplane.

Names and meaning follow the Neutron API.  Addresses are canonical strings (as
``str(ipaddress.ip_address(...))`` prints them), MAC addresses are lower case
with colons; whoever builds these values has validated them.  An object whose
store row did not change is the *same* Python object in the next snapshot: that
identity is what lets the planners skip unchanged work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NewType

from agent.core.errors import Problem

NetworkId = NewType("NetworkId", str)
SubnetId = NewType("SubnetId", str)
PortId = NewType("PortId", str)
EndpointId = NewType("EndpointId", str)
SecurityGroupId = NewType("SecurityGroupId", str)
RouterId = NewType("RouterId", str)
FloatingIpId = NewType("FloatingIpId", str)
PortForwardingId = NewType("PortForwardingId", str)
OwnerId = NewType("OwnerId", str)  # of a list of addresses: see AddressOwner
HostName = NewType("HostName", str)


class NetworkType(StrEnum):
    """How a network's packets travel between hosts."""

    LOCAL = "local"
    FLAT = "flat"
    VLAN = "vlan"
    VXLAN = "vxlan"
    GENEVE = "geneve"

    @property
    def is_tunnel(self) -> bool:
        """True for overlays between hosts."""
        return self in (NetworkType.VXLAN, NetworkType.GENEVE)

    @property
    def is_physical(self) -> bool:
        """True where others than the store's ports may live on the segment."""
        return self in (NetworkType.FLAT, NetworkType.VLAN)


@dataclass(frozen=True, slots=True)
class Network:
    """A layer 2 segment.

    ``segmentation_id`` is the VNI (1..16777215) or VLAN id (1..4094); ``physnet``
    is set for flat and vlan; ``mtu`` is the largest IP packet in bytes.
    """

    id: NetworkId
    name: str
    type: NetworkType
    segmentation_id: int | None
    physnet: str | None
    mtu: int
    admin_state_up: bool = True
    dns_domain: str = ""


@dataclass(frozen=True, slots=True)
class Subnet:
    """An address range of a network; ``cidr`` is canonical, ``gateway`` may be None.

    ``server_address`` is the address in it that DHCP is answered from, None if there is
    none.  ``dns_servers`` are in the order in which they are to be asked, ``host_routes``
    (destination CIDR, next hop) sorted.  Between subnets of one ``address_scope`` (an id,
    empty for none) addresses are never translated.
    """

    id: SubnetId
    name: str
    network: NetworkId
    cidr: str
    gateway: str | None
    ipv6_address_mode: str | None = None
    ipv6_ra_mode: str | None = None
    dhcp: bool = True
    server_address: str | None = None
    dns_servers: tuple[str, ...] = ()
    host_routes: tuple[tuple[str, str], ...] = ()
    address_scope: str = ""


@dataclass(frozen=True, slots=True)
class FixedIp:
    """An address of a port and the subnet that it is from."""

    address: str
    subnet: SubnetId


@dataclass(frozen=True, slots=True)
class AddressPair:
    """An address or prefix (canonical CIDR, ``/32`` or ``/128`` included) that a port may use besides its own."""

    cidr: str
    mac: str


@dataclass(frozen=True, slots=True)
class Port:
    """A port bound to this host.

    ``filtered`` tells that only what its ``security_groups`` (sorted) allow passes;
    without any that is what every instance needs to live (DHCP, neighbor discovery).
    ``device_id`` is the instance's id at whoever made it.  ``hostname`` may be empty.
    ``dhcp_options`` are (name, value), sorted, names as ``agent.dhcp.v4_options`` reads
    them, with ``option6:`` in front for DHCPv6.  ``metadata`` are (key, value), sorted,
    as ``agent.core.port_metadata`` reads them; empty means what follows from the port.
    """

    id: PortId
    name: str
    network: NetworkId
    mac: str
    fixed_ips: tuple[FixedIp, ...]
    admin_state_up: bool = True
    port_security: bool = True
    allowed_address_pairs: tuple[AddressPair, ...] = ()
    device_owner: str = ""
    filtered: bool = False
    security_groups: tuple[SecurityGroupId, ...] = ()
    device_id: str = ""
    project: str = ""
    hostname: str = ""
    dhcp_options: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class MetadataService:
    """Where metadata of instances come from that have none in the store: Nova's metadata API.

    ``url`` is its base (``http`` or ``https``), without a path.  The files are paths on
    each host; what is in them never is in the store.  ``secret_file`` holds the shared
    secret (Nova's ``metadata_proxy_shared_secret``); ``ca_file`` empty means the system's
    authorities; ``client_cert_file`` and ``client_key_file`` are both given or neither.
    ``timeout`` is in seconds, for connecting and for each answer.
    """

    url: str
    secret_file: str = ""
    ca_file: str = ""
    client_cert_file: str = ""
    client_key_file: str = ""
    insecure: bool = False
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a host knows of any port on its networks, its own included."""

    id: EndpointId
    network: NetworkId
    mac: str
    addresses: tuple[str, ...]
    host: HostName


class Direction(StrEnum):
    """Seen from the instance: ingress is what it receives, egress what it sends."""

    INGRESS = "ingress"
    EGRESS = "egress"


@dataclass(frozen=True, slots=True)
class SecurityGroupRule:
    """What a security group allows; there are no rules that deny.

    ``ip_version`` is 4 or 6.  ``protocol`` is the IP protocol number, None for any.
    ``port_min`` and ``port_max`` are destination ports (both ends included), or the
    ICMP type and code of protocols 1 and 58; None for any.  The other side's address
    is in ``remote_prefix`` (canonical CIDR) or among the addresses of ``remote_owner``;
    at most one of the two is given, neither means any.
    """

    id: str
    direction: Direction
    ip_version: int
    protocol: int | None = None
    port_min: int | None = None
    port_max: int | None = None
    remote_prefix: str | None = None
    remote_owner: OwnerId | None = None


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """Rules, sorted by id.  Of a stateless group answers need rules of their own.

    ``log_accepted`` and ``log_dropped`` tell whether packets are logged, at most
    ``log_rate`` a second after the first ``log_burst``.
    """

    id: SecurityGroupId
    name: str
    stateful: bool = True
    rules: tuple[SecurityGroupRule, ...] = ()
    log_accepted: bool = False
    log_dropped: bool = False
    log_rate: int = 100
    log_burst: int = 25


class OwnerKind(StrEnum):
    """What has a list of addresses: a security group those of its members, an address group its own."""

    SECURITY_GROUP = "security_group"
    ADDRESS_GROUP = "address_group"


@dataclass(frozen=True, slots=True)
class AddressOwner:
    """What the addresses that a rule refers to belong to; for people only, nothing is planned from it."""

    id: OwnerId
    kind: OwnerKind
    name: str


@dataclass(frozen=True, slots=True)
class AddressChunk:
    """Some of the addresses of *owner*, chosen by hash, so that one more changes one small row.

    ``addresses`` are canonical: a single address without prefix length, else a CIDR.
    ``chunk`` tells one from the other; nothing else follows from it.
    """

    owner: OwnerId
    chunk: str
    addresses: frozenset[str]


@dataclass(frozen=True, slots=True)
class Host:
    """A hypervisor, as it announces itself.

    ``tunnel_address`` is where others send encapsulated packets; ``bridge_mappings``
    maps a physical network to the operator's bridge on that host.  ``drain`` asks it to
    hand over to other hosts what gateways it has.
    """

    name: HostName
    tunnel_address: str | None = None
    encapsulations: frozenset[NetworkType] = frozenset()
    bridge_mappings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    drain: bool = False


@dataclass(frozen=True, slots=True)
class RouterInterface:
    """A port of a router, the same on every host that has the router."""

    port: PortId
    network: NetworkId
    mac: str
    fixed_ips: tuple[FixedIp, ...]


@dataclass(frozen=True, slots=True)
class Router:
    """What joins networks, and leads out of them by its ``gateway``.

    ``gateway_hosts`` are in the order in which they are to be used, each once; of a router
    that is not ``ha`` only the first is.  ``interfaces`` are sorted by port.  ``routes``
    are (destination CIDR, next hop), sorted; several with one destination share what is
    sent there.  ``enable_snat`` translates what leaves by the gateway and has no floating IP.
    """

    id: RouterId
    name: str
    project: str = ""
    admin_state_up: bool = True
    distributed: bool = False
    ha: bool = True
    enable_snat: bool = True
    gateway_hosts: tuple[HostName, ...] = ()
    gateway: RouterInterface | None = None
    interfaces: tuple[RouterInterface, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class FloatingIp:
    """An external address (IPv4) that stands for an address of a port.

    ``mac`` is what the address has outside while it leaves from the port's own host.
    ``network`` and ``host`` are those of the port; ``host`` is empty while it has none.
    """

    id: FloatingIpId
    router: RouterId
    address: str
    mac: str
    port: PortId
    fixed_address: str
    network: NetworkId
    host: HostName


@dataclass(frozen=True, slots=True)
class PortForwarding:
    """Ports of an external address (IPv4) that stand for ports of an address of a port.

    ``protocol`` is the IP protocol number.  Both ranges include their ends and are equally wide.
    """

    id: PortForwardingId
    router: RouterId
    protocol: int
    external_address: str
    external_min: int
    external_max: int
    port: PortId
    internal_address: str
    internal_min: int
    internal_max: int


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    """Everything that one host needs, as of one revision of the store.

    ``in_sync`` is False only for the empty snapshot before the first data: nothing
    is written or deleted because of it.  ``stale`` marks a snapshot that came from
    the disk and not from the live store.  ``problems`` are rows that could not be
    understood; the objects concerned are absent here and fail closed.
    """

    host: HostName
    generation: str = ""
    revision: int = 0
    in_sync: bool = False
    stale: bool = False
    networks: Mapping[NetworkId, Network] = field(default_factory=dict)
    subnets: Mapping[NetworkId, tuple[Subnet, ...]] = field(default_factory=dict)
    ports: Mapping[PortId, Port] = field(default_factory=dict)
    endpoints: Mapping[NetworkId, Mapping[EndpointId, Endpoint]] = field(default_factory=dict)
    hosts: Mapping[HostName, Host] = field(default_factory=dict)
    security_groups: Mapping[SecurityGroupId, SecurityGroup] = field(default_factory=dict)
    address_chunks: Mapping[OwnerId, Mapping[str, AddressChunk]] = field(default_factory=dict)
    owners: Mapping[OwnerId, AddressOwner] = field(default_factory=dict)
    metadata_service: MetadataService | None = None
    routers: Mapping[RouterId, Router] = field(default_factory=dict)
    floating_ips: Mapping[RouterId, Mapping[FloatingIpId, FloatingIp]] = field(default_factory=dict)
    port_forwardings: Mapping[RouterId, Mapping[PortForwardingId, PortForwarding]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class PluggedInterface:
    """An Open vSwitch interface on ``br-int`` that says which port it is (``external_ids:iface-id``).

    ``ofport`` is its OpenFlow port number, None until Open vSwitch has given one;
    ``error`` is what Open vSwitch says is wrong with it.
    """

    name: str
    port: PortId
    ofport: int | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class BfdSession:
    """What Open vSwitch says of the BFD session (RFC 5880) of one of its ports (``Interface:bfd_status``).

    ``up`` tells that the peer is heard in both directions, ``forwarding`` also that it
    calls its path usable.  ``flaps`` counts how often that has changed.
    """

    up: bool
    forwarding: bool
    flaps: int = 0


@dataclass(frozen=True, slots=True)
class SwitchView:
    """What the planners need to know of the local switch.

    ``interfaces`` by port id; ``ofports`` of all other ports of ``br-int`` by name
    (tunnels, patch ports, legs of routers); ``bridges`` that exist.  ``sessions`` are the BFD
    sessions by name of the port.  ``uplinks`` tells for each bridge that has physical ports whether
    one of them has a carrier.  Unchanged interfaces are the
    same objects from one view to the next.  ``connected`` is False before the first
    data has come: then nothing may be planned.
    """

    connected: bool = False
    bridges: frozenset[str] = frozenset()
    interfaces: Mapping[PortId, PluggedInterface] = field(default_factory=dict)
    ofports: Mapping[str, int] = field(default_factory=dict)
    sessions: Mapping[str, BfdSession] = field(default_factory=dict)
    uplinks: Mapping[str, bool] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
