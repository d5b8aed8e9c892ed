# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the responder: keeps one running, of our version, that knows everything.

A thread starts the responder or finds the one that runs, and holds an idle connection
to it, whose end says within milliseconds that it has ended.  Each new process is told to
the reconcile loop (reason ``responder``), whose driver then hands everything over that
this process does not know.

A responder of another version is replaced without a gap.  Its successor is started
beside it and gets the same sockets and all data; only then the old one is told to drain.
If an agent dies in between, the next one finds both and goes on: until the old one has
been told to drain it has the name, and so cannot be forgotten.

With systemd (``start`` False) the responder is a unit of its own, which starts again
by itself; then it is only found, and told to drain once if it is of another version.

Its devices and its namespace are watched, too: what somebody has deleted is read back at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from agent import __version__
from agent.core import service_identity
from agent.core.errors import Actor, AgentError, Problem
from agent.core.plan import Driver
from agent.core.reconciler import Reconciler
from agent.drivers.link_watch import LinkWatch
from agent.drivers.name_watch import NameWatch
from agent.drivers.responder import ResponderDriver, Target
from agent.namespace import FOLDER
from agent.responder.protocol import SOCKET_NAME
from agent.responder_client import ResponderAwayError, ResponderClient, ResponderSilentError
from agent.responder_process import Child, ResponderPaths, kill, kill_last, launch, lock
from agent.responder_stats import ResponderStats, StatsReader

LOG = logging.getLogger(__name__)

REASON: Final = "responder"  # why the loop is woken: there is another one
AWAY: Final = "responder-away"  # what operators should know of it has changed
DEVICES: Final = "responder-devices"  # one of its devices has come or gone, or its namespace has
ON_DEVICES: Final = ("netns", "links", "routes", "ovs", "connects", "responder")  # drivers of what hangs on them
HELLO_SECONDS: Final = 10.0  # that a process which has just been started may take to answer
GREET_SECONDS: Final = 5.0  # that one which an earlier agent has started may take
PING_SECONDS: Final = 5.0  # between two looks whether it still answers, and for the answer
SHORT_LIFE: Final = 10.0  # seconds; one that ends sooner is the less often started again
FIRST_REST, LONGEST_REST = 0.1, 10.0  # seconds between two attempts
LONG_AWAY: Final = 3.0  # seconds without a responder of which an operator should hear
DRAIN_SECONDS: Final = 35.0  # that a unit may take to end what is open
EXIT_SECONDS: Final = 0.1  # between the end of a process's connections and its own
FAIL_SECONDS: Final = 2.0  # the same of one that cannot start
STOP_SECONDS: Final = 3.0  # that the thread may take to end


class Responding:
    """Made once.  *wake* is called with a reason, from the thread.

    Sockets, pid file and data of the responder are in *run_dir*, its log in
    *state_dir*; it runs as *user*.
    """

    def __init__(self, run_dir: Path, state_dir: Path, user: str, start: bool, wake: Callable[[str], None]) -> None:
        self._paths = ResponderPaths(run_dir, state_dir)
        self._user = user
        self._start = start
        self._wake = wake
        self._driver = ResponderDriver(self)
        self._stats = StatsReader(lambda: self.target().path)
        self._thread = threading.Thread(target=self._run, name="responding", daemon=True)
        devices = (service_identity.DHCP_DEVICE, service_identity.METADATA_DEVICE)
        self._links = LinkWatch(lambda _: wake(DEVICES), devices)
        self._namespace = NameWatch(FOLDER, service_identity.NAMESPACE)
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._stopping = threading.Event()
        self._lock: int | None = None
        self._watched: ResponderClient | None = None
        self._target: Target | None = None
        self._handed = ""  # the generation of the process that has taken over
        self._child: Child | None = None
        self._drained: set[str] = set()  # versions of units that were told to drain
        self._trouble: AgentError | None = None
        self._away_since: float | None = time.monotonic()  # None while one answers
        self._generation = ""
        self.restarts = 0  # responders that have come after the first

    @property
    def driver(self) -> Driver:
        """What the reconcile loop writes."""
        return self._driver

    def start(self) -> None:
        """Begin to look for a responder, and keep one running; returns at once."""
        self._links.start()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close all connections, after the reconcile thread has ended; the responder goes on."""
        self._stopping.set()
        self._poke()
        watched = self._watched
        if watched is not None:
            watched.abort()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        self._links.stop()
        self._namespace.close()
        self._stats.close()
        self._driver.close()
        if self._child is not None:
            self._child.let_go()
        if self._lock is not None:
            os.close(self._lock)

    # What the reconcile thread asks.

    def target(self) -> Target:
        """Return the responder that is to know everything; raise ResponderAwayError.  Any thread."""
        target = self._target
        if target is None:
            raise ResponderAwayError(f"there is no responder now: {self._trouble or 'none has answered yet'}")
        return target

    def handed_over(self, target: Target) -> None:
        """Have the one that *target* replaces end."""
        self._handed = target.generation
        self._poke()

    def before_pass(self, reconciler: Reconciler, reasons: Collection[str]) -> None:
        """Have everything handed over to a responder that has just come; what it does not know is no drift."""
        if DEVICES in reasons:
            reconciler.need_resync(ON_DEVICES)
        if REASON in reasons:
            reconciler.need_resync([self._driver.name], lost=True)

    # What anybody may ask.

    def stats(self, port: str | None = None) -> ResponderStats:
        """Return what the responder has counted, and what it last answered *port*, at most a second old.

        Raises AgentError if it does not answer within a second.
        """
        return self._stats.read(port)

    def problems(self) -> tuple[Problem, ...]:
        """Return what operators should know."""
        trouble, since = self._trouble, self._away_since
        if trouble is None:
            return ()
        if trouble.actor is Actor.NOBODY and since is not None and time.monotonic() - since < LONG_AWAY:
            return ()  # it is started again in this moment
        return (Problem("host", "responder", str(trouble), Actor.OPERATOR),)

    # The thread.

    def _run(self) -> None:
        failures = 0
        told: tuple[Problem, ...] = ()
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                client, former = self._find()
            except AgentError as err:
                trouble = err
            else:
                trouble = self._serve(client, former)
            if self._stopping.is_set():
                return
            self._lose(trouble)
            if self.problems() != told:
                told = self.problems()
                self._wake(AWAY)
            failures = 0 if time.monotonic() - began > SHORT_LIFE else failures + 1
            if failures > 1:
                self._rest(min(FIRST_REST * 2.0 ** (failures - 2), LONGEST_REST))

    def _serve(self, client: ResponderClient, former: Path | None) -> AgentError:
        """Let everybody speak to the responder of *client* until it has ended; return why."""
        hello = client.hello
        LOG.info("responder %s answers: version %s, process %d", hello.generation, hello.version, hello.pid)
        self.restarts += self._generation not in ("", hello.generation)
        self._generation = hello.generation
        self._target = Target(self._paths.socket if former is None else self._paths.successor, hello.generation, former)
        self._trouble = None if hello.is_ours or self._start else _other_version(hello.version)
        self._away_since = None
        self._watched = client
        self._wake(REASON)
        try:
            with contextlib.closing(client):
                return self._watch(client, former)
        finally:
            self._watched = self._target = None
            self._away_since = time.monotonic()

    def _watch(self, client: ResponderClient, former: Path | None) -> AgentError:
        """Return why the responder is of no use any more; or when we are to stop."""
        process = _open_process(client.hello.pid)
        try:
            while not self._stopping.is_set():
                ready = self._wait(PING_SECONDS, client.fileno())
                if former is not None and self._handed == client.hello.generation:
                    self._retire(former)
                    former, self._target = None, Target(self._paths.socket, client.hello.generation)
                if ready is None or client.fileno() in ready:
                    client.stats(None, PING_SECONDS)  # it has ended, or it answers
        except ResponderSilentError as err:
            if self._start and process is not None and not self._stopping.is_set():
                LOG.error("responder %s, process %d, hangs: it is killed", client.hello.generation, client.hello.pid)
                kill(process)
            return err
        except AgentError as err:
            child = self._child if self._child is not None and self._child.pid == client.hello.pid else None
            why = "" if child is None else child.why_ended(EXIT_SECONDS)
            return ResponderAwayError(f"{err}: {why}") if why else err
        finally:
            if process is not None:
                os.close(process)
        return ResponderAwayError("the agent ends")

    def _lose(self, trouble: AgentError) -> None:
        if str(trouble) != str(self._trouble):
            LOG.warning("%s", trouble)
        self._trouble = trouble

    def _wait(self, seconds: float, *others: int) -> set[int] | None:
        """Wait for one of *others* or to be poked; return those that are readable, None after *seconds*."""
        poller = select.poll()
        namespace = self._namespace.fileno()
        for descriptor in (self._read, *others, *(() if namespace is None else (namespace,))):
            poller.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll(seconds * 1000)}
        if namespace in ready and self._namespace.taken_out():
            self._wake(DEVICES)
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        return ready or None

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping.is_set() and (left := until - time.monotonic()) > 0:
            self._wait(left)

    def _poke(self) -> None:
        os.write(self._write, b"x")

    # Finding one.

    def _find(self) -> tuple[ResponderClient, Path | None]:
        """Return a responder to speak to, and the socket of the one that it is to replace."""
        if not self._start:
            return self._unit(), None
        if self._lock is None:
            self._lock = lock(self._paths)
        paths = self._paths
        successor = self._greet(paths.successor)
        present = self._greet(paths.socket, alone=successor is None)
        if present is None and successor is not None:
            self._promote()  # the agent before us had no time to
            present, successor = successor, None
        if present is None:
            return self._launch(paths.socket), None
        if self._is_acceptable(present):
            if successor is not None:
                _dismiss(successor)
                paths.successor.unlink(missing_ok=True)
            return present, None
        LOG.info("responder %s of version %s is replaced", present.hello.generation, present.hello.version)
        present.close()
        if successor is not None and not self._is_acceptable(successor):
            _dismiss(successor)
            successor = None
        return successor or self._launch(paths.successor), paths.socket

    def _is_acceptable(self, client: ResponderClient) -> bool:
        """Tell whether to use it: it is of our version, or at least of that on this disk."""
        child, hello = self._child, client.hello
        return hello.is_ours or (hello.understands_us and child is not None and child.pid == hello.pid)

    def _greet(self, path: Path, *, alone: bool = False) -> ResponderClient | None:
        """Return a connection to who listens at *path*, None if nobody does.

        One that does not answer is killed if it is *alone*: then it is the last that was started.
        """
        try:
            return ResponderClient(path, GREET_SECONDS)
        except ResponderSilentError as err:
            if alone:
                LOG.error("%s: it is killed", err)
                kill_last(self._paths)
            return None
        except AgentError:
            return None

    def _launch(self, path: Path) -> ResponderClient:
        self._child = child = launch(self._paths, self._user, path)
        try:
            client = ResponderClient(path, HELLO_SECONDS)
        except AgentError as err:
            raise AgentError(f"the responder does not serve: {child.why_ended(FAIL_SECONDS) or err}") from None
        if not client.hello.understands_us:
            _dismiss(client)
            raise _other_version(client.hello.version)
        return client

    def _retire(self, former: Path) -> None:
        """Have the responder at *former* end, and give its name to the one that has taken over."""
        with contextlib.suppress(AgentError):
            _dismiss(ResponderClient(former))
        self._promote()
        LOG.info("the responder before was told to end; its successor has taken over")

    def _promote(self) -> None:
        """Give the successor the name that all look for."""
        try:
            self._paths.successor.replace(self._paths.socket)
        except OSError as err:
            raise AgentError(f"responder: {self._paths.successor}: {err.strerror}") from None

    def _unit(self) -> ResponderClient:
        """Return a connection to the responder that systemd runs."""
        try:
            client = ResponderClient(self._paths.socket, HELLO_SECONDS)
        except ResponderAwayError as err:
            raise ResponderAwayError(f"{err}: see systemctl status hostplane-responder.service") from None
        version = client.hello.version
        if client.hello.is_ours:
            return client
        if version not in self._drained:
            self._drained.add(version)
            LOG.info("the responder of version %s is told to end, so that its unit starts what is installed", version)
            with contextlib.closing(client):
                client.drain()
                self._wait(DRAIN_SECONDS, client.fileno())
            raise ResponderAwayError("the responder is being replaced")
        if not client.hello.understands_us:
            client.close()
            raise _other_version(version)
        return client


def dismiss(run_dir: Path) -> None:
    """Have a responder that an earlier agent has left in *run_dir* end, if there is one."""
    with contextlib.suppress(AgentError):
        _dismiss(ResponderClient(run_dir / SOCKET_NAME))


def _dismiss(client: ResponderClient) -> None:
    """Have a responder end when what is open has ended."""
    with contextlib.closing(client), contextlib.suppress(AgentError):
        client.drain()


def _open_process(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:  # gone already, or not of our pid namespace
        return None


def _other_version(version: str) -> AgentError:
    return AgentError(
        f"the responder is of version {version} and the agent of {__version__}: install the same one, and restart both"
    )
