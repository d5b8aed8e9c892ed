# SPDX-License-Identifier: Apache-2.0
"""A client of the metadata service and a stand-in for Nova, for tests: octets in, octets out, a clock by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agent.metadata.allowance import Allowance
from agent.metadata.connection import ClientConnection
from agent.metadata.data import ContentData, Limits, MetadataData, NovaData, ServiceData
from agent.metadata.events import Answered, AskNova, Close, Event, Pause, Send
from agent.metadata.nova import Exchange

CONTENT = ContentData(
    hostname="web",
    fqdn="web.example.org",
    ssh_keys=("ssh-ed25519 AAAAC3 me@home", "ssh-rsa AAAAB3 backup"),
    user_data=b"#!/bin/sh\necho \xff\x00\n",
    vendor_data='{"cloud-init": "#cloud-config\\n"}',
    availability_zone="az1",
    instance_type="m1.small",
    meta=(("role", "front"),),
    network_data='{"links": [], "networks": [], "services": []}',
)
PORT = MetadataData(
    port="f1d1e6d2-0000-4000-8000-000000000001",
    name="web-1",
    network="net",
    mac="fa:16:3e:00:00:01",
    instance_id="6c1e3ea5-0000-4000-8000-00000000000a",
    project="tenant-a",
    aliases=(("100.64.0.64", "10.0.0.5"),),
    addresses=("fd00::5", "10.0.0.5"),
    content=CONTENT,
)
NOVA_PORT = MetadataData(
    **{name: getattr(PORT, name) for name in ("port", "name", "network", "mac", "instance_id", "project", "aliases")}
)
SERVICE = ServiceData(nova=NovaData("http://nova.example:8775", secret="shared"), limits=Limits(rate=0))


@dataclass
class Reply:
    """An answer as a client reads it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def lines(self) -> list[str]:
        return self.body.decode().split("\n")


def request(path: str, method: str = "GET", headers: Iterable[str] = (), body: bytes = b"") -> bytes:
    """Return the octets of a request as ordinary clients send it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 169.254.169.254", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


def read_reply(octets: bytes, method: str = "GET") -> tuple[Reply, bytes]:
    """Return the first answer in *octets* and what follows it; raise ValueError if it is not whole."""
    head, end, rest = octets.partition(b"\r\n\r\n")
    if not end:
        raise ValueError(f"no head: {octets!r}")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = first.split(" ", 2)
    if version != "HTTP/1.1":
        raise ValueError(first)
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    if len(headers) != len(pairs):
        raise ValueError(f"a field twice: {lines}")
    if method == "HEAD" or status in ("100", "204", "304"):
        return Reply(int(status), headers, b""), rest
    if headers.get("transfer-encoding") == "chunked":
        body, rest = _read_chunks(rest)
        return Reply(int(status), headers, body), rest
    length = int(headers["content-length"]) if "content-length" in headers else len(rest)
    if len(rest) < length:
        raise ValueError(f"{length} octets are announced, {len(rest)} came")
    return Reply(int(status), headers, rest[:length]), rest[length:]


def _read_chunks(octets: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, end, octets = octets.partition(b"\r\n")
        size = int(line, 16)
        if not end or octets[size : size + 2] != b"\r\n":
            raise ValueError("a chunk is not whole")
        body += octets[:size]
        octets = octets[size + 2 :]
        if size == 0:
            return body, octets


@dataclass
class Nova:
    """Answers with ``octets``, in ``pieces``; notes what it was asked.  ``closes`` behind the answer."""

    octets: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nnova"
    piece: int = 1 << 16
    closes: bool = False
    asked: list[bytes] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)

    def run(self, exchange: Exchange, send: Callable[[bytes], None]) -> None:
        self.exchanges.append(exchange)
        self.asked.append(exchange.request())
        pieces = [self.octets[at : at + self.piece] for at in range(0, len(self.octets), self.piece)]
        for data in (*pieces, *([b""] if self.closes else [])):
            for part in exchange.receive(data):
                send(part.data)

    @property
    def headers(self) -> dict[str, str]:
        """The fields of the last question, each once."""
        head = self.asked[-1].partition(b"\r\n\r\n")[0].decode("latin-1")
        pairs = [line.split(": ", 1) for line in head.split("\r\n")[1:]]
        found = {name.lower(): value for name, value in pairs}
        assert len(found) == len(pairs), "Nova was told something twice"
        return found


class Client:
    """One connection to the service; ``now`` is the time that it sees."""

    def __init__(
        self,
        port: MetadataData | None = PORT,
        service: ServiceData = SERVICE,
        nova: Nova | None = None,
        allowance: Allowance | None = None,
        address: str = "10.0.0.5",
    ) -> None:
        self.port, self.service, self.nova = port, service, nova or Nova()
        self.now = 100.0
        self.closed: Close | None = None
        self.answered: list[Answered] = []
        self.paused: list[float] = []
        self.connection = ClientConnection(
            address, lambda: self.port, lambda: self.service, allowance or Allowance(), lambda: self.now
        )

    @property
    def lingers(self) -> bool:
        return self.closed is not None and self.closed.linger

    def say(self, octets: bytes, piece: int = 1 << 16) -> bytes:
        """Send *octets* in pieces and return all that comes back."""
        heard = bytearray()
        for at in range(0, max(1, len(octets)), piece):
            self.take(self.connection.feed(octets[at : at + piece]), heard)
        return bytes(heard)

    def time_out(self) -> bytes:
        heard = bytearray()
        self.take(self.connection.time_out(), heard)
        return bytes(heard)

    def take(self, events: Iterable[Event], heard: bytearray) -> None:
        for event in events:
            assert self.closed is None, "something comes after the end"
            match event:
                case Send(data):
                    heard += data
                case AskNova(exchange):
                    self.nova.run(exchange, heard.extend)
                case Answered():
                    self.answered.append(event)
                case Pause(seconds):
                    self.paused.append(seconds)
                case Close():
                    self.closed = event

    def get(self, path: str, method: str = "GET", headers: Iterable[str] = (), body: bytes = b"") -> Reply:
        """Ask once and return the one answer."""
        reply, rest = read_reply(self.say(request(path, method, headers, body)), method)
        assert rest == b"", "there is more than one answer"
        return reply
