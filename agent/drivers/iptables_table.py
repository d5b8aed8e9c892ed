# SPDX-License-Identifier: Apache-2.0
"""Tables of one address family: read, written, and what to do when something is refused.

What was last read or written is remembered, so that a change costs one process; it is
read again as soon as something does not fit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from agent.command import Runner
from agent.core import naming
from agent.core.errors import ApplyError, CommandError
from agent.core.plan import Delta, Key, Value
from agent.drivers.iptables_rule import canonical_rule
from agent.drivers.iptables_save import (
    LIST,
    TABLE,
    Saved,
    foreign_referrers,
    parse_save,
    rule_key,
    split_key,
)
from agent.drivers.iptables_script import (
    Script,
    Step,
    Want,
    emptied,
    find_refused,
    in_order,
    plan_steps,
    reason_of,
    render,
    unreachable,
    without,
)

V = TypeVar("V")

# What reading costs (measured on two cores at 2.6 GHz), to choose between the table and some of its chains.
PROCESS_SECONDS = 3e-3
RULE_SECONDS = 15e-6
MAX_TRIES = 12  # refused scripts after which what is refused is no longer looked for one by one
MAX_RUNS = 64  # scripts handed over for one delta
PROGRAMS = {4: "iptables", 6: "ip6tables"}
_NOT_RUN = (126, 127)


@dataclass(slots=True)
class _Search:
    """The state of writing around what is refused."""

    failed: dict[Step, str]
    runs: int = 0


class FamilyTables:
    """One family's tables in the namespace that the thread is in: *table*, or all that there are if it is "".

    *suffix* chooses the backend (``-nft``, ``-legacy``, "" for the default); *lock_wait* is how
    many seconds other programs may hold the lock that the legacy backend has.
    """

    def __init__(self, run: Runner, family: int, suffix: str, lock_wait: int, table: str = TABLE) -> None:
        self._options = ("-t", table) if table else ()
        self._wait = ("-w", str(lock_wait))
        self._run = run
        self._family = family
        self._program = PROGRAMS[family] + suffix
        self._present: dict[Key, str] | None = None  # None: not known
        self._raw: dict[Key, str] = {}
        self._asked: dict[Key, Key] = {}  # canonical key -> as it was asked for, where that is another
        self._asked_values: dict[Key, tuple[str, str]] = {}  # key of a chain -> its text, as it was asked for

    # Reading.

    def observe(self, keys: Collection[Key] | None = None) -> dict[Key, Value]:
        """Return what is there of ours, or of *keys*."""
        if keys is None:
            self._read()
            return self.recall()
        canonical = {_canonical_key(key): key for key in keys}
        chains = {split_key(key)[1:3] for key in canonical}
        if len(chains) * PROCESS_SECONDS > PROCESS_SECONDS + len(self._known()) * RULE_SECONDS:
            self._read()
        else:
            self._read_chains(chains, canonical)
        known = self._known()
        return {asked: self._as_asked(key, known[key]) for key, asked in canonical.items() if key in known}

    def recall(self) -> dict[Key, Value]:
        """Return what was there of ours when it was read or written last."""
        return {self._asked.get(key, key): self._as_asked(key, value) for key, value in self._known().items()}

    def note_empty(self) -> None:
        """Take it from somebody who has looked that nothing is there."""
        self._present, self._raw = {}, {}

    def save(self) -> str:
        """Return the tables as text, ours and what is not."""
        return self._run((f"{self._program}-save", *self._options))

    def _read(self) -> None:
        """Read everything."""
        self._present = None
        saved = parse_save(self.save(), self._family)
        self._present, self._raw = saved.values, saved.raw

    def _read_chains(self, chains: Collection[tuple[str, str]], keys: Collection[Key]) -> None:
        """Read *chains* one by one, and remember what became of *keys*."""
        saved = Saved()
        for table, chain in chains:
            text = self._list(table, chain)
            if text is None:
                self._read()
                return
            read = parse_save(text, self._family, table)
            saved.values.update(read.values)
            saved.raw.update(read.raw)
        known = self._known()
        for key in keys:
            _put(known, key, saved.values.get(key))
            _put(self._raw, key, saved.raw.get(key))

    def _list(self, table: str, chain: str) -> str | None:
        """Return the rules of *chain*, None if they cannot be had."""
        try:
            return self._run((self._program, *self._wait, "-t", table, "-S", chain))
        except CommandError as err:
            # That there is no such chain is told in words that also mean other things.
            if err.returncode == 1:
                return None
            raise

    def _known(self) -> dict[Key, str]:
        if self._present is None:
            self._read()
        assert self._present is not None  # noqa: S101 - reading it has set it
        return self._present

    def _as_asked(self, key: Key, value: str) -> str:
        asked = self._asked_values.get(key)
        return asked[1] if asked is not None and asked[0] == value else value

    # Writing.

    def write(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta* by one program, a transaction for each table; what is refused is left out and returned.

        Raises CommandError when nothing can be written, and ApplyError when others have
        taken chains away in the meantime.
        """
        wants = self._wants(delta)
        fits = self._present is not None and all((w.key in self._present) is not w.new for w in wants)
        if not fits:
            self._read()
        steps = plan_steps(wants, self._known(), self._raw)
        failed: dict[Step, str] = {}
        if steps:
            error = self._restore(render(steps))
            if error is not None:
                failed = self._write_around(wants, error)
        bad = {step.want.key for step in failed}
        self._note([want for want in wants if want.key not in bad])
        return {
            key: ApplyError(f"{PROGRAMS[self._family]}: {_describe(step)}: {reason}")
            for step, reason in failed.items()
            for key in step.want.asked
        }

    def _wants(self, delta: Delta) -> list[Want]:
        """Return the items of *delta* by canonical key: what is deleted in one spelling and made in another stays."""
        wants: dict[Key, Want] = {}
        for asked in delta.deletes:
            key = _canonical_key(asked)
            wants[key] = Want(key, None, "", (*_asked_by(wants, key), asked), new=False)
        values = {**delta.creates, **{key: new for key, (_, new) in delta.updates.items()}}
        for asked, value in values.items():
            key, text = _canonical_key(asked), str(value)
            before = _asked_by(wants, key)
            chain, rule = split_key(asked)[2:]
            if rule is None and not naming.is_list_chain(chain):
                canonical = "\n".join(map(canonical_rule, text.splitlines()))
            else:
                canonical, text = text, rule or ""
            wants[key] = Want(key, canonical, text, (*before, asked), new=asked in delta.creates and not before)
        return list(wants.values())

    def _note(self, wants: Sequence[Want]) -> None:
        """Remember that *wants* are true."""
        known = self._known()
        for want in wants:
            key, rule = want.key, split_key(want.key)[3]
            _put(known, key, want.value)
            asked = want.asked[-1]
            _put(self._asked, key, asked if want.value is not None and asked != key else None)
            if rule is None:
                other = want.value not in (None, LIST, want.text)
                _put(self._asked_values, key, (want.value or "", want.text) if other else None)
            else:
                _put(self._raw, key, want.text if want.value is not None and want.text != rule else None)

    def _restore(self, script: Script) -> CommandError | None:
        """Hand *script* over; return why it was refused.  Raises CommandError when it could not even be read."""
        try:
            self._run((f"{self._program}-restore", "--noflush", *self._wait), stdin=script.text)
        except CommandError as err:
            # Out of time: it may be in or not.
            if err.returncode is None or err.returncode in _NOT_RUN or "xtables lock" in err.stderr:
                self._present = None
                raise
            return err
        return None

    # Writing around what is refused.

    def _write_around(self, wants: Sequence[Want], error: CommandError) -> dict[Step, str]:
        """Write as much of *wants* as can be; return what was refused, and why."""
        before = {key for key in self._known() if key.count(" ") == 2}
        self._read()
        known = self._known()
        if gone := before - known.keys() - {want.key for want in wants}:
            chain = split_key(min(gone))[2]
            raise ApplyError(f"{PROGRAMS[self._family]}: somebody else has deleted chain {chain}: all is read again")
        todo = plan_steps(wants, known, self._raw)
        empty = "".join(f"*{table}\nCOMMIT\n" for table in sorted({step.table for step in todo} or {TABLE}))
        if self._restore(Script(empty, ())) is not None:
            raise error  # whatever is handed over
        chains = self._chains()
        steps, failed = without(todo, unreachable(todo, chains), chains)
        search = _Search(failed)
        for table in sorted({step.table for step in steps}):  # each is in or not, whatever becomes of the others
            self._write_table([step for step in steps if step.table == table], chains, search)
        failed = self._with_referrers(search.failed)
        self._read()  # written in parts: see what came of it
        bad = {step.want.key for step in failed}
        rest = plan_steps([want for want in wants if want.key not in bad], self._known(), self._raw)
        return failed | dict.fromkeys(rest, "is not so after it was written")

    def _write_table(self, steps: list[Step], chains: Collection[str], search: _Search) -> None:
        """Write as much of one table's *steps* as can be."""
        for _ in range(MAX_TRIES):
            if (refusal := self._try(steps, search)) is None:
                break
            refused = find_refused(refusal.stderr, render(steps))
            if not refused:
                self._write_parts(in_order(steps), search, refusal)
                break
            steps, more = without(steps, refused, chains)
            search.failed |= more
            steps += [emptied(step) for step in refused if step.drop]  # what is in them can go all the same
        else:
            search.failed |= dict.fromkeys(steps, f"not written: {MAX_TRIES} other items were refused")

    def _try(self, steps: Sequence[Step], search: _Search) -> CommandError | None:
        """Write *steps*; return why they were refused."""
        if not steps:
            return None
        search.runs += 1
        return self._restore(render(steps))

    def _write_parts(self, steps: Sequence[Step], search: _Search, error: CommandError) -> None:
        """Write *steps*, refused together with *error* that names none, in halves; what needs what comes later."""
        if len(steps) <= 1 or search.runs >= MAX_RUNS:
            alone = "" if len(steps) <= 1 else f" (or one of {len(steps) - 1} others)"
            search.failed |= dict.fromkeys(steps, f"{reason_of(error.stderr)}{alone}")
            return
        middle = len(steps) // 2
        for part in (steps[:middle], steps[middle:]):
            left, search.failed = without(part, search.failed, self._chains())
            refused = self._try(left, search)
            if refused is not None:
                self._write_parts(left, search, refused)

    def _chains(self) -> set[str]:
        """Return the chains of ours that are there, each behind the name of its table."""
        return {key.partition(" ")[2] for key in self._known() if key.count(" ") == 2}

    def _with_referrers(self, failed: Mapping[Step, str]) -> dict[Step, str]:
        """Say of chains that could not be deleted whose rules refer to them."""
        dropped = [step for step in failed if step.drop]
        if not dropped:
            return dict(failed)
        text = self.save()
        named = dict(failed)
        for step in dropped:
            if rules := foreign_referrers(text, step.chain, step.table):
                named[step] = f"a rule that is not ours refers to it: {rules[0]} ({failed[step]})"
        return named


def _canonical_key(key: Key) -> Key:
    family, table, chain, rule = split_key(key)
    return key if rule is None else rule_key(int(family), table, chain, canonical_rule(rule))


def _asked_by(wants: Mapping[Key, Want], key: Key) -> tuple[Key, ...]:
    return wants[key].asked if key in wants else ()


def _put(mapping: dict[Key, V], key: Key, value: V | None) -> None:
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value


def _describe(step: Step) -> str:
    rule = split_key(step.want.key)[3]
    return f"chain {step.chain}" if rule is None else f"rule -A {step.chain} {step.want.text or rule}"
