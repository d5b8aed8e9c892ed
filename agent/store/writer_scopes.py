# SPDX-License-Identifier: Apache-2.0
"""Address scopes: making, changing and deleting them inside a session."""

from __future__ import annotations

import uuid

from agent.store import validate, validate_routers
from agent.store.document import AddressScopeFields, Unset, or_default
from agent.store.validate import Subject
from agent.store.writer_session import Column, Session, given_columns, keep_our_ids, refuse_changes
from agent.store.writer_view import Row, enumerate_names, label


def create(session: Session, subject: Subject, name: str, fields: AddressScopeFields, row_id: uuid.UUID) -> Row:
    """Insert an address scope."""
    return session.insert(
        "Address_Scope",
        row_id,
        name=name,
        name_claim=[],
        ip_version=validate_routers.ip_version(subject, fields.ip_version),
        project=or_default(fields.project, ""),
        external_ids=validate.external_ids(subject, or_default(fields.external_ids, {})),
    )


def change(session: Session, subject: Subject, row: Row, fields: AddressScopeFields) -> None:
    """Write the given fields; the IP version is fixed when a scope is made."""
    refuse_changes(subject, {"ip_version": (fields.ip_version, row.ip_version)})
    columns: dict[str, Column] = given_columns(project=fields.project)
    if not isinstance(fields.external_ids, Unset):
        columns["external_ids"] = keep_our_ids(row, validate.external_ids(subject, fields.external_ids))
    session.update(row, **columns)


def delete(session: Session, subject: Subject, row: Row) -> None:
    """Delete an address scope without pools."""
    users = [f"subnet pool {label(pool)}" for pool in session.referring("Subnet_Pool", "address_scope", row.uuid)]
    if users:
        raise subject.error(f"it is in use by {enumerate_names(users)}: take these out of it or delete them first")
    session.delete(row)
