# SPDX-License-Identifier: Apache-2.0
"""What the daemon tells about the filter of a port: where it is, whether it is in place, what it has counted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from agent.core.model import (
    AddressOwner,
    Direction,
    HostSnapshot,
    OwnerId,
    Port,
    PortId,
    SecurityGroup,
    SecurityGroupId,
)
from agent.core.plan import Group, ItemRef, ObjectId, Plan
from agent.core.report import ObjectStatus

MOST_SHOWN = 10  # items that a filter waits for

_POLICY_CHAIN = re.compile(r" -g (hp-p-[0-9a-f]+-([io]))$")


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and bytes that a rule has matched since it was made."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.packets + other.packets, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class RuleCounters:
    """What the filters of this host have counted, both families together.

    ``rules`` by ``naming.short_hash`` of the rule's id; ``drops`` by chain: what came to
    its end and was dropped there.
    """

    rules: Mapping[str, Count] = field(default_factory=dict)
    drops: Mapping[str, Count] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FilterCounts:
    """Since the daemon started: connections ended because nothing allows them any more, and packets logged or lost."""

    connections_ended: int = 0
    packets_logged: int = 0
    packets_lost: int = 0


@dataclass(frozen=True, slots=True)
class PortFilter:
    """How one port of this host is filtered.

    ``groups`` are its security groups as far as they are known, ``owners`` tell what the
    groups and address groups are called that rules refer to.  ``bridge``, ``zone`` (of its
    connections, None if they are not tracked) and ``chains`` are set for a hybrid plug that
    has been planned.  ``in_place`` tells that nothing is missing that the port waits for;
    ``unfinished`` says what is missing, parts of its groups included.
    """

    port: PortId
    groups: tuple[SecurityGroup, ...]
    owners: Mapping[OwnerId, AddressOwner] = field(default_factory=dict)
    bridge: str | None = None
    zone: int | None = None
    chains: Mapping[Direction, str] = field(default_factory=dict)
    in_place: bool = False
    unfinished: tuple[str, ...] = ()


def port_filters(
    name: str, snapshot: HostSnapshot, plan: Plan, unfinished: Mapping[ItemRef, ObjectStatus]
) -> tuple[PortFilter, ...]:
    """Return how the filtered ports called *name* (a name or an id) are filtered.

    *plan* is what is desired, *unfinished* what of it is not done (``PassReport.unfinished``).
    """
    chosen = sorted(
        (port.id, port) for port in snapshot.ports.values() if port.filtered and name in (port.id, port.name)
    )
    return tuple(_port_filter(port, snapshot, plan, unfinished) for _, port in chosen)


def _port_filter(
    port: Port, snapshot: HostSnapshot, plan: Plan, unfinished: Mapping[ItemRef, ObjectStatus]
) -> PortFilter:
    known = snapshot.security_groups
    groups = tuple(known[group] for group in port.security_groups if group in known)
    own = plan.groups.get(ObjectId(f"port:{port.id}"))
    bridge = next(iter(own.items.get("bridges", {})), None) if own is not None else None
    if own is None or bridge is None:
        return PortFilter(port.id, groups, snapshot.owners)
    needed = set(_refs(own)).union(*own.requires.values())
    waits = sorted(needed & unfinished.keys())
    others = sorted({ref for group in groups for ref in _group_refs(plan, group.id)} & unfinished.keys() - needed)
    texts = [f"{ref.driver} {ref.key}: {unfinished[ref].message}" for ref in (*waits, *others)]
    return PortFilter(
        port.id, groups, snapshot.owners, bridge, _zone(own, bridge), _chains(own), not waits, tuple(texts[:MOST_SHOWN])
    )


def _refs(group: Group) -> Iterator[ItemRef]:
    for driver, items in group.items.items():
        for key in items:
            yield ItemRef(driver, key)


def _group_refs(plan: Plan, security_group: SecurityGroupId) -> Iterator[ItemRef]:
    group = plan.groups.get(ObjectId(f"security_group:{security_group}"))
    if group is not None:
        yield from _refs(group)


def _zone(group: Group, bridge: str) -> int | None:
    number, _, untracked = str(group.items.get("zones", {}).get(bridge, "")).partition(" ")
    return int(number) if number.isdigit() and not untracked else None


def _chains(group: Group) -> dict[Direction, str]:
    found = (_POLICY_CHAIN.search(key) for key in group.items.get("iptables", {}))
    return {Direction.INGRESS if m[2] == "i" else Direction.EGRESS: m[1] for m in found if m is not None}
