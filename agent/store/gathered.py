# SPDX-License-Identifier: Apache-2.0
"""Frozen rows put together to what a snapshot holds: members by owner, rules in their group.

What a snapshot has been given is never changed in place: other threads read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Generic, TypeVar

from agent.core.model import AddressOwner, OwnerId, OwnerKind, SecurityGroup, SecurityGroupId, SecurityGroupRule
from agent.store.filter_rows import RuleRow

_Owner = TypeVar("_Owner")
_Key = TypeVar("_Key")
_Member = TypeVar("_Member")
_Value = TypeVar("_Value")

_by_id = attrgetter("id")


class ByOwner(Generic[_Owner, _Key, _Member]):
    """Members by owner: a mapping of each owner that changed is copied once a round."""

    def __init__(self) -> None:
        self._members: dict[_Owner, dict[_Key, _Member]] = {}
        self._copied: set[_Owner] = set()  # since the last round: may be changed in place

    def put(self, owner: _Owner, key: _Key, member: _Member) -> None:
        """Set the member *key* of *owner*."""
        self._own(owner)[key] = member

    def remove(self, owner: _Owner, key: _Key, member: _Member) -> None:
        """Take *member* away, unless another has its key by now (rows of one change come in any order)."""
        if self._members.get(owner, {}).get(key) is member:
            del self._own(owner)[key]

    def publish(self, owners: frozenset[_Owner]) -> dict[_Owner, Mapping[_Key, _Member]]:
        """Return the members of *owners* that have any, and end the round."""
        for owner in self._copied:
            if not self._members[owner]:
                del self._members[owner]
        self._copied.clear()
        return {owner: members for owner, members in self._members.items() if owner in owners}

    def _own(self, owner: _Owner) -> dict[_Key, _Member]:
        if owner not in self._copied:
            self._copied.add(owner)
            self._members[owner] = dict(self._members.get(owner, {}))
        return self._members[owner]


class Groups:
    """Security groups, each put together from its own row and those of its rules; and what address groups are called.

    Only a group of which something changed is put together anew.
    """

    def __init__(self) -> None:
        self._heads: dict[SecurityGroupId, SecurityGroup] = {}  # without rules
        self._rules: dict[SecurityGroupId, dict[str, SecurityGroupRule]] = {}
        self._changed: set[SecurityGroupId] = set()
        self._whole: dict[SecurityGroupId, SecurityGroup] = {}
        self._owners: dict[SecurityGroupId, frozenset[OwnerId]] = {}
        self._called: dict[OwnerId, AddressOwner] = {}

    def file(self, before: SecurityGroup | None, after: SecurityGroup | None) -> None:
        """Take over what a group's row says; its rules come one by one."""
        for group in (before, after):
            if group is not None:
                self._heads.pop(group.id, None)
                self._changed.add(group.id)
        if after is not None:
            self._heads[after.id] = after
            self.file_owner(AddressOwner(OwnerId(after.id), OwnerKind.SECURITY_GROUP, after.name))
        elif before is not None:
            self.drop_owner(OwnerId(before.id))

    def file_owner(self, owner: AddressOwner) -> None:
        """Take over what an owner of addresses is called; one that is called as before stays the same object."""
        if self._called.get(owner.id) != owner:
            self._called[owner.id] = owner

    def drop_owner(self, owner: OwnerId) -> None:
        """Forget what an owner of addresses is called."""
        self._called.pop(owner, None)

    def file_rule(self, before: RuleRow | None, after: RuleRow | None) -> None:
        """Take over what a rule's row says."""
        if before is not None:
            self._rules.get(before.group, {}).pop(before.rule.id, None)
            self._changed.add(before.group)
        if after is not None:
            self._rules.setdefault(after.group, {})[after.rule.id] = after.rule
            self._changed.add(after.group)

    def settle(self) -> None:
        """Put together what has changed since the last call."""
        for group in self._changed:
            # Sorted rules are kept so: the next time the sort has only to place what is new.
            rules = {rule.id: rule for rule in sorted(self._rules.pop(group, {}).values(), key=_by_id)}
            if rules:
                self._rules[group] = rules
            head = self._heads.get(group)
            if head is None:
                self._whole.pop(group, None)
                self._owners.pop(group, None)
            else:
                self._whole[group] = replace(head, rules=tuple(rules.values()))
                owners = (rule.remote_owner for rule in rules.values())
                self._owners[group] = frozenset(owner for owner in owners if owner is not None)
        self._changed.clear()

    def owners(self, groups: Iterable[SecurityGroupId]) -> frozenset[OwnerId]:
        """Return whose addresses the rules of *groups* refer to, as of the last ``settle``."""
        return frozenset().union(*(self._owners.get(group, ()) for group in groups))

    def chosen(self, groups: Iterable[SecurityGroupId]) -> dict[SecurityGroupId, SecurityGroup]:
        """Return those of *groups* that are there, as of the last ``settle``."""
        return {group: self._whole[group] for group in groups if group in self._whole}

    def called(self, owners: Iterable[OwnerId]) -> dict[OwnerId, AddressOwner]:
        """Return what those of *owners* are called that are there."""
        return {owner: self._called[owner] for owner in owners if owner in self._called}

    def __contains__(self, group: SecurityGroupId) -> bool:
        """Tell whether a group's row is there and makes sense."""
        return group in self._heads

    def text(self, owner: str) -> str:
        """Return how people call a security group or an address group: ``security group web``."""
        known = self._called.get(OwnerId(owner))
        if known is None:
            return f"group {owner}"
        return f"{known.kind.replace('_', ' ')} {known.name or known.id}"


class Index(Generic[_Key, _Value]):
    """Sets of values by key, without empty ones."""

    def __init__(self) -> None:
        self._sets: dict[_Key, set[_Value]] = {}

    def add(self, key: _Key, value: _Value) -> None:
        """Add a value to the set of *key*."""
        self._sets.setdefault(key, set()).add(value)

    def discard(self, key: _Key, value: _Value) -> None:
        """Take a value out of the set of *key*, if it is there."""
        found = self._sets.get(key, set())
        found.discard(value)
        if not found:
            self._sets.pop(key, None)

    def get(self, key: _Key) -> set[_Value]:
        """Return the set of *key*; not to be changed."""
        return self._sets.get(key, set())
