# SPDX-License-Identifier: Apache-2.0
"""The rules of security groups inside a session: compared by content, so that what stays keeps its row.

A rule's id carries its hit counters and a cloud's own bookkeeping; a file that is
applied again, or with one rule more, must not give the others new ones.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from agent.store.document import RuleFields
from agent.store.records import SecurityGroupRuleRecord
from agent.store.validate import object_id
from agent.store.validate_rules import RuleShape, RuleSubject, shapes
from agent.store.writer_records import rule_record, rule_text
from agent.store.writer_session import Session
from agent.store.writer_view import Row, label, scalar

EVERYONE = (RuleFields(direction="egress"),)  # what Neutron gives to each new group


class Content(NamedTuple):
    """What makes a rule different from another of the same group."""

    shape: RuleShape
    remote_group: uuid.UUID | None
    remote_address_group: uuid.UUID | None

    @property
    def key(self) -> Content:
        """What two rules have in common that allow the same: a prefix of all addresses is none, as in Neutron."""
        if self.shape.remote_ip_prefix in ("0.0.0.0/0", "::/0"):
            return self._replace(shape=self.shape._replace(remote_ip_prefix=None))
        return self


@dataclass(frozen=True, slots=True)
class RuleChanges:
    """What a write did to the rules of a group."""

    added: tuple[Row, ...] = ()
    removed: tuple[str, ...] = ()  # as text, because the rows are gone
    described: tuple[tuple[str, str, str], ...] = ()  # text, old and new description


def content_of(row: Row) -> Content:
    """Return the content of a rule in the store."""
    return Content(
        RuleShape(*(scalar(row, column) for column in RuleShape._fields)),
        scalar(row, "remote_group"),
        scalar(row, "remote_address_group"),
    )


def contents(session: Session, group: Row, position: int | None, rule: RuleFields) -> list[Content]:
    """Return what *rule*, the one at *position* (from 1; None: the only one) of those given, comes to."""
    subject = RuleSubject("security_group", label(group), rule.line, position)
    found = shapes(subject, rule)
    group_id = address_group_id = None
    if rule.remote_group is not None:
        project = scalar(group, "project")
        group_id = session.find_group(rule.remote_group, project, replace(subject, field="remote_group")).uuid
    if rule.remote_address_group is not None:
        field = replace(subject, field="remote_address_group")
        address_group_id = session.find("address_group", rule.remote_address_group, field).uuid
    return [Content(shape, group_id, address_group_id) for shape in found]


def put(session: Session, group: Row, rules: Iterable[RuleFields]) -> RuleChanges:
    """Let *group* have exactly *rules*."""
    wanted: dict[Content, tuple[Content, str]] = {}
    for position, rule in enumerate(rules, 1):
        for content in contents(session, group, position, rule):
            wanted.setdefault(content.key, (content, rule.description))
    removed, described = [], []
    for row in session.rules(group):
        found = wanted.pop(content_of(row).key, None)
        if found is None:  # not wanted, or a second time
            removed.append(text_of(session, row))
            session.delete(row)
        elif found[1] != scalar(row, "description"):
            described.append((text_of(session, row), scalar(row, "description"), found[1]))
            session.update(row, description=found[1])
    added = [_insert(session, group, content, text, uuid.uuid4()) for content, text in wanted.values()]
    if added or removed or described:
        _step(session, group)
    return RuleChanges(tuple(added), tuple(removed), tuple(described))


def text_of(session: Session, row: Row) -> str:
    """Return a rule in words."""
    return rule_text(rule_record(session, row))


def add(
    session: Session, group: Row, rules: Sequence[RuleFields], ids: list[uuid.UUID], refuse_doubles: bool = False
) -> tuple[Row, ...]:
    """Add those of *rules* that *group* does not have; return the new rows.

    *ids* are used in order for them and filled up as needed, so that a call that is
    built again makes the same rows.
    """
    alone = len(rules) == 1
    wanted = [
        (position, rule, content)
        for position, rule in ((None if alone else number, rule) for number, rule in enumerate(rules, 1))
        for content in contents(session, group, position, rule)
    ]
    present = _present(session, group, {content.shape.port_range_min for _, _, content in wanted})
    new: list[Row] = []
    for position, rule, content in wanted:
        double = present.get(content.key)
        if double is not None and refuse_doubles:
            subject = RuleSubject("security_group", label(group), rule.line, position)
            raise subject.error(f"the group has this rule already ({double.uuid})")
        if double is None:
            if len(ids) == len(new):
                ids.append(uuid.uuid4())
            new.append(_insert(session, group, content, rule.description, ids[len(new)]))
            present[content.key] = new[-1]
    if new:
        _step(session, group)
    return tuple(new)


def _present(session: Session, group: Row, ports: set[int | None]) -> dict[Content, Row]:
    """Return the rules of *group* that begin with one of *ports*: the group may have thousands of others."""
    rows = (row for row in session.rules(group) if scalar(row, "port_range_min") in ports)
    return {content_of(row).key: row for row in rows}


def added(
    session: Session, group_ref: str, rules: Sequence[RuleFields], ids: list[uuid.UUID]
) -> tuple[SecurityGroupRuleRecord, ...]:
    """Add *rules* to a group; return those that are new."""
    group = session.find("security_group", group_ref)
    session.touched_groups.add(str(group.uuid))
    if (done := _made_before(session, ids)) is not None:
        return done
    return tuple(rule_record(session, row) for row in add(session, group, rules, ids))


def added_one(
    session: Session, group_ref: str, rule: RuleFields, rule_id: str | None, ids: list[uuid.UUID]
) -> tuple[SecurityGroupRuleRecord, ...]:
    """Add *rule*, which must be new to its group; return what it came to."""
    group = session.find("security_group", group_ref)
    session.touched_groups.add(str(group.uuid))
    if (done := _made_before(session, ids)) is not None:
        return done
    if rule_id is not None:
        subject = RuleSubject("security_group", label(group), rule.line)
        ids[:] = [object_id(subject, rule_id)]
        if session.row("Security_Group_Rule", ids[0]) is not None:
            raise subject.error(f"there is a rule with the id {rule_id} already")
        if len(contents(session, group, None, rule)) > 1:
            raise subject.error("with an id it must be one rule: say ethertype, and one port or range")
    return tuple(rule_record(session, row) for row in add(session, group, (rule,), ids, refuse_doubles=True))


def _made_before(session: Session, ids: Sequence[uuid.UUID]) -> tuple[SecurityGroupRuleRecord, ...] | None:
    """Return the rules that an earlier attempt of this call made, whose answer was lost; None if none did."""
    rows = [row for row in (session.row("Security_Group_Rule", rule_id) for rule_id in ids) if row is not None]
    return tuple(rule_record(session, row) for row in rows) or None


def removed(session: Session, rule_id: str) -> SecurityGroupRuleRecord:
    """Take a rule out of its group; return it as it was."""
    row = session.find_rule(rule_id)
    record = rule_record(session, row)
    remove(session, row)
    return record


def remove(session: Session, row: Row) -> None:
    """Delete one rule."""
    _step(session, row.group)
    session.delete(row)


def _insert(session: Session, group: Row, content: Content, description: str, rule_id: uuid.UUID) -> Row:
    shape = content.shape
    return session.insert(
        "Security_Group_Rule",
        rule_id,
        group=group,
        external_ids={},
        description=description,
        direction=shape.direction,
        ethertype=shape.ethertype,
        protocol=_list(shape.protocol),
        port_range_min=_list(shape.port_range_min),
        port_range_max=_list(shape.port_range_max),
        remote_ip_prefix=_list(shape.remote_ip_prefix),
        remote_group=_list(content.remote_group),
        remote_address_group=_list(content.remote_address_group),
    )


def _list(value: str | int | uuid.UUID | None) -> list[str | int | uuid.UUID]:
    return [] if value is None else [value]


def _step(session: Session, group: Row) -> None:
    """Count a change of the rules of *group*, once a session: of two writers that read them one has to read again."""
    session.touched_groups.add(str(group.uuid))
    session.once(("rules", group.uuid), lambda: _count(session, group))


def _count(session: Session, group: Row) -> None:
    if group._data is not None:
        session.verify(group, "rules_revision")
    session.update(group, rules_revision=group.rules_revision + 1)
