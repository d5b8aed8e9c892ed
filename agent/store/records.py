# SPDX-License-Identifier: Apache-2.0
"""What the store holds, as the writer's ``get`` and ``list`` calls return it, and what a write gives back.

Frozen copies: they do not change when the store does.  ``to_dict`` is what YAML and
JSON output show; its keys are those of the file format wherever that has the thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Generic, TypeVar

from agent.store import metadata_form

R_co = TypeVar("R_co", covariant=True)


def _plain(value: object) -> object:
    if isinstance(value, PlainRecord):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class PlainRecord:
    """What can be shown to programs."""

    def to_dict(self) -> dict[str, object]:
        """Return plain values only: str, int, bool, None, list and dict."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class NetworkRecord(PlainRecord):
    """A network; ``mtu`` in bytes, ``subnets`` are ids."""

    id: str
    name: str
    type: str
    segmentation_id: int | None
    physnet: str | None
    mtu: int
    admin_state_up: bool
    external: bool
    dns_domain: str
    port_security: bool
    subnets: tuple[str, ...] = ()
    project: str = ""
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostRouteRecord(PlainRecord):
    """A route that instances are told."""

    destination: str
    nexthop: str


@dataclass(frozen=True, slots=True)
class SubnetRecord(PlainRecord):
    """A subnet; ``network`` is an id, ``network_name`` its name; pools are ``first-last``.

    ``server_address`` is what DHCP is answered from, None if it is not.  ``subnet_pool`` and
    ``address_scope`` are names, or ids of what has none.
    """

    id: str
    name: str
    network: str
    network_name: str
    cidr: str
    gateway: str | None
    dhcp: bool
    allocation_pools: tuple[str, ...]
    ipv6_address_mode: str | None
    ipv6_ra_mode: str | None
    server_address: str | None = None
    subnet_pool: str | None = None
    address_scope: str | None = None
    dns: tuple[str, ...] = ()
    host_routes: tuple[HostRouteRecord, ...] = ()
    project: str = ""
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FixedIpRecord(PlainRecord):
    """An address of a port and the id of the subnet that it is from."""

    address: str
    subnet: str


@dataclass(frozen=True, slots=True)
class PortRecord(PlainRecord):
    """A port and what the agent of its host says about it.

    ``security_groups`` are names, or ids of what has none; None if the port is not
    filtered.  ``metadata`` is by the keys of ``agent.core.port_metadata``; programs are
    shown it in the form of the file.  ``up`` is None while that agent has said nothing;
    ``reason`` is why it is not up; ``since`` is in Unix seconds.
    """

    id: str
    name: str
    network: str
    network_name: str
    host: str
    mac_address: str
    fixed_ips: tuple[FixedIpRecord, ...]
    admin_state_up: bool
    port_security: bool
    allowed_address_pairs: tuple[str, ...]
    device_owner: str
    device_id: str
    security_groups: tuple[str, ...] | None = None
    security_group_ids: tuple[str, ...] = ()
    hostname: str = ""
    dhcp_options: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    project: str = ""
    external_ids: Mapping[str, str] = field(default_factory=dict)
    up: bool | None = None
    reason: str = ""
    since: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Return plain values only, metadata as in a file."""
        return {**PlainRecord.to_dict(self), "metadata": metadata_form.structured(self.metadata)}


@dataclass(frozen=True, slots=True)
class SecurityGroupRuleRecord(PlainRecord):
    """A rule; ``group``, ``remote_group`` and ``remote_address_group`` are ids, beside them the names.

    ``protocol`` is a name where Neutron has one, else a number as text, None any.  Of
    ICMP the ports are type and code.
    """

    id: str
    group: str
    group_name: str
    direction: str
    ethertype: str
    protocol: str | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str | None = None
    remote_group: str | None = None
    remote_group_name: str | None = None
    remote_address_group: str | None = None
    remote_address_group_name: str | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class SecurityGroupRecord(PlainRecord):
    """A security group and its rules; ``default`` tells that it is its project's default group.

    ``log_rate`` is in packets a second, ``log_burst`` in packets.
    """

    id: str
    name: str
    project: str
    description: str
    stateful: bool
    default: bool
    log: tuple[str, ...]
    log_rate: int
    log_burst: int
    rules: tuple[SecurityGroupRuleRecord, ...] = ()
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AddressGroupRecord(PlainRecord):
    """A list of addresses and prefixes in numerical order, IPv4 first."""

    id: str
    name: str
    project: str
    description: str
    addresses: tuple[str, ...] = ()
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostRecord(PlainRecord):
    """A hypervisor: what it announces and how far it is.

    ``applied_revision`` and ``heartbeat`` (Unix seconds) are None until its agent has
    reported once; ``id`` is empty for a host that has reported but is not announced.
    """

    id: str
    name: str
    tunnel_address: str | None
    encapsulations: tuple[str, ...]
    bridge_mappings: Mapping[str, str]
    drain: bool = False
    external_ids: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    applied_revision: int | None = None
    heartbeat: float | None = None


@dataclass(frozen=True, slots=True)
class MetadataServiceRecord(PlainRecord):
    """The metadata service; ``timeout`` in seconds, files that are not given are None."""

    url: str
    secret_file: str
    ca_file: str | None
    client_cert_file: str | None
    client_key_file: str | None
    insecure: bool
    timeout: float
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FieldChange(PlainRecord):
    """One field of a changed object; for what is not set the value is None."""

    field: str
    old: object
    new: object


@dataclass(frozen=True, slots=True)
class Change(PlainRecord):
    """What a declarative file does to one object; ``verb`` is create, change or delete.

    Of a changed group's rules and addresses the old value is what goes, the new one what comes.
    ``project`` is that of a default security group: all of these have one name.  The
    metadata service has none.
    """

    kind: str
    name: str
    verb: str
    fields: tuple[FieldChange, ...] = ()
    project: str = ""


@dataclass(frozen=True, slots=True)
class Written(Generic[R_co]):
    """What one writing call did.

    ``result`` is the object as written (for a deletion, as it was).  ``revision`` is
    the store's revision with this call in it; a call that changed nothing has the
    present one and ``changed`` False.  ``networks``, ``ports``, ``groups`` (security
    groups) and ``routers`` (ids) are what it touched, or would have, and ``hosts`` those that it
    concerns besides the hosts with ports on these networks or in these groups: what
    ``Writer.wait_applied`` waits for.
    """

    result: R_co
    generation: str
    revision: int
    changed: bool
    networks: frozenset[str] = frozenset()
    ports: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    routers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PortFailure(PlainRecord):
    """A port that its host could not bring up, or whose security groups let less pass than they should, and why."""

    id: str
    name: str
    host: str
    reason: str
    up: bool = False


@dataclass(frozen=True, slots=True)
class RouterFailure(PlainRecord):
    """A router that is not ready on a host, or whose gateway leaves something out there, and why."""

    id: str
    name: str
    host: str
    reason: str
    ready: bool = False


@dataclass(frozen=True, slots=True)
class Applied(PlainRecord):
    """How far the concerned hosts are: those that applied, ports and routers that failed, hosts that did not answer."""

    revision: int
    hosts: tuple[str, ...]
    failures: tuple[PortFailure, ...] = ()
    missing: tuple[str, ...] = ()
    router_failures: tuple[RouterFailure, ...] = ()

    @property
    def exit_status(self) -> int:
        """Return 0 for applied, 3 for applied with failures, 4 when hosts did not answer."""
        return 4 if self.missing else 3 if self.failures or self.router_failures else 0
