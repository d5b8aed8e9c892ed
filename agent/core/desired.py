# SPDX-License-Identifier: Apache-2.0
"""The desired items of all groups, without merging them into one host-wide mapping.

An *owner index* tells for each key which group holds its value.  When two groups
want the same key the one with the lower object id has it and the other is
reported: the outcome depends on what is wanted, never on who came first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from agent.core.errors import Actor, Problem
from agent.core.plan import Group, ItemRef, Key, ObjectId, Value


class Former(NamedTuple):
    """What a key was before the plan changed: its desired value and owner, None and "" when it was not wanted."""

    value: Value | None
    owner: ObjectId


Touched: TypeAlias = dict[str, dict[Key, Former]]


class Desired:
    """Groups by object id, and who owns which key.  Changed only through ``replace``."""

    def __init__(self) -> None:
        self.groups: Mapping[ObjectId, Group] = {}
        self._owners: dict[str, dict[Key, ObjectId]] = {}
        self._contenders: dict[ItemRef, set[ObjectId]] = {}

    def owner(self, ref: ItemRef) -> ObjectId | None:
        """Return the object whose item *ref* is, None when nobody wants it."""
        return self._owners.get(ref.driver, {}).get(ref.key)

    def value(self, ref: ItemRef) -> Value | None:
        """Return the desired value of *ref*, None when nobody wants it."""
        owner = self.owner(ref)
        return None if owner is None else self.groups[owner].items[ref.driver][ref.key]

    def owners(self, driver: str) -> Mapping[Key, ObjectId]:
        """Return key -> object for all items of *driver*."""
        return self._owners.get(driver, {})

    def requires(self, ref: ItemRef) -> frozenset[ItemRef]:
        """Return what must be in place before *ref* may be created or changed."""
        owner = self.owner(ref)
        return frozenset() if owner is None else self.groups[owner].requires.get(ref, frozenset())

    def count(self) -> dict[str, int]:
        """Return the number of desired items by driver."""
        return {driver: len(owners) for driver, owners in self._owners.items()}

    def clashes(self) -> list[Problem]:
        """Return a problem for each object that wants a key which another one has."""
        problems = []
        for ref, contenders in sorted(self._contenders.items()):
            winner, *losers = sorted(contenders)
            for loser in losers:
                text = f"{ref.driver} item {ref.key!r} is held by {winner}; this object's own is not installed"
                problems.append(Problem(loser, ref.driver, text, Actor.CLOUD))
        return problems

    def replace(self, groups: Mapping[ObjectId, Group]) -> tuple[Touched, int]:
        """Make *groups* the desired ones.

        Returns, by driver, the keys whose desired value may have changed with what
        they were, and the number of groups that are not the same objects as before.
        Costs one identity comparison a group, and work only for groups that differ.
        """
        old = self.groups
        changed = [oid for oid, group in groups.items() if old.get(oid) is not group]
        gone = [oid for oid in old if oid not in groups] if len(groups) - len(old) != len(changed) else []
        # len(groups) - len(old) == len(changed) only if every changed group is new and none went.
        touched: Touched = {}
        for oid in (*gone, *changed):
            for ref in _differing(old.get(oid), groups.get(oid)):
                keys = touched.setdefault(ref.driver, {})
                if ref.key not in keys:
                    keys[ref.key] = Former(self.value(ref), self.owner(ref) or ObjectId(""))
        self.groups = groups
        for oid in gone:
            self._release(oid, old[oid], None)
        for oid in changed:
            self._release(oid, old.get(oid), groups[oid])
        for oid in changed:
            self._claim(oid, old.get(oid), groups[oid])
        return touched, len(changed) + len(gone)

    def _release(self, oid: ObjectId, old: Group | None, new: Group | None) -> None:
        """Take *oid* off the keys that it wanted and wants no more."""
        if old is None:
            return
        for driver, items in old.items.items():
            kept = new.items.get(driver, {}) if new is not None else {}
            owners = self._owners[driver]
            for key in items:
                if key in kept:
                    continue
                ref = ItemRef(driver, key)
                contenders = self._contenders.get(ref)
                if contenders is not None:
                    contenders.discard(oid)
                    owners[key] = min(contenders)
                    if len(contenders) == 1:
                        del self._contenders[ref]
                elif owners.get(key) == oid:
                    del owners[key]

    def _claim(self, oid: ObjectId, before: Group | None, group: Group) -> None:
        """Put *oid* on the keys that it wants now and did not want before."""
        for driver, items in group.items.items():
            owners = self._owners.setdefault(driver, {})
            had = before.items.get(driver, {}) if before is not None else {}
            for key in items:
                if key in had:
                    continue
                holder = owners.get(key)
                if holder is None or holder == oid:
                    owners[key] = oid
                    continue
                self._contenders.setdefault(ItemRef(driver, key), {holder}).add(oid)
                owners[key] = min(holder, oid)


def _differing(old: Group | None, new: Group | None) -> Iterator[ItemRef]:
    """Yield the items whose value is not the same in both groups."""
    old_items = old.items if old is not None else {}
    new_items = new.items if new is not None else {}
    for driver in {*old_items, *new_items}:
        before, after = old_items.get(driver, {}), new_items.get(driver, {})
        for key, value in after.items():
            if before.get(key) != value:
                yield ItemRef(driver, key)
        for key in before:
            if key not in after:
                yield ItemRef(driver, key)
