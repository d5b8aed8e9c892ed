# SPDX-License-Identifier: Apache-2.0
"""What is answered, as values: status, type and octets; and the answers that are a no.

Texts are for the people who read them in an instance's console log; they name nothing
of the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from agent.core.errors import Actor, AgentError

TEXT: Final = b"text/plain; charset=UTF-8"
JSON: Final = b"application/json"
OCTETS: Final = b"application/octet-stream"
RETRY_AFTER: Final = 5  # seconds after which Nova is worth another try


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; ``headers`` are those besides its type and length."""

    status: int
    body: bytes
    content_type: bytes = TEXT
    headers: tuple[tuple[bytes, bytes], ...] = ()


class RequestError(AgentError):
    """A request that cannot be understood or is too large: the connection ends with this status."""

    actor = Actor.NOBODY

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def refuse(status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
    """Return an answer that says why not."""
    return Answer(status, f"{status} {phrase(status)}: {text}\n".encode(), headers=headers)


def too_many(wait: float) -> Answer:
    """Return the answer to a client that has to *wait* so many seconds."""
    return refuse(429, "too many requests of this port, try again later", ((b"Retry-After", b"%d" % math.ceil(wait)),))


def not_allowed(methods: bytes) -> Answer:
    """Return the answer to a method that is none of *methods* (as in ``Allow``)."""
    return refuse(405, "this method is not allowed here", ((b"Allow", methods),))


def away(text: str) -> Answer:
    """Return the answer while the metadata service is away; *text* says what it is waited for."""
    return refuse(503, text, ((b"Retry-After", b"%d" % RETRY_AFTER),))


def phrase(status: int) -> str:
    """Return the words for a status, empty if it has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


NOT_FOUND: Final = refuse(404, "there is nothing here")
