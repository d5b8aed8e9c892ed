# SPDX-License-Identifier: Apache-2.0
"""Tunnel ports on which hosts watch each other (BFD, RFC 5880; Interface:bfd of ovs-vswitchd.conf.db(5)).

BFD needs a port with a fixed remote.  What the peer sends then arrives on that port and
no longer on the flow-based one; its entry flow makes it look as if it had come there, so
that no network needs to know of peers.  Packets to the peer still leave by the flow-based port.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from agent.core import naming, openflow
from agent.core.items import Item, OvsPort
from agent.core.memo import Memo
from agent.core.model import Host, NetworkType
from agent.core.openflow import match
from agent.core.plan import Group, ObjectId
from agent.l2.hosts import Peers
from agent.l2.pipeline import Goto, Table, add
from agent.l2.settings import LocalSettings
from agent.l3.state import GatewayState, Peer

TO_TUNNEL_IN = Goto(Table.TUNNEL_IN)
ENTRY = 100
# Through any of them a peer can be heard; hosts that take part in several choose alike.
PREFERENCE = (NetworkType.GENEVE, NetworkType.VXLAN)
MULTIPLIER = 3  # packets in vain after which a peer counts as gone


def plan_peers(
    memo: Memo, state: GatewayState, peers: Peers, settings: LocalSettings, ofports: Mapping[str, int]
) -> dict[ObjectId, Group]:
    """Plan a port and its entry flow for each watched host that a tunnel leads to; *ofports* by name of the port."""
    groups: dict[ObjectId, Group] = {}
    for peer in state.peers:
        host = peers.reachable.get(peer.host)
        kind = None if host is None else _encapsulation(host, settings)
        if host is None or kind is None or host.tunnel_address is None or settings.tunnel_address is None:
            continue
        ofport = ofports.get(naming.peer_port_name(peer.host), 0)
        tunnel = peers.tunnels.get(kind.value, 0)
        group_id = ObjectId(f"host:{peer.host}/bfd")
        groups[group_id] = memo.group(
            group_id,
            (peer.interval, state.path_down, host, settings, ofport, tunnel),
            partial(_plan_peer, group_id, peer, host, kind, settings.tunnel_address, ofport, tunnel, state.path_down),
        )
    return groups


def _encapsulation(host: Host, settings: LocalSettings) -> NetworkType | None:
    return next((kind for kind in PREFERENCE if kind in host.encapsulations & settings.encapsulations), None)


def _plan_peer(
    group_id: ObjectId, peer: Peer, host: Host, kind: NetworkType, own: str, ofport: int, tunnel: int, path_down: bool
) -> Group:
    name, address = naming.peer_port_name(peer.host), host.tunnel_address or ""
    options = (("key", "flow"), ("local_ip", own), ("remote_ip", address))
    bfd = {
        "enable": "true",
        "min_rx": str(peer.interval),
        "min_tx": str(peer.interval),
        "mult": str(MULTIPLIER),
        "cpath_down": "true" if path_down else "false",
    }
    port = OvsPort(name, naming.INTEGRATION_BRIDGE, kind.value, options, tuple(sorted(bfd.items())))
    items: dict[str, Item] = {f"port/{name}": port}
    flows: dict[str, str] = {}
    if ofport > 0 and tunnel > 0:
        source = "tun_ipv6_src" if ":" in address else "tun_src"
        fields: dict[str, int | str | None] = {source: openflow.ipv6_text(address) if ":" in address else address}
        entry = match(in_port=ofport, **fields)
        add(flows, Table.CLASSIFY, ENTRY, entry, openflow.set_field(str(tunnel), "in_port"), TO_TUNNEL_IN)
    return Group(group_id, {"ovs": items, "flows": flows})
