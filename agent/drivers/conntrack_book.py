# SPDX-License-Identifier: Apache-2.0
"""What connections are to be judged by now, and whose connections a change concerns.

The book always holds what was asked for last, whether or not it has been judged by:
judging by anything older would keep what is forbidden by now.
"""

from __future__ import annotations

from typing import TypeVar

from agent.core.items import GroupRules, ZoneFilter
from agent.core.model import AddressChunk, OwnerId
from agent.core.plan import Key, Value
from agent.drivers.conntrack_judge import Addresses, CompiledRules, Judge

_Name = TypeVar("_Name", bound=str)
_Member = TypeVar("_Member")

_ZONE, _GROUP = "zone ", "group "


def zone_number(key: Key) -> int | None:
    """Return the zone of which *key* is the item, None if it is no zone's."""
    return int(key.removeprefix(_ZONE)) if key.startswith(_ZONE) else None


def zone_key(zone: int) -> Key:
    """Return the key of the item of *zone*."""
    return f"{_ZONE}{zone}"


class Book:
    """Zones, rules and members as they are wanted now."""

    def __init__(self) -> None:
        self._values: dict[Key, Value] = {}
        self._zones: dict[int, ZoneFilter] = {}
        self._groups: dict[str, CompiledRules] = {}
        self._members: dict[OwnerId, Addresses] = {}
        self._zones_of: dict[str, set[int]] = {}  # of a group
        self._groups_of: dict[OwnerId, set[str]] = {}  # of an owner whom rules refer to

    def write(self, key: Key, new: Value | None) -> None:
        """Write down that *key* is *new* now, or that there is no such item any more.  Idempotent."""
        old = self._values.get(key)
        if old == new:
            return
        if isinstance(old, AddressChunk) and isinstance(new, AddressChunk) and old.owner == new.owner:
            self._change_members(old.owner, old.addresses - new.addresses, new.addresses - old.addresses)
        else:
            self._take(key, old)
            self._put(key, new)
        if new is None:
            del self._values[key]
        else:
            self._values[key] = new

    def judge(self) -> Judge:
        """Return a judge by what is wanted now."""
        return Judge(self._zones, self._groups, self._members)

    def zones_of_group(self, key: Key) -> frozenset[int]:
        """Return the zones of the group whose rules *key* holds."""
        return frozenset(self._zones_of.get(key.removeprefix(_GROUP), ()))

    def zones_of_owner(self, owner: OwnerId) -> frozenset[int]:
        """Return the zones of the groups with a rule that refers to *owner*."""
        return frozenset(zone for group in self._groups_of.get(owner, ()) for zone in self._zones_of.get(group, ()))

    def _take(self, key: Key, old: Value | None) -> None:
        if isinstance(old, ZoneFilter):
            del self._zones[old.zone]
            for group in old.groups:
                _discard(self._zones_of, group, old.zone)
        elif isinstance(old, GroupRules):
            group = key.removeprefix(_GROUP)
            for owner in self._groups.pop(group).owners:
                _discard(self._groups_of, owner, group)
        elif isinstance(old, AddressChunk):
            self._change_members(old.owner, old.addresses, frozenset())

    def _put(self, key: Key, new: Value | None) -> None:
        if isinstance(new, ZoneFilter):
            self._zones[new.zone] = new
            for group in new.groups:
                self._zones_of.setdefault(group, set()).add(new.zone)
        elif isinstance(new, GroupRules):
            group = key.removeprefix(_GROUP)
            self._groups[group] = CompiledRules(new)
            for owner in self._groups[group].owners:
                self._groups_of.setdefault(owner, set()).add(group)
        elif isinstance(new, AddressChunk):
            self._change_members(new.owner, frozenset(), new.addresses)

    def _change_members(self, owner: OwnerId, gone: frozenset[str], come: frozenset[str]) -> None:
        members = self._members.setdefault(owner, Addresses())
        for address in come:
            members.add(address)
        for address in gone:
            members.remove(address)
        if not members:
            del self._members[owner]


def _discard(index: dict[_Name, set[_Member]], name: _Name, member: _Member) -> None:
    members = index[name]
    members.discard(member)
    if not members:
        del index[name]
