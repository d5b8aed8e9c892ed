# SPDX-License-Identifier: Apache-2.0
"""Who answers a request: the store's contents, or Nova.

Nothing that the request says of its sender is looked at.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Final

from agent.metadata import answers
from agent.metadata.answers import Answer
from agent.metadata.contents import answer_from_store
from agent.metadata.data import MetadataData, ServiceData
from agent.metadata.nova import Question, ask_nova
from agent.metadata.target import Target, parse_target

READ: Final = (b"GET", b"HEAD")
FORWARDED: Final = (b"GET", b"HEAD", b"POST", b"PUT")  # all that Nova's metadata API could know
TOKEN: Final = ("latest", "api", "token")
TOKEN_TTL: Final = b"x-aws-ec2-metadata-token-ttl-seconds"
LONGEST_TTL: Final = 21600  # seconds


@dataclass(frozen=True, slots=True)
class Asked:
    """A whole request; names of headers are in lower case."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


def decide(asked: Asked, address: str, port: MetadataData | None, service: ServiceData) -> Answer | Question:
    """Return the answer to a request of *port*, sent from its *address*, or what to ask Nova; raise RequestError."""
    target = parse_target(asked.target)
    if port is None:
        return answers.refuse(404, "nothing is known of this instance")
    if port.content is None:
        return _from_nova(asked, target, address, port, service)
    if target.segments == TOKEN:
        return _token(asked, port)
    answer = answer_from_store(port, port.content, target.segments)
    if asked.method not in READ and answer is not answers.NOT_FOUND:
        return answers.not_allowed(b"GET, HEAD")
    return answer


def _from_nova(
    asked: Asked, target: Target, address: str, port: MetadataData, service: ServiceData
) -> Answer | Question:
    if asked.method not in FORWARDED:
        return answers.not_allowed(b"GET, HEAD, POST, PUT")
    if service.nova is None:
        return answers.away("the host does not know yet where metadata come from")
    return ask_nova(service.nova, port, address, asked.method, target.forwarded, asked.headers, asked.body)


def _token(asked: Asked, port: MetadataData) -> Answer:
    """Answer a client that speaks only version 2 of EC2's protocol: it wants a token before it asks anything.

    Requests with it, without it or with another are answered alike.
    """
    if asked.method != b"PUT":
        return answers.not_allowed(b"PUT")
    seconds = next((value for name, value in asked.headers if name == TOKEN_TTL), b"")
    if not (seconds.isdigit() and len(seconds) <= 5 and 1 <= int(seconds) <= LONGEST_TTL):
        return answers.refuse(400, f"{TOKEN_TTL.decode()} must be 1 to {LONGEST_TTL}")
    digest = hashlib.blake2b(port.port.encode(), digest_size=24, person=b"metadata token").digest()
    return Answer(200, base64.b64encode(digest), headers=((TOKEN_TTL, b"%d" % int(seconds)),))
