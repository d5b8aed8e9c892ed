# SPDX-License-Identifier: Apache-2.0
"""Ethernet, IPv6, UDP and ICMPv6 around DHCPv6 messages and router discovery.

Addresses and MAC addresses are packed bytes here: a packet is answered without a
detour over text.  Sources: RFC 8200 (IPv6, section 8.1 checksums), RFC 768, RFC 4443.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from functools import lru_cache

from agent.dhcp.frames import PacketError, ones_sum

ALL_NODES = b"\xff\x02" + bytes(13) + b"\1"
ALL_ROUTERS = b"\xff\x02" + bytes(13) + b"\2"
UNSPECIFIED = bytes(16)
DHCPV6_CLIENT, DHCPV6_SERVER = 546, 547
UDP, ICMPV6 = 17, 58

_ETHERNET = struct.Struct("!6s6sH")
_IPV6 = struct.Struct("!IHBB16s16s")
_UDP = struct.Struct("!HHHH")
_ICMPV6 = struct.Struct("!BBH")
_ETHERTYPE = 0x86DD
_VERSION = 6 << 28
_UDP_CHECKSUM, _ICMPV6_CHECKSUM = 6, 2  # where it stands in the message
_HOPS = 64
_LOOPBACK = bytes(15) + b"\1"


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who sent a packet to whom, on Ethernet and in IPv6; packed bytes."""

    eth_dst: bytes
    eth_src: bytes
    dst: bytes
    src: bytes
    hop_limit: int


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram and its envelope."""

    envelope: Envelope
    sport: int
    dport: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """An ICMPv6 message (type, code and what follows the checksum) and its envelope."""

    envelope: Envelope
    type: int
    code: int
    body: bytes


def parse(frame: bytes) -> Datagram | ControlMessage:
    """Take an Ethernet frame apart; raise PacketError for all but well-formed UDP or ICMPv6 in IPv6.

    Octets behind the IPv6 packet (padding) are left out.  Extension headers and
    fragments are refused: RFC 6980 forbids fragments for neighbor discovery, and no
    DHCPv6 client sends either.

    A checksum may be right, or left to be filled in by a network card that never was:
    what an instance hands to its virtual device reaches us so, the field then holding
    the sum of the pseudo-header alone (``CHECKSUM_PARTIAL`` of Linux).
    """
    if len(frame) < _ETHERNET.size + _IPV6.size:
        raise PacketError("shorter than Ethernet and IPv6 headers")
    eth_dst, eth_src, ethertype = _ETHERNET.unpack_from(frame)
    first, size, protocol, hop_limit, src, dst = _IPV6.unpack_from(frame, _ETHERNET.size)
    if ethertype != _ETHERTYPE or first >> 28 != 6:
        raise PacketError("not IPv6")
    message = frame[_ETHERNET.size + _IPV6.size :][:size]
    if len(message) < size:
        raise PacketError("IPv6 payload is cut short")
    envelope = Envelope(eth_dst, eth_src, dst, src, hop_limit)
    if protocol == UDP:
        return _datagram(envelope, message)
    if protocol == ICMPV6:
        return _control_message(envelope, message)
    raise PacketError(f"next header {protocol}")


def _datagram(envelope: Envelope, message: bytes) -> Datagram:
    if len(message) < _UDP.size:
        raise PacketError("UDP header is cut short")
    sport, dport, size, checksum = _UDP.unpack_from(message)
    if not _UDP.size <= size <= len(message):
        raise PacketError("UDP length does not fit the packet")
    message = message[:size]
    if checksum == 0:
        raise PacketError("UDP without checksum")
    _verify(envelope, UDP, message, checksum)
    return Datagram(envelope, sport, dport, message[_UDP.size :])


def _control_message(envelope: Envelope, message: bytes) -> ControlMessage:
    if len(message) < _ICMPV6.size:
        raise PacketError("ICMPv6 header is cut short")
    type_, code, checksum = _ICMPV6.unpack_from(message)
    _verify(envelope, ICMPV6, message, checksum)
    return ControlMessage(envelope, type_, code, message[_ICMPV6.size :])


def _verify(envelope: Envelope, protocol: int, message: bytes, checksum: int) -> None:
    pseudo = ones_sum(envelope.src + envelope.dst, len(message) + protocol)
    if ones_sum(message, pseudo) and checksum % 0xFFFF != pseudo:
        raise PacketError("wrong checksum")


def build_datagram(envelope: Envelope, payload: bytes, sport: int, dport: int) -> bytes:
    """Return the Ethernet frame of a UDP datagram, without padding and frame check sequence."""
    message = _UDP.pack(sport, dport, _UDP.size + len(payload), 0) + payload
    return _frame(envelope, UDP, message, _UDP_CHECKSUM)


def build_control_message(message: ControlMessage) -> bytes:
    """Return the Ethernet frame of an ICMPv6 message, without padding and frame check sequence."""
    raw = _ICMPV6.pack(message.type, message.code, 0) + message.body
    return _frame(message.envelope, ICMPV6, raw, _ICMPV6_CHECKSUM)


def reply_envelope(asked: Envelope, server_mac: str, *, hop_limit: int = _HOPS) -> Envelope:
    """Return the envelope of an answer to *asked*.

    On Ethernet it goes back along the way by which the question came: what stood for
    us there stands for the asker's port, whatever the packet says.  In IPv6 it comes
    from the address that was asked or, if that was a group, from our link-local one.
    """
    src = link_local(server_mac) if asked.dst[0] == 0xFF else asked.dst
    return Envelope(asked.eth_src, asked.eth_dst, asked.src, src, hop_limit)


def is_unicast(address: bytes) -> bool:
    """Tell whether a packed address may be the source of a packet on a link."""
    return address[0] != 0xFF and address not in (UNSPECIFIED, _LOOPBACK)


def is_link_local(address: bytes) -> bool:
    """Tell whether a packed address is in fe80::/10."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


@lru_cache(maxsize=4096)
def link_local(mac: str) -> bytes:
    """Return the packed link-local address made of a MAC address (RFC 4291, appendix A)."""
    raw = packed_mac(mac)
    return b"\xfe\x80" + bytes(6) + bytes((raw[0] ^ 2, raw[1], raw[2], 0xFF, 0xFE, raw[3], raw[4], raw[5]))


@lru_cache(maxsize=4096)
def packed_mac(mac: str) -> bytes:
    """Return the 6 octets of a MAC address; ValueError if it is none."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"{mac} is no MAC address")
    return raw


@lru_cache(maxsize=8192)
def packed(address: str) -> bytes:
    """Return the 16 octets of an IPv6 address; ValueError if it is none."""
    return ipaddress.IPv6Address(address).packed


def _frame(envelope: Envelope, protocol: int, message: bytes, checksum_at: int) -> bytes:
    total = ones_sum(message, ones_sum(envelope.src + envelope.dst, len(message) + protocol))
    checksum = (0xFFFF - total).to_bytes(2, "big")  # never 0, which UDP may not send (RFC 8200, section 8.1)
    ethernet = _ETHERNET.pack(envelope.eth_dst, envelope.eth_src, _ETHERTYPE)
    ip = _IPV6.pack(_VERSION, len(message), protocol, envelope.hop_limit, envelope.src, envelope.dst)
    return b"".join((ethernet, ip, message[:checksum_at], checksum, message[checksum_at + 2 :]))
