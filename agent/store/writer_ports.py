# SPDX-License-Identifier: Apache-2.0
"""Ports: making, changing, moving and deleting them inside a session.

Each port has one ``Endpoint``: what all other hosts read of it.  It is written in
the same transaction as the port, so that no host ever sees one without the other.
"""

from __future__ import annotations

import uuid
from collections import defaultdict

from agent.store import (
    validate,
    validate_services,
    writer_floating_ips,
    writer_forwardings,
    writer_groups,
    writer_legs,
    writer_members,
)
from agent.store.document import PortFields, Unset, or_default
from agent.store.validate import Subject
from agent.store.writer_addresses import (
    GATEWAY_OWNER,
    default_addresses,
    moved_addresses,
    set_addresses,
    wished_addresses,
)
from agent.store.writer_session import Column, Session, given_columns, keep_our_ids, refuse_changes
from agent.store.writer_view import Row, label, scalar


def create(session: Session, subject: Subject, name: str, fields: PortFields, port_id: uuid.UUID) -> Row:
    """Insert a port and its endpoint: network is required, MAC address and addresses are chosen if not given."""
    if isinstance(fields.network, Unset):
        raise subject.error("network is required")
    network = session.find("network", fields.network, subject)
    mac = _mac(session, subject, network, fields)
    owner = or_default(fields.device_owner, "")
    secured = or_default(fields.port_security, network.port_security_enabled)
    if isinstance(fields.fixed_ips, Unset):
        addresses = default_addresses(session, subject, network, mac, owner)
    else:
        addresses = wished_addresses(session, subject, network, fields.fixed_ips, mac, owner, {})
    host = _host(subject, or_default(fields.host, ""))
    project = or_default(fields.project, "")
    if isinstance(fields.security_groups, Unset):
        groups = writer_groups.for_new_port(session, project, owner, secured)
    else:
        groups = _groups(session, subject, fields.security_groups, project, secured)
    row = session.insert(
        "Port",
        port_id,
        name=name,
        name_claim=[],
        network=network,
        mac_address=mac,
        fixed_ips={},
        ip_allocations=[],
        endpoint=[session.insert("Endpoint", network=network, mac=mac, addresses=[], host=host)],
        host=host,
        device_owner=owner,
        device_id=or_default(fields.device_id, ""),
        project=project,
        admin_state_up=or_default(fields.admin_state_up, True),
        port_security_enabled=secured,
        allowed_address_pairs=_pairs(subject, or_default(fields.allowed_address_pairs, ()), secured),
        filtered=groups is not None,
        security_groups=groups or [],
        hostname=validate_services.hostname(subject, or_default(fields.hostname, "")),
        dhcp_options=validate_services.dhcp_options(subject, or_default(fields.dhcp_options, {})),
        metadata=validate_services.metadata(subject, or_default(fields.metadata, {})),
        external_ids=validate.external_ids(subject, or_default(fields.external_ids, {})),
    )
    writer_members.note(session, row)
    set_addresses(session, subject, row, addresses)
    _note_router(session, row)
    # A subnet with automatic addresses that comes meanwhile would not know this port.
    session.guard("Subnet", network)
    _touch(session, row)
    return row


def _mac(session: Session, subject: Subject, network: Row, fields: PortFields) -> str:
    if isinstance(fields.mac_address, Unset):
        return session.new_mac()
    mac = validate.mac(subject, fields.mac_address)
    session.check_later(lambda: _check_mac(session, subject, network, mac))
    return mac


def _check_mac(session: Session, subject: Subject, network: Row, mac: str) -> None:
    """Raise InputError if two ports of *network* have *mac* when all is written."""
    owners = session.once(("macs", network.uuid), lambda: _by_mac(session.ports(network))).get(mac, ())
    if len(owners) > 1:
        others = ", ".join(sorted(label(port) for port in owners if label(port) != subject.name))
        raise subject.error(f"mac_address {mac} is in use on network {label(network)} by port {others}")
    for row in session.referring("Floating_IP", "floating_network", network.uuid):
        if scalar(row, "mac_address") == mac:
            raise subject.error(f"mac_address {mac} is in use on network {label(network)} by floating ip {label(row)}")


def _by_mac(ports: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for port in ports:
        found[scalar(port, "mac_address")].append(port)
    return found


def _host(subject: Subject, host: str) -> str:
    return validate.host_name(subject, host) if host else ""


def _pairs(subject: Subject, pairs: tuple[str, ...], secured: bool) -> list[str]:
    if pairs and not secured:
        raise subject.error("allowed address pairs mean nothing without port security: remove them or switch it on")
    return sorted({validate.address_pair(subject, pair) for pair in pairs})


def _groups(
    session: Session, subject: Subject, refs: tuple[str, ...] | None, project: str, secured: bool
) -> list[Row] | None:
    """Return the groups of a port, None if it is not filtered: without port security it never is."""
    if refs is None or not (refs or secured):
        return None
    if not secured:
        raise subject.error("security groups mean nothing without port security: remove them or switch it on")
    return writer_groups.of_port(session, subject, refs, project)


def _note_router(session: Session, row: Row) -> None:
    router = writer_legs.router_of(session, row)
    if router is not None:
        writer_legs.note(session, router)


def _touch(session: Session, row: Row) -> None:
    session.touch(row.network)
    _touch_own(session, row)


def _touch_own(session: Session, row: Row) -> None:
    session.touched_ports.add(str(row.uuid))
    if row.host:
        session.touched_hosts.add(row.host)


def _touch_left(session: Session, host: str) -> None:
    """Note the host that a port leaves, unless it is none: nobody there has anything to take away."""
    if session.named("host", host):
        session.touched_hosts.add(host)


def change(session: Session, subject: Subject, row: Row, fields: PortFields) -> None:
    """Write the given fields; a new host moves the port, a new MAC address takes automatic addresses along."""
    if not isinstance(fields.network, Unset) and session.find("network", fields.network, subject) != row.network:
        refuse_changes(subject, {"network": (fields.network, label(row.network))})
    before = row.host
    writer_members.note(session, row)
    _note_router(session, row)
    changed = _change_addresses(session, subject, row, fields)
    secured = or_default(fields.port_security, row.port_security_enabled)
    columns: dict[str, Column] = {}
    if not isinstance(fields.host, Unset):
        columns["host"] = _host(subject, fields.host)
    if not (isinstance(fields.allowed_address_pairs, Unset) and isinstance(fields.port_security, Unset)):
        pairs = or_default(fields.allowed_address_pairs, tuple(row.allowed_address_pairs))
        columns["allowed_address_pairs"] = _pairs(subject, pairs, secured)
        row.verify("port_security_enabled")
        row.verify("allowed_address_pairs")
    if not (isinstance(fields.security_groups, Unset) and isinstance(fields.port_security, Unset)):
        columns |= _group_columns(session, subject, row, fields, secured)
    columns |= _told_columns(subject, fields)
    if not isinstance(fields.external_ids, Unset):
        columns["external_ids"] = keep_our_ids(row, validate.external_ids(subject, fields.external_ids))
    columns |= given_columns(
        admin_state_up=fields.admin_state_up,
        port_security_enabled=fields.port_security,
        device_owner=fields.device_owner,
        device_id=fields.device_id,
        project=fields.project,
    )
    moved = session.update(row, **columns)
    if changed or "host" in columns:
        writer_floating_ips.follow(session, row)
        writer_forwardings.follow(session, row)
    changed = moved or changed
    _note_router(session, row)
    for endpoint in row.endpoint:
        if session.update(endpoint, mac=row.mac_address, host=row.host):
            session.touch(row.network)  # the other hosts of the network see endpoints; nothing else of a port
            changed = True
    # Its own host is concerned even if nothing changed: an earlier write may not have been applied yet.
    _touch_own(session, row)
    if changed and before != row.host:
        _touch_left(session, before)


def _told_columns(subject: Subject, fields: PortFields) -> dict[str, Column]:
    """Return the given columns of what the instance is told by DHCP and metadata."""
    columns: dict[str, Column] = {}
    if not isinstance(fields.hostname, Unset):
        columns["hostname"] = validate_services.hostname(subject, fields.hostname)
    if not isinstance(fields.dhcp_options, Unset):
        columns["dhcp_options"] = validate_services.dhcp_options(subject, fields.dhcp_options)
    if not isinstance(fields.metadata, Unset):
        columns["metadata"] = validate_services.metadata(subject, fields.metadata)
    return columns


def _group_columns(
    session: Session, subject: Subject, row: Row, fields: PortFields, secured: bool
) -> dict[str, Column]:
    refs: tuple[str, ...] | None
    if isinstance(fields.security_groups, Unset):
        refs = tuple(str(group.uuid) for group in row.security_groups) if row.filtered else None
    else:
        refs = fields.security_groups
    groups = _groups(session, subject, refs, or_default(fields.project, row.project), secured)
    session.verify(row, "filtered", "port_security_enabled")
    return {"filtered": groups is not None, "security_groups": groups or []}


def _change_addresses(session: Session, subject: Subject, row: Row, fields: PortFields) -> bool:
    """Write MAC address and fixed ips; the endpoint's MAC address is the caller's."""
    mac = row.mac_address
    addresses = row.fixed_ips
    row.verify("mac_address")  # automatic addresses follow from it
    if not isinstance(fields.mac_address, Unset):
        mac = validate.mac(subject, fields.mac_address)
        if mac != row.mac_address:
            session.check_later(lambda: _check_mac(session, subject, row.network, mac))
            addresses = moved_addresses(addresses, row.mac_address, mac)
    if not isinstance(fields.fixed_ips, Unset):
        owner = or_default(fields.device_owner, row.device_owner)
        addresses = wished_addresses(session, subject, row.network, fields.fixed_ips, mac, owner, addresses)
    changed = session.update(row, mac_address=mac)
    if addresses != row.fixed_ips:
        set_addresses(session, subject, row, addresses)
        changed = True
    return changed


def delete(session: Session, subject: Subject, row: Row) -> None:
    """Delete a port that is no router's own."""
    router = writer_legs.router_of(session, row)
    if router is None:
        remove(session, row)
        return
    name = label(router)
    if row.device_owner == GATEWAY_OWNER:
        raise subject.error(f"it is the gateway of router {name}: hostplane router set {name} --no-external-network")
    subnets = " ".join(sorted(label(subnet) for subnet in set(row.fixed_ips.values()))) or "SUBNET"
    raise subject.error(f"it is an interface of router {name}: hostplane router remove-interface {name} {subnets}")


def remove(session: Session, row: Row) -> None:
    """Delete a port; endpoint, addresses and port forwardings go with it, floating IPs stand for nothing then."""
    _note_router(session, row)
    writer_forwardings.release(session, row)
    writer_floating_ips.release(session, row)
    session.touch(row.network)
    session.touched_ports.add(str(row.uuid))
    _touch_left(session, row.host)
    writer_members.note(session, row)
    session.delete(row, *row.endpoint, *row.ip_allocations)
