# SPDX-License-Identifier: Apache-2.0
"""Green threads, and waiting in them: all that we use of eventlet.

Sockets stay plain and non-blocking: eventlet's own have neither ``recvmsg`` nor
``sendmsg``.  Nothing is monkey-patched.  Who closes a descriptor that another green
thread waits for ends that thread first.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable

# Its resolver would bring dnspython, 12 MB; we resolve in a thread (agent.responder.resolver).
os.environ["EVENTLET_NO_GREENDNS"] = "yes"
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")

from eventlet import greenthread, hubs  # noqa: E402
from eventlet.event import Event  # noqa: E402

__all__ = ["Event", "Task", "die", "recv", "send_all", "sleep", "spawn", "wait_readable", "wait_writable"]

LOG = logging.getLogger(__name__)

CHUNK = 1 << 16  # octets that a client must take within its time


class Task:
    """A running green thread."""

    def __init__(self, thread: greenthread.GreenThread) -> None:
        self._thread = thread

    @property
    def ended(self) -> bool:
        """Tell whether it runs no more."""
        return bool(self._thread.dead)

    def kill(self) -> None:
        """End it where it waits; its ``finally`` clauses have run when this returns, if none of them waits."""
        greenthread.kill(self._thread)


def spawn(name: str, function: Callable[..., None], *arguments: object, fatal: bool = False) -> Task:
    """Run *function* in a green thread of its own.

    An exception is a bug of ours.  It is logged with its traceback; where the process
    is of no use without that thread (*fatal*) it ends.
    """

    def guarded() -> None:
        try:
            function(*arguments)
        except Exception:
            if fatal:
                die(name)
            LOG.exception("%s: a bug; the rest goes on", name)

    return Task(greenthread.spawn(guarded))


def die(name: str) -> None:
    """End the process because of the exception that is being handled: whoever started us starts us afresh."""
    LOG.critical("%s died of a bug, ending", name, exc_info=True)
    logging.shutdown()
    os._exit(1)


def sleep(seconds: float = 0.0) -> None:
    """Let others run, for *seconds* at least."""
    greenthread.sleep(seconds)


def wait_readable(what: socket.socket | int, seconds: float | None = None) -> None:
    """Wait until there is something to read; raise TimeoutError after *seconds*."""
    hubs.trampoline(what, read=True, timeout=seconds, timeout_exc=TimeoutError)


def wait_writable(what: socket.socket | int, seconds: float | None = None) -> None:
    """Wait until something can be written; raise TimeoutError after *seconds*."""
    hubs.trampoline(what, write=True, timeout=seconds, timeout_exc=TimeoutError)


def recv(connection: socket.socket, size: int, seconds: float | None = None) -> bytes:
    """Return what has come, at most *size* octets, b"" at the end; OSError, TimeoutError after *seconds*."""
    while True:
        try:
            return connection.recv(size)
        except BlockingIOError:
            wait_readable(connection, seconds)


def send_all(connection: socket.socket, data: bytes, seconds: float | None = None) -> None:
    """Send *data*; OSError, TimeoutError when the other side does not take a CHUNK in *seconds*."""
    view = memoryview(data)
    while view:
        _send_chunk(connection, view[:CHUNK], seconds)
        view = view[CHUNK:]


def _send_chunk(connection: socket.socket, view: memoryview, seconds: float | None) -> None:
    deadline = None if seconds is None else time.monotonic() + seconds
    while view:
        try:
            view = view[connection.send(view) :]
        except BlockingIOError:
            wait_writable(connection, None if deadline is None else deadline - time.monotonic())
