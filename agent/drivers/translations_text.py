# SPDX-License-Identifier: Apache-2.0
"""Keys and values of driver ``translations``, taken apart; ``agent.core.items`` says what they look like."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from agent.core.errors import ApplyError
from agent.core.plan import Key
from agent.drivers.conntrack_nat import TranslatedConnection

ANYBODY: Final = "*"  # value of an address that whoever has none of his own is translated to
HAIRPIN: Final = "hairpin"  # the same, but only what the router sends back to where it came from


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


def parse(key: Key, value: str) -> tuple[str, Translation]:
    """Return the namespace and the translation of an item; raise ApplyError for what is none."""
    try:
        match key.split(" "):
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


class Explanation:
    """What translates connections now: *wanted*, and the addresses *own* of the router.

    ``ends`` are the addresses that none of them leaves as they are.
    """

    def __init__(self, wanted: Collection[Translation], own: Iterable[bytes]) -> None:
        self._by_external: dict[bytes, list[Translation]] = {}
        for each in wanted:
            self._by_external.setdefault(each.external, []).append(each)
        # What has no address of its own goes out under the router's; not if it is said what goes out under that.
        self._own = frozenset(own) - {each.external for each in wanted if each.protocol is None}
        self.ends = frozenset(each.external for each in wanted if each.internal)

    def holds(self, one: TranslatedConnection) -> bool:
        """Tell whether all that was done to *one* would be done today."""
        sent, answered = one.original, one.reply
        asked = [each for each in self._by_external.get(sent.destination, ()) if each.is_asked_by(one)]
        if (asked or one.has_other_destination) and not any(each.brings_in(one) for each in asked):
            return False
        if any(each.is_one_for_one for each in self._by_external.get(sent.source, ())):
            return False  # whoever has that address now is inside, and sends from another
        if not one.has_other_source or answered.destination in self._own:
            return True
        return any(each.brings_out(one) for each in self._by_external.get(answered.destination, ()))


def _packed(address: str) -> bytes:
    try:
        return socket.inet_pton(socket.AF_INET, address)
    except OSError as err:
        raise ValueError(address) from err


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last)
