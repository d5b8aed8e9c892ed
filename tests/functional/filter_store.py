# SPDX-License-Identifier: Apache-2.0
"""The oracle's worlds as what a cloud writes to the store, and a sandbox whose ports they are about."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from agent.namespace import inside
from agent.store.document import (
    UNSET,
    AddressGroupFields,
    Document,
    Entry,
    PortFields,
    RuleFields,
    SecurityGroupFields,
)
from tests.functional.filter_oracle import ICMP, ICMPV6, PortState, Rule, World
from tests.functional.filter_topologies import PLACES, STATEFUL, STATELESS
from tests.functional.filter_wire import Station, namespace_of
from tests.functional.lab import Lab

NETLINK_NETFILTER = 12
IPCTNL_MSG_CT_DELETE = 1 << 8 | 2  # without a tuple: all connections
NLM_F_REQUEST, NLM_F_ACK = 1, 4


def document_of_places() -> str:
    """Return a file with the ports of all topologies, filtered, without any group."""
    lines = ["networks:", "  blue: {type: vxlan}", "  red: {type: vxlan}", "subnets:"]
    for network in ("blue", "red"):
        lines += [f"  {network}4: {{network: {network}, cidr: 10.0.0.0/24}}"]
        lines += [f'  {network}6: {{network: {network}, cidr: "2001:db8::/64"}}']
    lines += ["security_groups:"]
    lines += [f"  {name}: {{rules: []}}" for name in STATEFUL]
    lines += [f"  {name}: {{rules: [], stateful: false}}" for name in STATELESS]
    lines += ["ports:"]
    for place in PLACES:
        fixed = ", ".join(f'"{address.network_address}"' for address in place.addresses)
        lines.append(f"  {place.name}: {{network: {place.network}, host: {place.host}, security_groups: [],")
        lines.append(f'    mac_address: "{place.mac}", fixed_ips: [{fixed}]}}')
    return "\n".join(lines)


def rule_fields(rule: Rule) -> RuleFields:
    """Return a rule as the store's writer takes it."""
    is_icmp = rule.protocol in (ICMP, ICMPV6)
    ports = None if rule.low is None or is_icmp else f"{rule.low}-{rule.high}"
    return RuleFields(
        direction=rule.direction,
        ethertype=f"IPv{rule.version}",
        protocol=rule.protocol,
        ports=ports,
        icmp_type=rule.low if is_icmp else None,
        icmp_code=rule.high if is_icmp else None,
        remote_ip_prefix=None if rule.prefix is None else str(rule.prefix),
        remote_group=rule.group,
        remote_address_group=rule.address_group,
    )


def document_of(world: World) -> Document:
    """Return *world* as a declarative file; what it does not name stays as it is."""
    fixed = {place.name: place.addresses for place in PLACES}
    return Document(
        address_groups=tuple(
            Entry(name, AddressGroupFields(tuple(map(str, networks))))
            for name, networks in world.address_groups.items()
        ),
        security_groups=tuple(
            Entry(name, SecurityGroupFields(rules=tuple(map(rule_fields, group.rules)), stateful=group.stateful))
            for name, group in world.groups.items()
        ),
        ports=tuple(
            Entry(name, _port_fields(port, len(fixed[name]) if name in fixed else None))
            for name, port in world.ports.items()
        ),
    )


def _port_fields(port: PortState, fixed: int | None) -> PortFields:
    pairs = UNSET if fixed is None else tuple(str(network) for network in port.addresses[fixed:])
    return PortFields(security_groups=port.groups, allowed_address_pairs=pairs)


def stations(lab: Lab) -> list[Station]:
    """Return the instances of the places."""
    return [
        Station(p.name, p.mac, str(p.addresses[0].network_address), p.network, namespace_of(lab, p.name))
        for p in PLACES
    ]


def silence(lab: Lab, *instances: str) -> None:
    """Make instances say nothing by themselves: what is sent and answered is the test's."""
    for instance in instances:
        lab.output(instance, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        lab.output(instance, "ip", "addr", "flush", "dev", "eth0")


def forget_connections(namespace: Path) -> None:
    """Delete every conntrack entry of a network namespace."""
    with namespace.open("rb") as opened, inside(opened.fileno()):
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    with netlink:
        netlink.bind((0, 0))
        body = struct.pack("!BBH", 0, 0, 0)
        netlink.send(struct.pack("=IHHII", 20, IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body)
        error: int = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
        assert error == 0, f"connections cannot be deleted: error {-error}"
