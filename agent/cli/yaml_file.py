# SPDX-License-Identifier: Apache-2.0
"""The declarative file: YAML to ``Document``, each complaint with file, line, object and field.

Everything wrong in a file is told at once, not one thing per run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from agent.cli.fields import (
    ADDRESS_GROUP,
    HOST,
    NETWORK,
    NOUNS,
    PORT,
    RULE_FIELDS,
    SECURITY_GROUP,
    SUBNET,
    Field,
    Kind,
    Noun,
    field_of,
)
from agent.cli.output import printable
from agent.cli.suggest import near
from agent.cli.yaml_tree import Node, Scalar, Sequence, Table, read_tree
from agent.core.errors import InputError
from agent.store.document import Document, Entry, F, FixedIpRequest, RuleFields

MAX_COMPLAINTS = 20
MAX_NAME = 255
_QUOTES = "; a value with commas needs quotes around it"


def parse_file(data: bytes, source: str) -> Document:
    """Return what *data* asks for; *source* is what errors call the file.

    Raises InputError with one line for each mistake (at most 20).
    """
    tree = read_tree(data, source)
    reader = _Reader(source)
    document = reader.document(tree)
    if reader.complaints:
        shown = reader.complaints[:MAX_COMPLAINTS]
        left = len(reader.complaints) - len(shown)
        raise InputError("\n".join([*shown, *([f"{source}: {left} more mistakes"] if left else [])]))
    return document


def has_no_section(data: bytes, source: str) -> bool:
    """Tell whether a file that can be read names nothing, not even an empty section."""
    tree = read_tree(data, source)
    return not (isinstance(tree, Table) and tree.entries)


class _Reader:
    """Walks the tree, collects complaints."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.complaints: list[str] = []

    def complain(self, line: int, text: str) -> None:
        self.complaints.append(f"{self._source}:{line}: {text}")

    def document(self, tree: Node | None) -> Document:
        if tree is None:
            return Document()
        if not isinstance(tree, Table):
            self.complain(tree.line, f"a file has sections ({', '.join(NOUNS)}), this is {_what(tree)}")
            return Document()
        for name, entry in tree.entries.items():
            if name not in NOUNS:
                self.complain(entry.line, f"unknown section {name!r}{near(name, NOUNS) or _known(NOUNS)}")
        return Document(
            networks=tuple(self._section(tree, NETWORK)),
            subnets=tuple(self._section(tree, SUBNET)),
            ports=tuple(self._section(tree, PORT)),
            hosts=tuple(self._section(tree, HOST)),
            security_groups=tuple(self._section(tree, SECURITY_GROUP)),
            address_groups=tuple(self._section(tree, ADDRESS_GROUP)),
        )

    def _section(self, tree: Table, noun: Noun[F]) -> Iterator[Entry[F]]:
        section = tree.entries.get(noun.section)
        if section is None or _is_null(section.value):
            return
        if not isinstance(section.value, Table):
            self.complain(
                section.line, f"{noun.section}: names and their fields belong here, not {_what(section.value)}"
            )
            return
        for name, entry in section.value.entries.items():
            label = f"{noun.name} {printable(name)}"
            if not name or len(name) > MAX_NAME:
                self.complain(entry.line, f"{noun.section}: a name has 1 to {MAX_NAME} characters")
            elif isinstance(entry.value, Table):
                yield Entry(name, noun.make(**self._fields(entry.value, noun.fields, label)), entry.line)
            elif _is_null(entry.value):
                yield Entry(name, noun.make(), entry.line)
            elif noun.short and isinstance(entry.value, Sequence):
                fields = Table({noun.short: entry}, entry.line)
                yield Entry(name, noun.make(**self._fields(fields, noun.fields, label)), entry.line)
            else:
                self.complain(entry.line, f"{label}: fields belong here, not {_what(entry.value)}")

    def _fields(self, table: Table, fields: tuple[Field, ...], label: str) -> dict[str, object]:
        values: dict[str, object] = {}
        names = [field.name for field in fields]
        for name, entry in table.entries.items():
            field = field_of(fields, name)
            if field is None:
                hint = _QUOTES if name[:1].isdigit() else near(name, names) or _known(names)
                self.complain(entry.line, f"{label}: unknown key {name!r}{hint}")
                continue
            try:
                if field.kind is Kind.RULES:
                    values[name] = tuple(self._rules(entry.value, label))
                else:
                    values[name] = _value(entry.value, field)
            except _WrongValueError as err:
                self.complain(err.line, f"{label}: {name}: {err}")
        return values

    def _rules(self, node: Node, label: str) -> Iterator[RuleFields]:
        """Yield the rules of a list; they are told by their number, from 1."""
        for number, item in enumerate(_list(node), 1):
            where = f"{label}, rule {number}"
            if isinstance(item, Table):
                values = self._fields(item, RULE_FIELDS, where)
                yield _rule(values, item.line)
            else:
                self.complain(item.line, f"{where}: keys and values belong here, not {_what(item)}")


def _rule(values: Mapping[str, object], line: int) -> RuleFields:
    make: Callable[..., RuleFields] = RuleFields
    return make(**values, line=line)


class _WrongValueError(Exception):
    """A value that does not fit its field; the text completes "object: field: "."""

    def __init__(self, node: Node, text: str) -> None:
        super().__init__(text)
        self.line = node.line


def _value(node: Node, field: Field) -> object:
    if field.kind is Kind.TEXTS and field.nullable and _is_null(node):
        if isinstance(node, Scalar) and not node.text:  # what was forgotten must not open a filter
            raise _WrongValueError(node, "a value is missing; write [...], [] or null")
        return None
    if field.kind is Kind.TEXTS:
        return tuple(_text(item) for item in _list(node))
    if field.kind is Kind.FIXED_IPS:
        return tuple(_fixed_ip(item) for item in _list(node))
    if field.kind is Kind.MAPPING:
        return _mapping(node)
    if _is_null(node):
        if field.nullable:
            return None
        raise _WrongValueError(node, "a value is missing")
    if field.kind is Kind.INTEGER:
        return _integer(node)
    if field.kind is Kind.BOOLEAN:
        return _boolean(node)
    return _text(node)


def _text(node: Node) -> str:
    if not isinstance(node, Scalar) or node.is_null:
        raise _WrongValueError(node, f"must be text, not {_what(node)}")
    return node.text


def _integer(node: Node) -> int:
    text = node.text if isinstance(node, Scalar) else ""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise _WrongValueError(node, f"must be a whole number, not {_what(node)}")
    return int(text)


def _boolean(node: Node) -> bool:
    text = node.text.lower() if isinstance(node, Scalar) else ""
    if text not in ("true", "false", "yes", "no"):
        raise _WrongValueError(node, f"must be true or false, not {_what(node)}")
    return text in ("true", "yes")


def _list(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Sequence):
        return node.items
    if _is_null(node):
        return ()
    raise _WrongValueError(node, f"must be a list, not {_what(node)}; write [...] around it")


def _mapping(node: Node) -> Mapping[str, str]:
    if _is_null(node):
        return {}
    if not isinstance(node, Table):
        raise _WrongValueError(node, f"must be a mapping, not {_what(node)}")
    return {name: _text(entry.value) for name, entry in node.entries.items()}


def _fixed_ip(node: Node) -> FixedIpRequest:
    if not isinstance(node, Table):
        return FixedIpRequest(address=_text(node))
    known = ("address", "subnet")
    for name, entry in node.entries.items():
        if name not in known:
            raise _WrongValueError(entry.value, f"unknown key {name!r}{near(name, known) or _known(known)}")
    if not node.entries:
        raise _WrongValueError(node, "give an address, a subnet or both")
    return FixedIpRequest(**{name: _text(entry.value) for name, entry in node.entries.items()})


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.is_null


def _what(node: Node) -> str:
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Table):
        return "a mapping"
    return "nothing" if node.is_null else repr(node.text[:60])


def _known(names: Mapping[str, object] | list[str] | tuple[str, ...]) -> str:
    return f" (known: {', '.join(names)})"
