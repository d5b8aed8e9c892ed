# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames for Hypothesis, built header by header.

``well_formed`` frames make sense in every field.  ``frames`` are those, with lengths,
versions and counts that may be wrong, bytes that were changed and ends that were cut:
what a tenant can send.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from hypothesis import strategies as st

Draw = st.DrawFn
Build = st.SearchStrategy[bytes]

HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION = 0, 43, 44, 51, 60
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58

_MACS = st.binary(min_size=6, max_size=6)
_PORTS = st.integers(0, 0xFFFF)
_PAYLOADS = st.binary(max_size=40)


def wrong(right: int, largest: int, chance: bool) -> st.SearchStrategy[int]:
    """A number that is right; if *chance*, sometimes another, more often one that is near."""
    if not chance:
        return st.just(right)
    near = st.integers(max(0, right - 9), min(largest, right + 9))
    return st.one_of(st.just(right), st.just(right), st.just(right), near, st.sampled_from([0, largest]))


@st.composite
def tcp(draw: Draw, lies: bool) -> bytes:
    options = draw(st.integers(0, 10)) * b"\x01\x01\x01\x00"
    offset = draw(wrong(5 + len(options) // 4, 15, lies))
    flags = draw(st.integers(0, 0xFFF))
    fixed = struct.pack("!HHIIHHHH", draw(_PORTS), draw(_PORTS), 1, 2, offset << 12 | flags, 8192, 0, 0)
    return fixed + options + draw(_PAYLOADS)


@st.composite
def udp(draw: Draw, lies: bool) -> bytes:
    payload = draw(_PAYLOADS)
    size = draw(wrong(8 + len(payload), 0xFFFF, lies))
    return struct.pack("!HHHH", draw(_PORTS), draw(_PORTS), size, 0) + payload


@st.composite
def icmp(draw: Draw, lies: bool) -> bytes:
    del lies  # nothing in it can be wrong but its size
    return struct.pack("!BBHI", draw(st.integers(0, 255)), draw(st.integers(0, 255)), 0, 7) + draw(_PAYLOADS)


@st.composite
def icmpv6(draw: Draw, lies: bool) -> bytes:
    kind = draw(st.sampled_from([128, 129, 133, 134, 135, 136, 137]))
    code = draw(st.sampled_from([0, 0, 0, 1]))
    body = draw(st.binary(min_size=20, max_size=36))
    if lies:
        body = body[: draw(st.integers(0, 36))]
    return struct.pack("!BBH", kind, code, 0) + body


def transports(
    lies: bool, icmp_number: int, icmp_header: Callable[[bool], Build]
) -> st.SearchStrategy[tuple[int, bytes]]:
    """Protocol numbers with the headers and payloads that belong to them."""
    return st.one_of(
        st.tuples(st.just(TCP), tcp(lies)),
        st.tuples(st.just(UDP), udp(lies)),
        st.tuples(st.just(icmp_number), icmp_header(lies)),
        st.tuples(st.sampled_from([50, 59, 132, 255]), _PAYLOADS),
    )


@st.composite
def ipv4(draw: Draw, lies: bool) -> bytes:
    protocol, payload = draw(transports(lies, ICMP, icmp))
    options = draw(st.integers(0, 10)) * b"\x01\x01\x01\x00"
    words = draw(wrong(5 + len(options) // 4, 15, lies))
    total = draw(wrong(20 + len(options) + len(payload), 0xFFFF, lies))
    fragment = draw(st.sampled_from([0, 0, 0, 0x4000, 0x2000, 0x2001, 0x1FFF, 0x8000]))
    version = draw(wrong(4, 15, lies))
    first, tos, ttl = version << 4 | words, draw(st.integers(0, 255)), draw(st.integers(0, 255))
    addresses = draw(st.binary(min_size=8, max_size=8))
    return struct.pack("!BBHHHBBH", first, tos, total, 1, fragment, ttl, protocol, 0) + addresses + options + payload


@st.composite
def _extension(draw: Draw, number: int, lies: bool) -> bytes:
    """Everything of an extension header but its first byte."""
    if number == FRAGMENT:
        fragment = draw(st.sampled_from([0, 1, 8, 9, 0xFFF8, 6]))
        return struct.pack("!BHI", 0, fragment, 99)
    units = draw(st.integers(0, 3))
    if number == ROUTING:
        units = units // 2 * 2  # it holds addresses of 16 bytes
    if number == AH:
        return bytes([draw(wrong(units * 2 + 1, 255, lies))]) + bytes(units * 8 + 10)
    pad = units * 8 + 4  # one PadN option fills the header
    return bytes([draw(wrong(units, 255, lies)), 1, pad]) + bytes(pad)


@st.composite
def ipv6(draw: Draw, lies: bool) -> bytes:
    protocol, payload = draw(transports(lies, ICMPV6, icmpv6))
    numbers = draw(
        st.lists(st.sampled_from([ROUTING, FRAGMENT, AH, DESTINATION]), max_size=9 if lies else 4, unique=not lies)
    )
    if draw(st.booleans()):
        numbers.insert(draw(wrong(0, len(numbers), lies)), HOP_BY_HOP)
    for number in reversed(numbers):
        payload = bytes([protocol]) + draw(_extension(number, lies)) + payload
        protocol = number
    size = draw(wrong(len(payload), 0xFFFF, lies))
    word = draw(wrong(6, 15, lies)) << 28 | draw(st.integers(0, 0xFFFFFFF))
    addresses = draw(st.binary(min_size=32, max_size=32))
    return struct.pack("!IHBB", word, size, protocol, draw(st.integers(0, 255))) + addresses + payload


@st.composite
def arp(draw: Draw, lies: bool) -> bytes:
    kind = (
        draw(wrong(1, 0xFFFF, lies)),
        draw(wrong(0x0800, 0xFFFF, lies)),
        draw(wrong(6, 255, lies)),
        draw(wrong(4, 255, lies)),
    )
    return struct.pack("!HHBBH", *kind, draw(st.integers(1, 2))) + draw(st.binary(min_size=20, max_size=20))


@st.composite
def ethernet(draw: Draw, lies: bool) -> bytes:
    eth_type, payload = draw(
        st.one_of(
            st.tuples(st.just(0x0800), ipv4(lies)),
            st.tuples(st.just(0x86DD), ipv6(lies)),
            st.tuples(st.just(0x0806), arp(lies)),
            st.tuples(st.sampled_from([0x0026, 0x05FF, 0x8035, 0x88CC, 0xFFFF]), _PAYLOADS),
        )
    )
    tags = draw(
        st.lists(st.tuples(st.sampled_from([0x8100, 0x88A8]), st.integers(0, 0xFFFF)), max_size=6 if lies else 4)
    )
    head = draw(_MACS) + draw(_MACS) + b"".join(struct.pack("!HH", *tag) for tag in tags)
    return head + struct.pack("!H", eth_type) + payload


@st.composite
def damaged(draw: Draw) -> bytes:
    """A frame with a few bytes changed, its end cut off, or bytes added."""
    frame = bytearray(draw(ethernet(True)))
    for position, value in draw(st.lists(st.tuples(st.integers(0, 160), st.integers(0, 255)), max_size=4)):
        if position < len(frame):
            frame[position] = value
    end = draw(st.one_of(st.just(len(frame)), st.integers(0, len(frame))))
    return bytes(frame[:end]) + draw(st.sampled_from([b"", b"", bytes(18)]))


well_formed: Build = ethernet(False)
frames: Build = st.one_of(ethernet(True), damaged(), damaged(), well_formed, st.binary(max_size=120))
