# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom across routers, and under which address: worked out from a file.  Pure.

Written from the Neutron API's description of routers, floating IPs, address scopes and
security groups.  It shares no code with the product, not even the reading of files, and
knows nothing of hosts: where something is must not matter.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

UPSTREAM = "upstream"  # the router beyond, and what it is called where requests arrive
MOST_HOPS = 8
PROTOCOLS = {4: ("icmp",), 6: ("icmpv6", "ipv6-icmp", "icmp")}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of an echo request.

    ``arrives_at`` are those of whom one sees it (several: equally good ways lead there), none
    if a router answers by itself; ``seen_from`` is the source address that it has there.
    """

    answered: bool
    arrives_at: frozenset[str] = frozenset()
    seen_from: str = ""


NOTHING = Outcome(answered=False)
BY_ROUTER = Outcome(answered=True)


@dataclass(frozen=True, slots=True)
class Instance:
    name: str
    network: str
    host: str
    addresses: tuple[str, ...]
    groups: tuple[str, ...] | None
    behind: tuple[str, ...]  # what it has besides, for others to have routes to

    def address(self, version: int) -> str:
        return next((each for each in self.addresses if version_of(each) == version), "")


@dataclass(frozen=True, slots=True)
class Subnet:
    name: str
    network: str
    cidr: str
    gateway: str
    scope: str
    external: bool


@dataclass(frozen=True, slots=True)
class Router:
    name: str
    legs: Mapping[str, str]  # address by subnet
    outside: tuple[str, ...]
    snat: bool
    routes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Packet:
    """On its way; ``translated`` tells that its destination was a floating IP of the present router."""

    source: str
    target: str
    hops: int = 0
    translated: bool = False


def version_of(address: str) -> int:
    return 6 if ":" in address else 4


def is_in(address: str, cidr: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)


@dataclass(frozen=True, slots=True)
class World:
    """What a file says.  All addresses must be given in it."""

    instances: Mapping[str, Instance]
    subnets: Mapping[str, Subnet]
    routers: Mapping[str, Router]
    floating: Mapping[str, tuple[str, str]]  # address to router and fixed address
    groups: Mapping[str, Sequence[Mapping[str, Any]]]
    upstream: tuple[str, ...] = field(default=())

    def own(self, source: str) -> tuple[str, ...]:
        """Return the addresses that are on an instance, or ``UPSTREAM``, itself."""
        if source == UPSTREAM:
            return self.upstream
        return (*self.instances[source].addresses, *self.instances[source].behind)

    def expect(self, source: str, target: str) -> Outcome:
        """Return what becomes of an echo request of an instance, or ``UPSTREAM``, to an address."""
        version = version_of(target)
        if source == UPSTREAM:
            own = next(address for address in self.upstream if version_of(address) == version)
            return self._beyond(Packet(own, target))
        instance = self.instances[source]
        own = instance.address(version)
        if not own or not self._allows(instance, "egress", target):
            return NOTHING
        subnet = self._subnet_of(instance, version)
        if is_in(target, subnet.cidr):
            return self._deliver(Packet(own, target), subnet.network)
        router = self._owner_of_leg(subnet, subnet.gateway)
        return NOTHING if router is None else self._route(router, Packet(own, target), subnet)

    def _route(self, router: Router, packet: Packet, came: Subnet | None) -> Outcome:
        """Return what a router does; *came* is the subnet that the packet is from, None from outside."""
        if packet.hops > MOST_HOPS:
            return NOTHING
        packet = Packet(packet.source, packet.target, packet.hops + 1)
        owner, fixed = self.floating.get(packet.target, ("", ""))
        if owner == router.name:
            packet = Packet(packet.source, fixed, packet.hops, translated=True)
        if packet.target in (*router.outside, *router.legs.values()):
            return BY_ROUTER
        for name in router.legs:
            subnet = self.subnets[name]
            if is_in(packet.target, subnet.cidr):
                return self._inside(router, packet, came, subnet)
        ways = [
            via
            for prefix, via in router.routes
            if version_of(via) == version_of(packet.target) and is_in(packet.target, prefix)
        ]
        if ways:
            return self._along(router, packet, ways)
        return self._outside(router, packet, came)

    def _inside(self, router: Router, packet: Packet, came: Subnet | None, to: Subnet) -> Outcome:
        """Deliver to one of the router's own subnets."""
        version = version_of(packet.target)
        scope = self._outer_scope(router, version) if came is None else came.scope
        if scope != to.scope and not packet.translated:
            return NOTHING
        if packet.translated and came is not None:  # to a floating IP from inside: back the same way
            source = self._floating_of(router, packet.source) or self._outer(router, version)
            packet = Packet(source, packet.target, packet.hops)
        return self._deliver(packet, to.network)

    def _outside(self, router: Router, packet: Packet, came: Subnet | None) -> Outcome:
        """Send out by the gateway."""
        version = version_of(packet.target)
        own = self._outer(router, version)
        if not own or came is None:  # no gateway, or back where it came from
            return NOTHING
        source, same_scope = packet.source, came.scope == self._outer_scope(router, version)
        floating = self._floating_of(router, packet.source)
        if version == 4 and floating:
            source = floating
        elif version == 4 and router.snat and not (same_scope and came.scope):
            source = own
        elif not same_scope:
            return NOTHING
        return self._beyond(Packet(source, packet.target, packet.hops))

    def _beyond(self, packet: Packet) -> Outcome:
        """Find who has an address on the external network, or behind it."""
        if packet.target in self.upstream:
            return Outcome(answered=True, arrives_at=frozenset((UPSTREAM,)), seen_from=packet.source)
        for router in self.routers.values():
            if packet.target in router.outside or self.floating.get(packet.target, ("",))[0] == router.name:
                return self._route(router, packet, None)
        if any(subnet.external and is_in(packet.target, subnet.cidr) for subnet in self.subnets.values()):
            return NOTHING
        version = version_of(packet.target)
        for router in self.routers.values():
            if not self._outer(router, version):
                continue
            for name in router.legs:
                subnet = self.subnets[name]
                known = version == 6 or not router.snat or subnet.scope == self._outer_scope(router, 4) != ""
                if known and is_in(packet.target, subnet.cidr):
                    return self._route(router, packet, None)
        return NOTHING

    def _deliver(self, packet: Packet, network: str) -> Outcome:
        for instance in self.instances.values():
            if instance.network == network and packet.target in instance.addresses:
                return self._arrive(packet, [instance])
        return BY_ROUTER if self._router_at(network, packet.target) else NOTHING

    def _along(self, router: Router, packet: Packet, ways: Sequence[str]) -> Outcome:
        """Hand over to who leads on: another router, or instances that have the address behind them."""
        for subnet in map(self.subnets.__getitem__, router.legs):
            for way in ways:
                following = self._router_at(subnet.network, way)
                if following is not None:
                    return self._route(following, packet, subnet)
        behind = [
            each
            for each in self.instances.values()
            if packet.target in each.behind and any(way in each.addresses for way in ways)
        ]
        return self._arrive(packet, behind) if behind else NOTHING

    def _arrive(self, packet: Packet, at: Sequence[Instance]) -> Outcome:
        if not all(self._allows(instance, "ingress", packet.source) for instance in at):
            return NOTHING
        return Outcome(answered=True, arrives_at=frozenset(each.name for each in at), seen_from=packet.source)

    def _subnet_of(self, instance: Instance, version: int) -> Subnet:
        address = instance.address(version)
        return next(
            each for each in self.subnets.values() if each.network == instance.network and is_in(address, each.cidr)
        )

    def _router_at(self, network: str, address: str) -> Router | None:
        """Return the router that has an address on a network."""
        known = (router for router in self.routers.values() if address in router.legs.values())
        return next((r for r in known if any(self.subnets[leg].network == network for leg in r.legs)), None)

    def _owner_of_leg(self, subnet: Subnet, address: str) -> Router | None:
        return next((router for router in self.routers.values() if router.legs.get(subnet.name) == address), None)

    def _floating_of(self, router: Router, fixed: str) -> str:
        return next((address for address, pair in self.floating.items() if pair == (router.name, fixed)), "")

    def _outer(self, router: Router, version: int) -> str:
        return next((each for each in router.outside if version_of(each) == version), "")

    def _outer_scope(self, router: Router, version: int) -> str:
        own = self._outer(router, version)
        return next(
            (each.scope for each in self.subnets.values() if each.external and own and is_in(own, each.cidr)), ""
        )

    def _allows(self, instance: Instance, direction: str, peer: str) -> bool:
        if instance.groups is None:
            return True
        rules = (rule for group in instance.groups for rule in self.groups[group])
        return any(rule["direction"] == direction and self._matches(rule, peer) for rule in rules)

    def _matches(self, rule: Mapping[str, Any], peer: str) -> bool:
        version = version_of(peer)
        if rule.get("ethertype", f"IPv{version}") != f"IPv{version}":
            return False
        if rule.get("protocol", "icmp") not in PROTOCOLS[version]:
            return False
        if "remote_group" in rule:
            members = (each for each in self.instances.values() if rule["remote_group"] in (each.groups or ()))
            return any(peer in each.addresses for each in members)
        prefix = rule.get("remote_ip_prefix")
        return prefix is None or (version_of(prefix) == version and is_in(peer, prefix))


def read_world(text: str, behind: Mapping[str, Sequence[str]], upstream: Sequence[str]) -> World:
    """Return what a file says; *behind* are more addresses of instances, *upstream* those of the router beyond."""
    file = yaml.safe_load(text)
    pools = {name: pool.get("address_scope") or "" for name, pool in (file.get("subnet_pools") or {}).items()}
    external = {name for name, network in file["networks"].items() if network.get("external")}
    subnets = {
        name: Subnet(
            name,
            each["network"],
            each["cidr"],
            each.get("gateway", str(ipaddress.ip_network(each["cidr"])[1])),
            pools.get(each.get("subnet_pool", ""), ""),
            each["network"] in external,
        )
        for name, each in file["subnets"].items()
    }
    instances = {
        name: Instance(
            name,
            each["network"],
            each["host"],
            tuple(each["fixed_ips"]),
            None if each.get("security_groups") is None else tuple(each["security_groups"]),
            tuple(behind.get(name, ())),
        )
        for name, each in file["ports"].items()
    }
    routers = {name: _router(name, each, subnets) for name, each in file["routers"].items()}
    floating = {}
    for address, each in (file.get("floating_ips") or {}).items():
        instance = instances[each["port"]]
        fixed = instance.address(4)
        legs = {
            own == subnets[leg].gateway: router.name
            for router in routers.values()
            for leg, own in router.legs.items()
            if subnets[leg].network == instance.network and is_in(fixed, subnets[leg].cidr)
        }
        floating[address] = (legs.get(True) or legs[False], fixed)
    groups = {
        name: each if isinstance(each, list) else each["rules"]
        for name, each in (file.get("security_groups") or {}).items()
    }
    return World(instances, subnets, routers, floating, groups, tuple(upstream))


def _router(name: str, each: Mapping[str, Any], subnets: Mapping[str, Subnet]) -> Router:
    legs = {}
    for leg in each.get("interfaces", ()):
        subnet = leg if isinstance(leg, str) else leg["subnet"]
        legs[subnet] = subnets[subnet].gateway if isinstance(leg, str) else leg.get("address", subnets[subnet].gateway)
    gateway = each.get("gateway") or {}
    routes = tuple((route["destination"], route["nexthop"]) for route in each.get("routes", ()))
    return Router(name, legs, tuple(gateway.get("fixed_ips", ())), each.get("enable_snat", True), routes)
