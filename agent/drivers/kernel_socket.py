# SPDX-License-Identifier: Apache-2.0
"""A netlink(7) socket for requests and their answers, for those who pack and read messages themselves."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

from agent.core.errors import ApplyError

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
RECEIVE_SIZE = 1 << 16  # the kernel makes no larger parts of a dump than 32 KiB
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_TIMEOUT = 10.0  # seconds; the kernel answers at once, but nothing may hang the watchdog

_Result = TypeVar("_Result")


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield type, flags, sequence number and payload of each message of one datagram."""
    offset = 0
    while offset < len(data):
        length, kind, flags, number, _ = HEADER.unpack_from(data, offset)
        yield kind, flags, number, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


class KernelSocket:
    """Opened when it is first used, in the namespace of the thread that uses it; used by one thread at a time.

    *protocol* is a ``NETLINK_...`` number; *what* names in errors what is asked for.
    """

    def __init__(self, protocol: int, what: str) -> None:
        self._protocol = protocol
        self._what = what
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Close the socket; the next use opens another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, data: bytes) -> None:
        """Send requests in one step.  Raises ApplyError."""
        self._talk(lambda kernel: kernel.send(data))

    def receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield the ``messages`` of one datagram.  Raises ApplyError, after which the socket is another one."""
        yield from messages(self._talk(lambda kernel: kernel.recv(RECEIVE_SIZE)))

    def _talk(self, how: Callable[[socket.socket], _Result]) -> _Result:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, self._protocol)
                self._socket.settimeout(_TIMEOUT)
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # answers without the question in them
            return how(self._socket)
        except OSError as err:
            self.close()  # late answers must not be taken for those of the next request
            raise ApplyError(f"{self._what}: {err.strerror or err}") from err
