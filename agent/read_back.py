# SPDX-License-Identifier: Apache-2.0
"""Reading the whole host back, a slice at a time, once in each resync interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.core.plan import Driver, SlicedDriver
from agent.core.reconciler import Reconciler


class ReadBack:
    """Spreads a full reading evenly over *interval* seconds; used by the reconcile thread."""

    def __init__(self, drivers: Sequence[Driver], monotonic: Callable[[], float], interval: float) -> None:
        self._drivers = tuple(drivers)
        self._monotonic = monotonic
        self._interval = interval
        self._round: list[tuple[Driver, int, int]] = []
        self._next = monotonic() + interval

    def set_interval(self, interval: float) -> None:
        """Read everything back once in *interval* seconds from now on."""
        self._interval = interval
        self._next = min(self._next, self._monotonic() + interval)

    def next_due(self) -> float:
        """Return the monotonic time of the next slice."""
        return self._next

    def step(self, reconciler: Reconciler) -> int:
        """Read back the slice that is due, if one is; return how many items have drifted."""
        now = self._monotonic()
        if now < self._next:
            return 0
        if not self._round:
            self._round = [(d, index, count) for d in self._drivers for count in [_slices(d)] for index in range(count)]
        driver, index, of = self._round.pop(0)
        drifted = reconciler.read_back(driver, index, of)
        total = sum(_slices(d) for d in self._drivers)
        self._next = self._monotonic() + self._interval / max(total, 1)
        return drifted


def _slices(driver: Driver) -> int:
    return driver.slices() if isinstance(driver, SlicedDriver) else 1
