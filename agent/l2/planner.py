# SPDX-License-Identifier: Apache-2.0
"""Plan layer 2 of this host: which flows, ports and numbers make the store's networks real.

Pure: the result depends on the arguments only, and the memo changes what it costs,
never what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from agent.core import naming
from agent.core.allocations import Allocations, Claim
from agent.core.errors import Problem
from agent.core.memo import Memo
from agent.core.model import HostSnapshot, NetworkId, PortId, SwitchView
from agent.core.plan import Group, ObjectId
from agent.l2 import endpoints, hosts, networks, port_services
from agent.l2.filter_planner import PortFilters, SharedFilters, group_heads, zone_claims
from agent.l2.port_planner import Members, PluggedPorts, PortPlanning
from agent.l2.port_services import ServedPort, Services
from agent.l2.routed import NOT_ROUTED, RoutedNetworks
from agent.l2.segments import Segment, find_uplink
from agent.l2.settings import LocalSettings

_NONE_SERVED: Mapping[PortId, ServedPort] = {}  # one object: the memo looks at identity


def wanted_claims(snapshot: HostSnapshot, switch: SwitchView) -> set[Claim]:
    """Return the numbers that layer 2 needs: for networks with a port here, and for filters (conntrack zones)."""
    networks = {port.network for port in snapshot.ports.values()}
    return {Claim("network", network) for network in networks} | zone_claims(snapshot, switch)


@dataclass(frozen=True, slots=True, eq=False)
class Layer2:
    """The groups of layer 2, what could not be planned, and what routers stand on."""

    groups: dict[ObjectId, Group]
    problems: list[Problem]
    segments: Mapping[NetworkId, Segment]
    peers: hosts.Peers


def plan_l2(
    snapshot: HostSnapshot,
    allocations: Allocations,
    switch: SwitchView,
    memo: Memo,
    local: LocalSettings,
    services: Services | None = None,
    routed: RoutedNetworks = NOT_ROUTED,
) -> Layer2:
    """Return layer 2 of this host.

    *services* are what the responder is to answer, None if this host has none.

    To be called only with a snapshot that is in sync and a switch that is connected
    (an empty one would plan an empty host), between the memo's ``begin`` and ``end``.
    A port that is not plugged has no flows.
    """
    return _Planning(snapshot, allocations, switch, memo, local, services, routed).run()


class _Planning:
    """One round: the arguments, and the groups and problems so far."""

    def __init__(
        self,
        snapshot: HostSnapshot,
        allocations: Allocations,
        switch: SwitchView,
        memo: Memo,
        local: LocalSettings,
        services: Services | None,
        routed: RoutedNetworks,
    ) -> None:
        self._services = services
        self._routed = routed
        self._snapshot = snapshot
        self._switch = switch
        self._memo = memo
        self._local = local
        self._allocations = allocations
        self._groups: dict[ObjectId, Group] = {}
        self._problems: list[Problem] = []

    def run(self) -> Layer2:
        self._plan_own_host()
        peers = self._plan_peers()
        segments = self._plan_segments()
        plugged = self._plan_ports(segments)
        if self._services is not None:
            self._plan_services(self._services, segments)
        for network_id, segment in segments.items():
            if segment.network.admin_state_up:
                self._plan_floods(segment, plugged.members.get(network_id, Members()), peers)
        if self._local.filters:
            shared = SharedFilters(self._snapshot, self._memo, plugged.policies, plugged.leaves)
            self._groups.update(shared.groups)
            self._problems += shared.problems
        problems = sorted(set(self._problems), key=lambda p: (p.object_id, p.field, p.text))
        return Layer2(self._groups, problems, segments, peers)

    def _plan_own_host(self) -> None:
        mappings, problems = hosts.mapped_bridges(self._local, self._switch)
        self._problems += problems
        names = [naming.patch_port_names(physnet)[0] for physnet in mappings]
        ofports = {name: n for name in names if (n := self._switch.ofports.get(name, 0)) > 0}
        inputs = (self._local, *mappings, *(ofports.get(name) for name in names))
        self._groups[hosts.OWN_HOST] = self._memo.group(
            hosts.OWN_HOST, inputs, lambda: hosts.plan_own_host(self._local, mappings, ofports)
        )

    def _plan_peers(self) -> hosts.Peers:
        tunnels: dict[str, int] = {}
        for kind in sorted(self._local.encapsulations):
            ofport = self._switch.ofports.get(naming.tunnel_port_name(kind.value), 0)
            if ofport > 0:
                tunnels[kind.value] = ofport
        snapshot, local = self._snapshot, self._local
        peers = hosts.plan_peers(self._memo, snapshot.hosts, snapshot.host, local, tunnels)
        self._groups.update(peers.groups)
        return peers

    def _plan_segments(self) -> dict[NetworkId, Segment]:
        segments: dict[NetworkId, Segment] = {}
        used = (port.network for port in self._snapshot.ports.values())
        for network_id in dict.fromkeys((*used, *self._routed.networks)):
            network = self._snapshot.networks.get(network_id)
            number = self._allocations.get(Claim("network", network_id))
            if network is None or number is None:
                continue  # said for each port; a missing number is said by who allocates
            uplink = find_uplink(network, self._local, self._switch)
            if isinstance(uplink, Problem):
                self._problems.append(uplink)
                uplink = None
            segment = self._memo.value(
                ("segment", network_id),
                (network, number, uplink),
                partial(Segment, network, number, uplink),
            )
            segments[network_id] = segment
            group_id = networks.object_id(segment)
            self._groups[group_id] = self._memo.group(group_id, (segment,), partial(networks.plan_network, segment))
        return segments

    def _plan_ports(self, segments: Mapping[NetworkId, Segment]) -> PluggedPorts:
        snapshot, memo = self._snapshot, self._memo
        heads = group_heads(memo, snapshot.security_groups)
        wanted = (snapshot.ports, snapshot.networks, self._switch.interfaces, self._switch.ofports)
        filtered = (heads, self._allocations, self._local)
        served = _NONE_SERVED if self._services is None else self._services.ports

        def plan() -> PluggedPorts:
            return PortPlanning(*wanted, PortFilters(*filtered, memo), served, memo).run(segments.values())

        plugged = memo.stage("ports", (*wanted, *filtered, served, *segments.values()), plan)
        self._groups.update(plugged.groups)
        self._problems += plugged.problems
        return plugged

    def _plan_services(self, wanted: Services, segments: Mapping[NetworkId, Segment]) -> None:
        devices = port_services.find_devices(self._switch.ofports)
        self._groups.update(port_services.plan_host(self._memo, wanted, devices))
        self._groups.update(port_services.plan_networks(self._memo, wanted, segments.values(), devices))

    def _plan_floods(self, segment: Segment, members: Members, peers: hosts.Peers) -> None:
        network_id = segment.network.id
        known = self._snapshot.endpoints.get(network_id, {})
        own = self._snapshot.host
        foreign = endpoints.plan_endpoints(self._memo, segment, known, peers, own)
        self._groups.update(foreign.groups)
        self._problems += foreign.problems
        self._plan_chunks(segment, [*members.ofports, *self._routed.members.get(network_id, ())])
        if segment.network.type.is_tunnel and segment.uplink is not None:
            reached = self._with_routers(segment, foreign.hosts, peers)
            self._plan_host_chunks(segment, reached)
            crowd = networks.crowd_problem(segment, len(reached), self._local.datapath_type)
            self._problems += [crowd] if crowd is not None else []
        for mac, ofports in members.shared.items():
            ofports.sort()
            group_id = networks.shared_mac_id(segment, mac)
            self._groups[group_id] = self._memo.group(
                group_id, (segment, *ofports), partial(networks.plan_shared_mac, segment, mac, ofports)
            )

    def _with_routers(
        self, segment: Segment, reached: tuple[tuple[str, str], ...], peers: hosts.Peers
    ) -> tuple[tuple[str, str], ...]:
        """Return *reached*, (host, tunnel address), with those that have no port but a router's leg on the network."""
        others = self._routed.hosts.get(segment.network.id, frozenset())
        found = dict(reached)
        for name in others - found.keys():
            host = peers.reachable.get(name)
            if host is not None and segment.network.type in host.encapsulations:
                found[name] = host.tunnel_address or ""
        return tuple(sorted(found.items())) if len(found) > len(reached) else reached

    def _plan_chunks(self, segment: Segment, members: list[tuple[str, int]]) -> None:
        members.sort()
        chunks = networks.cut_chunks(members, networks.chunk_count(len(members)))
        for index, chunk in enumerate(chunks):
            group_id = networks.local_chunk_id(segment, index)
            self._groups[group_id] = self._memo.group(
                group_id,
                (segment, len(chunks), *chunk),
                partial(networks.plan_local_chunk, segment, index, len(chunks), chunk),
            )

    def _plan_host_chunks(self, segment: Segment, members: tuple[tuple[str, str], ...]) -> None:
        chunks = networks.cut_chunks(members, networks.chunk_count(len(members)))
        for index, chunk in enumerate(chunks):
            group_id = networks.remote_chunk_id(segment, index)
            self._groups[group_id] = self._memo.group(
                group_id,
                (segment, len(chunks), *chunk),
                partial(networks.plan_remote_chunk, segment, index, len(chunks), chunk),
            )
