# SPDX-License-Identifier: Apache-2.0
"""What a port may still ask over one family: a token bucket, and a number of connections."""

from __future__ import annotations

from agent.metadata.data import Limits


class Allowance:
    """Kept for each port and family, whatever its connections do.

    ``now`` is a monotonic clock, in seconds.  Limits are given at each call, so that new
    ones hold at once and nothing that is already used up is forgotten.
    """

    __slots__ = ("_since", "_tokens", "connections")

    def __init__(self) -> None:
        self.connections = 0
        self._tokens: float | None = None  # full
        self._since = 0.0

    def connect(self, limits: Limits) -> bool:
        """Count one more connection, which `disconnect` takes off; False if it is one too many, and not counted."""
        if self.connections >= limits.connections:
            return False
        self.connections += 1
        return True

    def disconnect(self) -> None:
        """Count one connection less."""
        self.connections -= 1

    def take(self, limits: Limits, now: float, cost: float = 1.0) -> float:
        """Take *cost* requests off the allowance; return 0, or the seconds to wait if so many are not left."""
        if limits.rate <= 0:
            return 0.0
        most = float(max(1, limits.burst))
        cost = min(cost, most)
        tokens = most if self._tokens is None else self._tokens + max(0.0, now - self._since) * limits.rate
        tokens = min(most, tokens)
        self._since = now
        self._tokens = tokens - cost if tokens >= cost else tokens
        return 0.0 if tokens >= cost else (cost - tokens) / limits.rate
