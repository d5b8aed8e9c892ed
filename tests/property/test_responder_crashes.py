# SPDX-License-Identifier: Apache-2.0
"""Whatever ends when, agents or responders, at the end one responder knows exactly what is wanted."""

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import AgentError
from agent.core.items import ResponderSocket, Served, SocketKind
from agent.core.plan import Group, ObjectId, Plan
from agent.core.reconciler import Reconciler
from agent.core.retry import Backoff
from agent.drivers.responder import ResponderDriver, Target
from agent.drivers.responder_sockets import Sockets
from tests.fakes.namespaces import FakeNamespaces, free_port
from tests.fakes.responder import FakeResponder

PORTS = ("a", "b", "c", "d")
desired = st.dictionaries(st.sampled_from(PORTS), st.integers(1, 3), max_size=4)


class Host:
    """A host over time.  Its clock stands still but in ``settle``."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.now = 0.0
        self.kernel = FakeNamespaces()
        self.index = 2
        self.kernel.make("hp-responder", "hp-meta0", 1, self.index)
        self.port = free_port()
        self.memory = {}  # the responder's file
        self.number = 0
        self.processes = []
        self.former: FakeResponder | None = None
        self.present = self.launch()
        self.wanted = {}
        self.agent()

    # What Responding does, without its thread.

    def launch(self):
        self.number += 1
        process = FakeResponder(self.folder / str(self.number), memory=self.memory)
        self.processes.append(process)
        return process

    def target(self):
        former = None if self.former is None else self.former.path
        return Target(self.present.path, self.present.generation, former)

    def handed_over(self, target):
        assert self.former is not None
        assert target.generation == self.present.generation
        keys = {key for group in self.plan().groups.values() for key in group.items["responder"]}
        assert keys & self.former.digests.keys() <= self.present.digests.keys()  # else somebody is not answered
        self.former.end()
        self.former = None

    # What happens to it.

    def agent(self):
        """Start an agent that knows nothing."""
        self.driver = ResponderDriver(self, Sockets(self.kernel))
        self.reconciler = Reconciler([self.driver], lambda: self.now, lambda: self.now, Backoff())

    def kill_agent(self):
        self.driver.close()
        for key in list(self.driver._sockets._kept):
            self.driver._sockets.forget(key)
        self.agent()

    def kill_responder(self, *, forgets):
        """End the one that is in force; the former, if there is one, is then in force again."""
        self.present.end()
        if forgets:
            self.memory.clear()
        self.present, self.former = self.former or self.launch(), None

    def replace(self):
        if self.former is None:
            self.former, self.present = self.present, self.launch()

    def make_device_anew(self):
        self.index += 1
        self.kernel.make("hp-responder", "hp-meta0", 1, self.index)

    def plan(self):
        socket = ResponderSocket(SocketKind.METADATA, "hp-responder", "hp-meta0", "127.0.0.1", self.port)
        groups: dict = {"host": {"service": Served("s", json.dumps({"nova": None})), "socket metadata4": socket}}
        for port, number in self.wanted.items():
            text = json.dumps({"number": number})
            groups[port] = {f"dhcp {port}": Served(text, text), f"metadata {port}": Served(text, text)}
        return Plan({ObjectId(name): Group(ObjectId(name), {"responder": items}) for name, items in groups.items()})

    def step(self, breaks_after):
        """One pass, in which the responder ends after so many frames."""
        self.present.frames_left = breaks_after
        self.reconciler.run(self.plan(), 1)
        self.reconciler.verify_written()
        self.present.frames_left = None

    def settle(self):
        for _ in range(8):
            self.reconciler.need_resync()
            self.step(None)
            if not self.reconciler.unfinished() and self.reconciler.is_clean(["responder"]) and self.former is None:
                return
            self.now += 100.0
        raise AssertionError(self.reconciler.unfinished())

    def stop(self):
        self.kill_agent()
        for process in self.processes:
            with process:
                pass


actions = st.one_of(
    st.tuples(st.just("want"), desired),
    st.tuples(st.just("pass"), st.none()),
    st.tuples(st.just("pass that breaks"), st.integers(0, 12)),
    st.tuples(st.just("kill agent"), st.none()),
    st.tuples(st.just("kill responder"), st.booleans()),
    st.tuples(st.just("replace"), st.none()),
    st.tuples(st.just("new device"), st.none()),
)


@settings(max_examples=60)
@given(st.lists(actions, max_size=14), desired)
def test_crashes_of_both_leave_exactly_what_is_wanted(events, last):
    with tempfile.TemporaryDirectory() as folder:
        host = Host(folder)
        try:
            for event, detail in events:
                happen(host, event, detail)
            host.wanted = last
            host.settle()
            check(host)
        finally:
            host.stop()


def happen(host, event, detail):
    match event:
        case "want":
            host.wanted = detail
        case "pass":
            host.now += 1.0
            host.step(None)
        case "pass that breaks":
            host.now += 1.0
            host.step(detail)
            host.kill_responder(forgets=False)
        case "kill agent":
            host.kill_agent()
        case "kill responder":
            host.kill_responder(forgets=detail)
        case "replace":
            host.replace()
        case "new device":
            host.make_device_anew()


def check(host):
    known = {key: value for key, value in host.present.data.items() if key != "service"}
    wanted = {
        f"{kind} {port}": {"number": number} for port, number in host.wanted.items() for kind in ("dhcp", "metadata")
    }
    assert known == wanted
    assert host.present.data["service"] == {"nova": None}
    (opened,) = host.present.sockets.values()
    assert host.kernel.place_of_socket(opened) == host.kernel.place("hp-responder", "hp-meta0")
    alive = [process for process in host.processes if not process._ended]
    assert alive == [host.present]  # nobody is left who would answer with what was true once


def test_an_error_of_one_driver_call_is_an_agents_error(tmp_path):
    """The reconcile thread ends the daemon for anything else."""
    host = Host(tmp_path)
    try:
        host.present.end()
        for call in (host.driver.observe, lambda: host.driver.observe({"dhcp a": ObjectId("a")})):
            try:
                call()
            except AgentError:
                continue
            raise AssertionError("no error")
    finally:
        host.stop()
