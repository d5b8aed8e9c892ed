# SPDX-License-Identifier: Apache-2.0
"""The head of a request: where it ends, how large it may be, and what h11 would let pass that we do not.

h11 is lenient where RFC 9112 allows it: bare line feeds, folded lines, the same length
said twice, a length beside a transfer coding.  Each is a way to make two servers see
two requests where there is one.  No client that means well sends them.
"""

from __future__ import annotations

import re
from typing import Final

from agent.metadata.answers import RequestError
from agent.metadata.target import TARGET_LIMIT

HEAD_LIMIT: Final = 16 << 10  # octets, request line included
FIELD_LIMIT: Final = 100  # header fields
_LINE_LIMIT: Final = TARGET_LIMIT + 64  # octets of the request line
_END = b"\r\n\r\n"
_BAD = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\n[ \t]|\0")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([^\r]*?)[ \t]*(?=\r\n)", re.IGNORECASE)
_CODING = re.compile(rb"\r\ntransfer-encoding:[ \t]*([^\r]*?)[ \t]*(?=\r\n)", re.IGNORECASE)
_DIGITS = re.compile(rb"[0-9]{1,15}")


class HeadReader:
    """Collects octets until the head of a request is whole; never holds much more than one."""

    __slots__ = ("_buffer", "_seen", "_skipped")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._seen = 0  # so many octets have been looked at
        self._skipped = False  # an empty line

    def __bool__(self) -> bool:
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take more octets."""
        self._buffer += data

    def take_rest(self) -> bytes:
        """Return, and forget, what comes after the last head."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def take(self) -> bytes | None:
        """Return a whole head, None if it has not all come; raise RequestError as soon as it cannot become one."""
        buffer = self._buffer
        if not self._skipped and buffer.startswith(b"\r\n"):
            del buffer[:2]  # RFC 9112, section 2.2: one empty line before a request does not matter
            self._seen, self._skipped = 0, True
        end = buffer.find(_END, max(0, self._seen - 3))
        stop = len(buffer) if end < 0 else end + len(_END)
        if _BAD.search(buffer, max(0, self._seen - 2), min(stop, HEAD_LIMIT)):
            raise RequestError(400, "a line of the head is folded or does not end as it should")
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


def check_framing(head: bytes) -> None:
    """Raise RequestError if it can be doubted where the request ends, or if it has too many fields."""
    if head.count(b"\r\n") > FIELD_LIMIT + 2:
        raise RequestError(431, f"the head has more than {FIELD_LIMIT} fields")
    lengths, codings = _LENGTH.findall(head), _CODING.findall(head)
    if len(lengths) + len(codings) > 1:
        raise RequestError(400, "the length of the body is said more than once")
    if lengths and not _DIGITS.fullmatch(lengths[0]):
        raise RequestError(400, "the length of the body is not a number")
    if codings and codings[0].lower() != b"chunked":
        raise RequestError(400, "the only transfer coding that is understood is chunked")
