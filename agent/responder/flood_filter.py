# SPDX-License-Identifier: Apache-2.0
"""Drops in the kernel what a port floods us with, so that others find room in the socket's queue.

A classic BPF program on the socket (socket(7), SO_ATTACH_FILTER) refuses, for a moment,
those that have sent far more than they may: frames of a packet socket by the identity
that they are sent to, packets of a listening one, and so new connections, by the alias
that they come from.  Either is told by four octets.  For packet sockets this needs no
privilege; for TCP Linux 6.1 asks for none and 6.18 does, and then we are alone with them.
The socket is shared with whoever comes after us: a new reader begins without a filter,
and one that ends leaves none.
"""

from __future__ import annotations

import ctypes
import logging
import socket
import struct
from collections import Counter
from collections.abc import Iterable

LOG = logging.getLogger(__name__)

FLOOD = 100  # refused within a second, after which the kernel does it
MUTED, LONGEST = 1.0, 16.0  # seconds; doubled for who floods on
MOST = 64  # at a time: the program stays short

_NETWORK = 0xFFF00000  # SKF_NET_OFF of linux/filter.h: counted from the network header
IDENTITY, SOURCE4, SOURCE6 = 2, _NETWORK + 12, _NETWORK + 20  # where the last four octets of each stand

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_INSTRUCTION = struct.Struct("HBBI")  # struct sock_filter
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_WHOLE = 0x40000  # octets of a packet that is let through


class FloodFilter:
    """Of one socket; what is muted is named by the last four octets of identity or alias.

    Times are monotonic seconds.
    """

    def __init__(self, link: socket.socket, where: int) -> None:
        self._link = link
        self._where = where
        self._muted: dict[bytes, float] = {}  # until when
        self._last: dict[bytes, tuple[float, float]] = {}  # for how long it was, and until when its length is of weight
        self._refused: Counter[bytes] = Counter()  # since _since
        self._since = 0.0
        self._is_refused = False

    @property
    def next_end(self) -> float | None:
        """When `expire` has something to do."""
        return min(self._muted.values(), default=None)

    def note(self, name: bytes, now: float) -> None:
        """Take note that something of *name* was refused; who is refused too often is muted."""
        if now - self._since > 1.0:
            self._refused.clear()
            self._since = now
        self._refused[name] += 1
        if self._refused[name] >= FLOOD and name not in self._muted and len(self._muted) < MOST:
            self._refused[name] = 0
            self._mute(name, now)

    def _mute(self, name: bytes, now: float) -> None:
        self._last = {known: last for known, last in self._last.items() if last[1] > now}
        before, _ = self._last.get(name, (0.0, 0.0))
        seconds = min(max(MUTED, 2 * before), LONGEST)
        self._muted[name] = now + seconds
        self._last[name] = (seconds, now + 3 * seconds)
        self._attach()

    def expire(self, now: float) -> None:
        """Let those through again whose time is over."""
        over = [name for name, until in self._muted.items() if until <= now]
        for name in over:
            del self._muted[name]
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
        code = program(self._muted, self._where)
        buffer = ctypes.create_string_buffer(code, len(code))
        # struct sock_fprog: the number of instructions and where they are.
        what = struct.pack("HL", len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
        try:
            self._link.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, what)
        except OSError as err:
            if not self._is_refused:
                LOG.info("floods of one port are refused by us alone, the kernel takes no filter: %s", err.strerror)
            self._is_refused = True


def program(names: Iterable[bytes], where: int) -> bytes:
    """Return the program that drops what has one of *names* (4 octets each) at *where*."""
    code = _INSTRUCTION.pack(_LOAD_WORD, 0, 0, where)
    for name in names:
        code += _INSTRUCTION.pack(_JUMP_EQUAL, 0, 1, int.from_bytes(name))
        code += _INSTRUCTION.pack(_RETURN, 0, 0, 0)
    return code + _INSTRUCTION.pack(_RETURN, 0, 0, _WHOLE)
