# SPDX-License-Identifier: Apache-2.0
"""All planners together: from what is wanted and what is plugged in to one plan.  Pure."""

from __future__ import annotations

from agent.core.allocations import Allocations, Claim
from agent.core.memo import Memo
from agent.core.model import HostSnapshot, SwitchView
from agent.core.plan import Plan
from agent.l2.planner import plan_l2
from agent.l2.planner import wanted_claims as l2_claims
from agent.l2.settings import LocalSettings


def wanted_claims(snapshot: HostSnapshot) -> set[Claim]:
    """Return the numbers that a plan of *snapshot* needs."""
    return l2_claims(snapshot)


def build_plan(
    snapshot: HostSnapshot, allocations: Allocations, switch: SwitchView, memo: Memo, local: LocalSettings
) -> Plan:
    """Return the plan; groups whose inputs are those of the last call are the same objects.

    The problems of snapshot and switch view are passed on with the planners' own.
    """
    memo.begin()
    groups, problems = plan_l2(snapshot, allocations, switch, memo, local)
    memo.end()
    return Plan(groups, (*snapshot.problems, *switch.problems, *problems))
