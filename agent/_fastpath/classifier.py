# SPDX-License-Identifier: Apache-2.0
"""``Classifier``: which rule does a packet match?  The design is in ``fp_acl.h``."""

from __future__ import annotations

import struct
import sys
import threading
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from agent._fastpath._fp import ffi, lib
from agent._fastpath.rules import RULE_SIZE, Place, Problem, Rule, RuleError

if TYPE_CHECKING:
    from cffi import FFI

Buffer: TypeAlias = bytes | bytearray | memoryview
Numbers: TypeAlias = "array[int] | memoryview"

NONE = 0xFFFFFFFF
KEY_SIZE = 64
CAPACITY = 1 << 17

ANYWHERE = Place()  # for rules without a network, port or direction

_FRAME_SIZE = 8
_PLACE = struct.Struct("=III")
_STATISTICS = struct.Struct("=QQQQQdd")
_CHANGE_SIZE = RULE_SIZE + 8


class Simd(IntEnum):
    """Which code compares; the numbers of ``enum fp_acl_simd``."""

    BEST = 0
    SCALAR = 1
    AVX2 = 2
    AVX512 = 3


class Verb(IntEnum):
    """What a change does; the numbers of ``enum fp_acl_verb``."""

    INSERT = 1
    MODIFY = 2
    DELETE = 3


class Change(NamedTuple):
    """One change of one rule; of the rule of a deletion only the id counts."""

    verb: Verb
    rule: Rule


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a classifier is like now; ``fp_acl.h`` explains the figures.  ``memory`` is in bytes."""

    rules: int
    memory: int
    copies: int
    trees: int
    compilations: int
    levels: float
    leaves: float


def check(rule: Rule) -> Problem | None:
    """Say what is wrong with *rule* by itself, None if nothing is."""
    error = lib.fp_acl_check(ffi.cast("struct fp_acl_rule *", ffi.from_buffer("uint8_t[]", rule.pack())))
    return Problem(rule.id, RuleError(error)) if error else None


class Classifier:
    """Rules with ids below *capacity*, and which of them a packet matches.

    Changes may be made by any thread; they take turns.  Each thread that looks up opens
    a ``Reader`` of its own; lookups wait for nothing and release the GIL.  What can
    be wrong with rules is returned, not raised.
    """

    def __init__(self, capacity: int = CAPACITY, simd: Simd = Simd.BEST) -> None:
        acl = lib.fp_acl_new(capacity)
        if acl == ffi.NULL:
            raise MemoryError(f"no classifier for {capacity} rules")
        self._acl = ffi.gc(acl, lib.fp_acl_free)
        self._writing = threading.Lock()
        self.simd = Simd(lib.fp_acl_use(self._acl, simd))

    def compile(self, rules: Iterable[Rule]) -> Problem | None:
        """Replace all rules at once; return what is wrong with the first bad one, then nothing has changed."""
        return self.compile_packed(b"".join(rule.pack() for rule in rules))

    def compile_packed(self, packed: Buffer) -> Problem | None:
        """Do as ``compile`` with the bytes of ``Rule.pack``, one after the other."""
        count, rest = divmod(len(packed), RULE_SIZE)
        if rest:
            raise ValueError(f"{len(packed)} bytes are not a number of rules of {RULE_SIZE} bytes")
        rules = ffi.cast("struct fp_acl_rule *", ffi.from_buffer("uint8_t[]", packed))
        bad = ffi.new("size_t *")
        with self._writing:
            error = lib.fp_acl_compile(self._acl, rules, count, bad)
        if not error:
            return None
        return Problem(rules[bad[0]].id if bad[0] < count else None, RuleError(error))

    def apply(self, changes: Sequence[Change]) -> list[Problem]:
        """Make the changes one after the other, each at once for all lookups; return what was refused."""
        packed = bytearray().join(
            change.rule.pack() + change.verb.to_bytes(4, sys.byteorder) + bytes(4) for change in changes
        )
        return self.apply_packed(packed)

    def apply_packed(self, packed: bytearray) -> list[Problem]:
        """Do as ``apply`` with rules as ``Rule.pack`` has them, each with 32 bits of verb and 32 of result behind."""
        count, rest = divmod(len(packed), _CHANGE_SIZE)
        if rest:
            raise ValueError(f"{len(packed)} bytes are not a number of changes of {_CHANGE_SIZE} bytes")
        changes = ffi.cast("struct fp_acl_change *", ffi.from_buffer("uint8_t[]", packed, require_writable=True))
        with self._writing:
            if not lib.fp_acl_apply(self._acl, changes, count):
                return []
        failed = (change for change in (changes[index] for index in range(count)) if change.result)
        return [Problem(change.rule.id, RuleError(change.result)) for change in failed]

    def insert(self, rule: Rule) -> Problem | None:
        """Add *rule*; lookups see it at once."""
        return self._one(Verb.INSERT, rule)

    def modify(self, rule: Rule) -> Problem | None:
        """Replace the rule with the same id; each lookup sees either the old or the new one."""
        return self._one(Verb.MODIFY, rule)

    def delete(self, rule_id: int) -> Problem | None:
        """Take the rule with this id away."""
        return self._one(Verb.DELETE, Rule(rule_id, 0))

    def _one(self, verb: Verb, rule: Rule) -> Problem | None:
        return next(iter(self.apply([Change(verb, rule)])), None)

    def reader(self, capacity: int = 256) -> Reader:
        """Open a reader for one thread and up to *capacity* packets at a time."""
        return Reader(self._acl, capacity)

    @property
    def statistics(self) -> Statistics:
        """Sizes and counts; while no change is made."""
        measured = ffi.new("struct fp_acl_statistics *")
        with self._writing:
            lib.fp_acl_measure(self._acl, measured)
        return Statistics(*_STATISTICS.unpack(ffi.buffer(measured)))


class Reader:
    """Lookups by one thread, with memory that is used again by each; a context manager.

    Raises RuntimeError when all readers of the classifier (64) are open.
    """

    def __init__(self, acl: FFI.CData, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, must be at least 1")
        self._acl = acl
        self.capacity = capacity
        self._number = lib.fp_acl_open_reader(acl)
        if self._number == lib.FP_ACL_MAX_READERS:
            raise RuntimeError("all readers of this classifier are open")
        self._ids = ffi.new("uint32_t[]", capacity)
        self._raw_ids = memoryview(ffi.buffer(self._ids)).cast("B").cast("I")
        self._place = ffi.new("struct fp_acl_place *")
        self._open = True

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another reader have the place; a second time does nothing."""
        if self._open:
            lib.fp_acl_close_reader(self._acl, self._number)
        self._open = False

    def classify_keys(self, keys: Buffer | Numbers) -> memoryview:
        """Return, for each of the 64-byte keys in *keys*, the id of its rule or ``NONE``.

        The result is overwritten by the next lookup.  Raises ValueError if there are
        more than *capacity*, or part of one.
        """
        data = ffi.from_buffer("uint8_t[]", keys)
        count = self._count(len(data), KEY_SIZE)
        lib.fp_acl_classify(self._acl, self._number, ffi.cast("struct fp_acl_key *", data), count, self._ids)
        return self._raw_ids[:count]

    def classify_frames(self, buffer: Buffer, frames: Numbers, place: Place = ANYWHERE) -> memoryview:
        """Return the ids for frames that lie in *buffer* as ``PacketBatch.parse`` has them, all at one *place*.

        Raises ValueError, and looks nothing up, if one reaches out of *buffer*, or
        there are more than *capacity*.
        """
        spans = ffi.from_buffer("uint8_t[]", frames)
        count = self._count(len(spans), _FRAME_SIZE)
        data = ffi.from_buffer("uint8_t[]", buffer)
        first = ffi.cast("struct fp_frame *", spans)
        self._set(place)
        if lib.fp_acl_classify_frames(self._acl, self._number, data, len(data), first, count, self._place, self._ids):
            raise ValueError(f"a frame reaches out of the buffer of {len(data)} bytes")
        return self._raw_ids[:count]

    def classify(self, frame: Buffer, place: Place = ANYWHERE) -> int | None:
        """Return the id of the rule that one frame matches, None if there is none."""
        found = self.classify_frames(frame, array("I", (0, len(frame))), place)[0]
        return None if found == NONE else int(found)

    def explain(self, frame: Buffer, place: Place = ANYWHERE, most: int = 8) -> tuple[int, ...]:
        """Return the ids of the rules that *frame* matches: the winner, who came next, and so on."""
        key = ffi.new("struct fp_acl_key *")
        flow = ffi.new("struct fp_flow_key *")
        lib.fp_parse(ffi.from_buffer("uint8_t[]", frame), len(frame), flow)
        self._set(place)
        lib.fp_acl_key_of(flow, self._place, key)
        ids = ffi.new("uint32_t[]", most)
        return tuple(ids[0 : lib.fp_acl_explain(self._acl, self._number, key, ids, most)])

    def _set(self, place: Place) -> None:
        _PLACE.pack_into(ffi.buffer(self._place), 0, place.network, place.port, place.direction)

    def _count(self, size: int, unit: int) -> int:
        if not self._open:
            raise ValueError("the reader is closed")
        count, rest = divmod(size, unit)
        if rest or count > self.capacity:
            raise ValueError(f"{size} bytes, must be a multiple of {unit} up to {self.capacity * unit}")
        return count
