# SPDX-License-Identifier: Apache-2.0
"""When to do again what failed, or what others ask for too often; clock and jitter are given from outside."""

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


class Allowance:
    """How much time may be spent on what others can cause as often as they like.

    *most* seconds at once, and *share* (0..1) of the time in the long run.
    """

    def __init__(self, most: float, share: float, monotonic: Callable[[], float]) -> None:
        self._most = most
        self._share = share
        self._monotonic = monotonic
        self._left = most
        self._counted = monotonic()

    def spend(self, seconds: float) -> float:
        """Note that *seconds* were spent; return the monotonic time from which on more may be."""
        now = self._monotonic()
        self._left = min(self._left + (now - self._counted) * self._share, self._most) - seconds
        self._counted = now
        return now + max(-self._left, 0.0) / self._share
