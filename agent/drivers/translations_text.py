# SPDX-License-Identifier: Apache-2.0
"""Keys and values of driver ``translations``, taken apart; ``agent.core.items`` says what they look like."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from agent.core.errors import ApplyError
from agent.core.plan import Key
from agent.drivers.conntrack_nat import TranslatedConnection

ANYBODY: Final = "*"  # value of an address that whoever has none of his own is translated to
HAIRPIN: Final = "hairpin"  # the same, but only what the router sends back to where it came from
TRANSLATED: Final = "translated"  # value of a prefix: who leaves from there
KEPT: Final = "kept"  # the same: as who he is, or not at all


@dataclass(frozen=True, slots=True)
class Translation:
    """What stands behind an external address, addresses in network order.

    ``internal`` empty: anybody, for what goes out, with ``hairpin`` only if it was sent to
    an address that stands for somebody inside.  With a ``protocol`` only *ports* from
    ``first`` to ``last`` are meant, for what comes in, and the first of them is ``inner``.
    """

    external: bytes
    internal: bytes
    protocol: int | None = None
    first: int = 0
    last: int = 0
    inner: int = 0
    hairpin: bool = False

    @property
    def is_one_for_one(self) -> bool:
        """Whether ``external`` stands for ``internal`` and nobody else, both ways."""
        return self.protocol is None and bool(self.internal)

    def is_asked_by(self, one: TranslatedConnection) -> bool:
        """Tell whether the first packet of *one* was for this, whatever became of it."""
        sent = one.original
        if sent.destination != self.external or not self.internal:
            return False
        return self.protocol is None or (
            sent.protocol == self.protocol and self.first <= sent.destination_port <= self.last
        )

    def is_dodged_by(self, one: TranslatedConnection) -> bool:
        """Tell whether *one* is seen under ``external``, but with another port than its own.

        One address for one keeps ports, unless an older connection is in the way.
        """
        sent, answered = one.original, one.reply
        under = answered.destination == self.external and self.is_one_for_one
        return under and answered.destination_port != sent.source_port

    def brings_in(self, one: TranslatedConnection) -> bool:
        """Tell whether *one* went to ``internal`` because it was sent to ``external``."""
        sent, answered = one.original, one.reply
        if answered.source != self.internal or not self.is_asked_by(one):
            return False
        return self.protocol is None or answered.source_port - self.inner == sent.destination_port - self.first

    def brings_out(self, one: TranslatedConnection) -> bool:
        """Tell whether *one* came from ``internal`` and is seen to come from ``external``."""
        if self.protocol is not None or one.reply.destination != self.external:
            return False
        if not one.has_other_source or (self.hairpin and not one.has_other_destination):
            return False
        return not self.internal or one.original.source == self.internal


@dataclass(frozen=True, slots=True)
class Inside:
    """A prefix behind a router's interfaces: whoever sends there keeps his address.

    ``translated`` tells that whoever sends from there to outside does not.
    """

    first: int
    mask: int
    translated: bool

    def has(self, address: bytes) -> bool:
        """Tell whether an address is in the prefix."""
        return int.from_bytes(address) & self.mask == self.first


def parse(key: Key, value: str) -> tuple[str, Translation | Inside]:
    """Return the namespace of an item and what it says; raise ApplyError for what is none."""
    try:
        match key.split(" "):
            case [namespace, prefix] if value in (TRANSLATED, KEPT):
                network = IPv4Network(prefix)
                return namespace, Inside(int(network.network_address), int(network.netmask), value == TRANSLATED)
            case [namespace, external] if value in (ANYBODY, HAIRPIN):
                return namespace, Translation(_packed(external), b"", hairpin=value == HAIRPIN)
            case [namespace, external]:
                return namespace, Translation(_packed(external), _packed(value))
            case [namespace, external, protocol, ports]:
                internal, _, inner_ports = value.partition(":")
                (first, last), (inner, most) = _range(ports), _range(inner_ports)
                if last - first == most - inner:
                    outer = _packed(external)
                    return namespace, Translation(outer, _packed(internal), int(protocol), first, last, inner)
    except ValueError:
        pass
    raise ApplyError(f"{key!r} cannot be translated to {value!r}")


def _packed(address: str) -> bytes:
    try:
        return socket.inet_pton(socket.AF_INET, address)
    except OSError as err:
        raise ValueError(address) from err


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last)
