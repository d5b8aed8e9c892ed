# SPDX-License-Identifier: Apache-2.0
"""What the responder counts, and how often a port may ask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping


class Counters:
    """Numbers by name and labels; which there are stands in ``agent.responder.protocol``."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._gauges: dict[str, Callable[[], Mapping[str, int]]] = {}

    def add(self, name: str, labels: str, number: int = 1) -> None:
        """Count *number* more; *labels* are written ``label=value,...``."""
        self._numbers[name][labels] += number

    def watch(self, name: str, read: Callable[[], Mapping[str, int]]) -> None:
        """Let *read* say the numbers of *name* by labels when they are asked for."""
        self._gauges[name] = read

    def dump(self) -> dict[str, dict[str, int]]:
        """Return all numbers."""
        found = {name: dict(numbers) for name, numbers in self._numbers.items()}
        return found | {name: dict(read()) for name, read in self._gauges.items()}


class TokenBucket:
    """Lets *rate* through a second after the first *burst*; a rate of 0 lets everything through."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._left = self._burst
        self._at = now

    def take(self, now: float) -> bool:
        """Tell whether one more may pass at the monotonic time *now*, in seconds."""
        if self._rate <= 0:
            return True
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
