# SPDX-License-Identifier: Apache-2.0
"""Neighbor advertisements for the addresses that we answer from (RFC 4861, sections 7.1.1 and 7.2).

Instances must find the link-layer address of the server's link-local address, of the
IPv6 server addresses of their subnets, and of the metadata service.  All of them are at
the server's MAC address.  Who asks is known from where the question came in; nothing
is learnt from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.core.service_identity import METADATA6
from agent.dhcp import frames6
from agent.dhcp.data import PortData
from agent.dhcp.frames import PacketError
from agent.dhcp.frames6 import ALL_NODES, UNSPECIFIED, ControlMessage, Envelope
from agent.dhcp.ra_packet import HOP_LIMIT

NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT = 135, 136

_SOLICITED_NODE = b"\xff\x02" + bytes(9) + b"\1\xff"  # and the last 24 bits of the address
_ALL_NODES_MAC = b"\x33\x33\0\0\0\1"
_HEAD = 20  # octets of reserved field and target, before the options
_UNIT = 8  # octets; in which options are counted
_SOURCE_LINK_LAYER, _TARGET_LINK_LAYER = 1, 2
_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20


class Outcome(StrEnum):
    """What came of a solicitation."""

    ANSWERED = "answered"
    DEFENDED = "defended"  # somebody wanted an address of ours for itself
    NOT_FOR_US = "not-for-us"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Answer:
    """The frame to send, None for silence, and what to count."""

    outcome: Outcome
    frame: bytes | None = None


def answer(message: ControlMessage, port: PortData) -> Answer:
    """Answer a neighbor solicitation that came in on *port*; never raises for what it holds."""
    envelope = message.envelope
    try:
        target = _target(message)
    except PacketError:
        return Answer(Outcome.MALFORMED)
    group = _SOLICITED_NODE + target[-3:]
    if envelope.dst not in (target, group) or envelope.eth_src[0] & 1 or target not in _addresses(port):
        return Answer(Outcome.NOT_FOR_US)
    if envelope.src == UNSPECIFIED:  # duplicate address detection: everybody is told whose it is
        back = Envelope(_ALL_NODES_MAC, envelope.eth_dst, ALL_NODES, target, HOP_LIMIT)
        return Answer(Outcome.DEFENDED, _advertisement(back, target, port, _OVERRIDE))
    back = Envelope(envelope.eth_src, envelope.eth_dst, envelope.src, target, HOP_LIMIT)
    return Answer(Outcome.ANSWERED, _advertisement(back, target, port, _SOLICITED | _OVERRIDE))


def _target(message: ControlMessage) -> bytes:
    """Return the address that is asked for; PacketError where section 7.1.1 demands silence."""
    envelope, body = message.envelope, message.body
    if message.type != NEIGHBOR_SOLICITATION or message.code != 0:
        raise PacketError(f"ICMPv6 type {message.type} code {message.code} is no neighbor solicitation")
    if envelope.hop_limit != HOP_LIMIT:
        raise PacketError(f"neighbor solicitation with hop limit {envelope.hop_limit}")
    if len(body) < _HEAD:
        raise PacketError("neighbor solicitation is cut short")
    target = body[4:_HEAD]
    if not frames6.is_unicast(target):
        raise PacketError("neighbor solicitation for a group")
    has_source = _SOURCE_LINK_LAYER in _options(body[_HEAD:])
    if envelope.src == UNSPECIFIED:
        if has_source or envelope.dst != _SOLICITED_NODE + target[-3:]:
            raise PacketError("neighbor solicitation from no address that is no probe")
    elif not frames6.is_unicast(envelope.src):
        raise PacketError("neighbor solicitation from a group")
    return target


def _options(options: bytes) -> frozenset[int]:
    """Return the types of all options."""
    found: set[int] = set()
    at = 0
    while at < len(options):
        size = options[at + 1] * _UNIT if at + 1 < len(options) else 0
        if not size or at + size > len(options):
            raise PacketError("neighbor discovery option is cut short or empty")
        found.add(options[at])
        at += size
    return frozenset(found)


def _addresses(port: PortData) -> frozenset[bytes]:
    servers = (subnet.server for subnet in port.subnets)
    texts = (METADATA6, *(server for server in servers if server is not None and ":" in server))
    return frozenset((frames6.link_local(port.server_mac), *map(frames6.packed, texts)))


def _advertisement(envelope: Envelope, target: bytes, port: PortData, flags: int) -> bytes:
    # A router must say here, too, that it is one, else hosts forget their default route.
    if target == frames6.link_local(port.server_mac) and not port.router_mac and _is_router(port):
        flags |= _ROUTER
    option = bytes((_TARGET_LINK_LAYER, 1)) + frames6.packed_mac(port.server_mac)
    body = bytes((flags, 0, 0, 0)) + target + option
    return frames6.build_control_message(ControlMessage(envelope, NEIGHBOR_ADVERTISEMENT, 0, body))


def _is_router(port: PortData) -> bool:
    return any(subnet.routed and ":" in subnet.cidr for subnet in port.subnets)
