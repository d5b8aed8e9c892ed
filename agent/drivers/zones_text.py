# SPDX-License-Identifier: Apache-2.0
"""Conntrack zones of bridges as text: items of driver ``zones``, and what both of its ways have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from agent.core.naming import ALLOWED_MARK, ZONED_MARK
from agent.core.plan import Key, Value

BASE = "base"
PRESENT = "present"
BOTH_MARKS = ZONED_MARK | ALLOWED_MARK
Zones: TypeAlias = Mapping[str, str]  # bridge -> "<zone>" or "<zone> notrack"

_BRIDGE = re.compile(r"qbr[0-9A-Za-z][0-9A-Za-z_.-]{0,11}")
_VALUE = re.compile(r"([0-9]{1,5})( notrack)?")


@dataclass(frozen=True, slots=True)
class ZoneState:
    """What is there: ``base`` is ``present``, what is wrong with it, or None if nothing is there at all."""

    base: str | None = None
    zones: Zones = field(default_factory=dict)


class ZoneElements(Protocol):
    """The elements of the nf_tables map and set of zones.  All raise ApplyError."""

    def zones(self) -> dict[str, str]:
        """Return the zone of each bridge; one that is in the set only has no zone, which is written 0."""

    def write(self, present: Zones, changes: Mapping[str, str | None]) -> None:
        """Set the zones of some bridges (None: take it away) in one step; *present* are those that are there."""


class ZoneTable(Protocol):
    """One way to give packets their zone.  All raise ApplyError."""

    def read(self) -> ZoneState:
        """Return what is there."""

    def zones(self) -> Zones:
        """Return the zones that are there; reads less than all."""

    def write_base(self, zones: Zones) -> None:
        """Make what all bridges share as it should be, in one step; *zones*, which are there, stay."""

    def remove(self) -> None:
        """Take everything away."""

    def write_zones(self, present: Zones, changes: Mapping[str, str | None]) -> None:
        """Set the zones of some bridges (None: take it away), in one step; *present* are those that are there."""


def zone_of(value: str) -> int:
    """Return the number in an item's value; 0, which is nobody's, if there is none."""
    match = _VALUE.fullmatch(value)
    return int(match[1]) if match else 0


def is_untracked(value: str) -> bool:
    """Tell whether connections are not to be tracked."""
    return value.endswith(" notrack")


def check(bridge: Key, value: Value) -> str:
    """Return the text of an item that can be written.  Raises ValueError."""
    if not _BRIDGE.fullmatch(bridge):
        raise ValueError(f"{bridge!r} is not the name of a hybrid plug's bridge")
    if not isinstance(value, str) or not 1 <= zone_of(value) <= 65535:
        raise ValueError(f"{value!r} is not a conntrack zone")
    return value
