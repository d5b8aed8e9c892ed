# SPDX-License-Identifier: Apache-2.0
"""What the responder tells people: its counters, and what it last answered a port.

Asked over a connection of its own, by any thread, at most once a second for each port;
a responder that does not answer within a second holds nobody longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.core.errors import AgentError
from agent.core.service_report import ServiceCounts
from agent.responder.protocol import Frame
from agent.responder_client import ResponderAwayError, ResponderClient

PATIENCE: Final = 1.0  # seconds in all that one question may take
FRESH: Final = 1.0  # seconds that an answer is good for
MOST_KEPT: Final = 64  # ports

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ResponderStats:
    """``port`` is what ``agent.responder.protocol`` says under that name, empty if none was asked for."""

    generation: str
    version: str
    pid: int
    counters: Mapping[str, Mapping[Labels, float]] = field(default_factory=dict)
    port: Mapping[str, object] = field(default_factory=dict)

    def counts(self) -> ServiceCounts:
        """Return the counters as metrics want them."""
        return ServiceCounts(True, self.counters)


class StatsReader:
    """Asks the responder whose socket *path* returns, which raises AgentError if there is none."""

    def __init__(self, path: Callable[[], Path], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._client: tuple[Path, ResponderClient] | None = None
        self._known: dict[str | None, tuple[float, ResponderStats]] = {}

    def read(self, port: str | None = None) -> ResponderStats:
        """Return what the responder says, at most a second old; raise AgentError if it does not answer in one."""
        until = self._monotonic() + PATIENCE
        if not self._lock.acquire(timeout=PATIENCE):
            raise ResponderAwayError("the responder takes its time to answer others")
        try:
            at, stats = self._known.get(port, (0.0, None))
            if stats is None or self._monotonic() - at > FRESH:
                stats = self._ask(port, until)
                self._known.pop(port, None)
                self._known[port] = self._monotonic(), stats
                while len(self._known) > MOST_KEPT:
                    del self._known[next(iter(self._known))]
            return stats
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connection; the next question opens one."""
        with self._lock:
            self._drop()

    def _ask(self, port: str | None, until: float) -> ResponderStats:
        path = self._path()
        if self._client is not None and self._client[0] != path:
            self._drop()
        if self._client is not None:
            try:
                return self._told(self._client[1], port, until)
            except AgentError:
                self._drop()  # it may be the process before this one that is gone
        self._client = path, ResponderClient(path, self._left(until))
        try:
            return self._told(self._client[1], port, until)
        except AgentError:
            self._drop()
            raise

    def _told(self, client: ResponderClient, port: str | None, until: float) -> ResponderStats:
        frame, hello = client.stats(port, self._left(until)), client.hello
        told = frame.get("port")
        counters = _counters(frame)
        return ResponderStats(
            hello.generation, hello.version, hello.pid, counters, told if isinstance(told, dict) else {}
        )

    def _left(self, until: float) -> float:
        return max(until - self._monotonic(), 0.01)

    def _drop(self) -> None:
        if self._client is not None:
            self._client[1].close()
            self._client = None


def _counters(frame: Frame) -> Mapping[str, Mapping[Labels, float]]:
    """Return the counters in *frame*, leaving out what makes no sense."""
    found: dict[str, dict[Labels, float]] = {}
    counters = frame.get("counters")
    for name, values in counters.items() if isinstance(counters, dict) else ():
        if isinstance(values, dict):
            found[str(name)] = {
                _labels(str(text)): float(number) for text, number in values.items() if isinstance(number, int | float)
            }
    return found


def _labels(text: str) -> Labels:
    pairs = (pair.partition("=") for pair in text.split(",") if pair)
    return tuple((name, value) for name, _, value in pairs)
