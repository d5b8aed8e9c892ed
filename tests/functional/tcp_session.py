# SPDX-License-Identifier: Apache-2.0
"""A TCP session that says something every 10 ms.  Runs as a program inside an instance.

``tcp_session.py serve PORT`` prints ``listening``, accepts one connection, says who it is
with, and sends back every line.  ``tcp_session.py talk ADDRESS PORT`` prints ``talking``
once it is connected, sends a numbered line every 10 ms until its standard input closes,
waits up to 10 seconds for the rest, and prints what it saw as JSON.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

INTERVAL = 0.01
REST = 10.0


def serve(port: int) -> None:
    with socket.create_server(("", port)) as server:
        print("listening", flush=True)
        connection, (address, *_) = server.accept()
        with connection:
            connection.sendall(f"{address}\n".encode())
            while data := connection.recv(65536):
                connection.sendall(data)


def talk(address: str, port: int) -> dict[str, object]:
    connection = socket.create_connection((address, port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = connection.makefile("rb")
    peer = reader.readline().decode().strip()
    print("talking", flush=True)
    connection.setblocking(False)
    sent, returned, rest, gap, error = 0, 0, b"", 0.0, ""
    last = due = time.monotonic()
    end: float | None = None
    while end is None or (time.monotonic() < end and (returned < sent or not sent)):  # one line at least
        readable = select.select([connection, *([sys.stdin] if end is None else [])], [], [], INTERVAL / 2)[0]
        if sys.stdin in readable:
            end = time.monotonic() + REST
        try:
            if connection in readable:
                data = connection.recv(65536)
                if not data:
                    error = "closed by the other end"
                    break
                *lines, rest = (rest + data).split(b"\n")
                returned += len(lines)
                now = time.monotonic()
                gap, last = max(gap, now - last), now
            if (end is None or not sent) and time.monotonic() >= due:
                connection.send(f"{sent}\n".encode())
                sent += 1
                due += INTERVAL
        except BlockingIOError:
            due += INTERVAL  # the buffer is full: nothing has come through for a while
        except OSError as err:
            error = str(err)
            break
    return {"sent": sent, "returned": returned, "longest_gap": gap, "peer": peer, "error": error}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        json.dump(talk(sys.argv[2], int(sys.argv[3])), sys.stdout)
