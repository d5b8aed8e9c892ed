# SPDX-License-Identifier: Apache-2.0
"""Which connections of a router end when what is translated changes.  Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from agent.drivers.conntrack_nat import TranslatedConnection
from agent.drivers.translations_text import Inside, Translation

_ByExternal = dict[bytes, list[Translation]]
_MULTICAST: Final = 224  # first octet of the first of those addresses


class Explanation:
    """What translates connections now: *wanted*, and the addresses *own* of the router."""

    def __init__(self, wanted: Collection[Translation | Inside], own: Iterable[bytes]) -> None:
        self._inside = [each for each in wanted if isinstance(each, Inside)]
        translations = [each for each in wanted if isinstance(each, Translation)]
        self._by_external: _ByExternal = defaultdict(list)
        for each in translations:
            self._by_external[each.external].append(each)
        self._routers = frozenset(own)
        # What has no address of its own goes out under the router's; not if it is said what goes out under that.
        self._own = self._routers - {each.external for each in translations if each.protocol is None}
        self._ends = frozenset(each.external for each in translations if each.internal)

    def is_inside(self, address: bytes) -> bool:
        """Tell whether an address is behind the router's interfaces."""
        return any(each.has(address) for each in self._inside)

    def leaves(self, source: bytes, destination: bytes) -> bool:
        """Tell whether what is sent so would be translated, because it leaves the router."""
        if self.is_inside(destination) or destination in self._routers or destination[0] >= _MULTICAST:
            return False
        return any(each.translated and each.has(source) for each in self._inside)

    def asked(self, source: bytes, destination: bytes) -> bool:
        """Tell whether a connection that begins so would be translated."""
        return source in self._ends or destination in self._ends or self.leaves(source, destination)

    def holds(self, one: TranslatedConnection) -> bool:
        """Tell whether all that was done to *one* would be done today."""
        sent, answered = one.original, one.reply
        asked = [each for each in self._by_external.get(sent.destination, ()) if each.is_asked_by(one)]
        if (asked or one.has_other_destination) and not any(each.brings_in(one) for each in asked):
            return False
        if any(each.is_one_for_one for each in self._by_external.get(sent.source, ())):
            return False  # whoever has that address now is inside, and sends from another
        if not one.has_other_source:
            return one.has_other_destination or not self.leaves(sent.source, sent.destination)
        if self.is_inside(sent.destination):
            return False
        if answered.destination in self._own:
            return True
        return any(each.brings_out(one) for each in self._by_external.get(answered.destination, ()))


@dataclass(slots=True)
class Change:
    """What is wanted no more, and what is new; ``gone`` and ``come`` are prefixes."""

    stale: _ByExternal = field(default_factory=lambda: defaultdict(list))
    made: _ByExternal = field(default_factory=lambda: defaultdict(list))
    gone: list[Inside] = field(default_factory=list)
    come: list[Inside] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.stale or self.made or self.gone or self.come)

    def add(self, old: Translation | Inside | None, new: Translation | Inside | None) -> None:
        """Note that *new* is wanted in place of *old*; None is nothing."""
        if isinstance(old, Translation):
            self.stale[old.external].append(old)
        elif old is not None and new is None:
            self.gone.append(old)
        if isinstance(new, Inside):
            self.come.append(new)
        elif new is not None and new.internal:
            self.made[new.external].append(new)

    def addresses(self) -> set[bytes]:
        """Return those of which everything was translated, not single ports, and is translated otherwise now."""
        return {each.external for known in self.stale.values() for each in known if each.protocol is None}

    def asked(self, source: bytes, destination: bytes) -> bool:
        """Tell whether a connection that begins so may be concerned though it is not translated."""
        if {source, destination} & (self.made.keys() | self.stale.keys()):
            return True
        return any(each.has(source) or each.has(destination) for each in (*self.gone, *self.come))

    def concerns(self, one: TranslatedConnection) -> bool:
        """Tell whether *one* is as it is because of what was, or would be otherwise because of what is new."""
        source, to, seen_from = one.original.source, one.original.destination, one.reply.destination
        return (
            any(each.brings_in(one) for each in self.stale.get(to, ()))
            or any(each.brings_out(one) for each in self.stale.get(seen_from, ()))
            or any(each.is_asked_by(one) for each in self.made.get(to, ()))
            or source in self.made
            or any(each.has(source) or each.has(to) for each in self.come)
        )

    def ends(self, one: TranslatedConnection, now: Explanation) -> bool:
        """Tell whether *one* ends whatever else there is.

        One of its ends is in a prefix that nothing leads to any more, or it has another port
        only because of a connection that ends as well.
        """
        ends = (one.original.source, one.reply.source)
        if any(each.has(end) and not now.is_inside(end) for each in self.gone for end in ends):
            return True
        seen_from = one.reply.destination
        return any(each.is_dodged_by(one) for each in (*self.stale.get(seen_from, ()), *self.made.get(seen_from, ())))
