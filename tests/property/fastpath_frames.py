# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames for Hypothesis, built header by header.

``well_formed`` frames make sense in every field.  ``frames`` are what a tenant can
send: well-formed ones, ones that lie in one field (only one, so that the headers
behind it are reached), and any of them with bytes changed and ends cut off.
"""

from __future__ import annotations

import struct
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
Draw = st.DrawFn
Build = st.SearchStrategy[bytes]

HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION = 0, 43, 44, 51, 60
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58

TRUTH = "nothing"
LIES = (  # the first word is the header concerned
    "ethernet tags",
    "arp kind",
    "ipv4 version",
    "ipv4 words",
    "ipv4 total",
    "ipv6 version",
    "ipv6 size",
    "ipv6 order",
    "ipv6 extension",
    "tcp offset",
    "udp size",
    "icmp size",
    "icmpv6 size",
)

_MACS = st.binary(min_size=6, max_size=6)
_PORTS = st.integers(0, 0xFFFF)
_BYTE = st.integers(0, 255)
_PAYLOADS = st.binary(max_size=24)


def number(right: int, largest: int, lying: bool) -> st.SearchStrategy[int]:
    """The right number; if *lying*, most often another, more often one that is near."""
    if not lying:
        return st.just(right)
    return st.one_of(st.integers(max(0, right - 9), min(largest, right + 9)), st.sampled_from([0, largest]))


def concerned(lie: str, choices: dict[str, st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """The choice that *lie* is about, any of *choices* if it is about none of them."""
    header = lie.split()[0]
    return choices[header] if header in choices else st.one_of(*choices.values())


@st.composite
def tcp(draw: Draw, lie: str) -> bytes:
    options = draw(st.integers(0, 10)) * b"\x01\x01\x01\x00"
    offset = draw(number(5 + len(options) // 4, 15, lie == "tcp offset"))
    flags = draw(st.integers(0, 0xFFF))
    fixed = struct.pack("!HHIIHHHH", draw(_PORTS), draw(_PORTS), 1, 2, offset << 12 | flags, 8192, 0, 0)
    return fixed + options + draw(_PAYLOADS)


@st.composite
def udp(draw: Draw, lie: str) -> bytes:
    payload = draw(_PAYLOADS)
    size = draw(number(8 + len(payload), 0xFFFF, lie == "udp size"))
    return struct.pack("!HHHH", draw(_PORTS), draw(_PORTS), size, 0) + payload


@st.composite
def icmp(draw: Draw, lie: str) -> bytes:
    whole = struct.pack("!BBHI", draw(_BYTE), draw(_BYTE), 0, 7) + draw(_PAYLOADS)
    return whole[: draw(st.integers(0, 8))] if lie == "icmp size" else whole


@st.composite
def icmpv6(draw: Draw, lie: str) -> bytes:
    kind = draw(st.sampled_from([128, 133, 134, 135, 136, 137]))
    code = draw(st.sampled_from([0, 0, 0, 1]))
    whole = struct.pack("!BBH", kind, code, 0) + draw(st.binary(min_size=20, max_size=36))
    return whole[: draw(st.integers(0, 24))] if lie == "icmpv6 size" else whole


@st.composite
def ipv4(draw: Draw, lie: str) -> bytes:
    transports = {
        "tcp": st.tuples(st.just(TCP), tcp(lie)),
        "udp": st.tuples(st.just(UDP), udp(lie)),
        "icmp": st.tuples(st.just(ICMP), icmp(lie)),
        "other": st.tuples(st.sampled_from([2, 50, 58, 132, 255]), _PAYLOADS),
    }
    protocol, payload = draw(concerned(lie, transports))
    options = draw(st.integers(0, 10)) * b"\x01\x01\x01\x00"
    words = draw(number(5 + len(options) // 4, 15, lie == "ipv4 words"))
    total = draw(number(20 + len(options) + len(payload), 0xFFFF, lie == "ipv4 total"))
    first = draw(number(4, 15, lie == "ipv4 version")) << 4 | words
    fragment = draw(st.sampled_from([0, 0, 0, 0x4000, 0x2000, 0x2001, 0x1FFF, 0x8000]))
    fixed = struct.pack("!BBHHHBBH", first, draw(_BYTE), total, 1, fragment, draw(_BYTE), protocol, 0)
    return fixed + draw(st.binary(min_size=8, max_size=8)) + options + payload


@st.composite
def extension(draw: Draw, kind: int, lie: str) -> bytes:
    """Everything of an IPv6 extension header but its first byte, the next header's number."""
    lying = lie == "ipv6 extension"
    if kind == FRAGMENT:
        return struct.pack("!BHI", 0, draw(st.sampled_from([0, 0, 1, 1, 8, 9, 0xFFF8, 6])), 99)
    units = draw(st.integers(0, 3))
    if kind == ROUTING:
        units = units // 2 * 2  # it holds addresses of 16 bytes
    if kind == AH:
        return bytes([draw(number(units * 2 + 1, 255, lying))]) + bytes(units * 8 + 10)
    pad = units * 8 + 4  # one PadN option fills the header
    return bytes([draw(number(units, 255, lying)), 1, pad]) + bytes(pad)


@st.composite
def ipv6(draw: Draw, lie: str) -> bytes:
    transports = {
        "tcp": st.tuples(st.just(TCP), tcp(lie)),
        "udp": st.tuples(st.just(UDP), udp(lie)),
        "icmpv6": st.tuples(st.just(ICMPV6), icmpv6(lie)),
        "other": st.tuples(st.sampled_from([1, 50, 59, 132, 255]), _PAYLOADS),
    }
    protocol, payload = draw(concerned(lie, transports))
    disordered = lie == "ipv6 order"
    kinds = st.sampled_from([ROUTING, FRAGMENT, AH, DESTINATION])
    chain = draw(st.lists(kinds, min_size=2 * disordered, max_size=9 if disordered else 4, unique=not disordered))
    if draw(st.booleans()):
        chain.insert(draw(number(0, len(chain), disordered)), HOP_BY_HOP)
    for kind in reversed(chain):
        payload = bytes([protocol]) + draw(extension(kind, lie)) + payload
        protocol = kind
    size = draw(number(len(payload), 0xFFFF, lie == "ipv6 size"))
    word = draw(number(6, 15, lie == "ipv6 version")) << 28 | draw(st.integers(0, 0xFFFFFFF))
    return struct.pack("!IHBB", word, size, protocol, draw(_BYTE)) + draw(st.binary(min_size=32, max_size=32)) + payload


@st.composite
def arp(draw: Draw, lie: str) -> bytes:
    kind = bytearray.fromhex("0001 0800 06 04")
    if lie == "arp kind":
        kind[draw(st.integers(0, 5))] = draw(_BYTE)
    return bytes(kind) + struct.pack("!H", draw(st.integers(1, 2))) + draw(st.binary(min_size=20, max_size=20))


@st.composite
def ethernet(draw: Draw, lie: str) -> bytes:
    payloads = {
        "arp": st.tuples(st.just(0x0806), arp(lie)),
        "ipv4": st.tuples(st.just(0x0800), ipv4(lie)),
        "ipv6": st.tuples(st.just(0x86DD), ipv6(lie)),
        "other": st.tuples(st.sampled_from([0x0026, 0x05FF, 0x8035, 0x88CC, 0xFFFF]), _PAYLOADS),
    }
    eth_type, payload = draw(concerned(lie, payloads))
    tag = st.tuples(st.sampled_from([0x8100, 0x88A8]), st.integers(0, 0xFFFF))
    tags = draw(st.lists(tag, min_size=4, max_size=6) if lie == "ethernet tags" else st.lists(tag, max_size=4))
    head = draw(_MACS) + draw(_MACS) + b"".join(struct.pack("!HH", *tag) for tag in tags)
    return head + struct.pack("!H", eth_type) + payload


@st.composite
def damaged(draw: Draw, whole: Build) -> bytes:
    """A frame with a few bytes changed, its end cut off, or bytes added."""
    frame = bytearray(draw(whole))
    for position, value in draw(st.lists(st.tuples(st.integers(0, 160), _BYTE), max_size=3)):
        if position < len(frame):
            frame[position] = value
    end = draw(st.one_of(st.just(len(frame)), st.integers(0, len(frame))))
    return bytes(frame[:end]) + draw(st.sampled_from([b"", b"", bytes(18)]))


well_formed: Build = ethernet(TRUTH)
lying: Build = st.sampled_from(LIES).flatmap(ethernet)
frames: Build = st.one_of(lying, lying, damaged(lying), damaged(well_formed), st.binary(max_size=120))
