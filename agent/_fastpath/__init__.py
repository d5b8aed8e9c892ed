# SPDX-License-Identifier: Apache-2.0
"""The fast path: packet headers to flow keys, in C.

The design is in ``fp_packet.h``.  ``parse`` is for one frame; ``PacketBatch`` is for
many, and keeps its memory so that a call costs little more than the parsing itself.
``agent._fastpath.reference`` holds the slow twin of ``parse``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TypeAlias

from agent._fastpath._fp import ffi, lib
from agent._fastpath.key import FlowKey, Fragment, Layer, Parsed, Result

__all__ = ["FlowKey", "Fragment", "Layer", "PacketBatch", "Parsed", "Result", "parse"]

Buffer: TypeAlias = bytes | bytearray | memoryview
Frames: TypeAlias = "array[int] | memoryview"

_KEY_SIZE = ffi.sizeof("struct fp_flow_key")
_FRAME_SIZE = ffi.sizeof("struct fp_frame")


def parse(frame: Buffer) -> Parsed:
    """Return the result and the flow key of one Ethernet frame.  Any thread; any bytes; never fails."""
    data = ffi.from_buffer("uint8_t[]", frame)
    key = ffi.new("struct fp_flow_key *")
    result = lib.fp_parse(data, len(frame), key)
    return Parsed(Result(result), FlowKey.unpack(bytes(ffi.buffer(key))))


class PacketBatch:
    """Keys and results of up to *capacity* frames, memory that is used again by each ``parse``.

    Not for two threads at once.  Parsing releases the GIL and copies no frame.
    """

    def __init__(self, capacity: int = 256) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, must be at least 1")
        self.capacity = capacity
        self._keys = ffi.new("struct fp_flow_key[]", capacity)
        self._results = ffi.new("uint8_t[]", capacity)
        self._raw_keys = memoryview(ffi.buffer(self._keys))
        self._raw_results = memoryview(ffi.buffer(self._results))
        self._size = 0

    def parse(self, buffer: Buffer, frames: Frames) -> int:
        """Parse the frames that lie in *buffer* and return their number.

        *frames* holds two unsigned 32-bit numbers in native order for each frame, its
        offset and its size in bytes: ``array("I", (offset, size, offset, size, ...))``.
        Raises ValueError, and changes nothing, if a frame reaches out of *buffer*, if
        there are more than *capacity*, or if *frames* ends within a pair.
        """
        spans = ffi.from_buffer("uint8_t[]", frames)
        count, rest = divmod(len(spans), _FRAME_SIZE)
        if rest or count > self.capacity:
            raise ValueError(f"frames has {len(spans)} bytes, must be a multiple of 8 up to {self.capacity * 8}")
        data = ffi.from_buffer("uint8_t[]", buffer)
        first = ffi.cast("struct fp_frame *", spans)
        if lib.fp_parse_batch(data, len(data), first, count, self._keys, self._results):
            raise ValueError(f"a frame reaches out of the buffer of {len(data)} bytes")
        self._size = count
        return count

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Parsed:
        """Return a copy of the result and key of frame *index*; IndexError if there was none."""
        if not 0 <= index < self._size:
            raise IndexError(f"frame {index} of {self._size}")
        key = self._raw_keys[index * _KEY_SIZE : (index + 1) * _KEY_SIZE]
        return Parsed(Result(self._raw_results[index]), FlowKey.unpack(key))

    def __iter__(self) -> Iterator[Parsed]:
        return (self[index] for index in range(self._size))

    @property
    def results(self) -> bytes:
        """The results of all frames, one byte each (``Result``)."""
        return bytes(self._raw_results[: self._size])
