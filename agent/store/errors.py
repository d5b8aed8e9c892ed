# SPDX-License-Identifier: Apache-2.0
"""What an ovsdb-server says when it refuses a transaction, sorted by what the writer does about it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum

from agent.core.errors import StoreError

_INDEX_TABLE = re.compile(r'multiple rows in "(\w+)" table to have identical values')
_FULL_TABLE = re.compile(r'causes "(\w+)" table to contain')


class Cause(StrEnum):
    """Why the server refused."""

    CLASH = "clash"  # an index: somebody else was first
    REFERENCE = "reference"  # an object is in use, or has gone
    DUPLICATE_ID = "duplicate id"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused transaction; ``table`` is set for a clash, ``text`` is the server's own."""

    cause: Cause
    text: str
    table: str | None = None

    @property
    def raced(self) -> bool:
        """Tell whether another writer may be the reason: build again from the rows as they are now."""
        return self.cause is not Cause.OTHER


def parse_refusal(message: str) -> Refusal:
    """Return what *message* (ovsdbapp's ``OVSDB Error: {json}``) says.

    Words of ovsdb-server 3.x; a text in another form is ``OTHER``.
    """
    text = message.removeprefix("OVSDB Error: ")
    try:
        answer = json.loads(text)
    except ValueError:
        return Refusal(Cause.OTHER, text)
    if not isinstance(answer, dict):
        return Refusal(Cause.OTHER, text)
    error, details = str(answer.get("error", "")), str(answer.get("details", ""))
    text = f"{error}: {details}" if details else error
    if error == "referential integrity violation":
        return Refusal(Cause.REFERENCE, text)
    if error == "duplicate uuid":
        return Refusal(Cause.DUPLICATE_ID, text)
    if error == "constraint violation":
        table = _INDEX_TABLE.search(details)
        if table is not None:
            return Refusal(Cause.CLASH, text, table.group(1))
        full = _FULL_TABLE.search(details)
        if full is not None:  # two first writers of what there is one of
            return Refusal(Cause.CLASH, text, full.group(1))
    return Refusal(Cause.OTHER, text)


def unreachable(address: str, why: str) -> StoreError:
    """Return the error for a store that does not answer."""
    return StoreError(f"store {address}: cannot connect ({why}; is ovsdb-server running?)")
