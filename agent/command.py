# SPDX-License-Identifier: Apache-2.0
"""The only place where the daemon starts another program.

No shell, one process per batch, and always a time limit: a program that hangs must
not keep the watchdog from being fed.  What it prints comes back as text; what goes
wrong is a ``CommandError`` with everything that is needed to repeat the command.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from agent.core.errors import CommandError

DEFAULT_TIMEOUT = 10.0  # seconds; a third of the unit's WatchdogSec
KILL_GRACE = 1.0  # seconds that a killed program may take to vanish
NOT_FOUND = 127  # as a shell answers for a program that is not there
NOT_RUNNABLE = 126

Timed = Callable[[str, float, bool, int], None]
REMEMBERED = 256  # programs of ours whose process ids are known after they have ended


class Runner(Protocol):
    """Run a program and return what it printed."""

    def __call__(
        self,
        argv: tuple[str, ...],
        *,
        stdin: str | bytes = b"",
        timeout: float = DEFAULT_TIMEOUT,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run *argv* with *stdin*; return its standard output.

        *env* is added to the daemon's environment; *timeout* is in seconds.  Raises
        CommandError on a status other than 0 and, with ``returncode`` None, when
        the time is over: what the program has done until then is unknown.
        """


class CommandRunner:
    """The real ``Runner``.

    *timed* is called after each command with the program's name, the seconds that it
    took, whether it succeeded, and the bytes of its standard input.  ``started`` tells
    by its process id whether a program is or was one of the last that we started.
    """

    def __init__(self, timed: Timed | None = None) -> None:
        self._timed = timed
        self._pids: deque[int] = deque(maxlen=REMEMBERED)

    def started(self, pid: int) -> bool:
        """Tell whether *pid* is one of our last commands; any thread may ask."""
        return pid in self._pids.copy()

    def __call__(
        self,
        argv: tuple[str, ...],
        *,
        stdin: str | bytes = b"",
        timeout: float = DEFAULT_TIMEOUT,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """See ``Runner``."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        started = time.monotonic()
        done = False
        try:
            output = _run(argv, data, timeout, env, self._pids.append)
            done = True
        finally:
            if self._timed is not None:
                self._timed(argv[0], time.monotonic() - started, done, len(data))
        return output


def _run(
    argv: tuple[str, ...],
    stdin: bytes,
    timeout: float,
    env: Mapping[str, str] | None,
    note: Callable[[int], None],
) -> str:
    # LC_ALL: messages are parsed, so they must not be translated.
    environment = {**os.environ, "LC_ALL": "C", **(env or {})}
    try:
        source = _as_file(stdin)
    except OSError as err:
        raise CommandError(argv, NOT_RUNNABLE, f"its input: {err.strerror or err}") from None
    try:
        # A plain spawn without preexec_fn uses vfork: 0.8 ms, whatever the daemon's size.
        process = subprocess.Popen(argv, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    except FileNotFoundError:
        raise CommandError(argv, NOT_FOUND, f"{argv[0]} is not installed") from None
    except OSError as err:
        raise CommandError(argv, NOT_RUNNABLE, err.strerror or str(err)) from None
    finally:
        if source != subprocess.DEVNULL:
            os.close(source)
    note(process.pid)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as err:
        _end(process)
        raise CommandError(argv, None, f"no end after {timeout:g} s; {_text(err.stderr or b'')}") from None
    except BaseException:
        _end(process)
        raise
    if process.returncode != 0:
        raise CommandError(argv, process.returncode, _text(stderr))
    return _text(stdout)


def _as_file(data: bytes) -> int:
    """Return a descriptor from which *data* can be read.

    Not a pipe: if we die while we write, the program would see an end, and take half a
    line (``10.0.0.0/2`` of ``10.0.0.0/24``) for all of it.
    """
    if not data:
        return subprocess.DEVNULL
    descriptor = os.memfd_create("stdin")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill *process* and let go of its pipes, even if a child of its own holds them too."""
    process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(KILL_GRACE)
    except subprocess.TimeoutExpired:
        # Stuck in the kernel.  Popen's own list of zombies collects it later.
        return


def _text(output: bytes) -> str:
    return output.decode(errors="replace")
