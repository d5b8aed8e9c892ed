# SPDX-License-Identifier: Apache-2.0
"""A responder that answers nobody but agents: it speaks the hand-over protocol and remembers, as the real one does.

Each instance is one process of the responder; ``memory`` outlives it, as its file does.
"""

from __future__ import annotations

import array
import os
import socket
import threading
import uuid
from pathlib import Path

import agent
from agent.responder import protocol


class FakeResponder:
    """Listens at *path* on threads of its own until ``end``.

    ``data`` is what it was told by key, ``digests`` of these and of ``sockets``.  With
    ``frames_left`` it answers no more than so many frames, then its connections end.
    With ``silent`` it takes connections and says nothing.  ``refused`` keys are answered with an error.
    """

    def __init__(self, path: Path, memory: dict | None = None, version: str = agent.__version__, major: int = 1):
        self.path = path
        self.generation = uuid.uuid4().hex
        self.digests: dict[str, str] = {}
        self.data: dict[str, object] = {}
        self.kinds: dict[str, str] = {}
        self.sockets: dict[str, socket.socket] = {}
        self.drained = threading.Event()
        self.frames: list[str] = []
        self.silent = False
        self.frames_left: int | None = None
        self.refused: set[str] = set()
        self.pause = threading.Event()  # set: go on
        self.pause.set()
        self._version, self._protocol = version, (major, 0)
        self._memory = memory if memory is not None else {}
        for key, (digest, data) in self._memory.items():
            self.digests[key], self.data[key] = digest, data
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._ended = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def end(self) -> None:
        """End as a process does: all that it holds is closed."""
        self._ended = True
        self.pause.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            with_shutdown(connection)
        for thread in self._threads:
            thread.join(10)
        for opened in self.sockets.values():
            opened.close()
        self.sockets.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_: object):
        if not self._ended:
            self.end()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        decoder = protocol.Decoder()
        try:
            while True:
                data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, protocol.MAX_DESCRIPTORS)
                if not data:
                    return
                if self.silent:
                    continue
                for frame, own in decoder.feed(data, descriptors):
                    self.pause.wait()
                    with self._lock:
                        self._answer(connection, frame, own)
        except OSError:
            return
        finally:
            self._connections.discard(connection)
            connection.close()

    def _answer(self, connection: socket.socket, frame, own) -> None:
        if self.frames_left is not None:
            if self.frames_left == 0:
                raise OSError
            self.frames_left -= 1
        kind, key = frame["type"], frame.get("key")
        self.frames.append(kind if key is None else f"{kind} {key}")
        rights: list = []
        answer: dict[str, object] = {"type": "ack", "seq": frame.get("seq")}
        if key in self.refused:
            answer["error"] = "does not like it"
        elif kind == "hello":
            answer |= {
                "type": "hello",
                "protocol": self._protocol,
                "version": self._version,
                "generation": self.generation,
                "pid": os.getpid(),
            }
        elif kind == "put":
            self.digests[key], self.data[key] = frame["digest"], frame["data"]
            self._memory[key] = (frame["digest"], frame["data"])
        elif kind == "socket":
            self._forget(key)
            (number,) = own
            self.sockets[key] = socket.socket(fileno=os.dup(number))
            self.digests[key], self.kinds[key] = frame["digest"], frame["kind"]
        elif kind == "delete":
            self._forget(key)
            self._memory.pop(key, None)
        elif kind == "digests":
            wanted = frame.get("keys")
            answer |= {
                "type": kind,
                "digests": {k: v for k, v in self.digests.items() if wanted is None or k in wanted},
            }
        elif kind == "sockets":
            answer |= {"type": kind, "keys": list(self.sockets)}
            numbers = [opened.fileno() for opened in self.sockets.values()]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers))] if numbers else []
        elif kind == "stats":
            counted = {"type=discover,family=4,result=offer": self.frames.count("stats")}
            answer |= {"type": kind, "counters": {"dhcp_messages": counted}, "port": {"messages": []}}
        elif kind == "drain":
            self.drained.set()
        for number in own:
            os.close(number)
        octets = protocol.encode(answer)
        sent = connection.sendmsg([octets], rights)
        connection.sendall(octets[sent:])

    def _forget(self, key: str) -> None:
        self.digests.pop(key, None)
        self.data.pop(key, None)
        opened = self.sockets.pop(key, None)
        if opened is not None:
            opened.close()


def with_shutdown(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
