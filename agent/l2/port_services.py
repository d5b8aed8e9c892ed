# SPDX-License-Identifier: Apache-2.0
"""What the responder shall know of each port and network of this host, and the flows that belong to it.

What it is to say is made by others (``agent.dhcp``, ``agent.metadata``) and handed over
ready made; here it is joined with the flows that need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from agent.core import naming
from agent.core import service_identity as identity
from agent.core.items import Served
from agent.core.memo import Memo
from agent.core.model import NetworkId, PortId
from agent.core.plan import Group, ItemRef, Key, ObjectId, Value
from agent.l2 import host_services, services
from agent.l2.segments import Segment
from agent.l2.services import MetadataWay, NetworkNeeds


@dataclass(frozen=True, slots=True, eq=False)
class ServedPort:
    """A port that has a number, and what the responder shall know of it; None for nothing.

    ``aliases`` are (alias, address) of its metadata requests; ``asks_service`` tells that
    these are passed on to the metadata service that the store names.
    """

    id: PortId
    mac: str
    number: int
    dhcp: Served | None = None
    metadata: Served | None = None
    aliases: tuple[tuple[str, str], ...] = ()
    asks_service: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Services:
    """All that is to be answered on this host; ``mtu`` is that of its largest network in octets.

    ``connects`` is how fast an address may connect to the metadata service ("": any), as driver ``connects`` has it.
    """

    service: Served
    ports: Mapping[PortId, ServedPort] = field(default_factory=dict)
    networks: Mapping[NetworkId, NetworkNeeds] = field(default_factory=dict)
    mtu: int = host_services.LEAST_MTU
    connects: str = ""


@dataclass(frozen=True, slots=True)
class Devices:
    """OpenFlow numbers of the responder's devices, None while they have none."""

    dhcp: int | None
    metadata: int | None


def find_devices(ofports: Mapping[str, int]) -> Devices:
    """Return the devices' numbers among those of all interfaces."""
    return Devices(_number(ofports, identity.DHCP_DEVICE), _number(ofports, identity.METADATA_DEVICE))


def _number(ofports: Mapping[str, int], name: str) -> int | None:
    ofport = ofports.get(name, 0)
    return ofport if ofport > 0 else None


def plan_host(memo: Memo, wanted: Services, devices: Devices) -> dict[ObjectId, Group]:
    """Return the groups of the host's own part."""
    mtu = host_services.device_mtu(wanted.mtu)
    dhcp, metadata = host_services.HOST_DHCP, host_services.HOST_METADATA
    return {
        dhcp: memo.group(dhcp, (mtu, devices.dhcp), partial(host_services.plan_host_dhcp, mtu, devices.dhcp)),
        metadata: memo.group(
            metadata,
            (mtu, devices.metadata, wanted.service, wanted.connects),
            partial(host_services.plan_host_metadata, mtu, devices.metadata, wanted.service, wanted.connects),
        ),
    }


def plan_networks(memo: Memo, wanted: Services, segments: Iterable[Segment], devices: Devices) -> dict[ObjectId, Group]:
    """Return what the instances of each network may ask."""
    groups: dict[ObjectId, Group] = {}
    for segment in segments:
        needs = wanted.networks.get(segment.network.id)
        if needs is None or not segment.network.admin_state_up:
            continue
        group_id = ObjectId(f"network:{segment.network.id}/services")
        build = partial(_plan_network, group_id, segment, needs, devices.dhcp)
        groups[group_id] = memo.group(group_id, (segment, needs, devices.dhcp), build)
    return groups


def _plan_network(group_id: ObjectId, segment: Segment, needs: NetworkNeeds, device: int | None) -> Group:
    flows: dict[str, str] = {}
    services.add_network(flows, segment, needs, device)
    return Group(group_id, {"flows": flows})


class _Part(NamedTuple):
    """What a port's groups were made from, and the groups."""

    port: ServedPort
    ofport: int | None
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Round:
    devices: Devices
    parts: Mapping[PortId, _Part]


def plan_ports(
    memo: Memo, ports: Mapping[PortId, ServedPort], ofports: Mapping[PortId, int], devices: Devices
) -> Iterator[Group]:
    """Yield the groups of each of *ports*; *ofports* are of those that are open."""

    def update(last: _Round | None) -> _Round:
        old: Mapping[PortId, _Part] = last.parts if last is not None and last.devices == devices else {}
        parts: dict[PortId, _Part] = {}
        for port_id, port in ports.items():
            ofport, part = ofports.get(port_id), old.get(port_id)
            if part is None or part.port is not port or part.ofport != ofport:
                part = _Part(port, ofport, tuple(_plan_port(port, ofport, devices)))
                memo.rebuilt += len(part.groups)
            parts[port_id] = part
        return _Round(devices, parts)

    made = memo.evolve("port services", (ports, ofports, devices), update)
    return (group for part in made.parts.values() for group in part.groups)


def _plan_port(port: ServedPort, ofport: int | None, devices: Devices) -> Iterator[Group]:
    yield _plan_dhcp(ObjectId(f"port:{port.id}/dhcp"), port, ofport, devices.dhcp)
    if port.metadata is not None:
        metadata = ObjectId(f"port:{port.id}/metadata")
        yield _plan_metadata(metadata, port, port.metadata, ofport, devices.metadata)


def number_ref(port_id: PortId) -> ItemRef:
    """Return the item of a port's number, which must be in place before anything uses it."""
    return ItemRef("ovs", naming.allocation_key("responder", port_id))


def _plan_dhcp(group_id: ObjectId, port: ServedPort, ofport: int | None, device: int | None) -> Group:
    """Plan the port's number, its DHCP data, and the way back from the DHCP side."""
    number = number_ref(port.id)
    items: dict[str, Mapping[Key, Value]] = {"ovs": {number.key: str(port.number)}}
    requires: dict[ItemRef, frozenset[ItemRef]] = {}
    if port.dhcp is not None:
        known = ItemRef("responder", identity.dhcp_key(port.id))
        items["responder"] = {known.key: port.dhcp}
        requires[known] = frozenset((number,))
        if ofport is not None and device is not None:
            flows: dict[str, str] = {}
            back = services.add_dhcp_answers(flows, port.number, ofport, device)
            items["flows"] = flows
            requires[ItemRef("flows", back)] = frozenset((known, ItemRef("responder", identity.DHCP_SOCKET)))
    return Group(group_id, items, requires)


def _plan_metadata(
    group_id: ObjectId, port: ServedPort, served: Served, ofport: int | None, device: int | None
) -> Group:
    """Plan the port's metadata, and a way for each of its addresses once the responder knows the aliases."""
    known = ItemRef("responder", identity.metadata_key(port.id))
    items: dict[str, Mapping[Key, Value]] = {"responder": {known.key: served}}
    requires: dict[ItemRef, frozenset[ItemRef]] = {known: frozenset((number_ref(port.id),))}
    if ofport is not None and device is not None:
        asked = frozenset((known, ItemRef("responder", identity.SERVICE))) if port.asks_service else frozenset((known,))
        gates = {version: host_services.metadata_gate(version) | asked for version in (4, 6)}
        flows: dict[str, str] = {}
        for alias, address in port.aliases:
            way = MetadataWay(port.number, address, alias, port.mac)
            gate = gates[6 if ":" in address else 4]
            for key in services.add_metadata_way(flows, way, ofport, device):
                requires[ItemRef("flows", key)] = gate
        items["flows"] = flows
    return Group(group_id, items, requires)
