# SPDX-License-Identifier: Apache-2.0
"""UDP in IPv4 in Ethernet: what surrounds a DHCPv4 message (RFC 768, RFC 791).

Addresses are packed: 4 octets, 6 for Ethernet.  Frames come from tenants; anything
that is not a whole, correct datagram raises PacketError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from agent.core.errors import Actor, AgentError

ETHERNET_LENGTH = 14
ETHERTYPE_IPV4 = 0x0800
BROADCAST_MAC = b"\xff" * 6
PROTOCOL_UDP = 17
IPV4_LENGTH = 20
UDP_LENGTH = 8
TTL = 64
MAX_DATAGRAM = 0xFFFF

_ETHERTYPE = struct.Struct("!H")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_MORE_FRAGMENTS_OR_OFFSET = 0x3FFF


class PacketError(AgentError):
    """A packet from a tenant is not what it should be; it is dropped and counted."""

    actor = Actor.NOBODY


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram over IPv4 and the Ethernet addresses that it travels between."""

    eth_dst: bytes
    eth_src: bytes
    src: bytes
    dst: bytes
    src_port: int
    dst_port: int
    payload: bytes


def ones_sum(data: bytes, start: int = 0) -> int:
    """Return *start* plus the ones' complement sum of *data*, 0..0xFFFE: 0xFFFF counts as 0 (RFC 1071).

    2**16 is 1 modulo 2**16 - 1, hence the sum of the 16-bit words is the whole read as one
    number, modulo 2**16 - 1; data of odd length is padded with a zero octet.
    """
    number = int.from_bytes(data)
    if len(data) & 1:
        number <<= 8
    return (number + start) % 0xFFFF


def parse_udp4(frame: bytes) -> Datagram:
    """Return the datagram in an Ethernet frame; octets after it (padding) are left out.

    The UDP checksum may be missing (0), or be what a sender leaves to its device's
    offload (the sum over the pseudo header alone): such packets never met hardware.
    """
    if len(frame) < ETHERNET_LENGTH + IPV4_LENGTH + UDP_LENGTH:
        raise PacketError("the frame is too short for UDP over IPv4")
    if _ETHERTYPE.unpack_from(frame, 12)[0] != ETHERTYPE_IPV4:
        raise PacketError("the frame does not hold IPv4")
    start, end, src, dst = _parse_ipv4(frame)
    src_port, dst_port, length, checksum = _UDP.unpack_from(frame, start)
    if not UDP_LENGTH <= length <= end - start:
        raise PacketError(f"UDP length {length} is not possible in {end - start} octets")
    if checksum:
        pseudo = ones_sum(src + dst, PROTOCOL_UDP + length)
        whole = ones_sum(frame[start : start + length], pseudo)
        if whole and checksum % 0xFFFF != pseudo:
            raise PacketError("the UDP checksum is wrong")
    payload = frame[start + UDP_LENGTH : start + length]
    return Datagram(frame[:6], frame[6:12], src, dst, src_port, dst_port, payload)


def _parse_ipv4(frame: bytes) -> tuple[int, int, bytes, bytes]:
    """Return where UDP starts and the IPv4 packet ends, its source and its destination."""
    first, _, total, _, fragment, _, protocol, _, src, dst = _IPV4.unpack_from(frame, ETHERNET_LENGTH)
    start = ETHERNET_LENGTH + (first & 0x0F) * 4
    end = ETHERNET_LENGTH + total
    if first >> 4 != 4 or start < ETHERNET_LENGTH + IPV4_LENGTH:
        raise PacketError(f"octet {first:#04x} does not begin an IPv4 header")
    if not start + UDP_LENGTH <= end <= len(frame):
        raise PacketError(f"IPv4 length {total} is not possible in a frame of {len(frame)} octets")
    if protocol != PROTOCOL_UDP:
        raise PacketError(f"IPv4 protocol {protocol} is not UDP")
    if fragment & _MORE_FRAGMENTS_OR_OFFSET:
        raise PacketError("the packet is a fragment")
    if ones_sum(frame[ETHERNET_LENGTH:start]):
        raise PacketError("the IPv4 header's checksum is wrong")
    return start, end, src, dst


def build_udp4(datagram: Datagram) -> bytes:
    """Return *datagram* as an Ethernet frame without padding, with both checksums.

    Raises PacketError if it is larger than IPv4 can hold.
    """
    src, dst = datagram.src, datagram.dst
    length = UDP_LENGTH + len(datagram.payload)
    if IPV4_LENGTH + length > MAX_DATAGRAM:
        raise PacketError(f"{length} octets of UDP do not fit into an IPv4 packet")
    ports = datagram.src_port, datagram.dst_port
    pseudo = ones_sum(src + dst, PROTOCOL_UDP + length)
    total = ones_sum(_UDP.pack(*ports, length, 0) + datagram.payload, pseudo)
    udp = _UDP.pack(*ports, length, 0xFFFF - total)  # never 0, which would mean "no checksum"
    fixed = (0x45, 0, IPV4_LENGTH + length, 0, 0, TTL, PROTOCOL_UDP)
    header = _IPV4.pack(*fixed, -ones_sum(_IPV4.pack(*fixed, 0, src, dst)) % 0xFFFF, src, dst)
    return b"".join(
        (datagram.eth_dst, datagram.eth_src, _ETHERTYPE.pack(ETHERTYPE_IPV4), header, udp, datagram.payload)
    )
