# SPDX-License-Identifier: Apache-2.0
"""Typed access to the JSON of the status socket.

Command and daemon may be of different versions: what is missing, or of another type
than expected, reads as nothing rather than as an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

from agent.cli.output import Row, Value

Answer: TypeAlias = Mapping[str, object]


def text(answer: Answer, key: str) -> str:
    """Return the text under *key*, else the empty string."""
    value = answer.get(key)
    return value if isinstance(value, str) else ""


def number(answer: Answer, key: str) -> float | None:
    """Return the number under *key*, else None."""
    value = answer.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def count(answer: Answer, key: str) -> int:
    """Return the whole number under *key*, else 0."""
    return int(number(answer, key) or 0)


def flag(answer: Answer, key: str) -> bool:
    """Return whether *key* is true."""
    return answer.get(key) is True


def part(answer: Answer, key: str) -> Answer:
    """Return the object under *key*, else an empty one."""
    value = answer.get(key)
    return value if isinstance(value, Mapping) else {}


def parts(answer: Answer, key: str) -> list[Answer]:
    """Return the objects of the list under *key*."""
    value = answer.get(key)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def words(answer: Answer, key: str) -> list[str]:
    """Return the texts of the list under *key*."""
    value = answer.get(key)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def plain(answer: Answer) -> Row:
    """Return *answer* for printing: it came from JSON, so it is made of plain values."""
    return cast("Mapping[str, Value]", answer)
