# SPDX-License-Identifier: Apache-2.0
"""When a host speaks to the store: at once for what matters here, seldom for the rest, never twice at a time."""

from __future__ import annotations

from concurrent.futures import Future

from agent.core.errors import StoreError
from agent.status_reporter import COALESCE, HEARTBEAT, JITTER, HostReport, StatusReporter


class Clock:
    time = 100.0

    def __call__(self) -> float:
        return self.time


class SlowStore:
    """Commits when told to."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, Future[None]]] = []

    def report(self, ports, generation, applied_revision, now, routers):
        self.writes.append((applied_revision, Future()))
        return self.writes[-1][1]

    @property
    def revisions(self):
        return [revision for revision, _ in self.writes]


def start(uniform=lambda low, high: high):
    clock, store = Clock(), SlowStore()
    reporter = StatusReporter(store, clock, clock, uniform)  # type: ignore[arg-type]
    return clock, store, reporter


def flush(reporter):
    reporter.flush(lambda: None)


def report(revision):
    return HostReport(applied_revision=revision)


def test_what_matters_here_is_written_at_once():
    _, store, reporter = start()
    reporter.say(report(1), urgent=True)
    flush(reporter)
    assert store.revisions == [1]


def test_revisions_that_concern_others_are_written_together():
    clock, store, reporter = start()
    reporter.say(report(1), urgent=True)
    flush(reporter)
    store.writes[0][1].set_result(None)
    flush(reporter)
    for revision in range(2, 50):
        clock.time += 0.1
        reporter.say(report(revision), urgent=False)
        flush(reporter)
    assert store.revisions == [1]
    clock.time += COALESCE * (1 + JITTER)
    flush(reporter)
    assert store.revisions == [1, 49]


def test_one_write_at_a_time_and_the_newest_comes_next():
    _, store, reporter = start()
    for revision in (1, 2, 3):
        reporter.say(report(revision), urgent=True)
        flush(reporter)
    assert store.revisions == [1]
    assert reporter.next_due() is None, "nothing to wake up for until the store has answered"
    store.writes[0][1].set_result(None)
    flush(reporter)
    assert store.revisions == [1, 3]


def test_a_write_that_failed_is_tried_again():
    clock, store, reporter = start()
    reporter.say(report(1), urgent=True)
    flush(reporter)
    store.writes[0][1].set_exception(StoreError("away"))
    flush(reporter)
    assert store.revisions == [1]
    clock.time += 1.0
    flush(reporter)
    assert store.revisions == [1, 1]


def test_silence_is_broken_by_a_heartbeat():
    clock, store, reporter = start()
    reporter.say(report(1), urgent=True)
    flush(reporter)
    store.writes[0][1].set_result(None)
    clock.time += HEARTBEAT
    flush(reporter)
    flush(reporter)
    assert store.revisions == [1, 1]
