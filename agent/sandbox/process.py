# SPDX-License-Identifier: Apache-2.0
"""Processes that outlive the command that started them.

A process is known by its id *and* its start time, so that a number that the kernel
has given to somebody else is never mistaken for ours, and it is signalled through a
pidfd, so that it cannot change hands between the look and the signal.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import ApplyError

EXIT_TIMEOUT = 30.0  # seconds until a process that was asked to end counts as stuck

_STARTTIME_FIELD = 19  # /proc/PID/stat field 22, counted from the state, which follows the command's name
_children: dict[int, subprocess.Popen[bytes]] = {}  # ours until they end, so that they are reaped


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A started process: its id, and its start time in clock ticks since boot."""

    pid: int
    start_time: int

    def is_alive(self) -> bool:
        """Tell whether exactly this process still runs, or is still ending.

        The main thread may be a zombie while others still close what the process had
        open, which takes ``ovs-vswitchd`` with hundreds of ports seconds.
        """
        return not self.wait(0)

    def send(self, signum: signal.Signals) -> None:
        """Send a signal; no error when the process is gone."""
        with contextlib.suppress(ProcessLookupError), _pidfd(self.pid) as descriptor:
            if start_time(self.pid) == self.start_time:
                signal.pidfd_send_signal(descriptor, signum)

    def wait(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds for the end of the process; tell whether it came."""
        ended = True
        with contextlib.suppress(ProcessLookupError), _pidfd(self.pid) as descriptor:
            if start_time(self.pid) == self.start_time:
                # Readable when the last thread has gone, even if nobody has collected the exit status.
                ended = bool(select.select([descriptor], [], [], timeout)[0])
        reap()
        return ended

    def stop(self, *, kill: bool, timeout: float = EXIT_TIMEOUT) -> None:
        """End the process with SIGTERM, or SIGKILL when *kill*; ApplyError when it stays."""
        self.send(signal.SIGKILL if kill else signal.SIGTERM)
        if not self.wait(timeout):
            raise ApplyError(f"process {self.pid} did not end within {timeout:g} s")


def start_time(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since boot; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold anything, spaces and brackets too
    return int(fields[_STARTTIME_FIELD])


def start(argv: Sequence[str], environment: Mapping[str, str], log: Path) -> ProcessRecord:
    """Start *argv* in a session of its own, output appended to *log*.

    The caller's *environment* replaces ours.  ``argv`` may begin with ``nsenter``:
    it executes the command in its own place, so the process id is the command's.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            argv,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children[child.pid] = child
    return ProcessRecord(child.pid, start_time(child.pid) or 0)


def reap() -> None:
    """Forget children that have ended."""
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            _children.pop(pid, None)


class ProcessFolder:
    """The records of a sandbox's processes, one file each, written right after the start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, name: str, record: ProcessRecord) -> None:
        """Remember a process under *name* (``host1.agent``)."""
        text = json.dumps({"pid": record.pid, "start_time": record.start_time})
        new = self._folder / f".{name}.new"
        new.write_text(text)
        new.rename(self._folder / f"{name}.json")

    def load(self, name: str) -> ProcessRecord | None:
        """Return a process that was remembered, alive or not."""
        return _read(self._folder / f"{name}.json")

    def all(self) -> list[ProcessRecord]:
        """Return all that was remembered and can be read."""
        records = (_read(path) for path in self._folder.glob("*.json"))
        return [record for record in records if record is not None]


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _read(path: Path) -> ProcessRecord | None:
    try:
        value = json.loads(path.read_text())
        return ProcessRecord(int(value["pid"]), int(value["start_time"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # cut off by a crash: the sweep of the namespaces still finds the process


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
