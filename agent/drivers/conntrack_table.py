# SPDX-License-Identifier: Apache-2.0
"""The kernel's table of connections over NETLINK_NETFILTER: read by zone, ended one by one.

``<linux/netfilter/nfnetlink_conntrack.h>`` has the numbers.  The codec is our own: a
host has some 100,000 connections, pyroute2 takes 0.2 ms to decode one, and what lies
in other zones is passed over here in half a microsecond.

A deletion without a tuple empties the whole table, and one without a zone ends a
connection of somebody else who has the same addresses.  So there is one way to end a
connection: as it was read, with its original tuple, its zone and its id, by which the
kernel tells it from a later one of the same tuple.  Zone 0 is the host's own and never
touched.

A TCP connection whose entry is gone would get a new one from the next packet of either
side (``nf_conntrack_tcp_loose``), of the side that may speak to the other.  To end it for
both, its entry is kept and marked as ended.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from agent.core.errors import ApplyError
from agent.core.naming import ENDED_CONNMARK
from agent.drivers.refusal import RefusedError

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_NEW, _GET, _DELETE, _STATS = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 2, _SUBSYSTEM | 5
_EXPECTED = 1  # IPS_EXPECTED
_ERROR, _DONE = 2, 3  # NLMSG_...
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300  # NLM_F_...
_SOL_NETLINK, _CAP_ACK = 270, 10

_TUPLE_ORIG, _STATUS, _MARK, _ID, _TUPLE_MASTER, _ZONE, _MARK_MASK = 1, 3, 8, 12, 14, 18, 21  # CTA_...
_SOURCE_PORT = 2  # CTA_PROTO_...
_ICMP_TYPE, _ICMP_CODE, _ICMPV6_TYPE, _ICMPV6_CODE = 5, 6, 8, 9
_STATS_ENTRIES = 1  # CTA_STATS_GLOBAL_ENTRIES

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_FAMILY = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type; in the host's byte order, unlike what follows it
_FIRST = _HEADER.size + _FAMILY.size  # where the attributes of a message begin
_MESSAGE_AND_TUPLE = struct.Struct(f"=I{_FIRST - 4}xH")  # length of a message and of its first attribute
_LENGTH = struct.Struct("=H")
_ERRNO = struct.Struct("=16xi")
_U16, _U32 = struct.Struct(">H"), struct.Struct(">I")
# A tuple's parts, each with a header of four bytes: both addresses, number of the protocol; then its ports.
_V4, _V6 = (struct.Struct(f"8x4x{size}s4x{size}s8xB3x") for size in (4, 16))
_V4_LENGTH = 4 + 2 * (4 + 4)  # of CTA_TUPLE_IP
_PORTS = struct.Struct(">4sH2x4xH2x")
_SOURCE_PORT_HEADER = _ATTRIBUTE.pack(_ATTRIBUTE.size + _U16.size, _SOURCE_PORT)
_ZONE_HEADER = _ATTRIBUTE.pack(_ATTRIBUTE.size + _U16.size, _ZONE)
_ID_HEADER = _ATTRIBUTE.pack(_ATTRIBUTE.size + _U32.size, _ID)
_NESTED_BITS = 0xC000  # NLA_F_NESTED, NLA_F_NET_BYTEORDER: not part of an attribute's type

_BATCH = 128  # deletions in one sendmsg: if all are refused, the answers fit a default receive buffer
_RECEIVE_SIZE = 1 << 16  # the kernel makes no larger parts of a dump than 32 KiB
_TIMEOUT = 10.0  # seconds; the kernel answers at once, but nothing may hang the watchdog

# What reading costs, in microseconds on the machine that it was written on (ratios matter):
# walking over the buckets, passing over a connection in the kernel, having one handed over.
_WALK, _PASS, _READ = 10_000.0, 0.3, 4.0


class Connection(NamedTuple):
    """A connection as its first packet made it.

    ``family`` is 4 or 6; the addresses are in network byte order, 4 or 16 bytes.
    ``source_port`` and ``service`` are None where connections of the protocol are not
    told apart by them; ``service`` is the destination port, or the ICMP type times 256
    plus the code.  Of a connection that is expected because of another (``ct helper``)
    all that is the other's.  ``key`` names it to the kernel.
    """

    zone: int
    family: int
    protocol: int
    source: bytes
    destination: bytes
    source_port: int | None
    service: int | None
    mark: int
    key: bytes


class ConntrackTable:
    """The connections of the network namespace in which *open_socket* makes its sockets."""

    def __init__(self, open_socket: Callable[[], socket.socket] | None = None) -> None:
        self._open = open_socket or open_netfilter
        self._selects = True  # whether the kernel lists only the zone that is asked for: since Linux 6.8

    def dump(self, zones: Collection[int] | None = None) -> Iterator[Connection]:
        """Yield the connections of *zones*, of all zones if None.  Raises ApplyError.

        A connection that is there all the time is yielded; one that comes or goes
        meanwhile may be.
        """
        wanted = frozenset(zones) if zones is not None else None
        with self._open() as sock:
            if wanted is None or not self._one_by_one(sock, len(wanted)):
                yield from _dump(sock, wanted, b"")
                return
            for zone in sorted(wanted):
                yield from self._dump_zone(sock, zone)

    def end(self, connections: Iterable[Connection]) -> int:
        """End *connections*; return how many of them there still were.

        Raises ValueError for a connection without a zone, ApplyError if one could not
        be ended; the others are ended nevertheless.
        """
        return self._write_all(_DELETE, map(_deletion, connections))

    def mark_ended(self, connections: Iterable[Connection]) -> int:
        """Mark *connections* as ended, so that filters drop what belongs to them; return how many there still were.

        Raises as ``end`` does.
        """
        return self._write_all(_NEW, map(_marking, connections))

    def _write_all(self, kind: int, requests: Iterable[tuple[int, bytes]]) -> int:
        pending, done = iter(requests), 0
        refused: RefusedError | None = None
        with self._open() as sock:
            while batch := list(islice(pending, _BATCH)):
                errors = _write(sock, kind, batch)
                done += len(batch) - len(errors)
                refused = next((RefusedError(code, None) for code in errors if code != errno.ENOENT), refused)
        if refused is not None:
            raise refused
        return done

    def flush(self, zones: Collection[int]) -> None:
        """End all connections of *zones*.  Raises ValueError for zone 0, ApplyError if one could not be ended."""
        # Not the kernel's own flush: one that does not know zones there (before 6.8) empties the table.
        for zone in zones:
            _check_zone(zone)
        self.end(list(self.dump(zones)))

    def _one_by_one(self, sock: socket.socket, zones: int) -> bool:
        """Tell whether it is cheaper to have the kernel select each of so many zones."""
        if not self._selects or zones > _READ / _PASS:
            return False
        connections = _count(sock)
        return zones * (_WALK + _PASS * connections) < _WALK + _READ * connections or zones == 1

    def _dump_zone(self, sock: socket.socket, zone: int) -> Iterator[Connection]:
        wanted = frozenset([zone])
        if not self._selects:
            yield from _dump(sock, wanted, b"")
            return

        def others() -> None:
            self._selects = False

        yield from _dump(sock, wanted, _attribute(_ZONE, _U16.pack(zone)), others)


def open_netfilter() -> socket.socket:
    """Return a socket to the connection table of the calling thread's network namespace.  Raises ApplyError."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    except OSError as err:
        raise ApplyError(f"the kernel's connection table cannot be opened: {err.strerror}") from None
    sock.settimeout(_TIMEOUT)
    sock.bind((0, 0))
    sock.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)  # a refusal does not repeat the request
    return sock


# Messages out.


def _message(kind: int, flags: int, sequence: int, family: int, attributes: bytes) -> bytes:
    length = _FIRST + len(attributes)
    return _HEADER.pack(length, kind, flags | _REQUEST, sequence, 0) + _FAMILY.pack(family, 0, 0) + attributes


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _deletion(connection: Connection) -> tuple[int, bytes]:
    """Return family and attributes of the request that ends *connection* and nothing else."""
    _check_zone(connection.zone)
    key = connection.key
    length, kind = _ATTRIBUTE.unpack_from(key) if key else (0, 0)
    named = _ZONE_HEADER + _U16.pack(connection.zone) + b"\0\0" + _ID_HEADER
    if kind & ~_NESTED_BITS != _TUPLE_ORIG or key[length:-4] != named:
        raise ValueError("a connection is ended as it was read, with its tuple, its zone and its id")
    family = socket.AF_INET if connection.family == 4 else socket.AF_INET6
    return family, connection.key


def _marking(connection: Connection) -> tuple[int, bytes]:
    """Return family and attributes of the request that marks *connection* as ended."""
    # Here the kernel does not look at the id: one of the same tuple that came since it was read would be marked, too.
    family, key = _deletion(connection)
    return family, key + _ENDED


def _check_zone(zone: int) -> None:
    if not 0 < zone < 0x10000:
        raise ValueError(f"connections of zone {zone} are not ours to end")


def _write(sock: socket.socket, kind: int, requests: list[tuple[int, bytes]]) -> list[int]:
    """Send requests in one step; return the errno of each that was refused.  Raises ApplyError."""
    # The kernel answers in order, and tells every error but success only where it is asked to.
    last = len(requests)
    data = b"".join(
        _message(kind, _ACK if number == last else 0, number, family, attributes)
        for number, (family, attributes) in enumerate(requests, 1)
    )
    _send(sock, data)
    refused = []
    while True:
        for answered, sequence, answer in _messages(_receive(sock)):
            if answered == _ERROR:
                code = -_ERRNO.unpack_from(answer)[0]
                if code:
                    refused.append(code)
                if sequence == last:
                    return refused


_ENDED = b"".join(_attribute(kind, _U32.pack(ENDED_CONNMARK)) for kind in (_MARK, _MARK_MASK))


# Messages in.


def _dump(
    sock: socket.socket, zones: frozenset[int] | None, select: bytes, others: Callable[[], None] | None = None
) -> Iterator[Connection]:
    """Yield what the kernel lists as far as it lies in *zones*; call *others* if it lists more than these."""
    _send(sock, _message(_GET, _DUMP, 1, socket.AF_UNSPEC, select))
    passed_over = 0
    while True:
        data = _receive(sock)
        offset, end = 0, len(data)
        while offset < end:
            kind = _LENGTH.unpack_from(data, offset + 4)[0]
            if kind in (_DONE, _ERROR):
                _check_end(data[offset:])
                if passed_over and others is not None:
                    others()
                return
            length, tuple_length = _MESSAGE_AND_TUPLE.unpack_from(data, offset)
            reply = offset + _FIRST + tuple_length  # tuples are made of whole words
            after = reply + _LENGTH.unpack_from(data, reply)[0]
            # The zone stands right behind the two tuples (since Linux 3), unless it is 0.
            zone = _U16.unpack_from(data, after + 4)[0] if data[after : after + 4] == _ZONE_HEADER else 0
            if zones is None or zone in zones:
                tuples = data[offset + _FIRST : reply]
                yield _connection(tuples, data[after : offset + length], zone)
            else:
                passed_over += 1
            offset += length + -length % 4


def _connection(original: bytes, others: bytes, zone: int) -> Connection:
    """Return the connection of a message, made of its original tuple and of what follows the tuples."""
    status = mark = 0
    identity = master = None
    offset, end = 0, len(others)
    while offset < end:
        length, kind = _ATTRIBUTE.unpack_from(others, offset)
        if kind == _STATUS:
            status = _U32.unpack_from(others, offset + 4)[0]
        elif kind == _MARK:
            mark = _U32.unpack_from(others, offset + 4)[0]
        elif kind == _ID:
            identity = others[offset : offset + length]
            if not status & _EXPECTED:
                break
        elif kind & ~_NESTED_BITS == _TUPLE_MASTER:
            master = others[offset : offset + length]
        offset += length + -length % 4
    if identity is None:
        raise ApplyError("the kernel listed a connection without an id")
    # The expected one is there because of another and is allowed as long as that one is.
    told = _tuple(original if master is None else master)
    return Connection(zone, *told, mark, original + _ZONE_HEADER + _U16.pack(zone) + b"\0\0" + identity)


def _tuple(data: bytes) -> tuple[int, int, bytes, bytes, int | None, int | None]:
    """Return family, protocol, both addresses, source port and service of a tuple.

    The kernel writes its parts in one order only: source, destination, number of the
    protocol, and what the protocol tells connections apart by.
    """
    if _LENGTH.unpack_from(data, 4)[0] == _V4_LENGTH:
        family, layout = 4, _V4
    else:
        family, layout = 6, _V6
    source, destination, protocol = layout.unpack_from(data)
    if len(data) == layout.size + _PORTS.size:
        kind, source_port, destination_port = _PORTS.unpack_from(data, layout.size)
        if kind == _SOURCE_PORT_HEADER:
            return family, protocol, source, destination, source_port, destination_port
    about = _attributes(data, layout.size, len(data))
    for icmp_type, icmp_code in ((_ICMP_TYPE, _ICMP_CODE), (_ICMPV6_TYPE, _ICMPV6_CODE)):
        if icmp_type in about:
            return family, protocol, source, destination, None, about[icmp_type][0] << 8 | about[icmp_code][0]
    return family, protocol, source, destination, None, None


def _attributes(data: bytes, offset: int, end: int) -> dict[int, bytes]:
    """Return the attributes between *offset* and *end* by type, without their headers."""
    found = {}
    while offset < end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        found[kind & ~_NESTED_BITS] = data[offset + 4 : offset + length]
        offset += length + -length % 4
    return found


def _count(sock: socket.socket) -> int:
    """Return how many connections there are in all zones."""
    _send(sock, _message(_STATS, 0, 1, socket.AF_UNSPEC, b""))
    for kind, _, answer in _messages(_receive(sock)):
        if kind != _ERROR:
            return int(_U32.unpack(_attributes(answer, _FIRST, len(answer))[_STATS_ENTRIES])[0])
        _check_end(answer)
    raise ApplyError("the kernel did not say how many connections there are")


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, sequence number and bytes of each message of a datagram."""
    offset = 0
    while offset < len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, sequence, data[offset : offset + length]
        offset += length + -length % 4


def _check_end(message: bytes) -> None:
    """Raise RefusedError if *message*, the last of an answer, says so."""
    code = -_ERRNO.unpack_from(message)[0]
    if code > 0:
        raise RefusedError(code, "connection table")


def _send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.send(data)
    except OSError as err:
        raise ApplyError(f"the kernel's connection table cannot be asked: {err.strerror or err}") from None


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(_RECEIVE_SIZE)
    except TimeoutError:
        raise ApplyError(f"the kernel's connection table did not answer within {_TIMEOUT:g} s") from None
    except OSError as err:
        raise ApplyError(f"the kernel's connection table: {os.strerror(err.errno or 0)}") from None
