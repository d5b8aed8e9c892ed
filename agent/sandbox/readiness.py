# SPDX-License-Identifier: Apache-2.0
"""How a started process tells that it is ready to work."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.core.errors import ApplyError
from agent.sandbox.process import ProcessRecord, tail

_ANSWER_TIMEOUT = 2.0  # seconds that a server may take to answer a socket that it has accepted
_PAUSE = 0.01
_OPENFLOW_HEADER = 8
_OPENFLOW_HELLO = 0


def database_answers(path: Path) -> bool:
    """Tell whether an ``ovsdb-server`` at *path* answers a request (OVSDB's ``echo``, RFC 7047 4.1.11)."""
    request = json.dumps({"method": "echo", "params": [], "id": "ready"}).encode()
    with contextlib.suppress(OSError), _connect(path) as connection:
        connection.sendall(request)
        return connection.recv(4096).startswith(b"{")
    return False


def openflow_answers(path: Path) -> bool:
    """Tell whether a bridge's management socket at *path* accepts and greets (OFPT_HELLO)."""
    with contextlib.suppress(OSError), _connect(path) as connection:
        hello = connection.recv(_OPENFLOW_HEADER)
        return len(hello) >= 2 and hello[1] == _OPENFLOW_HELLO
    return False


def wait_ready(name: str, record: ProcessRecord, ready: Callable[[], bool], log: Path, timeout: float) -> None:
    """Wait until *ready* returns True; ApplyError, with the end of *log*, when the process ends or time is up."""
    deadline = time.monotonic() + timeout
    while not ready():
        if not record.is_alive():
            raise ApplyError(f"{name} ended as soon as it was started; its log {log} ends with:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise ApplyError(f"{name} is not ready after {timeout:g} s; its log {log} ends with:\n{tail(log)}")
        time.sleep(_PAUSE)


class NotifySocket:
    """The socket on which a daemon of ``Type=notify`` says that it is ready (sd_notify(3))."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        self._socket.bind(str(self._path))
        self._socket.setblocking(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)

    @property
    def path(self) -> str:
        """The value of NOTIFY_SOCKET."""
        return str(self._path)

    def is_ready(self) -> bool:
        """Tell whether ``READY=1`` has come since the last call."""
        with contextlib.suppress(BlockingIOError):
            while True:
                if b"READY=1" in self._socket.recv(8192).split(b"\n"):
                    return True
        return False


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_ANSWER_TIMEOUT)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection
