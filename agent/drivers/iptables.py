# SPDX-License-Identifier: Apache-2.0
"""Driver ``iptables``: chains of ours in the ``filter`` tables of IPv4 and IPv6, and the jumps into them.

A chain is ours if its name begins with ``hp-``, a rule in a chain of others if it has a
comment ``hp:<hash>``.  Nothing else is ever written: no other rule, no policy, no counter.

One ``iptables-restore --noflush`` per family and pass takes creates, updates and deletes
together, so that a packet meets the old rules or the new ones.  Of a list chain only the
rules that come and go are written, so the others keep their counters; an ordered chain
is emptied and filled again.  A rule or chain that is refused fails by itself, with what
cannot do without it.  A chain that others refer to stays until they no longer do.

Rules are compared in the form of ``agent.drivers.iptables_rule``.  Planners that write
another one are answered in the words that they used, so that theirs is no drift; a fresh
process sees a difference once, and finds when it is about to write it that there is
nothing to do.

If the process dies between any two steps, the script of a family is in or it is not; the
next process reads back what there is.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.command import Runner
from agent.core.errors import Actor, ApplyError, CommandError, Problem
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.iptables_save import TABLE, parse_save, split_key
from agent.drivers.iptables_table import PROGRAMS, FamilyTables

BACKENDS = ("nft", "legacy")
LOCK_WAIT = 5  # seconds


class IptablesDriver:
    """The filter tables of the network namespace that the process is in.

    *backend* is ``nft``, ``legacy`` or "" for whatever the program ``iptables`` is.  Of the
    legacy backend only one program at a time may use the tables: *lock_wait* is for how many
    seconds the others are waited for.
    """

    name = "iptables"

    def __init__(self, run: Runner, backend: str = "", lock_wait: int = LOCK_WAIT) -> None:
        self._run = run
        self._backend = backend
        suffix = f"-{backend}" if backend else ""
        self._tables = {family: FamilyTables(run, family, suffix, lock_wait) for family in PROGRAMS}

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read back what is ours, or those of *keys* that exist.

        Raises CommandError when a table cannot be read.
        """
        found: dict[Key, Value] = {}
        for family, table in self._tables.items():
            if keys is None:
                found.update(table.observe())
            elif asked := [key for key in keys if key.startswith(f"{family} {TABLE} ")]:
                found.update(table.observe(asked))
        return found

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta*, one transaction for each family; return what was refused.

        Raises CommandError when the programs cannot be used or the lock is held too long,
        ApplyError when somebody else has deleted chains since they were read.
        """
        known = tuple(f"{family} {TABLE} " for family in PROGRAMS)
        strange = [
            key for keys in (delta.creates, delta.updates, delta.deletes) for key in keys if not key.startswith(known)
        ]
        failed: dict[Key, Exception] = {key: ApplyError(f"{key!r} is nothing of table {TABLE}") for key in strange}
        for family, table in self._tables.items():
            part = _of_family(delta, family)
            if part:
                failed.update(table.write(part))
        return failed

    def foreign_backend_leftovers(self) -> tuple[Problem, ...]:
        """Return a problem for each family in which the other backend holds chains of ours, too.

        Packets pass both backends: such chains would go on filtering by what was once right.
        """
        problems = []
        other = self._other_backend()
        for family, program in PROGRAMS.items():
            try:
                # Without "-t filter", which would make the legacy backend set up that table.
                text = self._run((f"{program}-{other}-save",)) if other else ""
            except CommandError:
                continue  # not installed, or cannot hold anything
            chains = sorted({split_key(key)[2] for key in parse_save(text, family).values})
            if chains:
                told = f"{program}-{other} holds {len(chains)} chains of ours ({chains[0]} and others)"
                text = f"{told}, which filter besides those in use; delete them with {program}-{other}."
                problems.append(Problem("filters", "iptables_backend", text, Actor.OPERATOR))
        return tuple(problems)

    def used_backend(self) -> str:
        """Return ``nft`` or ``legacy``, "" if that cannot be known."""
        if self._backend:
            return self._backend
        try:
            return "nft" if "nf_tables" in self._run((PROGRAMS[4], "--version")) else "legacy"
        except CommandError:
            return ""

    def _other_backend(self) -> str:
        """Return the backend that is not in use, "" if that cannot be known."""
        used = self.used_backend()
        return next((backend for backend in BACKENDS if used and backend != used), "")


def _of_family(delta: Delta, family: int) -> Delta:
    start = f"{family} {TABLE} "
    return Delta(
        {key: value for key, value in delta.creates.items() if key.startswith(start)},
        {key: values for key, values in delta.updates.items() if key.startswith(start)},
        {key: value for key, value in delta.deletes.items() if key.startswith(start)},
        delta.owners,
    )
