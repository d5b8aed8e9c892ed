# SPDX-License-Identifier: Apache-2.0
"""What the responder shall know of all ports of this host: where DHCP, metadata and layer 2 meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import NamedTuple

from agent.core import service_identity
from agent.core.allocations import Allocations, Claim
from agent.core.errors import Problem
from agent.core.items import Served
from agent.core.memo import Memo
from agent.core.model import (
    HostSnapshot,
    MetadataService,
    Network,
    NetworkId,
    Port,
    PortId,
    RouterInterface,
    Subnet,
)
from agent.dhcp import planner as dhcp
from agent.dhcp.planner import Routed
from agent.l2.port_services import ServedPort, Services
from agent.l2.services import NetworkNeeds
from agent.l2.settings import LocalSettings
from agent.metadata import planner as metadata
from agent.metadata.data import Limits

KIND = "responder"  # of numbers


@dataclass(frozen=True, slots=True, eq=False)
class ServicePlan:
    """What is to be answered, None on a host that answers nothing, and what is wrong with it."""

    services: Services | None = None
    problems: tuple[Problem, ...] = ()


NOTHING = ServicePlan()


def wanted_claims(ports: Mapping[PortId, Port]) -> set[Claim]:
    """Return a number for each port of this host that may ask, whether it is plugged in or not."""
    return {Claim(KIND, port.id) for port in ports.values() if service_identity.is_served(port.device_owner)}


def plan_services(snapshot: HostSnapshot, allocations: Allocations, memo: Memo, local: LocalSettings) -> ServicePlan:
    """Plan what is answered on this host, the same object while nothing changes that it is made of."""
    if not local.services:
        return NOTHING
    inputs = (
        snapshot.ports,
        snapshot.networks,
        snapshot.subnets,
        snapshot.routers,
        snapshot.metadata_service,
        allocations,
        local,
    )
    return memo.stage("services", inputs, lambda: _Planning(snapshot, allocations, memo, local).run())


class _Part(NamedTuple):
    """What was planned of a port, and what from."""

    port: Port
    network: Network | None
    subnets: tuple[Subnet, ...]
    routed: Routed
    number: int
    served: ServedPort
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Round:
    """What was planned of all ports; ``asked`` tells whether there was a metadata service."""

    asked: bool
    parts: Mapping[PortId, _Part]


_NO_SUBNETS: tuple[Subnet, ...] = ()


class _Planning:
    """One round over the ports of this host."""

    def __init__(self, snapshot: HostSnapshot, allocations: Allocations, memo: Memo, local: LocalSettings) -> None:
        self._snapshot = snapshot
        self._allocations = allocations
        self._memo = memo
        self._local = local
        self._routed: Mapping[NetworkId, Routed] = {}

    def run(self) -> ServicePlan:
        snapshot = self._snapshot
        self._routed = self._memo.evolve("routed", (snapshot.routers, snapshot.subnets), self._find_routed)
        inputs = (
            snapshot.ports,
            snapshot.networks,
            snapshot.subnets,
            snapshot.metadata_service,
            self._allocations,
            self._routed,
        )
        parts = self._memo.evolve("served", inputs, self._update).parts
        used = {part.port.network for part in parts.values()}
        networks = {network: self._needs(network) for network in used if network in snapshot.networks}
        mtu = max((snapshot.networks[network].mtu for network in networks), default=0)
        service = snapshot.metadata_service
        settings = self._memo.value("service", (service, self._local), partial(_plan_service, service, self._local))
        parts = self._keep_within(parts)
        ports = {port_id: part.served for port_id, part in parts.items()}
        problems = tuple(problem for part in parts.values() for problem in part.problems)
        return ServicePlan(Services(settings, ports, networks, mtu, _connects(self._local)), problems)

    def _find_routed(self, last: Mapping[NetworkId, Routed] | None) -> Mapping[NetworkId, Routed]:
        """Return what routers have on each network; the same object while it is the same."""
        interfaces: dict[NetworkId, list[RouterInterface]] = {}
        for router in self._snapshot.routers.values():
            for interface in router.interfaces if router.admin_state_up else ():
                interfaces.setdefault(interface.network, []).append(interface)
        subnets = self._snapshot.subnets
        found = {network: dhcp.find_routed(each, subnets.get(network, ())) for network, each in interfaces.items()}
        return last if last == found and last is not None else found

    def _keep_within(self, parts: Mapping[PortId, _Part]) -> Mapping[PortId, _Part]:
        """Return *parts* with what the responder has room for: who has most to be told is told less."""
        left = sum(map(_weight, parts.values())) - metadata.ROOM
        if left <= 0:
            return parts
        lighter = dict(parts)
        for port_id in sorted(parts, key=lambda port_id: (-_weight(parts[port_id]), port_id)):
            part = parts[port_id]
            lighter[port_id] = self._memo.value(("lighter", port_id), (part,), partial(self._lighter, part))
            left -= _weight(part) - _weight(lighter[port_id])
            if left <= 0:
                break
        return lighter

    def _lighter(self, part: _Part) -> _Part:
        if part.network is None:
            return part
        asked = self._snapshot.metadata_service is not None
        planned = _plan_port(part.port, part.network, part.subnets, part.routed, part.number, asked=asked, room=False)
        return part._replace(served=planned[0], problems=planned[1])

    def _update(self, last: _Round | None) -> _Round:
        """Plan the ports anew that are not made of the same as last time."""
        networks, subnets, allocations = self._snapshot.networks, self._snapshot.subnets, self._allocations
        asked = self._snapshot.metadata_service is not None
        old: Mapping[PortId, _Part] = last.parts if last is not None and last.asked is asked else {}
        numbers = {object_id: number for (kind, object_id), number in allocations.items() if kind == KIND}
        parts: dict[PortId, _Part] = {}
        for port_id, port in self._snapshot.ports.items():
            part, number = old.get(port_id), numbers.get(port_id)
            network, own = networks.get(port.network), subnets.get(port.network, _NO_SUBNETS)
            routed = self._routed.get(port.network, dhcp.NOT_ROUTED)
            same = part is not None and part.port is port and part.network is network and part.subnets is own
            same = same and part is not None and (part.routed is routed or part.routed == routed)
            if part is not None and same and part.number == number:  # nearly all of them, nearly always
                parts[port_id] = part
            elif number is not None and service_identity.is_served(port.device_owner):
                planned = _plan_port(port, network, own, routed, number, asked=asked)
                parts[port_id] = _Part(port, network, own, routed, number, *planned)
            # else who allocates says why
        return _Round(asked, parts)

    def _needs(self, network: NetworkId) -> NetworkNeeds:
        subnets = self._snapshot.subnets.get(network, _NO_SUBNETS)
        return self._memo.value(("needs", network), subnets, partial(_find_needs, subnets))


def _weight(part: _Part) -> int:
    """Return how many octets of a port's metadata the responder holds."""
    return 0 if part.served.metadata is None else len(part.served.metadata.data)


def _plan_port(
    port: Port,
    network: Network | None,
    subnets: tuple[Subnet, ...],
    routed: Routed,
    number: int,
    *,
    asked: bool,
    room: bool = True,
) -> tuple[ServedPort, tuple[Problem, ...]]:
    """Plan one port; one that is down keeps its number and is told nothing."""
    if network is None or not subnets or not (port.admin_state_up and network.admin_state_up):
        return ServedPort(port.id, port.mac, number), ()
    told = dhcp.plan_port(port, network, subnets, number, routed)
    data = metadata.plan_port(port, network, subnets, number, service=asked, room=room)
    served = ServedPort(port.id, port.mac, number, told.served, data.served, data.aliases, data.asks_service)
    return served, (*told.problems, *data.problems)


def _find_needs(subnets: tuple[Subnet, ...]) -> NetworkNeeds:
    spoken = dhcp.protocols(subnets)
    return NetworkNeeds(
        ipv4=any(":" not in subnet.cidr for subnet in subnets),
        ipv6=any(":" in subnet.cidr for subnet in subnets),
        servers=spoken.servers,
        dhcpv4=spoken.dhcpv4,
        dhcpv6=spoken.dhcpv6,
        advertised=spoken.advertised,
    )


def _plan_service(service: MetadataService | None, local: LocalSettings) -> Served:
    return metadata.plan_service(service, _limits(local))


def _limits(local: LocalSettings) -> Limits:
    limits = local.metadata_limits
    return Limits(limits.rate, limits.burst, limits.connections)


def _connects(local: LocalSettings) -> str:
    """Return how fast an address may connect, as an item of driver ``connects``; "" for as fast as it likes.

    As fast as the responder would take a port's connections: what it would refuse does not even reach it.
    """
    allowed = _limits(local).connects
    return f"{ceil(allowed.rate)}/second burst {allowed.burst} packets" if allowed.rate > 0 else ""
