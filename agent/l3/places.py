# SPDX-License-Identifier: Apache-2.0
"""Which routers a host has, and what of them.

A host has a router if it is one of the router's gateway hosts, whether its gateway is
active or not, and has a *distributed* one also if an instance on one of its networks is
here.  A router that names no gateway host at all can do nothing but join its networks,
so it is treated as a distributed one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.core.memo import Memo
from agent.core.model import (
    Endpoint,
    EndpointId,
    FloatingIp,
    FloatingIpId,
    Host,
    HostName,
    HostSnapshot,
    Network,
    NetworkId,
    Port,
    PortId,
    Router,
    RouterId,
    SwitchView,
)
from agent.core.naming import router_link_names
from agent.l2.routed import NOT_ROUTED, RoutedNetworks
from agent.l2.settings import LocalSettings
from agent.l3.gateways import gateway_order
from agent.l3.state import GatewayState

_NO_FLOATING_IPS: Mapping[FloatingIpId, FloatingIp] = {}
_NO_ENDPOINTS: Mapping[EndpointId, Endpoint] = {}


@dataclass(frozen=True, slots=True)
class Place:
    """What a router is on this host.

    ``everywhere``: each host routes between its networks by itself.  ``resident``: its
    namespace is here.  ``gateway_host``: it can leave from here.  ``floats``: floating
    IPs leave from here because their instances are here.  ``outside``: it has a leg on the
    external network here.
    """

    router: Router
    everywhere: bool
    resident: bool
    gateway_host: bool
    floats: bool
    outside: bool


def is_everywhere(router: Router) -> bool:
    """Tell whether each host with a port on one of its networks has the router."""
    return router.distributed or not router.gateway_hosts


def routed_networks(router: Router) -> frozenset[NetworkId]:
    """Return the networks of the router's interfaces."""
    return frozenset(interface.network for interface in router.interfaces)


def claimed_networks(routers: Iterable[Router], host: HostName, ports: Mapping[PortId, Port]) -> set[NetworkId]:
    """Return the networks that need a number on *host* because a router of it may have a leg there."""
    used = {port.network for port in ports.values()}
    found: set[NetworkId] = set()
    for router in routers:
        if _is_resident(router, host, used):
            found |= routed_networks(router)
            if router.gateway is not None:
                found.add(router.gateway.network)
    return found


def _is_resident(router: Router, host: HostName, used: Iterable[NetworkId]) -> bool:
    if not router.admin_state_up:
        return False
    if host in gateway_order(router):
        return True
    return is_everywhere(router) and not routed_networks(router).isdisjoint(used)


def outside_hosts(memo: Memo, snapshot: HostSnapshot, network: Network, local: LocalSettings) -> frozenset[HostName]:
    """Return the hosts that carry an external network, so that floating IPs can leave from them.

    What others have is what they announce; what this host has is what it is configured with.
    """

    def find() -> frozenset[HostName]:
        found = {name for name, host in snapshot.hosts.items() if _carries(network, host)}
        here = network.type.is_tunnel or network.physnet in local.bridge_mappings
        return frozenset(found | {snapshot.host} if here else found - {snapshot.host})

    return memo.value(("outside hosts", network.id), (snapshot.hosts, network, local), find)


def _carries(network: Network, host: Host) -> bool:
    if network.type.is_tunnel:
        return network.type in host.encapsulations
    return network.physnet in host.bridge_mappings


def floating_host(floating: FloatingIp, place: Place, outside: frozenset[HostName]) -> HostName | None:
    """Return the host that a floating IP leaves from, None for that of the active gateway."""
    return floating.host if place.everywhere and floating.host in outside else None


def find_places(
    memo: Memo, snapshot: HostSnapshot, local: LocalSettings
) -> tuple[dict[RouterId, Place], Mapping[RouterId, frozenset[HostName]]]:
    """Return the routers of the snapshot that are up, and for each the hosts that carry its external network."""
    used = memo.value("used networks", (snapshot.ports,), lambda: {port.network for port in snapshot.ports.values()})
    places: dict[RouterId, Place] = {}
    outside: dict[RouterId, frozenset[HostName]] = {}
    for router_id, router in snapshot.routers.items():
        if not router.admin_state_up:
            continue
        external = None if router.gateway is None else snapshot.networks.get(router.gateway.network)
        hosts = frozenset[HostName]() if external is None else outside_hosts(memo, snapshot, external, local)
        floating = snapshot.floating_ips.get(router_id, _NO_FLOATING_IPS)
        inputs = (router, snapshot.host, used, hosts, floating)
        build = _Builder(router, snapshot.host, used, hosts, floating)
        places[router_id] = memo.evolve(("place", router_id), inputs, build)
        outside[router_id] = hosts
    return places, outside


@dataclass(frozen=True, slots=True)
class _Builder:
    """Makes a router's place; an equal one stays the same object."""

    router: Router
    host: HostName
    used: Iterable[NetworkId]
    outside: frozenset[HostName]
    floating: Mapping[FloatingIpId, FloatingIp]

    def __call__(self, last: Place | None) -> Place:
        resident = _is_resident(self.router, self.host, self.used)
        is_gateway = self.host in gateway_order(self.router)
        own = is_everywhere(self.router) and self.host in self.outside
        floats = own and any(each.host == self.host for each in self.floating.values())
        has_leg = resident and self.router.gateway is not None and (is_gateway or floats)
        place = Place(self.router, is_everywhere(self.router), resident, is_gateway, floats, has_leg)
        same = last is not None and last.router is self.router and last == place
        return last if same and last is not None else place


def find_routed(
    memo: Memo, snapshot: HostSnapshot, switch: SwitchView, places: Mapping[RouterId, Place], gateways: GatewayState
) -> RoutedNetworks:
    """Return what layer 2 must do for the routers of this host."""
    if not places:
        return NOT_ROUTED
    networks: dict[NetworkId, None] = {}
    members: dict[NetworkId, tuple[tuple[str, int], ...]] = {}
    hosts: dict[NetworkId, frozenset[HostName]] = {}
    for router_id, place in places.items():
        router, active = place.router, router_id in gateways.active
        others = _other_hosts(memo, snapshot, place)
        for interface in router.interfaces:
            hosts[interface.network] = hosts.get(interface.network, frozenset()) | others
        ports = [(interface, False) for interface in router.interfaces] if place.resident else []
        ports += [(router.gateway, True)] if place.outside and router.gateway is not None else []
        for port, is_gateway in ports:
            networks[port.network] = None
            ofport = switch.ofports.get(router_link_names(port.port, is_gateway)[0], 0)
            if ofport > 0 and (active or place.everywhere):
                members[port.network] = (*members.get(port.network, ()), (port.port, ofport))
    return RoutedNetworks(tuple(networks), members, hosts)


def _other_hosts(memo: Memo, snapshot: HostSnapshot, place: Place) -> frozenset[HostName]:
    """Return who else has a leg on the router's networks."""
    found = frozenset(gateway_order(place.router))
    if place.everywhere and place.resident:
        for network in routed_networks(place.router):
            known = snapshot.endpoints.get(network, _NO_ENDPOINTS)
            found |= memo.value(("hosts of", network), (known,), _Hosts(known))
    return found - {snapshot.host, HostName("")}


@dataclass(frozen=True, slots=True)
class _Hosts:
    endpoints: Mapping[EndpointId, Endpoint]

    def __call__(self) -> frozenset[HostName]:
        return frozenset(endpoint.host for endpoint in self.endpoints.values())
