# SPDX-License-Identifier: Apache-2.0
"""IP sets of the addresses that rules refer to: members of security groups, address groups.

Each chunk of addresses is a group of its own, so that one address more costs one chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core import naming
from agent.core.memo import Memo
from agent.core.model import AddressChunk, OwnerId
from agent.core.plan import Group, ItemRef, Key, ObjectId
from agent.l2 import iptables_text as text

_CREATED = {4: "hash:net family inet", 6: "hash:net family inet6"}
# A set of networks takes no prefix of length 0 (ipset(8)).
_HALVES = {4: ("0.0.0.0/1", "128.0.0.0/1"), 6: ("::/1", "8000::/1")}


@dataclass(frozen=True, slots=True, eq=False)
class SetPlan:
    """All groups of one owner's addresses; ``parts`` hold what each was made from."""

    parts: Mapping[str, tuple[AddressChunk, Group]]
    groups: Mapping[ObjectId, Group]


def object_id(owner: OwnerId) -> ObjectId:
    """Return the object id of an owner's sets."""
    return ObjectId(f"members:{owner}")


def set_ref(owner: OwnerId, family: int) -> ItemRef:
    """Return the set of *owner*'s addresses of IPv4 or IPv6 as something to require."""
    return ItemRef("ipset", naming.member_set(owner, family))


def plan_address_sets(memo: Memo, owner: OwnerId, chunks: Mapping[str, AddressChunk]) -> Mapping[ObjectId, Group]:
    """Plan the sets of an owner, one for each family, and what is in them."""
    sets = memo.group(object_id(owner), (), lambda: _plan_sets(owner))
    plan = memo.evolve(("members", owner), (chunks,), lambda last: _update(memo, owner, chunks, last))
    return {sets.object_id: sets, **plan.groups}


def _plan_sets(owner: OwnerId) -> Group:
    created = {naming.member_set(owner, family): _CREATED[family] for family in text.FAMILIES}
    return Group(object_id(owner), {"ipset": created})


def _update(memo: Memo, owner: OwnerId, chunks: Mapping[str, AddressChunk], last: SetPlan | None) -> SetPlan:
    old = last.parts if last is not None else {}
    parts: dict[str, tuple[AddressChunk, Group]] = {}
    for name, chunk in chunks.items():
        part = old.get(name)
        if part is None or part[0] is not chunk:
            part = (chunk, _plan_chunk(owner, chunk))
            memo.rebuilt += 1
        parts[name] = part
    return SetPlan(parts, {group.object_id: group for _, group in parts.values()})


def _plan_chunk(owner: OwnerId, chunk: AddressChunk) -> Group:
    names = {family: naming.member_set(owner, family) for family in text.FAMILIES}
    needed = {family: frozenset((set_ref(owner, family),)) for family in text.FAMILIES}
    members: dict[Key, str] = {}
    requires: dict[ItemRef, frozenset[ItemRef]] = {}
    for address in sorted(chunk.addresses):
        family = 6 if ":" in address else 4
        for element in set_elements(address):
            key = f"{names[family]} {element}"
            members[key] = ""
            requires[ItemRef("members", key)] = needed[family]
    key = f"{owner}/{chunk.chunk}"
    return Group(ObjectId(f"members:{key}"), {"members": members, "conntrack": {f"members {key}": chunk}}, requires)


def set_elements(cidr: str) -> tuple[str, ...]:
    """Return an address or prefix (canonical) as elements of a set: one, or two halves of everything."""
    address, _, length = cidr.partition("/")
    family = 6 if ":" in address else 4
    if length == "0":
        return _HALVES[family]
    if length in ("", "32" if family == 4 else "128"):
        return (address,)
    return (cidr,)
