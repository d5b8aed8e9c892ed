# SPDX-License-Identifier: Apache-2.0
"""Rows of the store as frozen records: what ``get`` and ``list`` return."""

from __future__ import annotations

import ipaddress

from agent.store.records import FixedIpRecord, HostRecord, NetworkRecord, PortRecord, SubnetRecord
from agent.store.writer_session import Row, View, optional

Record = NetworkRecord | SubnetRecord | PortRecord | HostRecord


def network_record(view: View, row: Row) -> NetworkRecord:
    """Return a network and the ids of its subnets."""
    return NetworkRecord(
        id=str(row.uuid),
        name=row.name,
        type=row.type,
        segmentation_id=optional(row.segmentation_id),
        physnet=optional(row.physnet),
        mtu=row.mtu,
        admin_state_up=row.admin_state_up,
        external=row.external,
        dns_domain=row.dns_domain,
        port_security=row.port_security_enabled,
        subnets=tuple(str(subnet.uuid) for subnet in view.subnets(row)),
        project=row.project,
        external_ids=dict(row.external_ids),
    )


def subnet_record(_: View, row: Row) -> SubnetRecord:
    """Return a subnet."""
    return SubnetRecord(
        id=str(row.uuid),
        name=row.name,
        network=str(row.network.uuid),
        network_name=row.network.name,
        cidr=row.cidr,
        gateway=optional(row.gateway_ip),
        dhcp=row.enable_dhcp,
        allocation_pools=tuple(sorted(row.allocation_pools, key=_first_of_pool)),
        ipv6_address_mode=optional(row.ipv6_address_mode),
        ipv6_ra_mode=optional(row.ipv6_ra_mode),
        project=row.project,
        external_ids=dict(row.external_ids),
    )


def port_record(view: View, row: Row) -> PortRecord:
    """Return a port and, if its host has reported one, its status."""
    addresses = sorted(row.fixed_ips.items(), key=lambda pair: address_order(pair[0]))
    status = view.port_status(str(row.uuid), row.host)
    return PortRecord(
        id=str(row.uuid),
        name=row.name,
        network=str(row.network.uuid),
        network_name=row.network.name,
        host=row.host,
        mac_address=row.mac_address,
        fixed_ips=tuple(FixedIpRecord(address, str(subnet.uuid)) for address, subnet in addresses),
        admin_state_up=row.admin_state_up,
        port_security=row.port_security_enabled,
        allowed_address_pairs=tuple(sorted(row.allowed_address_pairs)),
        device_owner=row.device_owner,
        device_id=row.device_id,
        project=row.project,
        external_ids=dict(row.external_ids),
        up=None if status is None else status.up,
        reason="" if status is None else status.reason,
        since=None if status is None else status.since / 1000,
    )


def host_record(view: View, row: Row) -> HostRecord:
    """Return a host and how far its agent is."""
    status = view.host_status(row.name)
    return HostRecord(
        id=str(row.uuid),
        name=row.name,
        tunnel_address=optional(row.tunnel_address),
        encapsulations=tuple(sorted(row.encapsulations)),
        bridge_mappings=dict(row.bridge_mappings),
        external_ids=dict(row.external_ids),
        version="" if status is None else status.version,
        applied_revision=None if status is None else status.applied_revision,
        heartbeat=None if status is None else status.heartbeat / 1000,
    )


def unannounced_host_record(status: Row) -> HostRecord:
    """Return a host of which only its agent's report is known."""
    return HostRecord(
        id="",
        name=status.host,
        tunnel_address=None,
        encapsulations=(),
        bridge_mappings={},
        version=status.version,
        applied_revision=status.applied_revision,
        heartbeat=status.heartbeat / 1000,
    )


def address_order(address: str) -> tuple[int, int]:
    """Return the key that sorts addresses: IPv4 first, then by number."""
    value = ipaddress.ip_address(address)
    return value.version, int(value)


def _first_of_pool(pool: str) -> tuple[int, int]:
    return address_order(pool.partition("-")[0])
