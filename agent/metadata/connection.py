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
from typing import Final

import h11

from agent.metadata import answers
from agent.metadata.allowance import Allowance
from agent.metadata.answers import Answer, RequestError
from agent.metadata.data import Limits, MetadataData, ServiceData
from agent.metadata.dispatch import Asked, decide
from agent.metadata.events import Answered, AskNova, Close, Event, Pause, Send
from agent.metadata.head import HeadReader, check_framing
from agent.metadata.nova import Exchange, Question
from agent.metadata.sending import send_answer

LONGEST_PAUSE: Final = 1.0  # seconds
_LAST_CHUNK = b"\r\n\r\n"  # what comes behind its size
_NAME_LIMIT = 16  # octets of a method that are worth a look
_FRAMING_ROOM = 128 << 10  # octets of chunk headers, and of further requests, that may come with a body


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
        self._input = HeadReader()
        self._http: h11.Connection | None = None  # of the request that is coming in
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._taken = 0  # octets behind the head
        self._tail = b""  # the last of them
        self._wait = 0.0
        self._closed = self._last = False

    @property
    def idle(self) -> bool:
        """Whether no part of a request has come: then the connection may be ended at any time."""
        return self._http is None and not self._input

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
        self._input.feed(data)
        try:
            while not self._closed and self._begin():
                http, request = self._http, self._request
                assert http is not None and request is not None  # noqa: PT018, S101 - a request has begun
                if http.they_are_waiting_for_100_continue:
                    yield Send(http.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")))
                if not self._has_body(http):
                    return
                yield from self._respond(http, request)
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

    def _begin(self) -> bool:
        """Tell whether the head of a request has come."""
        if self._http is not None:
            return True
        head = self._input.take()
        if head is None:
            return False
        limits = self._service().limits
        self._wait = self._allowance.take(limits, self._clock())
        check_framing(head)
        self._http = http = h11.Connection(h11.SERVER)  # a new one each time: it sees only what has been checked
        http.receive_data(head)
        event = _next_event(http)
        if not isinstance(event, h11.Request):
            raise RequestError(400, "there is no request")
        self._request = event
        self._taken = 0
        self._tail = b""
        _check_request(event, limits)
        return True

    def _has_body(self, http: h11.Connection) -> bool:
        """Take in the body as far as it has come; tell whether all of it has."""
        limit = self._service().limits.body
        while True:
            event = _next_event(http)
            if isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._end(event, http.trailing_data[0])
                return True
            else:
                more = self._input.take_rest()
                if not more:
                    return False
                self._taken += len(more)
                self._tail = self._tail[-len(_LAST_CHUNK) :] + more
                http.receive_data(more)
            if len(self._body) > limit or self._taken > 2 * limit + _FRAMING_ROOM:
                raise RequestError(413, f"the body is longer than {limit} octets, or in too many chunks")

    def _end(self, event: h11.EndOfMessage, rest: bytes) -> None:
        """Put back what came behind a body; h11 would let bare line feeds end one, too."""
        chunked = self._request is not None and any(name == b"transfer-encoding" for name, _ in self._request.headers)
        if event.headers or (chunked and not self._tail[: len(self._tail) - len(rest)].endswith(_LAST_CHUNK)):
            raise RequestError(400, "the body does not end as it should")
        self._tail = b""
        self._input.feed(rest)

    def _respond(self, http: h11.Connection, request: h11.Request) -> Iterator[Event]:
        decision = self._decide(request)
        self._body.clear()
        self._http = self._request = None
        last = self._last or _is_last(request)
        if isinstance(decision, Answer):
            status = decision.status
            yield from send_answer(request.method, decision, last=last)
        else:
            exchange = Exchange(decision, http, last=last)
            yield AskNova(exchange)
            yield from exchange.give_up("the metadata service was not asked")
            status, last = exchange.status, last or exchange.broken
        yield _answered(request, status)
        if self._wait:
            yield Pause(min(self._wait, LONGEST_PAUSE))
        if last or self._last:
            yield self._close(linger=True)

    def _decide(self, request: h11.Request) -> Answer | Question:
        if self._wait:
            return answers.too_many(self._wait)
        asked = Asked(request.method, request.target, tuple(request.headers), bytes(self._body))
        return decide(asked, self._address, self._port(), self._service())

    def _refuse(self, error: RequestError) -> Iterator[Event]:
        """Answer what cannot go on, and end the connection: where the next request begins is not known."""
        request = self._request
        self._http = self._request = None
        answer = answers.refuse(error.status, str(error))
        yield from send_answer(request.method if request else b"", answer, last=True)
        yield _answered(request, answer.status)
        yield self._close(linger=True)

    def _close(self, *, linger: bool = False) -> Close:
        self._closed = True
        return Close(linger)


def _check_request(request: h11.Request, limits: Limits) -> None:
    if request.http_version[:1] != b"1":
        raise RequestError(505, "HTTP/1.1 is spoken here")
    for name, value in request.headers:
        if name == b"content-length" and int(value) > limits.body:
            raise RequestError(413, f"the body is longer than {limits.body} octets")
        if name == b"transfer-encoding" and request.http_version == b"1.0":
            raise RequestError(400, "HTTP/1.0 has no transfer codings")


def _is_last(request: h11.Request) -> bool:
    """Tell whether the client wants no other answer on this connection; of HTTP/1.0 none is kept."""
    if request.http_version == b"1.0":
        return True
    options = (value for name, value in request.headers if name == b"connection")
    return any(b"close" in map(bytes.strip, value.lower().split(b",")) for value in options)


def _next_event(http: h11.Connection) -> object:
    try:
        return http.next_event()
    except h11.RemoteProtocolError as err:
        raise RequestError(
            err.error_status_hint if err.error_status_hint == 431 else 400, "this is no HTTP request"
        ) from None


def _answered(request: h11.Request | None, status: int) -> Answered:
    if request is None:
        return Answered("", "", status)
    return Answered(request.method[:_NAME_LIMIT].decode("ascii"), request.target.decode("ascii"), status)
