# SPDX-License-Identifier: Apache-2.0
"""When people hear that a subsystem cannot be used: soon, or, of a process that is being started, when that lasts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import pytest

from agent.core.errors import AgentError, ApplyError, AwayError
from agent.core.plan import Group, Key, ObjectId, Plan, Value
from agent.core.reconciler import Reconciler
from agent.core.retry import Backoff
from tests.fakes.drivers import FakeDriver
from tests.golden.host_states import Clock

PLAN = Plan({ObjectId("p"): Group(ObjectId("p"), {"responder": {"port": "x"}})})
MOMENT, LONG = 1.0, 10.0  # seconds


class AwayDriver(FakeDriver):
    """Cannot be read while ``trouble`` says why."""

    def __init__(self) -> None:
        super().__init__("responder")
        self.trouble: Callable[[], AgentError | None] = lambda: None

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        if (error := self.trouble()) is not None:
            raise error
        return super().observe(keys)


class Host:
    """A reconciler on a clock that only the test moves."""

    def __init__(self) -> None:
        self.driver, self.clock = AwayDriver(), Clock()
        self.reconciler = Reconciler(
            (self.driver,), self.clock, self.clock, Backoff(lambda low, high: (low + high) / 2)
        )

    def first_told(self, seconds: float) -> float | None:
        """Pass whenever one is due for *seconds*; return after how many somebody was told, None if nobody was."""
        begun = self.clock.time
        while self.clock.time < begun + seconds:
            self.reconciler.run(PLAN, 1)
            if self.reconciler.troubles():
                return self.clock.time - begun
            due = self.reconciler.next_due()
            if due is None:
                return None
            self.clock.time = max(self.clock.time, due)
        return None


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_process_that_is_being_started_is_no_news_for_some_seconds(caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    host.driver.trouble = lambda: AwayError("none has answered yet")
    told = host.first_told(LONG)
    assert told is not None
    assert 2.5 < told < 4.0
    assert errors(caplog) == ["driver responder cannot be used, retried: none has answered yet"]
    host.first_told(LONG)
    assert len(errors(caplog)) == 1, "it is one change of state, however long it lasts"


def test_one_that_has_started_meanwhile_was_none(caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    starts = host.clock.time + 2.0
    host.driver.trouble = lambda: AwayError("none yet") if host.clock.time < starts else None
    assert host.first_told(LONG) is None
    assert host.driver.items == {"port": "x"}
    assert errors(caplog) == []


def test_anything_else_is_news_at_once(caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    host.driver.trouble = lambda: ApplyError("no such namespace")
    told = host.first_told(LONG)
    assert told is not None
    assert told < MOMENT
    assert errors(caplog) == ["driver responder cannot be used, retried: no such namespace"]


def test_what_has_become_something_else_is_news_at_once(caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    changes = host.clock.time + MOMENT
    host.driver.trouble = lambda: AwayError("none yet") if host.clock.time < changes else ApplyError("it refuses")
    told = host.first_told(LONG)
    assert told is not None
    assert MOMENT <= told < 2 * MOMENT
    assert errors(caplog) == ["driver responder cannot be used, retried: it refuses"]
    host.driver.trouble = lambda: None
    host.first_told(LONG)
    host.driver.trouble = lambda: ApplyError("it refuses again")
    host.reconciler.need_resync()
    assert host.first_told(LONG) is not None
    assert len(errors(caplog)) == 2
