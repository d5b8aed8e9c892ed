# SPDX-License-Identifier: Apache-2.0
"""The oracle's packets as bytes: Ethernet frames with valid checksums, each with a marker of its own."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tests.functional.filter_oracle import (
    GRE,
    ICMP,
    ICMPV6,
    NEIGHBOR_ADVERTISEMENT,
    NEIGHBOR_SOLICITATION,
    ROUTER_ADVERTISEMENT,
    ROUTER_SOLICITATION,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Packet,
)

ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0806, 0x0800, 0x86DD
BROADCAST = "ff:ff:ff:ff:ff:ff"
MARKER_LENGTH = 14  # of bytes; fits the nonce option of neighbor discovery (RFC 3971 5.3.2)
NONCE_OPTION = 14
# Sequence numbers of the one who opens a connection, and of the other: each sends the
# same one again and again, which is always inside the window.
FIRST, SECOND = 1000, 5000
TCP_FLAGS = {"S": 0x02, "SA": 0x12, "A": 0x10, "R": 0x04, "RA": 0x14, "F": 0x01}
SCTP_INIT = 1


@dataclass(frozen=True, slots=True)
class Macs:
    """Who sends a frame, and to whom."""

    source: str
    target: str


def mac_bytes(mac: str) -> bytes:
    """Return a MAC address as it is on the wire."""
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(macs: Macs, ethertype: int, payload: bytes) -> bytes:
    """Return a frame; short ones are not padded (a veth pair carries them as they are)."""
    return mac_bytes(macs.target) + mac_bytes(macs.source) + struct.pack("!H", ethertype) + payload


def gratuitous_arp(mac: str, address: bytes, marker: bytes) -> bytes:
    """Return an ARP announcement (RFC 5227) with *marker* behind it."""
    source = mac_bytes(mac)
    body = struct.pack("!HHBBH", 1, ETHERTYPE_IPV4, 6, 4, 1) + source + address + bytes(6) + address
    return ethernet(Macs(mac, BROADCAST), ETHERTYPE_ARP, body + marker.ljust(18, b"\0"))


def frame(packet: Packet, macs: Macs, marker: bytes) -> bytes:
    """Return *packet* as a frame; *marker* has ``MARKER_LENGTH`` bytes."""
    ethertype = ETHERTYPE_IPV4 if packet.version == 4 else ETHERTYPE_IPV6
    return ethernet(macs, ethertype, ip(packet, transport(packet, marker, mac_bytes(macs.source))))


def ip(packet: Packet, payload: bytes, identifier: int = 0, fragment: int = 0x4000) -> bytes:
    """Return an IP packet; of IPv4 with *fragment* as flags and offset."""
    hops = 255 if packet.is_signalling else 64
    if packet.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(payload), packet.protocol, hops)
        return head + packet.source.packed + packet.target.packed + payload
    length = 20 + len(payload)
    head = struct.pack("!BBHHHBBH", 0x45, 0, length, identifier, fragment, hops, packet.protocol, 0)
    head += packet.source.packed + packet.target.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def transport(packet: Packet, marker: bytes, mac: bytes = bytes(6)) -> bytes:
    """Return what an IP packet carries."""
    if packet.protocol in (ICMP, ICMPV6) and packet.is_icmp:
        return _icmp(packet, marker, mac)
    if packet.protocol == TCP:
        return _tcp(packet, marker)
    if packet.protocol == UDP:
        length = 8 + len(marker)
        head = struct.pack("!HHHH", packet.source_port, packet.target_port, length, 0)
        return _with_checksum(packet, head + marker, 6)
    if packet.protocol == UDPLITE:  # RFC 3828: the checksum covers everything, which is said by 0
        head = struct.pack("!HHHH", packet.source_port, packet.target_port, 0, 0)
        return _with_checksum(packet, head + marker, 6)
    if packet.protocol == SCTP:
        return _sctp_init(packet, marker)
    if packet.protocol == GRE:
        return struct.pack("!HH", 0, 0x6558) + marker
    return marker.ljust(24, b".")


def _tcp(packet: Packet, marker: bytes) -> bytes:
    opens = packet.source_port > packet.target_port  # in all these tests the higher port is the client's
    sequence, other = (FIRST, SECOND) if opens else (SECOND, FIRST)
    flags = TCP_FLAGS[packet.flags]
    if packet.flags in ("S", "SA"):
        acknowledged = other + 1 if flags & 0x10 else 0
    else:
        sequence, acknowledged = (0, other + 1) if packet.flags == "RA" else (sequence + 1, other + 1)
    data = b"" if packet.flags in ("S", "SA", "R", "RA", "F") else marker
    option = b"" if data else b"\xfd" + bytes([2 + len(marker)]) + marker  # an experiment's (RFC 4727)
    words = 5 + len(option) // 4
    head = struct.pack(
        "!HHIIBBHHH",
        packet.source_port,
        packet.target_port,
        sequence,
        acknowledged,
        words << 4,
        flags,
        65535 if packet.flags not in ("R", "RA") else 0,
        0,
        0,
    )
    return _with_checksum(packet, head + option + data, 16)


def _icmp(packet: Packet, marker: bytes, mac: bytes) -> bytes:
    head = struct.pack("!BBH", packet.icmp_type, packet.icmp_code, 0)
    nonce = bytes([NONCE_OPTION, 2]) + marker
    if packet.about is not None:
        body = bytes(4) + ip(packet.about, transport(packet.about, marker))
    elif not packet.is_signalling:
        body = struct.pack("!HH", packet.source_port, 1) + marker
        if packet.protocol == ICMP and packet.icmp_type in (13, 14):  # timestamps (RFC 792)
            body = struct.pack("!HHIII", packet.source_port, 1, 1, 2, 3) + marker
    elif packet.icmp_type == NEIGHBOR_SOLICITATION:
        body = bytes(4) + packet.target.packed + b"\x01\x01" + mac + nonce
    elif packet.icmp_type == NEIGHBOR_ADVERTISEMENT:
        body = struct.pack("!I", 0x20000000) + packet.source.packed + b"\x02\x01" + mac + nonce
    elif packet.icmp_type == ROUTER_SOLICITATION:
        body = bytes(4) + nonce
    elif packet.icmp_type == ROUTER_ADVERTISEMENT:
        body = bytes(12) + nonce
    else:  # multicast listener reports (RFC 2710)
        body = bytes(4) + packet.target.packed + marker
    if packet.protocol == ICMPV6:
        return _with_checksum(packet, head + body, 2)
    value = checksum(head + body)
    return head[:2] + struct.pack("!H", value) + body


def _sctp_init(packet: Packet, marker: bytes) -> bytes:
    """Return an INIT (RFC 9260 3.3.2) with the marker as a parameter that receivers skip."""
    parameter = struct.pack("!HH", 0x8000 | 0x3FFF, 4 + len(marker)) + marker
    parameter = parameter.ljust(-(-len(parameter) // 4) * 4, b"\0")
    chunk = struct.pack("!IIHHI", 0x01020304, 65535, 1, 1, 1) + parameter
    head = struct.pack("!HHII", packet.source_port, packet.target_port, 0, 0)
    whole = head + struct.pack("!BBH", SCTP_INIT, 0, 4 + len(chunk)) + chunk
    return whole[:8] + struct.pack("<I", crc32c(whole)) + whole[12:]


def _with_checksum(packet: Packet, segment: bytes, offset: int) -> bytes:
    """Set the checksum at *offset* of *segment*, which has 0 there, over the pseudo header too."""
    ends = packet.source.packed + packet.target.packed
    value = checksum(ends + struct.pack("!II", len(segment), packet.protocol) + segment) or 0xFFFF
    return segment[:offset] + struct.pack("!H", value) + segment[offset + 2 :]


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the checksum of SCTP (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC32C[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF
