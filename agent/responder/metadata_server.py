# SPDX-License-Identifier: Apache-2.0
"""Metadata requests over TCP: who connects is known by the alias that the connection comes from.

What is said on a connection is ``agent.metadata.connection``'s; here are sockets, time
and numbers: a client that is slow, or one of too many, costs its own port and no other.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import time
from collections.abc import Iterable, Mapping

from agent.metadata.allowance import Allowance
from agent.metadata.connection import ClientConnection
from agent.metadata.data import MetadataData
from agent.metadata.events import Answered, AskNova, Close, Event, Pause, Send
from agent.responder import green
from agent.responder.counters import Counters
from agent.responder.knowledge import Knowledge, MetadataPort, packed_address
from agent.responder.nova_client import ClientGone, NovaClient

LOG = logging.getLogger(__name__)

AT_ONCE = 6000  # connections of all ports: leaves descriptors for everything else
TURN = 32  # connections accepted before others have their turn
SLICE = 0.002  # seconds that one client may take before others have their turn
IDLE = 30.0  # seconds that a kept connection may be quiet
LINGER, LINGER_OCTETS = 1.0, 1 << 18
READ = 1 << 16
REST = 0.1  # seconds after an error of accept

_RESET = struct.pack("ii", 1, 0)  # linger for 0 seconds: close resets


class _Ended(Exception):  # noqa: N818 - the ordinary end
    """The connection is over."""


class Client:
    """One connection; `run` is a green thread's."""

    def __init__(
        self, wire: socket.socket, alias: bytes, port: MetadataPort, allowance: Allowance, server: MetadataServer
    ) -> None:
        self.task: green.Task | None = None
        self.alias = alias
        self.allowance = allowance
        self._wire = wire
        self._key = port.key
        self._address = address = port.aliases[alias]
        self._version = 6 if ":" in address else 4
        self._server = server
        self._turn_began = 0.0
        self._until = time.monotonic() + server.patience  # what is awaited must have come by then
        self._is_asking = False  # a part of a request has come
        clock, service = time.monotonic, lambda: server.knowledge.service
        self._talk = ClientConnection(address, self._data, service, allowance, clock)

    @property
    def idle(self) -> bool:
        """Tell whether nothing has been asked that is not answered."""
        return not self._is_asking

    def finish(self) -> None:
        """Make the next answer the last."""
        self._talk.finish()

    def run(self) -> None:
        """Serve until either side ends it."""
        try:
            while True:
                try:
                    data = green.recv(self._wire, READ, self._until - time.monotonic())
                except TimeoutError:
                    self._do(self._talk.time_out())
                    return
                self._turn_began = time.monotonic()
                if not self._is_asking:
                    self._is_asking, self._until = True, self._turn_began + self._server.patience
                self._do(self._talk.feed(data))
                if self._talk.idle:
                    self._is_asking, self._until = False, time.monotonic() + IDLE
        except (_Ended, ClientGone, OSError):
            return

    def close(self) -> None:
        """Close the socket; what is in it unread resets it."""
        self._wire.close()

    def _data(self) -> MetadataData | None:
        port = self._server.knowledge.metadata_port(self._key)
        return None if port is None else port.data

    def _do(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Send(data):
                    self._send(data)
                case AskNova(exchange):
                    self._server.nova.run(exchange, self._key, self._send)
                case Answered():
                    self._note(event)
                case Pause(seconds):
                    green.sleep(seconds)
                case Close(linger):
                    if linger:
                        self._linger()
                    raise _Ended

    def _send(self, data: bytes) -> None:
        green.send_all(self._wire, data, self._server.patience)

    def _note(self, answered: Answered) -> None:
        self._server.counters.add("metadata_requests", f"code={answered.status},family={self._version}")
        if answered.status == 429:
            self._server.counters.add("rate_limited", f"what=metadata,family={self._version}")
        port = self._server.knowledge.metadata_port(self._key)
        if port is not None:
            if answered.status == 429:
                port.record.rate_limited += 1
            port.record.metadata = {
                "at": time.time(),
                "address": self._address,
                "method": answered.method,
                "path": answered.target,
                "code": answered.status,
            }
        if time.monotonic() - self._turn_began > SLICE:
            green.sleep()
        self._turn_began = time.monotonic()
        self._until = self._turn_began + self._server.patience  # of the next, should a part of it be there

    def _linger(self) -> None:
        """Let the client read the answer before a reset can overtake it."""
        until, left = time.monotonic() + LINGER, LINGER_OCTETS
        try:
            self._wire.shutdown(socket.SHUT_WR)
            while left > 0 and (data := green.recv(self._wire, READ, until - time.monotonic())):
                left -= len(data)
        except OSError:
            return


class MetadataServer:
    """Accepts connections and knows those that are open."""

    def __init__(self, knowledge: Knowledge, counters: Counters, nova: NovaClient) -> None:
        self.knowledge = knowledge
        self.counters = counters
        self.nova = nova
        self._clients: dict[bytes, set[Client]] = {}  # by alias
        self._allowances: dict[tuple[str, int], Allowance] = {}
        self._open = 0
        counters.watch("connections", self._states)

    @property
    def open(self) -> int:
        """How many connections are open."""
        return self._open

    @property
    def patience(self) -> float:
        """How many seconds a client has for a request, and for what it is sent."""
        return self.knowledge.service.limits.patience

    def accept_from(self, listener: socket.socket) -> None:
        """Serve who connects, until the thread is ended."""
        while True:
            try:
                for _ in range(TURN):
                    self._accept(listener)
                green.sleep()
            except BlockingIOError:
                green.wait_readable(listener)
            except OSError as err:
                if err.errno != errno.ECONNABORTED:
                    LOG.warning("metadata: no connection can be accepted: %s", err.strerror)
                    green.sleep(REST)

    def close_alias(self, alias: bytes) -> None:
        """End all connections from *alias*; they are closed when this returns."""
        for client in list(self._clients.get(alias, ())):
            self._end(client)

    def forget_ports(self) -> None:
        """Forget what ports have asked that are not known any more."""
        gone = [where for where in self._allowances if self.knowledge.metadata_port(where[0]) is None]
        for where in gone:
            del self._allowances[where]

    def connections_of(self, aliases: Iterable[bytes]) -> int:
        """Return how many connections from *aliases* are open."""
        return sum(len(self._clients.get(alias, ())) for alias in aliases)

    def drain(self) -> None:
        """End what is idle at once, and all else with its next answer."""
        for clients in list(self._clients.values()):
            for client in list(clients):
                client.finish()
                if client.idle:
                    self._end(client)

    def _accept(self, listener: socket.socket) -> None:
        wire, peer = listener.accept()
        try:
            alias = packed_address(str(peer[0]).partition("%")[0])
            port = self.knowledge.aliases.get(alias)
            if port is None:
                self.counters.add("dropped_frames", "reason=unknown-alias")
                _reset(wire)
                return
            wire.setblocking(False)
            self._admit(wire, alias, port)
        except BaseException:
            wire.close()
            raise

    def _admit(self, wire: socket.socket, alias: bytes, port: MetadataPort) -> None:
        version = 6 if ":" in port.aliases[alias] else 4
        allowance = self._allowances.setdefault((port.key, version), Allowance())
        if self._open >= AT_ONCE or not allowance.connect(self.knowledge.service.limits):
            self.counters.add("rate_limited", f"what=connections,family={version}")
            port.record.rate_limited += 1
            _reset(wire)
            return
        client = Client(wire, alias, port, allowance, self)
        self._clients.setdefault(alias, set()).add(client)
        self._open += 1
        client.task = green.spawn(f"metadata of {port.key}", self._serve, client)

    def _serve(self, client: Client) -> None:
        try:
            client.run()
        finally:
            self._release(client)

    def _end(self, client: Client) -> None:
        if client.task is not None:
            client.task.kill()
        self._release(client)  # a thread that has not begun does not end either

    def _release(self, client: Client) -> None:
        clients = self._clients.get(client.alias, set())
        if client not in clients:
            return
        clients.discard(client)
        if not clients:
            del self._clients[client.alias]
        client.close()
        client.allowance.disconnect()
        self._open -= 1

    def _states(self) -> Mapping[str, int]:
        return {"state=open": self._open}


def _reset(wire: socket.socket) -> None:
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    wire.close()
