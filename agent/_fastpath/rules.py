# SPDX-License-Identifier: Apache-2.0
"""Rules of the classifier, and where a packet is: values, and how C sees them (``fp_acl.h``)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from agent._fastpath.key import Fragment

Network: TypeAlias = IPv4Network | IPv6Network
PortRange: TypeAlias = tuple[int, int]

RULE_SIZE = 80
ANY_PORT: PortRange = (0, 65535)

_LAYOUT = struct.Struct("=QIIII16s16sHHHHHBBBBBBBBBB4x")


class Direction(IntEnum):
    """Which way a packet goes, seen from the instance."""

    EGRESS = 0
    INGRESS = 1


class RuleError(IntEnum):
    """What can be wrong with a rule or a change; the numbers of ``enum fp_acl_error``."""

    NO_MEMORY = 1
    ID_TOO_LARGE = 2
    ID_TAKEN = 3
    ID_UNKNOWN = 4
    BAD_PREFIX = 5
    BAD_RANGE = 6
    BAD_VALUE = 7
    NEVER_MATCHES = 8
    TOO_MANY_RULES = 12


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the rule with this id was refused; no id if it is about all of them."""

    rule_id: int | None
    error: RuleError

    def __str__(self) -> str:
        subject = "the rules" if self.rule_id is None else f"rule {self.rule_id}"
        return f"{subject}: {_TEXTS[self.error]}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a packet is met; the numbers of networks and ports are the caller's (32 bits)."""

    network: int = 0
    port: int = 0
    direction: Direction = Direction.EGRESS


@dataclass(frozen=True, slots=True)
class Rule:
    """Which packets; ``None`` stands for any.  The highest priority wins, of equals the lowest id.

    A condition on something that a packet does not have never holds: not that on ports for
    ICMP and later fragments, nor that on a protocol for ARP.  Ranges of ports include
    both ends.  Where an IPv6 packet's extension headers could not be read its protocol is
    255.  Raises ValueError for what is no rule at all: source and destination of
    two IP versions, numbers that do not fit.
    """

    id: int
    priority: int
    network: int | None = None
    port: int | None = None
    direction: Direction | None = None
    eth_type: int | None = None
    version: int | None = None
    protocol: int | None = None
    protocol_mask: int = 0xFF
    src: Network | None = None
    dst: Network | None = None
    src_ports: PortRange = ANY_PORT
    dst_ports: PortRange = ANY_PORT
    icmp_type: int | None = None
    icmp_code: int | None = None
    dscp: frozenset[int] | None = None
    fragments: frozenset[Fragment] | None = None

    def __post_init__(self) -> None:
        versions: set[int] = {network.version for network in (self.src, self.dst) if network is not None}
        versions |= set() if self.version is None else {self.version}
        if len(versions) > 1:
            raise ValueError(f"rule {self.id} has addresses of another IP version")
        if self.dscp is not None and not self.dscp <= frozenset(range(64)):
            raise ValueError(f"rule {self.id} has a DSCP that is not in 0 to 63")
        if self.dscp == frozenset() or self.fragments == frozenset():
            raise ValueError(f"rule {self.id} has an empty set, which no packet is in")
        try:
            self.pack()
        except struct.error as error:
            raise ValueError(f"rule {self.id} has a number that does not fit: {error}") from None

    @property
    def ip_version(self) -> int | None:
        """4 or 6 if only packets of one can match, by the version or by an address."""
        for network in (self.src, self.dst):
            if network is not None:
                return network.version
        return self.version

    def pack(self) -> bytes:
        """Return the bytes of ``struct fp_acl_rule``."""
        conditions = (self.network, self.port, self.eth_type, self.direction, self.icmp_type, self.icmp_code)
        fields = sum(1 << bit for bit, condition in enumerate(conditions) if condition is not None)
        return _LAYOUT.pack(
            sum(1 << value for value in self.dscp or ()),
            self.id,
            self.priority,
            self.network or 0,
            self.port or 0,
            _address(self.src),
            _address(self.dst),
            *self.src_ports,
            *self.dst_ports,
            self.eth_type or 0,
            fields,
            self.ip_version or 0,
            0 if self.src is None else self.src.prefixlen,
            0 if self.dst is None else self.dst.prefixlen,
            self.protocol or 0,
            0 if self.protocol is None else self.protocol_mask,
            self.direction or 0,
            self.icmp_type or 0,
            self.icmp_code or 0,
            sum(1 << value for value in self.fragments or ()),
        )


def _address(network: Network | None) -> bytes:
    return bytes(16) if network is None else network.network_address.packed.ljust(16, b"\0")


_TEXTS = {
    RuleError.NO_MEMORY: "no memory",
    RuleError.ID_TOO_LARGE: "its id is not below the classifier's capacity",
    RuleError.ID_TAKEN: "its id is taken",
    RuleError.ID_UNKNOWN: "no rule has this id",
    RuleError.BAD_PREFIX: "a prefix is too long",
    RuleError.BAD_RANGE: "a range of ports ends before it begins",
    RuleError.BAD_VALUE: "a field has a value that no packet can have, or one outside of its mask",
    RuleError.NEVER_MATCHES: "no packet has all that it asks for",
    RuleError.TOO_MANY_RULES: "too many of them cannot be told apart",
}
