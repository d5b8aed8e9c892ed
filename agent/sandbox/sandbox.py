# SPDX-License-Identifier: Apache-2.0
"""A sandbox as a whole: made, found again, changed, taken down.

Nothing is kept in memory between two calls of the command: what exists is read from
the sandbox's folder each time, so any call may crash, and ``down`` still finds all.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

from agent.core.errors import ApplyError, InputError
from agent.sandbox import faults, underlay
from agent.sandbox.host import SimulatedHost
from agent.sandbox.layout import LINKS, ROOT, UPSTREAM, SandboxPaths, host_names, sandbox_paths, underlay_address
from agent.sandbox.machine import Machine
from agent.sandbox.namespaces import Namespaces
from agent.sandbox.process import EXIT_TIMEOUT, ProcessFolder
from agent.sandbox.store import SandboxStore
from agent.sandbox.tools import wait_until
from agent.sandbox.upstream import Upstream

FORMAT = 1  # of sandbox.json
LOCK_TIMEOUT = 2.0  # seconds
What = Literal["agent", "ovs", "responder", "store"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command can run: a host or the router beyond, or an instance (a namespace) on it."""

    host: Machine
    instance: str | None = None


class Sandbox:
    """One sandbox that exists.  Made by ``create``, found by ``find``, ended by ``remove``."""

    def __init__(self, paths: SandboxPaths, names: Sequence[str], *, external: bool = False) -> None:
        self.paths = paths
        self._namespaces = Namespaces(paths)
        processes = ProcessFolder(paths.processes)
        self.store = SandboxStore(paths, self._namespaces, processes)
        self.hosts = tuple(
            SimulatedHost(paths, name, underlay_address(number), self._namespaces, processes)
            for number, name in enumerate(names, 1)
        )
        self.upstream = Upstream(paths, self._namespaces) if external else None

    @property
    def name(self) -> str:
        """The sandbox's name."""
        return self.paths.name

    @classmethod
    def create(cls, name: str, hosts: int = 2, *, agents: bool = True, external: bool = False) -> Sandbox:
        """Make a sandbox and start everything in it; return when all agents are ready.

        On failure, or when interrupted, everything is taken down again.  InputError when there is
        one of this name.  ``agents`` False leaves the agents to be started later.  With ``external``
        there is a router beyond the external network.
        """
        paths = sandbox_paths(name)
        names = host_names(hosts)
        if os.geteuid() != 0:
            raise InputError(f"sandbox {name}: only root can make namespaces and run Open vSwitch; run this as root")
        ROOT.mkdir(exist_ok=True)
        try:
            paths.root.mkdir()
        except FileExistsError:
            raise InputError(f"sandbox {name}: exists already; take it down first: {_command(name)} down") from None
        with _locked(paths):
            try:
                sandbox = cls(paths, names, external=external)
                sandbox._build(agents)
            except BaseException:
                _clean(paths)
                raise
        return sandbox

    @classmethod
    def find(cls, name: str) -> Sandbox:
        """Return a sandbox that exists; InputError when there is none of this name."""
        paths = sandbox_paths(name)
        try:
            description = json.loads(paths.description.read_text())
            names = [str(host) for host in description["hosts"]]
            external = bool(description.get("external", False))
        except FileNotFoundError:
            raise InputError(f"sandbox {name}: is not there; make it: {_command(name)} up") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"sandbox {name}: is broken; take it down: {_command(name)} down") from None
        return cls(paths, names, external=external)

    def host(self, name: str) -> SimulatedHost:
        """Return a host by name; InputError that lists the hosts when there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise InputError(f"sandbox {self.name}: no host is called {name}; there are {', '.join(self.host_names)}")

    @property
    def host_names(self) -> tuple[str, ...]:
        """The names of the hosts."""
        return tuple(host.name for host in self.hosts)

    def resolve(self, name: str) -> Place:
        """Return the host or the instance called *name*, or the router ``upstream``.

        InputError when there is none, or more than one.
        """
        if name in self.host_names:
            return Place(self.host(name))
        if name == UPSTREAM and self.upstream is not None:
            return Place(self.upstream)
        found = [host for host in self.hosts if name in host.namespaces()]
        if not found:
            raise InputError(f"sandbox {self.name}: no host or instance is called {name}")
        if len(found) > 1:
            where = " and on ".join(host.name for host in found)
            raise InputError(f"sandbox {self.name}: {name} is ambiguous: there is one on {where}")
        return Place(found[0], name)

    def argv(self, place: Place, command: Sequence[str], *, directory: str = "/") -> list[str]:
        """Return the words that run *command* in *place*, in the same process that they are executed in."""
        inner = [] if place.instance is None else ["nsenter", f"--net=/run/netns/{place.instance}", "--"]
        return [*self._namespaces.enter(place.host.name, directory=directory), *inner, *command]

    def restart(self, host: str, what: What = "agent", *, kill: bool = False) -> None:
        """End a process (SIGTERM, or SIGKILL when *kill*) and start it again; return when it is ready."""
        target = self.host(host)
        with _locked(self.paths):
            if what == "agent":
                target.stop_agent(kill=kill)
                target.start_agent()
            elif what == "ovs":
                target.switch.stop_switch(kill=kill)
                target.switch.start_switch()
            elif what == "responder":
                target.restart_responder(kill=kill)
            else:
                self.store.stop(kill=kill)
                self.store.start()

    def cut(self, host: str, links: Sequence[str] = LINKS, *, silently: bool = False) -> None:
        """Cut links (``LINKS``) of a host; *silently* they keep their carrier."""
        number = self._number(host)
        with _locked(self.paths):
            faults.cut(self._namespaces, number, links, silently=silently)

    def mend(self, host: str, links: Sequence[str] = LINKS) -> None:
        """Connect links of a host again."""
        number = self._number(host)
        with _locked(self.paths):
            faults.mend(self._namespaces, number, links)

    def kill_host(self, host: str) -> None:
        """Let a host die: nothing comes from it any more, and all its processes are killed."""
        number, running = self._number(host), self.host(host).processes()
        with _locked(self.paths):
            faults.cut(self._namespaces, number)
            self._namespaces.sweep(host)
            for record in running.values():
                record.wait(EXIT_TIMEOUT)  # what it had open may take a moment to close

    def revive_host(self, host: str) -> None:
        """Start what runs on a host that was killed, and connect it; return when its agent is ready.

        What its kernel held is still there: namespaces, devices, rules.
        """
        target = self.host(host)
        with _locked(self.paths):
            if running := target.processes():
                raise InputError(f"sandbox {self.name}: host {host} is not dead: {', '.join(sorted(running))} runs")
            faults.mend(self._namespaces, self._number(host))
            target.switch.start_database()
            target.switch.start_switch()
            target.start_agent()

    def partition(self, host: str, other: str) -> None:
        """Let two hosts not hear each other on the underlay, while all others hear both."""
        numbers = self._pair(host, other)
        with _locked(self.paths):
            faults.partition(self._namespaces, *numbers)

    def heal(self, host: str, other: str) -> None:
        """End a partition."""
        numbers = self._pair(host, other)
        with _locked(self.paths):
            faults.heal(self._namespaces, *numbers)

    def _number(self, host: str) -> int:
        return self.hosts.index(self.host(host)) + 1

    def _pair(self, host: str, other: str) -> tuple[int, int]:
        if host == other:
            raise InputError(f"sandbox {self.name}: host {host} cannot be parted from itself")
        return self._number(host), self._number(other)

    def _build(self, agents: bool) -> None:
        self.paths.processes.mkdir()
        description = {"format": FORMAT, "hosts": self.host_names, "external": self.upstream is not None}
        self.paths.description.write_text(json.dumps(description))
        self._namespaces.prepare()
        underlay.create(self.paths, self._namespaces)
        if self.upstream is not None:
            self.upstream.create()
        with ThreadPoolExecutor(max_workers=8) as pool:
            try:
                self._start_all(pool, agents)
            except BaseException:
                # What the workers still wait for must end, else so must we until it is ready or late.
                pool.shutdown(wait=False, cancel_futures=True)
                self._namespaces.sweep()
                raise

    def _start_all(self, pool: ThreadPoolExecutor, agents: bool) -> None:
        store = pool.submit(self.store.start)
        _each(pool, lambda host: self._namespaces.create(host.name, host.paths.netns), self.hosts)
        underlay.connect(self._namespaces, self.host_names)
        _each(pool, lambda host: host.switch.start(), self.hosts)
        store.result()
        _each(pool, SimulatedHost.configure, self.hosts)
        if agents:
            _each(pool, SimulatedHost.start_agent, self.hosts)


def remove(name: str) -> bool:
    """Take a sandbox down, whatever state it is in; False when there was nothing.

    Ends every process in its namespaces, lets go of the namespaces and removes the folder.
    """
    paths = sandbox_paths(name)
    if not paths.root.is_dir():
        return False
    with _locked(paths):
        running = [record.pid for record in ProcessFolder(paths.processes).all() if record.is_alive()]
        if Namespaces(paths).contains_us(running):
            raise InputError(f"sandbox {name}: this command runs inside of it; run it outside")
        _clean(paths)
    return True


def _clean(paths: SandboxPaths) -> None:
    namespaces = Namespaces(paths)
    # The sweep finds them all, unless the pins were mounted where we cannot see them.
    for record in ProcessFolder(paths.processes).all():
        record.send(signal.SIGKILL)
    namespaces.sweep()
    namespaces.remove()
    with contextlib.suppress(FileNotFoundError):  # somebody else is taking it down as well
        shutil.rmtree(paths.root)
    with contextlib.suppress(OSError):
        ROOT.rmdir()  # stays while there are others


@contextlib.contextmanager
def _locked(paths: SandboxPaths) -> Iterator[None]:
    """Hold the sandbox's lock; InputError when somebody else holds it."""
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def is_ours() -> bool:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    try:
        try:
            # Of a command that was killed a child may hold it for a moment, until it executes.
            wait_until(f"sandbox {paths.name}: another command is at work on it; try again", is_ours, LOCK_TIMEOUT)
        except ApplyError as err:
            raise InputError(str(err)) from None
        yield
    finally:
        os.close(descriptor)


def _each(pool: ThreadPoolExecutor, work: Callable[[SimulatedHost], T], hosts: Sequence[SimulatedHost]) -> list[T]:
    return list(pool.map(work, hosts))


def _command(name: str) -> str:
    return f"hostplane sandbox --name {name}"
