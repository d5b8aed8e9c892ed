# SPDX-License-Identifier: Apache-2.0
"""The responder of a simulated host: found, not started.

The agent starts it and it outlives the agent, so no record of ours can know it.  It is
known by what it runs and by the host's network namespace, in which it stays whatever
user it has become.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from agent import __version__
from agent.responder.protocol import PROTOCOL, SOCKET_NAME, encode
from agent.sandbox.process import ProcessRecord, start_time

RESPONDER = "responder"
RESTART_TIMEOUT = 15.0  # seconds
_PROGRAM = b"agent.responder"
_ANSWER_TIMEOUT = 1.0


def find(namespace: Path) -> list[ProcessRecord]:
    """Return the responders in a network namespace, the newest first: its predecessor may still be draining."""
    try:
        wanted = namespace.stat()
    except OSError:
        return []
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - hundreds of processes, for each host
        if name.isdigit() and _is_responder(name) and _is_in(name, wanted):
            began = start_time(int(name))
            if began is not None:
                found.append(ProcessRecord(int(name), began))
    return sorted(found, key=lambda record: (record.start_time, record.pid), reverse=True)


def answers(run_dir: Path) -> bool:
    """Tell whether a responder answers what an agent says first, on the socket in its ``run_dir``."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_TIMEOUT)
        connection.connect(str(run_dir / SOCKET_NAME))
        connection.sendall(encode({"type": "hello", "protocol": list(PROTOCOL), "version": __version__}))
        return bool(connection.recv(4096))
    return False


def _is_responder(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - see above
            return _PROGRAM in file.read().split(b"\0")
    except OSError:
        return False


def _is_in(pid: str, wanted: os.stat_result) -> bool:
    try:
        status = os.stat(f"/proc/{pid}/ns/net")  # noqa: PTH116 - see above
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino)
