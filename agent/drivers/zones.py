# SPDX-License-Identifier: Apache-2.0
"""Driver ``zones``: which conntrack zone a packet belongs to, and the guard behind the filters.

Key ``base`` stands for what all bridges share, a bridge's name for its zone.  A bridge
gets its zone only after that zone was emptied: connections of whoever had the number
before must not count.  A zone that is in force already is never emptied.

Zones are set by nf_tables where that can be used, else by the ``raw`` tables of
iptables, which see packets after fragments were put together; ``limits`` says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

from agent.command import Runner
from agent.core.errors import AgentError, ApplyError
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.zones_netlink import ElementSocket
from agent.drivers.zones_nft import BRIDGE, INET, NftTables, supported
from agent.drivers.zones_raw import RawTables, remove_leftovers
from agent.drivers.zones_text import BASE, PRESENT, ZoneElements, Zones, ZoneState, ZoneTable, check, zone_of

LOG = logging.getLogger(__name__)

_FRAGMENTS = (
    "nf_tables cannot be used: conntrack zones are set in the raw table, and fragments of two"
    " tenants with equal addresses can mix"
)
_NO_GUARD = (
    "nf_tables has no bridge family here: nothing guards behind the filters, which open"
    " while somebody switches them off"
)


class ZonesDriver:
    """Zones in the namespace in which it is first used.

    *flush* ends all connections in some zones, and raises AgentError if it cannot;
    *backend* is the iptables to use where nf_tables cannot be: ``nft``, ``legacy``, or
    empty for whatever is called ``iptables``.  *elements* are those of our nf_tables map
    and set, by default the kernel's.
    """

    name = "zones"

    def __init__(
        self,
        run: Runner,
        flush: Callable[[Collection[int]], None],
        backend: str = "",
        elements: ZoneElements | None = None,
    ) -> None:
        self._run = run
        self._elements = elements if elements is not None else ElementSocket()
        self._flush = flush
        self._backend = backend
        self._chosen: tuple[ZoneTable, ...] = ()  # the first holds the zones; a second one is a guard by itself
        self._limits: tuple[str, ...] = ()

    def limits(self) -> tuple[str, ...]:
        """Return a sentence for each thing that this host cannot do; none before the first use."""
        return self._limits

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read what is there: all of it, or *keys*."""
        found: dict[Key, Value]
        if keys is None or BASE in keys:
            state = self._read()
            found = {**state.zones, **({} if state.base is None else {BASE: state.base})}
        else:
            found = dict(self._zones().zones())
        return found if keys is None else {key: found[key] for key in keys if key in found}

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta*: the base first (or, if it goes, last), then the zones, in one step each."""
        failed: dict[Key, Exception] = {}
        wanted = _checked(delta, failed)
        present = self._zones().zones()
        if BASE in delta.creates or BASE in delta.updates:
            _attempt([BASE], failed, lambda: self._write_base(present))
        gone = [key for key in delta.deletes if key in present]
        if gone:
            _attempt(gone, failed, lambda: self._zones().write_zones(present, dict.fromkeys(gone)))
        changes = {key: value for key, value in wanted.items() if present.get(key) != value}
        if changes:
            _attempt(list(changes), failed, lambda: self._move(_without(present, gone), changes))
        if BASE in delta.deletes:
            _attempt([BASE], failed, self._remove)
        return failed

    def _move(self, present: Zones, changes: Mapping[str, str]) -> None:
        """Give bridges their zones, which nobody may use when they are emptied."""
        numbers = {zone_of(value) for value in changes.values()}
        used = [name for name, value in present.items() if zone_of(value) in numbers]
        if used:
            self._zones().write_zones(present, dict.fromkeys(used))
        self._flush(sorted(numbers))
        self._zones().write_zones(_without(present, used), changes)

    def _write_base(self, present: Zones) -> None:
        for table in self._tables():
            table.write_base(present)

    def _remove(self) -> None:
        for table in self._tables():
            table.remove()

    def _read(self) -> ZoneState:
        states = [table.read() for table in self._tables()]
        faults = [state.base or "missing" for state in states if state.base != PRESENT]
        if all(state.base is None for state in states):
            return ZoneState(None, states[0].zones)
        return ZoneState(", ".join(faults) or PRESENT, states[0].zones)

    def _zones(self) -> ZoneTable:
        return self._tables()[0]

    def _tables(self) -> tuple[ZoneTable, ...]:
        if not self._chosen:
            families = supported(self._run)
            self._limits = (*(() if INET in families else (_FRAGMENTS,)), *(() if BRIDGE in families else (_NO_GUARD,)))
            for sentence in self._limits:
                LOG.warning("%s", sentence)
            if INET in families:
                remove_leftovers(self._run)
                self._chosen = (NftTables(self._run, families, self._elements),)
            else:
                guard = (NftTables(self._run, families, self._elements),) if families else ()
                self._chosen = (RawTables(self._run, self._backend), *guard)
        return self._chosen


def _checked(delta: Delta, failed: dict[Key, Exception]) -> dict[str, str]:
    """Return the zones that are to be written; *failed* says which cannot be."""
    wanted: dict[str, str] = {}
    for key, value in (*delta.creates.items(), *((key, new) for key, (_, new) in delta.updates.items())):
        if key == BASE:
            continue
        try:
            wanted[key] = check(key, value)
        except ValueError as err:
            failed[key] = ApplyError(f"conntrack zone of bridge {key}: {err}")
    return wanted


def _attempt(keys: Collection[Key], failed: dict[Key, Exception], do: Callable[[], None]) -> None:
    try:
        do()
    except AgentError as err:
        failed.update(dict.fromkeys(keys, err))


def _without(zones: Zones, names: Collection[str]) -> Zones:
    return {name: value for name, value in zones.items() if name not in names}
