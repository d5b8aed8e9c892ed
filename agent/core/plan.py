# SPDX-License-Identifier: Apache-2.0
"""The vocabulary that planners, drivers and the reconciler share.

A *plan* maps object ids to *groups*.  A group holds the items of one port, one
network, one endpoint, or of the host itself: for each driver a mapping from key to
value.  Keys and bulk values are canonical strings (equal means ``==``); other
values are frozen dataclasses of ``agent.core.items``.  A planner that is asked
again with the same inputs returns the *same* group object, and the diff looks no
further than that identity, so that a pass costs what changed and not what exists.

A *driver* knows one subsystem of kernel or switch and nothing of ports.  It reads
what is ours (``observe``) and writes differences (``apply``).  Drivers are applied
in a fixed order; deletes run backward; what opens a port comes last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from types import MappingProxyType
from typing import NamedTuple, NewType, Protocol, TypeAlias, runtime_checkable

from agent.core.errors import Problem
from agent.core.items import Item

ObjectId = NewType("ObjectId", str)
Key: TypeAlias = str
Value: TypeAlias = str | Item

_EMPTY: Mapping[str, Mapping[Key, Value]] = MappingProxyType({})


class ItemRef(NamedTuple):
    """One item: the driver's name and the key."""

    driver: str
    key: Key


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """All items of one object.  Compared by identity: same object, nothing to do.

    ``requires`` gates: an item is *blocked* while one of those that it names has
    failed or is blocked itself; it is then neither created nor changed.
    """

    object_id: ObjectId
    items: Mapping[str, Mapping[Key, Value]] = field(default_factory=lambda: _EMPTY)
    requires: Mapping[ItemRef, frozenset[ItemRef]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Voice:
    """Addresses that a router has under one MAC address behind one port of the switch.

    They are announced when they appear, and when any of this changes.  ``device`` is the
    name of that port.  ``repeated``: switches outside learn the place from it.  ``urgent``:
    traffic waits for it now, because a gateway has moved.  ``claim`` is the host's claim to
    the gateway that it moves with, 0 if switches need not hear of it again.
    """

    device: str
    mac: str
    addresses: tuple[str, ...]
    repeated: bool
    urgent: bool
    claim: int = 0


# By router, so that what has not changed is one and the same object; then by what speaks.
Voices: TypeAlias = Mapping[ObjectId, Mapping[ObjectId, Voice]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the host should hold, and what could not be planned and why.

    ``voices`` are what it then speaks for on behalf of routers.
    """

    groups: Mapping[ObjectId, Group] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    voices: Voices = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delta:
    """The difference that one driver has to write.

    ``updates`` are (old, new); ``deletes`` carry the old value; ``owners`` names the
    object of each created or updated key (a driver may mark the item with it).
    """

    creates: Mapping[Key, Value] = field(default_factory=dict)
    updates: Mapping[Key, tuple[Value, Value]] = field(default_factory=dict)
    deletes: Mapping[Key, Value] = field(default_factory=dict)
    owners: Mapping[Key, ObjectId] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.creates or self.updates or self.deletes)

    def __len__(self) -> int:
        return len(self.creates) + len(self.updates) + len(self.deletes)

    def keys(self) -> Collection[Key]:
        """All keys that this delta touches."""
        return {*self.creates, *self.updates, *self.deletes}


class WriteOrder(Enum):
    """When a driver's creates, updates and deletes are written within a pass.

    ``OPENING``: creates and updates forward, in the order of drivers; deletes backward,
    after all creates.  ``AT_ONCE``: all in one batch, forward.  ``CLOSING``: deletes
    before everything else, creates and updates forward (members of sets: while rules
    and members change together, nothing passes that neither allowed before nor allows
    now).  ``LAST``: all in one batch after everything else, deletes included, and not
    before all that is to be taken away is gone.
    """

    OPENING = auto()
    AT_ONCE = auto()
    CLOSING = auto()
    LAST = auto()


class Driver(Protocol):
    """One subsystem.  Runs on the reconcile thread only."""

    @property
    def name(self) -> str:
        """Short name: the driver part of an ``ItemRef``, in metrics and status."""

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read back what is ours: everything, or those of *keys* (key -> owner) that exist.

        Never returns an object that is not ours, so nothing foreign is ever deleted.
        An empty owner means that it is not known: the key may be marked with any.
        Raises AgentError when the subsystem cannot be read.
        """

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta* in one batch; return the keys that failed and why ({}: all done).

        Idempotent: creating what exists, or deleting what is gone, is no error.
        Raises AgentError only when the whole subsystem is unusable.
        """


@runtime_checkable
class SlicedDriver(Driver, Protocol):
    """A driver whose subsystem holds so much that reading it back is done in parts.

    An item lies in slice ``naming.owner_hash(owner) % slices``.
    """

    def slices(self) -> int:
        """Into how many slices the subsystem is cut now (a power of two, at most 65,536)."""

    def observe_slice(self, index: int, of: int) -> dict[Key, Value]:
        """Read back what is ours and marked as lying in slice *index* of *of*."""


@runtime_checkable
class PlacedDriver(Driver, Protocol):
    """A driver whose subsystem lies in several places (namespaces) that can be read one by one.

    Where an item is follows from its key alone.
    """

    def places(self) -> Collection[str]:
        """Where something of ours may be now.  Raises AgentError."""

    def place_of(self, key: Key) -> str:
        """Return in which place the item with this key is, or would be."""

    def observe_place(self, place: str) -> dict[Key, Value]:
        """Read back what is ours in *place*; nothing if there is no such place any more.  Raises AgentError."""
