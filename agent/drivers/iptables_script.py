# SPDX-License-Identifier: Apache-2.0
"""What is to be written to tables of iptables, as the input of ``iptables-restore --noflush``.

What such a script has for one table is one transaction.  In it ``:chain - [0:0]`` makes a chain, or empties it
if it is there (iptables-restore(8)), so ordered chains are declared and filled again,
and list chains are declared only when they are new.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.core import naming
from agent.core.plan import Key
from agent.drivers.iptables_save import FIRST, LIST, chain_key, count_times, split_key, targets

TABLES = ("raw", "mangle", "nat", "filter")  # in the order in which packets meet them
_LINES = re.compile(r"^(?:Error occurred at line: |line |[\w-]+: line )(\d+)(?::? ?failed|:|$)", re.MULTILINE)
_NO_CHAIN = re.compile(r"Chain '(.+)' does not exist")
_NOISE = re.compile(r"^(?:Error occurred at line: \d+|Try .* for more information\.|)$")
_PROGRAM = re.compile(
    r"^(?:ip6?tables[\w-]*(?: v[\d.]+)?(?: \((?:nf_tables|legacy)\))?: )?(?:line \d+(?: failed)?:? ?)?"
)


@dataclass(frozen=True, slots=True, eq=False)
class Want:
    """An item as it shall be.

    ``key`` and ``value`` are canonical (value None: not there), ``text`` is the rule or
    chain as it was asked for, ``asked`` are the keys that stand for it in the delta.
    ``new`` tells that it is believed not to be there.
    """

    key: Key
    value: str | None
    text: str
    asked: tuple[Key, ...]
    new: bool


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What has to be done for one item, in the parts of the script that it belongs to."""

    want: Want
    table: str
    chain: str
    declare: bool = False
    remove: tuple[str, ...] = ()  # rules of the chain, as they are printed
    append: tuple[str, ...] = ()
    insert: str | None = None
    drop: bool = False
    targets: frozenset[str] = frozenset()  # chains of ours, of the same table, that are jumped to

    @property
    def place(self) -> str:
        """Table and chain, which tell it from chains of that name in other tables."""
        return f"{self.table} {self.chain}"

    @property
    def leads_to(self) -> frozenset[str]:
        """The places of ``targets``."""
        return frozenset(f"{self.table} {chain}" for chain in self.targets)


@dataclass(frozen=True, slots=True)
class Script:
    """Text for ``iptables-restore``; ``lines`` has each line's step."""

    text: str
    lines: tuple[Step | None, ...]


def plan_steps(wants: Iterable[Want], present: Mapping[Key, str], raw: Mapping[Key, str]) -> list[Step]:
    """Return what makes *wants* true where *present* is; nothing for what is so already."""
    todo = [want for want in wants if present.get(want.key) != want.value]
    dropped = {want.key for want in todo if want.value is None}
    steps = []
    for want in todo:
        family, table, chain, rule = split_key(want.key)
        if rule is None:
            steps.append(_chain_step(want, table, chain))
        elif want.value is not None or chain_key(int(family), table, chain) not in dropped:  # else it goes with it
            steps.append(_rule_step(want, table, chain, present.get(want.key), raw.get(want.key, rule)))
    return steps


def render(steps: Sequence[Step]) -> Script:
    """Return the script of *steps*: jumps come before other rules, and chains go when nothing refers to them."""
    by_table: dict[str, list[Step]] = {}
    for step in steps:
        by_table.setdefault(step.table, []).append(step)
    lines: list[tuple[str, Step | None]] = []
    for table in sorted(by_table, key=_rank):
        lines += [(f"*{table}", None), *_lines(by_table[table]), ("COMMIT", None)]
    return Script("".join(f"{line}\n" for line, _ in lines), tuple(step for _, step in lines))


def _rank(table: str) -> tuple[int, str]:
    return (TABLES.index(table) if table in TABLES else len(TABLES)), table


def _lines(steps: Iterable[Step]) -> list[tuple[str, Step]]:
    """Return the lines for one table, each with its step."""
    parts: tuple[list[tuple[str, Step]], ...] = ([], [], [], [], [], [])
    for step in steps:
        chain = step.chain
        if step.declare:
            parts[0].append((f":{chain} - [0:0]", step))
        jump = step.insert is not None
        parts[1 if jump else 2].extend((f"-D {chain} {rule}", step) for rule in step.remove)
        if jump:
            parts[1].append((f"-I {chain} {step.insert}", step))
        parts[3].extend((f"-A {chain} {rule}", step) for rule in step.append)
        if step.drop:
            parts[4].append((f"-F {chain}", step))
            parts[5].append((f"-X {chain}", step))
    return [line for part in parts for line in part]


def find_refused(stderr: str, script: Script) -> dict[Step, str]:
    """Return the steps of *script* that the message is about, each with what was said; {} if that is not to be seen."""
    reason = reason_of(stderr)
    refused: dict[Step, str] = {}
    for number in map(int, _LINES.findall(stderr)):
        step = script.lines[number - 1] if 0 < number <= len(script.lines) else None
        if step is not None:
            refused.setdefault(step, reason_of(stderr, number) or reason)
    missing = set(_NO_CHAIN.findall(stderr))  # said of the line COMMIT
    if missing and not refused:
        refused = {step: reason for step in script.lines if step is not None and step.targets & missing}
    return refused


def without(
    steps: Iterable[Step], refused: Mapping[Step, str], chains: Collection[str]
) -> tuple[list[Step], dict[Step, str]]:
    """Leave out *refused* and whatever needs a chain that they would have made; return the rest, and those with why.

    *chains* (table and name) are there already.
    """
    failed = dict(refused)
    left = [step for step in steps if step not in failed]
    while True:
        missing = {step.place for step in failed if step.declare and step.place not in chains}
        also = {
            step: f"chain {_name(min(needed))}, which it needs, could not be made"
            for step in left
            if (needed := missing & ({step.place} | step.leads_to))
        }
        if not also:
            return left, failed
        failed |= also
        left = [step for step in left if step not in also]


def unreachable(steps: Sequence[Step], chains: Collection[str]) -> dict[Step, str]:
    """Return the steps that refer to, or fill, a chain of ours that neither is among *chains* nor made by *steps*."""
    known = {*chains, *(step.place for step in steps if step.declare)}
    found = {}
    for step in steps:
        needed = step.leads_to | ({step.place} if step.append and naming.is_our_chain(step.chain) else frozenset())
        if missing := needed - known:
            found[step] = f"there is no chain {_name(min(missing))}"
    return found


def _name(place: str) -> str:
    """Return the chain's name."""
    return place.partition(" ")[2]


def emptied(step: Step) -> Step:
    """Return what remains of deleting a chain that may not be deleted."""
    return Step(step.want, step.table, step.chain, declare=True)


def in_order(steps: Sequence[Step]) -> list[Step]:
    """Return *steps* such that each comes after the chains that it needs, and what is taken away comes last."""
    makers = {step.place: step for step in steps if step.declare}
    done: dict[Step, None] = {}

    def visit(step: Step, above: frozenset[str]) -> None:
        for place in sorted((step.leads_to | {step.place}) - above):
            if place in makers:
                visit(makers[place], above | {place})
        done.setdefault(step)

    for step in steps:
        if step.declare or step.append or step.insert is not None:
            visit(step, frozenset({step.place} if step.declare else ()))
    for step in steps:
        done.setdefault(step)
    return list(done)


def _chain_step(want: Want, table: str, chain: str) -> Step:
    if want.value is None:
        return Step(want, table, chain, drop=True)
    if want.value == LIST and naming.is_list_chain(chain):
        return Step(want, table, chain, declare=True)
    rules = tuple(want.text.splitlines())
    return Step(want, table, chain, declare=True, append=rules, targets=targets(rules))


def _rule_step(want: Want, table: str, chain: str, present: str | None, raw: str) -> Step:
    times = 0 if present is None else count_times(present)
    if want.value is None:
        return Step(want, table, chain, remove=(raw,) * times)
    if want.value == FIRST and not naming.is_our_chain(chain):
        return Step(want, table, chain, remove=(raw,) * times, insert=want.text, targets=targets([want.text]))
    if times:
        return Step(want, table, chain, remove=(raw,) * (times - 1))
    return Step(want, table, chain, append=(want.text,), targets=targets([want.text]))


def reason_of(stderr: str, line: int | None = None) -> str:
    """Return what *stderr* says, of one *line* if it is given, without the names of programs and lines."""
    said = [text for text in stderr.splitlines() if not _NOISE.match(text)]
    if line is not None:
        said = [text for text in said if re.match(rf"line {line}:", text)]
    short = [_PROGRAM.sub("", text, count=1).strip(" :") for text in said]
    return "; ".join(filter(None, short)) or ("refused" if line is None else "")
