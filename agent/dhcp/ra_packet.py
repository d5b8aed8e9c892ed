# SPDX-License-Identifier: Apache-2.0
"""Router solicitations and advertisements (RFC 4861 section 4, RFC 8106): bytes to values and values to bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from agent.dhcp.frames import PacketError
from agent.dhcp.frames6 import UNSPECIFIED, ControlMessage, is_unicast

ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 133, 134
HOP_LIMIT = 255  # of every neighbor discovery packet: no router has forwarded it

_UNIT = 8  # octets; in which options are counted
_LONGEST = 255  # units
_RESERVED = 4  # octets before the options of a solicitation
_MANAGED, _OTHER = 0x80, 0x40
_ON_LINK, _AUTONOMOUS = 0x80, 0x40
_ADVERTISEMENT = struct.Struct("!BBHII")
_PREFIX = struct.Struct("!BBBBII4x16s")
_MTU = struct.Struct("!BBxxI")
_LIFETIME = struct.Struct("!BBxxI")


class Option(IntEnum):
    """Types of neighbor discovery options."""

    SOURCE_LINK_LAYER_ADDRESS = 1
    PREFIX_INFORMATION = 3
    MTU = 5
    RDNSS = 25
    DNSSL = 31


@dataclass(frozen=True, slots=True)
class RouterSolicitation:
    """A host's question; ``source_mac`` (6 octets) is what its option says, None without."""

    source_mac: bytes | None = None


@dataclass(frozen=True, slots=True)
class PrefixInformation:
    """A packed prefix and its length; lifetimes in seconds."""

    prefix: bytes
    length: int
    on_link: bool
    autonomous: bool
    valid: int
    preferred: int


@dataclass(frozen=True, slots=True)
class RouterAdvertisement:
    """What a router says; lifetimes in seconds, ``mtu`` in octets (0: not said).

    ``lifetime`` 0: not a default router.  ``dns_servers`` are packed, ``search`` are
    domain names on the wire; both live ``dns_lifetime``.
    """

    source_mac: bytes
    lifetime: int = 0
    managed: bool = False
    other: bool = False
    hop_limit: int = 64
    mtu: int = 0
    prefixes: tuple[PrefixInformation, ...] = ()
    dns_servers: tuple[bytes, ...] = ()
    search: bytes = b""
    dns_lifetime: int = 0


def decode_solicitation(message: ControlMessage) -> RouterSolicitation:
    """Return the solicitation in *message*; PacketError where RFC 4861, section 6.1.1, demands silence.

    The checksum was verified with the packet.
    """
    if message.type != ROUTER_SOLICITATION or message.code != 0:
        raise PacketError(f"ICMPv6 type {message.type} code {message.code} is no router solicitation")
    envelope = message.envelope
    if envelope.hop_limit != HOP_LIMIT:
        raise PacketError(f"router solicitation with hop limit {envelope.hop_limit}")
    if envelope.src != UNSPECIFIED and not is_unicast(envelope.src):
        raise PacketError("router solicitation from a group")
    if len(message.body) < _RESERVED:
        raise PacketError("router solicitation is cut short")
    source_mac = _source_mac(message.body[_RESERVED:])
    if source_mac is not None and envelope.src == UNSPECIFIED:
        raise PacketError("router solicitation with a link-layer address, but from no address")
    return RouterSolicitation(source_mac)


def _source_mac(options: bytes) -> bytes | None:
    found: bytes | None = None
    while options:
        if len(options) < _UNIT or not options[1] or len(options) < options[1] * _UNIT:
            raise PacketError("neighbor discovery option is cut short or empty")
        size = options[1] * _UNIT
        if options[0] == Option.SOURCE_LINK_LAYER_ADDRESS and found is None:
            found = options[2:8]
        options = options[size:]
    return found


def encode_advertisement(advertisement: RouterAdvertisement, room: int) -> bytes:
    """Return what follows the ICMPv6 checksum, at most *room* octets of it: options that do not fit are left out."""
    flags = _MANAGED * advertisement.managed | _OTHER * advertisement.other
    parts = [_ADVERTISEMENT.pack(advertisement.hop_limit, flags, advertisement.lifetime, 0, 0)]
    room -= _ADVERTISEMENT.size
    for option in _options(advertisement):
        if len(option) <= room:
            room -= len(option)
            parts.append(option)
    return b"".join(parts)


def _options(advertisement: RouterAdvertisement) -> list[bytes]:
    options = [bytes((Option.SOURCE_LINK_LAYER_ADDRESS, 1)) + advertisement.source_mac]
    if advertisement.mtu:
        options.append(_MTU.pack(Option.MTU, 1, advertisement.mtu))
    options += map(_prefix_information, advertisement.prefixes)
    lifetime = advertisement.dns_lifetime
    if advertisement.dns_servers:
        options.append(_counted(Option.RDNSS, lifetime, b"".join(advertisement.dns_servers)))
    if advertisement.search:
        options.append(_counted(Option.DNSSL, lifetime, advertisement.search))
    return [option for option in options if option]


def _prefix_information(prefix: PrefixInformation) -> bytes:
    flags = _ON_LINK * prefix.on_link | _AUTONOMOUS * prefix.autonomous
    lifetimes = prefix.valid, prefix.preferred
    return _PREFIX.pack(Option.PREFIX_INFORMATION, 4, prefix.length, flags, *lifetimes, prefix.prefix)


def _counted(option: Option, lifetime: int, payload: bytes) -> bytes:
    """Return an option that says its size, filled up with zeros; nothing if it cannot be that long."""
    units = 1 + -(-len(payload) // _UNIT)
    if units > _LONGEST:
        return b""
    return (_LIFETIME.pack(option, units, lifetime) + payload).ljust(units * _UNIT, b"\0")
