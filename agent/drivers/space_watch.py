# SPDX-License-Identifier: Apache-2.0
"""Notice at once when somebody else changes something in a router's namespace, all of them over two sockets.

With NETLINK_LISTEN_ALL_NSID a socket hears every namespace that has a number in its own
(``ip netns list-id``), and each has one to which a pair of devices leads.  So nothing is
kept open in the namespaces, and what somebody deletes goes.

What the kernel tells is a device, an address or a route that came, went or changed, and
forwarding and reverse path filters (NETCONF); and that the packet filter changed, with who
did it.  What it does by itself names nobody, our own writes' consequences included.
Neighbor entries are not listened to: those that are learned come and go all the time.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from agent.core.errors import ApplyError
from agent.drivers.namespaces import names
from agent.drivers.netlink import RouteSocket, attribute, message, read_attributes
from agent.namespace import FOLDER

LOG = logging.getLogger(__name__)

# linux/netlink.h, linux/rtnetlink.h, linux/net_namespace.h, linux/netfilter/nfnetlink.h
_SOL_NETLINK, _ADD_MEMBERSHIP, _LISTEN_ALL_NSID = 270, 1, 8
_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE = 1, 5, 7, 9, 11  # RTNLGRP_*
_IPV4_NETCONF, _IPV6_NETCONF, _NUMBERS = 24, 25, 28
_ROUTE_GROUPS = (_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE, _IPV4_NETCONF, _IPV6_NETCONF, _NUMBERS)
_NFNLGRP_NFTABLES = 7
_NEWGEN = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN
_PROC_PID = 2  # NFTA_GEN_PROC_PID
_NEW_NUMBER, _GONE_NUMBER, _GET_NUMBER = 88, 89, 90  # RTM_*NSID
_NUMBER, _DESCRIPTOR = 1, 3  # NETNSA_*
_BODY = bytes(4)  # rtgenmsg, and what aligns the attributes after it
_NFGENMSG = 4  # octets
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_INT = struct.Struct("=i")
_RECEIVE_SIZE = 1 << 16
_BUFFER = 1 << 21  # octets
_SO_RCVBUFFORCE = 33


class Changed(NamedTuple):
    """Namespaces in which devices, addresses or routes changed, and those in which rules did."""

    devices: frozenset[str]
    rules: frozenset[str]


class SpaceWatch:
    """Watch the namespaces in *folder* whose names *is_wanted*, from the namespace in which it is started.

    *on_change* is called once for all that has come together; *started* is asked whether
    a process is one of our commands.  All run on the watch's thread and must not block.
    """

    def __init__(
        self,
        on_change: Callable[[Changed], None],
        started: Callable[[int], bool],
        is_wanted: Callable[[str], bool],
        folder: Path = FOLDER,
    ) -> None:
        self._on_change = on_change
        self._started = started
        self._is_wanted = is_wanted
        self._folder = folder
        self._names: dict[int, str] = {}  # of what has a number; "" for what is not wanted
        self._stop_read, self._stop_write = os.pipe()
        self._sockets: tuple[socket.socket, ...] = ()
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Start watching; from its return on nothing is missed.  Says in the log if that is not possible."""
        try:
            self._sockets = (
                _subscribed(_NETLINK_ROUTE, _ROUTE_GROUPS),
                _subscribed(_NETLINK_NETFILTER, (_NFNLGRP_NFTABLES,)),
            )
        except OSError as err:
            LOG.warning("changes in routers' namespaces are not noticed at once: %s", err.strerror or err)
            return False
        self._thread = threading.Thread(target=self._run, name="space-watch", daemon=True)
        self._thread.start()
        return True

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread and close the sockets."""
        os.write(self._stop_write, b"x")
        if self._thread is not None:
            self._thread.join(timeout)
        for each in self._sockets:
            each.close()

    def _run(self) -> None:
        route, rules = self._sockets
        poller = select.poll()
        for descriptor in (self._stop_read, route.fileno(), rules.fileno()):
            poller.register(descriptor, select.POLLIN)
        while not any(descriptor == self._stop_read for descriptor, _ in poller.poll()):
            changed = Changed(self._drain(route, self._of_devices), self._drain(rules, self._of_rules))
            if any(changed):
                self._on_change(changed)

    def _drain(self, kernel: socket.socket, read: Callable[[bytes, int | None], Iterator[str]]) -> frozenset[str]:
        """Read what has come; return the namespaces that it is about, all if some was lost."""
        found: set[str] = set()
        while True:
            try:
                data, ancillary, _, _ = kernel.recvmsg(_RECEIVE_SIZE, socket.CMSG_SPACE(_INT.size))
            except BlockingIOError:
                return frozenset(found - {""})
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    LOG.warning("a change in routers' namespaces was missed: %s", err.strerror or err)
                self._names.clear()
                found.update(filter(self._is_wanted, names(self._folder)))
                continue
            found.update(read(data, _number_of(ancillary)))

    def _of_devices(self, data: bytes, number: int | None) -> Iterator[str]:
        for kind, _, sender, body in _messages(data):
            if number is not None and sender != os.getpid():
                yield self._name(number)
            elif number is None and kind in (_NEW_NUMBER, _GONE_NUMBER):
                named = read_attributes(body, len(_BODY)).get(_NUMBER)
                if named is not None:
                    yield self._names.pop(_INT.unpack(named)[0], "")

    def _of_rules(self, data: bytes, number: int | None) -> Iterator[str]:
        for kind, _, _, body in _messages(data):
            if number is None or kind != _NEWGEN:
                continue
            process = int.from_bytes(read_attributes(body, _NFGENMSG).get(_PROC_PID, b""))
            if not self._started(process):
                yield self._name(number)

    def _name(self, number: int) -> str:
        """Return the name of a namespace, "" if it has none that is wanted."""
        if number not in self._names:
            try:
                self._names.update(self._numbered())
            except (OSError, ApplyError) as err:
                LOG.warning("numbers of namespaces cannot be read: %s", err)
        return self._names.setdefault(number, "")

    def _numbered(self) -> Iterator[tuple[int, str]]:
        """Yield the numbers of what is wanted, with the names.  Raises OSError, ApplyError."""
        kernel = RouteSocket()
        try:
            for name in filter(self._is_wanted, names(self._folder)):
                try:
                    descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                try:
                    asked = message(_GET_NUMBER, 0, _BODY + attribute(_DESCRIPTOR, _INT.pack(descriptor)))
                    (answer,) = kernel.ask([asked], _read_number)
                finally:
                    os.close(descriptor)
                if isinstance(answer, int) and answer >= 0:
                    yield answer, name
        finally:
            kernel.close()


def _number_of(ancillary: Iterable[tuple[int, int, bytes]]) -> int | None:
    """Return the number of the namespace that a datagram is from, None if it is from the socket's own."""
    for level, kind, value in ancillary:
        if (level, kind) == (_SOL_NETLINK, _LISTEN_ALL_NSID):
            return int(_INT.unpack(value)[0])
    return None


def _read_number(body: bytes) -> int:
    value = read_attributes(body, len(_BODY)).get(_NUMBER)
    return -1 if value is None else int(_INT.unpack(value)[0])


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield type, flags, sender's port and payload of each message of one datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, _, sender = _HEADER.unpack_from(data, offset)
        yield kind, flags, sender, data[offset + _HEADER.size : offset + length]
        offset += max((length + 3) & ~3, _HEADER.size)


def _subscribed(protocol: int, groups: tuple[int, ...]) -> socket.socket:
    """Return a socket that hears all namespaces with a number.  Raises OSError."""
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        kernel.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        kernel.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)
        kernel.bind((0, 0))
        for group in groups:
            kernel.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        kernel.setblocking(False)
    except OSError:
        kernel.close()
        raise
    return kernel
