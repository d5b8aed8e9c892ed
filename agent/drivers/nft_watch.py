# SPDX-License-Identifier: Apache-2.0
"""Notice at once when somebody else changes the packet filter.

nf_tables tells each committed change with the process that made it (NFT_MSG_NEWGEN);
that includes what ``iptables`` does with its nft backend.  The legacy tables tell
nothing: there the number and size of the rules is looked at once a second.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from agent.drivers.bridges_netlink import read_attributes

LOG = logging.getLogger(__name__)

POLL_SECONDS = 1.0
TELL_SECONDS = 60.0  # between two lines in the log about programs of one name
_TOLD_MOST = 64

_NETLINK_NETFILTER, _SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 12, 270, 1
_NFNLGRP_NFTABLES = 7
_NEWGEN = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN
_PROC_PID, _PROC_NAME = 2, 3  # NFTA_GEN_*
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_NFGENMSG = 4  # bytes
_RECEIVE_SIZE = 1 << 16
# The group tells every rule of a change; the socket takes only what closes one (a classic BPF program, socket(7)):
# load the half-word at 4, the message's type, and compare.  BPF loads are big-endian, netlink is not.
_SO_ATTACH_FILTER = 26
_TYPE_AS_LOADED = int.from_bytes(_NEWGEN.to_bytes(2, sys.byteorder), "big")
_PROGRAM = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in ((0x28, 0, 0, 4), (0x15, 0, 1, _TYPE_AS_LOADED), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0))
)

IsOurs: TypeAlias = Callable[[int, str], bool]


class _Watch:
    """A thread that can be ended."""

    def __init__(self, name: str) -> None:
        self._stop_read, self._stop_write = os.pipe()
        self._name = name
        self._thread: threading.Thread | None = None

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread."""
        os.write(self._stop_write, b"x")
        if self._thread is not None:
            self._thread.join(timeout)

    def _start(self, run: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()

    def _stopped(self, wait: float | None, *others: int) -> bool:
        """Wait up to *wait* seconds (None: for ever) for one of *others* or the end; return whether it is the end."""
        poller = select.poll()
        for descriptor in (self._stop_read, *others):
            poller.register(descriptor, select.POLLIN)
        ready = poller.poll(None if wait is None else wait * 1000)
        return any(descriptor == self._stop_read for descriptor, _ in ready)


class NftWatch(_Watch):
    """Watch nf_tables of the namespace in which it is started, on a thread of its own.

    *is_ours* is asked with the process id and name (at most 15 characters) of whoever
    changed something; *on_change* is called if it was somebody else, once for all that
    has come together, and also when the kernel had more to tell than could be taken.
    Both run on the watch's thread and must not block.
    """

    def __init__(self, on_change: Callable[[], None], is_ours: IsOurs) -> None:
        super().__init__("nft-watch")
        self._on_change = on_change
        self._is_ours = is_ours
        self._socket: socket.socket | None = None
        self._told: dict[str, float] = {}  # name of a program -> when it was last told of

    def start(self) -> bool:
        """Start watching; from its return on nothing is missed.  False if the kernel has no nf_tables."""
        try:
            self._socket = _subscribed()
        except OSError as err:
            LOG.info("changes of nf_tables are not noticed at once: %s", err.strerror or err)
            return False
        kernel = self._socket
        self._start(lambda: self._run(kernel))
        return True

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread and close the socket."""
        super().stop(timeout)
        if self._socket is not None:
            self._socket.close()

    def _run(self, kernel: socket.socket) -> None:
        while not self._stopped(None, kernel.fileno()):
            if self._drain(kernel):
                self._on_change()

    def _drain(self, kernel: socket.socket) -> bool:
        """Read what has come; return whether somebody else is among those who changed something."""
        foreign = False
        while True:
            try:
                data = kernel.recv(_RECEIVE_SIZE)
            except BlockingIOError:
                return foreign
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    LOG.warning("a change of nf_tables was missed: %s", err.strerror or err)
                return True
            foreign |= self._is_foreign(data)

    def _is_foreign(self, data: bytes) -> bool:
        kind = _HEADER.unpack_from(data)[1]
        if kind != _NEWGEN:
            return False
        found = dict(read_attributes(data, _HEADER.size + _NFGENMSG))
        process = int.from_bytes(found.get(_PROC_PID, b""))
        name = found.get(_PROC_NAME, b"").rstrip(b"\0").decode(errors="replace")
        if self._is_ours(process, name):
            return False
        now = time.monotonic()
        if now - self._told.get(name, -TELL_SECONDS) >= TELL_SECONDS:
            self._told = {name: now} if len(self._told) > _TOLD_MOST else {**self._told, name: now}
            LOG.info("process %d (%s) has changed nf_tables", process, name)
        return True


def is_own_thread(number: int) -> bool:
    """Tell whether *number* is a thread of this process: the kernel names the thread that has changed something."""
    return Path(f"/proc/self/task/{number}").exists()


def _subscribed() -> socket.socket:
    """Return a socket that gets the end of each change.  Raises OSError."""
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        program = ctypes.create_string_buffer(_PROGRAM)
        count = len(_PROGRAM) // struct.calcsize("=HBBI")
        kernel.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", count, ctypes.addressof(program)))
        kernel.bind((0, 0))
        kernel.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        kernel.setblocking(False)
    except OSError:
        kernel.close()
        raise
    return kernel


_GET_INFO = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO
# struct ipt_getinfo: name, valid hooks, five entries, five underflows, number of entries, size
_INFO = struct.Struct("=32sI5I5III")
_FAMILIES = ((socket.AF_INET, socket.IPPROTO_IP), (socket.AF_INET6, socket.IPPROTO_IPV6))
_Size: TypeAlias = tuple[int, ...]


class LegacyWatch(_Watch):
    """Look at the size of the legacy tables every *seconds*, on a thread of its own.

    *on_change* is called when it is another than before; whoever changes something
    calls ``note`` afterwards, so that its own change does not count.  A rule that was
    replaced by one of the same size is not noticed here, but when it is read back.
    """

    def __init__(
        self, on_change: Callable[[], None], tables: tuple[str, ...] = ("filter",), seconds: float = POLL_SECONDS
    ) -> None:
        super().__init__("iptables-watch")
        self._seconds = seconds
        self._on_change = on_change
        self._tables = tables
        self._lock = threading.Lock()
        self._size: _Size = ()
        self._sockets: list[tuple[socket.socket, int]] = []

    def start(self) -> bool:
        """Start watching; False if neither family has such a table."""
        for family, level in _FAMILIES:
            try:
                raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
            except OSError:
                continue  # no such family
            self._sockets.append((raw, level))
        self.note()
        if not any(self._size):
            return False
        self._start(self._run)
        return True

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread and close the sockets."""
        super().stop(timeout)
        for raw, _ in self._sockets:
            raw.close()

    def note(self) -> None:
        """Take the tables as they are."""
        with self._lock:
            self._size = self._read()

    def _run(self) -> None:
        while not self._stopped(self._seconds):
            with self._lock:
                size = self._read()
                changed, self._size = size != self._size, size
            if changed:
                self._on_change()

    def _read(self) -> _Size:
        sizes: list[int] = []
        for raw, level in self._sockets:
            for table in self._tables:
                sizes += _table_size(raw, level, table)
        return tuple(sizes)


def _table_size(raw: socket.socket, level: int, table: str) -> tuple[int, int]:
    """Return number and bytes of a table's entries, zeros if there is no such table.

    ``socket.getsockopt`` cannot pass the question in the buffer of the answer.
    """
    buffer = ctypes.create_string_buffer(_INFO.pack(table.encode(), *[0] * 13), _INFO.size)
    length = ctypes.c_uint32(_INFO.size)
    if _LIBC.getsockopt(raw.fileno(), level, _GET_INFO, buffer, ctypes.byref(length)):
        return 0, 0
    *_, entries, size = _INFO.unpack(buffer.raw)
    return entries, size


_LIBC = ctypes.CDLL(None, use_errno=True)
