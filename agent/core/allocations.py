# SPDX-License-Identifier: Apache-2.0
"""Numbers that the dataplane needs and the store does not give: (kind, object) -> number.

They live in ``external_ids`` of ``br-int``, so that a new process (and the next
one) uses the same numbers; a number is written before anything uses it and freed
after everything that used it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.core.errors import Actor, Problem


class Claim(NamedTuple):
    """What a number is for; ``kind`` is one of ``RANGES``."""

    kind: str
    object_id: str


RANGES: Mapping[str, range] = {
    "network": range(1, 1 << 16),  # the metadata register that tells networks apart
    "responder": range(1, 1 << 16),  # who asks the responder: see agent.core.service_identity
    "zone": range(1, 1 << 16),  # conntrack zones of the host's namespace; 0 is everybody else's
}

Allocations = Mapping[Claim, int]


def allocate(previous: Allocations, wanted: Iterable[Claim]) -> tuple[dict[Claim, int], list[Problem]]:
    """Return a number for each claim of *wanted*, and a problem for each that gets none.

    Numbers in *previous* are kept, the others are the lowest free ones in the order
    of the claims, so the result does not depend on the order in which they came.
    A previous number that is out of range or held twice is given anew.
    """
    wanted = sorted(set(wanted))
    result: dict[Claim, int] = {}
    used: dict[str, set[int]] = {kind: set() for kind in RANGES}
    for claim in wanted:
        number = previous.get(claim)
        if number is not None and number in RANGES[claim.kind] and number not in used[claim.kind]:
            result[claim] = number
            used[claim.kind].add(number)
    # A number whose owner is on its way out is still in use by flows: do not give it away yet.
    for claim, number in previous.items():
        used.setdefault(claim.kind, set()).add(number)
    free = {kind: iter(numbers) for kind, numbers in RANGES.items()}
    problems: list[Problem] = []
    for claim in wanted:
        if claim in result:
            continue
        number = next((n for n in free[claim.kind] if n not in used[claim.kind]), None)
        if number is None:
            text = f"all {len(RANGES[claim.kind])} {claim.kind} numbers of this host are in use"
            problems.append(Problem(f"{claim.kind}:{claim.object_id}", "number", text, Actor.OPERATOR))
        else:
            result[claim] = number
    return result, problems
