# SPDX-License-Identifier: Apache-2.0
"""A table ``hostplane`` of nf_tables, written and read by ``nft`` in the namespace that the thread is in.

A script is one transaction of the kernel: all of it is done or nothing (nft(8), -f).
Rules carry a comment of ours, because nft does not print them as they were written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from agent.command import Runner
from agent.core.errors import ApplyError, CommandError

NAME: Final = "hostplane"
_Json: TypeAlias = Any  # what nft prints: lists and mappings of texts and numbers


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that hangs on a hook of the kernel, None for one that does not."""

    name: str
    hook: str | None
    priority: int | None


@dataclass(frozen=True, slots=True)
class Content:
    """What a table has: its chains, the (chain, comment) of each rule in order, and the elements of maps by name."""

    chains: frozenset[Chain]
    rules: tuple[tuple[str, str | None], ...]
    maps: dict[str, dict[str, str]]


def without_table(family: str) -> str:
    """Return the beginning of a script after which there is no table, whether there was one or not."""
    return f"add table {family} {NAME}\ndelete table {family} {NAME}\n"


def write(run: Runner, script: str) -> None:
    """Do all that *script* says, or nothing.  Raises CommandError."""
    run(("nft", "-f", "-"), stdin=script)


def read(run: Runner, family: str, *, elements: bool) -> Content | None:
    """Return what the table of *family* has, None if there is none; the maps are empty without *elements*.

    Raises ApplyError.
    """
    try:
        printed = run(("nft", "-j", *(() if elements else ("-t",)), "list", "table", family, NAME))
    except CommandError as err:
        if "No such file or directory" in err.stderr:
            return None
        raise
    try:
        entries = json.loads(printed)["nftables"]
        chains = frozenset(Chain(one["name"], one.get("hook"), one.get("prio")) for one in _of_kind(entries, "chain"))
        rules = tuple((one["chain"], one.get("comment")) for one in _of_kind(entries, "rule"))
        maps = {one["name"]: dict(_elements(one)) for one in _of_kind(entries, "map")}
    except (ValueError, LookupError, TypeError, AttributeError) as err:
        raise ApplyError(f"table {family} {NAME}: nft prints what is not understood ({err!r})") from None
    return Content(chains, rules, maps)


def _of_kind(entries: _Json, kind: str) -> Iterator[_Json]:
    return (entry[kind] for entry in entries if kind in entry)


def _elements(one: _Json) -> Iterator[tuple[str, str]]:
    for key, value in one.get("elem", ()):
        yield str(key), str(value)
