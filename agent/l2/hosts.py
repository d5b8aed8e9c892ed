# SPDX-License-Identifier: Apache-2.0
"""The host's own part of the switch, and the hosts at the other ends of its tunnels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core import naming, openflow
from agent.core.errors import Actor, Problem
from agent.core.items import Item, OvsBridge, OvsPort
from agent.core.memo import Memo
from agent.core.model import Host, HostName, NetworkType, SwitchView
from agent.core.openflow import match
from agent.core.plan import Group, ObjectId
from agent.l2 import neighbors, port_security, ports, services
from agent.l2.announce import PLACE_GROUP
from agent.l2.pipeline import Goto, Table, add
from agent.l2.settings import LocalSettings

TO_TUNNEL_IN = Goto(Table.TUNNEL_IN)
TO_PHYSICAL_IN = Goto(Table.PHYSICAL_IN)

NEVER = 200
ENTRY = 100
OTHER = 0

OWN_HOST = ObjectId("host")
# IEEE 802.1Q, 8.6.3: bridges never forward these (spanning tree, LACP, LLDP, pause).
LINK_LOCAL_GROUPS = "01:80:c2:00:00:00/ff:ff:ff:ff:ff:f0"


@dataclass(frozen=True, slots=True, eq=False)
class Peers:
    """Hosts that tunnels can lead to, and why others cannot be reached; ``tunnels`` as in ``plan_peers``."""

    tunnels: Mapping[str, int]
    reachable: Mapping[HostName, Host]
    groups: Mapping[ObjectId, Group]
    problems: Mapping[HostName, Problem]


def mapped_bridges(settings: LocalSettings, switch: SwitchView) -> tuple[dict[str, str], list[Problem]]:
    """Return the bridge mappings whose bridge exists, and a problem for each other one."""
    found: dict[str, str] = {}
    problems: list[Problem] = []
    for physnet, bridge in sorted(settings.bridge_mappings.items()):
        if bridge in switch.bridges:
            found[physnet] = bridge
        else:
            text = f"bridge {bridge} of physical network {physnet} does not exist; create it or correct the mapping"
            problems.append(Problem(OWN_HOST, "bridge_mappings", text, Actor.OPERATOR))
    return found, problems


def plan_own_host(settings: LocalSettings, mappings: Mapping[str, str], ofports: Mapping[str, int]) -> Group:
    """Plan the integration bridge, its tunnel and patch ports and the flows that every host has.

    *mappings* are physical network -> existing bridge, *ofports* the OpenFlow numbers
    of those patch ports that have one.
    """
    bridge = naming.INTEGRATION_BRIDGE
    items: dict[str, Item] = {f"bridge/{bridge}": OvsBridge(bridge, settings.datapath_type)}
    if settings.tunnel_address is not None:
        for encapsulation in sorted(settings.encapsulations):
            port = _tunnel_port(encapsulation, settings.tunnel_address)
            items[f"port/{port.name}"] = port
    flows: dict[str, str] = {}
    _add_fixed(flows)
    for physnet, physical_bridge in mappings.items():
        inner, outer = naming.patch_port_names(physnet)
        items[f"port/{inner}"] = OvsPort(inner, bridge, "patch", (("peer", outer),))
        items[f"port/{outer}"] = OvsPort(outer, physical_bridge, "patch", (("peer", inner),))
        if inner in ofports:
            add(flows, Table.CLASSIFY, ENTRY, match(in_port=ofports[inner]), TO_PHYSICAL_IN)
    return Group(OWN_HOST, {"ovs": items, "flows": flows})


def _tunnel_port(encapsulation: NetworkType, address: str) -> OvsPort:
    options = (("key", "flow"), ("local_ip", address), ("remote_ip", "flow"))
    name = naming.tunnel_port_name(encapsulation.value)
    return OvsPort(name, naming.INTEGRATION_BRIDGE, encapsulation.value, options)


def _add_fixed(flows: dict[str, str]) -> None:
    add(flows, Table.CLASSIFY, NEVER, match(dl_src=openflow.MULTICAST))
    add(flows, Table.CLASSIFY, NEVER, match(dl_dst=LINK_LOCAL_GROUPS))
    add(flows, Table.CLASSIFY, NEVER, match(dl_dst=PLACE_GROUP))
    for table in (
        Table.CLASSIFY,
        Table.TUNNEL_IN,
        Table.PHYSICAL_IN,
        Table.FLOOD_LOCAL,
        Table.REMOTE,
        Table.FLOOD_REMOTE,
    ):
        add(flows, table, OTHER, "")
    port_security.add_fixed(flows)
    neighbors.add_fixed(flows)
    services.add_fixed(flows)
    ports.add_fixed(flows)


def plan_peers(
    memo: Memo, hosts: Mapping[HostName, Host], own: HostName, settings: LocalSettings, tunnels: Mapping[str, int]
) -> Peers:
    """Plan what is taken from each other host; *tunnels* are encapsulation -> OpenFlow port.

    From a tunnel port only packets whose outer source is a known host's are taken.
    """
    inputs = (hosts, own, settings, *tunnels, *tunnels.values())
    return memo.evolve("peers", inputs, lambda last: _update(memo, hosts, own, settings, tunnels, last))


def _update(
    memo: Memo,
    hosts: Mapping[HostName, Host],
    own: HostName,
    settings: LocalSettings,
    tunnels: Mapping[str, int],
    last: Peers | None,
) -> Peers:
    reachable: dict[HostName, Host] = {}
    groups: dict[ObjectId, Group] = {}
    problems: dict[HostName, Problem] = {}
    taken = {settings.tunnel_address: own}
    for name in sorted(hosts):
        host = hosts[name]
        if name == own:
            continue
        address = _reachable_address(host, settings, taken)
        if isinstance(address, Problem):
            problems[name] = address
            continue
        taken[address] = name
        reachable[name] = host
        group_id = ObjectId(f"host:{name}")
        if last is not None and last.tunnels == tunnels and last.reachable.get(name) is host:
            groups[group_id] = last.groups[group_id]
        else:
            groups[group_id] = _plan_peer(group_id, host, address, tunnels)
            memo.rebuilt += 1
    return Peers(dict(tunnels), reachable, groups, problems)


def _reachable_address(host: Host, settings: LocalSettings, taken: Mapping[str | None, HostName]) -> str | Problem:
    """Return where a tunnel to *host* leads, or why none can."""
    address = host.tunnel_address
    if address is None:
        text = f"host {host.name} announces no tunnel address: set [l2] tunnel_address there"
    elif address in taken:
        text = f"host {host.name} announces tunnel address {address}, which host {taken[address]} has already"
    elif settings.tunnel_address is not None and (":" in address) != (":" in settings.tunnel_address):
        text = f"host {host.name} announces {address}, but the tunnel address here is {settings.tunnel_address}"
    else:
        return address
    return Problem(f"host:{host.name}", "tunnel_address", text, Actor.OPERATOR)


def _plan_peer(group_id: ObjectId, host: Host, address: str, tunnels: Mapping[str, int]) -> Group:
    flows: dict[str, str] = {}
    for encapsulation, ofport in tunnels.items():
        if NetworkType(encapsulation) not in host.encapsulations:
            continue
        if ":" in address:
            text = match(tun_ipv6_src=openflow.ipv6_text(address), in_port=ofport)
        else:
            text = match(tun_src=address, in_port=ofport)
        add(flows, Table.CLASSIFY, ENTRY, text, TO_TUNNEL_IN)
    return Group(group_id, {"flows": flows})
