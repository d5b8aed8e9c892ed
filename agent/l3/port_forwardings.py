# SPDX-License-Identifier: Apache-2.0
"""Port forwardings: ports of an external address that stand for ports of an instance, where the gateway is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core.errors import Actor, Problem
from agent.core.memo import Memo
from agent.core.model import PortForwarding, PortForwardingId
from agent.core.naming import DNAT_CHAIN
from agent.core.plan import Group, ItemRef, Key, ObjectId, Value, Voice
from agent.l2 import neighbors
from agent.l3 import rules
from agent.l3.local_router import Leg, LocalRouter

# iptables-extensions(8), DNAT: ports can be given for these only.
PROTOCOLS: Mapping[int, str] = {6: "tcp", 17: "udp", 33: "dccp", 132: "sctp"}


@dataclass(frozen=True, slots=True, eq=False)
class Forwardings:
    """All port forwardings of a router on this host; ``parts`` hold what each group was made from."""

    local: LocalRouter
    parts: Mapping[PortForwardingId, tuple[PortForwarding, Group]]
    groups: Mapping[ObjectId, Group]
    voices: Mapping[ObjectId, Voice]
    problems: tuple[Problem, ...]


def plan_forwardings(
    memo: Memo, local: LocalRouter, wanted: Mapping[PortForwardingId, PortForwarding]
) -> Forwardings | None:
    """Plan the port forwardings of a router where its gateway's addresses are, None elsewhere."""
    leg = local.outside_leg
    if leg is None or not local.has_addresses:
        return None
    outside = leg

    def update(last: Forwardings | None) -> Forwardings:
        old = last.parts if last is not None and last.local.translates_like(local) else {}
        parts: dict[PortForwardingId, tuple[PortForwarding, Group]] = {}
        problems = []
        for forwarding_id, forwarding in wanted.items():
            if forwarding.protocol not in PROTOCOLS:
                problems.append(_problem(forwarding))
                continue
            part = old.get(forwarding_id)
            if part is None or part[0] is not forwarding:
                part = (forwarding, _plan(local, forwarding))
                memo.rebuilt += 1
            parts[forwarding_id] = part
        groups = {group.object_id: group for _, group in parts.values()}
        addresses = {forwarding.external_address for forwarding, _ in parts.values()}
        own = {address.address for address in outside.addresses}
        voices: dict[ObjectId, Voice] = {}
        for address in sorted(addresses - own):
            group_id = ObjectId(f"{local.object_id}/address/{address}")
            if local.speaking:
                repeated = outside.segment.network.type.is_physical
                voices[group_id] = Voice(outside.outer, outside.mac, (address,), repeated, urgent=False)
            known = last.groups.get(group_id) if last is not None and last.local.translates_like(local) else None
            groups[group_id] = known or _plan_address(group_id, local, outside, address)
        return Forwardings(local, parts, groups, voices, tuple(problems))

    return memo.evolve(("port forwardings", local.router.id), (local, wanted), update)


def object_id(forwarding: PortForwarding) -> ObjectId:
    """Return the object id of a port forwarding."""
    return ObjectId(f"port_forwarding:{forwarding.id}")


def _problem(forwarding: PortForwarding) -> Problem:
    text = (
        f"port forwarding from {forwarding.external_address}: of IP protocol {forwarding.protocol} no ports can be "
        f"translated, only of {', '.join(PROTOCOLS.values())}"
    )
    return Problem(object_id(forwarding), "protocol", text, Actor.CLOUD)


def rule_text(forwarding: PortForwarding) -> str:
    """Return the rule of a port forwarding; a range keeps its order (kernel 4.18, DNAT revision 2)."""
    protocol = PROTOCOLS[forwarding.protocol]
    first, last = forwarding.external_min, forwarding.external_max
    outer = str(first) if first == last else f"{first}:{last}"
    if first == last:
        inner = f":{forwarding.internal_min}"
    elif first == forwarding.internal_min:
        inner = ""
    else:
        inner = f":{forwarding.internal_min}-{forwarding.internal_max}/{first}"
    where = f"-d {forwarding.external_address}/32 -p {protocol} -m {protocol} --dport {outer}"
    return f"{where} -j DNAT --to-destination {forwarding.internal_address}{inner}"


def _plan(local: LocalRouter, forwarding: PortForwarding) -> Group:
    key = rules.rule_key(local.namespace, DNAT_CHAIN, rule_text(forwarding))
    outer = f"{forwarding.protocol} {forwarding.external_min}-{forwarding.external_max}"
    inner = f"{forwarding.internal_address}:{forwarding.internal_min}-{forwarding.internal_max}"
    items: dict[str, Mapping[Key, Value]] = {
        "nat": {key: ""},
        "translations": {f"{local.namespace} {forwarding.external_address} {outer}": inner},
    }
    requires = {ItemRef("nat", key): frozenset((rules.chain_ref(local.namespace, DNAT_CHAIN),))}
    return Group(object_id(forwarding), items, requires)


def _plan_address(group_id: ObjectId, local: LocalRouter, leg: Leg, address: str) -> Group:
    """Plan an external address that is not the gateway's own and that only port forwardings have."""
    key = local.item("address", leg.device, f"{address}/32")
    items: dict[str, Mapping[Key, Value]] = {"routes": {key: ""}}
    requires = {ItemRef("routes", key): frozenset((local.device_ref(leg),))}
    if local.active and leg.ofport is not None:
        flows: dict[str, str] = {}
        neighbors.add_exemption(flows, leg.ofport, address)
        neighbors.add_known(flows, leg.segment, leg.mac, address)
        neighbors.add_local_owner(flows, leg.segment, leg.ofport, address)
        items["flows"] = flows
    return Group(group_id, items, requires)
