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

    def set(self, reason: str) -> None:
        """Wake the loop; *reason* is one short word for logs and reports."""
        with self._condition:
            self._reasons.setdefault(reason, self._monotonic())
            self._condition.notify()

    def wait(self, timeout: float) -> Mapping[str, float]:
        """Wait up to *timeout* seconds; return reason -> monotonic time at which it was first set."""
        with self._condition:
            if not self._reasons:
                self._condition.wait(max(timeout, 0.0))
            reasons, self._reasons = self._reasons, {}
            return reasons
