# SPDX-License-Identifier: Apache-2.0
"""The elements of our nf_tables map and set, over NETLINK_NETFILTER: ``linux/netfilter/nf_tables.h``.

A port that comes or goes is one element.  ``nft`` would take two processes for it, each
of which reads all tables of the host: 15 ms with 400 ports, here 2 ms.  What tables and
chains are is left to ``nft``.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from agent.core.errors import ApplyError
from agent.drivers.bridges_netlink import read_attributes
from agent.drivers.conntrack_table import open_netfilter
from agent.drivers.kernel_socket import HEADER, RECEIVE_SIZE, messages
from agent.drivers.refusal import RefusedError
from agent.drivers.zones_text import Zones, is_untracked, zone_of

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_NEW_ELEMENT, _GET_ELEMENT, _DELETE_ELEMENT = (_SUBSYSTEM << 8 | number for number in (12, 13, 14))  # NFT_MSG_*SETELEM
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # NFNL_MSG_BATCH_*
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP_INTERRUPTED, _DUMP, _CREATE = 0x1, 0x4, 0x10, 0x300, 0x400  # NLM_F_*
_NFPROTO_INET = 1
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEMENT = 1, 2, 3, 1  # NFTA_SET_ELEM_LIST_*, NFTA_LIST_ELEM
_KEY, _DATA, _VALUE = 1, 2, 1  # NFTA_SET_ELEM_*, NFTA_DATA_VALUE
_NESTED = 0x8000
_NAME_SIZE = 16  # IFNAMSIZ: a key is a device's name, filled up with zeros

_NFGENMSG = struct.Struct("!BBH")  # family, version, resource
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_TABLE, _ZONES, _UNTRACKED = "hostplane", "zones", "untracked"
_TOGETHER = 512  # elements in one message: a list of attributes has at most 64 KiB
_SEND_BUFFER = 1 << 20  # bytes: a transaction goes out in one piece
_SO_SNDBUFFORCE = 32
_DUMP_TRIES = 10


class ElementSocket:
    """Zones of bridges in the namespace of the calling thread.  All methods raise ApplyError."""

    def __init__(self, open_socket: Callable[[], socket.socket] = open_netfilter) -> None:
        self._open = open_socket

    def zones(self) -> dict[str, str]:
        """Return the zone of each bridge; one that is in the set only has no zone, which is written 0."""
        with self._open() as kernel:
            zones = {name: int.from_bytes(data, sys.byteorder) for name, data in _list(kernel, _ZONES)}
            untracked = {name for name, _ in _list(kernel, _UNTRACKED)}
        return join(zones, untracked)

    def write(self, present: Zones, changes: Mapping[str, str | None]) -> None:
        """Set the zones of some bridges (None: take it away) in one transaction; *present* are those that are there."""
        gone, stale, zones, untracked = [], [], [], []
        for bridge, value in changes.items():
            old = present.get(bridge, "")
            if zone_of(old):
                gone.append(_element(bridge))
            if is_untracked(old):
                stale.append(_element(bridge))
            if value is not None:
                zones.append(_element(bridge, zone_of(value)))
            if value is not None and is_untracked(value):
                untracked.append(_element(bridge))
        requests = [
            *_requests(_DELETE_ELEMENT, 0, _ZONES, gone),
            *_requests(_DELETE_ELEMENT, 0, _UNTRACKED, stale),
            *_requests(_NEW_ELEMENT, _CREATE, _ZONES, zones),
            *_requests(_NEW_ELEMENT, _CREATE, _UNTRACKED, untracked),
        ]
        if requests:
            with self._open() as kernel:
                _commit(kernel, requests)


def join(zones: Mapping[str, int], untracked: Iterable[str]) -> dict[str, str]:
    """Return what map and set say together, as text."""
    marked = frozenset(untracked)
    names = {**zones, **dict.fromkeys(marked)}
    return {name: f"{zones.get(name, 0)}{' notrack' * (name in marked)}" for name in names}


# Messages out.


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _element(name: str, zone: int | None = None) -> bytes:
    element = _attribute(_KEY | _NESTED, _attribute(_VALUE, name.encode().ljust(_NAME_SIZE, b"\0")))
    if zone is not None:
        element += _attribute(_DATA | _NESTED, _attribute(_VALUE, zone.to_bytes(2, sys.byteorder)))
    return _attribute(_LIST_ELEMENT | _NESTED, element)


def _of_set(name: str) -> bytes:
    return _attribute(_LIST_TABLE, _TABLE.encode() + b"\0") + _attribute(_LIST_SET, name.encode() + b"\0")


def _requests(kind: int, flags: int, name: str, elements: Iterable[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, flags and attributes of the messages that do the same with many *elements*."""
    pending = iter(elements)
    while together := b"".join(islice(pending, _TOGETHER)):
        yield kind, flags, _of_set(name) + _attribute(_LIST_ELEMENTS | _NESTED, together)


def _message(kind: int, flags: int, sequence: int, attributes: bytes = b"") -> bytes:
    batch = kind in (_BATCH_BEGIN, _BATCH_END)
    about = _NFGENMSG.pack(0, 0, _SUBSYSTEM) if batch else _NFGENMSG.pack(_NFPROTO_INET, 0, 0)
    length = HEADER.size + len(about) + len(attributes)
    return HEADER.pack(length, kind, flags | _REQUEST, sequence, 0) + about + attributes


def _commit(kernel: socket.socket, requests: Sequence[tuple[int, int, bytes]]) -> None:
    """Have all of *requests* done, or none."""
    last = len(requests)
    parts = [_message(_BATCH_BEGIN, 0, 0)]
    parts += (_message(kind, flags | _ACK, number, about) for number, (kind, flags, about) in enumerate(requests, 1))
    parts.append(_message(_BATCH_END, 0, last + 1))
    kernel.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
    _send(kernel, b"".join(parts))
    while True:  # until the last is answered: refusals come first, in the order of the requests
        for kind, _, sequence, data in _receive(kernel):
            if kind == _NLMSG_ERROR:
                _check(data)
                if sequence == last:
                    return


# Messages in.


def _list(kernel: socket.socket, name: str) -> list[tuple[str, bytes]]:
    """Return key and data of each element of a set or map of ours; nothing if there is none."""
    for sequence in range(1, _DUMP_TRIES + 1):
        _send(kernel, _message(_GET_ELEMENT, _DUMP, sequence, _of_set(name)))
        found: list[tuple[str, bytes]] = []
        if _collect(kernel, sequence, found):
            return found
    raise ApplyError("nf_tables: the zones of bridges kept changing while they were read")


def _collect(kernel: socket.socket, sequence: int, found: list[tuple[str, bytes]]) -> bool:
    """Add what is listed to *found*; return False if it changed meanwhile."""
    interrupted = False
    while True:
        for kind, flags, number, data in _receive(kernel):
            if number != sequence:
                continue  # of a dump that was given up
            interrupted |= bool(flags & _DUMP_INTERRUPTED)
            if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                if -_ERROR.unpack_from(data)[0] != errno.ENOENT:  # there is no such set
                    _check(data)
                return not interrupted
            found += _elements(data)


def _elements(message: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield key and data of each element in a message."""
    for kind, elements in read_attributes(message, _NFGENMSG.size):
        if kind != _LIST_ELEMENTS:
            continue
        for _, element in read_attributes(elements):
            parts = dict(read_attributes(element))
            if _KEY in parts:  # else it stands for all names that are not listed
                yield _value(parts[_KEY]).rstrip(b"\0").decode(errors="replace"), _value(parts.get(_DATA, b""))


def _value(data: bytes) -> bytes:
    return dict(read_attributes(data)).get(_VALUE, b"")


def _check(data: bytes) -> None:
    """Raise RefusedError if an answer says that something was not done."""
    code = -_ERROR.unpack_from(data)[0]
    if code:
        raise RefusedError(code, "nf_tables: zones of bridges")


def _send(kernel: socket.socket, data: bytes) -> None:
    try:
        kernel.send(data)
    except OSError as err:
        raise ApplyError(f"nf_tables cannot be asked: {err.strerror or err}") from err


def _receive(kernel: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield type, flags, sequence number and payload of each message of one datagram."""
    try:
        data = kernel.recv(RECEIVE_SIZE)
    except OSError as err:
        raise ApplyError(f"nf_tables does not answer: {err.strerror or err}") from err
    yield from messages(data)
