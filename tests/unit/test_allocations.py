# SPDX-License-Identifier: Apache-2.0
"""Numbers stay with their owners, are never shared, and are given away only when free."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core import allocations
from agent.core.allocations import Claim, allocate

CLAIMS = st.lists(st.sampled_from("abcdef").map(lambda name: Claim("network", name)), unique=True)
HELD = st.dictionaries(st.sampled_from("abcdefgh").map(lambda name: Claim("network", name)), st.integers(0, 6))


@given(HELD, CLAIMS)
def test_every_claim_has_a_number_of_its_own_and_keeps_it(held, wanted):
    numbers, problems = allocate(held, wanted)
    assert problems == []
    assert set(numbers) == set(wanted)
    assert len(set(numbers.values())) == len(numbers)
    assert all(number in allocations.RANGES["network"] for number in numbers.values())
    again, _ = allocate(numbers, wanted)
    assert again == numbers
    valid = {c: n for c, n in held.items() if n > 0 and list(held.values()).count(n) == 1}
    assert all(numbers[claim] == valid[claim] for claim in wanted if claim in valid)


@given(HELD, CLAIMS)
def test_the_order_of_the_claims_does_not_matter(held, wanted):
    assert allocate(held, wanted) == allocate(held, list(reversed(wanted)))


def test_a_number_whose_owner_is_on_its_way_out_is_not_given_away():
    numbers, _ = allocate({Claim("network", "old"): 1}, [Claim("network", "new")])
    assert numbers == {Claim("network", "new"): 2}


def test_when_there_is_none_left_the_object_is_named(monkeypatch):
    monkeypatch.setattr(allocations, "RANGES", {"network": range(1, 3)})
    numbers, problems = allocate({}, [Claim("network", name) for name in "abc"])
    assert sorted(numbers.values()) == [1, 2]
    assert [problem.object_id for problem in problems] == ["network:c"]
