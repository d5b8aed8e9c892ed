# SPDX-License-Identifier: Apache-2.0
"""What the filters of all ports share: where packets come from, the way to a port's rules, the ends.

Every packet in a bridge of a hybrid plug goes through ``hp-forward``: what belongs to
a connection is accepted at once, everything else finds the rules of its port through
a tree over the first characters of the port's id, and what finds none is dropped.
"""

from __future__ import annotations

from agent.core import naming
from agent.core.plan import Group, ItemRef, Key, ObjectId
from agent.l2 import iptables_text as text

BASE = ObjectId("filters")
ALL_BRIDGES = "qbr+"
ZONES_BASE = ItemRef("zones", "base")
TREE_DEPTH = 2


def _own_jump(chain: str) -> str:
    return text.rule(text.comment(naming.rule_comment(chain)), text.jump(chain))


JUMPS = {"FORWARD": _own_jump(naming.FORWARD_CHAIN), "INPUT": _own_jump(naming.INPUT_CHAIN)}

_FORWARD = text.chain(
    # Before the tree, so that its cost does not depend on the number of ports.  In zone 0, which
    # is everybody else's, a packet that belongs to a connection says nothing about the port.
    text.rule(
        text.from_device(ALL_BRIDGES),
        text.marked(naming.ZONED_MARK),
        text.connection_marked(naming.ENDED_CONNMARK, negated=True),
        text.state("RELATED", "ESTABLISHED"),
        text.BRIDGED,
        text.goto(naming.ACCEPT_CHAIN),
    ),
    text.rule(text.from_device(ALL_BRIDGES), text.jump(naming.TREE_CHAIN)),
    text.rule(text.from_device(ALL_BRIDGES), text.DROP),
    text.rule(text.to_device(ALL_BRIDGES), text.DROP),
)
# The host itself has no business in these bridges.
_INPUT = text.rule(text.from_device(ALL_BRIDGES), text.DROP)
# The guard behind asks for the mark: without a filter that says so, nothing passes.
_ACCEPT = text.chain(text.set_mark(naming.ALLOWED_MARK), text.jump("ACCEPT"))

BASE_GATE = frozenset(
    (
        ZONES_BASE,
        *(
            text.chain_ref(family, chain)
            for family in text.FAMILIES
            for chain in (naming.FORWARD_CHAIN, naming.INPUT_CHAIN, naming.ACCEPT_CHAIN, naming.TREE_CHAIN)
        ),
        *(text.rule_ref(family, chain, jump) for family in text.FAMILIES for chain, jump in JUMPS.items()),
    )
)


def plan_base() -> Group:
    """Plan what every host with filters has, ports or not: our jumps, and drops for bridges that nobody knows."""
    iptables: dict[Key, str] = {}
    requires: dict[ItemRef, frozenset[ItemRef]] = {}
    for family in text.FAMILIES:
        iptables[text.chain_key(family, naming.FORWARD_CHAIN)] = _FORWARD
        iptables[text.chain_key(family, naming.INPUT_CHAIN)] = _INPUT
        iptables[text.chain_key(family, naming.ACCEPT_CHAIN)] = _ACCEPT
        iptables[text.chain_key(family, naming.TREE_CHAIN)] = text.LIST_CHAIN
        for builtin, jump in JUMPS.items():
            iptables[text.rule_key(family, builtin, jump)] = text.FIRST
            target = naming.FORWARD_CHAIN if builtin == "FORWARD" else naming.INPUT_CHAIN
            requires[text.rule_ref(family, builtin, jump)] = frozenset((text.chain_ref(family, target),))
    return Group(BASE, {"iptables": iptables, "zones": {ZONES_BASE.key: "present"}}, requires)


def tree_prefixes(port_id: str) -> tuple[str, ...]:
    """Return the nodes of the tree, root excluded, on the way to a port."""
    return tuple(port_id[:depth] for depth in range(1, TREE_DEPTH + 1))


def node_id(prefix: str) -> ObjectId:
    """Return the object id of the tree's node for ports whose id begins with *prefix*."""
    return ObjectId(f"{BASE}/t-{prefix}")


def leaf_prefix(port_id: str) -> str:
    """Return the leaf of the tree that holds a port's own two rules."""
    return port_id[:TREE_DEPTH]


def leaf_chain(port_id: str) -> str:
    """Return the chain of that leaf."""
    return naming.tree_chain(leaf_prefix(port_id))


def plan_node(prefix: str) -> Group:
    """Plan one node of the tree and the rule that leads there from the node above."""
    above, branch = naming.tree_chain(prefix[:-1]), _branch(prefix)
    iptables: dict[Key, str] = {}
    requires: dict[ItemRef, frozenset[ItemRef]] = {}
    for family in text.FAMILIES:
        iptables[text.chain_key(family, naming.tree_chain(prefix))] = text.LIST_CHAIN
        iptables[text.rule_key(family, above, branch)] = text.NONE
        ends = (text.chain_ref(family, above), text.chain_ref(family, naming.tree_chain(prefix)))
        requires[text.rule_ref(family, above, branch)] = frozenset(ends)
    return Group(node_id(prefix), {"iptables": iptables}, requires)


def _branch(prefix: str) -> str:
    bridges = f"{naming.hybrid_bridge_name(prefix)}+"
    return text.rule(text.from_device(bridges), text.goto(naming.tree_chain(prefix)))


def tree_gate(port_id: str) -> frozenset[ItemRef]:
    """Return what must be in place for packets to find the leaf of a port."""
    return frozenset(
        ref
        for prefix in tree_prefixes(port_id)
        for family in text.FAMILIES
        for ref in (
            text.chain_ref(family, naming.tree_chain(prefix)),
            text.rule_ref(family, naming.tree_chain(prefix[:-1]), _branch(prefix)),
        )
    )
