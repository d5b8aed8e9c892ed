# SPDX-License-Identifier: Apache-2.0
"""Plan all filters of a host: which ports have one, and everything that these share.

Only what ports of this host use is planned: groups, sets and nodes of the tree come
with the first port and go with the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

from agent.core import naming
from agent.core.allocations import Allocations, Claim
from agent.core.errors import Actor, Problem
from agent.core.memo import Memo
from agent.core.model import (
    AddressChunk,
    HostSnapshot,
    OwnerId,
    PluggedInterface,
    Port,
    SecurityGroup,
    SecurityGroupId,
    SwitchView,
)
from agent.core.plan import Group, ObjectId
from agent.l2 import address_sets, filters, policies, security_groups
from agent.l2.policies import Policy
from agent.l2.settings import LocalSettings

_NO_CHUNKS: dict[str, AddressChunk] = {}  # one object: the memo looks at identity


class Verdict(Enum):
    """What becomes of a port that gets no filter."""

    UNFILTERED = auto()  # its flows depend on none
    SHUT = auto()


def zone_claims(snapshot: HostSnapshot, switch: SwitchView) -> set[Claim]:
    """Return a zone for each port of this host that is plugged hybrid."""
    interfaces = switch.interfaces
    return {
        Claim("zone", port_id)
        for port_id in snapshot.ports
        if (plugged := interfaces.get(port_id)) is not None and naming.is_hybrid_interface(plugged.name)
    }


@dataclass(frozen=True, slots=True)
class GroupHead:
    """What ports need to know of a security group; its rules do not concern them."""

    name: str
    stateful: bool


def group_heads(memo: Memo, groups: Mapping[SecurityGroupId, SecurityGroup]) -> Mapping[SecurityGroupId, GroupHead]:
    """Return the heads of *groups*, which are the same object while nothing but rules changes."""

    def heads(last: Mapping[SecurityGroupId, GroupHead] | None) -> Mapping[SecurityGroupId, GroupHead]:
        new = {group.id: GroupHead(group.name, group.stateful) for group in groups.values()}
        return last if last is not None and last == new else new

    return memo.evolve("group heads", (groups,), heads)


class PortFilters:
    """Which filter each port has.

    ``in_use``, ``leaves`` of the tree and ``problems`` are of all ports that were asked for.
    """

    def __init__(
        self,
        heads: Mapping[SecurityGroupId, GroupHead],
        allocations: Allocations,
        local: LocalSettings,
        memo: Memo,
    ) -> None:
        self._known = heads
        self._allocations = allocations
        self._memo = memo
        self._enabled = local.filters
        self._policies: dict[tuple[SecurityGroupId, ...], Policy | None] = {}
        self.in_use: dict[Policy, None] = {}
        self.leaves: set[str] = set()
        self.problems: list[Problem] = []

    def find(self, port: Port, interface: PluggedInterface) -> tuple[Policy, int] | Verdict:
        """Return the policy and the zone of a port that is plugged in, or what becomes of it without."""
        if not self._enabled:
            if port.filtered:
                return self._shut(
                    port, "it has security groups, which this host is not to filter ([filters] enabled); it stays shut"
                )
            return Verdict.UNFILTERED
        if not naming.is_hybrid_interface(interface.name):
            if port.filtered:
                hybrid = naming.hybrid_veth_names(port.id)[1]
                needed = f"it has security groups, which need the hybrid plug ({hybrid})"
                text = f"{needed}, but is plugged in directly as {interface.name}; it stays shut"
                return self._shut(port, text)
            return Verdict.UNFILTERED
        if interface.name != naming.hybrid_veth_names(port.id)[1]:
            return self._shut(port, f"{interface.name} is the hybrid plug of another port", "interface")
        zone = self._allocations.get(Claim("zone", port.id))
        policy = self._find_policy(port)
        if zone is None or policy is None:
            return Verdict.SHUT  # who allocates says why, or has not been asked yet
        self.leaves.add(filters.leaf_prefix(port.id))
        return policy, zone

    def _shut(self, port: Port, text: str, field: str = "security_groups") -> Verdict:
        self._tell(port, text, field, Actor.OPERATOR)
        return Verdict.SHUT

    def _tell(self, port: Port, text: str, field: str, actor: Actor) -> None:
        self.problems.append(Problem(f"port:{port.id}", field, f"port {port.name or port.id}: {text}", actor))

    def _find_policy(self, port: Port) -> Policy | None:
        if not port.filtered:
            self.in_use[policies.OPEN] = None
            return policies.OPEN
        key = port.security_groups
        if key not in self._policies:
            self._policies[key] = self._make_policy(key)
        policy = self._policies[key]
        if policy is None:
            known = self._known
            kinds = (f"{known[g].name or g} ({_kind(known[g])})" for g in key if g in known)
            text = f"its security groups do not go together, so it stays shut: {', '.join(kinds)}"
            self._tell(port, text, "security_groups", Actor.CLOUD)
        return policy

    def _make_policy(self, ids: tuple[SecurityGroupId, ...]) -> Policy | None:
        """Return the policy of ports with these groups; None if they contradict each other."""
        known = {i: self._known[i] for i in sorted(ids) if i in self._known}
        tracked = all(head.stateful for head in known.values())
        if not tracked and any(head.stateful for head in known.values()):
            return None
        object_id = policies.policy_id(ids)
        policy = self._memo.value(
            ("policy", object_id),
            (tracked, *known),
            partial(policies.make_policy, object_id, tuple(known), tracked=tracked),
        )
        self.in_use[policy] = None
        return policy


class SharedFilters:
    """Everything that ports share; ``groups`` and ``problems`` are complete once it is made."""

    def __init__(self, snapshot: HostSnapshot, memo: Memo, in_use: Iterable[Policy], leaves: Iterable[str]) -> None:
        self._snapshot = snapshot
        self._memo = memo
        self.groups: dict[ObjectId, Group] = {}
        self.problems: list[Problem] = []
        self._add(filters.BASE, (), filters.plan_base)
        for prefix in {prefix for leaf in leaves for prefix in filters.tree_prefixes(leaf)}:
            self._add(filters.node_id(prefix), (), partial(filters.plan_node, prefix))
        self._plan_policies(in_use)

    def _plan_policies(self, in_use: Iterable[Policy]) -> None:
        known = self._snapshot.security_groups
        used: dict[SecurityGroupId, SecurityGroup] = {}
        for policy in in_use:
            groups = tuple(known[group] for group in policy.groups)
            logs = [value for g in groups if g.log_dropped for value in (g.id, g.log_rate, g.log_burst)]
            self._add(policy.id, (policy, *logs), partial(policies.plan_policy, policy, groups))
            used.update((group.id, group) for group in groups)
        owners: set[OwnerId] = set()
        for source in used.values():
            plan = security_groups.plan_security_group(self._memo, source)
            self.groups[plan.group.object_id] = plan.group
            self.problems += plan.problems
            owners |= plan.owners
        for owner in owners:
            chunks = self._snapshot.address_chunks.get(owner, _NO_CHUNKS)
            self.groups.update(address_sets.plan_address_sets(self._memo, owner, chunks))

    def _add(self, object_id: ObjectId, inputs: tuple[object, ...], build: Callable[[], Group]) -> None:
        self.groups[object_id] = self._memo.group(object_id, inputs, build)


def _kind(group: GroupHead) -> str:
    return "stateful" if group.stateful else "stateless"
