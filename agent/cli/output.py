# SPDX-License-Identifier: Apache-2.0
"""What commands print: tables for people, JSON and YAML for programs.

Programs get every field under its Neutron name, as in the YAML files; people get
aligned columns without boxes, so that ``grep`` and ``awk`` work on them.  Control
characters in what others wrote never reach a terminal.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TextIO, TypeAlias

Value: TypeAlias = "str | int | float | bool | Sequence[Value] | Mapping[str, Value] | None"
Row: TypeAlias = Mapping[str, Value]


class Format(StrEnum):
    """The choices of ``-o``."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def write_line(text: str = "", file: TextIO | None = None) -> None:
    """Write one line to standard output (or *file*)."""
    (file or sys.stdout).write(f"{text}\n")


def complain(text: str) -> None:
    """Write one line for a person to standard error, after the command's name."""
    sys.stdout.flush()
    sys.stderr.write(f"hostplane: {printable(text)}\n")


def print_value(value: Value, form: Format) -> None:
    """Print *value* as JSON or YAML."""
    if form is Format.YAML:
        import yaml

        sys.stdout.write(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
    else:
        write_line(json.dumps(value, indent=2))


def print_rows(rows: Sequence[Row], columns: Sequence[str], form: Format) -> None:
    """Print a list: as a table the *columns*, else every field of each row."""
    if form is Format.TABLE:
        for line in table([[row.get(column) for column in columns] for row in rows], columns):
            write_line(line)
    else:
        print_value(list(rows), form)


def print_row(row: Row, form: Format) -> None:
    """Print one object: as a table one field a line."""
    if form is Format.TABLE:
        for line in pairs(row):
            write_line(line)
    else:
        print_value(dict(row), form)


def table(rows: Iterable[Sequence[Value]], heads: Sequence[str]) -> list[str]:
    """Return aligned lines, the first one with the upper-case *heads*; nothing if there are no rows."""
    cells = [[cell(value) or "-" for value in row] for row in rows]
    if not cells:
        return []
    cells.insert(0, [head.upper().replace("_", " ") for head in heads])
    widths = [max(len(row[index]) for row in cells) for index in range(len(heads))]
    return ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def pairs(row: Row) -> list[str]:
    """Return one line a field, values aligned; one item a line where a value is a list."""
    width = max((len(name) for name in row), default=0)
    lines = []
    for name, value in row.items():
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        parts = [cell(item) for item in value] if listed and isinstance(value, Sequence) else [cell(value)]
        for index, part in enumerate(parts or ["-"]):
            lines.append(f"{name if index == 0 else '':<{width}}  {part or '-'}")
    return lines


def cell(value: Value) -> str:
    """Return *value* as text for people, on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={cell(part)}" for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(cell(part) for part in value)
    return printable(str(value))


def printable(text: str) -> str:
    """Return *text* with control characters escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def age(since: float | None, now: float | None = None) -> str:
    """Return how long ago *since* (Unix seconds) was, in at most two units; ``never`` for None."""
    if since is None:
        return "never"
    seconds = max(0.0, (time.time() if now is None else now) - since)
    return duration(seconds)


def duration(seconds: float) -> str:
    """Return a duration for people: ``35 ms``, ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, small, size in (("d", "h", 3600), ("h", "min", 60), ("min", "s", 1)):
        large = size * (24 if unit == "d" else 60)
        if whole >= large:
            rest = whole % large // size
            return f"{whole // large} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"
