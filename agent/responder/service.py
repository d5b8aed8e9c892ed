# SPDX-License-Identifier: Apache-2.0
"""The parts of the responder together: what agents tell it, and the green threads that answer instances."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.core.errors import InputError
from agent.core.items import SocketKind
from agent.responder import green
from agent.responder.advertiser import Advertiser
from agent.responder.counters import Counters
from agent.responder.data_file import DataFile
from agent.responder.fd_store import FdStore, Stored
from agent.responder.frames_loop import FramesLoop
from agent.responder.knowledge import METADATA, FramePort, Knowledge
from agent.responder.metadata_server import MetadataServer
from agent.responder.nova_client import NovaClient

LOG = logging.getLogger(__name__)

DRAIN = 30.0  # seconds that open requests get to end
POLL = 0.05  # seconds between looks at whether they have
HOUSEKEEPING = 10.0  # seconds

_PREFIX = "socket "


@dataclass(frozen=True, slots=True, eq=False)
class _Open:
    """A socket that is read, and by whom; ``frames`` None of one for metadata."""

    digest: str
    opened: socket.socket
    task: green.Task
    frames: FramesLoop | None


class Service:
    """Implements ``agent.responder.control.Responder``; one instance a process.

    ``done`` is sent when the process shall end; *drain_seconds* are what open requests
    get to end before.
    """

    def __init__(self, file: DataFile, store: FdStore, drain_seconds: float = DRAIN) -> None:
        self.done = green.Event()
        self._drain_seconds = drain_seconds
        self._file = file
        self._store = store
        self._counters = Counters()
        self._knowledge = Knowledge()
        self._nova = NovaClient()
        self._metadata = MetadataServer(self._knowledge, self._counters, self._nova)
        self._advertiser = Advertiser(self._knowledge.ports, self._send, self._counters)
        self._advertiser.on_add = self._wake_advertiser
        self._added = green.Event()
        self._open: dict[str, _Open] = {}
        self._tasks: list[green.Task] = []
        self._loading = False
        self._drains = False
        self._knowledge.on_port = self._take_port
        self._knowledge.on_alias_lost = self._metadata.close_alias
        self._knowledge.on_service = lambda service: self._nova.configure(service.nova)

    def start(self, stored: Iterable[Stored] = ()) -> None:
        """Serve what an earlier process knew, on the sockets that it has *stored*; then wait for agents."""
        self._loading = True
        for key, digest, data in self._file.load():
            try:
                self._knowledge.put(key, digest, data)
            except InputError as err:
                LOG.warning("%s is not served until an agent says it anew: %s", key, err)
        self._loading = False
        for entry in stored:
            self._adopt(entry)
        self._tasks.append(green.spawn("router advertisements", self._advertise, fatal=True))
        self._tasks.append(green.spawn("housekeeping", self._keep_house, fatal=True))
        LOG.info("serving %d keys on %d sockets", len(self._knowledge.digests), len(self._open))

    def put(self, key: str, digest: str, data: object) -> None:
        """See ``Responder``."""
        self._refuse_if_draining()
        self._knowledge.put(key, digest, data)
        self._file.put(key, digest, data)

    def put_socket(self, key: str, digest: str, kind: str, opened: socket.socket) -> None:
        """See ``Responder``."""
        try:
            self._refuse_if_draining()
            _check(key, kind, opened)
        except InputError:
            opened.close()
            raise
        self._store.put(key, digest, opened.fileno())
        self._read(key, digest, kind, opened)

    def delete(self, key: str) -> None:
        """See ``Responder``."""
        self._refuse_if_draining()
        if key.startswith(_PREFIX):
            self._store.delete(key)
            self._close(self._open.pop(key, None))
        else:
            self._knowledge.delete(key)
            self._file.delete(key)

    def digests(self) -> Mapping[str, str]:
        """See ``Responder``."""
        return self._knowledge.digests | {key: found.digest for key, found in self._open.items()}

    def sockets(self) -> Mapping[str, socket.socket]:
        """See ``Responder``."""
        return {key: found.opened for key, found in self._open.items()}

    def stats(self, port: str | None) -> Mapping[str, object]:
        """See ``Responder``."""
        for found in self._open.values():
            if found.frames is not None:
                found.frames.read_lost()
        record = self._knowledge.record(port) if port is not None else None
        page = None
        if record is not None and port is not None:
            page = record.page(self._metadata.connections_of(f"{METADATA} {port}"))
        return {"counters": self._counters.dump(), "port": page}

    def drain(self) -> None:
        """See ``Responder``."""
        if self._drains:
            return
        self._drains = True
        for task in (*self._tasks, *(found.task for found in self._open.values())):
            task.kill()  # sockets stay open: who has duplicates reads on, and may ask us for more
        self._metadata.drain()
        self._nova.close_idle()
        green.spawn("end", self._end, fatal=True)

    def _end(self) -> None:
        """End the process when no request is open, or when they have had their time."""
        until = time.monotonic() + self._drain_seconds
        green.sleep(POLL)  # whoever had us drain hears that we do
        while self._metadata.open and time.monotonic() < until:
            green.sleep(POLL)
            self._metadata.drain()  # whose answers have been taken meanwhile
        LOG.info("drained; %d connections are cut", self._metadata.open)
        self.done.send(0)

    def _adopt(self, stored: Stored) -> None:
        try:
            opened = socket.socket(fileno=stored.descriptor)
            opened.setblocking(False)
            kind = SocketKind.FRAMES if opened.family == socket.AF_PACKET else SocketKind.METADATA
            _check(stored.key, kind, opened)
        except (InputError, OSError) as err:
            LOG.warning("%s: the stored socket cannot be used: %s", stored.key, err)
            return
        self._store.adopt(stored)
        self._read(stored.key, stored.digest, kind, opened)

    def _read(self, key: str, digest: str, kind: str, opened: socket.socket) -> None:
        """Read *opened*, and the one of that key that was read before no more."""
        frames: FramesLoop | None = None
        if kind == SocketKind.FRAMES:
            frames = FramesLoop(opened, self._knowledge, self._counters)
            task = green.spawn(key, frames.run, fatal=True)
        else:
            task = green.spawn(key, self._metadata.accept_from, opened, fatal=True)
        before = self._open.get(key)
        self._open[key] = _Open(digest, opened, task, frames)
        self._close(before)
        LOG.info("%s is read", key)

    def _close(self, found: _Open | None) -> None:
        if found is not None:
            found.task.kill()
            found.opened.close()

    def _send(self, frame: bytes) -> bool:
        loops = (found.frames for found in self._open.values() if found.frames is not None)
        return any(loop.send(frame) for loop in loops)

    def _take_port(self, port: FramePort) -> None:
        self._advertiser.add(port, known_before=self._loading)

    def _advertise(self) -> None:
        while True:
            self._added = green.Event()
            self._added.wait(timeout=self._advertiser.send_due())

    def _wake_advertiser(self) -> None:
        if not self._added.ready():
            self._added.send()

    def _keep_house(self) -> None:
        while True:
            green.sleep(HOUSEKEEPING)
            for found in self._open.values():
                if found.frames is not None:
                    found.frames.read_lost()
            self._metadata.forget_ports()

    def _refuse_if_draining(self) -> None:
        if self._drains:
            raise InputError("this responder drains: speak to its successor")


def _check(key: str, kind: str, opened: socket.socket) -> None:
    """Raise InputError if *opened* cannot be what it is said to be."""
    if not key.startswith(_PREFIX):
        raise InputError(f"key {key!r:.60} is not a socket's")
    if kind == SocketKind.FRAMES:
        fits = opened.family == socket.AF_PACKET
    elif kind == SocketKind.METADATA:
        fits = bool(opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and opened.family != socket.AF_UNIX
    else:
        raise InputError(f"{key}: kind {kind!r:.40} is not known to this version")
    if not fits:
        raise InputError(f"{key}: the socket is not of kind {kind}")
