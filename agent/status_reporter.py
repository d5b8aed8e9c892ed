# SPDX-License-Identifier: Apache-2.0
"""When this host writes its status into the store.

At once when a port's state changed or the store brought this host anything but a
new revision; else one write in 5 s plus or minus half, so that a thousand hosts do
not answer every change of every other host in step.  Every 30 s as a heartbeat.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from agent.core.errors import AgentError
from agent.core.model import PortId, RouterId
from agent.core.report import PortState, RouterState
from agent.store.status_writer import StatusWriter

LOG = logging.getLogger(__name__)

COALESCE = 5.0  # seconds
JITTER = 0.5  # of it, either way
HEARTBEAT = 30.0  # seconds
RETRY = 1.0  # seconds after a write that failed


@dataclass(frozen=True, slots=True)
class HostReport:
    """What is to be said: all ports of this host, the routers that it needs, and the revision in place."""

    ports: Mapping[PortId, PortState] = field(default_factory=dict)
    generation: str = ""
    applied_revision: int = 0
    routers: Mapping[RouterId, RouterState] = field(default_factory=dict)


class StatusReporter:
    """One write at a time; used by the reconcile thread.

    *on_written* is called on the store's thread after each commit.
    """

    def __init__(
        self,
        writer: StatusWriter,
        monotonic: Callable[[], float],
        now: Callable[[], float],
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._writer = writer
        self._monotonic = monotonic
        self._now = now
        self._uniform = uniform
        self._report: HostReport | None = None
        self._written: HostReport | None = None
        self._writing: Future[None] | None = None
        self._sent: HostReport | None = None
        self._due: float | None = None

    def say(self, report: HostReport, *, urgent: bool) -> None:
        """Have *report* written: now if *urgent*, else when it is time."""
        self._report = report
        now = self._monotonic()
        if urgent:
            self._due = now
        elif self._due is None or (self._written is not None and report != self._written):
            delay = COALESCE * self._uniform(1 - JITTER, 1 + JITTER)
            self._due = min(self._due, now + delay) if self._due is not None else now + delay

    def next_due(self) -> float | None:
        """Return the monotonic time of the next write, None if there is nothing to say or one is under way."""
        under_way = self._writing is not None and not self._writing.done()
        return None if self._report is None or under_way else self._due

    def flush(self, on_written: Callable[[], None]) -> None:
        """Start the write that is due, unless one is under way; never waits."""
        now = self._monotonic()
        if self._writing is not None:
            if not self._writing.done():
                return
            self._end_write(now)
        if self._report is None or self._due is None or self._due > now:
            return
        self._sent = self._report
        self._due = now + HEARTBEAT
        report = self._sent
        self._writing = self._writer.report(
            report.ports, report.generation, report.applied_revision, self._now(), report.routers
        )
        self._writing.add_done_callback(lambda _: on_written())

    def _end_write(self, now: float) -> None:
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result(0)
        except (AgentError, TimeoutError) as err:
            LOG.warning("the status of this host could not be written to the store, retried: %s", err)
            self._due = now + RETRY
            return
        self._written = self._sent
