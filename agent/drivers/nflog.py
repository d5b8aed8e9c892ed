# SPDX-License-Identifier: Apache-2.0
"""NFLOG: the netlink messages of ``nfnetlink_log.h``, as far as the packet log needs them.

Only metadata is asked for, never the packet: what a tenant has sent is not looked into
by a process with privileges.  Where the kernel can (``CONFIG_NETFILTER_NETLINK_GLUE_CT``)
it adds the addresses and ports of the packet's connection as it has parsed them itself.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

NETLINK_NETFILTER = 12
RECEIVE_BUFFER = 1 << 20  # bytes; what comes while nobody reads is kept up to here
BATCH_PACKETS = 64  # the kernel sends when it has so many,
BATCH_TIMEOUT = 10  # or after so many hundredths of a second
_READ_SIZE = 1 << 17  # more than the kernel puts into one datagram
_ANSWER_SECONDS = 5.0

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_FAMILY = struct.Struct("!BBH")  # nfgenmsg: family, version, resource (the group)
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("!I")

_SUBSYSTEM = 4 << 8  # NFNL_SUBSYS_ULOG
_PACKET, _CONFIG = _SUBSYSTEM, _SUBSYSTEM | 1
_NLMSG_ERROR = 2
_REQUEST_ACK = 1 | 4  # NLM_F_REQUEST | NLM_F_ACK

_CFG_CMD, _CFG_MODE, _CFG_NLBUFSIZ, _CFG_TIMEOUT, _CFG_QTHRESH, _CFG_FLAGS = range(1, 7)
_BIND = b"\1"
_COPY_META = struct.pack("!IBx", 0, 1)
_FLAG_SEQUENCE, _FLAG_CONNTRACK = 1, 4
_KERNEL_BUFFER = 1 << 16

_TIMESTAMP, _IN, _OUT, _PHYSICAL_IN, _PHYSICAL_OUT = 3, 4, 5, 6, 7  # NFULA_*
_PREFIX, _SEQUENCE, _CONNECTION, _CONNECTION_INFO = 10, 12, 18, 19
_FIRST_REPLY = 3  # IP_CT_IS_REPLY
_NESTED = 0x3FFF  # of an attribute's type, without flags


@dataclass(frozen=True, slots=True)
class Flow:
    """Where a packet came from and went to, as conntrack sees it; what does not apply is None."""

    protocol: int
    source: str
    destination: str
    source_port: int | None = None
    destination_port: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None


@dataclass(frozen=True, slots=True)
class Packet:
    """What the kernel says of a logged packet; devices are interface indices, 0 for none.

    ``sequence`` counts the group's packets: a gap is what was lost.  ``time`` is in Unix
    seconds, None where the kernel took none.
    """

    family: int
    prefix: str
    bridge: int = 0
    physical_in: int = 0
    physical_out: int = 0
    sequence: int | None = None
    time: float | None = None
    flow: Flow | None = None


class LogSocket:
    """A socket that is bound to one NFLOG group.  Raises OSError (EBUSY: somebody else is)."""

    def __init__(self, group: int) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._group = group
        self._requests = 0
        try:
            self.socket.bind((0, 0))
            self.socket.settimeout(_ANSWER_SECONDS)
            _enlarge(self.socket)
            self._ask((_CFG_CMD, _BIND))
            self._ask(
                (_CFG_MODE, _COPY_META),
                (_CFG_NLBUFSIZ, _U32.pack(_KERNEL_BUFFER)),
                (_CFG_TIMEOUT, _U32.pack(BATCH_TIMEOUT)),
                (_CFG_QTHRESH, _U32.pack(BATCH_PACKETS)),
            )
            self.tells_flows = self._set_flags()
            self.socket.setblocking(False)
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        """Unbind and close."""
        self.socket.close()

    def read(self) -> list[Packet]:
        """Return the packets of one datagram.  Raises BlockingIOError, and OSError (ENOBUFS: some were lost)."""
        return list(parse_packets(self.socket.recv(_READ_SIZE)))

    def _set_flags(self) -> bool:
        """Ask for sequence numbers and connections; return whether the kernel tells connections."""
        for flags in (_FLAG_SEQUENCE | _FLAG_CONNTRACK, _FLAG_SEQUENCE):
            try:
                self._ask((_CFG_FLAGS, flags.to_bytes(2)))
            except OSError as err:
                if err.errno != errno.EOPNOTSUPP or flags == _FLAG_SEQUENCE:
                    raise
            else:
                return bool(flags & _FLAG_CONNTRACK)
        return False

    def _ask(self, *attributes: tuple[int, bytes]) -> None:
        self._requests += 1
        body = _FAMILY.pack(socket.AF_UNSPEC, 0, self._group) + b"".join(attribute(*pair) for pair in attributes)
        header = _HEADER.pack(_HEADER.size + len(body), _CONFIG, _REQUEST_ACK, self._requests, 0)
        self.socket.send(header + body)
        while True:  # packets may come before the answer: lost is what nobody can name yet
            for kind, sequence, data in _messages(self.socket.recv(_READ_SIZE)):
                if kind == _NLMSG_ERROR and sequence == self._requests:
                    code = -struct.unpack_from("=i", data)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return


def attribute(kind: int, data: bytes) -> bytes:
    """Return a netlink attribute, padded."""
    size = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(size, kind) + data + bytes(-size % 4)


def parse_packets(data: bytes) -> Iterator[Packet]:
    """Yield the packets of a datagram."""
    for kind, _, body in _messages(data):
        if kind == _PACKET and len(body) >= _FAMILY.size:
            yield _packet(body[0], _attributes(body[_FAMILY.size :]))


def _enlarge(netlink: socket.socket) -> None:
    force = 33  # SO_RCVBUFFORCE: beyond the host's limit, with CAP_NET_ADMIN
    try:
        netlink.setsockopt(socket.SOL_SOCKET, force, RECEIVE_BUFFER)
    except OSError:
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, sequence number and body of each netlink message."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, sequence, data[offset + _HEADER.size : offset + length]
        offset += length + -length % 4


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _NESTED] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + -length % 4
    return found


def _packet(family: int, found: dict[int, bytes]) -> Packet:
    def number(kind: int) -> int:
        return int.from_bytes(found.get(kind, b""))

    stamp = found.get(_TIMESTAMP)
    connection = found.get(_CONNECTION)
    return Packet(
        family,
        found.get(_PREFIX, b"").rstrip(b"\0").decode("ascii", "replace"),
        bridge=number(_IN),
        physical_in=number(_PHYSICAL_IN),
        physical_out=number(_PHYSICAL_OUT),
        sequence=number(_SEQUENCE) if _SEQUENCE in found else None,
        time=None if stamp is None else int.from_bytes(stamp[:8]) + int.from_bytes(stamp[8:]) / 1e6,
        flow=None if connection is None else _flow(connection, reply=number(_CONNECTION_INFO) >= _FIRST_REPLY),
    )


def _flow(connection: bytes, *, reply: bool) -> Flow | None:
    """Return a connection's addresses in the direction of the packet (``nfnetlink_conntrack.h``)."""
    both = _attributes(connection)
    nested = _attributes(both.get(2 if reply else 1, b""))  # CTA_TUPLE_REPLY, CTA_TUPLE_ORIG
    addresses, protocol = _attributes(nested.get(1, b"")), _attributes(nested.get(2, b""))
    source, destination = addresses.get(1, addresses.get(3)), addresses.get(2, addresses.get(4))
    if source is None or destination is None or 1 not in protocol:
        return None

    def number(*kinds: int) -> int | None:
        return next((int.from_bytes(protocol[kind]) for kind in kinds if kind in protocol), None)

    return Flow(
        protocol[1][0],
        _address(source),
        _address(destination),
        source_port=number(2),
        destination_port=number(3),
        icmp_type=number(5, 8),
        icmp_code=number(6, 9),
    )


def _address(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
