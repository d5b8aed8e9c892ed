# SPDX-License-Identifier: Apache-2.0
"""Requests that Nova's metadata API answers: signed, cleaned, and streamed back to the client.

Nova believes who signs with the shared secret, as it believes Neutron's metadata agent:
``X-Instance-ID-Signature`` is the HMAC-SHA256 of the instance's id.  Of the client's
own headers only those in `PASSED` go on, so that no name that Nova, or a proxy before
it, gives a meaning to can come from a tenant, however it is spelled.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import h11

from agent.core.errors import InputError
from agent.metadata import answers
from agent.metadata.answers import Answer
from agent.metadata.data import MetadataData, NovaData
from agent.metadata.events import Send
from agent.metadata.sending import send_answer

PASSED: Final = frozenset({b"accept", b"content-type", b"user-agent"})
RETURNED: Final = frozenset(
    {
        *(b"content-type", b"content-length", b"content-encoding", b"content-language", b"etag", b"last-modified"),
        *(b"date", b"age", b"expires", b"cache-control", b"vary", b"allow", b"retry-after"),
    }
)
ANSWER_HEAD_LIMIT: Final = 64 << 10  # octets
_PLAIN = re.compile(rb"[\t -~]*")
_IDENTITY = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where Nova listens; ``authority`` is what its ``Host`` header has to say."""

    scheme: str
    host: str
    port: int
    authority: str


@lru_cache(maxsize=8)
def endpoint(url: str) -> Endpoint:
    """Return where the metadata API with this base URL listens; raise InputError if that is not said."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as err:
        raise InputError(f"metadata service: url: {url}: {err}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii():
        raise InputError(f"metadata service: url: {url}: is not http://HOST:PORT or https://HOST:PORT")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = f"{name}:{port}" if port else name
    return Endpoint(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), authority)


@dataclass(frozen=True, slots=True)
class Question:
    """A request as it goes to Nova."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""


def sign(secret: str, instance_id: str) -> str:
    """Return the signature that tells Nova that the instance's id comes from us."""
    return hmac.digest(secret.encode(), instance_id.encode(), "sha256").hex()


def ask_nova(
    nova: NovaData,
    port: MetadataData,
    address: str,
    method: bytes,
    target: bytes,
    headers: tuple[tuple[bytes, bytes], ...],
    body: bytes,
) -> Question | Answer:
    """Return what to ask Nova for *port*, or the answer if nothing can be asked."""
    if not _IDENTITY.fullmatch(port.instance_id) or not _IDENTITY.fullmatch(port.project or "-"):
        return answers.NOT_FOUND  # Nova would not know them
    try:
        authority = endpoint(nova.url).authority
    except InputError:
        return answers.away("the metadata service of this host is not set up")
    own = {
        "Host": authority,
        "X-Instance-ID": port.instance_id,
        "X-Tenant-ID": port.project,
        "X-Instance-ID-Signature": sign(nova.secret, port.instance_id),
        "X-Forwarded-For": address,
    }
    passed = [(name.title(), value) for name, value in headers if name in PASSED and _PLAIN.fullmatch(value)]
    length = [(b"Content-Length", b"%d" % len(body))] if body or method in (b"POST", b"PUT") else []
    signed = [(name.encode(), value.encode()) for name, value in own.items()]
    return Question(method, target, (*signed, *passed, *length), body)


class Exchange:
    """One question to Nova and its answer, on its way to a client as it comes.

    The loop sends Nova what `request` returns, gives what Nova sends to `receive`, and
    sends the client what that yields before it reads more: nothing is collected.  If it
    cannot go on, `give_up` ends it.  When ``finished``, the connection to Nova may serve
    the next exchange if it is ``reusable``; if the answer is ``broken``, the client's ends.
    """

    def __init__(self, question: Question, client: h11.Connection, *, last: bool) -> None:
        self._question, self._client, self._last = question, client, last
        self._nova = h11.Connection(h11.CLIENT, ANSWER_HEAD_LIMIT)
        self._heard = self._begun = False
        self.finished = self.reusable = self.broken = False
        self.status = 503

    @property
    def retriable(self) -> bool:
        """Whether it may be asked again on a new connection: nothing was heard, and asking changes nothing.

        That is for a connection that was kept, and that Nova has closed meanwhile.
        """
        return not self._heard and not self.finished and self._question.method in (b"GET", b"HEAD")

    def request(self) -> bytes:
        """Return the octets for Nova, on a connection on which nothing else is under way."""
        question = self._question
        self._nova = nova = h11.Connection(h11.CLIENT, ANSWER_HEAD_LIMIT)
        request = h11.Request(method=question.method, target=question.target, headers=list(question.headers))
        octets = nova.send(request)
        if question.body:
            octets += nova.send(h11.Data(data=question.body))
        return octets + nova.send(h11.EndOfMessage())

    def receive(self, data: bytes) -> Iterator[Send]:
        """Yield what is for the client because Nova has sent *data*, empty when it has closed."""
        if self.finished:
            return
        self._heard = self._heard or bool(data)
        self._nova.receive_data(data)
        try:
            while not self.finished and (event := self._nova.next_event()) is not h11.NEED_DATA:
                octets = self._pass_on(event)
                if octets:
                    yield Send(octets)
        except h11.ProtocolError:
            yield from self.give_up("the metadata service broke off")

    def _pass_on(self, event: object) -> bytes:
        nova = self._nova
        if isinstance(event, h11.Response):
            self._begun = True
            self.status = event.status_code
            return self._client.send(self._response(event))
        if isinstance(event, h11.Data):
            return self._client.send(h11.Data(data=bytes(event.data)))
        if isinstance(event, h11.EndOfMessage):
            octets = self._client.send(h11.EndOfMessage())
            self.finished = True
            self.reusable = nova.our_state is nova.their_state is h11.DONE and nova.trailing_data == (b"", False)
            return octets
        if isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("closed before it was asked")
        return b""

    def _response(self, answer: h11.Response) -> h11.Response:
        headers = [(name.title(), value) for name, value in answer.headers if name in RETURNED]
        if any(name == b"transfer-encoding" for name, _ in answer.headers):
            headers = [header for header in headers if header[0] != b"Content-Length"]  # what counts is what came
        if self._last:
            headers.append((b"Connection", b"close"))
        return h11.Response(status_code=answer.status_code, reason=answer.reason, headers=headers)

    def give_up(self, reason: str) -> Iterator[Send]:
        """Yield the answer when Nova has none, or no more; *reason* is a text for people in the instance.

        If a part of the answer is on its way, nothing but the end of the connection can tell that it is not whole.
        """
        if self.finished:
            return
        self.finished = True
        if self._begun:
            self.broken = True
            return
        answer = answers.away(reason)
        self.status = answer.status
        yield from send_answer(self._question.method, answer, last=self._last)
