# SPDX-License-Identifier: Apache-2.0
"""The filter of one port: its bridge, its conntrack zone, and its two rules in the tree.

What it sends and what it receives pass the same bridge, in opposite directions, and
each direction leads to the chain of the port's policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core import naming
from agent.core.items import HybridBridge, Item, ZoneFilter
from agent.core.model import Port
from agent.core.plan import ItemRef, Key, Value
from agent.l2 import filters, port_security
from agent.l2 import iptables_text as text
from agent.l2.policies import Policy


@dataclass(frozen=True, slots=True, eq=False)
class PortFilter:
    """Items of a port's filter by driver, what they require, and what the port's flows wait for (``gate``)."""

    items: Mapping[str, Mapping[Key, Value]]
    requires: Mapping[ItemRef, frozenset[ItemRef]]
    gate: frozenset[ItemRef]


def plan_filter(port: Port, policy: Policy, zone: int) -> PortFilter:
    """Plan the filter of a port that is plugged hybrid; *zone* is its number for connections."""
    bridge = naming.hybrid_bridge_name(port.id)
    number = ItemRef("ovs", naming.allocation_key("zone", port.id))
    tree = _tree_rules(port, policy)
    items: dict[str, Mapping[Key, Value]] = {
        "ovs": {number.key: str(zone)},
        "bridges": {bridge: _bridge(port)},
        "iptables": {ref.key: text.NONE for ref in tree},
        "zones": {bridge: str(zone) if policy.tracked else f"{zone} notrack"},
        "conntrack": {f"zone {zone}": _zone_filter(port, policy, zone)},
    }
    zoned = ItemRef("zones", bridge)
    requires = {
        **tree,
        zoned: frozenset((number, filters.ZONES_BASE)),
        ItemRef("conntrack", f"zone {zone}"): frozenset((number,)),
    }
    gate = policy.gate | filters.tree_gate(port.id) | tree.keys() | {ItemRef("bridges", bridge), zoned}
    return PortFilter(items, requires, gate)


def _bridge(port: Port) -> Item:
    return HybridBridge(
        naming.hybrid_bridge_name(port.id), naming.tap_name(port.id), naming.hybrid_veth_names(port.id)[0]
    )


def _tree_rules(port: Port, policy: Policy) -> dict[ItemRef, frozenset[ItemRef]]:
    """Return the port's rules in its leaf of the tree, and what each requires."""
    leaf, bridge = filters.leaf_chain(port.id), naming.hybrid_bridge_name(port.id)
    tap, switch = naming.tap_name(port.id), naming.hybrid_veth_names(port.id)[0]
    found: dict[ItemRef, frozenset[ItemRef]] = {}
    for ingress, come, go in ((False, tap, switch), (True, switch, tap)):
        target = naming.policy_chain(policy.id, ingress)
        line = text.rule(text.from_device(bridge), text.between_bridge_ports(come, go), text.goto(target))
        for family in text.FAMILIES:
            needed = (text.chain_ref(family, leaf), text.chain_ref(family, target))
            found[text.rule_ref(family, leaf, line)] = frozenset(needed)
    return found


def _zone_filter(port: Port, policy: Policy, zone: int) -> Item:
    if port.port_security:
        claims = port_security.source_claims(port)
        addresses = tuple(sorted({cidr for _, cidr in claims}))
    else:
        addresses = (port_security.ANY_IPV4, port_security.ANY_IPV6)
    return ZoneFilter(zone, port.id, addresses, policy.groups, policy.open)
