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

TABLE = "filter"
LIST = "*"  # value of a list chain
FIRST = "first"  # value of a jump of ours that is where it belongs
_OUR_COMMENT = re.compile(r'--comment "?hp:[0-9a-f]{16}"?(?: |$)')
_TARGET = re.compile(r"(?:^| )-[jg] (\S+)", re.MULTILINE)


@dataclass(slots=True)
class Saved:
    """Items by key, in canonical form; ``raw`` has the text of rules that were printed in another."""

    values: dict[Key, str] = field(default_factory=dict)
    raw: dict[Key, str] = field(default_factory=dict)


def chain_key(family: int, chain: str) -> Key:
    """Return the key of a chain."""
    return f"{family} {TABLE} {chain}"


def rule_key(family: int, chain: str, rule: str) -> Key:
    """Return the key of a rule."""
    return f"{family} {TABLE} {chain} {rule}"


def split_key(key: Key) -> tuple[str, str, str, str | None]:
    """Return family, table, chain and, unless it is the key of a chain, rule."""
    family, table, chain, *rule = key.split(" ", 3)
    return family, table, chain, rule[0] if rule else None


def targets(rules: Iterable[str]) -> frozenset[str]:
    """Return the chains of ours that *rules* jump or go to."""
    return frozenset(name for rule in rules for name in _TARGET.findall(rule) if naming.is_our_chain(name))


def foreign_referrers(text: str, chain: str) -> list[str]:
    """Return the rules in *text* that jump to *chain* and are not ours."""
    return [line for line in text.splitlines() if _is_foreign(line) and chain in _TARGET.findall(line)]


def count_times(value: str) -> int:
    """Return how often a rule stands in its chain, from its value as ``parse_save`` gives it."""
    if value.endswith(" times"):
        return int(value.split(" ", 1)[0])
    return value.count(",") + 1 if value.startswith("rules ") else 1


def parse_save(text: str, family: int) -> Saved:
    """Return what is ours in *text*, the ``filter`` table of *family* or one chain of it.

    A rule that stands in a list chain more than once has the value ``N times``; a jump of
    ours that is not alone, or behind rules of others, ``rules N, M``.
    """
    saved = Saved()
    ordered: dict[str, list[str]] = {}
    jumps: dict[Key, list[int]] = {}
    behind: dict[str, int] = {}  # foreign chain -> position of its first rule that is not ours
    lengths: dict[str, int] = {}
    for line in text.splitlines():
        if line.startswith((":hp-", "-N hp-")):
            chain = line.removeprefix("-N ").removeprefix(":").split(" ", 1)[0]
            if naming.is_list_chain(chain):
                saved.values[chain_key(family, chain)] = LIST
            else:
                ordered[chain] = []
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            if chain in ordered:
                ordered[chain].append(canonical_rule(rule))
            elif naming.is_our_chain(chain):
                _add_rule(saved, family, chain, rule)
            else:
                position = lengths[chain] = lengths.get(chain, 0) + 1
                if not _OUR_COMMENT.search(rule):
                    behind.setdefault(chain, position)
                    continue
                key = _note_raw(saved, family, chain, rule)
                jumps.setdefault(key, []).append(position)
    for chain, rules in ordered.items():
        saved.values[chain_key(family, chain)] = "\n".join(rules)
    for key, positions in jumps.items():
        chain = split_key(key)[2]
        alone = len(positions) == 1 and positions[0] < behind.get(chain, positions[0] + 1)
        saved.values[key] = FIRST if alone else f"rules {', '.join(map(str, positions))}"
    return saved


def _add_rule(saved: Saved, family: int, chain: str, rule: str) -> None:
    """Note a rule of a list chain."""
    key = _note_raw(saved, family, chain, rule)
    before = saved.values.get(key)
    saved.values[key] = "" if before is None else f"{count_times(before) + 1} times"


def _note_raw(saved: Saved, family: int, chain: str, rule: str) -> Key:
    """Return the key of *rule*, and keep its text if it is not canonical: deleting it may ask for that."""
    canonical = canonical_rule(rule)
    key = rule_key(family, chain, canonical)
    if canonical != rule:
        saved.raw[key] = rule
    return key


def _is_foreign(line: str) -> bool:
    return line.startswith("-A ") and not line.startswith("-A hp-") and not _OUR_COMMENT.search(line)
