# SPDX-License-Identifier: Apache-2.0
"""YAML text as a tree in which each value knows its line.

Scalars stay text: what a value means is decided by the field that it is for, not
by YAML 1.1's guesses (a MAC address of digits only would become a number of base
60, ``no`` a boolean).  Input is not trusted: size, depth and the number of values
after aliases were followed are bounded, tags and duplicate keys are errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import yaml

from agent.core.errors import InputError

MAX_BYTES = 10 * 1024 * 1024
MAX_DEPTH = 16
MAX_ALIASES = 10_000
MAX_VALUES = 2_000_000  # with each alias counted as the values that it stands for

# The C parser is about ten times faster; PyYAML has it only where libyaml was there at build time.
_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as written; ``quoted`` tells ``"null"`` from ``null``."""

    text: str
    quoted: bool
    line: int
    size: int = 1

    @property
    def is_null(self) -> bool:
        """True for an empty value, ``~`` and ``null``."""
        return not self.quoted and self.text in ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list; ``size`` counts the values in it, at all depths."""

    items: tuple[Node, ...]
    line: int
    size: int = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value, and the line of the key."""

    line: int
    value: Node


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping from text keys, in the order of the file."""

    entries: Mapping[str, Entry]
    line: int
    size: int = 1


Node: TypeAlias = Scalar | Sequence | Table


def read_tree(data: bytes, source: str) -> Node | None:
    """Return the one document in *data*, None if it is empty.

    Raises InputError that starts with *source* and the line.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{source}: {len(data)} bytes are more than the {MAX_BYTES} that are read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise InputError(f"{source}:{line}: the file is not UTF-8 text") from None
    try:
        return _Composer(yaml.parse(text, Loader=_LOADER), source).document()
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        # The end of the file may count as a line of its own, which no editor shows.
        where = f"{source}:{min(mark.line + 1, len(text.splitlines()))}" if mark else source
        raise InputError(f"{where}: not valid YAML: {err.problem or err.context}") from None
    except yaml.reader.ReaderError as err:
        line = text.count("\n", 0, err.position) + 1
        raise InputError(f"{source}:{line}: not valid YAML: {err.reason}") from None


class _Composer:
    """Builds the tree from the parser's events."""

    def __init__(self, events: Iterator[yaml.Event], source: str) -> None:
        self._events = events
        self._source = source
        self._anchors: dict[str, Node] = {}
        self._aliases = 0
        self._values = 0

    def document(self) -> Node | None:
        node = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(event, "a second document starts here; one file holds one")
                node = self._node(next(self._events), 0)
        if isinstance(node, Scalar) and node.is_null:
            return None
        return node

    def _error(self, event: yaml.Event, text: str) -> InputError:
        return InputError(f"{self._source}:{_line(event)}: {text}")

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH} levels")
        if not isinstance(event, yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent):
            raise self._error(event, "not valid YAML")
        if event.tag is not None and event.tag != "!":
            raise self._error(event, f"the tag {event.tag} is not understood; tags are not used here")
        node = self._untagged(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _untagged(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            self._count(event, 1)
            return Scalar(event.value, event.style is not None and event.style != "", _line(event))
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(event, depth)
        return self._table(event, depth)

    def _alias(self, event: yaml.AliasEvent) -> Node:
        node = self._anchors.get(event.anchor or "")
        if node is None:
            raise self._error(event, f"the alias *{event.anchor} has no anchor &{event.anchor} before it")
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise self._error(event, f"more than {MAX_ALIASES} aliases")
        self._count(event, node.size)
        return node

    def _count(self, event: yaml.Event, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise self._error(event, f"more than {MAX_VALUES} values, aliases followed")

    def _sequence(self, start: yaml.Event, depth: int) -> Sequence:
        items: list[Node] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, depth + 1))
        return Sequence(tuple(items), _line(start), 1 + sum(item.size for item in items))

    def _table(self, start: yaml.Event, depth: int) -> Table:
        entries: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._node(event, depth + 1)
            if not isinstance(key, Scalar):
                raise self._error(event, "a key must be a plain word")
            value = self._node(next(self._events), depth + 1)
            if key.text == "<<" and not key.quoted:
                for name, entry in self._merge(event, value).items():
                    merged.setdefault(name, entry)
            elif key.text in entries:
                raise self._error(
                    event, f"the key {key.text!r} stands here again (first in line {entries[key.text].line})"
                )
            else:
                entries[key.text] = Entry(key.line, value)
        everything = {**entries, **{name: entry for name, entry in merged.items() if name not in entries}}
        return Table(everything, _line(start), 1 + sum(1 + entry.value.size for entry in everything.values()))

    def _merge(self, event: yaml.Event, value: Node) -> dict[str, Entry]:
        """Return what the merge key ``<<: *anchor`` (or a list of them) brings in; earlier ones win."""
        sources = value.items if isinstance(value, Sequence) else (value,)
        result: dict[str, Entry] = {}
        for table in sources:
            if not isinstance(table, Table):
                raise self._error(event, "<< takes a mapping or a list of mappings")
            for name, entry in table.entries.items():
                result.setdefault(name, entry)
        return result


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
