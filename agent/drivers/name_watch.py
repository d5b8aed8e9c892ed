# SPDX-License-Identifier: Apache-2.0
"""Notice at once when a file with a certain name is taken out of a folder: the name of a namespace, in ``/run/netns``.

A namespace whose name is gone lives on while devices or sockets are in it, and nothing
else tells.  For who polls descriptors: it has one, and no thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC  # sys/inotify.h says that they are the same
_IN_MOVED_FROM, _IN_DELETE, _IN_Q_OVERFLOW = 0x40, 0x200, 0x4000
_EVENT = struct.Struct("=iIII")  # watch, mask, cookie, length of the name that follows
_READ_SIZE = 1 << 16


class NameWatch:
    """Of *name* in *folder*, which need not be there yet.  Not for several threads at once."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = os.fsencode(name)
        self._watching = False
        self._descriptor = _LIBC.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)  # -1: too many are open

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when something was taken out, None while that cannot be told."""
        if self._descriptor >= 0 and not self._watching:
            mask = _IN_DELETE | _IN_MOVED_FROM
            watch = _LIBC.inotify_add_watch(self._descriptor, os.fsencode(self._folder), mask)
            self._watching = watch >= 0
        return self._descriptor if self._watching else None

    def taken_out(self) -> bool:
        """Tell, without waiting, whether it was taken out since the last call, or may have been."""
        with contextlib.suppress(BlockingIOError):
            return any(self._is_about_it(*event) for event in _events(os.read(self._descriptor, _READ_SIZE)))
        return False

    def close(self) -> None:
        """Stop watching."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor, self._watching = -1, False

    def _is_about_it(self, mask: int, name: bytes) -> bool:
        return name == self._name or bool(mask & _IN_Q_OVERFLOW)


def _events(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield what happened and the name that it happened to."""
    while data:
        _, mask, _, length = _EVENT.unpack_from(data)
        yield mask, data[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
        data = data[_EVENT.size + length :]
