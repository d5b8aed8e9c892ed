# SPDX-License-Identifier: Apache-2.0
"""Visit a network namespace with the calling thread, and write settings of the namespace that it is in."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/run/netns")  # where ip-netns(8) names namespaces

_CLONE_NEWNET = 0x40000000  # sched.h; Python 3.11 has no os.setns
_LIBC = ctypes.CDLL(None, use_errno=True)
_SETTINGS = Path("/proc/sys/net")


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@contextlib.contextmanager
def inside(namespace: int) -> Iterator[None]:
    """Be in the network namespace that descriptor *namespace* refers to.

    Only the calling thread moves, and it always moves back; sockets that it opens
    meanwhile belong to the namespace.  Raises OSError (EINVAL: not a namespace).
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(namespace)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


@contextlib.contextmanager
def inside_named(name: str) -> Iterator[None]:
    """Be in the network namespace *name* as ``inside`` does; raise OSError (ENOENT: there is none)."""
    with (FOLDER / name).open("rb") as namespace, inside(namespace.fileno()):
        yield


def write_setting(name: str, value: str) -> None:
    """Write ``/proc/sys/net/<name>`` of the thread's namespace; nothing happens where the kernel lacks it."""
    # The kernel without IPv6 has no such folder, and then there is nothing to switch off.
    with contextlib.suppress(FileNotFoundError):
        (_SETTINGS / name).write_text(value)
