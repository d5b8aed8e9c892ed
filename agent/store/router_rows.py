# SPDX-License-Identifier: Apache-2.0
"""Rows of routers, their ports, floating IPs and port forwardings to frozen values, one row at a time.

What can be told from one row is judged here: a value of a router that makes no sense is
left out and told as a ``Doubt``, any other row that makes none is left out as a whole.
What several rows must agree on (addresses within their subnets, say) is judged where they
are put together, in ``gathered_routers`` and ``gathered_translations``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agent.core.model import (
    FloatingIp,
    FloatingIpId,
    HostName,
    NetworkId,
    PortForwarding,
    PortForwardingId,
    PortId,
    Router,
    RouterId,
    RouterInterface,
)
from agent.store import rows, service_values
from agent.store.filter_rows import PROTOCOLS_WITH_PORTS
from agent.store.rows import RowError, many, mapping, one, optional, shared
from agent.store.service_rows import Doubt, Doubts

INTERFACE, GATEWAY = "network:router_interface", "network:router_gateway"  # Port.device_owner
LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class RouterRow:
    """What a router's own row says.

    ``head`` has neither interfaces nor gateway, which have rows of their own.
    ``networks`` are those of its interfaces, without that of its gateway.
    """

    head: Router
    networks: frozenset[NetworkId]
    external_network: NetworkId | None

    @property
    def id(self) -> RouterId:
        """The router's id."""
        return self.head.id

    @property
    def name(self) -> str:
        """The router's name."""
        return self.head.name


@dataclass(frozen=True, slots=True)
class RouterPort:
    """An interface or the gateway of a router, and which router that is."""

    router: RouterId
    name: str
    is_gateway: bool
    admin_state_up: bool
    interface: RouterInterface


@dataclass(frozen=True, slots=True)
class ForeignPort:
    """A port that is neither this host's nor a router's, although it names a router as its device."""

    id: PortId


@dataclass(frozen=True, slots=True)
class FloatingIpRow:
    """A floating IP and the network that its address is of; ``floating`` is None while it stands for no port."""

    id: FloatingIpId
    name: str  # its address: it has no other
    network: NetworkId
    floating: FloatingIp | None


def is_router_port(row: Any) -> bool:
    """Tell whether a Port row is a router's, whatever host it names."""
    return one(row, "device_owner") in (INTERFACE, GATEWAY)


def router(row: Any, doubts: Doubts) -> RouterRow:
    """Freeze a Router row."""
    external = optional(row, "external_network")
    head = Router(
        id=RouterId(str(row.uuid)),
        name=one(row, "name"),
        project=shared(one(row, "project")),
        admin_state_up=one(row, "admin_state_up"),
        distributed=one(row, "distributed"),
        ha=one(row, "ha"),
        enable_snat=one(row, "enable_snat"),
        gateway_hosts=_gateway_hosts(row, doubts),
        routes=tuple(sorted(_routes(many(row, "routes"), doubts))),
    )
    return RouterRow(
        head=head,
        networks=frozenset(NetworkId(shared(net)) for net in many(row, "networks") if net != external),
        external_network=None if external is None else NetworkId(shared(external)),
    )


def _gateway_hosts(row: Any, doubts: Doubts) -> tuple[HostName, ...]:
    named = [HostName(shared(host)) for _, host in sorted(mapping(row, "gateway_hosts").items())]
    hosts = tuple(dict.fromkeys(named))
    for host in hosts:
        if named.count(host) > 1:
            doubts.append(Doubt("", "gateway_hosts", f"host {host} is named twice; its first place counts"))
    if set(many(row, "hosts")) != set(hosts):
        doubts.append(Doubt("", "hosts", "does not name the gateway hosts: those left out do not know of the router"))
    return hosts


def _routes(texts: Iterable[str], doubts: Doubts) -> set[tuple[str, str]]:
    found = set()
    for text in sorted(texts):
        try:
            found.add(service_values.parse_host_route(text, 6 if ":" in text else 4))
        except ValueError as err:
            doubts.append(Doubt("", "routes", f"route {err}; left out"))
    return found


def router_port(row: Any) -> RouterPort | ForeignPort:
    """Freeze a Port row that is none of this host's."""
    if not is_router_port(row):
        return ForeignPort(PortId(str(row.uuid)))
    return RouterPort(
        router=RouterId(shared(one(row, "device_id"))),
        name=one(row, "name"),
        is_gateway=one(row, "device_owner") == GATEWAY,
        admin_state_up=one(row, "admin_state_up"),
        interface=RouterInterface(
            port=PortId(str(row.uuid)),
            network=NetworkId(shared(one(row, "network"))),
            mac=rows.unicast_mac("mac_address", one(row, "mac_address")),
            fixed_ips=rows.fixed_ips(row),
        ),
    )


def floating_ip(row: Any) -> FloatingIpRow:
    """Freeze a Floating_IP row."""
    address = _ipv4("floating_ip_address", one(row, "floating_ip_address"))
    key = FloatingIpId(str(row.uuid))
    network = NetworkId(shared(one(row, "floating_network")))
    found, port = optional(row, "router"), optional(row, "port")
    if found is None or port is None:
        return FloatingIpRow(key, address, network, None)
    fixed, port_network = optional(row, "fixed_ip_address"), optional(row, "port_network")
    if fixed is None:
        raise RowError("fixed_ip_address", "it has a port, but not the port's address that it stands for")
    if port_network is None:
        raise RowError("port_network", "it has a port, but not the port's network")
    floating = FloatingIp(
        id=key,
        router=RouterId(shared(found)),
        address=address,
        mac=rows.unicast_mac("mac_address", one(row, "mac_address")),
        port=PortId(str(port)),
        fixed_address=_ipv4("fixed_ip_address", fixed),
        network=NetworkId(shared(port_network)),
        host=HostName(shared(one(row, "host"))),
    )
    return FloatingIpRow(key, address, network, floating)


def port_forwarding(row: Any) -> PortForwarding:
    """Freeze a Port_Forwarding row."""
    protocol = one(row, "protocol")
    if protocol not in PROTOCOLS_WITH_PORTS:
        raise RowError("protocol", f"protocol {protocol} has no ports")
    external, internal = _ports(row, "external_port"), _ports(row, "internal_port")
    if external[1] - external[0] != internal[1] - internal[0]:
        text = f"ports {external[0]}-{external[1]} are not as many as {internal[0]}-{internal[1]}"
        raise RowError("internal_port_max", text)
    return PortForwarding(
        id=PortForwardingId(str(row.uuid)),
        router=RouterId(shared(one(row, "router"))),
        protocol=protocol,
        external_address=_ipv4("external_ip_address", one(row, "external_ip_address")),
        external_min=external[0],
        external_max=external[1],
        port=PortId(str(one(row, "port"))),
        internal_address=_ipv4("internal_ip_address", one(row, "internal_ip_address")),
        internal_min=internal[0],
        internal_max=internal[1],
    )


def _ports(row: Any, column: str) -> tuple[int, int]:
    first, last = one(row, f"{column}_min"), one(row, f"{column}_max")
    if not 1 <= first <= last <= LARGEST_PORT:
        raise RowError(f"{column}_min", f"ports {first}-{last} are no range within 1..{LARGEST_PORT}")
    return first, last


def _ipv4(column: str, text: str) -> str:
    address = ipaddress.ip_address(rows.canonical_address(column, text))
    if address.version != 4 or address.is_multicast or address.is_unspecified or address.is_loopback:
        raise RowError(column, f"{text} is not an IPv4 address that can stand for another")
    return str(address)
