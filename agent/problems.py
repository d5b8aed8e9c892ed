# SPDX-License-Identifier: Apache-2.0
"""What operators are told is wrong: put together from who knows of it.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agent.core.errors import Actor, Problem
from agent.core.model import HostSnapshot, PortId, RouterId
from agent.core.plan import ItemRef, ObjectId
from agent.core.report import ItemState, ObjectStatus


def without_repeats(troubles: Iterable[Problem], told: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return *troubles* of drivers but for those whose reason is *told* already, by who keeps the subsystem running."""
    texts = [problem.text for problem in told]
    return tuple(trouble for trouble in troubles if not any(text in trouble.text for text in texts))


def refused_problems(
    unfinished: Mapping[ItemRef, ObjectStatus], owner: Callable[[ItemRef], ObjectId | None], snapshot: HostSnapshot
) -> tuple[Problem, ...]:
    """Return what is refused until an operator acts, the first of each driver and object.

    It is not the store's fault: something on this host has the name, say.  The field is the driver.
    """
    found: dict[tuple[ObjectId, str], Problem] = {}
    for ref, status in unfinished.items():
        object_id = owner(ref)
        if status.state is ItemState.ERROR and status.actor is Actor.OPERATOR and object_id is not None:
            text = ": ".join(filter(None, (_called(object_id, snapshot), status.message)))
            found.setdefault((object_id, ref.driver), Problem(object_id, ref.driver, text, Actor.OPERATOR))
    return tuple(found.values())


def _called(object_id: ObjectId, snapshot: HostSnapshot) -> str:
    """Return how people call an object of which something is refused, "" if it has no name."""
    noun, _, rest = object_id.partition(":")
    base = rest.partition("/")[0]
    if noun == "router" and (router := snapshot.routers.get(RouterId(base))) is not None:
        return f"router {router.name or base}"
    if noun == "port" and (port := snapshot.ports.get(PortId(base))) is not None:
        return f"port {port.name or base}"
    return ""
