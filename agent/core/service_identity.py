# SPDX-License-Identifier: Apache-2.0
"""Who asks the responder: what stands for a local port between the switch and it.

Each port that is served has a number (allocation kind ``responder``).  From it follow
a MAC address, which flows write over the destination of the port's DHCP, router and
neighbor solicitations, and an alias address for each of the port's own, which flows
write over the source of its metadata requests.  So networks with equal addresses never
meet, and nothing that an instance says tells who it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

NAMESPACE: Final = "hp-responder"
DHCP_DEVICE, DHCP_INNER = "hp-dhcp", "hp-dhcp0"  # the switch's end, the namespace's end
METADATA_DEVICE, METADATA_INNER = "hp-meta", "hp-meta0"
DHCP_SOCKET, METADATA_SOCKET4, METADATA_SOCKET6 = "socket dhcp", "socket metadata4", "socket metadata6"

METADATA4, METADATA6 = "169.254.169.254", "fe80::a9fe:a9fe"
METADATA_PORT = 80

# Locally administered.  Instances see the first; the others stay between switch and responder.
SERVER_MAC: Final = "02:48:50:00:00:01"
METADATA_MAC: Final = "02:48:50:00:00:02"  # of METADATA_INNER
ROUTER_MAC: Final = "02:48:50:00:00:03"  # what stands for all aliases in the neighbor table of the namespace
ROUTER4, ROUTER6 = "169.254.169.253", "fe80::a9fe:a9fd"  # next hops of the aliases

ALIASES4, ALIASES6 = "100.64.0.0/10", "fd00:a9fe::/64"
SLOTS4, SLOTS6 = 64, 1 << 16  # aliases of one port

# Keys of the ``responder`` driver besides those of sockets.
SERVICE: Final = "service"

_NETWORK_OWNED: Final = "network:"  # Neutron's prefix of owners that are part of the network itself
_IDENTITY_PREFIX: Final = "02:48:50:01"
_FIRST4 = 0x6440_0000  # of ALIASES4


def is_served(device_owner: str) -> bool:
    """Tell whether a port's owner is one that asks: an instance, and not a part of the network (a router, a server)."""
    return not device_owner.startswith(_NETWORK_OWNED)


def dhcp_key(port_id: str) -> str:
    """Return the ``responder`` driver's key of a port's DHCP data."""
    return f"dhcp {port_id}"


def metadata_key(port_id: str) -> str:
    """Return the ``responder`` driver's key of a port's metadata."""
    return f"metadata {port_id}"


def identity_mac(number: int) -> str:
    """Return the MAC address that stands for the port with this number (1..65535)."""
    return f"{_IDENTITY_PREFIX}:{number >> 8:02x}:{number & 0xFF:02x}"


def alias(number: int, address: str, slot: int) -> str:
    """Return the alias of *address* of the port with this number (1..65535); *slot* as ``slots`` gives it."""
    if ":" in address:
        return f"fd00:a9fe::{number:x}:{slot:x}"  # canonical, because no number is 0
    return ".".join(map(str, (_FIRST4 + number * SLOTS4 + slot).to_bytes(4)))


def slots(addresses: Iterable[str]) -> Mapping[str, int]:
    """Return a slot for each of a port's addresses; those of another family do not count.

    A slot follows from the address, so that it stays when others come and go, unless two
    hash to the same: then the later in order moves on, and its connections with it.
    Addresses for which there is no room are left out.
    """
    taken: dict[int, set[int]] = {4: set(), 6: set()}
    found: dict[str, int] = {}
    for address in sorted(set(addresses)):
        version, size = (6, SLOTS6) if ":" in address else (4, SLOTS4)
        used = taken[version]
        if len(used) >= size:
            continue
        slot = int.from_bytes(hashlib.blake2b(address.encode(), digest_size=4).digest()) % size
        while slot in used:
            slot = (slot + 1) % size
        used.add(slot)
        found[address] = slot
    return found


def link_local(mac: str) -> str:
    """Return the EUI-64 link-local address of *mac* (RFC 4291, appendix A), canonical."""
    a, b, c, d, e, f = bytes.fromhex(mac.replace(":", ""))
    first = (a ^ 2) << 8 | b
    tail = f"{c << 8 | 0xFF:x}:{0xFE00 | d:x}:{e << 8 | f:x}"
    return f"fe80::{first:x}:{tail}" if first else f"fe80::{tail}"
