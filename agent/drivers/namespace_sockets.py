# SPDX-License-Identifier: Apache-2.0
"""Sockets in namespaces for a process that may not open them itself, and whether they still read what they should.

A socket keeps its namespace alive after the name is gone, and a packet socket stays
open after its device has gone; both then read nothing, without an error.  So who keeps
sockets compares where each is (``place_of_socket``) with what is there now (``place``).
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from dataclasses import dataclass
from typing import Final

from agent.core.errors import ApplyError
from agent.namespace import inside_named

RECEIVE_BUFFER: Final = 4 << 20  # bytes that wait while the reader is busy
BACKLOG: Final = 4096  # connections that wait to be accepted; more than net.core.somaxconn are not kept

_ETH_P_ALL = 0x0003
_SOL_PACKET = 263  # linux/socket.h; of the next two linux/if_packet.h
_PACKET_AUXDATA = 8
_PACKET_IGNORE_OUTGOING = 23
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_SO_NETNS_COOKIE = 71  # Linux 5.14
_SIOCGIFINDEX = 0x8933
_COOKIE = struct.Struct("=Q")
_IFREQ = struct.Struct("=16si20x")  # netdevice(7)
_NAMELESS = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL)  # nothing has the name, or a thing that is no namespace


@dataclass(frozen=True, slots=True)
class Place:
    """Where a socket reads.

    ``cookie`` is the namespace's, which no other gets before the next boot.  ``index``
    is the device's in it; 0 for a socket that is bound to none, and -1 for one whose
    device has gone.
    """

    cookie: int
    index: int


def open_packet_socket(namespace: str, device: str) -> socket.socket:
    """Return a packet(7) socket that gets each frame that comes in on *device*, and sends through it.

    It does not block, gets nothing of what is sent there, and tells with each frame
    (PACKET_AUXDATA) whether its checksum is still to be computed and what VLAN tag was
    taken off.  Raises ApplyError.
    """
    try:
        with inside_named(namespace):
            # Protocol 0: until it is bound it gets nothing, not even from other devices.
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    except OSError as err:
        raise _refused(namespace, "a packet socket", err) from err
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        opened.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        opened.bind((device, _ETH_P_ALL))
    except OSError as err:
        opened.close()
        raise _refused(namespace, f"a packet socket on device {device}", err) from err
    return opened


def open_listener(namespace: str, device: str, address: str, port: int) -> socket.socket:
    """Return a TCP socket that listens on *address*, which *device* of *namespace* has.

    It does not block; what it accepts sends without delay (TCP_NODELAY is inherited).
    A link-local IPv6 address is that of *device* alone.  Raises ApplyError (the address
    is not there, or somebody else listens).
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    where: tuple[str, int] | tuple[str, int, int, int] = (address, port)
    try:
        with inside_named(namespace):
            opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as err:
        raise _refused(namespace, "a listening socket", err) from err
    try:
        index = _index(opened, device)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            where = (address, port, 0, index)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(where)
        opened.listen(BACKLOG)
    except OSError as err:
        opened.close()
        raise _refused(namespace, f"listening on {address} port {port} of device {device}", err) from err
    return opened


def place(namespace: str, device: str) -> Place | None:
    """Return where a socket opened now on *device* would read; None if that is not there.  Raises ApplyError."""
    try:
        with inside_named(namespace), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            return Place(_cookie(probe), _index(probe, device))
    except OSError as err:
        if err.errno in (errno.ENODEV, *_NAMELESS):
            return None
        raise _refused(namespace, f"device {device}", err) from err


def place_of_socket(opened: socket.socket) -> Place:
    """Return where a socket reads: a packet socket's device, the one that a link-local address belongs to, or 0.

    Raises OSError.
    """
    index = 0
    if opened.family == socket.AF_PACKET:
        # The name is looked up in the socket's own namespace, so the thread may be in any.
        name = opened.getsockname()[0]
        index = _index(opened, name) if name else -1
    elif opened.family == socket.AF_INET6:
        index = opened.getsockname()[3]
    return Place(_cookie(opened), index)


def is_in_place(opened: socket.socket, namespace: str, device: str) -> bool:
    """Tell whether *opened* reads what a socket opened now on *device* would read.  Raises ApplyError."""
    there = place(namespace, device)
    try:
        here = place_of_socket(opened)
    except OSError as err:
        raise _refused(namespace, "a socket that is to be looked at", err) from err
    return there is not None and here.cookie == there.cookie and here.index in (0, there.index)


def namespace_cookie(namespace: str) -> int | None:
    """Return the number that no other namespace gets before the next boot; None if there is none of that name.

    Raises ApplyError.
    """
    try:
        with inside_named(namespace), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            return _cookie(probe)
    except OSError as err:
        if err.errno in _NAMELESS:
            return None
        raise _refused(namespace, "its cookie", err) from err


def device_index(namespace: str, device: str) -> int | None:
    """Return a device's index, which a device of that name made later does not have; None if it is not there."""
    there = place(namespace, device)
    return None if there is None else there.index


def _cookie(opened: socket.socket) -> int:
    return _COOKIE.unpack(opened.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE.size))[0]


def _index(opened: socket.socket, device: str) -> int:
    """Return the index of a device of the namespace that *opened* belongs to; raise OSError (ENODEV)."""
    answer = fcntl.ioctl(opened, _SIOCGIFINDEX, _IFREQ.pack(device.encode(), 0))
    return _IFREQ.unpack(answer)[1]


def _refused(namespace: str, what: str, err: OSError) -> ApplyError:
    return ApplyError(f"namespace {namespace}: {what}: {err.strerror or err}")
