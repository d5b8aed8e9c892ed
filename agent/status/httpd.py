# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 server for a few local clients: the status socket and /metrics.

One thread accepts, each connection gets a thread of its own and one answer.  What a
client may cost is bounded: connections per listener, bytes of head and body, seconds
for sending its request and for taking its answer.  A client that misbehaves gets an
error or is dropped, and leaves nothing in the log.

The standard library's server bounds neither the time of a whole request nor the
number of its threads, which is why it is not used.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote

LOG = logging.getLogger(__name__)

MAX_HEAD = 8 * 1024  # bytes of request line and headers
MAX_BODY = 16 * 1024  # bytes; the largest body that we take is a few words
REQUEST_SECONDS = 5.0  # for the whole request to arrive
ANSWER_SECONDS = 30.0  # for the client to take the whole answer
JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked.  ``query`` holds the last value of each name; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """What it gets."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response]
ErrorBody = Callable[[int, str], bytes]


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, who answers there, and how many connections may be open at once."""

    socket: socket.socket
    handler: Handler
    error_body: ErrorBody
    slots: threading.BoundedSemaphore


def listener(sock: socket.socket, handler: Handler, error_body: ErrorBody, connections: int) -> Listener:
    """Return a ``Listener``; *error_body* makes the body of the answers that the server gives itself."""
    sock.setblocking(False)
    return Listener(sock, handler, error_body, threading.BoundedSemaphore(connections))


class HttpServer:
    """Serves *listeners* from ``start`` to ``stop``; owns their sockets."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        """Start to answer; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections; answers on their way are left to end by themselves."""
        os.write(self._wake_write, b"x")
        self._thread.join()
        for each in self._listeners:
            each.socket.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            for each in self._listeners:
                selector.register(each.socket, selectors.EVENT_READ, each)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    self._accept(key.data)

    def _accept(self, where: Listener) -> None:
        try:
            connection, _ = where.socket.accept()
        except BlockingIOError:  # the client has left already
            return
        except OSError as err:  # no descriptors left: try again when some have been closed
            LOG.warning("status: cannot accept a connection: %s", err)
            time.sleep(0.1)
            return
        if not where.slots.acquire(blocking=False):
            with connection, contextlib.suppress(OSError):
                connection.settimeout(0)
                body = where.error_body(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; try again")
                connection.send(_render(Response(HTTPStatus.SERVICE_UNAVAILABLE, body, headers={"Retry-After": "1"})))
            return
        try:
            threading.Thread(target=_serve, args=(connection, where), name="status-client", daemon=True).start()
        except RuntimeError as err:  # the unit's TasksMax
            LOG.warning("status: cannot serve a connection: %s", err)
            connection.close()
            where.slots.release()


class _RefusedError(Exception):
    """The request is not answered as asked."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


def _serve(connection: socket.socket, where: Listener) -> None:
    # Whatever a client does with its connection (OSError, a timeout) concerns nobody else.
    try:
        with connection, contextlib.suppress(OSError):
            response, head_only = _answer(connection, where)
            _send(connection, _render(response, head_only=head_only))
            _linger(connection)
    finally:
        where.slots.release()


def _answer(connection: socket.socket, where: Listener) -> tuple[Response, bool]:
    head_only = False
    try:
        request = _read_request(connection)
        head_only = request.method == "HEAD"
        if head_only:
            request = Request("GET", request.path, request.query, request.headers)
        return where.handler(request), head_only
    except _RefusedError as err:
        return Response(err.status, where.error_body(err.status, str(err))), head_only
    except OSError:
        raise
    except Exception:
        LOG.exception("status: a request could not be answered (this is a bug)")
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return Response(status, where.error_body(status, "internal error; the daemon's log says more")), head_only


def _read_request(connection: socket.socket) -> Request:
    deadline = time.monotonic() + REQUEST_SECONDS
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > MAX_HEAD:
            raise _RefusedError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request's head exceeds {MAX_HEAD} bytes"
            )
        data += _receive(connection, deadline)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, target = _request_line(lines[0])
    headers = _headers(lines[1:])
    length = _body_length(headers)
    if headers.get("expect", "").lower() == "100-continue" and len(body) < length:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    while len(body) < length:
        body += _receive(connection, deadline)
    path, query = _parse_target(target)
    return Request(method, path, query, headers, body[:length])


def _request_line(line: str) -> tuple[str, str]:
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "this is not an HTTP/1.1 request")
    if words[0] not in ("GET", "HEAD", "POST"):
        raise _RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "only GET, HEAD and POST are known here")
    return words[0], words[1]


def _parse_target(target: str) -> tuple[str, dict[str, str]]:
    path, _, query = target.partition("?")
    try:
        return unquote(path), dict(parse_qsl(query, keep_blank_values=True, max_num_fields=32))
    except ValueError:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "the query cannot be understood") from None


def _headers(lines: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip() or not name:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "a header line cannot be understood")
        headers[name.lower()] = value.strip()
    return headers


def _body_length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "send a body with Content-Length, not in chunks")
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
    if len(text) > 9 or int(text) > MAX_BODY:
        raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body exceeds {MAX_BODY} bytes")
    return int(text)


def _receive(connection: socket.socket, deadline: float) -> bytes:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise _RefusedError(HTTPStatus.REQUEST_TIMEOUT, f"no whole request within {REQUEST_SECONDS:g} s")
    connection.settimeout(remaining)
    try:
        data = connection.recv(4096)
    except TimeoutError:
        raise _RefusedError(HTTPStatus.REQUEST_TIMEOUT, f"no whole request within {REQUEST_SECONDS:g} s") from None
    if not data:
        raise ConnectionResetError("the client left")
    return data


def _render(response: Response, *, head_only: bool = False) -> bytes:
    status = HTTPStatus(response.status)
    headers = {
        "Content-Type": response.content_type,
        "Content-Length": str(len(response.body)),
        "Cache-Control": "no-store",
        "Connection": "close",
        **response.headers,
    }
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    return head.encode("latin-1") + b"\r\n" + (b"" if head_only else response.body)


def _send(connection: socket.socket, data: bytes) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    view = memoryview(data)
    while view:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        view = view[connection.send(view) :]


def _linger(connection: socket.socket) -> None:
    """Read what the client may still have sent: closing before would reset the connection under the answer."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(1.0)
    for _ in range(16):
        if not connection.recv(4096):
            return


def json_body(value: Mapping[str, object]) -> bytes:
    """Return *value* as compact JSON that ends with a newline."""
    return json.dumps(value, separators=(",", ":"), default=str).encode() + b"\n"
