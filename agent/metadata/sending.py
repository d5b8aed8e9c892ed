# SPDX-License-Identifier: Apache-2.0
"""Whole answers as octets for a client."""

from __future__ import annotations

from collections.abc import Iterator

from agent.metadata import answers
from agent.metadata.answers import Answer
from agent.metadata.events import Send

_SMALL = 4096  # octets that are copied behind a head, to go out in one packet


def send_answer(method: bytes, answer: Answer, *, last: bool) -> Iterator[Send]:
    """Yield the octets of *answer* to a request with this method; if it is the *last*, it says so.

    They are put together here and not by h11: nothing in them comes from a client, and
    this takes half as long.
    """
    lines = [
        b"HTTP/1.1 %d %s" % (answer.status, answers.phrase(answer.status).encode()),
        b"Content-Type: " + answer.content_type,
        b"Content-Length: %d" % len(answer.body),
        *(b"%s: %s" % header for header in answer.headers),
    ]
    if last:
        lines.append(b"Connection: close")
    head = b"\r\n".join((*lines, b"", b""))
    body = b"" if method == b"HEAD" else answer.body
    if len(body) <= _SMALL:
        yield Send(head + body)
    else:
        yield Send(head)
        yield Send(body)
