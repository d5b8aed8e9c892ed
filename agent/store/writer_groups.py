# SPDX-License-Identifier: Apache-2.0
"""Security groups: making, changing and deleting them, and which ones a port has.

Meaning as in the Neutron API.  Each project has one group called ``default``, made
when it is first needed, which lets its members reach each other and nobody else reach
them; it cannot be deleted or renamed.  ``Name`` holds that there is only one.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable

from agent.store import validate, writer_rules
from agent.store.document import RuleFields, SecurityGroupFields, Unset, or_default
from agent.store.records import Change, FieldChange
from agent.store.validate import Subject
from agent.store.writer_session import Column, Session, given_columns, keep_our_ids
from agent.store.writer_view import DEFAULT_GROUP, Row, atoms, enumerate_names, label

LOG_RATE, LOG_BURST = 100, 25  # packets a second, packets; Neutron's defaults for [network_log]
_TRUSTED_OWNER = "network:"  # ports of the network's own services get no default group, as in Neutron


def create(session: Session, subject: Subject, name: str, fields: SecurityGroupFields, group_id: uuid.UUID) -> Row:
    """Insert a security group; one that is called ``default`` and has a project is that project's."""
    project = or_default(fields.project, "")
    is_default = name == DEFAULT_GROUP and bool(project)
    if is_default and (other := session.default_group(project)) is not None:
        raise subject.error(f"project {project} has its default security group already ({other.uuid})")
    claim = [session.insert("Name", kind="default_security_group", name=project)] if is_default else []
    row = session.insert(
        "Security_Group",
        group_id,
        name=name,
        name_claim=[],
        default_claim=claim,
        project=project,
        external_ids=validate.external_ids(subject, or_default(fields.external_ids, {})),
        description=or_default(fields.description, ""),
        stateful=or_default(fields.stateful, True),
        log=validate.log_events(subject, or_default(fields.log, ())),
        log_rate=validate.log_limit(subject, "log_rate", or_default(fields.log_rate, LOG_RATE)),
        log_burst=validate.log_limit(subject, "log_burst", or_default(fields.log_burst, LOG_BURST)),
        rules_revision=0,
        addresses=[],
    )
    usual = (*writer_rules.EVERYONE, *(_from_itself(row) if is_default else ()))
    writer_rules.put(session, row, or_default(fields.rules, tuple(usual)))
    session.touched_groups.add(str(row.uuid))
    return row


def _from_itself(row: Row) -> Iterable[RuleFields]:
    yield RuleFields(direction="ingress", remote_group=str(row.uuid))


def change(session: Session, subject: Subject, row: Row, fields: SecurityGroupFields) -> None:
    """Write the given fields; ``rules`` are all rules, of which those stay that are there already."""
    _check_project(subject, row, fields)
    columns: dict[str, Column] = {}
    if not isinstance(fields.stateful, Unset) and fields.stateful != row.stateful:
        session.check_later(lambda: _check_unused(session, subject, row, "stateful cannot change while"))
        session.guard_unused("Port", "security_groups", row)
    if not isinstance(fields.log, Unset):
        columns["log"] = validate.log_events(subject, fields.log)
    if not isinstance(fields.log_rate, Unset):
        columns["log_rate"] = validate.log_limit(subject, "log_rate", fields.log_rate)
    if not isinstance(fields.log_burst, Unset):
        columns["log_burst"] = validate.log_limit(subject, "log_burst", fields.log_burst)
    if not isinstance(fields.external_ids, Unset):
        columns["external_ids"] = keep_our_ids(row, validate.external_ids(subject, fields.external_ids))
    columns |= given_columns(description=fields.description, stateful=fields.stateful, project=fields.project)
    session.update(row, **columns)
    if not isinstance(fields.rules, Unset):
        writer_rules.put(session, row, fields.rules)
    # Concerned even if nothing changed: an earlier write may not have been applied yet.
    session.touched_groups.add(str(row.uuid))


def check_rename(subject: Subject, row: Row, name: str) -> None:
    """Raise InputError if the group must keep its name, or cannot have *name*."""
    if row.default_claim:
        raise subject.error(f"the default security group of project {row.project} cannot be renamed")
    if name == DEFAULT_GROUP and row.project:
        raise subject.error(f"the name {name} is that of the project's own default security group")


def _check_project(subject: Subject, row: Row, fields: SecurityGroupFields) -> None:
    """Raise InputError if the group would become, or no longer be, the default group of a project."""
    if row.name == DEFAULT_GROUP and or_default(fields.project, row.project) != row.project:
        raise subject.error(f"a security group called {DEFAULT_GROUP} cannot change its project")


def delete(session: Session, subject: Subject, row: Row) -> None:
    """Delete a group that no port has, and the rules of other groups that refer to it, as Neutron does."""
    if row.default_claim:
        raise subject.error(f"the default security group of project {row.project} cannot be deleted")
    session.check_later(lambda: _check_unused(session, subject, row, "it cannot be deleted while"))
    for rule in session.rules(row):
        session.delete(rule)
    for rule in session.referring("Security_Group_Rule", "remote_group", row.uuid):
        writer_rules.remove(session, rule)
    session.delete(row)


def _check_unused(session: Session, subject: Subject, row: Row, what: str) -> None:
    users = session.once("ports by group", lambda: _ports_by_group(session)).get(row.uuid)
    if users:
        raise subject.error(f"{what} it is in use by {enumerate_names(f'port {label(port)}' for port in users)}")


def _ports_by_group(session: Session) -> dict[uuid.UUID, list[Row]]:
    found: dict[uuid.UUID, list[Row]] = defaultdict(list)
    for port in session.rows("Port"):
        for group in atoms(port, "security_groups"):
            found[group].append(port)
    return found


def of_port(session: Session, subject: Subject, refs: Iterable[str], project: str) -> list[Row]:
    """Return the security groups that a port shall have.

    Raises InputError for one that is not there, and where stateful ones meet
    stateless ones: a port's connections are tracked, or they are not.
    """
    groups = {row.uuid: row for row in (session.find_group(ref, project, subject) for ref in refs)}
    by_kind = {stateful: [row for row in groups.values() if row.stateful is stateful] for stateful in (True, False)}
    if by_kind[True] and by_kind[False]:
        one, other = label(by_kind[True][0]), label(by_kind[False][0])
        raise subject.error(f"security group {one} is stateful and {other} is stateless: a port has one kind only")
    for row in groups.values():
        if row._data is not None:
            session.verify(row, "stateful")
    return list(groups.values())


def for_new_port(session: Session, project: str, owner: str, secured: bool) -> list[Row] | None:
    """Return the groups of a new port that does not say: its project's default; None if it is not filtered."""
    if not project or not secured or owner.startswith(_TRUSTED_OWNER):
        return None
    return [session.default_group(project) or _make_default(session, project)]


def _make_default(session: Session, project: str) -> Row:
    subject = Subject("security_group", DEFAULT_GROUP)
    fields = SecurityGroupFields(project=project, description="Default security group")
    session.made_besides.append(
        Change("security_group", DEFAULT_GROUP, "create", (FieldChange("project", None, project),), project)
    )
    return create(session, subject, DEFAULT_GROUP, fields, uuid.uuid4())
