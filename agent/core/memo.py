# SPDX-License-Identifier: Apache-2.0
"""Remember what was planned, so that a pass costs what changed.

A planner asks the memo for each group with the inputs that the group is made of.
While every input is *the same object* as last time (numbers and strings: equal),
the group of last time is returned, and the diff sees at once that there is nothing
to do.  What is not asked for between ``begin`` and ``end`` is forgotten.

A planner that raises leaves the memo as it was before ``begin``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import is_
from typing import TypeVar, cast

from agent.core.plan import Group, ObjectId

T = TypeVar("T")
Inputs = tuple[object, ...]

_BY_VALUE = frozenset((int, str))


class Memo:
    """Results of the last round by key.  Not thread-safe: planning has one thread."""

    __slots__ = ("_entries", "_kept", "rebuilt")

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[Inputs, object]] = {}
        self._kept: dict[Hashable, tuple[Inputs, object]] = {}
        self.rebuilt = 0

    def begin(self) -> None:
        """Start a round; ``rebuilt`` counts the groups that are built in it."""
        self._kept = {}
        self.rebuilt = 0

    def end(self) -> None:
        """End a round: forget what was not asked for in it."""
        self._entries = self._kept

    def group(self, object_id: ObjectId, inputs: Inputs, build: Callable[[], Group]) -> Group:
        """Return the group of *object_id*: the one of last round while its *inputs* are the same."""
        entry = self._entries.get(object_id)
        if entry is None or not _same(entry[0], inputs):
            entry = (inputs, build())
            self.rebuilt += 1
        self._kept[object_id] = entry
        return cast(Group, entry[1])

    def value(self, key: Hashable, inputs: Inputs, build: Callable[[], T]) -> T:
        """Like ``group``, for anything else that groups are made from.  *key* must not be an object id."""
        entry = self._entries.get(key)
        if entry is None or not _same(entry[0], inputs):
            entry = (inputs, build())
        self._kept[key] = entry
        return cast(T, entry[1])

    def stage(self, key: Hashable, inputs: Inputs, build: Callable[[], T]) -> T:
        """Like ``value``, for a part of the round: what *build* asks for is kept with its result.

        *inputs* are all that the part depends on: it is not gone through again while
        they are the same.
        """
        entry = self._entries.get(key)
        if entry is None or not _same(entry[0], inputs):
            outside, self._kept = self._kept, {}
            try:
                result = build()
            finally:
                inside, self._kept = self._kept, outside
            entry = (inputs, (result, inside))
        result, inside = cast(tuple[T, dict[Hashable, tuple[Inputs, object]]], entry[1])
        self._kept.update(inside)
        self._kept[key] = entry
        return result

    def evolve(self, key: Hashable, inputs: Inputs, build: Callable[[T | None], T]) -> T:
        """Like ``value``, for collections: *build* gets the last result and takes over what is still right.

        For thousands of small groups this is cheaper than asking for each; *build*
        adds those that it had to make to ``rebuilt``.
        """
        entry = self._entries.get(key)
        if entry is None:
            entry = (inputs, build(None))
        elif not _same(entry[0], inputs):
            entry = (inputs, build(cast(T, entry[1])))
        self._kept[key] = entry
        return cast(T, entry[1])


def _same(old: Inputs, new: Inputs) -> bool:
    if len(old) != len(new):
        return False
    if all(map(is_, old, new)):  # nearly always
        return True
    for before, now in zip(old, new, strict=True):
        same_kind = before.__class__ is now.__class__ and before.__class__ in _BY_VALUE
        if before is not now and not (same_kind and before == now):
            return False
    return True
