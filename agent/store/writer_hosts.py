# SPDX-License-Identifier: Apache-2.0
"""Hosts: what an agent announces by itself can be written here too, for hosts that are prepared ahead."""

from __future__ import annotations

import uuid

from agent.store import validate
from agent.store.document import HostFields, Unset, or_default
from agent.store.validate import Subject
from agent.store.writer_session import Column, Session, given_columns, keep_our_ids
from agent.store.writer_view import Row, atoms, enumerate_names, label, scalar


def create(session: Session, subject: Subject, name: str, fields: HostFields, host_id: uuid.UUID) -> Row:
    """Insert a host; its name must be that in its agent's certificate and configuration."""
    validate.host_name(subject, name)
    address = or_default(fields.tunnel_address, None)
    row = session.insert(
        "Host",
        host_id,
        name=name,
        tunnel_address=[] if address is None else [_tunnel_address(subject, address)],
        encapsulations=list(validate.encapsulations(subject, or_default(fields.encapsulations, ()))),
        bridge_mappings=validate.bridge_mappings(subject, or_default(fields.bridge_mappings, {})),
        drain=or_default(fields.drain, False),
        external_ids=validate.external_ids(subject, or_default(fields.external_ids, {})),
    )
    _touch(session, row)
    return row


def _tunnel_address(subject: Subject, text: str) -> str:
    value = validate.address(subject, "tunnel_address", text)
    if value.is_multicast or value.is_unspecified or value.is_loopback:
        raise subject.error(f"tunnel_address {value} is not an address that other hosts can send to")
    return str(value)


def _touch(session: Session, row: Row) -> None:
    """Note the networks that have ports on the host: all their hosts send to its tunnel address."""
    session.touched_hosts.add(row.name)
    for port in session.rows("Port"):
        if scalar(port, "host") == row.name:
            session.touch(port.network)


def change(session: Session, subject: Subject, row: Row, fields: HostFields) -> None:
    """Write the given fields; an agent that announces itself writes its own again at its next start."""
    columns: dict[str, Column] = {}
    if not isinstance(fields.tunnel_address, Unset):
        address = fields.tunnel_address
        columns["tunnel_address"] = [] if address is None else [_tunnel_address(subject, address)]
    if not isinstance(fields.encapsulations, Unset):
        columns["encapsulations"] = list(validate.encapsulations(subject, fields.encapsulations))
    if not isinstance(fields.bridge_mappings, Unset):
        columns["bridge_mappings"] = validate.bridge_mappings(subject, fields.bridge_mappings)
    if not isinstance(fields.external_ids, Unset):
        columns["external_ids"] = keep_our_ids(row, validate.external_ids(subject, fields.external_ids))
    columns |= given_columns(drain=fields.drain)
    if session.update(row, **columns):
        _touch(session, row)


def delete(session: Session, subject: Subject, row: Row) -> None:
    """Delete a host without ports and gateways, and what its agent reported: nobody else would take that away."""
    users = [f"port {label(port)}" for port in session.rows("Port") if scalar(port, "host") == row.name]
    users += [f"router {label(router)}" for router in session.rows("Router") if row.name in atoms(router, "hosts")]
    if users:
        raise subject.error(f"it is in use by {enumerate_names(users)}: move or delete these first")
    for table in ("Host_Status", "Port_Status", "Router_Status"):
        for status in session.rows(table):
            if status.host == row.name:
                session.delete(status)
    session.delete(row)
