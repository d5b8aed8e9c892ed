# SPDX-License-Identifier: Apache-2.0
"""Connections whose addresses are translated, or were to be (IPv4), in the namespace that the thread is in.

``<linux/netfilter/nfnetlink_conntrack.h>`` has the numbers.  A connection knows the
addresses of its first packet and those that answers have: where they are not each
other's mirror image, something was translated, and the entry goes on doing so for as
long as it lives, whatever becomes of the rule.

It is ended as it was read, with its original tuple, its zone if it has one, and its id, by
which the kernel tells it from a later one of the same tuple.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from agent.drivers.bridges_netlink import read_attributes
from agent.drivers.kernel_socket import HEADER, KernelSocket
from agent.drivers.refusal import RefusedError

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE, _STATS = _SUBSYSTEM | 1, _SUBSYSTEM | 2, _SUBSYSTEM | 5  # IPCTNL_MSG_CT_*
_ERROR, _DONE = 2, 3  # NLMSG_*
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300  # NLM_F_*
_ORIGINAL, _REPLY, _STATUS, _ID, _ZONE = 1, 2, 3, 12, 18  # CTA_*
_TRANSLATED = 0x10 | 0x20  # IPS_SRC_NAT, IPS_DST_NAT
_IP, _PROTOCOL = 1, 2  # CTA_TUPLE_*
_SOURCE, _DESTINATION = 1, 2  # CTA_IP_V4_*
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3  # CTA_PROTO_*
_ENTRIES = 1  # CTA_STATS_GLOBAL_ENTRIES
_NESTED = 0x8000

_FAMILY = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_STATUS_AT = struct.Struct(">4xI")  # an attribute's value behind its header
# What every message begins with: nfgenmsg, the original tuple, its addresses, each behind a header.
_SOURCE_AT, _DESTINATION_AT = slice(16, 20), slice(24, 28)
_ERRNO = struct.Struct("=i")
_BATCH = 128  # deletions in one sendmsg: the answers fit a default receive buffer


class Side(NamedTuple):
    """A packet's protocol, addresses (4 octets) and ports (0 where the protocol has none)."""

    protocol: int
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int


class TranslatedConnection(NamedTuple):
    """A connection: its first packet as it came in, and an answer as it comes in; ``key`` names it to the kernel."""

    original: Side
    reply: Side
    key: bytes

    @property
    def has_other_destination(self) -> bool:
        """Tell whether it went to somebody else than it was sent to."""
        return self.original.destination != self.reply.source or (
            self.original.destination_port != self.reply.source_port
        )

    @property
    def has_other_source(self) -> bool:
        """Tell whether it seems to come from another address."""
        return self.original.source != self.reply.destination


class TranslatedTable:
    """The connections of the namespace in which it is first used; a context manager.  All methods raise ApplyError."""

    def __init__(self) -> None:
        self._kernel = KernelSocket(_NETLINK_NETFILTER, "the kernel's connection table")

    def __enter__(self) -> TranslatedTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._kernel.close()

    def count(self) -> int:
        """Return how many connections there are, translated or not: to list them takes 10 ms even if there are none."""
        self._kernel.send(_message(_STATS, 0, 1, b""))
        for kind, _, _, data in self._kernel.receive():
            if kind != _ERROR:
                return int.from_bytes(dict(read_attributes(data, _FAMILY.size)).get(_ENTRIES, b""))
            _check(data)
        return 0

    def dump(self, asked: Callable[[bytes, bytes], bool]) -> list[TranslatedConnection]:
        """Return those that are translated, and those that *asked* takes by source and destination as they began."""
        self._kernel.send(_message(_GET, _DUMP, 1, b""))
        found: list[TranslatedConnection] = []
        while True:
            for kind, _, _, data in self._kernel.receive():
                if kind in (_DONE, _ERROR):
                    _check(data)
                    return found
                if _is_translated(data) or asked(data[_SOURCE_AT], data[_DESTINATION_AT]):
                    found += _read(data)

    def end(self, connections: Iterable[TranslatedConnection]) -> int:
        """End *connections*; return how many of them there still were."""
        pending, ended = iter(connections), 0
        refused: RefusedError | None = None
        while batch := list(islice(pending, _BATCH)):
            for code in self._end(batch):
                ended += code == 0
                if code not in (0, errno.ENOENT):
                    refused = RefusedError(code, "connection table")
        if refused is not None:
            raise refused
        return ended

    def _end(self, batch: Sequence[TranslatedConnection]) -> Iterator[int]:
        """Yield the answer to each deletion, 0 or an errno."""
        self._kernel.send(b"".join(_message(_DELETE, _ACK, number, one.key) for number, one in enumerate(batch, 1)))
        answered = 0
        while answered < len(batch):
            for kind, _, _, data in self._kernel.receive():
                if kind == _ERROR:
                    answered += 1
                    yield -_ERRNO.unpack_from(data)[0]


def _message(kind: int, flags: int, number: int, attributes: bytes) -> bytes:
    body = _FAMILY.pack(socket.AF_INET, 0, 0) + attributes
    return HEADER.pack(HEADER.size + len(body), kind, flags | _REQUEST, number, 0) + body


def _is_translated(data: bytes) -> bool:
    """Look for the status, which stands right behind the tuples and the zone, without taking anything apart."""
    offset, end = _FAMILY.size, len(data)
    while offset < end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if kind == _STATUS:
            return bool(_STATUS_AT.unpack_from(data, offset)[0] & _TRANSLATED)
        offset += (length + 3) & ~3
    return False


def _read(data: bytes) -> Iterator[TranslatedConnection]:
    """Yield the connection of a message."""
    found = dict(read_attributes(data, _FAMILY.size))
    if not found.keys() >= {_ORIGINAL, _REPLY, _ID}:
        return
    key = _attribute(_ORIGINAL | _NESTED, found[_ORIGINAL])
    if _ZONE in found:
        key += _attribute(_ZONE, found[_ZONE])
    yield TranslatedConnection(_side(found[_ORIGINAL]), _side(found[_REPLY]), key + _attribute(_ID, found[_ID]))


def _side(data: bytes) -> Side:
    parts = dict(read_attributes(data))
    addresses = dict(read_attributes(parts.get(_IP, b"")))
    protocol = dict(read_attributes(parts.get(_PROTOCOL, b"")))
    return Side(
        int.from_bytes(protocol.get(_NUMBER, b"")),
        addresses.get(_SOURCE, b""),
        int.from_bytes(protocol.get(_SOURCE_PORT, b"")),
        addresses.get(_DESTINATION, b""),
        int.from_bytes(protocol.get(_DESTINATION_PORT, b"")),
    )


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _check(data: bytes) -> None:
    """Raise RefusedError if an answer says that something was not done."""
    code = -_ERRNO.unpack_from(data)[0] if len(data) >= _ERRNO.size else 0
    if code > 0:
        raise RefusedError(code, "connection table")
