# SPDX-License-Identifier: Apache-2.0
"""``hostplane plan``: what the agent's next pass would change, or what a saved snapshot asks for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.cli.answer import Answer, count, flag, part, parts, plain, text
from agent.cli.options import add_common, settings
from agent.cli.output import Format, Value, cell, print_value, printable, table, write_line
from agent.status import client

PLAN_TIMEOUT = 40.0  # seconds unless --timeout is given; the daemon itself gives up after 30


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    text = (
        "plan a snapshot that an agent has saved instead, as if all its ports were plugged and nothing were there "
        "(OpenFlow port numbers are made up)"
    )
    parser.add_argument("--snapshot", metavar="FILE", type=Path, help=text)
    parser.add_argument(
        "--driver", metavar="NAME", help="only what this driver would write (ovs, bridges, iptables, flows ...)"
    )
    parser.add_argument("--owner", metavar="OBJECT", help="only what belongs to this object, such as port:ID")
    add_common(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    ask = settings(args, PLAN_TIMEOUT)
    if args.snapshot is not None:
        from agent.cli.plan_snapshot import plan_snapshot

        answer: Answer = plan_snapshot(args.snapshot)
    else:
        answer = client.get(ask.socket, "/plan", ask.timeout)
    answer = {**answer, "changes": _chosen(part(answer, "changes"), args.driver, args.owner)}
    if ask.output is not Format.TABLE:
        print_value(plain(answer), ask.output)
        return 0
    for line in _lines(answer):
        write_line(line)
    return 0


def _chosen(changes: Answer, driver: str | None, owner: str | None) -> dict[str, dict[str, dict[str, object]]]:
    chosen = {}
    for name in changes:
        delta = part(changes, name)
        if driver is not None and name != driver:
            continue
        owners = part(delta, "owners")
        chosen[name] = {
            kind: {key: value for key, value in part(delta, kind).items() if owner in (None, owners.get(key))}
            for kind in ("create", "update", "delete", "owners")
        }
    return chosen


def _lines(answer: Answer) -> Iterator[str]:
    changes = part(answer, "changes")
    totals = {kind: sum(len(part(part(changes, name), kind)) for name in changes) for kind in _SIGNS}
    stale = " (from a snapshot saved on disk)" if flag(answer, "stale") else ""
    yield (
        f"revision {count(answer, 'revision')}{stale}: {totals['create']} items to create, "
        f"{totals['update']} to change, {totals['delete']} to delete"
    )
    if text(answer, "hold"):
        yield f"HELD: {text(answer, 'hold')}"
    for name in changes:
        delta = part(changes, name)
        if any(part(delta, kind) for kind in _SIGNS):
            yield ""
            yield f"{name}:"
            yield from _delta(name, delta)
    problems = parts(answer, "problems")
    if problems:
        yield ""
        rows = [[text(problem, key) for key in ("object_id", "field", "actor", "text")] for problem in problems]
        yield from table(rows, ("object", "field", "who must act", "problem"))


_SIGNS = {"create": "+", "update": "~", "delete": "-"}


def _delta(driver: str, delta: Answer) -> Iterator[str]:
    for kind, sign in _SIGNS.items():
        items = part(delta, kind)
        for key, value in items.items():
            if kind == "update":
                change = part(items, key)
                yield f"  {sign} {printable(key)}"
                yield from _told("      from", " ", change.get("from"))
                yield from _told("      to  ", " ", change.get("to"))
            else:
                between = " actions=" if driver == "flows" else "  "
                yield from _told(f"  {sign} {printable(key)}", between, value)


def _told(head: str, between: str, value: object) -> Iterator[str]:
    """Yield *head* with *value* after it, or below it where it has several lines (rules of a chain)."""
    if isinstance(value, str) and "\n" in value:
        yield head
        yield from (f"        {printable(line)}" for line in value.splitlines())
    else:
        yield f"{head}{between}{_value(value)}".rstrip()


def _value(value: object) -> str:
    if not isinstance(value, Mapping):
        return printable(str(value))
    return cell({name: _paired(item) for name, item in value.items() if item not in (None, "", [], ())})


def _paired(item: Value) -> Value:
    """Return options, which are a list of pairs, as the mapping that they mean."""
    if isinstance(item, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in item):
        return "{" + ", ".join(f"{pair[0]}={pair[1]}" for pair in item if isinstance(pair, list | tuple)) + "}"
    return item
