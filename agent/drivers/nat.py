# SPDX-License-Identifier: Apache-2.0
"""Driver ``nat``: chains of ours in the tables of routers' namespaces, and the jumps into them.

What is said of driver ``iptables`` holds here for each namespace: ours are chains
``hp-`` and rules with a comment ``hp:<hash>``; one script per namespace, family and pass,
with a transaction for each table.  Rules and chains of others in the namespace, and
namespaces of others, are never written.

The programs are started by the thread while it is in the namespace, which they inherit:
a millisecond less than ``nsenter`` takes.  A family that has no tables is not asked for
them; what was read is not read again while ``rule_state`` says that it is the same.

A namespace that is gone has taken its rules with it: they are absent, and deleting them
is done.  If the process dies in between, each table of a namespace is as it was or as it
was to be; the next process reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from agent.command import NOT_FOUND, NOT_RUNNABLE, Runner
from agent.core import naming
from agent.core.errors import AgentError, ApplyError, CommandError
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.iptables import LOCK_WAIT
from agent.drivers.iptables_script import TABLES
from agent.drivers.iptables_table import PROGRAMS, FamilyTables
from agent.drivers.namespaces import Namespace, names, open_ours, told
from agent.drivers.rule_state import RuleState, read_state
from agent.namespace import FOLDER, inside

_Place = tuple[str, int]  # namespace and family
_Part = TypeVar("_Part")
_Found = TypeVar("_Found")
# The first table of a new namespace has the program wait 11 ms for the kernel: as many namespaces at a time take a
# third of the time together.
_WORKERS = 4


@dataclass(slots=True)
class _Rules:
    """What is known of one namespace; ``read_at`` has for each family the state in which all of it was read."""

    namespace: int
    tables: dict[int, FamilyTables]
    read_at: dict[int, RuleState] = field(default_factory=dict)


class NatDriver:
    """Rules in the routers' namespaces that have a name in *folder*.

    *backend* and *lock_wait* are those of ``IptablesDriver``.
    """

    name = "nat"

    def __init__(self, run: Runner, backend: str = "", folder: Path = FOLDER, lock_wait: int = LOCK_WAIT) -> None:
        self._run = run
        self._suffix = f"-{backend}" if backend else ""
        self._folder = folder
        self._lock_wait = lock_wait
        self._known: dict[str, _Rules] = {}

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read back what is ours: everything, or those of *keys*.

        Raises AgentError when tables cannot be read.
        """
        if keys is None:
            return self._read_all({(name, family): None for name in self._names() for family in PROGRAMS})
        return self._read_all(_by_place(keys))

    def places(self) -> Collection[str]:
        """Return what is read at a time: a namespace's tables of one family."""
        return [f"{name} {family}" for name in self._names() for family in PROGRAMS]

    def place_of(self, key: Key) -> str:
        """Return in which of ``places`` an item is."""
        return " ".join(key.split(" ", 2)[:2])

    def observe_place(self, place: str) -> dict[Key, Value]:
        """Read back what is ours in one place.  Raises AgentError."""
        name, _, family = place.partition(" ")
        return self._read((name, int(family)))

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta*, a script for each namespace and family; return what was refused.

        Raises CommandError when the programs cannot be used or the lock is held too long.
        """
        failed: dict[Key, Exception] = {}
        by_name: dict[str, list[tuple[_Place, Delta]]] = {}
        for place, part in _parts(delta, failed).items():
            by_name.setdefault(place[0], []).append((place, part))
        for refused in _side_by_side(self._write_namespace, by_name.values()):
            failed.update(refused)
        return failed

    def _read_all(self, places: Mapping[_Place, Collection[Key] | None]) -> dict[Key, Value]:
        """Read *places*, of each the keys that are given for it."""
        by_name: dict[str, list[tuple[_Place, Collection[Key] | None]]] = {}
        for place, keys in places.items():
            by_name.setdefault(place[0], []).append((place, keys))
        found: dict[Key, Value] = {}
        for values in _side_by_side(self._read_namespace, by_name.values()):
            found.update(values)
        return found

    def _read_namespace(self, parts: Collection[tuple[_Place, Collection[Key] | None]]) -> dict[Key, Value]:
        """Read places of one namespace, as ``_write_namespace`` writes them.  Raises AgentError."""
        found: dict[Key, Value] = {}
        for place, keys in parts:
            found.update(self._read(place, keys))
        return found

    def _write_namespace(self, parts: Collection[tuple[_Place, Delta]]) -> dict[Key, Exception]:
        """Write what belongs into one namespace; on any thread, which only goes there and starts programs.

        Raises CommandError if it is not for this namespace that it cannot be done.
        """
        failed: dict[Key, Exception] = {}
        for place, part in parts:
            try:
                failed.update(self._write(place, part))
            except AgentError as err:
                if isinstance(err, CommandError) and _concerns_all(err):
                    raise
                failed.update(dict.fromkeys(map(_prefix(place).__add__, part.keys()), err))
        return failed

    def _names(self) -> list[str]:
        """Return the names that routers' namespaces may have; forget what is known of others."""
        found = list(filter(naming.is_router_namespace, names(self._folder)))
        for name in self._known.keys() - set(found):
            del self._known[name]
        return found

    def _read(self, place: _Place, keys: Collection[Key] | None = None) -> dict[Key, Value]:
        """Read a place, or *keys* (without the namespace) of it."""
        (name, family), prefix = place, _prefix(place)
        namespace = self._open(name)
        if namespace is None:
            return {}
        with namespace:
            try:
                with inside(namespace.descriptor):
                    values = self._read_inside(name, family, keys)
            except CommandError:
                raise
            except (OSError, ApplyError) as err:
                raise told(name, err) from err
        return {prefix + key: value for key, value in values.items()}

    def _read_inside(self, name: str, family: int, keys: Collection[Key] | None) -> dict[Key, Value]:
        state = read_state()
        rules = self._rules(name, state)
        if family not in state.families:
            rules.tables[family].note_empty()
            return {}
        tables = rules.tables[family]
        if keys is not None:
            return tables.observe(keys)
        if state.generation is not None and rules.read_at.get(family) == state:
            return tables.recall()
        rules.read_at.pop(family, None)
        found = tables.observe()
        rules.read_at[family] = state  # of before: what came meanwhile is read the next time
        return found

    def _write(self, place: _Place, delta: Delta) -> dict[Key, Exception]:
        """Write one place's part of a delta, keys without the namespace."""
        (name, family), prefix = place, _prefix(place)
        namespace = self._open(name)
        if namespace is None:
            error = ApplyError(f"there is no namespace {name} of hostplane's")
            return dict.fromkeys((prefix + key for key in (*delta.creates, *delta.updates)), error)
        with namespace:
            try:
                with inside(namespace.descriptor):
                    rules = self._rules(name, read_state())
                    rules.read_at.pop(family, None)
                    failed = rules.tables[family].write(delta)
            except CommandError:
                raise
            except (OSError, ApplyError) as err:
                raise told(name, err) from err
        return {prefix + key: ApplyError(f"namespace {name}: {err}") for key, err in failed.items()}

    def _open(self, name: str) -> Namespace | None:
        namespace = open_ours(name, self._folder) if naming.is_router_namespace(name) else None
        if namespace is None:
            self._known.pop(name, None)
        return namespace

    def _rules(self, name: str, state: RuleState) -> _Rules:
        """Return what is known of a namespace, nothing of one that had its name before."""
        known = self._known.get(name)
        if known is None or known.namespace != state.namespace:
            known = _Rules(state.namespace, {family: self._tables(family) for family in PROGRAMS})
            self._known[name] = known
        return known

    def _tables(self, family: int) -> FamilyTables:
        return FamilyTables(self._run, family, self._suffix, self._lock_wait, table="")


def _side_by_side(work: Callable[[_Part], _Found], parts: Collection[_Part]) -> Iterator[_Found]:
    """Yield what *work* returns for each of *parts*, of which no two are of one namespace; some at a time if many."""
    if len(parts) < _WORKERS:
        yield from map(work, parts)
        return
    with ThreadPoolExecutor(_WORKERS, "nat") as workers:
        started = [workers.submit(work, part) for part in parts]
        try:
            for each in started:
                yield each.result()
        finally:
            for each in started:
                each.cancel()


def _prefix(place: _Place) -> str:
    return f"{place[0]} "


def _place(key: Key) -> _Place | None:
    """Return where an item is, None if there can be no such item."""
    words = key.split(" ", 4)
    if len(words) < 4 or words[1] not in ("4", "6") or words[2] not in TABLES:
        return None
    return words[0], int(words[1])


def _by_place(keys: Collection[Key]) -> dict[_Place, list[Key]]:
    """Return *keys* by place, without the namespace."""
    found: dict[_Place, list[Key]] = {}
    for key in keys:
        place = _place(key)
        if place is not None:
            found.setdefault(place, []).append(key.partition(" ")[2])
    return found


def _parts(delta: Delta, failed: dict[Key, Exception]) -> dict[_Place, Delta]:
    """Return *delta* by place, keys without the namespace; what has no place is in *failed* then."""
    creates: dict[_Place, dict[Key, Value]] = {}
    updates: dict[_Place, dict[Key, tuple[Value, Value]]] = {}
    deletes: dict[_Place, dict[Key, Value]] = {}
    for place, key, rest in _placed(delta.creates, failed):
        creates.setdefault(place, {})[rest] = delta.creates[key]
    for place, key, rest in _placed(delta.updates, failed):
        updates.setdefault(place, {})[rest] = delta.updates[key]
    for place, key, rest in _placed(delta.deletes, failed):
        deletes.setdefault(place, {})[rest] = delta.deletes[key]
    return {
        place: Delta(creates.get(place, {}), updates.get(place, {}), deletes.get(place, {}))
        for place in sorted({*creates, *updates, *deletes})
    }


def _placed(keys: Collection[Key], failed: dict[Key, Exception]) -> Iterator[tuple[_Place, Key, Key]]:
    for key in keys:
        place = _place(key)
        if place is None:
            failed[key] = ApplyError(f"{key!r} is nothing of a router's tables")
        else:
            yield place, key, key.partition(" ")[2]


def _concerns_all(error: CommandError) -> bool:
    """Tell whether it would be the same in the next namespace: nobody waits for that a hundred times."""
    return error.returncode in (None, NOT_FOUND, NOT_RUNNABLE) or "xtables lock" in error.stderr
