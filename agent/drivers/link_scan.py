# SPDX-License-Identifier: Apache-2.0
"""Is any device ours?  Asked of the kernel without a library.

A host whose ports are all plugged directly has no device of ours, and pyroute2,
which the device table needs, is 11 MB and 0.15 s of CPU at each start.  So the
kernel's list is searched for our mark first, as bytes, and the table is loaded when
something is found or is to be written.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Collection, Sequence

from agent.core.errors import ApplyError
from agent.drivers.devices import Device, DeviceTable, Request

# linux/netlink.h, linux/rtnetlink.h
_NETLINK_ROUTE = 0
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x01, 0x10, 0x300
_RTM_GETLINK = 18
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_NO_DEVICE_GIVEN = struct.Struct("=BxHiII")  # struct ifinfomsg
_RECEIVE_SIZE = 1 << 16
_TIMEOUT = 10.0  # seconds; the kernel answers at once, but nothing may hang the watchdog


class LazyTable:
    """A device table that is made by *load* when it is first needed.  See ``DeviceTable``."""

    def __init__(self, load: Callable[[], DeviceTable]) -> None:
        self._load = load
        self._loaded: DeviceTable | None = None

    def marked(self, mark: str, but_not: str) -> list[Device]:
        """List the devices whose alias begins with *mark* but not with *but_not*."""
        if self._loaded is None and not any_marked(mark, but_not):
            return []
        return self._table().marked(mark, but_not)

    def find(self, *, names: Collection[str] = (), indexes: Collection[int] = ()) -> list[Device]:
        """Return those of the named and numbered devices that exist."""
        return self._table().find(names=names, indexes=indexes) if names or indexes else []

    def write(self, requests: Sequence[Request]) -> list[ApplyError | None]:
        """Carry out *requests* in few steps, in their order; return for each what went wrong, or None."""
        return self._table().write(requests)

    def close_host_side(self, name: str) -> None:
        """Keep the host's own IPv6 out of a device."""
        self._table().close_host_side(name)

    def switch_tx_checksum(self, name: str, enabled: bool) -> None:
        """Leave a veth's transmit checksums to its peer, or compute them."""
        self._table().switch_tx_checksum(name, enabled)

    def _table(self) -> DeviceTable:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded


def any_marked(mark: str, but_not: str) -> bool:
    """Tell whether a device of the thread's namespace may have an alias with *mark* but not with *but_not*.

    May say yes where there is none (the mark stands in another attribute, or the list
    changed while it was read), never no where there is one.  Raises ApplyError.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as kernel:
            kernel.settimeout(_TIMEOUT)
            body = _NO_DEVICE_GIVEN.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
            header = _HEADER.pack(_HEADER.size + len(body), _RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
            kernel.send(header + body)
            return _search(kernel, mark.encode(), but_not.encode())
    except OSError as err:
        raise ApplyError(f"the kernel's list of network devices: {err.strerror or err}") from err


def _search(kernel: socket.socket, wanted: bytes, unwanted: bytes) -> bool:
    while True:
        data, offset = kernel.recv(_RECEIVE_SIZE), 0
        while offset < len(data):
            length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
            message = data[offset : offset + length]
            if kind == _NLMSG_ERROR or flags & _NLM_F_DUMP_INTR:
                return True  # whoever reads it properly knows what to do about it
            if kind == _NLMSG_DONE:
                return False
            if wanted in message and unwanted not in message:
                return True
            offset += (length + 3) & ~3
