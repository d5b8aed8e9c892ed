# SPDX-License-Identifier: Apache-2.0
"""Flows towards ports of other hosts.  There may be many thousands: the little each needs is shared where it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

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
class Foreign:
    """What one network has on other hosts; ``hosts`` are (name, tunnel address), sorted."""

    groups: Mapping[ObjectId, Group]
    hosts: tuple[tuple[str, str], ...] = ()
    problems: tuple[Problem, ...] = ()


NOTHING = Foreign({})


def plan_endpoints(
    memo: Memo, segment: Segment, endpoints: Mapping[EndpointId, Endpoint], peers: Peers, own: HostName
) -> Foreign:
    """Plan the ways and the answers for all ports of a network that are on other hosts.

    A port that is bound to no host, or whose host no tunnel leads to, is not
    answered for: who asks shall learn that it is not there.
    """
    if segment.uplink is None:
        return NOTHING
    if not segment.network.type.is_tunnel:
        return _plan_physical(memo, segment, endpoints, own)
    groups: dict[ObjectId, Group] = {}
    problems: dict[HostName, Problem] = {}
    exits: dict[HostName, tuple[Host, str]] = {}
    for endpoint in endpoints.values():
        name = endpoint.host
        if name in ("", own) or name in problems:
            continue
        found = exits.get(name)
        if found is None:
            reached = _reach(segment, name, peers)
            if isinstance(reached, Problem):
                problems[name] = reached
                continue
            found = exits[name] = reached, _exit_actions(segment, reached)
        host, actions = found
        group_id = ObjectId(f"endpoint:{endpoint.id}")
        groups[group_id] = memo.group(
            group_id,
            (segment, endpoint, host),
            partial(_plan_endpoint, segment, endpoint, actions, group_id),
        )
    hosts = tuple((name, exits[name][0].tunnel_address or "") for name in sorted(exits))
    return Foreign(groups, hosts, tuple(problems.values()))


def _reach(segment: Segment, name: HostName, peers: Peers) -> Host | Problem:
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


def _exit_actions(segment: Segment, host: Host) -> str:
    """Return the actions that send to *host*: one string for all its ports on the network."""
    return ",".join(
        (
            openflow.set_tunnel_id(segment.network.segmentation_id or 0),
            openflow.set_tunnel_destination(host.tunnel_address or ""),
            openflow.output(segment.uplink or 0),
        )
    )


def _plan_endpoint(segment: Segment, endpoint: Endpoint, actions: str, group_id: ObjectId) -> Group:
    flows: dict[str, str] = {}
    destination = match(reg0=0, metadata=segment.number, dl_dst=endpoint.mac)
    add(flows, Table.REMOTE, KNOWN, destination, actions)
    for address in endpoint.addresses:
        neighbors.add_known(flows, segment, endpoint.mac, address)
    return Group(group_id, {"flows": flows})


def _plan_physical(memo: Memo, segment: Segment, endpoints: Mapping[EndpointId, Endpoint], own: HostName) -> Foreign:
    """Plan the answers only: everything that is not local leaves by the network's one way out."""
    groups: dict[ObjectId, Group] = {}
    for endpoint in endpoints.values():
        if endpoint.host in ("", own) or not endpoint.addresses:
            continue
        group_id = ObjectId(f"endpoint:{endpoint.id}")
        groups[group_id] = memo.group(
            group_id, (segment, endpoint), partial(_plan_answers, segment, endpoint, group_id)
        )
    return Foreign(groups)


def _plan_answers(segment: Segment, endpoint: Endpoint, group_id: ObjectId) -> Group:
    flows: dict[str, str] = {}
    for address in endpoint.addresses:
        neighbors.add_known(flows, segment, endpoint.mac, address)
        neighbors.add_foreign_owner(flows, segment, address)
    return Group(group_id, {"flows": flows})
