# SPDX-License-Identifier: Apache-2.0
"""nf_tables that understand what the zones driver says to ``nft``, and print as nft 1.0.6 does.

Stands in for the program through the ``Runner`` protocol.  A script is taken as a
whole or not at all; anything that the driver has no reason to say fails loudly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from agent.core.errors import CommandError
from tests.fakes.drivers import Fuse

Expression: TypeAlias = dict[str, Any]
Elements: TypeAlias = dict[str, int | None]


class _RefusedError(Exception):
    """A script that nft or the kernel would refuse."""


@dataclass
class Chain:
    """Rules as expressions; ``hook`` is empty or what makes it a base chain."""

    hook: Expression = field(default_factory=dict)
    rules: list[list[Expression]] = field(default_factory=list)


@dataclass
class Table:
    """Chains and sets (maps hold a number for each element) by name."""

    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, Elements] = field(default_factory=dict)
    maps: set[str] = field(default_factory=set)

    def copied(self) -> Table:
        """Return one that can be changed by itself."""
        chains = {name: Chain(chain.hook, list(chain.rules)) for name, chain in self.chains.items()}
        return Table(chains, {name: dict(elements) for name, elements in self.sets.items()}, set(self.maps))


class FakeNft:
    """Tables by (family, name).

    ``hang`` lets the next script run out of time, after it was taken or ("before")
    without effect; ``missing`` lets all of them fail.  ``changes`` counts scripts that
    were taken.
    """

    def __init__(self) -> None:
        self.tables: dict[tuple[str, str], Table] = {}
        self.fuse: Fuse | None = None
        self.hang = ""
        self.missing = False
        self.changes = 0

    def __call__(
        self,
        argv: tuple[str, ...],
        *,
        stdin: str | bytes = b"",
        timeout: float = 10.0,
        env: Mapping[str, str] | None = None,
    ) -> str:
        script = stdin.decode() if isinstance(stdin, bytes) else stdin
        match argv:
            case ("nft", "-j", "list", "table", family, name):
                return self._list(argv, family, name)
            case ("nft", "list", "chain", family, name, chain):
                there = (family, name) in self.tables and chain in self.tables[family, name].chains
                assert not there, "the fake prints chains only as JSON"
                raise CommandError(argv, 1, "Error: No such file or directory\n")
            case ("nft", "--check", "-f", "-"):
                self._execute(argv, self._copied(), script)
            case ("nft", "-f", "-"):
                self._take(argv, script)
            case _:
                raise AssertionError(f"unknown command: {argv}")
        return ""

    def zones(self) -> Elements:
        """Return bridge -> zone as in force."""
        table = self.tables.get(("inet", "hostplane"))
        return dict(table.sets.get("zones", {})) if table is not None else {}

    def dump(self) -> str:
        """Return everything as sorted text."""
        lines = []
        for key, table in self.tables.items():
            lines += [f"{key} chain {name} {chain}" for name, chain in table.chains.items()]
            lines += [f"{key} set {name} {sorted(elements.items())}" for name, elements in table.sets.items()]
        return "\n".join(sorted(lines))

    def _copied(self) -> dict[tuple[str, str], Table]:
        return {name: table.copied() for name, table in self.tables.items()}

    def _take(self, argv: tuple[str, ...], script: str) -> None:
        if self.fuse is not None:
            self.fuse.burn()
        if self.hang == "before":
            self.hang = ""
            raise CommandError(argv, None, "no end after 10 s; ")
        if self.missing:
            raise CommandError(argv, 1, "Error: Could not process rule: Out of memory\n")
        tables = self._copied()
        self._execute(argv, tables, script)
        self.tables = tables
        self.changes += 1
        if self.fuse is not None:
            self.fuse.burn()
        if self.hang:
            self.hang = ""
            raise CommandError(argv, None, "no end after 10 s; ")

    def _execute(self, argv: tuple[str, ...], tables: dict[tuple[str, str], Table], script: str) -> None:
        lines = iter(script.splitlines())
        try:
            for line in lines:
                match line.split(" ", 4):
                    case ["add", "table", family, name]:
                        tables.setdefault((family, name), Table())
                    case ["delete", "table", family, name]:
                        if tables.pop((family, name), None) is None:
                            raise _RefusedError("No such file or directory")
                    case ["table", family, name, "{"]:
                        _fill(tables.setdefault((family, name), Table()), lines)
                    case ["add" | "delete" as verb, "element", family, name, rest]:
                        _change_elements(tables[family, name], rest, add=verb == "add")
                    case _:
                        raise AssertionError(f"unknown line: {line}")
        except (_RefusedError, KeyError) as err:
            raise CommandError(argv, 1, f"Error: Could not process rule: {err}\n") from None

    def _list(self, argv: tuple[str, ...], family: str, name: str) -> str:
        table = self.tables.get((family, name))
        if table is None:
            raise CommandError(argv, 1, "Error: No such file or directory\n")
        where = {"family": family, "table": name}
        printed: list[Expression] = [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": family, "name": name}}]
        for set_name, elements in table.sets.items():
            is_map = set_name in table.maps
            kind = {"type": "ifname", "map": "integer"} if is_map else {"type": "ifname"}
            listed = [[key, value] if is_map else key for key, value in elements.items()]
            printed.append(
                {
                    "map" if is_map else "set": {
                        **where,
                        "name": set_name,
                        **kind,
                        **({"elem": listed} if listed else {}),
                    }
                }
            )
        printed += [{"chain": {**where, "name": chain, **made.hook}} for chain, made in table.chains.items()]
        for chain, made in table.chains.items():
            printed += [{"rule": {**where, "chain": chain, "handle": 9, "expr": rule}} for rule in made.rules]
        return json.dumps({"nftables": printed})


def _fill(table: Table, lines: Any) -> None:
    """Execute what stands between the braces of a table."""
    chain: Chain | None = None
    for line in map(str.strip, lines):
        if line == "}" and chain is None:
            return
        if line == "}":
            chain = None
        elif chain is None:
            kind, name, *_ = line.split()
            assert kind in ("map", "set", "chain"), line
            if kind == "chain":
                chain = table.chains.setdefault(name, Chain())
            else:
                table.sets.setdefault(name, {})
                table.maps |= {name} if kind == "map" else set()
        elif line.startswith("type "):
            kind, hook, priority = re.fullmatch(
                r"type (\w+) hook (\w+) priority (-?\d+); policy accept;", line
            ).groups()  # type: ignore[union-attr]
            chain.hook = {"type": kind, "hook": hook, "prio": int(priority), "policy": "accept"}
        else:
            chain.rules.append(parse_rule(line))
    raise AssertionError("a table without an end")


def _change_elements(table: Table, text: str, *, add: bool) -> None:
    name, _, listed = text.partition(" ")
    elements = table.sets[name]
    for part in listed.strip("{} ").split(","):
        key, _, value = (word.strip() for word in part.partition(":"))
        key = key.strip('"')
        number = int(value) if value else None
        if not add and key not in elements:
            raise _RefusedError("No such file or directory")
        if add and elements.get(key, number) != number:
            raise _RefusedError("File exists")
        if add:
            elements[key] = number
        else:
            del elements[key]


def _meta(key: str) -> Expression:
    return {"meta": {"key": key}}


def _matches(left: Expression, right: Any) -> Expression:
    return {"match": {"op": "==", "left": left, "right": right}}


def _sets_mark(operator: str, number: str) -> Expression:
    return {"mangle": {"key": _meta("mark"), "value": {operator: [_meta("mark"), int(number, 16)]}}}


_ETHER_TYPE: Expression = {"payload": {"protocol": "ether", "field": "type"}}
_FRAG_OFF: Expression = {"payload": {"protocol": "ip", "field": "frag-off"}}
_ZONE: Expression = {"ct": {"key": "zone"}}
_GRAMMAR: tuple[tuple[re.Pattern[str], Callable[..., Expression]], ...] = tuple(
    (re.compile(pattern + r"(?: |$)"), make)
    for pattern, make in (
        (r'(iifname|oifname) (?:"([^"]+)"|(@\w+))', lambda key, name, set_: _matches(_meta(key), name or set_)),
        (r"meta mark set meta mark ([&|]) (0x\w+)", _sets_mark),
        (
            r"meta mark & (0x\w+) == (0x\w+)",
            lambda mask, value: _matches({"&": [_meta("mark"), int(mask, 16)]}, int(value, 16)),
        ),
        (
            r"ct zone set iifname map (@\w+)",
            lambda name: {"mangle": {"key": _ZONE, "value": {"map": {"key": _meta("iifname"), "data": name}}}},
        ),
        (r"ip frag-off & (0x\w+) == 0", lambda mask: _matches({"&": [_FRAG_OFF, int(mask, 16)]}, 0)),
        (r"exthdr frag missing", lambda: _matches({"exthdr": {"name": "frag"}}, right=False)),
        (
            r"ether type (?:(\w+)|\{ ([\w, ]+) \})",
            lambda one, several: _matches(_ETHER_TYPE, one or {"set": several.split(", ")}),
        ),
        (r"goto (\w+)", lambda target: {"goto": {"target": target}}),
        (r"(accept|drop|return|notrack)", lambda verdict: {verdict: None}),
    )
)


def parse_rule(text: str) -> list[Expression]:
    """Return a rule as nft prints it in JSON."""
    found = []
    while text:
        made = next(((match, make) for pattern, make in _GRAMMAR if (match := pattern.match(text))), None)
        assert made is not None, f"unknown words: {text}"
        match, make = made
        found.append(make(*match.groups()))
        text = text[match.end() :]
    return found
