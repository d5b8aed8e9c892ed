# SPDX-License-Identifier: Apache-2.0
"""What the rules of the filters have counted, as ``iptables-save -c`` prints it.

Read for the status page only, in one command a family; nothing is kept.  Any thread
may do so: nothing is changed, and the commands run in the host's namespace.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from agent.command import Runner
from agent.core import naming
from agent.core.filter_report import Count, RuleCounters

SAVE_COMMANDS = (("iptables-save", "-c", "-t", "filter"), ("ip6tables-save", "-c", "-t", "filter"))

_LINE = re.compile(r"\[(\d+):(\d+)\] -A (hp-\S+) (.*)")
_COMMENT = re.compile(r'--comment "?hp:([0-9a-f]{16})"?(?: |$)')


def read_rule_counters(run: Runner, commands: Iterable[tuple[str, ...]] = SAVE_COMMANDS) -> RuleCounters:
    """Return what all rules of the filters have counted; *commands* print them (one a family).

    Raises CommandError.
    """
    rules: dict[str, Count] = {}
    drops: dict[str, Count] = {}
    for command in commands:
        for chain, rule, count in _lines(run(command)):
            marked = _COMMENT.search(rule)
            if marked is not None:
                rules[marked[1]] = rules.get(marked[1], Count()) + count
            elif rule == "-j DROP":
                drops[chain] = drops.get(chain, Count()) + count
    return RuleCounters(rules, drops)


def _lines(text: str) -> Iterable[tuple[str, str, Count]]:
    """Yield chain, rule and count of each rule in a chain of ours."""
    for line in text.splitlines():
        found = _LINE.fullmatch(line) if naming.CHAIN_PREFIX in line else None
        if found is not None:
            yield found[3], found[4], Count(int(found[1]), int(found[2]))
