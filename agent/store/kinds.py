# SPDX-License-Identifier: Apache-2.0
"""Which columns an agent reads, and the kinds of things that it freezes rows to.

A table has one kind, but for ``Port``: its rows are this host's own ports, or those of
routers, which no host has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.core.model import HostName
from agent.store import filter_rows, router_rows, rows, service_rows
from agent.store.service_rows import Doubts

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Global": ("generation", "revision"),
    "Network": ("name", "type", "segmentation_id", "physnet", "mtu", "admin_state_up", "dns_domain"),
    "Subnet": (
        "name", "network", "cidr", "gateway_ip", "enable_dhcp", "ipv6_address_mode", "ipv6_ra_mode",
        "server_address", "dns_nameservers", "host_routes", "address_scope",
    ),
    "Port": (
        "name", "network", "mac_address", "fixed_ips", "host", "device_owner", "device_id", "project",
        "admin_state_up", "port_security_enabled", "allowed_address_pairs", "filtered", "security_groups",
        "hostname", "dhcp_options", "metadata",
    ),
    "Router": (
        "name", "project", "admin_state_up", "distributed", "ha", "enable_snat", "external_network", "networks",
        "gateway_hosts", "hosts", "routes",
    ),
    "Floating_IP": (
        "floating_ip_address", "floating_network", "mac_address", "router", "port", "fixed_ip_address",
        "port_network", "host",
    ),
    "Port_Forwarding": (
        "router", "protocol", "external_ip_address", "external_port_min", "external_port_max", "port",
        "internal_ip_address", "internal_port_min", "internal_port_max",
    ),
    "Metadata_Service": (
        "url", "secret_file", "ca_file", "client_cert_file", "client_key_file", "insecure", "timeout",
    ),
    "Security_Group": ("name", "stateful", "log", "log_rate", "log_burst"),
    "Security_Group_Rule": (
        "group", "direction", "ethertype", "protocol", "port_range_min", "port_range_max", "remote_ip_prefix",
        "remote_group", "remote_address_group",
    ),
    "Address_Group": ("name",),
    "Address_Chunk": ("owner", "chunk", "addresses"),
    "Endpoint": ("network", "mac", "addresses", "host"),
    "Host": ("name", "tunnel_address", "encapsulations", "bridge_mappings", "drain"),
    "Host_Status": ("host", "version", "generation", "applied_revision", "heartbeat"),
    "Port_Status": ("port", "host", "up", "reason", "since"),
    "Router_Status": ("router", "host", "active", "ready", "reason", "since"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """Rows of *table* that are frozen alike.

    ``freeze`` takes a row, what it was frozen to before, and a list that takes what of it
    is left out.  ``column`` names the row in problems.  ``whose`` gives the object that a
    row which makes no sense is a problem of, None for itself.
    """

    table: str
    freeze: Callable[[Any, Any, Doubts], Any]
    column: str = "name"
    whose: Callable[[Any], str] | None = None


KINDS: Mapping[str, Kind] = {
    "Network": Kind("Network", lambda row, _, doubts: service_rows.network(row, doubts)),
    "Subnet": Kind("Subnet", lambda row, _, doubts: service_rows.subnet(row, doubts)),
    "Port": Kind("Port", lambda row, _, doubts: service_rows.port(row, doubts)),
    "Metadata_Service": Kind("Metadata_Service", lambda row, _, doubts: service_rows.metadata_service(row, doubts)),
    "Endpoint": Kind("Endpoint", lambda row, *_: rows.endpoint(row)),
    "Host": Kind("Host", lambda row, *_: rows.host(row)),
    "Security_Group": Kind("Security_Group", lambda row, *_: filter_rows.security_group(row)),
    "Security_Group_Rule": Kind(
        "Security_Group_Rule",
        lambda row, *_: filter_rows.rule(row),
        whose=lambda row: f"security_group:{rows.one(row, 'group')}",
    ),
    "Address_Group": Kind("Address_Group", lambda row, *_: filter_rows.address_group(row)),
    "Address_Chunk": Kind("Address_Chunk", lambda row, before, _: filter_rows.address_chunk(row, before)),
    "Router": Kind("Router", lambda row, _, doubts: router_rows.router(row, doubts)),
    "Router_Port": Kind(
        "Port", lambda row, *_: router_rows.router_port(row), whose=lambda row: f"router:{rows.one(row, 'device_id')}"
    ),
    "Floating_IP": Kind("Floating_IP", lambda row, *_: router_rows.floating_ip(row), column="floating_ip_address"),
    "Port_Forwarding": Kind("Port_Forwarding", lambda row, *_: router_rows.port_forwarding(row)),
}
OF_TABLE: Mapping[str, tuple[str, ...]] = {
    table: tuple(name for name, kind in KINDS.items() if kind.table == table) for table in COLUMNS
}


def kind_of(table: str, row: Any, host: HostName) -> str:
    """Return the kind of a row of *table*, as *host* sees it."""
    if table != "Port":
        return table
    own = rows.one(row, "host") == host and not router_rows.is_router_port(row)
    return "Port" if own else "Router_Port"
