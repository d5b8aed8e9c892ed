# SPDX-License-Identifier: Apache-2.0
"""Notice at once when a device of a hybrid plug, or of our own, comes, goes, or is changed.

The kernel tells every change of every link (rtnetlink(7), RTNLGRP_LINK); only those
count that touch the name, the bridge or the filter flags of devices that are asked for:
called as os-vif calls them, where nobody says otherwise.  So a link that goes up and
down wakes nobody, nor does a bridge whose filter is switched on.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from agent.drivers.bridges_netlink import Device, parse_device

LOG = logging.getLogger(__name__)

PREFIXES = ("qbr", "qvb", "qvo", "tap")

_RTMGRP_LINK = 1
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_AF_BRIDGE = 7
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_RECEIVE_SIZE = 1 << 16
_BUFFER = 1 << 20  # bytes; a plug of many ports at once fits
_BUNDLES = 64  # datagrams read before somebody is told


class LinkWatch:
    """Watch the namespace in which it is started, on a thread of its own.

    *on_change* is called once for all that has come together, with the names of the
    devices; it runs on the watch's thread and must not block.  It is called with None
    when the kernel had more to tell than could be taken.  *prefixes* are how the names
    of the devices begin that matter.
    """

    def __init__(
        self, on_change: Callable[[frozenset[str] | None], None], prefixes: tuple[str, ...] = PREFIXES
    ) -> None:
        self._on_change = on_change
        self._prefixes = prefixes
        self._stop_read, self._stop_write = os.pipe()
        self._known: dict[int, Device] = {}
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start watching; from its return on nothing is missed.  Says in the log if there is nothing to watch."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind((0, _RTMGRP_LINK))
            self._socket.setblocking(False)
        except OSError as err:
            LOG.warning("changes of network devices are not noticed at once: %s", err.strerror or err)
            return
        self._thread = threading.Thread(target=self._run, args=(self._socket,), name="link-watch", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread and close the socket."""
        os.write(self._stop_write, b"x")
        if self._thread is not None:
            self._thread.join(timeout)
        if self._socket is not None:
            self._socket.close()

    def _run(self, kernel: socket.socket) -> None:
        poller = select.poll()
        poller.register(self._stop_read, select.POLLIN)
        poller.register(kernel, select.POLLIN)
        while not any(descriptor == self._stop_read for descriptor, _ in poller.poll()):
            names = self._drain(kernel)
            if names is None or names:
                self._on_change(names)

    def _drain(self, kernel: socket.socket) -> frozenset[str] | None:
        """Read what has come; return the names of the devices that matter, None if some may not be known."""
        names: set[str] = set()
        missed = False
        for _ in range(_BUNDLES):
            try:
                data = kernel.recv(_RECEIVE_SIZE)
            except BlockingIOError:
                break
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    LOG.warning("a change of network devices was missed: %s", err.strerror or err)
                self._known.clear()
                missed = True
                continue
            names.update(self._read(data))
        return None if missed else frozenset(names)

    def _read(self, data: bytes) -> Iterator[str]:
        offset = 0
        while offset + _HEADER.size < len(data):
            length, kind, *_ = _HEADER.unpack_from(data, offset)
            message = data[offset + _HEADER.size : offset + length]
            # The bridge family tells the state of ports; what port is in what bridge the other messages tell as well.
            if kind in (_RTM_NEWLINK, _RTM_DELLINK) and message[0] != _AF_BRIDGE:
                yield from self._note(parse_device(message), gone=kind == _RTM_DELLINK)
            offset += (length + 3) & ~3

    def _note(self, device: Device, *, gone: bool) -> list[str]:
        """Remember *device*; return its names, now and before, if it is another in a way that matters."""
        before = self._known.get(device.index)
        if gone:
            self._known.pop(device.index, None)
        elif device.name.startswith(self._prefixes):
            self._known[device.index] = device
        elif before is not None:
            del self._known[device.index]  # renamed
        if not gone and (before == device or _is_filtered_now(before, device)):
            return []
        return [each.name for each in (before, device) if each is not None and each.name.startswith(self._prefixes)]


def _is_filtered_now(before: Device | None, device: Device) -> bool:
    """Tell whether nothing else has changed: this is what we do, and nothing that is to be put right."""
    return before is not None and device.filtered is True and replace(before, filtered=True) == device
