# SPDX-License-Identifier: Apache-2.0
"""Flows towards ports of other hosts.  There may be many thousands: the little each needs is shared where it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core import openflow
from agent.core.errors import Actor, Problem
from agent.core.memo import Memo
from agent.core.model import Endpoint, EndpointId, Host, HostName
from agent.core.openflow import match
from agent.core.plan import Group, ObjectId
from agent.l2 import neighbors
from agent.l2.hosts import Peers
from agent.l2.pipeline import Table, add
from agent.l2.segments import Segment

KNOWN = 100


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """How a host's ports are reached: through the tunnel to *host*, or (None) like everybody outside.

    ``actions`` is one string for all its ports on a network.
    """

    host: Host | None
    actions: str = ""


LIKE_EVERYBODY_OUTSIDE = Way(None)


@dataclass(frozen=True, slots=True, eq=False)
class Foreign:
    """What one network has on other hosts; ``hosts`` are (name, tunnel address), sorted.

    ``parts`` hold what each group was made from, for the next round.
    """

    segment: Segment
    parts: Mapping[EndpointId, tuple[Endpoint, Host | None, Group]]
    groups: Mapping[ObjectId, Group]
    hosts: tuple[tuple[str, str], ...]
    problems: tuple[Problem, ...]


def plan_endpoints(
    memo: Memo, segment: Segment, endpoints: Mapping[EndpointId, Endpoint], peers: Peers, own: HostName
) -> Foreign:
    """Plan the ways and the answers for all ports of a network that are on other hosts.

    A port that is bound to no host, or whose host no tunnel leads to, is not
    answered for: who asks shall learn that it is not there.
    """
    inputs = (segment, endpoints, peers, own)
    key = ("endpoints", segment.network.id)
    return memo.evolve(key, inputs, lambda last: _update(memo, segment, endpoints, peers, own, last))


def _update(
    memo: Memo,
    segment: Segment,
    endpoints: Mapping[EndpointId, Endpoint],
    peers: Peers,
    own: HostName,
    last: Foreign | None,
) -> Foreign:
    ways: dict[HostName, Way | None] = {own: None, HostName(""): None}
    problems: list[Problem] = []
    old = last.parts if last is not None and last.segment is segment else {}
    parts: dict[EndpointId, tuple[Endpoint, Host | None, Group]] = {}
    for endpoint_id, endpoint in endpoints.items():
        name = endpoint.host
        if name not in ways:
            ways[name] = _find_way(segment, name, peers, problems)
        way = ways[name]
        if way is None:
            continue
        part = old.get(endpoint_id)
        if part is None or part[0] is not endpoint or part[1] is not way.host:
            part = (endpoint, way.host, _plan_endpoint(segment, endpoint, way))
            memo.rebuilt += 1
        parts[endpoint_id] = part
    groups = {part[2].object_id: part[2] for part in parts.values()}
    reached = sorted(
        (str(name), way.host.tunnel_address or "") for name, way in ways.items() if way is not None and way.host
    )
    return Foreign(segment, parts, groups, tuple(reached), tuple(problems))


def _find_way(segment: Segment, name: HostName, peers: Peers, problems: list[Problem]) -> Way | None:
    """Return how ports of host *name* are reached; if they are not but should be, add to *problems*."""
    if segment.uplink is None:
        return None
    if not segment.network.type.is_tunnel:
        return LIKE_EVERYBODY_OUTSIDE
    host = _find_host(segment, name, peers)
    if isinstance(host, Problem):
        problems.append(host)
        return None
    actions = (
        openflow.set_tunnel_id(segment.network.segmentation_id or 0),
        openflow.set_tunnel_destination(host.tunnel_address or ""),
        openflow.output(segment.uplink),
    )
    return Way(host, ",".join(actions))


def _find_host(segment: Segment, name: HostName, peers: Peers) -> Host | Problem:
    """Return the host that a tunnel of the network's encapsulation leads to, or why there is none."""
    host = peers.reachable.get(name)
    kind = segment.network.type
    if host is None:
        text = f"host {name} has ports on tunnel networks but is not in the store: start its agent"
        return peers.problems.get(name) or Problem(f"host:{name}", "name", text, Actor.OPERATOR)
    if kind not in host.encapsulations:
        text = f"host {name} has ports on {kind.value} networks but does not announce that encapsulation"
        return Problem(f"host:{name}", "encapsulations", text, Actor.OPERATOR)
    return host


def _plan_endpoint(segment: Segment, endpoint: Endpoint, way: Way) -> Group:
    """Plan the answers for a port elsewhere and, on tunnel networks, the way to it.

    On a physical network everything that is not local leaves by the one way out.
    """
    flows: dict[str, str] = {}
    if way.host is not None:
        destination = match(reg0=0, metadata=segment.number, dl_dst=endpoint.mac)
        add(flows, Table.REMOTE, KNOWN, destination, way.actions)
    for address in endpoint.addresses:
        neighbors.add_known(flows, segment, endpoint.mac, address)
        if way.host is None:
            neighbors.add_foreign_owner(flows, segment, address)
    return Group(ObjectId(f"endpoint:{endpoint.id}"), {"flows": flows})
