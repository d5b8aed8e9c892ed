# SPDX-License-Identifier: Apache-2.0
"""All planners together: from what is wanted and what is plugged in to one plan.

``build_plan`` is pure.  ``Planning`` remembers between passes what makes the next one
cheap (the memo) and what must not change (the allocated numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_
from typing import Final

from agent.core.allocations import Allocations, Claim, allocate
from agent.core.errors import Problem
from agent.core.memo import Memo
from agent.core.model import HostSnapshot, SwitchView
from agent.core.plan import Key, Plan, Value
from agent.l2.planner import plan_l2
from agent.l2.planner import wanted_claims as l2_claims
from agent.l2.settings import LocalSettings
from agent.l3.peers import plan_peers
from agent.l3.places import claimed_networks, find_places, find_routed
from agent.l3.planner import Ground, plan_l3
from agent.l3.state import GatewayState
from agent.service_planner import plan_services
from agent.service_planner import wanted_claims as service_claims

NO_GATEWAYS: Final = GatewayState()
# What may use an allocated number; as long as something old is there, its number is not free.
NUMBERED_DRIVERS: Final = frozenset(("ovs", "zones", "responder", "flows", "conntrack"))


def wanted_claims(snapshot: HostSnapshot, switch: SwitchView, *, services: bool = False) -> set[Claim]:
    """Return the numbers that a plan of *snapshot* needs, with what is plugged in; *services* as in the settings."""
    claims = l2_claims(snapshot, switch)
    routed = claimed_networks(snapshot.routers.values(), snapshot.host, snapshot.ports)
    claims |= {Claim("network", network) for network in routed}
    return claims | service_claims(snapshot.ports) if services else claims


def build_plan(
    snapshot: HostSnapshot,
    allocations: Allocations,
    switch: SwitchView,
    memo: Memo,
    local: LocalSettings,
    gateways: GatewayState = NO_GATEWAYS,
) -> Plan:
    """Return the plan; groups whose inputs are those of the last call are the same objects.

    The problems of snapshot and switch view are passed on with the planners' own.
    """
    memo.begin()
    answered = plan_services(snapshot, allocations, memo, local)
    places, outside = find_places(memo, snapshot, local)
    routed = find_routed(memo, snapshot, switch, places, gateways)
    layer2 = plan_l2(snapshot, allocations, switch, memo, local, answered.services, routed)
    ground = Ground(layer2.segments, layer2.peers, routed, switch, gateways)
    layer3 = plan_l3(memo, snapshot, places, outside, ground)
    layer2.groups.update(layer3.groups)
    layer2.groups.update(plan_peers(memo, gateways, layer2.peers, local, switch.ofports))
    memo.end()
    problems = (*snapshot.problems, *switch.problems, *answered.problems, *layer2.problems, *layer3.problems)
    return Plan(layer2.groups, problems, layer3.voices)


class Planning:
    """Plans one host, pass after pass.  Used by the reconcile thread."""

    def __init__(self, local: LocalSettings) -> None:
        self._local = local
        self._memo = Memo()
        self._in_use: Mapping[Claim, int] | None = None  # numbers on their way out included
        self._wanted: Mapping[Claim, int] = {}
        self._claimed_for: tuple[object, ...] | None = None  # what the claims of ``_wanted`` were made from

    @property
    def knows_numbers(self) -> bool:
        """Whether ``adopt_numbers`` has been called."""
        return self._in_use is not None

    def adopt_numbers(self, items: Mapping[Key, Value]) -> None:
        """Go on with the numbers that the ``ovs`` driver has read back; before the first plan."""
        numbers: dict[Claim, int] = {}
        for key, value in items.items():
            noun, _, rest = key.partition("/")
            kind, _, object_id = rest.partition("/")
            if noun == "allocation" and isinstance(value, str) and value.isdigit():
                numbers[Claim(kind, object_id)] = int(value)
        self._in_use = numbers

    def make(
        self, snapshot: HostSnapshot, switch: SwitchView, gateways: GatewayState = NO_GATEWAYS
    ) -> tuple[Plan, tuple[Problem, ...]]:
        """Return the plan, and the problems of it and of the numbers."""
        problems = self._allocate(snapshot, switch)
        plan = build_plan(snapshot, self._wanted, switch, self._memo, self._local, gateways)
        return plan, (*plan.problems, *problems)

    def _allocate(self, snapshot: HostSnapshot, switch: SwitchView) -> list[Problem]:
        """Have ``_wanted`` hold the numbers of what is wanted: the same object while they are the same."""
        before = self._claimed_for
        now = (snapshot.ports, snapshot.routers, switch.interfaces)
        if before is not None and all(map(is_, before, now)):
            return []
        claims = wanted_claims(snapshot, switch, services=self._local.services)
        problems: list[Problem] = []
        if claims != self._wanted.keys():
            in_use = self._in_use or {}
            wanted, problems = allocate(in_use, claims)
            self._wanted = wanted if wanted != self._wanted else self._wanted
            self._in_use = {**in_use, **self._wanted}
        # What got no number is asked for again and again: one may have come back.
        self._claimed_for = None if problems else now
        return problems

    def settled(self) -> None:
        """Note that nothing but the last plan's is in place: numbers that it does not use are free again."""
        self._in_use = self._wanted

    def afresh(
        self, snapshot: HostSnapshot, switch: SwitchView, gateways: GatewayState = NO_GATEWAYS
    ) -> tuple[Plan, tuple[Problem, ...]]:
        """Return what ``make`` would, from scratch and without remembering anything."""
        numbers, problems = allocate(self._in_use or {}, wanted_claims(snapshot, switch, services=self._local.services))
        plan = build_plan(snapshot, numbers, switch, Memo(), self._local, gateways)
        return plan, (*plan.problems, *problems)
