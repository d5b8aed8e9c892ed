# SPDX-License-Identifier: Apache-2.0
"""rtnetlink(7) in batches, packed and read by those who use it.

The kernel works through all messages of one ``sendmsg`` before it returns, so what
is sent together is done in one step: a process that is killed leaves all of it or
nothing.  pyroute2 sends one request at a time, takes 0.2 to 0.4 ms to decode an
answer, and 11 MB and 0.15 s to be loaded; with hundreds of namespaces to be read that
counts.

A socket belongs to the namespace in which it is made, wherever it is used, and to one
thread at a time.  It joins no multicast group, so that changes of others are not
queued for it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from agent.core.errors import ApplyError
from agent.drivers.refusal import RefusedError

# linux/netlink.h
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x01, 0x04, 0x10, 0x300
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF
# netdevice(7)
_SIOCGIFNAME, _SIOCGIFINDEX = 0x8910, 0x8933
_IFREQ = struct.Struct("=16si20x")
_NAME_SIZE = 16  # IFNAMSIZ: a name and the zero after it

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i16x")  # struct nlmsgerr, without the question repeated in it
_NUMBER = struct.Struct("=I")
_BATCH = 64  # messages in one sendmsg
_RECEIVE_SIZE = 1 << 16  # the kernel makes no larger parts of a dump than 32 KiB
_RECEIVE_BUFFER = 1 << 20  # bytes; holds the answers to a batch, each a whole link
_SO_RCVBUFFORCE = 33
_TIMEOUT = 10.0  # seconds; the kernel answers at once, but nothing may hang the watchdog
_DUMP_TRIES = 10

_Frozen = TypeVar("_Frozen")


def attribute(kind: int, value: bytes) -> bytes:
    """Return a netlink attribute."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return a netlink attribute that holds others."""
    return attribute(kind | _NESTED, b"".join(attributes))


def read_attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return type and value of the netlink attributes from *offset* on."""
    found = {}
    end = len(data) - _ATTRIBUTE.size
    while offset <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def message(kind: int, flags: int, body: bytes) -> bytes:
    """Return a request whose number is still to be set."""
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 0, 0) + body


class RouteSocket:
    """A netlink socket for links, addresses, routes and neighbours of the thread's namespace.

    After an OSError (time-out, answers lost) it is in an unknown state: close it.
    Making one raises OSError.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(_TIMEOUT)
        self._sequence = 0
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        with contextlib.suppress(PermissionError):  # who only reads needs none
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor: device requests (netdevice(7)) on it are of its namespace."""
        return self._socket.fileno()

    def index_of(self, device: str) -> int | None:
        """Return the index of a device of the namespace, None if it is not there.  Raises OSError."""
        if len(device.encode()) >= _NAME_SIZE:
            return None
        try:
            answer = fcntl.ioctl(self, _SIOCGIFINDEX, _IFREQ.pack(device.encode(), 0))
        except OSError as err:
            if err.errno == errno.ENODEV:
                return None
            raise
        return _IFREQ.unpack(answer)[1]

    def name_of(self, index: int) -> str | None:
        """Return the name of a device of the namespace, None if it is not there.  Raises OSError."""
        try:
            answer = fcntl.ioctl(self, _SIOCGIFNAME, _IFREQ.pack(b"", index))
        except OSError as err:
            if err.errno in (errno.ENODEV, errno.ENXIO):
                return None
            raise
        return _IFREQ.unpack(answer)[0].rstrip(b"\0").decode(errors="replace")

    def dump(self, kind: int, body: bytes, freeze: Callable[[bytes], _Frozen | None]) -> list[_Frozen]:
        """Return what *freeze* makes of the payload of each message that the kernel lists, without None.

        Raises RefusedError, OSError, and ApplyError if the list keeps changing.
        """
        for _ in range(_DUMP_TRIES):
            found = self._dump(message(kind, _NLM_F_DUMP, body), freeze)
            if found is not None:
                return found
        raise ApplyError("what the kernel lists kept changing while it was read")

    def ask(self, requests: Iterable[bytes], freeze: Callable[[bytes], _Frozen]) -> list[_Frozen | RefusedError]:
        """Send requests with one answer each; return what *freeze* makes of the answers.  Raises OSError."""
        answers: list[_Frozen | RefusedError] = []
        for batch in _batches([request] for request in requests):
            first = self._send([request for (request,) in batch])
            found: dict[int, _Frozen | RefusedError] = {}
            while len(found) < len(batch):
                for kind, flags, number, data in self._receive():
                    if number >= first:
                        refusal = _refusal(flags, data) if kind == _NLMSG_ERROR else None
                        found[number] = refusal or freeze(data)
            answers += [found[first + place] for place in range(len(batch))]
        return answers

    def write(self, steps: Iterable[Sequence[bytes]]) -> list[RefusedError | None]:
        """Send *steps*, the messages of each together; return for each the first that was refused.

        A message that follows a refused one is sent nevertheless.  Raises OSError.
        """
        refused: list[RefusedError | None] = []
        for batch in _batches(steps):
            messages = [each for step in batch for each in step]
            # The kernel answers in order, tells every error, and success only where
            # it is asked to: the last answer says that all others have come.
            messages[-1] = _with_flags(messages[-1], _NLM_F_ACK)
            first = self._send(messages)
            errors = self._errors(first, first + len(messages) - 1)
            for step in batch:
                sequence = range(first, first + len(step))
                refused.append(next((errors[number] for number in sequence if number in errors), None))
                first += len(step)
        return refused

    def _errors(self, first: int, last: int) -> dict[int, RefusedError]:
        errors: dict[int, RefusedError] = {}
        while True:
            for kind, flags, number, data in self._receive():
                refusal = _refusal(flags, data) if kind == _NLMSG_ERROR else None
                if refusal is not None and number >= first:
                    errors[number] = refusal
                if number == last:
                    return errors

    def _dump(self, request: bytes, freeze: Callable[[bytes], _Frozen | None]) -> list[_Frozen] | None:
        """Return what is listed, or None if it changed in between."""
        sequence = self._send([request])
        interrupted = False
        found: list[_Frozen] = []
        while True:
            for kind, flags, number, data in self._receive():
                if number != sequence:
                    continue
                interrupted |= bool(flags & _NLM_F_DUMP_INTR)
                refusal = _refusal(flags, data) if kind == _NLMSG_ERROR else None
                if refusal is not None:
                    raise refusal
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return None if interrupted else found
                frozen = freeze(data)
                if frozen is not None:
                    found.append(frozen)

    def _send(self, messages: Sequence[bytes]) -> int:
        """Send *messages* in one step, numbered; return the number of the first."""
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(b"".join(_with_number(each, number) for number, each in enumerate(messages, first)))
        return first

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield type, flags, number and payload of the messages of one datagram."""
        data, offset = self._socket.recv(_RECEIVE_SIZE), 0
        while offset < len(data):
            length, kind, flags, number, _ = _HEADER.unpack_from(data, offset)
            yield kind, flags, number, data[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3


def _refusal(flags: int, data: bytes) -> RefusedError | None:
    (code,) = _ERROR.unpack_from(data)
    if code == 0:
        return None
    told = read_attributes(data, _ERROR.size) if flags & _NLM_F_ACK_TLVS and flags & _NLM_F_CAPPED else {}
    detail = told.get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    return RefusedError(-code, detail or os.strerror(-code))


def _with_number(data: bytes, number: int) -> bytes:
    return data[:8] + _NUMBER.pack(number) + data[12:]


def _with_flags(data: bytes, more: int) -> bytes:
    length, kind, flags, number, port = _HEADER.unpack_from(data)
    return _HEADER.pack(length, kind, flags | more, number, port) + data[_HEADER.size :]


def _batches(steps: Iterable[Sequence[bytes]]) -> Iterator[list[Sequence[bytes]]]:
    """Yield *steps* in batches, none of them cut in two; they are made no sooner than they are sent."""
    batch: list[Sequence[bytes]] = []
    size = 0
    for step in steps:
        if batch and size + len(step) > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(step)
        size += len(step)
    if batch:
        yield batch
