# SPDX-License-Identifier: Apache-2.0
"""``hostplane status problems``: what cannot be served, and what is not done and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from agent.cli.answer import Answer, count, number, part, parts, text
from agent.cli.output import Value, age, duration, table

_Item: TypeAlias = tuple[str, str]  # driver and key


def problem_lines(answer: Answer, now: float) -> Iterator[str]:
    """Yield what people read of ``/problems``; *now* is in Unix seconds.

    Of what waits for something that has failed only the number is told, beside what it
    waits for in the end: one failure can hold up all of a router, and is what somebody
    has to look at.
    """
    problems, unfinished = parts(answer, "problems"), parts(answer, "unfinished")
    yield f"{len(problems)} objects cannot be served as the store wants, {len(unfinished)} items are not done"
    rows = [[text(p, key) for key in ("object_id", "field", "actor", "text")] for p in problems]
    yield from table(rows, ("object", "field", "who must act", "problem"))
    by_ref = {_ref(item): item for item in unfinished}
    causes = {ref: _cause(ref, by_ref) for ref in by_ref}
    waiting = Counter(cause for ref, cause in causes.items() if cause != ref)
    shown = [_row(item, waiting[ref], now) for ref, item in by_ref.items() if causes[ref] == ref]
    yield from table(shown, ("driver", "item", "state", "for", "tries", "next in", "waiting", "message"))


def _ref(item: Answer) -> _Item:
    return text(item, "driver"), text(item, "key")


def _cause(ref: _Item, items: Mapping[_Item, Answer]) -> _Item:
    """Return what *ref* waits for in the end."""
    seen = {ref}
    while (required := _ref(part(items[ref], "waits_for"))) in items and required not in seen:
        seen.add(required)
        ref = required
    return ref


def _row(item: Answer, waiting: int, now: float) -> list[Value]:
    next_try = number(item, "next_try_at")
    return [
        text(item, "driver"),
        text(item, "key"),
        text(item, "state"),
        age(number(item, "since"), now),
        count(item, "attempts"),
        "" if next_try is None else duration(max(0.0, next_try - now)),
        waiting or None,
        text(item, "message"),
    ]
