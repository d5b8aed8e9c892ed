# SPDX-License-Identifier: Apache-2.0
"""One connection of a client: octets in, answers out, no sockets and no clock of its own.

The loop that owns the socket reads at most 64 KiB, gives it to `ClientConnection.feed`
and does what each event says before it asks for the next one.  So nothing is made that
has not been sent, a pipelined request waits until the one before is answered, and what a
connection holds is bounded: a head, a body of ``Limits.body`` octets, one read.

Who asks is given by whoever accepted the connection, from the alias that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import h11

from agent.metadata import answers
from agent.metadata.allowance import Allowance
from agent.metadata.answers import Answer, RequestError
from agent.metadata.data import MetadataData, ServiceData
from agent.metadata.dispatch import Asked, decide
from agent.metadata.events import Answered, AskNova, Close, Event, Pause, Send
from agent.metadata.incoming import Body, Incoming, read_framing
from agent.metadata.nova import Exchange, Question
from agent.metadata.sending import send_answer

LONGEST_PAUSE: Final = 1.0  # seconds
OCTETS_OF_ONE: Final = 2048  # a head that is longer counts as more requests: it takes as long as they
_NAME_LIMIT = 16  # octets of a method that are worth a look


@dataclass(frozen=True, slots=True)
class _Request:
    """A request whose head has come; ``wait`` is how many seconds it is too early."""

    http: h11.Connection
    head: h11.Request
    body: Body | None
    wait: float


class ClientConnection:
    """The server's half of HTTP/1.1 (RFC 9112) towards one client.

    ``address`` is the instance's, ``port`` and ``service`` what is known now, ``clock``
    monotonic seconds.  `feed` is given what was read; `time_out` ends a request that did
    not come in time.  After `finish` the answer under way or the next one is the last.
    """

    def __init__(
        self,
        address: str,
        port: Callable[[], MetadataData | None],
        service: Callable[[], ServiceData],
        allowance: Allowance,
        clock: Callable[[], float],
    ) -> None:
        self._address, self._port, self._service = address, port, service
        self._allowance, self._clock = allowance, clock
        self._incoming = Incoming()
        self._request: _Request | None = None  # that is coming in
        self._closed = self._last = False

    @property
    def idle(self) -> bool:
        """Whether no part of a request has come: then the connection may be ended at any time."""
        return self._request is None and not self._incoming.buffer

    def finish(self) -> None:
        """Make the next answer the last one, and say so in it."""
        self._last = True

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield what is to be done because of *data*, which is empty when the client has ended its half.

        All events have to be taken and done, in order, up to the first `Close`.
        """
        if self._closed:
            return
        if not data:
            yield self._close()
            return
        self._incoming.buffer += data
        try:
            while not self._closed and (request := self._begun()):
                if request.http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                    yield Send(request.http.send(go_on))
                if request.body is not None and not request.body.take(self._incoming.buffer):
                    return
                yield from self._respond(request)
        except RequestError as error:
            yield from self._refuse(error)

    def time_out(self) -> Iterator[Event]:
        """Yield what is to be done when the client has not sent a whole request in time, or no further one."""
        if self._closed:
            return
        if self.idle:
            yield self._close()
        else:
            yield from self._refuse(RequestError(408, "the request did not come in time"))

    def _begun(self) -> _Request | None:
        """Return the request whose head has come."""
        if self._request is None and (head := self._incoming.take_head()) is not None:
            limits = self._service().limits
            cost = 1 + len(head) // OCTETS_OF_ONE
            wait = self._allowance.take(limits, self._clock(), cost)
            body = read_framing(head, limits.body)
            http = h11.Connection(h11.SERVER)  # a new one each time: it sees only what has been looked through
            http.receive_data(head)
            self._request = _Request(http, _read_head(http), body, wait)
        return self._request

    def _respond(self, request: _Request) -> Iterator[Event]:
        head = request.head
        decision = self._decide(request)
        self._request = None
        last = self._last or _is_last(head)
        if isinstance(decision, Answer):
            status = decision.status
            yield from send_answer(head.method, decision, last=last)
        else:
            exchange = Exchange(decision, request.http, last=last)
            yield AskNova(exchange)
            yield from exchange.give_up("the metadata service was not asked")
            status, last = exchange.status, last or exchange.broken
        yield _answered(head, status)
        if request.wait:
            yield Pause(min(request.wait, LONGEST_PAUSE))
        if last or self._last:
            yield self._close(linger=True)

    def _decide(self, request: _Request) -> Answer | Question:
        if request.wait:
            return answers.too_many(request.wait)
        head = request.head
        if head.http_version not in (b"1.0", b"1.1"):
            raise RequestError(505, "HTTP/1.1 is spoken here")
        body = b"" if request.body is None else bytes(request.body.octets)
        asked = Asked(head.method, head.target, tuple(head.headers), body)
        return decide(asked, self._address, self._port(), self._service())

    def _refuse(self, error: RequestError) -> Iterator[Event]:
        """Answer what cannot go on, and end the connection: where the next request begins is not known."""
        head = self._request.head if self._request is not None else None
        self._request = None
        answer = answers.refuse(error.status, str(error))
        yield from send_answer(head.method if head else b"", answer, last=True)
        yield _answered(head, answer.status)
        yield self._close(linger=True)

    def _close(self, *, linger: bool = False) -> Close:
        self._closed = True
        return Close(linger)


def _read_head(http: h11.Connection) -> h11.Request:
    try:
        event = http.next_event()
    except h11.RemoteProtocolError:
        raise RequestError(400, "this is no HTTP request") from None
    if not isinstance(event, h11.Request):
        raise RequestError(400, "there is no request")
    return event


def _is_last(request: h11.Request) -> bool:
    """Tell whether the client wants no other answer on this connection; of HTTP/1.0 none is kept."""
    if request.http_version == b"1.0":
        return True
    options = (value for name, value in request.headers if name == b"connection")
    return any(b"close" in map(bytes.strip, value.lower().split(b",")) for value in options)


def _answered(request: h11.Request | None, status: int) -> Answered:
    if request is None:
        return Answered("", "", status)
    return Answered(request.method[:_NAME_LIMIT].decode("ascii"), request.target.decode("ascii"), status)
