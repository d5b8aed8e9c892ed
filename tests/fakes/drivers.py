# SPDX-License-Identifier: Apache-2.0
"""Executable stand-ins for drivers: same interface, real state, faults on demand.

``FakeDriver`` holds items in memory and obeys the contract of
``agent.core.plan.Driver``: it returns only what is ours, applies idempotently and
reports failures per key.  ``FakeSlicedDriver`` adds reading back in slices.  What a
test does by hand behind the driver's back goes through ``tamper``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core import naming
from agent.core.errors import ApplyError
from agent.core.plan import Delta, Key, ObjectId, Value


class Crash(BaseException):
    """The process died here.  Not an Exception: nothing in the product may catch it."""


@dataclass(slots=True)
class Fuse:
    """Let *operations* more operations happen, then crash.  May be shared by several fakes."""

    operations: int

    def burn(self) -> None:
        if self.operations == 0:
            raise Crash
        self.operations -= 1


class FakeDriver:
    """A subsystem in memory.

    ``items`` are ours, ``foreign`` is everybody else's: never returned, and writing
    to such a key fails like a port name that somebody else uses.  ``operations``
    counts what was really changed.
    """

    def __init__(self, name: str, foreign: Mapping[Key, Value] | None = None) -> None:
        self.name = name
        self.items: dict[Key, Value] = {}
        self.foreign: dict[Key, Value] = dict(foreign or {})
        self.owners: dict[Key, ObjectId] = {}
        self.operations = 0
        self.fuse: Fuse | None = None
        self._failing: dict[Key, int] = {}
        self._apply_failures = 0
        self._observe_failures = 0

    # Faults

    def fail(self, key: Key, times: int = 1_000_000) -> None:
        """Refuse the next *times* writes to *key*; 0 heals it."""
        self._failing[key] = times

    def fail_apply(self, times: int = 1) -> None:
        """Make the next *times* calls of ``apply`` raise, as if the subsystem were gone."""
        self._apply_failures = times

    def fail_observe(self, times: int = 1) -> None:
        """Make the next *times* readings raise."""
        self._observe_failures = times

    def heal(self) -> None:
        """End all faults."""
        self._failing.clear()
        self._apply_failures = self._observe_failures = 0
        self.fuse = None

    def tamper(self, key: Key, value: Value | None, owner: ObjectId | None = None) -> None:
        """Change an item of ours by hand, as an operator would; None takes it away."""
        if value is None:
            self.items.pop(key, None)
            self.owners.pop(key, None)
            return
        self.items[key] = value
        if owner is not None:
            self.owners[key] = owner

    # The driver's interface

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        if self._observe_failures:
            self._observe_failures -= 1
            raise ApplyError(f"{self.name}: cannot be read")
        if keys is None:
            return dict(self.items)
        return {key: self.items[key] for key in keys if key in self.items}

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        if len(delta.keys()) != len(delta):
            raise AssertionError(f"{self.name}: a key is in two parts of one delta: {delta}")
        if self._apply_failures:
            self._apply_failures -= 1
            raise ApplyError(f"{self.name}: unusable")
        failed: dict[Key, Exception] = {}
        writes = {**delta.creates, **{key: new for key, (_, new) in delta.updates.items()}}
        for key, value in writes.items():
            if key not in delta.owners:
                raise AssertionError(f"{self.name}: {key} has no owner in the delta")
            self._write(key, value, delta.owners[key], failed)
        for key in delta.deletes:
            self._write(key, None, None, failed)
        return failed

    def _write(self, key: Key, value: Value | None, owner: ObjectId | None, failed: dict[Key, Exception]) -> None:
        if self.fuse is not None:
            self.fuse.burn()
        if self._failing.get(key, 0) > 0:
            self._failing[key] -= 1
            failed[key] = ApplyError(f"{self.name} {key}: refused")
        elif key in self.foreign and value is not None:
            failed[key] = ApplyError(f"{self.name} {key}: exists and is not ours")
        else:
            self.operations += self.items.get(key) != value
            self.tamper(key, value, owner)

    def dump(self) -> str:
        """Return everything there is as sorted text, foreign objects included."""
        ours = [f"ours {key} = {value}" for key, value in self.items.items()]
        return "\n".join(sorted(ours + [f"foreign {key} = {value}" for key, value in self.foreign.items()]))


class FakeSlicedDriver(FakeDriver):
    """A ``FakeDriver`` that is read back in *slices* parts; the mark of an item is its owner."""

    def __init__(self, name: str, slices: int, foreign: Mapping[Key, Value] | None = None) -> None:
        super().__init__(name, foreign)
        self._slices = slices

    def slices(self) -> int:
        return self._slices

    def observe_slice(self, index: int, of: int) -> dict[Key, Value]:
        observed = self.observe()
        return {
            key: value for key, value in observed.items() if naming.owner_hash(self.owners.get(key, "")) % of == index
        }


class FakePlacedDriver(FakeDriver):
    """Items are in the place that their key begins with, up to *end*; ``read`` tells which places were read."""

    def __init__(self, name: str, end: str = " ") -> None:
        super().__init__(name)
        self._end = end
        self.read: list[str] = []

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        self.read += sorted({self.place_of(key) for key in (self.items if keys is None else keys)})
        return super().observe(keys)

    def places(self) -> set[str]:
        return {self.place_of(key) for key in super().observe()}  # fails as reading does

    def place_of(self, key: Key) -> str:
        place, _, rest = key.partition(self._end)
        return place if rest else "/"

    def observe_place(self, place: str) -> dict[Key, Value]:
        self.read.append(place)
        return {key: value for key, value in super().observe().items() if self.place_of(key) == place}
