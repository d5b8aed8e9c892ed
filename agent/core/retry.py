# SPDX-License-Identifier: Apache-2.0
"""When to try again what failed: back-off per item, with the clock and the jitter given from outside."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_DELAY = 0.1  # seconds
LONGEST_DELAY = 60.0
JITTER = 0.1  # of the delay, either way, so that hosts do not retry in step


class Backoff:
    """0.1 s, doubled with each attempt, at most 60 s, plus or minus 10 %."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform

    def delay(self, attempts: int) -> float:
        """Return how many seconds to wait after *attempts* (1 or more) failures in a row."""
        base = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempts - 1, 16))
        return base * self._uniform(1 - JITTER, 1 + JITTER)
