# SPDX-License-Identifier: Apache-2.0
"""Drops in the kernel what a port floods us with, so that the frames of others find room in the socket.

A classic BPF program on the packet socket (socket(7), SO_ATTACH_FILTER; no privilege is
needed) refuses the identities of ports that have sent far more than they may, for a
moment.  The socket is shared with whoever comes after us: a new reader begins without
a filter, and one that ends leaves none.
"""

from __future__ import annotations

import ctypes
import logging
import socket
import struct
from collections.abc import Iterable

LOG = logging.getLogger(__name__)

MUTED = 1.0  # seconds
MOST = 64  # ports at a time: the program stays short

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_INSTRUCTION = struct.Struct("HBBI")  # struct sock_filter
_LOAD_WORD, _LOAD_HALF, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
_WHOLE = 0x40000  # octets of a frame that is let through


class FloodFilter:
    """Of one packet socket.  Times are monotonic seconds."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._muted: dict[bytes, float] = {}  # identity -> until when, the first to end first

    @property
    def next_end(self) -> float | None:
        """When `expire` has something to do."""
        return next(iter(self._muted.values()), None)

    def mute(self, identity: bytes, now: float) -> None:
        """Refuse frames to *identity* for MUTED seconds."""
        if len(self._muted) < MOST and identity not in self._muted:
            self._muted[identity] = now + MUTED
            self._attach()

    def expire(self, now: float) -> None:
        """Let those through again whose time is over."""
        over = [identity for identity, until in self._muted.items() if until <= now]
        for identity in over:
            del self._muted[identity]
        if over:
            self._attach()

    def clear(self) -> None:
        """Let everything through."""
        self._muted.clear()
        try:
            self._link.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        except OSError:
            return  # there was none

    def _attach(self) -> None:
        if not self._muted:
            self.clear()
            return
        code = program(self._muted)
        buffer = ctypes.create_string_buffer(code, len(code))
        # struct sock_fprog: the number of instructions and where they are.
        what = struct.pack("HL", len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
        try:
            self._link.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, what)
        except OSError as err:
            LOG.warning("the kernel takes no filter against floods: %s", err.strerror)


def program(identities: Iterable[bytes]) -> bytes:
    """Return the program that drops what is sent to one of *identities* (6 octets each)."""
    code = b""
    for identity in identities:
        head, tail = struct.unpack("!IH", identity)
        code += _INSTRUCTION.pack(_LOAD_WORD, 0, 0, 0)
        code += _INSTRUCTION.pack(_JUMP_EQUAL, 0, 3, head)
        code += _INSTRUCTION.pack(_LOAD_HALF, 0, 0, 4)
        code += _INSTRUCTION.pack(_JUMP_EQUAL, 0, 1, tail)
        code += _INSTRUCTION.pack(_RETURN, 0, 0, 0)
    return code + _INSTRUCTION.pack(_RETURN, 0, 0, _WHOLE)
