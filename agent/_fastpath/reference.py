# SPDX-License-Identifier: Apache-2.0
"""The parser once more, slow and obviously right: the C code must agree with it on every frame.

It shares nothing with the C code but the description in ``fp_packet.h``.  A header
is a function that takes the packet apart, writes what it learned into ``fields`` and
hands over to the next; whatever ends the parsing early is an exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent._fastpath.key import FlowKey, Fragment, Layer, Parsed, Result

MAX_VLAN_TAGS = 4
MAX_EXTENSIONS = 8

_VLAN_TPIDS = (0x8100, 0x88A8)
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION = 0, 43, 44, 51, 60
_EXTENSIONS = (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION)


class _TruncatedError(Exception):
    """A byte is needed that was not given."""


class _MalformedError(Exception):
    """The headers contradict themselves."""


@dataclass
class _Fields:
    """The flow key while it grows."""

    values: dict[str, bytes | int]
    layers: Layer = Layer.NONE

    def add(self, layer: Layer, **values: bytes | int) -> None:
        self.layers |= layer
        self.values.update(values)


def parse(frame: bytes) -> Parsed:
    """Return the result and the flow key of one Ethernet frame; any bytes, never fails."""
    fields = _Fields({})
    result = Result.VALID
    try:
        _ethernet(frame, fields)
    except _TruncatedError:
        result = Result.TRUNCATED
    except _MalformedError:
        result = Result.MALFORMED
    return Parsed(result, FlowKey(layers=fields.layers, **fields.values))  # type: ignore[arg-type]


def _take(frame: bytes, offset: int, size: int) -> bytes:
    taken = frame[offset : offset + size]
    if len(taken) < size:
        raise _TruncatedError
    return taken


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def _must(condition: bool) -> None:
    if not condition:
        raise _MalformedError


def _ethernet(frame: bytes, fields: _Fields) -> None:
    header = _take(frame, 0, 14)
    fields.add(Layer.ETHERNET, eth_dst=header[0:6], eth_src=header[6:12])
    eth_type, offset = _number(header[12:14]), 14
    tags: list[tuple[int, int]] = []
    while eth_type in _VLAN_TPIDS:
        _must(len(tags) < MAX_VLAN_TAGS)
        tag = _take(frame, offset, 4)
        tags.append((eth_type, _number(tag[0:2])))
        eth_type, offset = _number(tag[2:4]), offset + 4
    if tags:
        tpid, tci = tags[0]
        fields.add(Layer.VLAN, vlan_tpid=tpid, vlan_tci=tci, vlan_count=len(tags))
    fields.values.update(eth_type=eth_type, l3_offset=offset)
    next_header = {0x0800: _ipv4, 0x0806: _arp, 0x86DD: _ipv6}.get(eth_type)
    if next_header:
        next_header(frame, offset, fields)


def _arp(frame: bytes, offset: int, fields: _Fields) -> None:
    arp = _take(frame, offset, 28)
    _must(arp[0:6] == bytes.fromhex("0001 0800 06 04"))
    fields.add(
        Layer.ARP,
        arp_op=_number(arp[6:8]),
        arp_sha=arp[8:14],
        src=arp[14:18] + bytes(12),
        arp_tha=arp[18:24],
        dst=arp[24:28] + bytes(12),
    )


def _ipv4(frame: bytes, offset: int, fields: _Fields) -> None:
    header = _take(frame, offset, 20)
    version, header_size, total_size = header[0] >> 4, (header[0] & 15) * 4, _number(header[2:4])
    _must(version == 4)
    _must(header_size >= 20)
    _must(total_size >= header_size)
    fragment = _fragment(_number(header[6:8]) & 0x1FFF, bool(header[6] & 0x20))
    fields.add(
        Layer.IPV4,
        tos=header[1],
        ttl=header[8],
        protocol=header[9],
        fragment=fragment,
        src=header[12:16] + bytes(12),
        dst=header[16:20] + bytes(12),
    )
    transports = {1: _icmp, 6: _tcp, 17: _udp}
    _transport(frame, offset + header_size, total_size - header_size, fields, transports.get(header[9]))


def _fragment(offset: int, more: bool) -> Fragment:
    if offset > 0:
        return Fragment.LATER
    return Fragment.FIRST if more else Fragment.NONE


def _ipv6(frame: bytes, offset: int, fields: _Fields) -> None:
    header = _take(frame, offset, 40)
    word, declared, protocol = _number(header[0:4]), _number(header[4:6]), header[6]
    _must(word >> 28 == 6)
    fields.add(Layer.IPV6, tos=word >> 20 & 0xFF, ttl=header[7], src=header[8:24], dst=header[24:40])
    # How many bytes the packet still declares to have; None: a jumbogram, no limit.
    left: int | None = None if declared == 0 and protocol == _HOP_BY_HOP else declared
    offset += 40
    seen: list[int] = []
    fragment = Fragment.NONE
    while protocol in _EXTENSIONS and fragment != Fragment.LATER:
        _must(len(seen) < MAX_EXTENSIONS)
        _must(protocol != _HOP_BY_HOP or not seen)
        _must(left is None or left >= 8)
        extension = _take(frame, offset, 8)
        if protocol == _FRAGMENT:
            _must(_FRAGMENT not in seen)
            size = 8
            fragment = _fragment(_number(extension[2:4]) >> 3, bool(extension[3] & 1))
        elif protocol == _AH:
            size = (extension[1] + 2) * 4
        else:
            size = (extension[1] + 1) * 8
        _must(left is None or left >= size)
        seen.append(protocol)
        left = None if left is None else left - size
        offset, protocol = offset + size, extension[0]
    fields.values.update(protocol=protocol, fragment=fragment)
    transports = {6: _tcp, 17: _udp, 58: _icmpv6}
    _transport(frame, offset, left, fields, transports.get(protocol))


class _Transport(Protocol):
    """Parse a transport header at *offset* of a packet that declares *left* bytes from there on."""

    def __call__(self, frame: bytes, offset: int, left: int | None, fields: _Fields) -> None: ...


def _transport(frame: bytes, offset: int, left: int | None, fields: _Fields, header: _Transport | None) -> None:
    fields.values.update(l4_offset=offset)
    if header and fields.values["fragment"] != Fragment.LATER:
        header(frame, offset, left, fields)


def _tcp(frame: bytes, offset: int, left: int | None, fields: _Fields) -> None:
    _must(left is None or left >= 20)
    tcp = _take(frame, offset, 20)
    size = (tcp[12] >> 4) * 4
    _must(size >= 20)
    _must(left is None or left >= size)
    flags = _number(tcp[12:14]) & 0xFFF
    fields.add(Layer.TCP, src_port=_number(tcp[0:2]), dst_port=_number(tcp[2:4]), tcp_flags=flags)


def _udp(frame: bytes, offset: int, left: int | None, fields: _Fields) -> None:
    _must(left is None or left >= 8)
    udp = _take(frame, offset, 8)
    size = _number(udp[4:6])
    if left is None:
        _must(size >= 8 or size == 0)
    else:
        _must(size >= 8)
        _must(size <= left or fields.values["fragment"] == Fragment.FIRST)
    fields.add(Layer.UDP, src_port=_number(udp[0:2]), dst_port=_number(udp[2:4]))


def _icmp(frame: bytes, offset: int, left: int | None, fields: _Fields) -> None:
    _must(left is None or left >= 8)
    icmp = _take(frame, offset, 2)
    fields.add(Layer.ICMP, icmp_type=icmp[0], icmp_code=icmp[1])


def _icmpv6(frame: bytes, offset: int, left: int | None, fields: _Fields) -> None:
    _must(left is None or left >= 4)
    icmp = _take(frame, offset, 2)
    fields.add(Layer.ICMPV6, icmp_type=icmp[0], icmp_code=icmp[1])
    if icmp in (b"\x87\x00", b"\x88\x00"):
        _must(left is None or left >= 24)
        fields.add(Layer.ND, nd_target=_take(frame, offset + 8, 16))
