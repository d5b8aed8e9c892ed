# SPDX-License-Identifier: Apache-2.0
"""UDP datagrams in fragments, and out of them again; IPv4 (RFC 791) and IPv6 (RFC 8200)."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tests.functional.filter_oracle import UDP, Packet
from tests.functional.filter_packets import ETHERTYPE_IPV4, ETHERTYPE_IPV6, Macs, ethernet, ip, transport

FRAGMENT_HEADER = 44
MORE = 0x2000


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a datagram: *offset* in bytes, a multiple of 8; *more* follow."""

    offset: int
    data: bytes
    more: bool


def cut(packet: Packet, content: bytes, *cuts: int) -> list[Piece]:
    """Cut the UDP datagram with *content* at these offsets of what IP carries."""
    whole = transport(packet, content)
    ends = (0, *cuts, len(whole))
    return [Piece(start, whole[start:end], end != len(whole)) for start, end in itertools.pairwise(ends)]


def frame_of(packet: Packet, macs: Macs, identifier: int, piece: Piece) -> bytes:
    """Return one fragment as a frame."""
    if packet.version == 4:
        flags = piece.offset // 8 | (MORE if piece.more else 0)
        return ethernet(macs, ETHERTYPE_IPV4, ip(packet, piece.data, identifier, flags))
    head = struct.pack("!BBHI", packet.protocol, 0, piece.offset | piece.more, identifier)
    return ethernet(macs, ETHERTYPE_IPV6, ip(replace(packet, protocol=FRAGMENT_HEADER), head + piece.data))


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came: contents of complete UDP datagrams, and how many fragments are of none."""

    contents: tuple[bytes, ...]
    fragments_left: int


def put_together(frames: Iterable[bytes]) -> Arrived:
    """Put the UDP datagrams in *frames* together; fragments by identifier, as an instance would."""
    contents: list[bytes] = []
    parts: dict[int, list[Piece]] = {}
    for frame in frames:
        ethertype = struct.unpack_from("!H", frame, 12)[0]
        if ethertype == ETHERTYPE_IPV4 and frame[23] == UDP:
            length, identifier, flags = struct.unpack_from("!HHH", frame, 16)
            piece = Piece((flags & 0x1FFF) * 8, frame[34 : 14 + length], bool(flags & MORE))
        elif ethertype == ETHERTYPE_IPV6 and frame[20] == UDP:
            identifier, piece = 0, Piece(0, frame[54:], False)
        elif ethertype == ETHERTYPE_IPV6 and frame[20] == FRAGMENT_HEADER:
            flags, identifier = struct.unpack_from("!HI", frame, 56)
            piece = Piece(flags & 0xFFF8, frame[62:], bool(flags & 1))
        else:
            continue
        if piece.offset == 0 and not piece.more:
            contents.append(piece.data[8:])
            continue
        pieces = parts.setdefault(identifier, [])
        pieces.append(piece)
        if _is_complete(pieces):
            contents.append(b"".join(each.data for each in sorted(pieces, key=lambda each: each.offset))[8:])
            del parts[identifier]
    return Arrived(tuple(contents), sum(map(len, parts.values())))


def _is_complete(pieces: list[Piece]) -> bool:
    end = 0
    for piece in sorted(pieces, key=lambda each: each.offset):
        if piece.offset != end:
            return False
        end += len(piece.data)
        if not piece.more:
            return True
    return False
