# SPDX-License-Identifier: Apache-2.0
"""Every derived name and number, and its inverse: is this ours?

Ownership can be read off each object, so that a process with no memory knows what
it may change.  Device names have at most 15 characters (IFNAMSIZ).
"""

from __future__ import annotations

import hashlib
import zlib

INTEGRATION_BRIDGE = "br-int"

COOKIE_OWNER = 0x4850  # "HP", the top 16 bits of each flow of ours
COOKIE_MASK = 0xFFFF << 48
EXTERNAL_ID = "hostplane"  # key in external_ids of OVSDB rows of ours
ALIAS_PREFIX = "hostplane:"
PORT_ID_CHARS = 11  # as Nova and os-vif: "tap" + the first 11 characters of the port id


def owner_hash(object_id: str) -> int:
    """Return the 16-bit hash of an object id that marks its flows."""
    crc = zlib.crc32(object_id.encode())  # asked for every object when a slice is read back: cheap matters
    return (crc ^ crc >> 16) & 0xFFFF


def flow_cookie(object_id: str, key: str, actions: str) -> int:
    """Return a flow's cookie: owner, 16 bits of its object and 32 bits of its content.

    The 48 bits below the owner change whenever the flow's object, match or actions
    do.  Its upper part is the object's hash alone, so that all flows of one object
    can be read back by one masked dump.
    """
    content = hashlib.blake2b(f"{object_id}\n{key}\n{actions}".encode(), digest_size=4).digest()
    return COOKIE_OWNER << 48 | owner_hash(object_id) << 32 | int.from_bytes(content)


def link_alias(kind: str, object_uuid: str) -> str:
    """Return the alias (``ip link set alias``) that marks a link as ours."""
    return f"{ALIAS_PREFIX}{kind}:{object_uuid}"


def is_our_alias(alias: str | None) -> bool:
    """Tell whether a link with *alias* was made by us."""
    return alias is not None and alias.startswith(ALIAS_PREFIX)


def tap_name(port_id: str) -> str:
    """Return the device of a port: what is plugged into ``br-int`` directly."""
    return "tap" + port_id[:PORT_ID_CHARS]


def hybrid_bridge_name(port_id: str) -> str:
    """Return the Linux bridge of a port's hybrid plug."""
    return "qbr" + port_id[:PORT_ID_CHARS]


def is_hybrid_interface(name: str) -> bool:
    """Tell whether an interface of the integration bridge is the switch's end of a hybrid plug."""
    return name.startswith("qvo")


def hybrid_veth_names(port_id: str) -> tuple[str, str]:
    """Return the veth pair of a port's hybrid plug: the bridge's end, the switch's end."""
    return "qvb" + port_id[:PORT_ID_CHARS], "qvo" + port_id[:PORT_ID_CHARS]


# Marks of packets in hybrid bridges, set and cleared on the host only.
ZONED_MARK = 0x10000000  # its conntrack zone is its port's
ALLOWED_MARK = 0x20000000  # a filter of ours has let it pass: the guard behind asks for it
# Marks of connections in zones of ours: which way the first packet went, seen from the instance.
EGRESS_CONNMARK = 0x1
INGRESS_CONNMARK = 0x2
CONNMARK_MASK = 0x3
ENDED_CONNMARK = 0x4  # nothing allows the connection any more: none of its packets passes, whoever sends it

# Of packets in routers' namespaces: translated without conntrack, which does not know what they belong to.
FALLBACK_MARK = 0x2

CHAIN_PREFIX = "hp-"
FORWARD_CHAIN = "hp-forward"
INPUT_CHAIN = "hp-input"
ACCEPT_CHAIN = "hp-accept"
TREE_CHAIN = "hp-t"
# Of routers, in their namespaces.
NOTRACK_CHAIN = "hp-notrack"
DNAT_CHAIN = "hp-dnat"
FLOATING_CHAIN = "hp-floating"
SNAT_CHAIN = "hp-snat"
MSS_CHAIN = "hp-mss"
_LIST_CHAINS = frozenset((TREE_CHAIN, NOTRACK_CHAIN, DNAT_CHAIN, FLOATING_CHAIN))
LOG_GROUP = 4850  # NFLOG


def short_hash(object_id: str) -> str:
    """Return 16 hexadecimal digits that stand for an object in names that must be short."""
    return hashlib.blake2b(object_id.encode(), digest_size=8).hexdigest()


def tree_chain(prefix: str) -> str:
    """Return the chain that dispatches to ports whose id begins with *prefix* ("" for all)."""
    return f"{TREE_CHAIN}-{prefix}" if prefix else TREE_CHAIN


def group_chain(group_id: str, ingress: bool) -> str:
    """Return the chain with the rules of a security group in one direction."""
    return f"hp-g-{short_hash(group_id)}-{'i' if ingress else 'o'}"


def policy_chain(policy: str, ingress: bool) -> str:
    """Return the chain of all ports with the same security groups; *policy* is its object id."""
    return f"hp-p-{short_hash(policy)}-{'i' if ingress else 'o'}"


def logged_accept_chain(rule_id: str) -> str:
    """Return the chain that logs what a rule accepts, and accepts it."""
    return f"hp-a-{short_hash(rule_id)}"


def is_list_chain(chain: str) -> bool:
    """Tell whether the order of the rules in a chain of ours means nothing (each is an item of its own)."""
    return chain in _LIST_CHAINS or chain.startswith(("hp-t-", "hp-g-"))


def is_our_chain(chain: str) -> bool:
    """Tell whether a chain was made by us."""
    return chain.startswith(CHAIN_PREFIX)


def member_set(owner: str, ip_version: int) -> str:
    """Return the IP set of the addresses of a security group or address group (at most 31 characters)."""
    return f"hp-{ip_version}-{short_hash(owner)}"


def is_our_set(name: str) -> bool:
    """Tell whether an IP set was made by us."""
    return name.startswith("hp-")


def rule_comment(rule_id: str) -> str:
    """Return the comment of the iptables rule of a security group's rule, or of a jump of ours."""
    return f"hp:{short_hash(rule_id)}"


ROUTER_NAMESPACE = "qrouter-"
ROUTER_NAMESPACES = (ROUTER_NAMESPACE, "snat-")  # the second as Neutron names what only gateway hosts have


def router_namespace(router_id: str) -> str:
    """Return the network namespace of a router."""
    return ROUTER_NAMESPACE + router_id


def is_router_namespace(name: str) -> bool:
    """Tell whether a namespace of ours that has this name is a router's."""
    return name.startswith(ROUTER_NAMESPACES)


def router_link_names(port_id: str, gateway: bool) -> tuple[str, str]:
    """Return the veth pair of a router's port: the end on br-int, the end in the router's namespace."""
    short = port_id[:PORT_ID_CHARS]
    return "hpr-" + short, ("qg-" if gateway else "qr-") + short


PEER_PORT_PREFIX = "hpb-"


def peer_port_name(host: str) -> str:
    """Return the tunnel port on which a host is watched (BFD)."""
    return PEER_PORT_PREFIX + hashlib.blake2b(host.encode(), digest_size=5).hexdigest()


def host_mac(host: str, port_id: str) -> str:
    """Return the MAC address that stands for a distributed router's port when *host* sends to a physical network.

    Locally administered; 46 bits of a hash, so that no two are equal in practice.
    """
    digest = bytearray(hashlib.blake2b(f"{host}\n{port_id}".encode(), digest_size=6).digest())
    digest[0] = digest[0] & 0xFC | 0x02
    return digest.hex(":")


def tunnel_port_name(encapsulation: str) -> str:
    """Return the flow-based tunnel port of an encapsulation (``vxlan``, ``geneve``)."""
    return f"hp-{encapsulation}"


def patch_port_names(physnet: str) -> tuple[str, str]:
    """Return both ends of the patch to a physical network's bridge: on br-int, on that bridge.

    Long physical network names are hashed, never cut blindly.
    """
    short = physnet if len(physnet) <= 8 else hashlib.blake2b(physnet.encode(), digest_size=4).hexdigest()
    return f"hp-i-{short}", f"hp-p-{short}"


def allocation_key(kind: str, object_id: str) -> str:
    """Return the ``ovs`` driver's key of an allocated number."""
    return f"allocation/{kind}/{object_id}"
