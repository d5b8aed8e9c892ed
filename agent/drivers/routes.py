# SPDX-License-Identifier: Apache-2.0
"""Driver ``routes``: addresses, routes, permanent neighbours and settings in namespaces of ours.

Addresses, routes and neighbours are ours by their protocol (``agent.drivers.routes_netlink``);
what others put into our namespaces is neither read nor changed.  An address never
takes part in duplicate address detection: who has it is decided in the store.

The kernel does not tell who has set a setting (``/proc/sys/net``).  Those that this
process has written are read back; one that is desired no more is left as it is.

Each namespace that a delta or a reading names is opened once and closed again; a delta
is one batch there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from agent.core.errors import ApplyError
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.namespaces import Namespace, each_of_ours, names, open_ours, told
from agent.drivers.routes_netlink import Entries, RouteTable
from agent.drivers.routes_text import Address, Neighbor, Prefix, Setting, Thing, address_text, parse_key
from agent.drivers.routes_write import Change, value_of, write
from agent.namespace import FOLDER, inside

_LONGEST = 4096  # octets of a setting


class RoutesDriver:
    """What the namespaces of ours in *folder* have."""

    name = "routes"

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._settings: dict[str, dict[Key, Setting]] = {}  # by namespace: those that we have written
        self._left: set[Key] = set()  # settings that are desired no more

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read back what is ours: everything, or those of *keys*."""
        found: dict[Key, Value] = {}
        if keys is None:
            for namespace in each_of_ours(self._folder):
                found.update(self._read(namespace, None))
            return found
        for name, wanted in _by_namespace(keys).items():
            opened = open_ours(name, self._folder)
            if opened is not None:
                with opened:
                    found.update(self._read(opened, wanted))
        return found

    def places(self) -> Collection[str]:
        """Return the namespaces, whoever made them.  Raises ApplyError."""
        return names(self._folder)

    def place_of(self, key: Key) -> str:
        """Return the namespace of an item."""
        return key.partition(" ")[0]

    def observe_place(self, place: str) -> dict[Key, Value]:
        """Read back what is ours in one namespace.  Raises ApplyError."""
        opened = open_ours(place, self._folder)
        if opened is None:
            return {}
        with opened:
            return self._read(opened, None)

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta*, a batch a namespace."""
        failed: dict[Key, Exception] = {}
        for name, changes in _changes(delta, failed).items():
            try:
                opened = open_ours(name, self._folder)
                if opened is None:
                    failed.update(_nowhere(name, changes))
                    continue
                with opened:
                    failed.update(self._write(opened, changes))
            except (OSError, ApplyError) as err:
                failed.update(dict.fromkeys((key for key, *_ in changes), told(name, err)))
        return failed

    def _read(self, namespace: Namespace, wanted: Mapping[Key, Thing] | None) -> dict[Key, Value]:
        """Read a namespace.  Raises ApplyError."""
        try:
            found = _read_entries(namespace, wanted)
            known = self._settings.get(namespace.name, {})
            settings = {
                key: thing
                for key, thing in (known if wanted is None else wanted).items()
                if isinstance(thing, Setting) and key not in self._left
            }
            if settings:
                with inside(namespace.descriptor):
                    found.update((key, value) for key, value in _read_settings(settings) if value is not None)
        except (OSError, ApplyError) as err:
            raise told(namespace.name, err) from err
        return found

    def _write(self, namespace: Namespace, changes: Collection[_Wish]) -> dict[Key, Exception]:
        """Write a namespace's part; raise OSError or ApplyError if the kernel does not talk to us."""
        failed: dict[Key, Exception] = {}
        settings = [(key, thing, new) for key, thing, _, new in changes if isinstance(thing, Setting)]
        wanted = [(key, thing, new) for key, thing, new in settings if new is not None]
        known = self._settings.setdefault(namespace.name, {})
        for key, _, new in settings:
            if new is None:
                known.pop(key, None)
                self._left.add(key)
        if wanted:
            with inside(namespace.descriptor):
                for key, thing, value in wanted:
                    error = _set(thing, value)
                    if error is None:
                        self._left.discard(key)
                        known[key] = thing
                    else:
                        failed[key] = ApplyError(f"namespace {namespace.name}: {key.partition(' ')[2]}: {error}")
        others = [Change(key, thing, old, new) for key, thing, old, new in changes if not isinstance(thing, Setting)]
        if others:
            failed.update(write(RouteTable(namespace.kernel), others))
        return failed


_Wish = tuple[Key, Thing, str | None, str | None]  # the item, what it was believed to be, what it shall be


def _by_namespace(keys: Collection[Key]) -> dict[str, dict[Key, Thing]]:
    found: dict[str, dict[Key, Thing]] = {}
    for key in keys:
        try:
            name, thing = parse_key(key)
        except ApplyError:
            continue  # there can be no such thing
        found.setdefault(name, {})[key] = thing
    return found


def _changes(delta: Delta, failed: dict[Key, Exception]) -> dict[str, list[_Wish]]:
    """Return what *delta* wants, by namespace."""
    found: dict[str, list[_Wish]] = {}
    for key, old, new in _wishes(delta):
        try:
            name, thing = parse_key(key)
        except ApplyError as err:
            failed[key] = err
            continue
        found.setdefault(name, []).append((key, thing, old, new))
    return found


def _wishes(delta: Delta) -> Iterator[tuple[Key, str | None, str | None]]:
    for key, new in delta.creates.items():
        yield key, None, str(new)
    for key, (old, new) in delta.updates.items():
        yield key, str(old), str(new)
    for key, old in delta.deletes.items():
        yield key, str(old), None


def _nowhere(name: str, changes: Collection[_Wish]) -> dict[Key, Exception]:
    """Return what cannot be done without a namespace: everything but deleting."""
    error = ApplyError(f"there is no namespace {name} of hostplane's")
    return {key: error for key, _, _, new in changes if new is not None}


def _read_entries(namespace: Namespace, wanted: Mapping[Key, Thing] | None) -> dict[Key, Value]:
    """Read addresses, routes and neighbours, only the kinds that are wanted.  Raises OSError, ApplyError."""
    table = RouteTable(namespace.kernel)
    present: Entries = {}
    things = None if wanted is None else set(wanted.values())
    if things is None or any(isinstance(thing, Address) for thing in things):
        present |= table.addresses()
    if things is None or any(isinstance(thing, Prefix) for thing in things):
        present |= table.routes()
    neighbors = None if things is None else [thing for thing in things if isinstance(thing, Neighbor)]
    if neighbors is None or neighbors:
        present |= table.neighbors(neighbors)
    if wanted is None:
        return {_key(namespace.name, thing): value_of(thing, entry) for thing, entry in present.items() if entry.ours}
    found: dict[Key, Value] = {}
    for key, thing in wanted.items():
        entry = None if isinstance(thing, Setting) else present.get(thing)
        if entry is not None and entry.ours and not isinstance(thing, Setting):
            found[key] = value_of(thing, entry)
    return found


def _key(namespace: str, thing: Address | Prefix | Neighbor) -> Key:
    match thing:
        case Address():
            return f"{namespace} address {thing.device} {address_text(thing.packed)}/{thing.length}"
        case Prefix():
            return f"{namespace} route {address_text(thing.packed)}/{thing.length}"
        case Neighbor():
            return f"{namespace} neighbor {thing.device} {address_text(thing.packed)}"


def _read_settings(settings: Mapping[Key, Setting]) -> Iterator[tuple[Key, str | None]]:
    """Yield the settings of the thread's namespace; None for one that the kernel does not have."""
    for key, setting in settings.items():
        try:
            yield key, _get(setting)
        except FileNotFoundError:
            yield key, None


def _set(setting: Setting, value: str) -> str | None:
    """Write a setting of the thread's namespace if it is not as wanted; return what went wrong, or None."""
    try:
        if _get(setting) != _canonical(value):
            Path(setting.path).write_text(value)
    except OSError as err:
        return err.strerror or str(err)
    return None


def _get(setting: Setting) -> str:
    """Read a setting of the thread's namespace.  Raises OSError."""
    file = os.open(setting.path, os.O_RDONLY | os.O_CLOEXEC)  # in half the time of Path: there are thousands
    try:
        return _canonical(os.read(file, _LONGEST).decode())
    finally:
        os.close(file)


def _canonical(value: str) -> str:
    return " ".join(value.split())  # the kernel separates several values by tabs
