# SPDX-License-Identifier: Apache-2.0
"""Security groups and address groups of a declarative file.

Rules refer to groups both ways, so all groups are made before any rule.  Rules and
addresses are compared one by one: a group of thousands is changed by as much as the
file differs.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace

from agent.store import writer_kinds, writer_members, writer_rules
from agent.store.declared_changes import differences, mark, only, said
from agent.store.document import UNSET, AddressGroupFields, Entry, RuleFields, SecurityGroupFields, Unset, or_default
from agent.store.records import Change, FieldChange
from agent.store.validate import Subject
from agent.store.writer_kinds import ADDRESS_GROUP, SECURITY_GROUP
from agent.store.writer_records import bare_address_group_record, bare_group_record, prefix_order
from agent.store.writer_session import Session
from agent.store.writer_view import DEFAULT_GROUP, Row


def address_groups(
    session: Session, entries: Iterable[Entry[AddressGroupFields]], set_name: str | None
) -> Iterator[Change]:
    """Make and change address groups; yield what that did."""
    for entry in entries:
        rows = session.named("address_group", entry.name)
        row = only(rows, Subject("address_group", entry.name, entry.line))
        if row is None:
            row = writer_kinds.create(
                session, ADDRESS_GROUP, entry.name, entry.fields, uuid.uuid4(), claim_name=True, line=entry.line
            )
            mark(session, row, set_name)
            yield Change("address_group", entry.name, "create", said(entry.fields))
        elif changed := _change_addresses(session, row, entry):
            yield Change("address_group", entry.name, "change", changed)


def _change_addresses(session: Session, row: Row, entry: Entry[AddressGroupFields]) -> tuple[FieldChange, ...]:
    before, present = bare_address_group_record(session, row), writer_members.addresses(session, row).keys()
    writer_kinds.change(session, ADDRESS_GROUP, row, entry.fields, UNSET, entry.line)
    changed = differences(before, bare_address_group_record(session, row))
    left = writer_members.addresses(session, row).keys()
    if left == present:
        return changed
    gone, new = (tuple(sorted(part, key=prefix_order)) for part in (present - left, left - present))
    return (*changed, FieldChange("addresses", gone, new))


def security_groups(
    session: Session, entries: Iterable[Entry[SecurityGroupFields]], set_name: str | None
) -> Iterator[Change]:
    """Make and change security groups; yield what that did."""
    present = [(entry, _present(session, entry)) for entry in entries]
    groups = [(entry, row or _make(session, entry, set_name), row is None) for entry, row in present]
    for entry, row, new in groups:
        changed: list[FieldChange] = []
        if not new:
            before = bare_group_record(session, row)
            rest = replace(entry.fields, rules=UNSET)
            writer_kinds.change(session, SECURITY_GROUP, row, rest, UNSET, entry.line)
            changed += differences(before, bare_group_record(session, row))
        if not isinstance(entry.fields.rules, Unset):
            changed += _put_rules(session, row, entry.fields.rules)
        project = row.project if row.default_claim else ""
        if new:
            yield Change("security_group", entry.name, "create", said(entry.fields), project)
        elif changed:
            yield Change("security_group", entry.name, "change", tuple(changed), project)


def _present(session: Session, entry: Entry[SecurityGroupFields]) -> Row | None:
    """Return the group that a file means: a project's default group only if it names the project."""
    project = or_default(entry.fields.project, "")
    if entry.name == DEFAULT_GROUP and project:
        return session.default_group(project)
    rows = [row for row in session.named("security_group", entry.name) if not row.default_claim]
    return only(rows, Subject("security_group", entry.name, entry.line))


def _make(session: Session, entry: Entry[SecurityGroupFields], set_name: str | None) -> Row:
    """Insert a group; rules that the file gives come later, when all groups are there."""
    rules: tuple[RuleFields, ...] | Unset = UNSET if isinstance(entry.fields.rules, Unset) else ()
    bare = replace(entry.fields, rules=rules)
    row = writer_kinds.create(session, SECURITY_GROUP, entry.name, bare, uuid.uuid4(), claim_name=True, line=entry.line)
    mark(session, row, set_name)
    return row


def _put_rules(session: Session, row: Row, rules: tuple[RuleFields, ...]) -> Iterator[FieldChange]:
    changes = writer_rules.put(session, row, rules)
    if changes.added or changes.removed:
        added = (writer_rules.text_of(session, rule) for rule in changes.added)
        yield FieldChange("rules", tuple(sorted(changes.removed)), tuple(sorted(added)))
    for text, old, new in changes.described:
        yield FieldChange(f"description of rule {text}", old, new)
