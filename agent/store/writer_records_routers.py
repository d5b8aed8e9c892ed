# SPDX-License-Identifier: Apache-2.0
"""Rows of routers and what belongs to them as frozen records: what ``get`` and ``list`` return."""

from __future__ import annotations

from agent.store import writer_legs
from agent.store.records import FixedIpRecord
from agent.store.records_routers import (
    AddressScopeRecord,
    FloatingIpRecord,
    PortForwardingRecord,
    RouterInterfaceRecord,
    RouterRecord,
    RouterStatusRecord,
    SubnetPoolRecord,
)
from agent.store.validate_rules import protocol_name
from agent.store.writer_records import address_order, first_of_route, host_route, label_of, prefix_order
from agent.store.writer_view import Row, View, label, optional, scalar


def router_record(view: View, row: Row) -> RouterRecord:
    """Return a router, its interfaces by subnet, and what hosts say of it."""
    gateway = writer_legs.gateway(view, row)
    addresses = [] if gateway is None else sorted(gateway.fixed_ips.items(), key=lambda pair: address_order(pair[0]))
    interfaces = [record for leg in writer_legs.interfaces(view, row) for record in _interface_records(leg)]
    return RouterRecord(
        id=str(row.uuid),
        name=row.name,
        admin_state_up=row.admin_state_up,
        distributed=row.distributed,
        ha=row.ha,
        enable_snat=row.enable_snat,
        external_network=None if gateway is None else str(gateway.network.uuid),
        external_network_name=None if gateway is None else label(gateway.network),
        external_fixed_ips=tuple(FixedIpRecord(address, str(subnet.uuid)) for address, subnet in addresses),
        gateway_port=None if gateway is None else str(gateway.uuid),
        gateway_hosts=tuple(host for _, host in sorted(row.gateway_hosts.items())),
        interfaces=tuple(sorted(interfaces, key=lambda record: (record.subnet_name, address_order(record.address)))),
        routes=tuple(host_route(text) for text in sorted(row.routes, key=first_of_route)),
        project=row.project,
        external_ids=dict(row.external_ids),
        status=_status(view, row),
    )


def _interface_records(leg: Row) -> list[RouterInterfaceRecord]:
    return [
        RouterInterfaceRecord(
            subnet=str(subnet.uuid),
            subnet_name=label(subnet),
            network=str(leg.network.uuid),
            address=address,
            mac_address=leg.mac_address,
            port=str(leg.uuid),
        )
        for address, subnet in leg.fixed_ips.items()
    ]


def _status(view: View, row: Row) -> tuple[RouterStatusRecord, ...]:
    """Return what hosts say, gateway hosts first and in their order."""
    places = {host: place for place, host in row.gateway_hosts.items()}
    reports = sorted(view.router_status(str(row.uuid)), key=lambda s: (places.get(s.host, len(places)), s.host))
    return tuple(RouterStatusRecord(s.host, s.active, optional(s.ready), s.reason, s.since / 1000) for s in reports)


def floating_ip_record(view: View, row: Row) -> FloatingIpRecord:
    """Return a floating IP."""
    port, router = scalar(row, "port"), scalar(row, "router")  # which may be deleted in this very call
    return FloatingIpRecord(
        id=str(row.uuid),
        floating_ip_address=row.floating_ip_address,
        network=str(row.floating_network.uuid),
        network_name=row.floating_network.name,
        mac_address=row.mac_address,
        port=None if port is None else str(port),
        port_name=label_of(view, "Port", port),
        fixed_ip=optional(row.fixed_ip_address),
        router=None if router is None else str(router),
        router_name=label_of(view, "Router", router),
        host=row.host,
        project=row.project,
        external_ids=dict(row.external_ids),
    )


def port_forwarding_record(view: View, row: Row) -> PortForwardingRecord:
    """Return a port forwarding."""
    floating_ip, router, port = scalar(row, "floating_ip"), scalar(row, "router"), scalar(row, "port")
    external, _slash, protocol = label(row).rpartition("/")
    first, last = row.internal_port_min, row.internal_port_max
    return PortForwardingRecord(
        id=str(row.uuid),
        external=external,
        internal=f"{label_of(view, 'Port', port) or port}:{first}" + (f"-{last}" if last > first else ""),
        protocol=protocol_name(row.protocol) or protocol,
        router=str(router),
        router_name=label_of(view, "Router", router) or str(router),
        floating_ip=None if floating_ip is None else str(floating_ip),
        external_ip_address=row.external_ip_address,
        external_port_min=row.external_port_min,
        external_port_max=row.external_port_max,
        port=str(port),
        port_name=label_of(view, "Port", port) or str(port),
        fixed_ip=row.internal_ip_address,
        internal_port_min=first,
        internal_port_max=last,
        external_ids=dict(row.external_ids),
    )


def subnet_pool_record(view: View, row: Row) -> SubnetPoolRecord:
    """Return a subnet pool and the ids of its subnets."""
    scope = optional(row.address_scope)
    prefixes = tuple(sorted(row.prefixes, key=prefix_order))
    subnets = sorted(view.referring("Subnet", "subnet_pool", row.uuid), key=lambda subnet: prefix_order(subnet.cidr))
    return SubnetPoolRecord(
        id=str(row.uuid),
        name=row.name,
        ip_version=6 if any(":" in prefix for prefix in prefixes) else 4,
        prefixes=prefixes,
        default_prefixlen=row.default_prefixlen,
        min_prefixlen=row.min_prefixlen,
        max_prefixlen=row.max_prefixlen,
        address_scope=None if scope is None else label(scope),
        subnets=tuple(str(subnet.uuid) for subnet in subnets),
        project=row.project,
        external_ids=dict(row.external_ids),
    )


def address_scope_record(_: View, row: Row) -> AddressScopeRecord:
    """Return an address scope."""
    return AddressScopeRecord(str(row.uuid), row.name, row.ip_version, row.project, dict(row.external_ids))
