# SPDX-License-Identifier: Apache-2.0
"""Sockets inside instances, used from the test: HTTP to the metadata addresses, and what TCP had to do for it."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agent.core.service_identity import METADATA4, METADATA6, METADATA_PORT
from agent.namespace import inside

DEVICE = "eth0"
TCP_RETRANSMISSIONS = 100  # offset of tcpi_total_retrans in struct tcp_info (linux/tcp.h)


@dataclass(frozen=True, slots=True)
class Response:
    """What a request was answered; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> dict[str, object]:
        """Return the body, which is a JSON object."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


def open_stream(namespace: Path, version: int = 4, timeout: float = 10.0, source: str = "") -> socket.socket:
    """Return a TCP connection from an instance, of its address *source* if that is given, to the metadata service."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with namespace.open("rb") as opened, inside(opened.fileno()):
        link = socket.socket(family, socket.SOCK_STREAM)
        scope = socket.if_nametoindex(DEVICE)
    link.settimeout(timeout)
    try:
        if source:
            link.bind((source, 0) if version == 4 else (source, 0, 0, scope))
        if version == 4:
            link.connect((METADATA4, METADATA_PORT))
        else:
            link.connect((METADATA6, METADATA_PORT, 0, scope))
    except OSError:
        link.close()
        raise
    return link


def retransmissions(link: socket.socket) -> int:
    """Return how many segments, the first one included, TCP has sent again on this connection."""
    info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (count,) = struct.unpack_from("=I", info, TCP_RETRANSMISSIONS)
    return int(count)


class Http:
    """A connection to the metadata service on which requests follow each other.  Use it with ``with``."""

    def __init__(self, namespace: Path, version: int = 4, timeout: float = 10.0, source: str = "") -> None:
        self.link = open_stream(namespace, version, timeout, source)
        host = METADATA4 if version == 4 else f"[{METADATA6}]"
        self._connection = http.client.HTTPConnection(host, timeout=timeout)
        self._connection.sock = self.link.dup()  # which it closes when the other side says so
        self._connection.auto_open = 0  # it would open another one in the test's own namespace

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self.link.close()

    def ask(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Response:
        """Send a request and return what it is answered."""
        self._connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = self._connection.getresponse()
        body = answer.read()
        return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)


def get(
    namespace: Path, path: str, *, version: int = 4, headers: Mapping[str, str] | None = None, timeout: float = 10.0
) -> Response:
    """Ask the metadata service once, on a connection of its own."""
    with Http(namespace, version, timeout) as connection:
        return connection.ask(path, headers=headers)


def raw(namespace: Path, octets: bytes, *, version: int = 4, timeout: float = 10.0) -> bytes:
    """Send *octets* as they are and return all that comes until the other side closes."""
    with open_stream(namespace, version, timeout) as link:
        link.sendall(octets)
        received = bytearray()
        while block := link.recv(65536):
            received += block
        return bytes(received)
