# SPDX-License-Identifier: Apache-2.0
"""Which objects have items in which places of a driver, so that reading one place back costs what is there.

Groups that are the same objects as before are not looked at again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from agent.core.desired import Desired
from agent.core.plan import Group, Key, ObjectId, PlacedDriver


class PlaceIndex:
    """The desired items of one driver by place, as of the last ``refresh``."""

    def __init__(self, driver: PlacedDriver) -> None:
        self._driver = driver
        self._seen: dict[ObjectId, tuple[Group, frozenset[str]]] = {}
        self._objects: dict[str, set[ObjectId]] = {}

    def refresh(self, groups: Mapping[ObjectId, Group]) -> None:
        """Take over what *groups* want; costs one look at each, and work for those that differ."""
        name = self._driver.name
        for oid in [oid for oid, (group, _) in self._seen.items() if groups.get(oid) is not group]:
            self._forget(oid)
        for oid, group in groups.items():
            if name in group.items and oid not in self._seen:
                places = frozenset(map(self._driver.place_of, group.items[name]))
                self._seen[oid] = group, places
                for place in places:
                    self._objects.setdefault(place, set()).add(oid)

    def places(self) -> Collection[str]:
        """Return where items are wanted."""
        return self._objects.keys()

    def keys(self, desired: Desired, place: str) -> list[Key]:
        """Return the keys that are wanted in *place* by the objects that wanted some there at the last ``refresh``."""
        name, owners = self._driver.name, desired.owners(self._driver.name)
        found = []
        for oid in self._objects.get(place, ()):
            group = desired.groups.get(oid)
            items = group.items.get(name, {}) if group is not None else {}
            found += [key for key in items if owners[key] == oid and self._driver.place_of(key) == place]
        return found

    def _forget(self, oid: ObjectId) -> None:
        for place in self._seen.pop(oid)[1]:
            objects = self._objects[place]
            objects.discard(oid)
            if not objects:
                del self._objects[place]
