# SPDX-License-Identifier: Apache-2.0
"""One connection of an instance to the metadata service: its socket and its time.

What is said on it is ``agent.metadata.connection``'s.

What the client has not taken yet is never left to the kernel: it would go on sending it
for minutes, to whoever has the alias by then.  So a connection stays open until all is
taken, and one that ends earlier, with this process too, is reset.  So is one whose alias
is lost: nobody is there to acknowledge its end, which would be sent again and again.
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Iterable
from typing import Protocol

from agent.metadata.allowance import Allowance
from agent.metadata.connection import ClientConnection
from agent.metadata.data import MetadataData, ServiceData
from agent.metadata.events import Answered, AskNova, Close, Event, Pause, Send
from agent.metadata.nova import Exchange
from agent.responder import green
from agent.responder.knowledge import MetadataPort
from agent.responder.nova_client import ClientGone

SLICE = 0.002  # seconds that one client may take before others have their turn
IDLE = 30.0  # seconds that a kept connection may be quiet
LINGER, LINGER_OCTETS = 1.0, 1 << 18  # seconds and octets that are thrown away before closing
READ = 1 << 16
WINDOW = 1 << 16  # octets that wait in the kernel, each way: a port has many connections, and the host all of them
LOOK, LONGEST_LOOK = 0.005, 0.2  # seconds between two looks whether the client has taken all

_RESET, _IN_ORDER = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)  # what close does, struct linger
_COUNT = struct.Struct("i")
_TCP_CLOSE = 7  # linux/tcp_states.h: after a reset


class Server(Protocol):
    """What a connection needs of the rest."""

    @property
    def service(self) -> ServiceData:
        """What is the same for all ports, now."""

    def port(self, key: str) -> MetadataPort | None:
        """Return what is known of the port, now."""

    def ask_nova(self, exchange: Exchange, client: Client) -> None:
        """Have Nova answer; raise ClientGone if the client takes it not."""

    def note(self, client: Client, answered: Answered) -> None:
        """Take note that a request was answered."""

    def hold(self, octets: int) -> bool:
        """Count what requests that are not whole hold in memory; tell whether that is bearable."""


class _EndedError(Exception):
    """The connection is over, as it should be."""


class Client:
    """A connection from *alias*, which stands for an address of *port*; `run` is a green thread's."""

    def __init__(
        self, wire: socket.socket, alias: bytes, port: MetadataPort, allowance: Allowance, server: Server
    ) -> None:
        self.task: green.Task | None = None
        self.key = port.key
        self.alias = alias
        self.address = port.aliases[alias]
        self.version = 6 if ":" in self.address else 4
        self._wire = wire
        self._server = server
        self._turn_began = 0.0
        self._until = time.monotonic() + self._patience  # what is awaited must have come by then
        self._is_asking = True  # who has just connected is about to
        self._held = 0  # octets of a request that is not whole
        self._is_lost = False  # nobody is at the other end any more
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WINDOW)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        self._talk = ClientConnection(self.address, self._data, lambda: server.service, allowance, time.monotonic)

    @property
    def idle(self) -> bool:
        """Tell whether everything that was asked is answered, the answer taken, and nothing more has come."""
        if self._is_asking or not self._is_taken():
            return False
        poller = select.poll()  # what select(2) can watch ends at descriptor 1023
        poller.register(self._wire, select.POLLIN)
        return not poller.poll(0)

    def finish(self) -> None:
        """Make the next answer the last."""
        self._talk.finish()

    def lose(self) -> None:
        """Have it reset when it ends."""
        self._is_lost = True

    def run(self) -> None:
        """Serve until either side ends it."""
        try:
            while True:
                self._turn()
        except (_EndedError, ClientGone, OSError):
            return

    def close(self) -> None:
        """Close the socket; what is in it, unread or not taken, resets it."""
        self._let_go()
        if not self._is_lost and self._is_taken():
            self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _IN_ORDER)
        self._wire.close()

    def send(self, data: bytes) -> None:
        """Send the client *data*; OSError if it takes too long."""
        green.send_all(self._wire, data, self._patience)

    @property
    def _patience(self) -> float:
        return self._server.service.limits.patience

    def _turn(self) -> None:
        """Read what has come, and answer."""
        try:
            data = green.recv(self._wire, READ, self._until - time.monotonic())
        except TimeoutError:
            self._do(self._talk.time_out())
            raise _EndedError from None
        self._turn_began = time.monotonic()
        if not self._is_asking:
            self._is_asking, self._until = True, self._turn_began + self._patience
        self._do(self._talk.feed(data))
        if self._talk.idle:
            self._is_asking, self._until = False, time.monotonic() + IDLE
            return
        self._held += len(data)
        if not self._server.hold(len(data)):
            raise _EndedError

    def _data(self) -> MetadataData | None:
        port = self._server.port(self.key)
        return None if port is None else port.data

    def _do(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Send(data):
                    self.send(data)
                case AskNova(exchange):
                    self._server.ask_nova(exchange, self)
                case Answered():
                    self._server.note(self, event)
                    self._rest()
                case Pause(seconds):
                    green.sleep(seconds)
                case Close(linger):
                    if linger:
                        self._linger()
                    self._wait_until_taken()
                    raise _EndedError

    def _rest(self) -> None:
        """Let others have their turn between two requests; the time for the next begins."""
        self._let_go()
        if time.monotonic() - self._turn_began > SLICE:
            green.sleep()
        self._turn_began = time.monotonic()
        self._until = self._turn_began + self._patience

    def _let_go(self) -> None:
        self._server.hold(-self._held)
        self._held = 0

    def _is_taken(self) -> bool:
        """Tell whether the client's kernel has acknowledged all that was sent (SIOCOUTQ of tcp(7)), or has gone."""
        waiting = fcntl.ioctl(self._wire, termios.TIOCOUTQ, bytes(_COUNT.size))
        return not any(waiting) or self._wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE

    def _wait_until_taken(self) -> None:
        """Give the client its time to take what was sent; nothing in the kernel tells when it has."""
        until, rest = time.monotonic() + self._patience, LOOK
        while not self._is_taken() and time.monotonic() < until:
            green.sleep(rest)
            rest = min(2 * rest, LONGEST_LOOK)

    def _linger(self) -> None:
        """Let the client read the answer before a reset can overtake it."""
        until, left = time.monotonic() + LINGER, LINGER_OCTETS
        try:
            self._wire.shutdown(socket.SHUT_WR)
            while left > 0 and (data := green.recv(self._wire, READ, until - time.monotonic())):
                left -= len(data)
        except OSError:
            return
