# SPDX-License-Identifier: Apache-2.0
"""What the responder shall know of all ports of this host: where DHCP, metadata and layer 2 meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from agent.core import service_identity
from agent.core.allocations import Allocations, Claim
from agent.core.errors import Problem
from agent.core.items import Served
from agent.core.memo import Memo
from agent.core.model import HostSnapshot, MetadataService, Network, NetworkId, Port, PortId, Subnet
from agent.dhcp import planner as dhcp
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
    inputs = (snapshot.ports, snapshot.networks, snapshot.subnets, snapshot.metadata_service, allocations, local)
    return memo.stage("services", inputs, lambda: _Planning(snapshot, allocations, memo, local).run())


class _Planning:
    """One round over the ports of this host."""

    def __init__(self, snapshot: HostSnapshot, allocations: Allocations, memo: Memo, local: LocalSettings) -> None:
        self._snapshot = snapshot
        self._allocations = allocations
        self._memo = memo
        self._local = local
        self._problems: list[Problem] = []

    def run(self) -> ServicePlan:
        snapshot = self._snapshot
        ports: dict[PortId, ServedPort] = {}
        for port in snapshot.ports.values():
            number = self._allocations.get(Claim(KIND, port.id))
            if number is None or not service_identity.is_served(port.device_owner):
                continue  # who allocates says why
            ports[port.id] = self._plan_port(port, number)
        used = {port.network for port in snapshot.ports.values()}
        networks = {network: self._needs(network) for network in used if network in snapshot.networks}
        mtu = max((snapshot.networks[network].mtu for network in networks), default=0)
        service = snapshot.metadata_service
        settings = self._memo.value("service", (service, self._local), partial(_plan_service, service, self._local))
        return ServicePlan(Services(settings, ports, networks, mtu), tuple(self._problems))

    def _plan_port(self, port: Port, number: int) -> ServedPort:
        network = self._snapshot.networks.get(port.network)
        if network is not None and not (port.admin_state_up and network.admin_state_up):
            network = None
        subnets = self._snapshot.subnets.get(port.network, ())
        asked = self._snapshot.metadata_service is not None
        served, problems = self._memo.value(
            ("served", port.id),
            (port, network, number, asked, *subnets),
            partial(_plan_port, port, network, subnets, number, asked=asked),
        )
        self._problems += problems
        return served

    def _needs(self, network: NetworkId) -> NetworkNeeds:
        subnets = self._snapshot.subnets.get(network, ())
        return self._memo.value(("needs", network), subnets, partial(_find_needs, subnets))


def _plan_port(
    port: Port, network: Network | None, subnets: tuple[Subnet, ...], number: int, *, asked: bool
) -> tuple[ServedPort, tuple[Problem, ...]]:
    """Plan one port; without *network* it keeps its number and is told nothing."""
    if network is None:
        return ServedPort(port.id, port.mac, number), ()
    told = dhcp.plan_port(port, network, subnets, number)
    data = metadata.plan_port(port, network, subnets, number, service=asked) if subnets else metadata.MetadataPlan()
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
    limits = local.metadata_limits
    return metadata.plan_service(service, Limits(limits.rate, limits.burst, limits.connections))
