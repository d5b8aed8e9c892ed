# SPDX-License-Identifier: Apache-2.0
"""A host of the test's own: network and mount namespaces that end with the test, and a private /run/netns."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

CLONE_FS, CLONE_NEWNS, CLONE_NEWNET = 0x200, 0x20000, 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def host() -> Iterator[None]:
    """Be on a host without devices and named namespaces; only the calling thread is, and what it starts."""
    folder = Path.cwd()
    here = Path("/proc/thread-self/ns")
    homes = [(kind, os.open(here / name, os.O_RDONLY)) for name, kind in (("net", CLONE_NEWNET), ("mnt", CLONE_NEWNS))]
    _check(LIBC.unshare(CLONE_NEWNET | CLONE_NEWNS))
    try:
        run("mount", "--make-rprivate", "/")
        run("mount", "-t", "tmpfs", "none", "/run")  # as on a host that has just booted
        run("ip", "link", "set", "lo", "up")
        yield
    finally:
        _check(LIBC.unshare(CLONE_FS))  # a thread that has just ended may still share the root folder with us
        for kind, home in homes:
            _check(LIBC.setns(home, kind))
            os.close(home)
        os.chdir(folder)  # entering a mount namespace leads to its root


def run(*argv: str, stdin: str | None = None) -> str:
    """Return what a command prints; raise AssertionError with its complaint if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, input=stdin)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def within(namespace: str, *argv: str, stdin: str | None = None) -> str:
    """Run a command in a named namespace."""
    return run("ip", "netns", "exec", namespace, *argv, stdin=stdin)


def _check(result: int) -> None:
    assert result == 0, os.strerror(ctypes.get_errno())
