# SPDX-License-Identifier: Apache-2.0
"""Metadata requests over TCP: who connects is known by the alias that the connection comes from.

Here are numbers: of connections, of a port and of all, how fast they come, what they
hold.  Who wants too much costs its own port, and no other.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import time
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus

from agent.metadata.allowance import Allowance
from agent.metadata.data import Limits, ServiceData
from agent.metadata.events import Answered
from agent.metadata.nova import Exchange
from agent.responder import green
from agent.responder.counters import Counters
from agent.responder.flood_filter import SOURCE4, SOURCE6, FloodFilter
from agent.responder.knowledge import Knowledge, MetadataPort, packed_address
from agent.responder.metadata_client import Client
from agent.responder.nova_client import NovaClient

LOG = logging.getLogger(__name__)

AT_ONCE = 4096  # connections of all ports
HELD = 32 << 20  # octets of all requests that are not whole
TURN = 32  # connections accepted before others have their turn
REST = 0.1  # seconds after an error of accept

_RESET = struct.pack("ii", 1, 0)  # linger for 0 seconds: close resets


class _Ledger:
    """What a port has open over one family, the oldest first, and what it still may."""

    def __init__(self) -> None:
        self.clients: dict[Client, None] = {}
        self.requests = Allowance()
        self.connects = Allowance()


class MetadataServer:
    """Accepts connections and knows those that are open; it is their ``Server``."""

    def __init__(self, knowledge: Knowledge, counters: Counters, nova: NovaClient) -> None:
        self._knowledge = knowledge
        self._counters = counters
        self._nova = nova
        self._ledgers: dict[tuple[str, int], _Ledger] = {}  # by key and family
        self._held = 0
        self.open = 0  # connections
        counters.watch("connections", self._states)

    # What agents cause.

    def accept_from(self, listener: socket.socket) -> None:
        """Serve who connects, until the thread is ended."""
        flood = FloodFilter(listener, SOURCE6 if listener.family == socket.AF_INET6 else SOURCE4)
        flood.clear()
        try:
            while True:
                flood.expire(time.monotonic())
                self._accept_some(listener, flood)
        finally:
            flood.clear()

    def close_alias(self, key: str, alias: bytes) -> None:
        """End all connections of a port from *alias*; nothing is left of them, nor in the kernel, when this returns."""
        for version in (4, 6):
            ledger = self._ledgers.get((key, version))
            for client in list(ledger.clients) if ledger is not None else ():
                if client.alias == alias:
                    client.lose()
                    self._end(client)

    def connections_of(self, key: str) -> int:
        """Return how many connections of a port are open."""
        return sum(len(self._ledgers[key, version].clients) for version in (4, 6) if (key, version) in self._ledgers)

    def forget_ports(self) -> None:
        """Forget what ports have asked that are not known any more."""
        for where in [where for where in self._ledgers if self._knowledge.metadata_port(where[0]) is None]:
            if not self._ledgers[where].clients:
                del self._ledgers[where]

    def drain(self) -> None:
        """End what is idle at once, and all else with its next answer."""
        for client in [client for ledger in self._ledgers.values() for client in ledger.clients]:
            client.finish()
            if client.idle:
                self._end(client)

    # What connections ask.

    @property
    def service(self) -> ServiceData:
        """See ``Server``."""
        return self._knowledge.service

    def port(self, key: str) -> MetadataPort | None:
        """See ``Server``."""
        return self._knowledge.metadata_port(key)

    def ask_nova(self, exchange: Exchange, client: Client) -> None:
        """See ``Server``."""
        self._nova.run(exchange, client.key, client.send)

    def note(self, client: Client, answered: Answered) -> None:
        """See ``Server``."""
        self._counters.add("metadata_requests", f"code={answered.status},family={client.version}")
        port = self.port(client.key)
        if answered.status == HTTPStatus.TOO_MANY_REQUESTS:
            self._refuse("metadata", client.version, port)
        if port is not None:
            port.record.metadata = {
                "at": time.time(),
                "address": client.address,
                "method": answered.method,
                "path": answered.target,
                "code": answered.status,
            }

    def hold(self, octets: int) -> bool:
        """See ``Server``."""
        self._held += octets
        return self._held <= HELD

    # How connections come and go.

    def _accept_some(self, listener: socket.socket, flood: FloodFilter) -> None:
        try:
            for _ in range(TURN):
                wire, peer = listener.accept()
                self._take(wire, str(peer[0]), flood)
            green.sleep()
        except BlockingIOError:
            until = flood.next_end
            try:
                green.wait_readable(listener, None if until is None else until - time.monotonic())
            except TimeoutError:
                return  # somebody may connect again
        except OSError as err:
            if err.errno != errno.ECONNABORTED:
                LOG.warning("metadata: no connection can be accepted: %s", err.strerror)
                green.sleep(REST)

    def _take(self, wire: socket.socket, peer: str, flood: FloodFilter) -> None:
        """Serve a connection, or reset it."""
        alias = packed_address(peer.partition("%")[0])
        port = self._knowledge.aliases.get(alias)
        if port is None:
            self._counters.add("dropped_frames", "reason=unknown-alias")
        elif self._admits(port, 6 if ":" in port.aliases[alias] else 4, alias, flood):
            wire.setblocking(False)
            self._begin(wire, alias, port)
            return
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        wire.close()

    def _admits(self, port: MetadataPort, version: int, alias: bytes, flood: FloodFilter) -> bool:
        """Tell whether the port may have one more connection, and count it."""
        now, limits = time.monotonic(), self.service.limits
        ledger = self._ledgers.get((port.key, version))
        if ledger is None:
            ledger = self._ledgers[port.key, version] = _Ledger()
        too_fast = ledger.connects.take(_connects(limits), now) > 0
        if not too_fast and (self.open < AT_ONCE or self._make_room(ledger)) and ledger.requests.connect(limits):
            return True
        flood.note(alias[-4:], now)
        self._refuse("connections", version, port)
        return False

    def _make_room(self, ledger: _Ledger) -> bool:
        """End the oldest connection of whoever has most; False if that is who asks for one more."""
        most = max(self._ledgers.values(), key=lambda found: len(found.clients))
        if len(most.clients) <= len(ledger.clients) + 1:
            return False
        self._end(next(iter(most.clients)))
        return True

    def _begin(self, wire: socket.socket, alias: bytes, port: MetadataPort) -> None:
        version = 6 if ":" in port.aliases[alias] else 4
        ledger = self._ledgers[port.key, version]
        client = Client(wire, alias, port, ledger.requests, self)
        ledger.clients[client] = None
        self.open += 1
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
        ledger = self._ledgers[client.key, client.version]
        if client in ledger.clients:
            del ledger.clients[client]
            client.close()
            ledger.requests.disconnect()
            self.open -= 1

    def _refuse(self, what: str, version: int, port: MetadataPort | None) -> None:
        self._counters.add("rate_limited", f"what={what},family={version}")
        if port is not None:
            port.record.rate_limited += 1

    def _states(self) -> Mapping[str, int]:
        return {"state=open": self.open}


@lru_cache(maxsize=4)
def _connects(limits: Limits) -> Limits:
    return limits.connects
