# SPDX-License-Identifier: Apache-2.0
"""Short commands, and waiting for something with a deadline."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from agent.core.errors import ApplyError, CommandError

COMMAND_TIMEOUT = 30.0  # seconds


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    timeout: float = COMMAND_TIMEOUT,
) -> str:
    """Run a command to its end and return what it printed; CommandError when it fails."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            env=None if environment is None else dict(environment),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(tuple(argv), None, "") from None
    except FileNotFoundError:
        raise CommandError(tuple(argv), 127, f"{argv[0]}: no such command; is its package installed?") from None
    if done.returncode:
        raise CommandError(tuple(argv), done.returncode, done.stderr or done.stdout)
    return done.stdout


def wait_until(what: str, check: Callable[[], bool], timeout: float, pause: float = 0.01) -> None:
    """Call *check* until it returns True; ApplyError "*what*: not within N s" after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            raise ApplyError(f"{what}: not within {timeout:g} s")
        time.sleep(pause)
