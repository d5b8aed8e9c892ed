# SPDX-License-Identifier: Apache-2.0
"""DHCPv4 messages as octets: RFC 2131 section 2, RFC 2132, long options of RFC 3396.

Addresses are packed (4 octets).  Options are kept as they came, whole: pieces of one
option, in overloaded fields too, are put together.  Relay agents' option 82 has no
meaning here (nobody relays to us) and is an option like any other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from agent.dhcp.frames import PacketError

BOOTREQUEST = 1
BOOTREPLY = 2
ETHERNET = 1  # htype
BROADCAST_FLAG = 0x8000
NO_ADDRESS = bytes(4)
COOKIE = b"\x63\x82\x53\x63"
FILE_LIMIT = 128
SNAME_LIMIT = 64
MIN_LENGTH = 300  # BOOTP's: some clients and relays drop what is shorter (RFC 1542 section 2.1)
MIN_LIMIT = 548  # what every client takes: a datagram of 576 octets (RFC 2131 section 2)

_PAD, _END = 0, 255
_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_OPTION_HEAD = 2
_PIECE = 255
_OVERLOAD = struct.Struct("BBB")


class Code:
    """Options that we read or write ourselves (RFC 2132 unless said otherwise).

    Plain numbers: looking up a member of an Enum would be a tenth of the cost of an answer.
    """

    MASK = 1
    ROUTER = 3
    DNS = 6
    HOST_NAME = 12
    DOMAIN = 15
    MTU = 26
    BROADCAST = 28
    NTP = 42
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETERS = 55
    MESSAGE = 56
    MAX_SIZE = 57
    T1 = 58
    T2 = 59
    VENDOR_CLASS = 60
    CLIENT_ID = 61
    TFTP_SERVER = 66
    BOOT_FILE = 67
    USER_CLASS = 77  # RFC 3004
    RAPID_COMMIT = 80  # RFC 4039
    FQDN = 81  # RFC 4702
    RELAY_AGENT = 82  # RFC 3046
    ARCHITECTURES = 93  # RFC 4578
    MACHINE_ID = 97  # RFC 4578
    IPV6_ONLY = 108  # RFC 8925
    SUBNET_SELECTION = 118  # RFC 3011
    SEARCH = 119  # RFC 3397
    ROUTES = 121  # RFC 3442
    TFTP_ADDRESS = 150  # RFC 5859
    IPXE = 175  # iPXE's own; it is in every request of iPXE
    MICROSOFT_ROUTES = 249  # RFC 3442's before it had a number


class MessageType(IntEnum):
    """What a message is (option 53)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


# Options of requests whose length is fixed; a wrong one makes the message worthless.
_LENGTHS: Mapping[int, int] = {
    Code.REQUESTED_ADDRESS: 4,
    Code.LEASE_TIME: 4,
    Code.OVERLOAD: 1,
    Code.MESSAGE_TYPE: 1,
    Code.SERVER_ID: 4,
    Code.MAX_SIZE: 2,
}


@dataclass(frozen=True, slots=True)
class Header:
    """The fixed part of a message.  ``chaddr`` has as many octets as ``hlen`` said."""

    op: int
    xid: int
    chaddr: bytes
    htype: int = ETHERNET
    hops: int = 0
    secs: int = 0
    flags: int = 0
    ciaddr: bytes = NO_ADDRESS
    yiaddr: bytes = NO_ADDRESS
    siaddr: bytes = NO_ADDRESS
    giaddr: bytes = NO_ADDRESS
    sname: bytes = b""
    file: bytes = b""


@dataclass(frozen=True, slots=True)
class Message:
    """A message; ``options`` by code, in the order of their first appearance."""

    header: Header
    options: Mapping[int, bytes] = field(default_factory=dict)


def parse(payload: bytes) -> Message:
    """Return the message in a UDP datagram; raise PacketError if it is none.

    A missing end option is overlooked, as servers do.  In an overloaded message
    ``sname`` and ``file`` are empty where they held options.
    """
    if len(payload) < _FIXED.size:
        raise PacketError(f"{len(payload)} octets are too few for DHCP")
    op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file, cookie = (
        _FIXED.unpack_from(payload)
    )
    if cookie != COOKIE:
        raise PacketError("the magic cookie is missing")
    if hlen > len(chaddr):
        raise PacketError(f"hardware address length {hlen} is more than {len(chaddr)}")
    options: dict[int, bytes] = {}
    longer: dict[int, list[bytes]] = {}
    _read_options(payload, _FIXED.size, options, longer)
    if Code.OVERLOAD in options:
        file, sname = _read_overloaded(options[Code.OVERLOAD], file, sname, options, longer)
    for code, pieces in longer.items():
        options[code] += b"".join(pieces)
    for code in options.keys() & _LENGTHS.keys():
        if len(options[code]) != _LENGTHS[code]:
            raise PacketError(f"option {code} has {len(options[code])} octets, not {_LENGTHS[code]}")
    header = Header(
        op, xid, chaddr[:hlen], htype, hops, secs, flags, ciaddr, yiaddr, siaddr, giaddr, _text(sname), _text(file)
    )  # fmt: skip
    return Message(header, options)


def _text(content: bytes) -> bytes:
    return content.partition(b"\0")[0]


def _read_options(octets: bytes, position: int, options: dict[int, bytes], longer: dict[int, list[bytes]]) -> None:
    """Add the options in *octets* from *position*; further pieces of an option go to *longer*."""
    end = len(octets)
    while position < end:
        code = octets[position]
        if code == _END:
            return
        if code == _PAD:
            position += 1
            continue
        start = position + _OPTION_HEAD
        if start > end:
            raise PacketError(f"option {code} has no length")
        position = start + octets[position + 1]
        if position > end:
            raise PacketError(f"option {code} ends after the message")
        if code in options:
            longer.setdefault(code, []).append(octets[start:position])
        else:
            options[code] = octets[start:position]


def _read_overloaded(
    overload: bytes, file: bytes, sname: bytes, options: dict[int, bytes], longer: dict[int, list[bytes]]
) -> tuple[bytes, bytes]:
    """Add the options in the other fields (``file`` is read first); return what of the fields is not options."""
    if overload not in (b"\x01", b"\x02", b"\x03"):
        raise PacketError(f"option overload {overload.hex()} is not 1, 2 or 3")
    if overload[0] & 1:
        _read_options(file, 0, options, longer)
        file = b""
    if overload[0] & 2:
        _read_options(sname, 0, options, longer)
        sname = b""
    return file, sname


def encode_option(code: int, payload: bytes) -> bytes:
    """Return an option; one of more than 255 octets in pieces (RFC 3396)."""
    if len(payload) <= _PIECE:
        return bytes((code, len(payload))) + payload
    pieces = (payload[start : start + _PIECE] for start in range(0, len(payload), _PIECE))
    return b"".join(bytes((code, len(piece))) + piece for piece in pieces)


def build(message: Message, limit: int = MIN_LIMIT) -> bytes:
    """Return *message* as octets, at most *limit*: what does not fit is left out, from the end."""
    return assemble(message.header, [encode_option(code, value) for code, value in message.options.items()], limit)


def assemble(header: Header, options: Iterable[bytes], limit: int = MIN_LIMIT) -> bytes:
    """Return a message of encoded *options*, the most important first.

    Takes ``file`` and ``sname`` for options if they are empty and the rest does not
    suffice for *limit* octets.  Fields that are too long raise PacketError.
    """
    content = b"".join(options := list(options))
    file, sname = header.file, header.sname
    if _FIXED.size + len(content) + 1 > limit:
        content, file, sname = _spread(options, limit - _FIXED.size, file, sname)
    if len(header.chaddr) > 16 or len(file) > FILE_LIMIT or len(sname) > SNAME_LIMIT:
        raise PacketError("a field of the message is too long")
    head = _FIXED.pack(
        header.op, header.htype, len(header.chaddr), header.hops, header.xid, header.secs, header.flags,
        header.ciaddr, header.yiaddr, header.siaddr, header.giaddr, header.chaddr, sname, file, COOKIE,
    )  # fmt: skip
    return b"".join((head, content, b"\xff")).ljust(MIN_LENGTH, b"\0")


def _spread(options: Iterable[bytes], room: int, file: bytes, sname: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the contents of the option, file and sname fields: each option whole in the first that has room.

    An option keeps to one field, so that pieces stay in order and no reader meets
    half an option in a field that it does not look into.
    """
    areas = [bytearray(), bytearray(), bytearray()]
    room -= _OVERLOAD.size + 1
    rooms = (room, 0 if file else FILE_LIMIT - 1, 0 if sname else SNAME_LIMIT - 1)
    for option in options:
        area = next((index for index in range(3) if len(areas[index]) + len(option) <= rooms[index]), None)
        if area is not None:
            areas[area] += option
    content, in_file, in_sname = (bytes(area) for area in areas)
    used = (1 if in_file else 0) | (2 if in_sname else 0)
    if used:
        content += _OVERLOAD.pack(Code.OVERLOAD, 1, used)
    return content, in_file + b"\xff" if in_file else file, in_sname + b"\xff" if in_sname else sname
