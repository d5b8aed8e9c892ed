# SPDX-License-Identifier: Apache-2.0
"""The flow key as a Python value: the same fields as ``struct fp_flow_key``, whose header explains them."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag
from typing import NamedTuple

_LAYOUT = struct.Struct("=16s16s6s6sHHHHHHBBBBBBBx16s6s6sHHHHxxxx")


class Result(IntEnum):
    """What a frame's headers are worth; the numbers of ``enum fp_result``."""

    VALID = 0
    TRUNCATED = 1
    MALFORMED = 2


class Layer(IntFlag):
    """Headers that a key holds; the bits of ``enum fp_layer``."""

    NONE = 0
    ETHERNET = 1
    VLAN = 2
    ARP = 4
    IPV4 = 8
    IPV6 = 16
    TCP = 32
    UDP = 64
    ICMP = 128
    ICMPV6 = 256
    ND = 512


class Fragment(IntEnum):
    """Which part of an IP packet a frame holds; the numbers of ``enum fp_fragment``."""

    NONE = 0
    FIRST = 1
    LATER = 2


@dataclass(frozen=True, slots=True)
class FlowKey:
    """By what packets are told apart.

    Addresses are bytes in network order (``src`` and ``dst`` always 16, IPv4 and ARP
    addresses in the first 4), numbers are numbers, fields of absent headers are zero.
    """

    src: bytes = bytes(16)
    dst: bytes = bytes(16)
    eth_dst: bytes = bytes(6)
    eth_src: bytes = bytes(6)
    eth_type: int = 0
    vlan_tci: int = 0
    src_port: int = 0
    dst_port: int = 0
    layers: Layer = Layer.NONE
    tcp_flags: int = 0
    protocol: int = 0
    tos: int = 0
    ttl: int = 0
    fragment: Fragment = Fragment.NONE
    vlan_count: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    nd_target: bytes = bytes(16)
    arp_sha: bytes = bytes(6)
    arp_tha: bytes = bytes(6)
    arp_op: int = 0
    vlan_tpid: int = 0
    l3_offset: int = 0
    l4_offset: int = 0

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> FlowKey:
        """Return the key whose C structure has the bytes *raw*; struct.error if the size is wrong."""
        values = dict(zip(_FIELDS, _LAYOUT.unpack(raw), strict=True))
        layers, fragment = Layer(values.pop("layers")), Fragment(values.pop("fragment"))
        return cls(layers=layers, fragment=fragment, **values)

    @property
    def source(self) -> str | None:
        """The IP (or ARP sender's) address in text, None without one."""
        return self._address(self.src)

    @property
    def destination(self) -> str | None:
        """The IP (or ARP target's) address in text, None without one."""
        return self._address(self.dst)

    def _address(self, raw: bytes) -> str | None:
        if self.layers & Layer.IPV6:
            return str(ipaddress.IPv6Address(raw))
        if self.layers & (Layer.IPV4 | Layer.ARP):
            return str(ipaddress.IPv4Address(raw[:4]))
        return None


class Parsed(NamedTuple):
    """A frame's result and key."""

    result: Result
    key: FlowKey


_FIELDS = tuple(field.name for field in fields(FlowKey))
