# SPDX-License-Identifier: Apache-2.0
"""The elements of our nf_tables map and set in the tables of ``FakeNft``, as over netlink."""

from __future__ import annotations

from collections.abc import Mapping

from agent.core.errors import ApplyError, CommandError
from agent.drivers.zones_netlink import join
from agent.drivers.zones_text import Zones, is_untracked, zone_of
from tests.fakes.nft import FakeNft, Table


class FakeElements:
    """See ``ZoneElements``; goes through the fake's own scripts, with its fuse and its time-outs."""

    def __init__(self, nft: FakeNft) -> None:
        self._nft = nft

    def zones(self) -> dict[str, str]:
        sets = self._nft.tables.get(("inet", "hostplane"), Table()).sets
        numbers = {name: number or 0 for name, number in sets.get("zones", {}).items()}
        return join(numbers, sets.get("untracked", {}))

    def write(self, present: Zones, changes: Mapping[str, str | None]) -> None:
        words = []
        for bridge, value in changes.items():
            for verb, text in (("delete", present.get(bridge, "")), ("add", value or "")):
                if zone_of(text):
                    words.append(f'{verb} element inet hostplane zones {{ "{bridge}" : {zone_of(text)} }}')
                if is_untracked(text):
                    words.append(f'{verb} element inet hostplane untracked {{ "{bridge}" }}')
        if words:
            try:
                self._nft(("nft", "-f", "-"), stdin="".join(f"{line}\n" for line in words))
            except CommandError as err:
                raise ApplyError(f"nf_tables: {err}") from None
