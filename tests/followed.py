# SPDX-License-Identifier: Apache-2.0
"""A reader of the store at work, for tests that look at what it publishes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from agent.core.model import HostName, HostSnapshot
from agent.store import remotes
from agent.store.reader import SnapshotReader

DEADLINE = 15.0  # seconds


class Followed:
    """A reader, and all that it has published."""

    def __init__(self, address: str, host: str) -> None:
        self.published: list[HostSnapshot] = []
        self._changed = threading.Condition()
        self.reader = SnapshotReader(address, remotes.schema_text(), HostName(host), self._note)
        self.reader.thread.start()

    def _note(self) -> None:
        with self._changed:
            snapshot = self.reader.snapshot()
            if snapshot.in_sync and (not self.published or self.published[-1] is not snapshot):
                self.published.append(snapshot)
            self._changed.notify_all()

    def until(self, condition: Callable[[HostSnapshot], object]) -> HostSnapshot:
        deadline = time.monotonic() + DEADLINE
        with self._changed:
            while not ((snapshot := self.reader.snapshot()).in_sync and condition(snapshot)):
                left = deadline - time.monotonic()
                assert left > 0, f"never published; last: {snapshot}"
                self._changed.wait(left)
            return snapshot

    def at(self, revision: int) -> HostSnapshot:
        """Return the snapshot of a revision of the store, the last one that there is."""
        return self.until(lambda snapshot: snapshot.revision == revision)

    def stop(self) -> None:
        self.reader.thread.stop()
