# SPDX-License-Identifier: Apache-2.0
"""Answers as octets for a client."""

from __future__ import annotations

from collections.abc import Iterator

import h11

from agent.metadata import answers
from agent.metadata.answers import Answer
from agent.metadata.events import Send

_SMALL = 4096  # octets that are copied behind a head, to go out in one packet


def send_answer(http: h11.Connection, method: bytes, answer: Answer, *, last: bool) -> Iterator[Send]:
    """Yield the octets of *answer* to a request with this method; if it is the *last*, it says so."""
    headers = [(b"Content-Type", answer.content_type), (b"Content-Length", b"%d" % len(answer.body)), *answer.headers]
    if last:
        headers.append((b"Connection", b"close"))
    reason = answers.phrase(answer.status).encode()
    head = http.send(h11.Response(status_code=answer.status, reason=reason, headers=headers))
    body = b"" if method == b"HEAD" else answer.body
    if body:
        http.send_with_data_passthrough(h11.Data(data=body))
    http.send(h11.EndOfMessage())
    if len(body) <= _SMALL:
        yield Send(head + body)
    else:
        yield Send(head)
        yield Send(body)


def turn_away(answer: Answer) -> bytes:
    """Return the octets of *answer* to a connection that nothing is read from."""
    http = h11.Connection(h11.SERVER)
    return b"".join(part.data for part in send_answer(http, b"", answer, last=True))
