# SPDX-License-Identifier: Apache-2.0
"""A fast JSON parser for the ``ovs`` package.

Its own one walks through the text character by character in Python, about 2.7 MB/s:
with 400 ports that is a third of the CPU time of a start, with 10,000 endpoints a
second.  It is there to find out where a message ends in a stream that is read in
pieces; for that it is enough to look at strings and braces, and the standard library
does the rest.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ovs import json as ovs_json

# A whole string, a brace, or a quotation mark whose string ends in a later piece.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}]|"', re.DOTALL)
# The rest of a string that an earlier piece has begun, and its quotation mark if that has come.
_REST = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*("?)', re.DOTALL)

PackageParser = ovs_json.Parser  # as the package has it


class MessageParser:
    """Parses one JSON object that comes in pieces; the interface is that of ``ovs.json.Parser``.

    Each character is looked at once, however long a string and small the pieces: user data
    of an instance are a string of a megabyte, and come in pieces of 4 KiB.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._in_string = False
        self._escape = ""  # a backslash at the end of the last piece, whose character is yet to come
        self._depth = 0
        self._done = False

    def feed(self, text: str) -> int:
        """Take the next piece; return how many characters of it belong to this message."""
        before = len(self._escape)
        text, self._escape = self._escape + text, ""
        at = 0
        if self._in_string:
            at = self._go_on(text, 0)
        while not self._in_string and (match := _TOKEN.search(text, at)):
            found, at = match.group(), match.end()
            if found == "{":
                self._depth += 1
            elif found == "}":
                self._depth -= 1
                if self._depth <= 0:
                    self._parts.append(text[:at])
                    self._done = True
                    return at - before
            elif found == '"':
                at = self._go_on(text, at)
        self._parts.append(text[: len(text) - len(self._escape)])
        # What is no object at all will never end: it is an error now.
        self._done = self._depth == 0 and not self._in_string and not text.isspace()
        return len(text) - before

    def _go_on(self, text: str, at: int) -> int:
        """Read on in a string from *at*; return where it ends, or where *text* does."""
        rest = next(_REST.finditer(text, at))  # there is always one, and be it empty
        self._in_string = not rest.group(1)
        if self._in_string:
            self._escape = text[rest.end() :]
            return len(text)
        return rest.end()

    def is_done(self) -> bool:
        """Tell whether the message is complete, or wrong."""
        return self._done

    def finish(self) -> Any:
        """Return the message, or what is wrong with it as text."""
        try:
            return json.loads("".join(self._parts))
        except (ValueError, RecursionError) as err:
            return str(err)


class TextParser(MessageParser):
    """Parses one JSON value of any kind that is the whole text."""

    def feed(self, text: str) -> int:
        """Take the next piece, all of it."""
        self._parts.append(text)
        return len(text)


def make_parser(check_trailer: bool = False) -> MessageParser:
    """Return a new parser; *check_trailer* tells that nothing may follow, so that all is to be taken."""
    return TextParser() if check_trailer else MessageParser()


def install() -> None:
    """Have all connections of the ``ovs`` package in this process use this parser; harmless when done twice."""
    if ovs_json.PARSER == ovs_json.PARSER_PY:  # some distributions build the parser in C: leave that alone
        ovs_json.Parser = make_parser
