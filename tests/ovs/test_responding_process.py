# SPDX-License-Identifier: Apache-2.0
"""Agents and real responders that start, die, hang and replace each other, while instances ask."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from agent.core.errors import Actor
from agent.core.items import ResponderSocket, Served, SocketKind
from agent.core.plan import Group, ObjectId, Plan
from agent.core.reconciler import Reconciler
from agent.core.retry import Backoff
from agent.core.service_identity import (
    DHCP_DEVICE,
    DHCP_INNER,
    DHCP_SOCKET,
    METADATA4,
    METADATA_PORT,
    METADATA_SOCKET4,
    NAMESPACE,
)
from agent.responder_client import ResponderClient
from agent.responding import Responding
from tests.ovs.namespace_lab import run, within
from tests.ovs.responder_lab import USER, discover, lab, put_dhcp, put_metadata, put_service, read_answer, with_xid

PATIENCE = 20.0
MANY = range(1, 41)
SOCKETS = {
    DHCP_SOCKET: ResponderSocket(SocketKind.FRAMES, NAMESPACE, DHCP_INNER),
    METADATA_SOCKET4: ResponderSocket(SocketKind.METADATA, NAMESPACE, "lo", METADATA4, METADATA_PORT),
}


def served(request):
    text = json.dumps(request.frame["data"])
    return Served(request.frame["digest"], text)


def plan(*numbers):
    """Return what a host with these ports wants."""
    items: dict = {**SOCKETS, "service": served(put_service())}
    for number in numbers:
        items |= {f"dhcp port-{number}": served(put_dhcp(number))}
        items |= {f"metadata port-{number}": served(put_metadata(number))}
    return Plan({ObjectId("host"): Group(ObjectId("host"), {"responder": items})})


class Agent:
    """The parts of an agent that concern the responder, with a reconcile thread of its own."""

    def __init__(self, folder, user=USER, *, start=True, ports=(1, 2)):
        self.folder = folder
        self.woken = threading.Event()
        self.plan = plan(*ports)
        self.written: list[int] = []
        self.holds_back = False
        self._ending = threading.Event()
        self.responding = Responding(folder / "run", folder / "state", user, start, lambda _: self.woken.set())
        self.reconciler = Reconciler([self.responding.driver], time.monotonic, time.time, Backoff())
        self._thread = threading.Thread(target=self._loop)
        self.responding.start()
        self._thread.start()

    def _loop(self):
        while not self._ending.is_set():
            due = self.reconciler.next_due()
            wait = 0.2 if due is None else min(max(due - time.monotonic(), 0.0), 0.2)
            if self.woken.wait(wait):
                self.woken.clear()
                self.responding.before_pass(self.reconciler, ["responder"])
            if not self.holds_back:
                report = self.reconciler.run(self.plan, 1)
                done = report.operations.get("responder")
                self.written.append(0 if done is None else done.created + done.updated + done.deleted)
                self.reconciler.verify_written()

    def wait_until(self, condition, what):
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, f"{what}: {self.responding.problems()}"
            time.sleep(0.01)

    def is_settled(self):
        """Tell whether one responder knows and reads everything."""
        with contextlib.suppress(Exception):
            target = self.responding.target()
            with contextlib.closing(ResponderClient(target.path)) as client:
                return (
                    target.former is None
                    and client.digests().keys() == self.plan.groups[ObjectId("host")].items["responder"].keys()
                )
        return False

    def settle(self):
        self.wait_until(self.is_settled, "not everything is known")
        return self

    def generation(self):
        return self.responding.target().generation

    def pid(self):
        with contextlib.closing(ResponderClient(self.responding.target().path)) as client:
            return client.hello.pid

    def stop(self):
        self._ending.set()
        self._thread.join()
        self.responding.stop()
        for key in SOCKETS:  # the kernel would close what an agent that ends has held
            self.responding._driver._sockets.forget(key)


class Host:
    def __init__(self, folder, wire):
        self.folder = folder
        self.wire = wire
        self.agents: list[Agent] = []
        (folder / "run").mkdir()
        (folder / "state").mkdir()

    def agent(self, **options):
        self.agents.append(Agent(self.folder, **options))
        return self.agents[-1]

    def responders(self):
        """Return the processes that keep their data here."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if f"{self.folder}/run/responder".encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return [pid for pid in found if state(pid) not in "ZX"]

    def stop(self):
        for agent in self.agents:
            agent.stop()
        for pid in self.responders():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + PATIENCE
        while self.responders():
            assert time.monotonic() < until
            time.sleep(0.01)


def state(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "X"


@pytest.fixture
def network(tmp_path):
    with lab(tmp_path) as built:
        for key in list(built.sockets):
            built.sockets.pop(key).close()  # the agent opens its own
        yield built


@pytest.fixture
def host(tmp_path, network):
    built = Host(tmp_path, network.wire)
    yield built
    built.stop()


def uids(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("Uid:"):
            return set(line.split()[1:])
    return set()


def test_a_responder_is_started_without_rights_and_outlives_the_agent(host, network):
    agent = host.agent().settle()
    assert network.ask(discover(1), 1) is not None
    assert network.get(2)[1] == b"of port-2"
    (pid,) = host.responders()
    assert pid == agent.pid()
    assert "0" not in uids(pid)
    assert (host.folder / "run/responder.sock").stat().st_mode & 0o777 == 0o600
    generation = agent.generation()
    agent.stop()
    host.agents.clear()
    assert network.ask(discover(1, xid=7), 1) is not None  # nobody is there but the responder

    successor = host.agent().settle()
    assert successor.generation() == generation
    assert host.responders() == [pid]
    successor.wait_until(lambda: successor.reconciler.is_clean(["responder"]), "it was not read")
    assert sum(successor.written) <= 1  # the service is compared with its files, and found as it was
    assert network.ask(discover(2), 2) is not None


def test_what_is_asked_while_the_responder_is_dead_is_answered_within_a_second(host, network):
    agent = host.agent().settle()
    assert network.ask(discover(1), 1) is not None
    generation = agent.generation()
    os.kill(agent.pid(), signal.SIGKILL)
    killed = time.monotonic()
    with contextlib.ExitStack() as stack:
        asked = [stack.enter_context(network.connect(number)) for number in (1, 2)]
        for opened in asked:
            opened.sendall(b"GET /openstack/latest/user_data HTTP/1.1\r\nHost: x\r\n\r\n")
        assert network.ask(discover(1, xid=0xABCD), 1) is not None  # asked once
        repaired = time.monotonic() - killed
        assert [read_answer(opened)[1] for opened in asked] == [b"of port-1", b"of port-2"]
    assert agent.generation() != generation
    assert agent.settle().responding.restarts == 1
    assert repaired < 1.0 * slowness(), f"{repaired:.2f} s"


def slowness():
    """Return how much longer things may take on a machine with others on it: its load for each core."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def other_version(folder, agent_init="0.0.1"):
    """Return a folder with this software under another version."""
    copy = folder / "other"
    shutil.copytree(Path(__file__).parents[2] / "agent", copy / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    init = copy / "agent/__init__.py"
    text = init.read_text()
    line = next(line for line in text.splitlines() if line.startswith("__version__"))
    init.write_text(text.replace(line, f'__version__ = "{agent_init}"'))
    return copy


class Asking:
    """Instances that ask all the time, each question once, and count the answers.

    Many, because each may ask a few times a second only.
    """

    def __init__(self, network, numbers):
        self._network = network
        self._frames = [discover(number) for number in numbers]
        self.asked = 0
        self.answered: Counter[int] = Counter()
        self.fetched = self.failed = 0
        self._ending, self._asked_all = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=target) for target in (self._ask, self._fetch, self._hear)]
        for thread in self._threads:
            thread.start()

    def _ask(self):
        while not self._ending.wait(0.005):
            self.asked += 1
            self._network.wire.send(with_xid(self._frames[self.asked % len(self._frames)], self.asked))

    def _hear(self):
        quiet = 0
        while not self._asked_all.is_set() or (len(self.answered) < self.asked and quiet < 20):
            if not select.select([self._network.wire], [], [], 0.1)[0]:
                quiet += 1
                continue
            frame = self._network.wire.recv(65536)
            if frame[12:14] == b"\x08\0" and frame[34:36] == b"\0\x43":  # from the server's port
                self.answered[int.from_bytes(frame[46:50])] += 1

    def _fetch(self):
        while not self._ending.wait(0.02):
            try:
                status, _ = self._network.get(1 + self.fetched % 2)
            except OSError:
                status = 0
            self.fetched += status == 200
            self.failed += status != 200

    def end(self):
        self._ending.set()
        *askers, hearer = self._threads
        for thread in askers:
            thread.join()
        self._asked_all.set()
        hearer.join()


def test_another_version_is_replaced_and_no_question_is_lost(host, network, monkeypatch):
    copy = other_version(host.folder)
    with monkeypatch.context() as patch:
        patch.setattr("agent.responder_process.__file__", str(copy / "agent/responder_process.py"))
        old = host.agent(ports=MANY).settle()
    former = old.pid()
    assert ResponderClient(host.folder / "run/responder.sock").hello.version == "0.0.1"
    old.stop()
    host.agents.clear()
    asking = Asking(network, MANY)
    try:
        new = host.agent(ports=MANY).settle()
        assert ResponderClient(host.folder / "run/responder.sock").hello.is_ours
        new.wait_until(lambda: former not in host.responders(), "the old one does not end")
    finally:
        asking.end()
    assert host.responders() == [new.pid()]
    assert asking.asked > 20
    assert [xid for xid in range(1, asking.asked + 1) if asking.answered[xid] != 1] == []
    assert (asking.failed, asking.fetched > 5) == (0, True)
    assert not (host.folder / "run/next-responder.sock").exists()


def test_a_replacement_that_was_left_half_done_is_finished(host, network, monkeypatch):
    copy = other_version(host.folder)
    with monkeypatch.context() as patch:
        patch.setattr("agent.responder_process.__file__", str(copy / "agent/responder_process.py"))
        old = host.agent().settle()
    former = old.pid()
    old.stop()
    host.agents.clear()

    ends_early = host.agent()
    ends_early.holds_back = True
    ends_early.wait_until(lambda: len(host.responders()) == 2, "no successor")
    ends_early.wait_until(lambda: ends_early.responding._target is not None, "no successor")
    ends_early.stop()
    host.agents.clear()
    assert network.ask(discover(1), 1) is not None

    new = host.agent().settle()
    new.wait_until(lambda: host.responders() == [new.pid()], "more than one is left")
    assert former != new.pid()
    assert network.ask(discover(1, xid=9), 1) is not None


def test_one_that_hangs_is_killed_and_started_again(host, network, monkeypatch):
    monkeypatch.setattr("agent.responding.PING_SECONDS", 0.3)
    agent = host.agent().settle()
    pid = agent.pid()
    os.kill(pid, signal.SIGSTOP)
    agent.wait_until(lambda: host.responders() not in ([], [pid]), "it still hangs")
    agent.settle()
    assert pid not in host.responders()
    assert network.ask(discover(1), 1) is not None


def test_one_that_an_earlier_agent_has_left_hanging_is_killed(host, network, monkeypatch):
    monkeypatch.setattr("agent.responding.GREET_SECONDS", 0.5)
    agent = host.agent().settle()
    pid = agent.pid()
    agent.stop()
    host.agents.clear()
    os.kill(pid, signal.SIGSTOP)
    assert network.ask(discover(1), 1, 0.2) is None
    host.agent().settle()
    assert pid not in host.responders()
    assert network.ask(discover(1, xid=2), 1) is not None


def test_two_agents_never_start_two_responders(host):
    one = host.agent().settle()
    other = host.agent()
    other.wait_until(lambda: "another agent" in str(other.responding._trouble), "it does not wait")
    os.kill(one.pid(), signal.SIGKILL)
    one.settle()
    assert len(host.responders()) == 1
    one.stop()
    host.agents.remove(one)
    other.settle()
    assert len(host.responders()) == 1


def test_a_device_that_was_made_anew_is_read_again(host, network):
    agent = host.agent().settle()
    assert network.ask(discover(1), 1) is not None
    run("ip", "link", "del", DHCP_DEVICE)
    run("ip", "link", "add", DHCP_DEVICE, "type", "veth", "peer", "name", DHCP_INNER, "netns", NAMESPACE)
    run("ip", "link", "set", DHCP_DEVICE, "up")
    within(NAMESPACE, "ip", "link", "set", DHCP_INNER, "up")
    network.wire.bind((DHCP_DEVICE, 3))
    network.wire.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # that its device has gone
    agent.woken.set()  # as its own drivers do that have put the devices back
    agent.wait_until(lambda: network.ask(discover(1), 1, 0.5) is not None, "nobody answers")


def test_a_user_that_does_not_exist_is_the_operators_to_make(host):
    agent = host.agent(user="hpd-nobody-has-this-name")
    agent.wait_until(agent.responding.problems, "no problem")
    (problem,) = agent.responding.problems()
    assert problem.actor is Actor.OPERATOR
    assert "hpd-nobody-has-this-name does not exist" in problem.text
    assert "[responder] user" in problem.text
    assert host.responders() == []


def test_why_it_cannot_serve_is_said(host):
    (host.folder / "run/responder").mkdir()
    (host.folder / "run/responder/somebody's").write_text("")
    agent = host.agent()
    agent.wait_until(agent.responding.problems, "no problem")
    assert "exit status 2" in agent.responding.problems()[0].text
    assert "directory of its own" in agent.responding.problems()[0].text


def test_statistics_are_those_of_the_responder_in_force(host, network):
    agent = host.agent().settle()
    assert network.ask(discover(1), 1) is not None
    stats = agent.responding.stats("port-1")
    messages = stats.port["messages"]
    assert isinstance(messages, list)
    assert (messages[0]["protocol"], messages[0]["message"]) == ("dhcpv4", "discover")
    counted = stats.counts().counters["dhcp_messages"]
    assert {dict(labels)["type"]: number for labels, number in counted.items()} == {"discover": 1.0}
    os.kill(agent.pid(), signal.SIGKILL)
    agent.wait_until(lambda: agent.responding._generation != stats.generation, "it is not started again")
    agent.settle()
    agent.wait_until(lambda: agent.responding.stats("port-1").generation != stats.generation, "still the old one's")
