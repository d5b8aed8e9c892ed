# SPDX-License-Identifier: Apache-2.0
"""Frames that tell neighbours where an address is now, as the instance itself would send them.

Sent when a port appears or moves here: physical switches learn the port's MAC from
them, and neighbours forget what they knew.  One ARP announcement for each IPv4
address (RFC 5227, section 3: a request whose sender and target are the address) and
one unsolicited neighbor advertisement for each IPv6 address (RFC 4861, section
7.2.6).  A port without addresses announces its MAC by a RARP request, as hypervisors
do (RFC 903).

``place_frame`` is for switches alone, see ``agent/reminders.py``.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable

from agent.core.model import Port

PLACE_GROUP = "03:48:50:00:00:00"  # locally administered; nobody listens to it

_BROADCAST = b"\xff" * 6
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_REQUEST, _RARP_REQUEST = 1, 3
_ALL_NODES = ipaddress.IPv6Address("ff02::1").packed
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_NEIGHBOR_ADVERTISEMENT = 136
_ROUTER, _OVERRIDE = 0x80000000, 0x20000000
_TARGET_LINK_LAYER_ADDRESS = 2
_ICMPV6 = 58
_VLAN, _LOCAL_EXPERIMENT = 0x8100, 0x88B5
_SMALLEST = 60  # bytes of an Ethernet frame without its checksum


def announcements(port: Port) -> list[bytes]:
    """Return the frames to send as *port*, each a whole Ethernet frame without checksum."""
    addresses = (fixed_ip.address for fixed_ip in port.fixed_ips)
    return address_frames(port.mac, addresses) or [_rarp(_packed(port.mac))]


def address_frames(mac: str, addresses: Iterable[str], *, router: bool = False) -> list[bytes]:
    """Return the frames that say that *addresses* are at *mac*.

    That of a *router* must say so, or hosts forget the way out that it is (RFC 4861, section 7.2.5).
    """
    source = _packed(mac)
    frames = []
    for text in addresses:
        address = ipaddress.ip_address(text)
        if isinstance(address, ipaddress.IPv4Address):
            frames.append(_arp(source, address.packed))
        else:
            frames.append(_neighbor_advertisement(source, address.packed, _OVERRIDE | (_ROUTER if router else 0)))
    return frames


def place_frame(mac: str, vlan: int | None = None) -> bytes:
    """Return a frame that tells switches where *mac* is, tagged with *vlan*, and nobody anything.

    Its ethertype is the one for local experiments (IEEE 802, 9.2.3).
    """
    tag = b"" if vlan is None else struct.pack("!HH", _VLAN, vlan)
    return (_packed(PLACE_GROUP) + _packed(mac) + tag + struct.pack("!H", _LOCAL_EXPERIMENT)).ljust(_SMALLEST, b"\0")


def _packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _arp(mac: bytes, address: bytes) -> bytes:
    body = _ARP.pack(1, 0x0800, 6, 4, _ARP_REQUEST, mac, address, bytes(6), address)
    return _frame(_BROADCAST, mac, 0x0806, body)


def _rarp(mac: bytes) -> bytes:
    body = _ARP.pack(1, 0x0800, 6, 4, _RARP_REQUEST, mac, bytes(4), mac, bytes(4))
    return _frame(_BROADCAST, mac, 0x8035, body)


def _neighbor_advertisement(mac: bytes, address: bytes, flags: int) -> bytes:
    option = struct.pack("!BB6s", _TARGET_LINK_LAYER_ADDRESS, 1, mac)
    body = struct.pack("!I16s", flags, address) + option
    head = struct.pack("!BBH", _NEIGHBOR_ADVERTISEMENT, 0, 0)
    pseudo = address + _ALL_NODES + struct.pack("!I3xB", len(head) + len(body), _ICMPV6)
    checksum = _internet_checksum(pseudo + head + body)
    message = struct.pack("!BBH", _NEIGHBOR_ADVERTISEMENT, 0, checksum) + body
    ip = struct.pack("!IHBB16s16s", 6 << 28, len(message), _ICMPV6, 255, address, _ALL_NODES)
    return _frame(_ALL_NODES_MAC, mac, 0x86DD, ip + message)


def _internet_checksum(data: bytes) -> int:
    """RFC 1071; *data* has an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _frame(destination: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    return (destination + source + struct.pack("!H", ethertype) + payload).ljust(_SMALLEST, b"\0")
