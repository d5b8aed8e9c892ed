# SPDX-License-Identifier: Apache-2.0
"""Reading the whole host back, a part at a time, once in each resync interval."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from agent.core.errors import AgentError
from agent.core.items import Link
from agent.core.places import PlaceIndex
from agent.core.plan import Driver, ItemRef, Key, PlacedDriver, SlicedDriver
from agent.core.reconciler import Reconciler

_Step = Callable[[Reconciler], int]  # reads one part; returns how many items have drifted


def desired_links(reconciler: Reconciler, keys: Iterable[Key]) -> dict[Key, Link]:
    """Return those of *keys* of driver ``links`` that are desired."""
    values = ((key, reconciler.desired.value(ItemRef("links", key))) for key in keys)
    return {key: value for key, value in values if isinstance(value, Link)}


def other_ends(links: Mapping[Key, Link]) -> frozenset[Key]:
    """Return the keys of the other ends of *links*: what becomes of one becomes of both."""
    return frozenset(link.peer for link in links.values() if link.peer is not None)


class ReadBack:
    """Spreads a full reading evenly over *interval* seconds; used by the reconcile thread."""

    def __init__(self, drivers: Sequence[Driver], monotonic: Callable[[], float], interval: float) -> None:
        self._drivers = tuple(drivers)
        self._monotonic = monotonic
        self._interval = interval
        self._indexes = {driver.name: PlaceIndex(driver) for driver in drivers if isinstance(driver, PlacedDriver)}
        self._round: list[_Step] = []
        self._parts = 1  # of a round
        self._next = monotonic() + interval

    def set_interval(self, interval: float) -> None:
        """Read everything back once in *interval* seconds from now on."""
        self._interval = interval
        self._next = min(self._next, self._monotonic() + interval)

    def next_due(self) -> float:
        """Return the monotonic time of the next part."""
        return self._next

    def step(self, reconciler: Reconciler) -> int:
        """Read back the part that is due, if one is; return how many items have drifted."""
        now = self._monotonic()
        if now < self._next:
            return 0
        if not self._round:
            self._round = [step for driver in self._drivers for step in self._steps(driver, reconciler)][::-1]
            self._parts = max(len(self._round), 1)
        drifted = self._round.pop()(reconciler) if self._round else 0
        self._next = self._monotonic() + self._interval / self._parts
        return drifted

    def read_places(self, reconciler: Reconciler, driver: Driver, words: Collection[str]) -> None:
        """Read back at once the places of *driver* that begin with one of *words*, all of it if it has none."""
        index = self._indexes.get(driver.name)
        if index is None or not isinstance(driver, PlacedDriver):
            reconciler.read_back(driver, 0, 1)
            return
        index.refresh(reconciler.desired.groups)
        try:
            there = driver.places()
        except AgentError:
            return  # told when it is to be read the next time
        for place in {*there, *index.places()}:
            if place.partition(" ")[0] in words:
                reconciler.read_back_place(driver, place, index.keys(reconciler.desired, place))

    def keys_in(self, reconciler: Reconciler, driver: Driver, words: Collection[str]) -> list[Key] | None:
        """Return what is desired of *driver* in the places that begin with one of *words*; None if it has no places."""
        index = self._indexes.get(driver.name)
        if index is None:
            return None
        index.refresh(reconciler.desired.groups)
        found = [place for place in index.places() if place.partition(" ")[0] in words]
        return [key for place in found for key in index.keys(reconciler.desired, place)]

    def _steps(self, driver: Driver, reconciler: Reconciler) -> list[_Step]:
        """Return what reads all of *driver*."""
        if isinstance(driver, PlacedDriver):
            try:
                there = driver.places()
            except AgentError:
                return [_slice(driver, 0, 1)]  # which finds the same, and says so
            index = self._indexes[driver.name]
            index.refresh(reconciler.desired.groups)
            return [_place(driver, index, place) for place in sorted({*there, *index.places()})]
        count = driver.slices() if isinstance(driver, SlicedDriver) else 1
        return [_slice(driver, index, count) for index in range(count)]


def _slice(driver: Driver, index: int, of: int) -> _Step:
    return lambda reconciler: reconciler.read_back(driver, index, of)


def _place(driver: PlacedDriver, index: PlaceIndex, place: str) -> _Step:
    return lambda reconciler: reconciler.read_back_place(driver, place, index.keys(reconciler.desired, place))
