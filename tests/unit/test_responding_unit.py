# SPDX-License-Identifier: Apache-2.0
"""Finding the responder that a service manager runs, and what is said of it."""

import threading
import time

import pytest

import agent
from agent.core.errors import Actor, AgentError
from agent.responding import REASON, Responding
from tests.fakes.responder import FakeResponder

PATIENCE = 10.0


class Agent:
    def __init__(self, folder):
        self.woken = []
        self._changed = threading.Condition()
        self.responding = Responding(folder, folder, "nobody", start=False, wake=self.wake)
        self.responding.start()

    def wake(self, reason):
        with self._changed:
            self.woken.append(reason)
            self._changed.notify_all()

    def wait_for(self, condition):
        until = time.monotonic() + PATIENCE
        while not condition():
            with self._changed:
                self._changed.wait(0.01)
            assert time.monotonic() < until

    def wait_for_generation(self, generation):
        self.wait_for(lambda: self.generation() == generation)

    def generation(self):
        try:
            return self.responding.target().generation
        except AgentError:
            return None


@pytest.fixture
def socket(tmp_path):
    return tmp_path / "responder.sock"


@pytest.fixture
def host(tmp_path):
    agent = Agent(tmp_path)
    yield agent
    agent.responding.stop()


def test_the_loop_is_woken_for_each_process_that_comes(host, socket):
    with FakeResponder(socket) as first:
        host.wait_for_generation(first.generation)
        assert host.woken == [REASON]
    with FakeResponder(socket) as second:
        host.wait_for_generation(second.generation)
        assert host.woken == [REASON, REASON]
        assert host.responding.restarts == 1
        assert host.responding.problems() == ()


def test_a_loss_is_seen_at_once_and_a_problem_only_when_it_lasts(host, socket, monkeypatch):
    with FakeResponder(socket) as responder:
        host.wait_for_generation(responder.generation)
    host.wait_for(lambda: host.generation() is None)
    with pytest.raises(AgentError, match="there is no responder now"):
        host.responding.target()
    assert host.responding.problems() == ()
    monkeypatch.setattr("agent.responding.LONG_AWAY", 0.0)
    host.wait_for(lambda: any("systemctl" in problem.text for problem in host.responding.problems()))
    (problem,) = host.responding.problems()
    assert (problem.object_id, problem.field, problem.actor) == ("host", "responder", Actor.OPERATOR)
    assert "systemctl status hostplane-responder.service" in problem.text


def test_another_version_is_told_to_end_once_and_then_used_as_it_is(host, socket):
    with FakeResponder(socket, version="0.0.1") as old:
        assert old.drained.wait(PATIENCE)
    with FakeResponder(socket, version="0.0.1") as again:  # the unit starts what is installed
        host.wait_for_generation(again.generation)
        assert not again.drained.is_set()
        (problem,) = host.responding.problems()
        assert problem.text.startswith(f"the responder is of version 0.0.1 and the agent of {agent.__version__}")
    with FakeResponder(socket) as new:
        host.wait_for_generation(new.generation)
        assert host.responding.problems() == ()


def test_another_protocol_is_not_spoken(host, socket):
    with FakeResponder(socket, version="9.0", major=9) as old:
        assert old.drained.wait(PATIENCE)
    with FakeResponder(socket, version="9.0", major=9):
        host.wait_for(lambda: any("9.0" in problem.text for problem in host.responding.problems()))
        assert host.generation() is None


def test_statistics_are_asked_for_once_a_second_at_most(host, socket, monkeypatch):
    with FakeResponder(socket) as responder:
        host.wait_for_generation(responder.generation)
        first = host.responding.stats()
        assert [host.responding.stats() for _ in range(5)] == [first] * 5
        labels = (("type", "discover"), ("family", "4"), ("result", "offer"))
        assert first.counts().up
        assert first.counts().counters == {"dhcp_messages": {labels: 1.0}}
        monkeypatch.setattr("agent.responder_stats.FRESH", 0.0)
        assert host.responding.stats().counters == {"dhcp_messages": {labels: 2.0}}


def test_statistics_of_a_responder_that_hangs_hold_nobody(host, socket, monkeypatch):
    monkeypatch.setattr("agent.responder_stats.PATIENCE", 0.1)
    with FakeResponder(socket) as responder:
        host.wait_for_generation(responder.generation)
        responder.silent = True
        began = time.monotonic()
        with pytest.raises(AgentError, match="does not answer"):
            host.responding.stats()
        assert time.monotonic() - began < 1.0


def test_statistics_without_a_responder_say_so(host):
    with pytest.raises(AgentError, match="there is no responder now"):
        host.responding.stats("a")
