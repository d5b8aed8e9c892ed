# SPDX-License-Identifier: Apache-2.0
"""Writing IP sets: one script for ``ipset restore``, and what to do when a line of it is refused.

ipset stops at the first line that it or the kernel refuses, and what it had read before
that line may or may not be in.  Each command here can be repeated (``-exist``), so the
script is run again without the refused one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.command import Runner
from agent.core.errors import ApplyError, CommandError
from agent.core.plan import Key

_REFUSED = re.compile(r"Error in line (\d+): (.*)")
_TRIES = 16  # scripts in one batch; what is left over then is tried again in the next pass
_MISSING = "The set with the given name does not exist"
_FULL = "Hash is full"
_IN_USE = "in use by a kernel component"
_OTHER_TYPE = "set with the same name already exists"
_UNUSABLE = ("Operation not permitted", "Cannot open session", "Kernel and userspace incompatible")


@dataclass(frozen=True, slots=True)
class Command:
    """Lines that are refused together; *set_name* is the set concerned.

    ``deletes`` tells that what it wants gone is gone, too, if the whole set is not there.
    """

    key: Key
    set_name: str
    lines: tuple[str, ...]
    deletes: bool = False


def restore(run: Runner, commands: Iterable[Command]) -> dict[Key, Exception]:
    """Carry out *commands* in their order; return the keys that were refused and why.

    Raises CommandError when ipset cannot be used at all.
    """
    left = list(commands)
    failed: dict[Key, Exception] = {}
    for _ in range(_TRIES):
        if not left:
            return failed
        try:
            run(("ipset", "restore", "-exist"), stdin="".join(f"{line}\n" for c in left for line in c.lines))
        except CommandError as err:
            refused = _REFUSED.search(err.stderr)
            if refused is None or any(text in err.stderr for text in _UNUSABLE):
                raise
            culprit, reason = _command_at(left, int(refused[1])), refused[2].strip()
            if culprit is None:
                raise
            last = err
        else:
            return failed
        out = _also_refused(left, culprit, reason)
        failed.update((c.key, _error(c, reason)) for c in out if not (c.deletes and _MISSING in reason))
        left = [command for command in left if command not in out]
    failed.update((command.key, last) for command in left)
    return failed


def _command_at(commands: Iterable[Command], number: int) -> Command | None:
    """Return the command that has line *number*, counted from 1."""
    seen = 0
    for command in commands:
        seen += len(command.lines)
        if number <= seen:
            return command
    return None


def _also_refused(commands: Sequence[Command], culprit: Command, reason: str) -> frozenset[Command]:
    """Return *culprit* and those that would be refused for the same reason."""
    if _MISSING in reason:
        return frozenset(c for c in commands if c.set_name == culprit.set_name)
    if _FULL in reason:
        later = commands[commands.index(culprit) :]  # those before it did fit
        return frozenset(c for c in later if c.set_name == culprit.set_name and not c.deletes)
    return frozenset((culprit,))


def _error(command: Command, reason: str) -> ApplyError:
    return ApplyError(f"IP set {command.set_name}: {_ADVICE.get(_kind(reason), reason)}")


def _kind(reason: str) -> str:
    return next((text for text in _ADVICE if text in reason), "")


_ADVICE: Mapping[str, str] = {
    _MISSING: "it does not exist",
    _FULL: "it is full",
    _IN_USE: "it cannot be destroyed while rules refer to it (iptables-save and nft list ruleset show them)",
    _OTHER_TYPE: "a set with this name but of another type or size exists, and rules refer to it; remove these rules",
}
