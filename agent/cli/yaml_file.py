# SPDX-License-Identifier: Apache-2.0
"""The declarative file: YAML to ``Document``, each complaint with file, line, object and field.

Everything wrong in a file is told at once, not one thing per run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from agent.cli.fields import (
    ADDRESS_GROUP,
    HOST,
    METADATA_SERVICE,
    NETWORK,
    PORT,
    RULE_FIELDS,
    SECURITY_GROUP,
    SUBNET,
    Field,
    Kind,
    Noun,
    field_of,
)
from agent.cli.nouns import SECTIONS
from agent.cli.output import printable
from agent.cli.router_fields import ADDRESS_SCOPE, EXTERNAL, FLOATING_IP, PORT_FORWARDING, ROUTER, SUBNET_POOL
from agent.cli.suggest import near
from agent.cli.yaml_tree import Node, Sequence, Table, read_tree
from agent.cli.yaml_values import WrongValueError, is_null, known, listed, value_of, what
from agent.core.errors import InputError
from agent.store.document import Document, Entry, F, MetadataServiceFields, PortForwardingFields, RuleFields

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
            self.complain(tree.line, f"a file has sections ({', '.join(SECTIONS)}), this is {what(tree)}")
            return Document()
        for name, entry in tree.entries.items():
            if name not in SECTIONS:
                self.complain(entry.line, f"unknown section {name!r}{near(name, SECTIONS) or known(SECTIONS)}")
        return Document(
            networks=tuple(self._section(tree, NETWORK)),
            subnets=tuple(self._section(tree, SUBNET)),
            ports=tuple(self._section(tree, PORT)),
            hosts=tuple(self._section(tree, HOST)),
            security_groups=tuple(self._section(tree, SECURITY_GROUP)),
            address_groups=tuple(self._section(tree, ADDRESS_GROUP)),
            metadata_service=self._metadata_service(tree),
            address_scopes=tuple(self._section(tree, ADDRESS_SCOPE)),
            subnet_pools=tuple(self._section(tree, SUBNET_POOL)),
            routers=tuple(self._section(tree, ROUTER)),
            floating_ips=tuple(self._section(tree, FLOATING_IP)),
            port_forwardings=tuple(self._port_forwardings(tree)),
        )

    def _metadata_service(self, tree: Table) -> Entry[MetadataServiceFields] | None:
        """Return what the section without names says; nothing, if nothing stands there."""
        noun = METADATA_SERVICE
        section = tree.entries.get(noun.section)
        if section is None or is_null(section.value):
            return None
        if not isinstance(section.value, Table):
            self.complain(section.line, f"{noun.section}: fields belong here, not {what(section.value)}")
            return None
        return Entry("", noun.make(**self._fields(section.value, noun.fields, noun.name)), section.line)

    def _section(self, tree: Table, noun: Noun[F]) -> Iterator[Entry[F]]:
        section = tree.entries.get(noun.section)
        if section is None or is_null(section.value):
            return
        if not isinstance(section.value, Table):
            self.complain(
                section.line, f"{noun.section}: names and their fields belong here, not {what(section.value)}"
            )
            return
        for name, entry in section.value.entries.items():
            label = f"{noun.name} {printable(name)}"
            if not name or len(name) > MAX_NAME:
                self.complain(entry.line, f"{noun.section}: a name has 1 to {MAX_NAME} characters")
            elif isinstance(entry.value, Table):
                table = self._apart(entry.value, noun, label)
                yield Entry(name, noun.make(**self._fields(table, noun.fields, label)), entry.line)
            elif is_null(entry.value):
                yield Entry(name, noun.make(), entry.line)
            elif noun.short and isinstance(entry.value, Sequence):
                fields = Table({noun.short: entry}, entry.line)
                yield Entry(name, noun.make(**self._fields(fields, noun.fields, label)), entry.line)
            else:
                self.complain(entry.line, f"{label}: fields belong here, not {what(entry.value)}")

    def _apart(self, table: Table, noun: Noun[F], label: str) -> Table:
        """Return *table* with fields that stand together under one key by their own names."""
        entries = {}
        for name, entry in table.entries.items():
            names = noun.together.get(name)
            if names is None:
                if any(name in apart.values() for apart in noun.together.values()):
                    where = ", ".join(noun.together)
                    self.complain(entry.line, f"{label}: {name!r} is written under {where} in a file")
                    continue
                entries[name] = entry
            elif is_null(entry.value):  # there is none of it
                entries[next(iter(names.values()))] = entry
            elif not isinstance(entry.value, Table):
                self.complain(entry.line, f"{label}: {name}: keys and values belong here, not {what(entry.value)}")
            else:
                for part, value in entry.value.entries.items():
                    if part in names:
                        entries[names[part]] = value
                    else:
                        hint = near(part, names) or known(names)
                        self.complain(value.line, f"{label}: {name}: unknown key {part!r}{hint}")
        return Table(entries, table.line, table.size)

    def _port_forwardings(self, tree: Table) -> Iterator[Entry[PortForwardingFields]]:
        """Yield the forwardings of a list; they are told by their number, from 1."""
        noun = PORT_FORWARDING
        section = tree.entries.get(noun.section)
        if section is None or is_null(section.value):
            return
        if not isinstance(section.value, Sequence):
            self.complain(section.line, f"{noun.section}: a list belongs here, not {what(section.value)}")
            return
        for number, item in enumerate(section.value.items, 1):
            label = f"{noun.name} {number}"
            if not isinstance(item, Table):
                self.complain(item.line, f"{label}: keys and values belong here, not {what(item)}")
                continue
            values = self._fields(item, (EXTERNAL, *noun.fields), label)
            external = values.pop(EXTERNAL.name, None)
            if isinstance(external, str):
                yield Entry(external, noun.make(**values), item.line)
            elif EXTERNAL.name not in item.entries:
                self.complain(item.line, f"{label}: {EXTERNAL.name} is required ({EXTERNAL.help})")

    def _fields(self, table: Table, fields: tuple[Field, ...], label: str) -> dict[str, object]:
        values: dict[str, object] = {}
        names = [field.name for field in fields]
        for name, entry in table.entries.items():
            field = field_of(fields, name)
            if field is None:
                hint = _QUOTES if name[:1].isdigit() else near(name, names) or known(names)
                self.complain(entry.line, f"{label}: unknown key {name!r}{hint}")
                continue
            try:
                if field.kind is Kind.RULES:
                    values[name] = tuple(self._rules(entry.value, label))
                else:
                    values[name] = value_of(entry.value, field)
            except WrongValueError as err:
                self.complain(err.line, f"{label}: {name}: {err}")
        return values

    def _rules(self, node: Node, label: str) -> Iterator[RuleFields]:
        """Yield the rules of a list; they are told by their number, from 1."""
        for number, item in enumerate(listed(node), 1):
            where = f"{label}, rule {number}"
            if isinstance(item, Table):
                values = self._fields(item, RULE_FIELDS, where)
                yield _rule(values, item.line)
            else:
                self.complain(item.line, f"{where}: keys and values belong here, not {what(item)}")


def _rule(values: Mapping[str, object], line: int) -> RuleFields:
    make: Callable[..., RuleFields] = RuleFields
    return make(**values, line=line)
