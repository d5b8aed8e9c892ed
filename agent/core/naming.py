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


def hybrid_veth_names(port_id: str) -> tuple[str, str]:
    """Return the veth pair of a port's hybrid plug: the bridge's end, the switch's end."""
    return "qvb" + port_id[:PORT_ID_CHARS], "qvo" + port_id[:PORT_ID_CHARS]


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
