# SPDX-License-Identifier: Apache-2.0
"""Routers, floating IPs, port forwardings, subnet pools and address scopes, as the writer's calls return them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.store.records import FixedIpRecord, HostRouteRecord, PlainRecord

# In a file what concerns the gateway stands together.
_GATEWAY = {"external_network_name": "network", "gateway_hosts": "hosts", "external_fixed_ips": "fixed_ips"}


@dataclass(frozen=True, slots=True)
class RouterInterfaceRecord(PlainRecord):
    """An address of a router on a subnet; ``port`` is the id of the port that has it."""

    subnet: str
    subnet_name: str
    network: str
    address: str
    mac_address: str
    port: str


@dataclass(frozen=True, slots=True)
class RouterStatusRecord(PlainRecord):
    """What a host says of a router: whether the gateway is active there, and all of the router that should be is.

    ``ready`` is None where an agent of before 1.4 runs; ``since`` is in Unix seconds.
    """

    host: str
    active: bool
    ready: bool | None
    reason: str
    since: float


@dataclass(frozen=True, slots=True)
class RouterRecord(PlainRecord):
    """A router; ``external_network`` is an id, None without a gateway.  Hosts report ``status``."""

    id: str
    name: str
    admin_state_up: bool
    distributed: bool
    ha: bool
    enable_snat: bool
    external_network: str | None
    external_network_name: str | None
    external_fixed_ips: tuple[FixedIpRecord, ...]
    gateway_port: str | None
    gateway_hosts: tuple[str, ...]
    interfaces: tuple[RouterInterfaceRecord, ...]
    routes: tuple[HostRouteRecord, ...]
    project: str = ""
    external_ids: Mapping[str, str] = field(default_factory=dict)
    status: tuple[RouterStatusRecord, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return plain values only, those of the gateway together as in a file."""
        flat = PlainRecord.to_dict(self)
        gateway = {name: flat.pop(column) for column, name in _GATEWAY.items()}
        gateway |= {"network_id": flat.pop("external_network"), "port": flat.pop("gateway_port")}
        return {**flat, "gateway": gateway}


@dataclass(frozen=True, slots=True)
class FloatingIpRecord(PlainRecord):
    """A floating IP; ``network``, ``port`` and ``router`` are ids with the names beside them.

    ``router`` is the one that translates it, ``host`` the port's.
    """

    id: str
    floating_ip_address: str
    network: str
    network_name: str
    mac_address: str
    port: str | None
    port_name: str | None
    fixed_ip: str | None
    router: str | None
    router_name: str | None
    host: str
    project: str = ""
    external_ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What people call it."""
        return self.floating_ip_address


@dataclass(frozen=True, slots=True)
class PortForwardingRecord(PlainRecord):
    """A port forwarding; ``external`` is ``ADDRESS:PORTS``, ``internal`` ``PORT:PORTS`` (the port by its name).

    ``floating_ip`` is an id, None for the gateway's own address.
    """

    id: str
    external: str
    internal: str
    protocol: str
    router: str
    router_name: str
    floating_ip: str | None
    external_ip_address: str
    external_port_min: int
    external_port_max: int
    port: str
    port_name: str
    fixed_ip: str
    internal_port_min: int
    internal_port_max: int
    external_ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.external}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class SubnetPoolRecord(PlainRecord):
    """A subnet pool; ``address_scope`` is a name, or the id of one without; ``subnets`` are ids."""

    id: str
    name: str
    ip_version: int
    prefixes: tuple[str, ...]
    default_prefixlen: int
    min_prefixlen: int
    max_prefixlen: int
    address_scope: str | None
    subnets: tuple[str, ...] = ()
    project: str = ""
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AddressScopeRecord(PlainRecord):
    """An address scope; ``ip_version`` is 4 or 6."""

    id: str
    name: str
    ip_version: int
    project: str = ""
    external_ids: Mapping[str, str] = field(default_factory=dict)
