# SPDX-License-Identifier: Apache-2.0
"""Permanent neighbor entries: a router asks nobody for the addresses that the store knows.

A port without a host may only reserve an address that others use under their own MAC
address, so these are asked for, like everything that is not in the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core.memo import Memo
from agent.core.model import Endpoint, EndpointId
from agent.core.plan import Group, ItemRef, ObjectId
from agent.core.service_identity import link_local
from agent.l3.local_router import Leg, LocalRouter


@dataclass(frozen=True, slots=True, eq=False)
class Neighbors:
    """All entries of one leg; ``parts`` hold what each group was made from."""

    namespace: str
    leg: Leg
    parts: Mapping[EndpointId, tuple[Endpoint, Group]]
    groups: Mapping[ObjectId, Group]


def plan_neighbors(memo: Memo, local: LocalRouter, leg: Leg, endpoints: Mapping[EndpointId, Endpoint]) -> Neighbors:
    """Plan the entries of a leg for the ports of its network: one more costs one group."""
    prefix, device, namespace = f"{local.object_id}/neighbors", local.device_ref(leg), local.namespace
    families = (leg.has_family(ipv6=False), leg.has_family(ipv6=True))
    needs = frozenset((device,))

    def update(last: Neighbors | None) -> Neighbors:
        old: Mapping[EndpointId, tuple[Endpoint, Group]] = {}
        if last is not None and last.leg.interface == leg.interface and _families(last.leg) == families:
            old = last.parts
        parts: dict[EndpointId, tuple[Endpoint, Group]] = {}
        for endpoint_id, endpoint in endpoints.items():
            if not endpoint.host or endpoint.mac == leg.mac:
                continue
            part = old.get(endpoint_id)
            if part is None or part[0] is not endpoint:
                group_id = ObjectId(f"{prefix}/{leg.interface.port}/{endpoint_id}")
                part = (endpoint, _plan(group_id, namespace, leg.device, families, endpoint, needs))
                memo.rebuilt += 1
            parts[endpoint_id] = part
        return Neighbors(namespace, leg, parts, {group.object_id: group for _, group in parts.values()})

    return memo.evolve(("neighbors", leg.interface.port), (leg, endpoints), update)


def _families(leg: Leg) -> tuple[bool, bool]:
    return leg.has_family(ipv6=False), leg.has_family(ipv6=True)


def _plan(
    group_id: ObjectId,
    namespace: str,
    device: str,
    families: tuple[bool, bool],
    endpoint: Endpoint,
    needs: frozenset[ItemRef],
) -> Group:
    addresses = [each for each in endpoint.addresses if families[":" in each]]
    if any(":" in each for each in addresses):
        addresses.append(link_local(endpoint.mac))  # from which it asks for the router
    keys = [f"{namespace} neighbor {device} {each}" for each in addresses]
    return Group(
        group_id, {"routes": dict.fromkeys(keys, endpoint.mac)}, {ItemRef("routes", key): needs for key in keys}
    )
