# SPDX-License-Identifier: Apache-2.0
"""Networks: making, changing and deleting them inside a session."""

from __future__ import annotations

import uuid
from collections import defaultdict

from agent.core.model import NetworkType
from agent.store import ipam, validate, validate_services
from agent.store.document import NetworkFields, Unset, or_default
from agent.store.validate import Subject
from agent.store.writer_addresses import GATEWAY_OWNER, port_text
from agent.store.writer_options import default_mtu, largest_mtu, segment_ranges
from agent.store.writer_session import Column, Session, given_columns, keep_our_ids, refuse_changes
from agent.store.writer_view import Row, enumerate_names, label, optional, scalar


def create(session: Session, subject: Subject, name: str, fields: NetworkFields, network_id: uuid.UUID) -> Row:
    """Insert a network: its type is required, its segment is chosen if it is not given."""
    if isinstance(fields.type, Unset):
        raise subject.error(f"type is required ({', '.join(NetworkType)})")
    kind = validate.network_type(subject, fields.type)
    physnet = validate.physnet(subject, kind, or_default(fields.physnet, None))
    number = _segmentation_id(session, subject, kind, physnet, or_default(fields.segmentation_id, None))
    mtu = or_default(fields.mtu, default_mtu(session.options, kind))
    row = session.insert(
        "Network",
        network_id,
        name=name,
        name_claim=[],
        type=str(kind),
        segmentation_id=[] if number is None else [number],
        physnet=[] if physnet is None else [physnet],
        segment=[] if kind is NetworkType.LOCAL else [_segment(session, kind, physnet, number)],
        mtu=validate.mtu(subject, mtu, largest_mtu(session.options, kind)),
        project=or_default(fields.project, ""),
        dns_domain=validate_services.dns_domain(subject, or_default(fields.dns_domain, "")),
        admin_state_up=or_default(fields.admin_state_up, True),
        port_security_enabled=or_default(fields.port_security, True),
        external=or_default(fields.external, False),
        external_ids=validate.external_ids(subject, or_default(fields.external_ids, {})),
    )
    if kind is not NetworkType.LOCAL:
        session.check_later(lambda: _check_segment(session, subject, row))
    session.touch(row)
    return row


def _segment(session: Session, kind: NetworkType, physnet: str | None, number: int | None) -> Row:
    return session.insert("Segment_Allocation", type=str(kind), physnet=physnet or "", id=number or 0)


def _segmentation_id(
    session: Session, subject: Subject, kind: NetworkType, physnet: str | None, wanted: int | None
) -> int | None:
    if wanted is not None:
        return validate.segmentation_id(subject, kind, wanted)  # whether it is free shows when all is written
    if kind not in validate.SEGMENT_LIMITS:
        return None
    used = session.once("used segments", lambda: _used_segments(session))[str(kind), physnet or ""]
    ranges = segment_ranges(session.options, kind, physnet)
    number = ipam.pick(ipam.free_numbers(ranges, used), session.attempt, session.rng)
    if number is None:
        where = f"{kind} on {physnet}" if physnet else str(kind)
        raise subject.error(f"all segmentation ids for {where} are in use ({_format(ranges)})")
    used.add(number)
    return number


def _used_segments(session: Session) -> dict[tuple[str, str], set[int]]:
    """Return the ids in use by (type, physical network)."""
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in session.rows("Segment_Allocation"):
        found[scalar(row, "type"), scalar(row, "physnet")].add(scalar(row, "id"))
    return found


def _format(ranges: list[tuple[int, int]]) -> str:
    return ",".join(f"{first}..{last}" for first, last in ranges)


def _check_segment(session: Session, subject: Subject, row: Row) -> None:
    """Raise InputError if another network has this one's segment when all is written."""
    for other in session.once("networks by segment", lambda: _by_segment(session))[_segment_of(row)]:
        if other.uuid == row.uuid:
            continue
        if row.type == NetworkType.FLAT:
            raise subject.error(f"physnet {row.physnet[0]} carries the flat network {label(other)} already")
        raise subject.error(f"segmentation id {row.segmentation_id[0]} is in use by network {label(other)}")


def _segment_of(row: Row) -> tuple[str, str | None, int | None]:
    return row.type, optional(row.physnet), optional(row.segmentation_id)


def _by_segment(session: Session) -> dict[tuple[str, str | None, int | None], list[Row]]:
    found: dict[tuple[str, str | None, int | None], list[Row]] = defaultdict(list)
    for row in session.rows("Network"):
        found[_segment_of(row)].append(row)
    return found


def change(session: Session, subject: Subject, row: Row, fields: NetworkFields) -> None:
    """Write the given fields; type, segment and physical network are fixed when a network is made."""
    kind = validate.network_type(subject, row.type)
    refuse_changes(
        subject,
        {
            "type": (fields.type, row.type),
            "segmentation_id": (fields.segmentation_id, optional(row.segmentation_id)),
            "physnet": (fields.physnet, optional(row.physnet)),
        },
    )
    columns: dict[str, Column] = {}
    if not isinstance(fields.mtu, Unset):
        mtu = validate.mtu(subject, fields.mtu, largest_mtu(session.options, kind))
        if mtu < validate.MIN_IPV6_MTU and any(":" in subnet.cidr for subnet in session.subnets(row)):
            raise subject.error(f"mtu {mtu} is too small for its IPv6 subnets ({validate.MIN_IPV6_MTU} at least)")
        columns["mtu"] = mtu
    if not isinstance(fields.dns_domain, Unset):
        columns["dns_domain"] = validate_services.dns_domain(subject, fields.dns_domain)
    if not isinstance(fields.external_ids, Unset):
        columns["external_ids"] = keep_our_ids(row, validate.external_ids(subject, fields.external_ids))
    columns |= given_columns(
        admin_state_up=fields.admin_state_up,
        external=fields.external,
        port_security_enabled=fields.port_security,
        project=fields.project,
    )
    if fields.external is False and row.external:
        _check_no_gateway(session, subject, row)
    if session.update(row, **columns):
        session.touch(row)
        session.touched_ports.update(str(port.uuid) for port in session.ports(row))


def _check_no_gateway(session: Session, subject: Subject, row: Row) -> None:
    """Raise InputError if routers lead to the outside through a network; nobody else makes one do so meanwhile."""
    users = [port_text(session, port) for port in session.ports(row) if port.device_owner == GATEWAY_OWNER]
    floating_ips = session.referring("Floating_IP", "floating_network", row.uuid)
    users += [f"floating ip {label(floating_ip)}" for floating_ip in floating_ips]
    if users:
        raise subject.error(f"external: it is in use by {enumerate_names(users)}: delete these first")
    session.guard("Port", row)
    session.guard_users("Floating_IP", "floating_network", row)


def delete(session: Session, subject: Subject, row: Row) -> None:
    """Delete a network that nothing uses any more."""
    users = [f"subnet {label(subnet)}" for subnet in session.subnets(row)]
    users += [port_text(session, port) for port in session.ports(row)]
    floating_ips = session.referring("Floating_IP", "floating_network", row.uuid)
    users += [f"floating ip {label(floating_ip)}" for floating_ip in floating_ips]
    if users:
        raise subject.error(f"it is in use by {enumerate_names(users)}: delete these first")
    session.touch(row)
    session.delete(row)
