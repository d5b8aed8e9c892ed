# SPDX-License-Identifier: Apache-2.0
"""Frames made of named headers, for tests that need to know every byte."""

from __future__ import annotations

import struct

DST, SRC = bytes.fromhex("fa163e000002"), bytes.fromhex("fa163e000001")
V4_SRC, V4_DST = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
V6_SRC = bytes.fromhex("20010db8000000000000000000000001")
V6_DST = bytes.fromhex("20010db8000000000000000000000002")
TARGET = bytes.fromhex("fe800000000000000000000000000009")


def ether(eth_type: int, payload: bytes, *tags: tuple[int, int]) -> bytes:
    return DST + SRC + b"".join(struct.pack("!HH", *tag) for tag in tags) + struct.pack("!H", eth_type) + payload


def arp(kind: str = "0001 0800 06 04", op: int = 1) -> bytes:
    return ether(0x0806, bytes.fromhex(kind) + struct.pack("!H", op) + SRC + V4_SRC + DST + V4_DST)


def ipv4(
    protocol: int, payload: bytes, *, fragment: int = 0, options: bytes = b"", total: int | None = None, first: int = 0
) -> bytes:
    first = first or 0x45 + len(options) // 4
    total = 20 + len(options) + len(payload) if total is None else total
    head = struct.pack("!BBHHHBBH", first, 0xB8, total, 7, fragment, 63, protocol, 0)
    return ether(0x0800, head + V4_SRC + V4_DST + options + payload)


def ipv6(protocol: int, payload: bytes, *, size: int | None = None, first: int = 0x6) -> bytes:
    size = len(payload) if size is None else size
    head = struct.pack("!IHBB", first << 28 | 0xB8 << 20 | 0x12345, size, protocol, 255)
    return ether(0x86DD, head + V6_SRC + V6_DST + payload)


def extension(following: int, units: int = 0, kind: int = 0) -> bytes:
    """A hop-by-hop, routing or destination options header of 8 * (1 + *units*) bytes."""
    return bytes([following, units, kind, 0]) + bytes(4 + 8 * units)


def fragment_header(following: int, offset: int = 0, more: bool = False) -> bytes:
    """An IPv6 fragment header; *offset* in bytes, a multiple of 8."""
    return struct.pack("!BBHI", following, 0, offset | int(more), 99)


def authentication(following: int, words: int = 1) -> bytes:
    """An AH of 4 * (2 + *words*) bytes."""
    return bytes([following, words]) + bytes(2 + 4 * (words + 1))


def tcp(flags: int = 0x012, offset: int = 5, options: bytes = b"") -> bytes:
    return struct.pack("!HHIIHHHH", 40000, 443, 1, 2, offset << 12 | flags, 8192, 0, 0) + options


def udp(size: int | None = None, payload: bytes = b"query") -> bytes:
    return struct.pack("!HHHH", 5353, 53, 8 + len(payload) if size is None else size, 0) + payload


def icmp(kind: int = 8, code: int = 0) -> bytes:
    return struct.pack("!BBHI", kind, code, 0, 1)


def nd(kind: int = 135, code: int = 0) -> bytes:
    return struct.pack("!BBHI", kind, code, 0, 0) + TARGET


SAMPLES = {
    "arp": arp(),
    "tcp4": ipv4(6, tcp()),
    "udp4": ipv4(17, udp()),
    "icmp4": ipv4(1, icmp()),
    "options4": ipv4(6, tcp(offset=6, options=bytes(4)), options=b"\x94\x04\x00\x00"),
    "first4": ipv4(17, udp(size=1400), fragment=0x2000),
    "later4": ipv4(17, bytes(16), fragment=0x00B9),
    "tcp6": ipv6(6, tcp()),
    "udp6": ipv6(17, udp()),
    "nd6": ipv6(58, nd()),
    "chain6": ipv6(
        0, extension(60) + extension(43, 2) + extension(51) + authentication(44) + fragment_header(6) + tcp()
    ),
    "eight6": ipv6(60, 7 * extension(60) + extension(17) + udp()),
    "two6": ipv6(43, extension(44) + fragment_header(60) + extension(17) + udp()),
    "first6": ipv6(44, fragment_header(17, more=True) + udp(size=1400)),
    "later6": ipv6(44, fragment_header(17, offset=1400) + bytes(16)),
    "jumbo6": ipv6(0, extension(17) + udp(size=0), size=0),
    "vlan": ether(0x0800, ipv4(17, udp())[14:], (0x8100, 0x6064)),
    "qinq": ether(0x86DD, ipv6(58, icmp(128))[14:], (0x88A8, 0x0064), (0x8100, 0x00C8)),
    "llc": ether(0x0026, bytes.fromhex("424203") + bytes(35)),
}
