# SPDX-License-Identifier: Apache-2.0
"""Address groups: making, changing and deleting them inside a session."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from agent.store import validate, writer_members
from agent.store.document import AddressGroupFields, Unset, or_default
from agent.store.records import AddressGroupRecord
from agent.store.validate import Subject
from agent.store.writer_records import address_group_record
from agent.store.writer_session import Column, Session, given_columns, keep_our_ids
from agent.store.writer_view import Row, enumerate_names, label


def create(session: Session, subject: Subject, name: str, fields: AddressGroupFields, group_id: uuid.UUID) -> Row:
    """Insert an address group."""
    row = session.insert(
        "Address_Group",
        group_id,
        name=name,
        name_claim=[],
        project=or_default(fields.project, ""),
        external_ids=validate.external_ids(subject, or_default(fields.external_ids, {})),
        description=or_default(fields.description, ""),
        addresses=[],
    )
    add(session, subject, row, or_default(fields.addresses, ()))
    return row


def change(session: Session, subject: Subject, row: Row, fields: AddressGroupFields) -> None:
    """Write the given fields; ``addresses`` are all addresses."""
    columns: dict[str, Column] = {}
    if not isinstance(fields.external_ids, Unset):
        columns["external_ids"] = keep_our_ids(row, validate.external_ids(subject, fields.external_ids))
    session.update(row, **columns, **given_columns(description=fields.description, project=fields.project))
    if not isinstance(fields.addresses, Unset):
        wanted = _canonical(subject, fields.addresses)
        present = writer_members.addresses(session, row).keys()
        if wanted != present:
            writer_members.verify_all(session, row)
            _write(session, row, wanted - present, present - wanted)
    writer_members.touch_users(session, "remote_address_group", row)


def add(session: Session, subject: Subject, row: Row, addresses: Iterable[str]) -> None:
    """Add addresses and prefixes; those that are there stay."""
    wanted = _canonical(subject, addresses)
    _write(session, row, wanted - writer_members.addresses(session, row).keys(), ())


def remove(session: Session, subject: Subject, row: Row, addresses: Iterable[str]) -> None:
    """Take addresses and prefixes away; each must be there (so may what is no address, but is there)."""
    present = writer_members.addresses(session, row).keys()
    unwanted = {text if text in present else validate.group_address(subject, text) for text in addresses}
    missing = unwanted - present
    if missing:
        raise subject.error(f"not among its addresses: {enumerate_names(missing)}")
    _write(session, row, (), unwanted)


def change_some(session: Session, ref: str, new: Iterable[str], gone: Iterable[str]) -> AddressGroupRecord:
    """Add *new* addresses, or take away those in *gone*; return the group."""
    row = session.find("address_group", ref)
    subject = Subject("address_group", label(row))
    if gone:
        remove(session, subject, row, gone)
    else:
        add(session, subject, row, new)
    return address_group_record(session, row)


def _canonical(subject: Subject, addresses: Iterable[str]) -> set[str]:
    return {validate.group_address(subject, text) for text in addresses}


def _write(session: Session, row: Row, new: Iterable[str], gone: Iterable[str]) -> None:
    writer_members.change(session, row, dict.fromkeys(new, 1) | dict.fromkeys(gone, -1))
    writer_members.touch_users(session, "remote_address_group", row)


def delete(session: Session, subject: Subject, row: Row) -> None:
    """Delete an address group that no rule refers to."""
    session.check_later(lambda: _check_unused(session, subject, row))
    session.delete(row)


def _check_unused(session: Session, subject: Subject, row: Row) -> None:
    rules = session.referring("Security_Group_Rule", "remote_address_group", row.uuid)
    if rules:
        users = enumerate_names(f"rule {rule.uuid} of security group {label(rule.group)}" for rule in rules)
        raise subject.error(f"it is in use by {users}: delete these first")
