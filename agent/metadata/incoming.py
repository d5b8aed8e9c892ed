# SPDX-License-Identifier: Apache-2.0
"""Requests on their way in: where head and body end, how large they may be, and what h11 must not see.

h11 is lenient where RFC 9112 allows it: bare line feeds, folded lines, the same length
said twice, a length beside a transfer coding, trailers.  Each is a way to make two
servers see two requests where there is one, and no client that means well sends them.
Of a field that has a form feed behind many spaces its expressions think for seconds.
So heads come to it looked through, and bodies not at all.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from agent.metadata.answers import RequestError
from agent.metadata.target import TARGET_LIMIT

HEAD_LIMIT: Final = 16 << 10  # octets, request line included
FIELD_LIMIT: Final = 100  # header fields
CHUNK_LIMIT: Final = 1024  # chunks of a body
_LINE_LIMIT: Final = TARGET_LIMIT + 64  # octets of the request line
_CHUNK_LINE_LIMIT: Final = 256  # octets of the line before a chunk
_END = b"\r\n\r\n"
_BAD = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\n[ \t]|[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding):([^\r]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t -~]*)?")


class Incoming:
    """What has come and not been understood yet; never much more than a head, or one chunk."""

    __slots__ = ("_seen", "_skipped", "buffer")

    def __init__(self) -> None:
        self.buffer = bytearray()
        self._seen = 0  # so many octets have been looked at
        self._skipped = False  # an empty line

    def take_head(self) -> bytes | None:
        """Return a whole head, None if it has not all come; raise RequestError as soon as it cannot become one."""
        buffer = self.buffer
        if not self._skipped and buffer.startswith(b"\r\n"):
            del buffer[:2]  # RFC 9112, section 2.2: one empty line before a request does not matter
            self._seen, self._skipped = 0, True
        end = buffer.find(_END, max(0, self._seen - 3))
        stop = len(buffer) if end < 0 else end + len(_END)
        if _BAD.search(buffer, max(0, self._seen - 2), min(stop, HEAD_LIMIT)):
            raise RequestError(400, "a line of the head is folded, does not end as it should or is no text")
        if stop > _LINE_LIMIT and buffer.find(b"\r\n", 0, _LINE_LIMIT) < 0:
            raise RequestError(414, f"the target is longer than {TARGET_LIMIT} octets")
        if stop > HEAD_LIMIT:
            raise RequestError(431, f"the head is longer than {HEAD_LIMIT} octets")
        if end < 0:
            self._seen = stop
            return None
        head = bytes(buffer[:stop])
        del buffer[:stop]
        self._seen, self._skipped = 0, False
        return head


class Body(Protocol):
    """The body of one request; ``octets`` are what has come of it."""

    octets: bytearray

    def take(self, buffer: bytearray) -> bool:
        """Take what is of the body out of *buffer*; tell whether that is all.  Raises RequestError."""


class SizedBody:
    """A body whose length is said before."""

    def __init__(self, length: int) -> None:
        self.octets = bytearray()
        self._length = length

    def take(self, buffer: bytearray) -> bool:
        """See `Body`."""
        part = buffer[: self._length - len(self.octets)]
        del buffer[: len(part)]
        self.octets += part
        return len(self.octets) == self._length


class ChunkedBody:
    """A body in chunks (RFC 9112, section 7.1), without trailers."""

    def __init__(self, limit: int) -> None:
        self.octets = bytearray()
        self._limit, self._left = limit, CHUNK_LIMIT

    def take(self, buffer: bytearray) -> bool:
        """See `Body`."""
        while (end := buffer.find(b"\r\n", 0, _CHUNK_LINE_LIMIT)) >= 0:
            line = _CHUNK.fullmatch(buffer, 0, end)
            if line is None:
                break
            size, start = int(line[1], 16), end + 2
            if not self._left or len(self.octets) + size > self._limit:
                raise RequestError(413, f"the body is longer than {self._limit} octets, or in too many chunks")
            if len(buffer) < start + size + 2:
                return False
            if buffer[start + size : start + size + 2] != b"\r\n":
                break
            self._left -= 1
            self.octets += buffer[start : start + size]
            del buffer[: start + size + 2]
            if size == 0:
                return True
        else:
            if len(buffer) < _CHUNK_LINE_LIMIT:
                return False
        raise RequestError(400, "a chunk of the body is none, or there are trailers")


def read_framing(head: bytes, limit: int) -> Body | None:
    """Return what a request's body is to be read with, None if it has none.

    Raises RequestError if it can be doubted where the request ends, if it has too many
    fields, or if its body is longer than *limit* octets.
    """
    if head.count(b"\r\n") > FIELD_LIMIT + 2:
        raise RequestError(431, f"the head has more than {FIELD_LIMIT} fields")
    framing = _FRAMING.findall(head)
    if not framing:
        return None
    if len(framing) > 1:
        raise RequestError(400, "the length of the body is said more than once")
    name, value = framing[0][0].lower(), framing[0][1].strip(b" \t")
    if name == b"transfer-encoding":
        if value.lower() != b"chunked" or head.partition(b"\r\n")[0].endswith(b" HTTP/1.0"):
            raise RequestError(400, "the only transfer coding is chunked, of HTTP/1.1")
        return ChunkedBody(limit)
    if not _LENGTH.fullmatch(value):
        raise RequestError(400, "the length of the body is not a number")
    if int(value) > limit:
        raise RequestError(413, f"the body is longer than {limit} octets")
    return SizedBody(int(value))
