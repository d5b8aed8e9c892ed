# SPDX-License-Identifier: Apache-2.0
"""Flows of a network as a whole: its entry from outside, its floods, its way out.

None of it depends on the list of the network's ports, only on chunks of it: adding
a port or a host changes one chunk.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from agent.core import openflow
from agent.core.errors import Actor, Problem
from agent.core.model import NetworkType
from agent.core.openflow import MULTICAST, UNTAGGED, match
from agent.core.plan import Group, ItemRef, ObjectId
from agent.l2.pipeline import CHUNK, OUTSIDE, PORT, Action, Goto, Resubmit, Table, add
from agent.l2.segments import Segment

T = TypeVar("T")

TO_NEIGHBOR_IN = Goto(Table.NEIGHBOR_IN)
TO_REMOTE = Goto(Table.REMOTE)
TO_FLOOD_REMOTE = Goto(Table.FLOOD_REMOTE)
TO_DELIVER = Goto(Table.DELIVER)
FLOOD_LOCAL = Resubmit(Table.FLOOD_LOCAL)
FLOOD_REMOTE = Resubmit(Table.FLOOD_REMOTE)
DELIVER = Resubmit(Table.DELIVER)

ENTRY = 100
GROUP_ADDRESS = 90
SHARED_ADDRESS = 80
UNKNOWN = 10

CHUNK_SIZE = 32
# Each chunk is one step of recursion deeper; Open vSwitch allows 64 in all.
MAX_CHUNKS = 32


# Through tunnels of the userspace datapath each copy is looked up again in the underlay's bridge, and
# Open vSwitch ends lookups after 64 kB of datapath actions: 780 copies over IPv4 (3.1.0).
USERSPACE = "netdev"
USERSPACE_COPIES = 750


def object_id(segment: Segment) -> ObjectId:
    """Return the id of the network's own group."""
    return ObjectId(f"network:{segment.network.id}")


def local_chunk_id(segment: Segment, index: int) -> ObjectId:
    """Return the id of one chunk of the flood to local ports."""
    return ObjectId(f"network:{segment.network.id}/flood/{index}")


def remote_chunk_id(segment: Segment, index: int) -> ObjectId:
    """Return the id of one chunk of the flood to other hosts."""
    return ObjectId(f"network:{segment.network.id}/hosts/{index}")


def shared_mac_id(segment: Segment, mac: str) -> ObjectId:
    """Return the id of the group of a MAC address that several ports may use."""
    return ObjectId(f"network:{segment.network.id}/mac/{mac}")


def plan_network(segment: Segment) -> Group:
    """Plan the allocated number, the way in, the floods' beginnings and the way out of a network.

    A network that is administratively down keeps its number and nothing else.
    """
    flows: dict[str, str] = {}
    requires: dict[ItemRef, frozenset[ItemRef]] = {}
    if segment.network.admin_state_up:
        group_address = match(metadata=segment.number, dl_dst=MULTICAST)
        add(flows, Table.LOCAL, GROUP_ADDRESS, group_address, FLOOD_LOCAL, TO_REMOTE)
        if segment.uplink is not None:
            entry = _add_entry(flows, segment, segment.uplink)
            requires[ItemRef("flows", entry)] = frozenset({segment.allocation})
            _add_exit(flows, segment, segment.uplink)
    number = {segment.allocation.key: str(segment.number)}
    return Group(object_id(segment), {"ovs": number, "flows": flows}, requires)


def _add_entry(flows: dict[str, str], segment: Segment, uplink: int) -> str:
    mark = (openflow.set_metadata(segment.number), openflow.set_register(OUTSIDE, 1), TO_NEIGHBOR_IN)
    vid = segment.network.segmentation_id
    if segment.network.type is NetworkType.VLAN:
        text = match(in_port=uplink, dl_vlan=vid)
        return add(flows, Table.PHYSICAL_IN, ENTRY, text, openflow.POP_VLAN, *mark)
    if segment.network.type is NetworkType.FLAT:
        return add(flows, Table.PHYSICAL_IN, ENTRY, match(in_port=uplink, vlan_tci=UNTAGGED), *mark)
    text = match(tun_id=vid, in_port=uplink, vlan_tci=UNTAGGED)
    return add(flows, Table.TUNNEL_IN, ENTRY, text, *mark)


def _add_exit(flows: dict[str, str], segment: Segment, uplink: int) -> None:
    """Add the way out for what local ports send: reg0 is 0, so that nothing from outside leaves again."""
    vid = segment.network.segmentation_id
    if segment.network.type.is_tunnel:
        text = match(reg0=0, metadata=segment.number, dl_dst=MULTICAST)
        tunnel_id = openflow.set_tunnel_id(vid or 0)
        add(flows, Table.REMOTE, GROUP_ADDRESS, text, openflow.set_register(CHUNK, 0), tunnel_id, TO_FLOOD_REMOTE)
        return
    tag = openflow.push_vlan(vid or 0) if segment.network.type is NetworkType.VLAN else ()
    text = match(reg0=0, metadata=segment.number)
    add(flows, Table.REMOTE, UNKNOWN, text, *tag, openflow.output(uplink))


def chunk_count(members: int) -> int:
    """Return into how many chunks to cut a flood: a power of two, about ``CHUNK_SIZE`` members each."""
    count = 1
    while count < MAX_CHUNKS and members > count * CHUNK_SIZE:
        count *= 2
    return count


def crowd_problem(segment: Segment, hosts: int, datapath_type: str) -> Problem | None:
    """Return a problem if broadcasts to *hosts* other hosts cannot all be sent by this host's datapath."""
    if datapath_type != USERSPACE or hosts <= USERSPACE_COPIES:
        return None
    text = (
        f"network {segment.network.name or segment.network.id}: {hosts} other hosts have ports on it, and the "
        f"userspace datapath can send a broadcast to about {USERSPACE_COPIES}; use the kernel's or smaller networks"
    )
    return Problem(object_id(segment), "hosts", text, Actor.OPERATOR)


def cut_chunks(members: Iterable[tuple[str, T]], count: int) -> list[list[T]]:
    """Distribute (name, value) over *count* chunks by a hash of the name; the order of *members* is kept."""
    chunks: list[list[T]] = [[] for _ in range(count)]
    for name, value in members:
        chunks[zlib.crc32(name.encode()) % count].append(value)
    return chunks


def plan_local_chunk(segment: Segment, index: int, count: int, ofports: Sequence[int]) -> Group:
    """Plan copies of a flooded packet to some local ports (never back to the one it came from)."""
    copies: list[Action] = []
    for ofport in ofports:
        copies += (openflow.set_register(PORT, ofport), DELIVER)
    flows: dict[str, str] = {}
    _add_chunk(flows, Table.FLOOD_LOCAL, FLOOD_LOCAL, segment, index, count, copies)
    return Group(local_chunk_id(segment, index), {"flows": flows})


def plan_remote_chunk(segment: Segment, index: int, count: int, addresses: Sequence[str]) -> Group:
    """Plan copies of a flooded packet through the tunnel to some hosts."""
    copies: list[Action] = []
    for address in addresses:
        copies += (openflow.set_tunnel_destination(address), openflow.output(segment.uplink or 0))
    flows: dict[str, str] = {}
    _add_chunk(flows, Table.FLOOD_REMOTE, FLOOD_REMOTE, segment, index, count, copies)
    return Group(remote_chunk_id(segment, index), {"flows": flows})


def _add_chunk(
    flows: dict[str, str],
    table: Table,
    again: Resubmit,
    segment: Segment,
    index: int,
    count: int,
    copies: Sequence[Action],
) -> None:
    """Add a chunk: first the next one, then its own copies.

    In this order Open vSwitch looks up all chunks before it has made any copy.  The
    other way round it would stop at the first lookup after 64 kB of datapath actions,
    and with 1,000 hosts the last of them would never hear a broadcast.
    """
    following: tuple[Action, ...] = ()
    if index + 1 < count:
        following = (openflow.set_register(CHUNK, index + 1), again)
    add(flows, table, ENTRY, match(reg2=index, metadata=segment.number), *following, *copies)


def plan_shared_mac(segment: Segment, mac: str, ofports: Sequence[int]) -> Group:
    """Plan the way to a MAC address that several ports may use (an allowed address pair's).

    All of them get it, and on a physical network so does the outside: who of them
    uses it at the moment is not known here (VRRP).
    """
    copies: list[Action] = []
    for ofport in ofports:
        copies += (openflow.set_register(PORT, ofport), DELIVER)
    flows: dict[str, str] = {}
    add(flows, Table.LOCAL, SHARED_ADDRESS, match(metadata=segment.number, dl_dst=mac), *copies, TO_REMOTE)
    return Group(shared_mac_id(segment, mac), {"flows": flows})
