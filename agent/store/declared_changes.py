# SPDX-License-Identifier: Apache-2.0
"""What the parts of a declarative file have in common: finding an object by name, and telling what changes."""

from __future__ import annotations

from dataclasses import fields

from agent.store.document import Fields, FixedIpRequest, HostRoute, RuleFields, given
from agent.store.records import FieldChange, FixedIpRecord, HostRouteRecord
from agent.store.records_routers import RouterInterfaceRecord
from agent.store.validate import Subject, words
from agent.store.writer_records import Record
from agent.store.writer_session import SET_KEY, Session
from agent.store.writer_view import Row

# What agents report is no part of what a file says; ids follow from the names beside them.
_NOT_SAID = frozenset(
    {"up", "reason", "since", "version", "applied_revision", "heartbeat", "security_group_ids", "status"}
)


def only(rows: list[Row], subject: Subject) -> Row | None:
    """Return the one object that a file can mean by a name, None if there is none; InputError if there are several."""
    if len(rows) > 1:
        ids = ", ".join(sorted(str(row.uuid) for row in rows))
        called = f"{len(rows)} {words(subject.kind)}s have this name"
        raise subject.error(f"{called}, so a file cannot tell which is meant ({ids})")
    return rows[0] if rows else None


def mark(session: Session, row: Row, set_name: str | None) -> None:
    """Note that a set made the object, so that a later apply of that set may prune it."""
    if set_name:
        session.update(row, external_ids={**row.external_ids, SET_KEY: set_name})


def differences(before: Record, after: Record) -> tuple[FieldChange, ...]:
    """Return the fields in which two records of one object differ."""
    names = (f.name for f in fields(before) if f.name not in _NOT_SAID)
    pairs = ((name, getattr(before, name), getattr(after, name)) for name in names)
    return tuple(FieldChange(name, _shown(old), _shown(new)) for name, old, new in pairs if old != new)


def said(values: Fields) -> tuple[FieldChange, ...]:
    """Return the fields that a file gives to a new object."""
    return tuple(FieldChange(name, None, _shown(value)) for name, value in given(values).items())


def _shown(value: object) -> object:
    """Return a field's value as the file would have it."""
    if isinstance(value, tuple):
        return tuple(_shown(item) for item in value)
    if isinstance(value, FixedIpRecord):
        return value.address
    if isinstance(value, RouterInterfaceRecord):
        return f"{value.subnet_name} {value.address}"
    if isinstance(value, HostRoute | HostRouteRecord):
        return f"{value.destination} via {value.nexthop}"
    if isinstance(value, FixedIpRequest):
        if value.subnet is None:
            return value.address
        return f"subnet={value.subnet}" + (f",address={value.address}" if value.address else "")
    if isinstance(value, RuleFields):
        pairs = ((f.name, getattr(value, f.name)) for f in fields(value) if f.compare)
        return ",".join(f"{name}={item}" for name, item in pairs if item not in (None, ""))
    return value
