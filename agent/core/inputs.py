# SPDX-License-Identifier: Apache-2.0
"""Which snapshot a pass may work from: the store's, the saved one, or the one before."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from agent.core import hold
from agent.core.model import HostSnapshot, SwitchView
from agent.core.report import HoldState
from agent.core.snapshot_file import SnapshotFile, SnapshotFileError

LOG = logging.getLogger(__name__)

OFFLINE_AFTER = 3.0  # seconds after the start without a store, until the saved snapshot is used
SLOW_AFTER = 30.0  # and while the store answers, but has not sent everything yet


@dataclass(frozen=True, slots=True)
class HoldLimits:
    """When a new state is held: more than *share* (0..1) of the plugged ports and at least *minimum*."""

    share: float
    minimum: int


class SnapshotChooser:
    """Accepts snapshots for the reconcile thread, one a pass.

    *started* is the monotonic time of the daemon's start.  The saved snapshot is read
    once, at the start: it is what a new state is compared with, and what the host is
    wired from when the store does not answer.
    """

    def __init__(self, file: SnapshotFile, limits: HoldLimits, started: float) -> None:
        self.limits = limits
        self._file = file
        self._started = started
        self._released: tuple[str, int] | None = None
        self.hold: HoldState | None = None
        self.accepted: HostSnapshot | None = None
        self.file_error: str | None = None
        try:
            self._saved = file.load()
        except SnapshotFileError as err:
            self._saved, self.file_error = None, str(err)
            LOG.warning("%s; starting without it", err)

    def choose(
        self, live: HostSnapshot, switch: SwitchView, monotonic: float, now: float, *, answering: bool = False
    ) -> HostSnapshot | None:
        """Return what to work from, None when there is nothing yet.

        *answering* tells that the store is there, even if it is not in sync yet.
        A live snapshot that takes too much away is held: what was accepted before
        stays, and ``hold`` says why.
        """
        if not live.in_sync:
            patience = SLOW_AFTER if answering else OFFLINE_AFTER
            if self.accepted is None and self._saved is not None and monotonic - self._started >= patience:
                LOG.warning("the store is not in sync: working from the saved revision %d", self._saved.revision)
                self.accepted = self._saved
            return self.accepted
        if live is self.accepted:
            self.hold = None
            return live
        before = self.accepted if self.accepted is not None else self._saved
        held = None
        if before is not None and (live.generation, live.revision) != self._released:
            held = hold.check(before, live, switch, self.limits.share, self.limits.minimum, now)
        if held is not None:
            if self.hold is None:
                LOG.error("held: %s", held.text)
                self.hold = held
            elif held.revision != self.hold.revision:
                self.hold = replace(held, since=self.hold.since)
            if self.accepted is None:
                self.accepted = self._saved
            return self.accepted
        if self.hold is not None:
            LOG.warning("no longer held: applying revision %d", live.revision)
            self.hold = None
        self.accepted = live
        self._saved = None  # compared with once; thousands of endpoints are not kept twice
        return live

    def release(self, live: HostSnapshot) -> None:
        """Accept *live* whatever it takes away: the operator has said so."""
        self._released = (live.generation, live.revision)

    def save(self, snapshot: HostSnapshot) -> None:
        """Save *snapshot* before it is applied; a disk that refuses is a problem, never an obstacle."""
        try:
            self._file.save(snapshot)
            self.file_error = None
        except SnapshotFileError as err:
            if self.file_error is None:
                LOG.error("%s", err)
            self.file_error = str(err)
