# SPDX-License-Identifier: Apache-2.0
"""Short commands, and waiting for something with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from agent.command import CommandRunner
from agent.core.errors import ApplyError

COMMAND_TIMEOUT = 30.0  # seconds

_runner = CommandRunner()


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout: float = COMMAND_TIMEOUT,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end and return what it printed; CommandError when it fails.

    *environment* is added to ours.
    """
    return _runner(tuple(argv), stdin=stdin, timeout=timeout, env=environment)


def wait_until(what: str, check: Callable[[], bool], timeout: float, pause: float = 0.01) -> None:
    """Call *check* until it returns True; ApplyError "*what*: not within N s" after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            raise ApplyError(f"{what}: not within {timeout:g} s")
        time.sleep(pause)
