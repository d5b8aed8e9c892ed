# SPDX-License-Identifier: Apache-2.0
"""Connections to Nova's metadata API: kept while they are good, over TLS if it wants that, never too many."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from agent.core.errors import InputError
from agent.metadata.data import NovaData
from agent.metadata.nova import Endpoint, Exchange, endpoint
from agent.responder import green
from agent.responder.resolver import Resolver

LOG = logging.getLogger(__name__)

AT_ONCE = 128  # questions
AT_ONCE_PER_PORT = 8  # so that a port that asks much leaves room for the others
KEPT = 16  # idle connections
KEPT_SECONDS = 20.0  # less than web servers wait
READ = 1 << 16

_T = TypeVar("_T")


class ClientGone(Exception):  # noqa: N818 - nobody's error
    """The client takes no more of the answer."""


@dataclass(slots=True)
class _Link:
    """A connection to Nova; ``used`` tells that it has served before, and may have been closed by Nova since."""

    wire: socket.socket
    used: bool = False
    since: float = 0.0


class NovaClient:
    """Asks Nova as `configure` has said last."""

    def __init__(self) -> None:
        self._resolver = Resolver()
        self._nova: NovaData | None = None
        self._endpoint: Endpoint | None = None
        self._tls: ssl.SSLContext | None = None
        self._idle: list[_Link] = []
        self._asking: Counter[str] = Counter()
        self._failing = False

    def configure(self, nova: NovaData | None) -> None:
        """Ask there from now on; questions that are under way end where they began.

        Raises InputError, and changes nothing, for a URL or a certificate that cannot be used.
        """
        if nova == self._nova:
            return
        where = endpoint(nova.url) if nova is not None else None
        tls = _tls_context(nova) if nova is not None and where is not None and where.scheme == "https" else None
        self._nova, self._endpoint, self._tls = nova, where, tls
        self.close_idle()

    def close_idle(self) -> None:
        """Let go of all connections that nobody uses."""
        for link in self._idle:
            link.wire.close()
        self._idle.clear()

    def run(self, exchange: Exchange, port: str, send: Callable[[bytes], None]) -> None:
        """Ask Nova for *port* and give *send* what it answers; raise ClientGone if that raises OSError.

        Whatever Nova does, the client gets an answer, or its connection an end.
        """
        if self._asking[port] >= AT_ONCE_PER_PORT or self._asking.total() >= AT_ONCE:
            _give_up(exchange, "too many questions are waiting for the metadata service", send)
            return
        self._asking[port] += 1
        try:
            self._ask(exchange, send)
            self._say(None)
        except OSError as err:
            self._say(err)
            _give_up(exchange, "the metadata service does not answer", send)
        finally:
            self._asking[port] -= 1
            if not self._asking[port]:
                del self._asking[port]

    def _ask(self, exchange: Exchange, send: Callable[[bytes], None]) -> None:
        """Ask, once more if a connection that was kept turns out to be closed; OSError if Nova is not to be had."""
        nova, where, tls = self._nova, self._endpoint, self._tls
        if nova is None or where is None:
            raise OSError("no metadata service is set up")
        while True:
            # What may not be asked twice is not asked on a connection that Nova may have closed.
            kept = self._take_idle() if exchange.retriable else None
            link = kept or _Link(self._connect(where, tls, nova.timeout))
            try:
                _converse(link, exchange, nova.timeout, send)
            except BaseException as err:
                link.wire.close()
                if isinstance(err, OSError) and not isinstance(err, TimeoutError) and link.used and exchange.retriable:
                    continue  # Nova has closed it while nobody used it
                raise
            self._keep(link, exchange, tls)
            return

    def _take_idle(self) -> _Link | None:
        now = time.monotonic()
        while self._idle:
            link = self._idle.pop()
            if now - link.since < KEPT_SECONDS:
                return link
            link.wire.close()
        return None

    def _keep(self, link: _Link, exchange: Exchange, tls: ssl.SSLContext | None) -> None:
        if exchange.reusable and len(self._idle) < KEPT and tls is self._tls:
            link.used, link.since = True, time.monotonic()
            self._idle.append(link)
        else:
            link.wire.close()

    def _connect(self, where: Endpoint, tls: ssl.SSLContext | None, seconds: float) -> socket.socket:
        deadline = time.monotonic() + seconds
        addresses = self._resolver.resolve(where.host, where.port, seconds)
        problem = OSError(f"{where.host} has no address")
        for tried, (family, address) in enumerate(addresses):
            share = (deadline - time.monotonic()) / (len(addresses) - tried)
            wire = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            try:
                _connect(wire, address, share)
                return _start_tls(wire, tls, where.host, share) if tls is not None else wire
            except OSError as err:
                problem = err
                wire.close()
            except BaseException:
                wire.close()
                raise
        raise problem

    def _say(self, problem: OSError | None) -> None:
        """Log when Nova goes away and when it is back, and no more."""
        if problem is not None and not self._failing:
            LOG.warning("the metadata service does not answer: %s", problem or type(problem).__name__)
        elif problem is None and self._failing:
            LOG.info("the metadata service answers again")
        self._failing = problem is not None


def _converse(link: _Link, exchange: Exchange, seconds: float, send: Callable[[bytes], None]) -> None:
    _send(link.wire, exchange.request(), seconds)
    while not exchange.finished:
        data = _receive(link.wire, seconds)
        if not data and link.used and exchange.retriable:
            raise ConnectionResetError("a kept connection was closed")
        # Head and body of most answers come at once, and go on at once: a packet and a system call less.
        if octets := b"".join(part.data for part in exchange.receive(data)):
            _forward(octets, send)


def _give_up(exchange: Exchange, reason: str, send: Callable[[bytes], None]) -> None:
    for part in exchange.give_up(reason):
        _forward(part.data, send)


def _forward(data: bytes, send: Callable[[bytes], None]) -> None:
    try:
        send(data)
    except OSError as err:
        raise ClientGone from err


def _connect(wire: socket.socket, address: tuple[str, int] | tuple[str, int, int, int], seconds: float) -> None:
    try:
        wire.connect(address)
    except BlockingIOError:
        green.wait_writable(wire, seconds)
        number = wire.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number)) from None
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _start_tls(wire: socket.socket, context: ssl.SSLContext, host: str, seconds: float) -> socket.socket:
    secured = context.wrap_socket(wire, server_hostname=host, do_handshake_on_connect=False)
    try:
        _when_ready(secured, secured.do_handshake, seconds)
    except BaseException:
        secured.close()
        raise
    return secured


def _send(wire: socket.socket, data: bytes, seconds: float) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[wire.send(view) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            green.wait_writable(wire, seconds)
        except ssl.SSLWantReadError:
            green.wait_readable(wire, seconds)


def _receive(wire: socket.socket, seconds: float) -> bytes:
    return _when_ready(wire, lambda: wire.recv(READ), seconds)


def _when_ready(wire: socket.socket, call: Callable[[], _T], seconds: float) -> _T:
    """Return what *call* does on *wire* as soon as it can; TimeoutError if it could not for so many *seconds*."""
    while True:
        try:
            return call()
        except (BlockingIOError, ssl.SSLWantReadError):
            green.wait_readable(wire, seconds)
        except ssl.SSLWantWriteError:
            green.wait_writable(wire, seconds)


def _tls_context(nova: NovaData) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=nova.ca or None)
        if nova.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if nova.certificate:
            _load_certificate(context, nova)
    except (OSError, ValueError) as err:
        raise InputError(f"metadata service: its certificates cannot be used: {err}") from None
    return context


def _load_certificate(context: ssl.SSLContext, nova: NovaData) -> None:
    """Give *context* our certificate; it reads files only, and this one is nowhere but in memory."""
    descriptor = os.memfd_create("certificate")
    with os.fdopen(descriptor, "wb") as file:
        file.write(f"{nova.certificate}\n{nova.key}\n".encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
