# SPDX-License-Identifier: Apache-2.0
"""Which packets the filters of a random state let pass, by the oracle that knows nothing of chains."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from agent.core import naming
from agent.core.model import Port, SecurityGroupRule
from tests.fakes.packet_filter import Probe
from tests.functional import filter_oracle as oracle
from tests.golden.host_states import ICMP, ICMPV6, NUMBERS, TCP, own_addresses
from tests.golden.l2_world import World

OTHERS = {4: ("10.0.0.2", "192.0.2.9", "203.0.113.7"), 6: ("2001:db8::2", "2001:db8:9::9", "2001:db8:a::1")}
SERVICES = {4: ((TCP, 22), (TCP, 80), (ICMP, 8)), 6: ((TCP, 22), (TCP, 80), (ICMPV6, 128))}
ANYBODY = "anybody"


def _probes(number: int) -> tuple[Probe, ...]:
    suffix = naming.hybrid_bridge_name(f"p{number}").removeprefix("qbr")
    found = []
    for family, own in zip((4, 6), own_addresses(number), strict=True):
        for protocol, service in SERVICES[family]:
            for other in OTHERS[family]:
                port = 4000 if protocol == TCP else 0
                found.append(Probe(suffix, True, family, protocol, own, other, port, service))
                found.append(Probe(suffix, False, family, protocol, other, own, port, service))
    return tuple(found)


PROBES = {f"p{number}": _probes(number) for number in NUMBERS}


def allowed_probes(world: World) -> frozenset[Probe]:
    """Return the probes that reach the other side of their bridge once *world* is in place."""
    found: set[Probe] = set()
    for port in world.ports.values():
        interface = world.interfaces.get(port.id)
        if interface is None or not naming.is_hybrid_interface(interface.name) or not port.admin_state_up:
            continue
        judge = _judge(world, port)
        if judge is not None:
            found.update(probe for probe in PROBES[port.id] if _passes(judge, probe))
    return frozenset(found)


def _judge(world: World, port: Port) -> oracle.Oracle | None:
    """Return who judges what *port* sends and receives, None if its groups contradict each other."""
    known = [world.security_groups[name] for name in port.security_groups if name in world.security_groups]
    if len({group.stateful for group in known}) > 1:
        return None
    groups = {str(group.id): oracle.Group(tuple(map(_rule, group.rules)), group.stateful) for group in known}
    own = oracle.PortState((), tuple(groups) if port.filtered else None)
    addresses = {
        str(rule.remote_owner): _members(world, rule.remote_owner)
        for group in known
        for rule in group.rules
        if rule.remote_owner is not None
    }
    return oracle.Oracle(oracle.World({"own": own, ANYBODY: oracle.PortState((), None)}, groups, addresses))


def _members(world: World, owner: str) -> tuple[oracle.Network, ...]:
    chunks = [chunk for of, known in world.address_chunks.items() if of == owner for chunk in known.values()]
    return tuple(ipaddress.ip_network(address) for chunk in chunks for address in chunk.addresses)


def _rule(rule: SecurityGroupRule) -> oracle.Rule:
    prefix = None if rule.remote_prefix is None else ipaddress.ip_network(rule.remote_prefix)
    head = (rule.direction.value, rule.ip_version, rule.protocol, rule.port_min, rule.port_max)
    return oracle.Rule(*head, prefix, None, rule.remote_owner)


def _passes(judge: oracle.Oracle, probe: Probe) -> bool:
    icmp = probe.protocol in (ICMP, ICMPV6)
    packet = oracle.Packet(
        *(("own", ANYBODY) if probe.egress else (ANYBODY, "own")),
        ipaddress.ip_address(probe.source),
        ipaddress.ip_address(probe.destination),
        probe.protocol,
        probe.source_port,
        0 if icmp else probe.service,
        "" if icmp else "S",
        probe.service if icmp else 0,
    )
    judge.forget()
    return judge.judge(packet).passes


def probes_of(ports: Collection[str] = tuple(PROBES)) -> list[Probe]:
    """Return all probes of *ports*."""
    return [probe for port in ports for probe in PROBES[port]]
