# SPDX-License-Identifier: Apache-2.0
"""Floating IPs: an external address that stands for one of an instance's, both ways.

That of a centralised router is where its gateway is active, under the gateway's MAC
address.  That of a distributed router leaves from its instance's own host if that carries
the external network, else from the active gateway host, and everywhere under a MAC address
of its own, which the store gives: the leg itself has the router's on all hosts, and flows
put one in place of the other, in ARP as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core import openflow
from agent.core.memo import Memo
from agent.core.model import FloatingIp, FloatingIpId, HostName
from agent.core.naming import DNAT_CHAIN, FLOATING_CHAIN
from agent.core.openflow import match
from agent.core.plan import Group, ItemRef, Key, ObjectId, Value, Voice
from agent.l2 import neighbors
from agent.l2.pipeline import PORT, Goto, Table, add
from agent.l3 import rules
from agent.l3.leg_flows import FLOATING, OWN_ADDRESS, TO_DELIVER, TO_LOCAL, TO_NEIGHBOR
from agent.l3.local_router import Leg, LocalRouter
from agent.l3.places import floating_host

REWRITTEN = 110  # in FROM_ROUTER: above what the leg sends as itself
TO_REPLY = Goto(Table.NEIGHBOR_REPLY)
ARP_REQUEST = 1


@dataclass(frozen=True, slots=True, eq=False)
class FloatingIps:
    """All floating IPs of a router on this host; ``parts`` hold what each group was made from."""

    local: LocalRouter
    parts: Mapping[FloatingIpId, tuple[FloatingIp, HostName | None, Group]]
    groups: Mapping[ObjectId, Group]
    voices: Mapping[ObjectId, Voice]


def plan_floating_ips(
    memo: Memo,
    local: LocalRouter,
    own: HostName,
    wanted: Mapping[FloatingIpId, FloatingIp],
    outside: frozenset[HostName],
) -> FloatingIps:
    """Plan the floating IPs that are here; *outside* are the hosts that carry the external network.

    One more costs one group, however many there are.
    """

    def update(last: FloatingIps | None) -> FloatingIps:
        old = last.parts if last is not None and last.local.translates_like(local) else {}
        parts: dict[FloatingIpId, tuple[FloatingIp, HostName | None, Group]] = {}
        for floating_id, floating in wanted.items():
            host = floating_host(floating, local.place, outside)
            leg = local.outside_leg
            if leg is None or not (host == own or (host is None and local.has_addresses)):
                continue
            part = old.get(floating_id)
            if part is None or part[0] is not floating or part[1] != host:
                # One that goes with the gateway is known to switches at the other place while that moves.
                under = local.passing_mac(leg) if host is None else None
                part = (floating, host, _plan(local, leg, floating, under, speaks=_speaks(local, host)))
                memo.rebuilt += 1
            parts[floating_id] = part
        voices = {
            group.object_id: _voice(local, floating, host)
            for floating, host, group in parts.values()
            if local.speaking or host is not None
        }
        return FloatingIps(local, parts, {group.object_id: group for _, _, group in parts.values()}, voices)

    return memo.evolve(("floating ips", local.router.id), (local, own, wanted, outside), update)


def _speaks(local: LocalRouter, host: HostName | None) -> bool:
    """Tell whether a floating IP that leaves from *host* (None: the active gateway's) does so here."""
    return local.active if host is None else True


def _voice(local: LocalRouter, floating: FloatingIp, host: HostName | None) -> Voice:
    """Return what to announce: with a MAC address of its own it follows a gateway only if switches learn that."""
    leg, own_mac = local.outside_leg, local.place.everywhere
    repeated = leg is not None and leg.segment.network.type.is_physical
    device = "" if leg is None else leg.outer
    mac = floating.mac if own_mac or leg is None else leg.mac
    return Voice(device, mac, (floating.address,), repeated, urgent=own_mac and host is None)


def object_id(floating: FloatingIp) -> ObjectId:
    """Return the object id of a floating IP."""
    return ObjectId(f"floating_ip:{floating.id}")


def rule_keys(local: LocalRouter, floating: FloatingIp) -> tuple[Key, Key]:
    """Return the keys of the rules for the destination of what comes in and the source of what goes out."""
    space, address, fixed = local.namespace, floating.address, floating.fixed_address
    return (
        rules.rule_key(space, DNAT_CHAIN, f"-d {address}/32 -j DNAT --to-destination {fixed}"),
        rules.rule_key(space, FLOATING_CHAIN, f"-s {fixed}/32 -j SNAT --to-source {address}"),
    )


def _plan(local: LocalRouter, leg: Leg, floating: FloatingIp, under: str | None, *, speaks: bool) -> Group:
    address = local.item("address", leg.device, f"{floating.address}/32")
    there, back = rule_keys(local, floating)
    nat: dict[Key, Value] = {there: "", back: ""}
    requires = {
        ItemRef("routes", address): frozenset((local.device_ref(leg),)),
        ItemRef("nat", there): frozenset((rules.chain_ref(local.namespace, DNAT_CHAIN),)),
        ItemRef("nat", back): frozenset((rules.chain_ref(local.namespace, FLOATING_CHAIN),)),
        ItemRef("fallback", f"{local.namespace} {floating.address}"): frozenset((local.netns,)),
    }
    if rules.passes_floating(local):
        passes = f"{rules.passed_chain(local.namespace)} -s {floating.fixed_address}/32 -j ACCEPT"
        nat[passes] = ""
        requires[ItemRef("nat", passes)] = frozenset((ItemRef("nat", rules.passed_chain(local.namespace)),))
    items: dict[str, Mapping[Key, Value]] = {
        "routes": {address: ""},
        "nat": nat,
        "fallback": {f"{local.namespace} {floating.address}": floating.fixed_address},
        "translations": {f"{local.namespace} {floating.address}": floating.fixed_address},
    }
    if speaks and leg.ofport is not None:
        flows, entries = _flows(local, leg, floating, leg.ofport, under)
        items["flows"] = flows
        gate = frozenset((ItemRef("routes", address), *(ItemRef("nat", key) for key in nat)))
        requires.update((ItemRef("flows", key), gate) for key in entries)
    return Group(object_id(floating), items, requires)


def _flows(
    local: LocalRouter, leg: Leg, floating: FloatingIp, ofport: int, under: str | None
) -> tuple[dict[str, str], list[Key]]:
    """Return the flows of a floating IP that speaks here, and those of them that open it.

    *under* is the MAC address that one with its own sends under instead.
    """
    flows: dict[str, str] = {}
    own_mac = local.place.everywhere
    mac = floating.mac if own_mac else leg.mac
    neighbors.add_exemption(flows, ofport, floating.address)
    neighbors.add_known(flows, leg.segment, mac, floating.address)
    request = match("arp", metadata=leg.segment.number, arp_tpa=floating.address, arp_op=ARP_REQUEST)
    # A request may be for the floating IP's own MAC address: the leg takes what is for its own only.
    to_leg = (openflow.set_field(leg.mac, "eth_dst"), openflow.set_register(PORT, ofport), TO_DELIVER)
    opened = [add(flows, Table.NEIGHBOR_IN, neighbors.KNOWN, request, *to_leg)]
    if not own_mac:
        return flows, opened
    own = match(metadata=leg.segment.number, dl_dst=mac)
    opened.append(add(flows, Table.LOCAL, OWN_ADDRESS, own, *to_leg))
    as_itself = openflow.set_field(under or mac, "eth_src")
    arp = match("arp", in_port=ofport, arp_spa=floating.address)
    in_arp = openflow.set_field(mac, "arp_sha")
    opened.append(add(flows, Table.FROM_ROUTER, REWRITTEN, arp, as_itself, in_arp, TO_NEIGHBOR))
    neighbors.add_reply_to(flows, ofport, mac, leg.mac)
    packets = match("ip", in_port=ofport, nw_src=floating.address)
    opened.append(add(flows, Table.FROM_ROUTER, REWRITTEN, packets, as_itself, TO_NEIGHBOR))
    for inside in local.legs:
        if inside.interface.network == floating.network:
            text = match("ip", metadata=inside.segment.number, dl_dst=inside.mac, nw_src=floating.fixed_address)
            opened.append(add(flows, Table.ROUTER, FLOATING, text, TO_LOCAL))
    return flows, opened
