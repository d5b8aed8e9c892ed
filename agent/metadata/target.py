# SPDX-License-Identifier: Apache-2.0
"""What a request asks for: an absolute path and a query (RFC 9112, section 3.2.1), and no other form.

Two servers that read one path in two ways are how one gets at what another guards, so
anything that could be read in two ways is refused: dot segments, encoded slashes,
backslashes, double encoding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from agent.metadata.answers import RequestError

TARGET_LIMIT: Final = 2 << 10  # octets
_ESCAPES = re.compile(rb"(?:[^%]|%[0-9A-Fa-f]{2})*")
_UNSAFE = re.compile(rb"[\x00-\x1f\x7f/\\%]|\A\.\.|\A\.\Z")


@dataclass(frozen=True, slots=True)
class Target:
    """A path, decoded in ``segments`` and, with nothing in it twice, as it goes on to Nova; with its query."""

    segments: tuple[str, ...]
    forwarded: bytes


def parse_target(text: bytes) -> Target:
    """Return what the target of a request asks for; raise RequestError."""
    if len(text) > TARGET_LIMIT:
        raise RequestError(414, f"the target is longer than {TARGET_LIMIT} octets")
    if not text.startswith(b"/"):
        raise RequestError(400, "the target is not an absolute path")
    path, question, query = text.partition(b"?")
    if b"#" in text or not _ESCAPES.fullmatch(text):
        raise RequestError(400, "the target is not an absolute path with a query")
    parts = [part for part in path.split(b"/") if part]
    canonical = b"/" + b"/".join(parts) + (b"/" if parts and path.endswith(b"/") else b"")
    return Target(tuple(map(_segment, parts)), canonical + question + query)


def _segment(part: bytes) -> str:
    octets = unquote_to_bytes(part)
    if _UNSAFE.search(octets):
        raise RequestError(400, "the path leads out of itself")
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise RequestError(400, "the path is not UTF-8") from None
