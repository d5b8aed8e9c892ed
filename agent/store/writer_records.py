# SPDX-License-Identifier: Apache-2.0
"""Rows of the store as frozen records: what ``get`` and ``list`` return."""

from __future__ import annotations

import ipaddress
import uuid
from dataclasses import replace

from agent.store import writer_members
from agent.store.records import (
    AddressGroupRecord,
    FixedIpRecord,
    HostRecord,
    HostRouteRecord,
    MetadataServiceRecord,
    NetworkRecord,
    PortRecord,
    SecurityGroupRecord,
    SecurityGroupRuleRecord,
    SubnetRecord,
)
from agent.store.records_routers import (
    AddressScopeRecord,
    FloatingIpRecord,
    PortForwardingRecord,
    RouterRecord,
    SubnetPoolRecord,
)
from agent.store.validate_rules import PORT_PROTOCOLS, protocol_name
from agent.store.writer_view import Row, View, label, optional, scalar

Record = (
    NetworkRecord
    | SubnetRecord
    | PortRecord
    | HostRecord
    | SecurityGroupRecord
    | AddressGroupRecord
    | MetadataServiceRecord
    | RouterRecord
    | FloatingIpRecord
    | PortForwardingRecord
    | SubnetPoolRecord
    | AddressScopeRecord
)


_UNKNOWN_VERSION = 9  # of IP, for what is no address: sorts last
_WITH_PORTS = {protocol_name(number) for number in PORT_PROTOCOLS}


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
        server_address=optional(row.server_address),
        subnet_pool=_label(row.subnet_pool),
        address_scope=_label(row.address_scope),
        dns=tuple(server for _, server in sorted(row.dns_nameservers.items())),
        host_routes=tuple(host_route(text) for text in sorted(row.host_routes, key=first_of_route)),
        project=row.project,
        external_ids=dict(row.external_ids),
    )


def _label(rows: list[Row]) -> str | None:
    return label(rows[0]) if rows else None


def port_record(view: View, row: Row) -> PortRecord:
    """Return a port and, if its host has reported one, its status."""
    addresses = sorted(row.fixed_ips.items(), key=lambda pair: address_order(pair[0]))
    status = view.port_status(str(row.uuid), row.host)
    groups = sorted((label(group), str(group.uuid)) for group in row.security_groups)
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
        security_groups=tuple(name for name, _ in groups) if row.filtered else None,
        security_group_ids=tuple(group_id for _, group_id in groups),
        hostname=row.hostname,
        dhcp_options=dict(sorted(row.dhcp_options.items())),
        metadata=dict(sorted(row.metadata.items())),
        project=row.project,
        external_ids=dict(row.external_ids),
        up=None if status is None else status.up,
        reason="" if status is None else status.reason,
        since=None if status is None else status.since / 1000,
    )


def security_group_record(view: View, row: Row) -> SecurityGroupRecord:
    """Return a security group and its rules, in the order of ``rule_order``."""
    rules = (rule_record(view, rule) for rule in view.rules(row))
    return replace(bare_group_record(view, row), rules=tuple(sorted(rules, key=rule_order)))


def bare_group_record(_: View, row: Row) -> SecurityGroupRecord:
    """Return a security group without its rules, which may be many."""
    return SecurityGroupRecord(
        id=str(row.uuid),
        name=row.name,
        project=row.project,
        description=row.description,
        stateful=row.stateful,
        default=bool(row.default_claim),
        log=tuple(sorted(row.log)),
        log_rate=row.log_rate,
        log_burst=row.log_burst,
        external_ids=dict(row.external_ids),
    )


def rule_record(view: View, row: Row) -> SecurityGroupRuleRecord:
    """Return a rule of a security group."""
    group = scalar(row, "group")
    remote_group, remote_addresses = scalar(row, "remote_group"), scalar(row, "remote_address_group")
    return SecurityGroupRuleRecord(
        id=str(row.uuid),
        group=str(group),
        group_name=label_of(view, "Security_Group", group) or "",
        direction=scalar(row, "direction"),
        ethertype=scalar(row, "ethertype"),
        protocol=protocol_name(scalar(row, "protocol")),
        port_range_min=scalar(row, "port_range_min"),
        port_range_max=scalar(row, "port_range_max"),
        remote_ip_prefix=scalar(row, "remote_ip_prefix"),
        remote_group=remote_group and str(remote_group),
        remote_group_name=label_of(view, "Security_Group", remote_group),
        remote_address_group=remote_addresses and str(remote_addresses),
        remote_address_group_name=label_of(view, "Address_Group", remote_addresses),
        description=scalar(row, "description"),
    )


def rule_records(view: View, group_ref: str | None) -> list[SecurityGroupRuleRecord]:
    """Return the rules of one security group, or of all, by group."""
    group = None if group_ref is None else view.find("security_group", group_ref)
    rows = view.rows("Security_Group_Rule") if group is None else view.rules(group)
    return sorted((rule_record(view, row) for row in rows), key=lambda rule: (rule.group_name, rule_order(rule)))


def label_of(view: View, table: str, row_id: uuid.UUID | None) -> str | None:
    """Return how people call the object with this id, None if there is none (or none any more)."""
    row = None if row_id is None else view.row(table, row_id)
    return None if row is None else scalar(row, "name") or str(row_id)


def rule_order(rule: SecurityGroupRuleRecord) -> tuple[str, ...]:
    """Return the key that sorts rules for people: by direction, family, protocol, ports."""
    ports = f"{rule.port_range_min or 0:05}-{rule.port_range_max or 0:05}"
    return rule.direction, rule.ethertype, rule.protocol or "", ports, rule_text(rule), rule.id


def rule_text(rule: SecurityGroupRuleRecord) -> str:
    """Return a rule in words: ``ingress IPv4 tcp 80-81 from security group web``."""
    parts = [rule.direction, rule.ethertype, rule.protocol or "any protocol"]
    if rule.port_range_min is not None:
        low, high = rule.port_range_min, rule.port_range_max
        if rule.protocol in _WITH_PORTS:
            parts.append(str(low) if low == high else f"{low}-{high}")
        else:
            parts.append(f"type {low}" if high is None else f"type {low} code {high}")
    remote = (
        rule.remote_ip_prefix
        or (rule.remote_group_name and f"security group {rule.remote_group_name}")
        or (rule.remote_address_group_name and f"address group {rule.remote_address_group_name}")
    )
    if remote:
        parts += ["from" if rule.direction == "ingress" else "to", remote]
    return " ".join(parts)


def address_group_record(view: View, row: Row) -> AddressGroupRecord:
    """Return an address group."""
    addresses = sorted(writer_members.addresses(view, row), key=prefix_order)
    return replace(bare_address_group_record(view, row), addresses=tuple(addresses))


def bare_address_group_record(_: View, row: Row) -> AddressGroupRecord:
    """Return an address group without its addresses, which may be many."""
    return AddressGroupRecord(
        id=str(row.uuid),
        name=row.name,
        project=row.project,
        description=row.description,
        external_ids=dict(row.external_ids),
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
        drain=row.drain,
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


def find_host_record(view: View, ref: str) -> HostRecord:
    """Return one host, also one that has only reported."""
    status = view.host_status(ref)
    if status is not None and not view.named("host", ref):
        return unannounced_host_record(status)
    return host_record(view, view.find("host", ref))


def host_records(view: View) -> list[HostRecord]:
    """Return all hosts by name, also those that have only reported."""
    rows = view.rows("Host")
    announced = {row.name for row in rows}
    records = [host_record(view, row) for row in rows]
    reported = (status for status in view.rows("Host_Status") if status.host not in announced)
    records += [unannounced_host_record(status) for status in reported]
    return sorted(records, key=lambda record: record.name)


def metadata_service_record(row: Row) -> MetadataServiceRecord:
    """Return the metadata service."""
    return MetadataServiceRecord(
        url=row.url,
        secret_file=row.secret_file,
        ca_file=row.ca_file or None,
        client_cert_file=row.client_cert_file or None,
        client_key_file=row.client_key_file or None,
        insecure=row.insecure,
        timeout=row.timeout,
        external_ids=dict(row.external_ids),
    )


def address_order(address: str) -> tuple[int, int, str]:
    """Return the key that sorts addresses: IPv4 first, then by number, then what is none (see ``prefix_order``)."""
    try:
        value = ipaddress.ip_address(address)
    except ValueError:
        return _UNKNOWN_VERSION, 0, address
    return value.version, int(value), ""


def host_route(text: str) -> HostRouteRecord:
    """Return a route that is kept as ``DESTINATION NEXTHOP``."""
    destination, _, nexthop = text.partition(" ")
    return HostRouteRecord(destination, nexthop)


def first_of_route(text: str) -> tuple[int, int, int, str, str]:
    """Return the key that sorts routes: by destination."""
    destination, _, nexthop = text.partition(" ")
    return (*prefix_order(destination), nexthop)


def _first_of_pool(pool: str) -> tuple[int, int, str]:
    return address_order(pool.partition("-")[0])


def prefix_order(text: str) -> tuple[int, int, int, str]:
    """Return the key that sorts addresses and prefixes: IPv4 first, then by number, wider ones before.

    What is neither, because somebody wrote it past us, comes last: it must be shown to be mended.
    """
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return _UNKNOWN_VERSION, 0, 0, text
    return network.version, int(network.network_address), network.prefixlen, ""
