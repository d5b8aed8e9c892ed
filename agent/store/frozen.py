# SPDX-License-Identifier: Apache-2.0
"""The replica's rows as frozen values, by kind.

After each batch of updates the rows that it named are frozen again; one that is as
before keeps its object.  A row that makes no sense is a *fault* and has no value; a part
of one is a *doubt*, and the value goes without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ovs.db import idl as ovs_idl

from agent.core.model import HostName
from agent.store import rows
from agent.store.kinds import KINDS, OF_TABLE, kind_of
from agent.store.service_rows import Doubts

File = Callable[[str, Any, Any], None]  # kind, value before, value now; None where there is none


class Fault(NamedTuple):
    """A row that makes no sense; ``name`` is empty if it has none, ``whose`` if it is nobody's but its own."""

    error: rows.RowError
    name: str
    whose: str


class FrozenRows:
    """Frozen values by kind and row id.  *file* is told of each that changes.  Used on the IDL thread only."""

    def __init__(self, idl: ovs_idl.Idl, host: HostName, file: File) -> None:
        self._idl = idl
        self._host = host
        self._file = file
        self._frozen: dict[str, dict[Any, Any]] = {kind: {} for kind in KINDS}
        self._faults: dict[str, dict[Any, Fault]] = {kind: {} for kind in KINDS}
        self._doubts: dict[str, dict[Any, Doubts]] = {kind: {} for kind in KINDS}
        self._changed: set[str] = set(KINDS)

    def __getitem__(self, kind: str) -> Mapping[Any, Any]:
        """Return the values of a kind by row id."""
        return self._frozen[kind]

    def faults(self) -> Iterator[tuple[str, Any, Fault]]:
        """Yield the rows that make no sense: kind, row id and why."""
        return ((kind, uuid, fault) for kind, faults in self._faults.items() for uuid, fault in faults.items())

    def doubts(self) -> Iterator[tuple[str, Any, Doubts]]:
        """Yield what was left out of rows: kind, row id and why."""
        return ((kind, uuid, doubts) for kind, found in self._doubts.items() for uuid, doubts in found.items())

    def take_changed(self) -> set[str]:
        """Return the kinds of which something changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def freeze(self, noted: Mapping[str, set[Any]]) -> None:
        """Freeze the *noted* rows (ids by table) anew, and drop those that are gone."""
        for table, kinds in OF_TABLE.items():
            if kinds:
                live = self._idl.tables[table].rows
                for uuid in noted.get(table, ()):
                    row = live.get(uuid)
                    is_of = None if row is None else kind_of(table, row, self._host)
                    for kind in kinds:
                        if kind != is_of:
                            self._drop(kind, uuid)
                    if is_of is not None:
                        self._freeze(is_of, uuid, row)
                self._drop_lost(table)

    def _freeze(self, kind: str, uuid: Any, row: Any) -> None:
        before, doubts = self._frozen[kind].get(uuid), Doubts()
        try:
            noun = KINDS[kind].freeze(row, before, doubts)
        except (rows.RowError, ValueError, TypeError, StopIteration) as unknown:
            # A later version of the schema may hold values that we cannot even name.
            err = (
                unknown if isinstance(unknown, rows.RowError) else rows.RowError("row", f"not understood: {unknown!r}")
            )
            self._drop(kind, uuid)
            whose = KINDS[kind].whose
            self._faults[kind][uuid] = Fault(
                err, _value(row, KINDS[kind].column), "" if whose is None else _text(whose, row)
            )
            self._changed.add(kind)
            return
        if self._faults[kind].pop(uuid, None) is not None or doubts != self._doubts[kind].get(uuid, []):
            self._changed.add(kind)
        if doubts:
            self._doubts[kind][uuid] = doubts
        else:
            self._doubts[kind].pop(uuid, None)
        if before != noun:
            self._frozen[kind][uuid] = noun
            self._changed.add(kind)
            self._file(kind, before, noun)

    def _drop(self, kind: str, uuid: Any) -> None:
        self._doubts[kind].pop(uuid, None)
        before = self._frozen[kind].pop(uuid, None)
        if self._faults[kind].pop(uuid, None) is not None or before is not None:
            self._changed.add(kind)
        if before is not None:
            self._file(kind, before, None)

    def _drop_lost(self, table: str) -> None:
        """Drop what a reconnected replica has no more (it is cleared without notifications)."""
        live, kinds = self._idl.tables[table].rows, OF_TABLE[table]
        if sum(len(self._frozen[kind]) + len(self._faults[kind]) for kind in kinds) > len(live):
            for kind in kinds:
                for uuid in [*self._frozen[kind], *self._faults[kind]]:
                    if uuid not in live:
                        self._drop(kind, uuid)


def _value(row: Any, column: str) -> str:
    """Return a column as text, "" if the table has none like it or it is empty."""
    return str(rows.optional(row, column) or "") if column in row._data else ""


def _text(whose: Callable[[Any], str], row: Any) -> str:
    try:
        return whose(row)
    except (KeyError, StopIteration):
        return ""
