# SPDX-License-Identifier: Apache-2.0
"""The declarative file: make the store hold what a document says, all in one transaction.

What is in the document is created, or changed in the fields that it gives; the rest
stays as it is.  Applying the same document again changes nothing.  Objects are found
by name.  With a set's name they are marked as made by it, and only such objects are
pruned when a later document of that set no longer has them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from agent.core.errors import InputError
from agent.store import writer_kinds
from agent.store.document import UNSET, Document, Entry, F, FixedIpRequest, NetworkFields, PortFields, Unset, given
from agent.store.records import Change, FieldChange, FixedIpRecord
from agent.store.validate import Subject
from agent.store.writer_addresses import reserve
from agent.store.writer_kinds import HOST, NETWORK, PORT, SUBNET, Kind
from agent.store.writer_records import Record
from agent.store.writer_session import SET_KEY, Row, Session, label

R = TypeVar("R", bound=Record)

# What agents report is no part of what a file says.
_REPORTED = frozenset({"up", "reason", "since", "version", "applied_revision", "heartbeat"})
# Users before what they use.
_DELETE_ORDER: tuple[Kind[Any, Any], ...] = (PORT, SUBNET, NETWORK, HOST)


def apply(session: Session, document: Document, set_name: str | None, prune: bool) -> tuple[Change, ...]:
    """Make the rows say what *document* does; return what that changed, in a fitting order.

    Raises InputError that names object and line.
    """
    if prune and not set_name:
        raise InputError("prune needs the name of a set: it removes only what an earlier apply of that set made")
    _refuse_doubles(document)
    doomed = _doomed(session, document, set_name) if prune and set_name else []
    removed = [Change(kind.name, label(row), "delete") for kind, row in doomed]
    for kind, row in doomed:
        session.hide(row)
        if kind is PORT:  # first, so that addresses and subnets are free for what comes
            writer_kinds.delete(session, kind, row)
    changes: list[Change] = []
    for host in document.hosts:
        changes += _declare(session, HOST, host, set_name)
    for network in sorted(document.networks, key=_leaves_segment_open):
        changes += _declare(session, NETWORK, network, set_name)
    for subnet in document.subnets:
        changes += _declare(session, SUBNET, subnet, set_name)
    _reserve_addresses(session, document.ports)
    for port in document.ports:
        changes += _declare(session, PORT, port, set_name)
    for kind, row in doomed:
        if kind is not PORT:
            writer_kinds.delete(session, kind, row)
    return (*removed, *changes)


def _refuse_doubles(document: Document) -> None:
    for kind, entries in _sections(document).items():
        seen: set[str] = set()
        for entry in entries:
            if entry.name in seen:
                raise Subject(kind, entry.name, entry.line).error("it is in the document twice")
            seen.add(entry.name)


def _sections(document: Document) -> Mapping[str, tuple[Entry[Any], ...]]:
    return {
        "network": document.networks,
        "subnet": document.subnets,
        "port": document.ports,
        "host": document.hosts,
    }


def _doomed(session: Session, document: Document, set_name: str) -> list[tuple[Kind[Any, Any], Row]]:
    """Return what an earlier apply of the set made and the document does not have, users first."""
    doomed = []
    for kind in _DELETE_ORDER:
        kept = {entry.name for entry in _sections(document)[kind.name]}
        rows = [row for row in session.rows(kind.table) if row.external_ids.get(SET_KEY) == set_name]
        doomed += [(kind, row) for row in sorted(rows, key=label) if row.name not in kept]
    return doomed


def _leaves_segment_open(entry: Entry[NetworkFields]) -> bool:
    """Sort networks that say which segment they want before those that take any."""
    return isinstance(entry.fields.segmentation_id, Unset) or entry.fields.segmentation_id is None


def _reserve_addresses(session: Session, ports: tuple[Entry[PortFields], ...]) -> None:
    """Let no port of the document take by chance what one further on wishes."""
    for entry in ports:
        if isinstance(entry.fields.fixed_ips, Unset):
            continue
        subject = Subject("port", entry.name, entry.line)
        present = session.named("port", entry.name)
        if present:
            network = present[0].network
        elif not isinstance(entry.fields.network, Unset):
            network = session.find("network", entry.fields.network, subject)
        else:
            continue  # refused when its turn comes
        reserve(session, subject, network, entry.fields.fixed_ips)


def _declare(session: Session, kind: Kind[F, R], entry: Entry[F], set_name: str | None) -> Iterator[Change]:
    rows = session.named(kind.name, entry.name)
    if len(rows) > 1:
        ids = ", ".join(sorted(str(row.uuid) for row in rows))
        subject = Subject(kind.name, entry.name, entry.line)
        raise subject.error(f"{len(rows)} {kind.name}s have this name, so a file cannot tell which is meant ({ids})")
    if rows:
        before = kind.record(session, rows[0])
        writer_kinds.change(session, kind, rows[0], entry.fields, UNSET, entry.line)
        changed = _differences(before, kind.record(session, rows[0]))
        if changed:
            yield Change(kind.name, entry.name, "change", changed)
        return
    row = writer_kinds.create(session, kind, entry.name, entry.fields, uuid.uuid4(), claim_name=True, line=entry.line)
    if set_name:
        session.update(row, external_ids={**row.external_ids, SET_KEY: set_name})
    shown = tuple(FieldChange(name, None, _shown(value)) for name, value in given(entry.fields).items())
    yield Change(kind.name, entry.name, "create", shown)


def _differences(before: Record, after: Record) -> tuple[FieldChange, ...]:
    names = (f.name for f in fields(before) if f.name not in _REPORTED)
    pairs = ((name, getattr(before, name), getattr(after, name)) for name in names)
    return tuple(FieldChange(name, _shown(old), _shown(new)) for name, old, new in pairs if old != new)


def _shown(value: object) -> object:
    """Return a field's value as the file would have it."""
    if isinstance(value, tuple):
        return tuple(_shown(item) for item in value)
    if isinstance(value, FixedIpRecord):
        return value.address
    if isinstance(value, FixedIpRequest):
        if value.subnet is None:
            return value.address
        return f"subnet={value.subnet}" + (f",address={value.address}" if value.address else "")
    return value
