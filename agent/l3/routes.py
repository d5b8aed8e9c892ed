# SPDX-License-Identifier: Apache-2.0
"""Routes of a router: those that the store names, and out of its gateway what nothing else says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network
from typing import TypeAlias

from agent.core.errors import Actor, Problem
from agent.core.plan import Group, ItemRef, Key, ObjectId, Value
from agent.l3.devices import leg_address_keys
from agent.l3.local_router import Leg, LocalRouter, leg_towards

DEFAULTS = {False: "0.0.0.0/0", True: "::/0"}


Hops: TypeAlias = tuple[tuple[str, Leg], ...]  # next hops and the legs to them


@dataclass(frozen=True, slots=True, eq=False)
class StaticRoutes:
    """The routes that the store names, by where they lead: ``inside`` by interfaces, ``outside`` by the gateway.

    ``unreachable`` are (destination, next hop).
    """

    inside: tuple[tuple[str, Hops], ...]
    outside: tuple[tuple[str, Hops], ...]
    unreachable: tuple[tuple[str, str], ...]

    @property
    def keeps_everything(self) -> bool:
        """Whether what is nowhere else in IPv4 is reached by an interface."""
        return any(destination == DEFAULTS[False] for destination, _ in self.inside)

    def names(self, destination: str) -> bool:
        """Tell whether there is a route to exactly this prefix."""
        return any(destination == each for each, _ in (*self.inside, *self.outside))


def sort_routes(local: LocalRouter) -> StaticRoutes:
    """Find the leg to each next hop.

    Where one of several next hops is outside, the way goes by a gateway host, which knows all of them.
    """
    gateway = () if local.gateway is None else (local.gateway,)
    found: dict[str, list[tuple[str, Leg]]] = {}
    lost: list[tuple[str, str]] = []
    for destination, hop in local.router.routes:
        leg = leg_towards((*local.legs, *gateway), hop)
        if leg is None or (":" in destination) != (":" in hop):
            lost.append((destination, hop))
        else:
            found.setdefault(destination, []).append((hop, leg))
    inside: list[tuple[str, Hops]] = []
    outside: list[tuple[str, Hops]] = []
    for destination, hops in found.items():
        leaves = any(leg.is_gateway for _, leg in hops)
        (outside if leaves else inside).append((destination, tuple(hops)))
    return StaticRoutes(tuple(inside), tuple(outside), tuple(lost))


def plan_routes(local: LocalRouter, routes: StaticRoutes) -> Group:
    """Plan the routes that the store names; of several next hops those that a leg here leads to."""
    items: dict[Key, Value] = {}
    requires: dict[ItemRef, frozenset[ItemRef]] = {}
    for destination, hops in (*routes.inside, *routes.outside):
        here = [(hop, leg) for hop, leg in hops if not leg.is_gateway or _leaves(local)]
        if here:
            key = local.item("route", destination)
            items[key] = _way(local, here)
            requires[ItemRef("routes", key)] = frozenset(need for _, leg in here for need in _needs(local, leg))
    return Group(ObjectId(f"{local.object_id}/routes"), {"routes": items}, requires)


def default_routes(
    local: LocalRouter, leg: Leg, routes: StaticRoutes
) -> tuple[dict[Key, Value], dict[ItemRef, frozenset[ItemRef]]]:
    """Return the way out of the gateway's leg, unless the store names another, and what it requires.

    Where the leg has floating IPs only, nothing says what is on its network: neither the next hop
    nor others with floating IPs, which are to be asked for directly.
    """
    items: dict[Key, Value] = {}
    requires: dict[ItemRef, frozenset[ItemRef]] = {}
    for ipv6, destination in DEFAULTS.items():
        hop = next((a.subnet.gateway for a in leg.addresses if a.is_ipv6 is ipv6 and a.subnet.gateway), None)
        if hop is None or routes.names(destination) or not (local.has_addresses or (local.place.floats and not ipv6)):
            continue
        key = local.item("route", destination)
        items[key] = _way(local, [(hop, leg)])
        requires[ItemRef("routes", key)] = _needs(local, leg)
    if local.place.floats and not local.has_addresses:
        for cidr in sorted({address.subnet.cidr for address in leg.addresses if not address.is_ipv6}):
            key = local.item("route", cidr)
            items[key] = f"dev {leg.device}"
            requires[ItemRef("routes", key)] = _needs(local, leg)
    return items, requires


def outer_prefixes(local: LocalRouter, routes: StaticRoutes) -> tuple[str, ...]:
    """Return the prefixes in those reached by interfaces that are reached by the gateway all the same: longer ones."""
    connected = () if local.gateway is None else local.gateway.addresses
    covered = {
        each.subnet.cidr for each in connected if any(_covers(way, each.subnet.cidr) for way, _ in routes.inside)
    }
    return (*(destination for destination, _ in routes.outside), *sorted(covered))


def untracked_prefixes(local: LocalRouter, routes: StaticRoutes) -> list[str]:
    """Return the IPv4 prefixes that are reached by interfaces, sorted, without what in them is reached by the gateway.

    Floating IPs are on the gateway's own network, and among everything: a route that takes
    everything inside does not tell what stays there.
    """
    ways = {destination for destination, _ in routes.inside if ":" not in destination} - {DEFAULTS[False]}
    outer = [IPv4Network(each) for each in outer_prefixes(local, routes) if ":" not in each]
    found: set[IPv4Network] = set()
    for text in (*local.prefixes(ipv6=False), *ways):
        left = {IPv4Network(text)}
        for hole in outer:
            around = next((part for part in left if hole.subnet_of(part)), None)
            if around is not None:
                left = (left - {around}) | set(around.address_exclude(hole))
        found |= left
    return sorted(map(str, found))


def _covers(wide: str, narrow: str) -> bool:
    if (":" in wide) != (":" in narrow):
        return False
    outer, inner = ip_network(wide), ip_network(narrow)
    return outer.supernet_of(inner)  # type: ignore[arg-type]


def _leaves(local: LocalRouter) -> bool:
    """Tell whether there are routes by the gateway: the kernel drops them with the last address of its leg."""
    return local.outside_leg is not None and (local.has_addresses or local.place.floats)


def _needs(local: LocalRouter, leg: Leg) -> frozenset[ItemRef]:
    return frozenset((local.device_ref(leg), *(ItemRef("routes", key) for key in leg_address_keys(local, leg))))


def _way(local: LocalRouter, hops: Iterable[tuple[str, Leg]]) -> str:
    ways = sorted(f"via {hop} dev {leg.device}{_onlink(local, hop, leg)}" for hop, leg in hops)
    return ways[0] if len(ways) == 1 else " ".join(f"nexthop {way}" for way in ways)


def _onlink(local: LocalRouter, hop: str, leg: Leg) -> str:
    bare = leg.is_gateway and local.place.everywhere  # there may be floating IPs only
    far = leg_towards((leg,), hop) is None and not hop.startswith("fe80:")
    return " onlink" if bare or far else ""


def route_problems(local: LocalRouter, routes: StaticRoutes) -> Iterable[Problem]:
    """Yield what is wrong with the router's routes."""
    for destination, hop in routes.unreachable:
        text = (
            f"router {local.router.name or local.router.id}: the route to {destination} by {hop} is left out: no "
            "network of the router has the next hop"
        )
        yield Problem(local.object_id, "routes", text, Actor.CLOUD)
