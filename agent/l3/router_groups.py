# SPDX-License-Identifier: Apache-2.0
"""The groups of one router: its namespace with settings and chains, its interfaces, its gateway.

A leg opens (its flow of the table CLASSIFY) once the namespace, its settings, all chains
and jumps, and the leg's devices and addresses are in place: a router that cannot translate
leaks nothing untranslated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core.model import HostName
from agent.core.plan import Group, ItemRef, Key, ObjectId, Value
from agent.l3 import leg_flows, rules
from agent.l3.devices import leg_address_keys, plan_leg, plan_settings
from agent.l3.local_router import Leg, LocalRouter
from agent.l3.routes import StaticRoutes, default_routes, outer_prefixes, untracked_prefixes


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A router's own group, and the items of it that must be in place before one of its legs may speak."""

    group: Group
    gate: frozenset[ItemRef]


def plan_frame(local: LocalRouter, routes: StaticRoutes) -> Frame:
    """Plan the namespace, its settings and its chains."""
    settings, need_settings = plan_settings(local)
    inside = untracked_prefixes(local, routes)
    chains, need_chains = rules.plan_frame(local, inside)
    items: dict[str, Mapping[Key, Value]] = {
        "netns": {local.namespace: str(local.router.id)},
        "routes": settings,
        "nat": chains,
        "translations": rules.plan_inside(local, inside, leaves=not routes.keeps_everything),
    }
    refs = (*(ItemRef("routes", key) for key in settings), *(ItemRef("nat", key) for key in chains))
    group = Group(local.object_id, items, {**need_settings, **need_chains})
    return Frame(group, frozenset((local.netns, *refs)))


def interface_id(local: LocalRouter, leg: Leg) -> ObjectId:
    """Return the object id of a leg."""
    return ObjectId(
        f"{local.object_id}/gateway" if leg.is_gateway else f"{local.object_id}/interface/{leg.interface.port}"
    )


def plan_remote(local: LocalRouter, leg: Leg) -> Group:
    """Plan a leg that is on other hosts only: the answers for it and the way to it."""
    flows: dict[str, str] = {}
    leg_flows.add_answers(flows, leg)
    leg_flows.add_way(flows, leg, local.away)
    return Group(interface_id(local, leg), {"flows": flows})


def plan_interface(local: LocalRouter, leg: Leg, gate: frozenset[ItemRef], routes: StaticRoutes) -> Group:
    """Plan an interface of a router that is here, speaking or not."""
    planned, requires = plan_leg(local, leg)
    flows: dict[str, str] = {}
    leg_flows.add_answers(flows, leg)
    if local.serves and leg.ofport is not None:
        _open(flows, requires, local, leg, leg.ofport, gate)
        _add_speaker(flows, local, leg, leg.ofport)
        if local.place.everywhere and leg.segment.network.type.is_physical:
            leg_flows.add_host_mac(flows, leg, leg.ofport, local.own, active=local.active)
        elif local.active or not leg.segment.network.type.is_tunnel:
            leg_flows.add_owner(flows, leg, leg.ofport, from_others_only=local.is_for_others(leg))
        else:
            leg_flows.add_local_owner(flows, leg, leg.ofport)
        if local.place.everywhere:
            leg_flows.add_shared_answers(flows, leg)
            if local.router.gateway is not None and (local.away is not None or not local.active):
                inside = (*local.prefixes(ipv6=False), *local.prefixes(ipv6=True), *(d for d, _ in routes.inside))
                leg_flows.add_choice(flows, leg, inside, outer_prefixes(local, routes), local.away)
    if not local.serves or local.is_for_others(leg):
        leg_flows.add_way(flows, leg, local.away)
    return Group(interface_id(local, leg), {**planned, "flows": flows}, requires)


def plan_other_hosts(group_id: ObjectId, leg: Leg, hosts: tuple[HostName, ...]) -> Group:
    """Plan what a distributed router's leg on a physical network needs to know of other hosts."""
    flows: dict[str, str] = {}
    leg_flows.add_other_hosts(flows, leg, hosts)
    return Group(group_id, {"flows": flows})


def plan_gateway(local: LocalRouter, leg: Leg, gate: frozenset[ItemRef], routes: StaticRoutes) -> Group:
    """Plan the leg on the external network: only where the gateway is active it speaks as itself."""
    planned, requires = plan_leg(local, leg)
    ways, need_ways = default_routes(local, leg, routes)
    flows: dict[str, str] = {}
    if leg.ofport is not None and (local.active or local.place.everywhere):
        _open(flows, requires, local, leg, leg.ofport, gate)
        if local.active:
            _add_speaker(flows, local, leg, leg.ofport)
            leg_flows.add_owner(flows, leg, leg.ofport)
            mac, host = local.passing_mac(leg), local.passes_back
            if mac is not None and host is not None:
                leg_flows.add_way_back(flows, leg, mac, host)
    leg_flows.add_answers(flows, leg)
    if not local.active:
        leg_flows.add_way(flows, leg, local.away)
    items: dict[str, Mapping[Key, Value]] = {**planned, "routes": {**planned["routes"], **ways}, "flows": flows}
    own = rules.shared_source(local)
    if own is not None and local.has_addresses:
        value = rules.ANYBODY if local.router.enable_snat else rules.HAIRPIN
        items["translations"] = {f"{local.namespace} {own}": value}
    return Group(interface_id(local, leg), items, {**requires, **need_ways})


def _add_speaker(flows: dict[str, str], local: LocalRouter, leg: Leg, ofport: int) -> None:
    leg_flows.add_speaker(flows, leg, ofport)
    mac = local.passing_mac(leg)
    if mac is not None:
        leg_flows.add_passing(flows, leg, ofport, mac)


def _open(
    flows: dict[str, str],
    requires: dict[ItemRef, frozenset[ItemRef]],
    local: LocalRouter,
    leg: Leg,
    ofport: int,
    gate: frozenset[ItemRef],
) -> None:
    """Let a leg speak once all that it needs is in place, and hear."""
    # Outside, floating IPs here and the active gateway elsewhere talk to each other.
    leg_flows.add_delivery(flows, leg, ofport, hears_itself=leg.is_gateway and local.place.everywhere)
    entry = leg_flows.add_entry(flows, leg, ofport)
    own = (local.device_ref(leg), ItemRef("links", leg.outer), ItemRef("ovs", f"port/{leg.outer}"))
    addresses = (ItemRef("routes", key) for key in leg_address_keys(local, leg))
    requires[ItemRef("flows", entry)] = frozenset((*gate, *own, *addresses, leg.segment.allocation))
