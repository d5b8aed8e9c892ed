# SPDX-License-Identifier: Apache-2.0
"""What a pass would do, as JSON values and as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from agent.core.errors import Problem
from agent.core.items import Served
from agent.core.model import HostSnapshot
from agent.core.plan import Delta, Value
from agent.core.report import HoldState


def as_json(
    snapshot: HostSnapshot, deltas: Mapping[str, Delta], problems: tuple[Problem, ...], hold: HoldState | None
) -> dict[str, object]:
    """Return ``{revision, stale, hold, changes: {driver: {create, update, delete}}, problems}``.

    ``create`` and ``delete`` map key -> value, ``update`` key -> {from, to}; an item
    carries its owner in ``owners`` where it is known.
    """
    return {
        "revision": snapshot.revision,
        "stale": snapshot.stale,
        "hold": None if hold is None else hold.text,
        "changes": {driver: _delta(delta) for driver, delta in deltas.items()},
        "problems": [{**asdict(problem), "actor": problem.actor.value} for problem in problems],
    }


def _delta(delta: Delta) -> dict[str, object]:
    return {
        "create": {key: _value(value) for key, value in sorted(delta.creates.items())},
        "update": {key: {"from": _value(old), "to": _value(new)} for key, (old, new) in sorted(delta.updates.items())},
        "delete": {key: _value(value) for key, value in sorted(delta.deletes.items())},
        "owners": dict(sorted(delta.owners.items())),
    }


def _value(value: Value) -> object:
    if isinstance(value, Served):  # what is in it (user data, for instance) is between store and instance
        return {"digest": value.digest}
    return value if isinstance(value, str) else _plain(asdict(value))


def _plain(value: object) -> object:
    """Return what JSON can hold: sets in order."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
