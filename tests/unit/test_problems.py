# SPDX-License-Identifier: Apache-2.0
"""What operators are told is wrong: each thing once, by the name of the object that it keeps from working."""

from __future__ import annotations

from dataclasses import replace

from agent.core.errors import Actor, Problem
from agent.core.model import RouterId
from agent.core.plan import ItemRef, ObjectId
from agent.core.report import ItemState, ObjectStatus
from agent.problems import refused_problems, without_repeats
from tests.golden.router_world import edge_world

TAKEN = "namespace qrouter-edge exists and was not made by hostplane"


def trouble(text: str) -> Problem:
    return Problem("host", "responder", text, Actor.OPERATOR)


def test_a_driver_does_not_repeat_what_who_runs_its_process_has_said() -> None:
    said = trouble("the responder cannot be started: no such user")
    repeated = trouble("responder cannot be used, retried: the responder cannot be started: no such user")
    other = trouble("iptables cannot be used, retried: exit status 4")
    assert without_repeats([repeated, other], [said]) == (other,)
    assert without_repeats([repeated, other], []) == (repeated, other)


def failed(text: str = TAKEN, actor: Actor = Actor.OPERATOR, state: ItemState = ItemState.ERROR) -> ObjectStatus:
    return ObjectStatus(state, text, 1.0, actor=actor)


def test_what_an_operator_must_put_right_names_the_router_and_says_so_once() -> None:
    owners = {
        ItemRef("netns", "qrouter-edge"): ObjectId("router:edge"),
        ItemRef("links", "a"): ObjectId("router:edge/gateway"),
        ItemRef("links", "b"): ObjectId("router:edge/gateway"),
    }
    found = refused_problems(dict.fromkeys(owners, failed()), owners.get, edge_world(distributed=False).snapshot())
    assert [str(problem) for problem in found] == [
        f"router:edge: netns: router edge: {TAKEN} (to act: operator)",
        f"router:edge/gateway: links: router edge: {TAKEN} (to act: operator)",
    ]


def test_what_is_retried_waits_or_is_nobodys_is_no_problem() -> None:
    owners = {
        ItemRef("nat", "retried"): ObjectId("router:edge"),
        ItemRef("nat", "blocked"): ObjectId("router:edge"),
    }
    unfinished = {
        ItemRef("nat", "retried"): failed(actor=Actor.NOBODY),
        ItemRef("nat", "blocked"): failed(state=ItemState.BLOCKED),
        ItemRef("nat", "being deleted"): failed(),
    }
    assert refused_problems(unfinished, owners.get, edge_world(distributed=False).snapshot()) == ()


def test_objects_without_a_name_are_told_by_their_id() -> None:
    snapshot = edge_world(distributed=False).snapshot()
    edge = snapshot.routers[RouterId("edge")]
    snapshot = replace(snapshot, routers={edge.id: replace(edge, name="")})
    port = next(iter(snapshot.ports))
    owners = {
        ItemRef("links", "1"): ObjectId(f"router:{RouterId('edge')}"),
        ItemRef("links", "2"): ObjectId(f"port:{port}"),
        ItemRef("links", "3"): ObjectId("host:services"),
    }
    texts = [p.text for p in refused_problems(dict.fromkeys(owners, failed("taken")), owners.get, snapshot)]
    assert texts == ["router edge: taken", f"port {snapshot.ports[port].name or port}: taken", "taken"]
