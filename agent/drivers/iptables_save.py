# SPDX-License-Identifier: Apache-2.0
"""What ``iptables-save`` and ``iptables -S`` print, as items.

Ours are chains whose name begins with ``hp-``, with everything in them, and in other
chains the rules that carry a comment ``hp:<hash>``.  Any other rule that jumps to a
chain of ours belongs to whoever made it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.core import naming
from agent.core.plan import Key
from agent.drivers.iptables_rule import canonical_rule

TABLE = "filter"  # what text is of that names no table
LIST = "*"  # value of a list chain
FIRST = "first"  # value of a jump of ours that is where it belongs
_OUR_COMMENT = re.compile(r'--comment "?hp:[0-9a-f]{16}"?(?: |$)')
_TARGET = re.compile(r"(?:^| )-[jg] (\S+)", re.MULTILINE)


@dataclass(slots=True)
class Saved:
    """Items by key, in canonical form; ``raw`` has the text of rules that were printed in another."""

    values: dict[Key, str] = field(default_factory=dict)
    raw: dict[Key, str] = field(default_factory=dict)


def chain_key(family: int, table: str, chain: str) -> Key:
    """Return the key of a chain."""
    return f"{family} {table} {chain}"


def rule_key(family: int, table: str, chain: str, rule: str) -> Key:
    """Return the key of a rule."""
    return f"{family} {table} {chain} {rule}"


def split_key(key: Key) -> tuple[str, str, str, str | None]:
    """Return family, table, chain and, unless it is the key of a chain, rule."""
    family, table, chain, *rule = key.split(" ", 3)
    return family, table, chain, rule[0] if rule else None


def targets(rules: Iterable[str]) -> frozenset[str]:
    """Return the chains of ours that *rules* jump or go to."""
    return frozenset(name for rule in rules for name in _TARGET.findall(rule) if naming.is_our_chain(name))


def foreign_referrers(text: str, chain: str, table: str = TABLE) -> list[str]:
    """Return the rules of *table* in *text* that jump to *chain* and are not ours."""
    found, at = [], TABLE
    for line in text.splitlines():
        if line.startswith("*"):
            at = line[1:]
        elif at == table and _is_foreign(line) and chain in _TARGET.findall(line):
            found.append(line)
    return found


def count_times(value: str) -> int:
    """Return how often a rule stands in its chain, from its value as ``parse_save`` gives it."""
    if value.endswith(" times"):
        return int(value.split(" ", 1)[0])
    return value.count(",") + 1 if value.startswith("rules ") else 1


def parse_save(text: str, family: int, table: str = TABLE) -> Saved:
    """Return what is ours in *text*: tables of *family*, or one chain of *table*.

    A rule that stands in a list chain more than once has the value ``N times``; a jump of
    ours that is not alone, or behind rules of others, ``rules N, M``.
    """
    saved = Saved()
    part = _Part(saved, family, table)
    for line in text.splitlines():
        if line.startswith("*"):
            part.finish()
            part = _Part(saved, family, line[1:])
        elif line.startswith((":hp-", "-N hp-")):
            part.add_chain(line.removeprefix("-N ").removeprefix(":").split(" ", 1)[0])
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            part.add_rule(chain, rule)
    part.finish()
    return saved


@dataclass(slots=True)
class _Part:
    """One table, while it is read into *saved*."""

    saved: Saved
    family: int
    table: str
    ordered: dict[str, list[str]] = field(default_factory=dict)
    jumps: dict[Key, list[int]] = field(default_factory=dict)
    behind: dict[str, int] = field(default_factory=dict)  # foreign chain -> position of its first rule not ours
    lengths: dict[str, int] = field(default_factory=dict)

    def add_chain(self, chain: str) -> None:
        """Note a chain of ours."""
        if naming.is_list_chain(chain):
            self.saved.values[chain_key(self.family, self.table, chain)] = LIST
        else:
            self.ordered[chain] = []

    def add_rule(self, chain: str, rule: str) -> None:
        """Note a rule, whosever it is."""
        if chain in self.ordered:
            self.ordered[chain].append(canonical_rule(rule))
        elif naming.is_our_chain(chain):
            key = self._note_raw(chain, rule)
            before = self.saved.values.get(key)
            self.saved.values[key] = "" if before is None else f"{count_times(before) + 1} times"
        else:
            position = self.lengths[chain] = self.lengths.get(chain, 0) + 1
            if not _OUR_COMMENT.search(rule):
                self.behind.setdefault(chain, position)
            else:
                self.jumps.setdefault(self._note_raw(chain, rule), []).append(position)

    def finish(self) -> None:
        """Write down what is known only when all of the table was seen."""
        for chain, rules in self.ordered.items():
            self.saved.values[chain_key(self.family, self.table, chain)] = "\n".join(rules)
        for key, positions in self.jumps.items():
            chain = split_key(key)[2]
            alone = len(positions) == 1 and positions[0] < self.behind.get(chain, positions[0] + 1)
            self.saved.values[key] = FIRST if alone else f"rules {', '.join(map(str, positions))}"

    def _note_raw(self, chain: str, rule: str) -> Key:
        """Return the key of *rule*, and keep its text if it is not canonical: deleting it may ask for that."""
        canonical = canonical_rule(rule)
        key = rule_key(self.family, self.table, chain, canonical)
        if canonical != rule:
            self.saved.raw[key] = rule
        return key


def _is_foreign(line: str) -> bool:
    return line.startswith("-A ") and not line.startswith("-A hp-") and not _OUR_COMMENT.search(line)
