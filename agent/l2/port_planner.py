# SPDX-License-Identifier: Apache-2.0
"""Plan the ports of this host, each for itself, and note what they have in common.

All that this depends on is handed over by name, so that who asks knows when the answer
is the same as last time: on a host with hundreds of ports most changes concern none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from agent.core.errors import Actor, Problem
from agent.core.memo import Memo
from agent.core.model import Network, NetworkId, PluggedInterface, Port, PortId
from agent.core.plan import Group, ObjectId
from agent.l2 import port_services, ports
from agent.l2.filter_planner import PortFilters, Verdict
from agent.l2.policies import Policy
from agent.l2.port_filters import plan_filter
from agent.l2.port_services import ServedPort
from agent.l2.ports import Identity
from agent.l2.segments import Segment


@dataclass(slots=True)
class Members:
    """Local ports of one network that can be reached."""

    ofports: list[tuple[str, int]] = field(default_factory=list)
    shared: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PluggedPorts:
    """All ports that are plugged in; ``policies`` and ``leaves`` of the tree are those of filtered ones."""

    groups: Mapping[ObjectId, Group]
    problems: tuple[Problem, ...]
    members: Mapping[NetworkId, Members]
    policies: tuple[Policy, ...]
    leaves: tuple[str, ...]


class PortPlanning:
    """One round over *wanted*, the ports of this host.

    *ofports* are those of all interfaces but theirs; *served* are those of the ports
    that the responder answers.
    """

    def __init__(
        self,
        wanted: Mapping[PortId, Port],
        networks: Mapping[NetworkId, Network],
        interfaces: Mapping[PortId, PluggedInterface],
        ofports: Mapping[str, int],
        filters: PortFilters,
        served: Mapping[PortId, ServedPort],
        memo: Memo,
    ) -> None:
        self._ports = wanted
        self._networks = networks
        self._interfaces = interfaces
        self._ofports = ofports
        self._filters = filters
        self._served = served
        self._memo = memo
        self._groups: dict[ObjectId, Group] = {}
        self._problems: list[Problem] = []
        self._open: dict[PortId, int] = {}  # OpenFlow numbers of ports that have their flows

    def run(self, segments: Iterable[Segment]) -> PluggedPorts:
        """Plan them all; those of networks without a segment stay shut."""
        members = self._plan_ports({segment.network.id: segment for segment in segments})
        devices = port_services.find_devices(self._ofports)
        answered = port_services.plan_ports(self._memo, self._served, self._open, devices)
        self._groups.update((group.object_id, group) for group in answered)
        problems = (*self._problems, *self._filters.problems)
        return PluggedPorts(self._groups, problems, members, tuple(self._filters.in_use), tuple(self._filters.leaves))

    def _plan_ports(self, segments: Mapping[NetworkId, Segment]) -> dict[NetworkId, Members]:
        members: dict[NetworkId, Members] = {}
        numbers = Counter(self._ofports.values())
        numbers.update(i.ofport for i in self._interfaces.values() if i.ofport is not None)
        for port in self._ports.values():
            segment = segments.get(port.network)
            if segment is None:
                self._miss_network(port)
                continue
            if not (port.admin_state_up and segment.network.admin_state_up):
                continue
            ofport = self._find_ofport(port.id, numbers)
            if ofport is None:
                continue
            if not self._plan_port(port, segment, ofport):
                continue
            self._open[port.id] = ofport
            reached = members.get(port.network)
            if reached is None:
                reached = members[port.network] = Members()
            reached.ofports.append((port.id, ofport))
            if port.allowed_address_pairs:
                for mac in ports.shared_macs(port):
                    reached.shared.setdefault(mac, []).append(ofport)
        return members

    def _plan_port(self, port: Port, segment: Segment, ofport: int) -> bool:
        """Plan a port that is plugged in; return False if it stays shut."""
        found = self._filters.find(port, self._interfaces[port.id])
        group_id = ObjectId(f"port:{port.id}")
        served = self._served.get(port.id)
        number = 0 if served is None else served.number
        if found is Verdict.UNFILTERED:
            inputs: tuple[object, ...] = (port, segment, ofport, number)
            build = partial(_plan_unfiltered, port, segment, ofport, number)
        elif isinstance(found, tuple):
            inputs = (port, segment, ofport, number, *found)
            policy, zone = found
            build = partial(_plan_filtered, port, segment, ofport, number, policy, zone)
        else:
            return False
        self._groups[group_id] = self._memo.group(group_id, inputs, build)
        return True

    def _miss_network(self, port: Port) -> None:
        if port.network in self._networks:
            return
        text = f"port {port.name or port.id}: its network {port.network} is not in the store"
        self._problems.append(Problem(f"port:{port.id}", "network", text, Actor.CLOUD))

    def _find_ofport(self, port_id: PortId, numbers: Mapping[int, int]) -> int | None:
        interface = self._interfaces.get(port_id)
        if interface is None:
            return None
        where = f"interface {interface.name}"
        if interface.error:
            text = f"{where}: Open vSwitch reports: {interface.error}"
            self._problems.append(Problem(f"port:{port_id}", "interface", text, Actor.OPERATOR))
            return None
        if interface.ofport is None or interface.ofport < 1:
            return None
        if numbers[interface.ofport] > 1:
            text = f"{where}: another interface shows the same OpenFlow number {interface.ofport}"
            self._problems.append(Problem(f"port:{port_id}", "ofport", text, Actor.NOBODY))
            return None
        return interface.ofport


def _plan_unfiltered(port: Port, segment: Segment, ofport: int, number: int) -> Group:
    return ports.plan_port(port, segment, ofport, identity=_identity(port, number))


def _plan_filtered(port: Port, segment: Segment, ofport: int, number: int, policy: Policy, zone: int) -> Group:
    return ports.plan_port(port, segment, ofport, plan_filter(port, policy, zone), _identity(port, number))


def _identity(port: Port, number: int) -> Identity | None:
    return Identity(number, port_services.number_ref(port.id)) if number else None
