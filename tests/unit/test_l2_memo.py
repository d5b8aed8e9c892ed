# SPDX-License-Identifier: Apache-2.0
"""What is remembered between rounds of planning, and what is not."""

import pytest

from agent.core.memo import Memo
from agent.core.plan import Group, ObjectId

ID = ObjectId("port:1")


def ask(memo, *inputs):
    """Ask for one group in a round of its own."""
    memo.begin()
    group = memo.group(ID, inputs, lambda: Group(ID))
    memo.end()
    return group


def test_same_inputs_give_the_same_group():
    memo, port = Memo(), object()
    first = ask(memo, port, 5, "x", None)
    assert memo.rebuilt == 1
    assert ask(memo, port, int("5"), "".join(["x"]), None) is first
    assert memo.rebuilt == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((1,), (2,), id="number"),
        pytest.param(("a",), ("b",), id="string"),
        pytest.param((None,), (0,), id="nothing"),
        pytest.param((1, 2), (1,), id="fewer"),
        pytest.param((1,), (True,), id="another type"),
        pytest.param((["x"],), (["x"],), id="equal but not the same object"),
    ],
)
def test_other_inputs_give_another_group(before, after):
    memo = Memo()
    assert ask(memo, *before) is not ask(memo, *after)


def test_what_is_not_asked_for_is_forgotten():
    memo = Memo()
    first = ask(memo, 1)
    memo.begin()
    memo.end()
    assert ask(memo, 1) is not first


def test_round_that_fails_changes_nothing():
    memo = Memo()
    first = ask(memo, 1)
    memo.begin()
    memo.group(ID, (2,), lambda: Group(ID))
    assert ask(memo, 1) is first


def test_collections_evolve_from_the_last_one():
    memo = Memo()
    seen = []

    def build(last):
        seen.append(last)
        return len(seen)

    for inputs in ((1,), (1,), (2,)):
        memo.begin()
        result = memo.evolve("all", inputs, build)
        memo.end()
    assert seen == [None, 1]
    assert result == 2


def stage(memo, outer, inner):
    """Go through a part of a round that asks for one group; return the group and how often the part was made."""
    made = []

    def build():
        made.append(1)
        return memo.group(ID, (inner,), lambda: Group(ID))

    memo.begin()
    group = memo.stage("part", (outer,), build)
    memo.end()
    return group, len(made)


def test_a_part_of_the_round_is_left_out_while_what_it_depends_on_is_the_same():
    memo = Memo()
    first, _ = stage(memo, 1, 1)
    assert stage(memo, 1, 1) == (first, 0)


def test_what_a_part_asked_for_outlives_the_rounds_in_which_it_was_left_out():
    memo = Memo()
    first, _ = stage(memo, 1, 1)
    stage(memo, 1, 1)
    assert stage(memo, 2, 1) == (first, 1)
    assert stage(memo, 3, 2)[0] is not first


def test_a_part_that_fails_leaves_the_round_as_it_was():
    memo = Memo()
    first, _ = stage(memo, 1, 1)

    def fail():
        memo.group(ID, (2,), lambda: Group(ID))
        raise RuntimeError

    memo.begin()
    with pytest.raises(RuntimeError):
        memo.stage("part", (2,), fail)
    assert stage(memo, 1, 1) == (first, 0)
