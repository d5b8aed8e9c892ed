# SPDX-License-Identifier: Apache-2.0
"""Wake-ups that coalesce: any number of events, one pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping


class Wake:
    """Set by any thread, waited for by one."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._condition = threading.Condition()
        self._reasons: dict[str, float] = {}
        self._not_before: dict[str, float] = {}

    def set(self, reason: str) -> None:
        """Wake the loop; *reason* is one short word for logs and reports."""
        with self._condition:
            self._reasons.setdefault(reason, self._monotonic())
            self._condition.notify()

    def hold_back(self, reason: str, until: float) -> None:
        """Let *reason* wake nobody before the monotonic time *until*."""
        with self._condition:
            self._not_before[reason] = until

    def wait(self, timeout: float) -> Mapping[str, float]:
        """Wait up to *timeout* seconds; return reason -> monotonic time at which it was first set."""
        with self._condition:
            until = self._monotonic() + timeout
            while True:
                now = self._monotonic()
                ready = {r: since for r, since in self._reasons.items() if self._not_before.get(r, now) <= now}
                times = (until, *(self._not_before[reason] for reason in self._reasons.keys() - ready.keys()))
                if ready or until <= now:
                    self._reasons = {r: since for r, since in self._reasons.items() if r not in ready}
                    return ready
                self._condition.wait(min(times) - now)
