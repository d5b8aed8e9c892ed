# SPDX-License-Identifier: Apache-2.0
"""Flows of a port of this host: what it may send, who it is, how it is reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agent.core import openflow
from agent.core.model import Port
from agent.core.openflow import ETH_P_8021AD, ETH_P_8021Q, UNTAGGED, match
from agent.core.plan import Group, ItemRef, Key, ObjectId, Value
from agent.l2 import neighbors, port_security
from agent.l2.pipeline import IDENTITY, PORT, Goto, Table, add
from agent.l2.port_filters import PortFilter
from agent.l2.segments import Segment

TO_PORT_SECURITY = Goto(Table.PORT_SECURITY)
TO_LOCAL = Goto(Table.LOCAL)
TO_REMOTE = Goto(Table.REMOTE)
TO_DELIVER = Goto(Table.DELIVER)

# What a port that is guarded in any way receives; the others are on their own.
DELIVERED = ("arp", "ip", "ipv6")
ANYTHING = ("",)

TAGGED = 200
ENTRY = 100
OWN_ADDRESS = 100
OTHER = 0


class Identity(NamedTuple):
    """Who a port is for the responder: its number, and the item that must be in place before anything uses it."""

    number: int
    allocation: ItemRef


def add_fixed(flows: dict[str, str]) -> None:
    """Add what is the same on every host."""
    add(flows, Table.FROM_ROUTER, OTHER, "")
    add(flows, Table.ROUTER, OTHER, "", TO_LOCAL)
    add(flows, Table.LOCAL, OTHER, "", TO_REMOTE)
    # After the outer tag of a physical network is gone, Open vSwitch shows a second tag
    # as the Ethernet type (as long as it looks for one tag only, which is its default).
    for ether_type in (ETH_P_8021Q, ETH_P_8021AD):
        add(flows, Table.DELIVER, TAGGED, match(dl_type=ether_type))
    add(flows, Table.DELIVER, OTHER, "")


def plan_port(
    port: Port, segment: Segment, ofport: int, filter_: PortFilter | None = None, identity: Identity | None = None
) -> Group:
    """Plan the flows of a plugged port that is up, and its filter if it has one.

    *identity* says who it is for the responder, None that it is nobody.

    It is shut towards the network until the network's number is allocated and its
    filter is in place (``requires``), and nothing is delivered to it but by its own
    flows of the DELIVER table.
    """
    flows: dict[str, str] = {}
    gate: frozenset[ItemRef] = frozenset() if filter_ is None else filter_.gate
    marks = [openflow.set_metadata(segment.number)]
    numbers = {segment.allocation}
    if identity is not None:
        marks.append(openflow.set_register(IDENTITY, identity.number))
        numbers.add(identity.allocation)
    entry = add(flows, Table.CLASSIFY, ENTRY, match(in_port=ofport, vlan_tci=UNTAGGED), *marks, TO_PORT_SECURITY)
    requires = {ItemRef("flows", entry): gate | numbers}
    port_security.add_port(flows, port, ofport)
    for fixed_ip in port.fixed_ips:
        neighbors.add_known(flows, segment, port.mac, fixed_ip.address)
        neighbors.add_exemption(flows, ofport, fixed_ip.address)
        neighbors.add_local_owner(flows, segment, ofport, fixed_ip.address)
    for pair in port.allowed_address_pairs:
        neighbors.add_exemption(flows, ofport, pair.cidr)
    own = match(metadata=segment.number, dl_dst=port.mac)
    add(flows, Table.LOCAL, OWN_ADDRESS, own, openflow.set_register(PORT, ofport), TO_DELIVER)
    for protocol in DELIVERED if port.port_security or port.filtered else ANYTHING:
        text = match(protocol, reg1=ofport, vlan_tci=UNTAGGED)
        key = add(flows, Table.DELIVER, ENTRY, text, openflow.output(ofport))
        if gate:
            requires[ItemRef("flows", key)] = gate
    items: dict[str, Mapping[Key, Value]] = {"flows": flows}
    if filter_ is not None:
        items.update(filter_.items)
        requires.update(filter_.requires)
    return Group(ObjectId(f"port:{port.id}"), items, requires)


def shared_macs(port: Port) -> set[str]:
    """Return the MAC addresses besides its own that *port* may be reached at."""
    return {pair.mac for pair in port.allowed_address_pairs if pair.mac != port.mac}
