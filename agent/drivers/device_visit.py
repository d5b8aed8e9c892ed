# SPDX-License-Identifier: Apache-2.0
"""Devices of several namespaces at once, for the time of one reading or writing.

Keys are those of driver ``links``: ``<name>`` on the host, ``<namespace>/<name>`` elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from agent.core.errors import ApplyError
from agent.core.plan import Key
from agent.drivers.devices import Device, DeviceSpaces, DeviceTable


class DeviceVisit:
    """Opens each namespace when it is first asked for, and closes all of them; a context manager.

    *met* keeps from one visit to the next in which namespace the other end of a device was:
    that is looked at first.
    """

    def __init__(self, spaces: DeviceSpaces, met: dict[Key, str] | None = None) -> None:
        self._spaces = spaces
        self._met = {} if met is None else met
        self._tables: dict[str, DeviceTable | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for table in self._tables.values():
            if table is not None:
                table.close()
        self._tables.clear()

    def has(self, space: str) -> bool:
        """Tell whether there is a namespace of ours of that name.  Raises ApplyError."""
        return self._table(space) is not None

    def table(self, space: str) -> DeviceTable:
        """Return the devices of a namespace; raise ApplyError if it is not there, or not ours."""
        table = self._table(space)
        if table is None:
            raise ApplyError(f"there is no namespace {space} of hostplane's")
        return table

    def all_of_ours(self) -> dict[Key, Device]:
        """Return all devices of ours, everywhere.  Raises ApplyError."""
        found: dict[Key, Device] = {}
        for space in ("", *self._spaces.names()):
            table = self._table(space)
            if table is not None:
                found.update((device_key(space, device.name), device) for device in table.ours())
                self._leave(space)  # a process may have fewer descriptors than there are namespaces
        return found

    def ours_in(self, space: str, wanted: Callable[[str], bool] | None = None) -> dict[Key, Device]:
        """Return the devices of ours of one namespace, only those whose names are *wanted* if that is given.

        Raises ApplyError.
        """
        table = self._table(space)
        found = table.ours(wanted) if table is not None else []
        return {device_key(space, device.name): device for device in found}

    def find(self, keys: Iterable[Key]) -> dict[Key, Device]:
        """Return those of the devices that exist, whosever they are.  Raises ApplyError."""
        names: dict[str, list[str]] = {}
        for key in keys:
            space, name = split_key(key)
            names.setdefault(space, []).append(name)
        found: dict[Key, Device] = {}
        for space, wanted in names.items():
            table = self._table(space)
            if table is not None:
                found.update((device_key(space, device.name), device) for device in table.find(names=wanted))
        return found

    def master_names(self, devices: Mapping[Key, Device]) -> dict[Key, str]:
        """Return the names of the bridges that devices are in.  Raises ApplyError."""
        return self._names({key: device.master for key, device in devices.items() if device.master})

    def peer_keys(self, devices: Mapping[Key, Device]) -> dict[Key, Key]:
        """Return the keys of the other ends of pairs, as far as these are in a namespace of ours.

        Raises ApplyError.
        """
        near = {key: device.peer for key, device in devices.items() if device.peer and not device.is_peer_elsewhere}
        found = {key: device_key(split_key(key)[0], name) for key, name in self._names(near).items()}
        far = {key: device for key, device in devices.items() if device.peer and device.is_peer_elsewhere}
        by_numbers = {(device.index, device.peer): key for key, device in far.items()}
        for key, device in far.items():
            other = by_numbers.get((device.peer or 0, device.index))
            other = other if other is not None and split_key(other)[0] != split_key(key)[0] else None
            other = other or self._far_end(key, device)
            if other is not None:
                found[key] = other
                self._met[key] = split_key(other)[0]
            else:
                self._met.pop(key, None)
        return found

    def _far_end(self, key: Key, device: Device) -> Key | None:
        """Look for the other end of a pair in all namespaces of ours, those that are open first."""
        here, index = split_key(key)[0], device.peer or 0
        last = self._met.get(key)
        if last is not None and (found := self._end_in(last, key, device, index)):
            return found
        before = set(self._tables)
        for space in dict.fromkeys((*self._tables, "", *self._spaces.names())):
            if space not in (here, last) and (found := self._end_in(space, key, device, index)):
                return found
            if space not in before:
                self._leave(space)
        return None

    def _end_in(self, space: str, key: Key, device: Device, index: int) -> Key | None:
        """Look for the other end of a pair in one namespace."""
        table = self._table(space)
        for other in table.find(indexes=[index]) if table is not None else ():
            other_key = device_key(space, other.name)
            if are_ends(key, device, other_key, other):
                return other_key
        return None

    def _names(self, indexes: Mapping[Key, int | None]) -> dict[Key, str]:
        """Return the names of devices by their indexes, each in the namespace of its key."""
        names: dict[tuple[str, int], str] = {}
        for space in {split_key(key)[0] for key in indexes}:
            numbers = {index for key, index in indexes.items() if index and split_key(key)[0] == space}
            names.update(((space, each.index), each.name) for each in self.table(space).find(indexes=numbers))
        found = ((key, names.get((split_key(key)[0], index or 0))) for key, index in indexes.items())
        return {key: name for key, name in found if name is not None}

    def _leave(self, space: str) -> None:
        """Close a namespace; it is opened again if it is asked for."""
        table = self._tables.pop(space, None)
        if table is not None:
            table.close()

    def _table(self, space: str) -> DeviceTable | None:
        if space not in self._tables:
            self._tables[space] = self._spaces.open(space)
        return self._tables[space]


def split_key(key: Key) -> tuple[str, str]:
    """Return the namespace ("" for the host's) and the name of a device."""
    space, _, name = key.rpartition("/")
    return space, name


def device_key(space: str, name: str) -> Key:
    """Return the key of a device."""
    return f"{space}/{name}" if space else name


def are_ends(key: Key, device: Device, other_key: Key, other: Device) -> bool:
    """Tell whether two devices are the ends of one pair.

    Two pairs that are not have equal numbers by chance in one of ten million cases:
    those of devices of ours are drawn.
    """
    elsewhere = split_key(key)[0] != split_key(other_key)[0]
    return (
        (device.peer, other.peer) == (other.index, device.index)
        and device.is_peer_elsewhere == elsewhere
        and other.is_peer_elsewhere == elsewhere
    )
