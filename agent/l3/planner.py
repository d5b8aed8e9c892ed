# SPDX-License-Identifier: Apache-2.0
"""Plan the routers of this host: namespaces, routes, translation, and the flows that lead there.

Pure.  A round costs what changed: one more floating IP, port forwarding or endpoint is one
group of its own; a change of the router itself plans that router again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from agent.core import naming
from agent.core.errors import Actor, Problem
from agent.core.memo import Memo
from agent.core.model import (
    Endpoint,
    EndpointId,
    FloatingIp,
    FloatingIpId,
    HostName,
    HostSnapshot,
    NetworkId,
    PortForwarding,
    PortForwardingId,
    RouterId,
    RouterInterface,
    Subnet,
    SwitchView,
)
from agent.core.plan import Group, ObjectId, Voice
from agent.l2.hosts import Peers
from agent.l2.routed import RoutedNetworks
from agent.l2.segments import Segment
from agent.l3 import router_groups
from agent.l3.floating_ips import plan_floating_ips
from agent.l3.local_router import SCOPES, Away, Leg, LocalRouter, leg_addresses
from agent.l3.neighbor_entries import plan_neighbors
from agent.l3.places import Place
from agent.l3.port_forwardings import plan_forwardings
from agent.l3.routes import plan_routes, route_problems, sort_routes
from agent.l3.state import GatewayState

_NO_SUBNETS: tuple[Subnet, ...] = ()
_NO_ENDPOINTS: Mapping[EndpointId, Endpoint] = {}
_NO_FLOATING_IPS: Mapping[FloatingIpId, FloatingIp] = {}
_SILENT: Mapping[ObjectId, Voice] = {}
_NO_FORWARDINGS: Mapping[PortForwardingId, PortForwarding] = {}


@dataclass(frozen=True, slots=True)
class Ground:
    """What routers stand on: layer 2 of this host, and where the gateways are."""

    segments: Mapping[NetworkId, Segment]
    peers: Peers
    routed: RoutedNetworks
    switch: SwitchView
    gateways: GatewayState


@dataclass(frozen=True, slots=True, eq=False)
class Layer3:
    """The groups of all routers, what could not be planned, and what they speak for here."""

    groups: dict[ObjectId, Group]
    problems: list[Problem]
    voices: dict[ObjectId, Mapping[ObjectId, Voice]]


def plan_l3(
    memo: Memo,
    snapshot: HostSnapshot,
    places: Mapping[RouterId, Place],
    outside: Mapping[RouterId, frozenset[HostName]],
    ground: Ground,
) -> Layer3:
    """Return layer 3 of this host.

    *places* and *outside* are those of ``find_places``.
    """
    planning = _Planning(memo, snapshot, ground)
    for router_id, place in places.items():
        planning.plan(place, outside[router_id])
    return Layer3(planning.groups, planning.problems, planning.voices)


class _Planning:
    """One round: the arguments, and the groups and problems so far."""

    def __init__(self, memo: Memo, snapshot: HostSnapshot, ground: Ground) -> None:
        self._memo = memo
        self._snapshot = snapshot
        self._ground = ground
        self.groups: dict[ObjectId, Group] = {}
        self.problems: list[Problem] = []
        self.voices: dict[ObjectId, Mapping[ObjectId, Voice]] = {}

    def plan(self, place: Place, outside: frozenset[HostName]) -> None:
        """Plan one router."""
        local = self._local_router(place)
        if place.resident:
            self._plan_resident(local, outside)
        else:
            for leg in _legs(local):
                self._group(
                    router_groups.interface_id(local, leg), (local,), partial(router_groups.plan_remote, local, leg)
                )

    def _local_router(self, place: Place) -> LocalRouter:
        router = place.router
        gateways, own = self._ground.gateways, self._snapshot.host
        active = place.resident and router.id in gateways.active
        away = self._away(place)
        passing = active and router.id in gateways.passing
        speaking = active and router.id not in gateways.silent
        ports = [(interface, False) for interface in router.interfaces]
        ports += [(router.gateway, True)] if router.gateway is not None else []
        legs = [self._leg(place, port, is_gateway) for port, is_gateway in ports]
        gateway = legs.pop() if router.gateway is not None else None
        here = tuple(leg for leg in legs if leg is not None)
        return self._memo.value(
            ("router", router.id),
            (place, own, active, away, passing, speaking, gateway, *here),
            partial(LocalRouter, place, own, here, gateway, active, away, passing, speaking),
        )

    def _away(self, place: Place) -> Away | None:
        """Return the host that the router leaves from, if it is another."""
        name = self._ground.gateways.hosts.get(place.router.id)
        if name is None or name == self._snapshot.host:
            return None
        host = self._ground.peers.reachable.get(name)
        return self._memo.value(("away", place.router.id), (name, host), partial(Away, name, host))

    def _leg(self, place: Place, interface: RouterInterface, is_gateway: bool) -> Leg | None:
        """Return a router's leg on a network that is carried here and up."""
        segment = self._ground.segments.get(interface.network)
        if segment is None or not segment.network.admin_state_up:
            return None
        has_device = place.resident and (place.outside or not is_gateway)
        ofport = self._ground.switch.ofports.get(naming.router_link_names(interface.port, is_gateway)[0], 0)
        number = ofport if has_device and ofport > 0 else None
        subnets = self._snapshot.subnets.get(interface.network, _NO_SUBNETS)

        def build() -> Leg:
            return Leg(interface, segment, is_gateway, number, leg_addresses(interface, subnets))

        return self._memo.value(("leg", interface.port), (interface, segment, number, subnets), build)

    def _plan_resident(self, local: LocalRouter, outside: frozenset[HostName]) -> None:
        memo, base, place = self._memo, local.object_id, local.place
        routes = memo.value(("routes", base), (local,), partial(sort_routes, local))
        frame = memo.value(("frame", base), (local,), partial(router_groups.plan_frame, local, routes))
        self.groups[base] = frame.group
        self._group(ObjectId(f"{base}/routes"), (local,), partial(plan_routes, local, routes))
        for leg in local.legs:
            build = partial(router_groups.plan_interface, local, leg, frame.gate, routes)
            self._group(router_groups.interface_id(local, leg), (local,), build)
            self._plan_neighbors(local, leg)
            if place.everywhere and leg.segment.network.type.is_physical:
                self._plan_other_hosts(local, leg)
        spoken = _SILENT
        if local.outside_leg is not None:
            leg = local.outside_leg
            build = partial(router_groups.plan_gateway, local, leg, frame.gate, routes)
            self._group(router_groups.interface_id(local, leg), (local,), build)
            spoken = self._plan_translations(local, outside)
        elif local.gateway is not None:
            build = partial(router_groups.plan_remote, local, local.gateway)
            self._group(router_groups.interface_id(local, local.gateway), (local,), build)
        claim = self._ground.gateways.claims.get(local.router.id, 0)
        self.voices[base] = memo.value(("voices", base), (local, spoken, claim), partial(_voices, local, spoken, claim))
        self.problems += route_problems(local, routes)
        self.problems += _problems(local)

    def _plan_neighbors(self, local: LocalRouter, leg: Leg) -> None:
        known = self._snapshot.endpoints.get(leg.interface.network, _NO_ENDPOINTS)
        self.groups.update(plan_neighbors(self._memo, local, leg, known).groups)

    def _plan_other_hosts(self, local: LocalRouter, leg: Leg) -> None:
        hosts = tuple(sorted(self._ground.routed.hosts.get(leg.interface.network, ())))
        group_id = ObjectId(f"{router_groups.interface_id(local, leg)}/hosts")
        self._group(group_id, (leg, *hosts), partial(router_groups.plan_other_hosts, group_id, leg, hosts))

    def _plan_translations(self, local: LocalRouter, outside: frozenset[HostName]) -> Mapping[ObjectId, Voice]:
        """Plan floating IPs and port forwardings; return what of them speaks here."""
        snapshot, router = self._snapshot, local.router.id
        floating = snapshot.floating_ips.get(router, _NO_FLOATING_IPS)
        planned = plan_floating_ips(self._memo, local, snapshot.host, floating, outside)
        self.groups.update(planned.groups)
        wanted = snapshot.port_forwardings.get(router, _NO_FORWARDINGS)
        forwardings = plan_forwardings(self._memo, local, wanted)
        if forwardings is None:
            return planned.voices
        self.groups.update(forwardings.groups)
        self.problems += forwardings.problems
        both = (planned.voices, forwardings.voices)
        return self._memo.value(("spoken", router), both, lambda: {**both[0], **both[1]})

    def _group(self, group_id: ObjectId, inputs: tuple[object, ...], build: partial[Group]) -> None:
        self.groups[group_id] = self._memo.group(group_id, inputs, build)


def _legs(local: LocalRouter) -> tuple[Leg, ...]:
    return local.legs if local.gateway is None else (*local.legs, local.gateway)


def _voices(local: LocalRouter, spoken: Mapping[ObjectId, Voice], claim: int) -> Mapping[ObjectId, Voice]:
    """Return what a router speaks for here: its gateway, its interfaces, and *spoken*, its floating IPs.

    Interfaces on tunnel networks are heard of once and after all others: nobody learns places
    there, but instances may know the address from a router before this one.  A leg that the
    switch has not numbered yet has no voice, nor have floating IPs behind it.
    """
    numbered = [leg for leg in _legs(local) if leg.ofport is not None]
    if local.outside_leg not in numbered:
        spoken = _SILENT
    if not local.speaking:
        return spoken
    own = {router_groups.interface_id(local, leg): _voice(local, leg, claim) for leg in numbered}
    # What is not urgent has the gateway's MAC address, or does not move with it.
    return own | {what: replace(voice, claim=claim) if voice.urgent else voice for what, voice in spoken.items()}


def _voice(local: LocalRouter, leg: Leg, claim: int) -> Voice:
    physical = leg.segment.network.type.is_physical
    urgent = leg.is_gateway or physical
    # What a distributed router's advertisements say is not what it has on a physical network: see ``leg_flows``.
    only_ipv4 = local.place.everywhere and physical and not leg.is_gateway
    addresses = tuple(a.address for a in leg.addresses if not (only_ipv4 and a.is_ipv6))
    return Voice(leg.outer, leg.mac, addresses, repeated=physical, urgent=urgent, claim=claim if urgent else 0)


def _problems(local: LocalRouter) -> list[Problem]:
    """Return what keeps a router that is here from being what the store wants."""
    router, found = local.router, []
    name = router.name or router.id
    carried = {leg.interface.port for leg in _legs(local)}
    for interface in router.interfaces:
        if interface.port not in carried:
            text = (
                f"router {name}: network {interface.network} of interface {interface.port} is down or not in the store"
            )
            found.append(Problem(local.object_id, "interfaces", text, Actor.CLOUD))
    if router.gateway is not None and not router.gateway_hosts:
        text = f"router {name}: it has a gateway but no gateway hosts; only floating IPs can leave"
        found.append(Problem(local.object_id, "gateway_hosts", text, Actor.CLOUD))
    if any(len(local.scopes(ipv6=ipv6)) > SCOPES for ipv6 in (False, True)):
        text = f"router {name}: more than {SCOPES} address scopes meet in it"
        found.append(Problem(local.object_id, "interfaces", text, Actor.CLOUD))
    return found
