# SPDX-License-Identifier: Apache-2.0
"""What the host has for the responder: a namespace, two veth pairs into it, and the sockets that it reads there.

The outer ends are ports of ``br-int``.  The namespace is there for TCP: its kernel ends
the metadata connections.  DHCP and neighbor discovery of instances are read from a packet
socket, so that no kernel of ours parses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from agent.core import naming
from agent.core import service_identity as identity
from agent.core.items import Item, Link, OvsPort, ResponderSocket, Served, SocketKind
from agent.core.plan import Group, ItemRef, Key, ObjectId, Value
from agent.core.service_identity import DHCP_DEVICE, DHCP_INNER, METADATA_DEVICE, METADATA_INNER, NAMESPACE
from agent.l2 import services

HOST_DHCP = ObjectId("host:dhcp")
HOST_METADATA = ObjectId("host:metadata")

OWNER = "responder"  # in aliases
LEAST_MTU, LARGEST_MTU = 1500, 65535  # octets; the largest that a veth takes

_NETNS = ItemRef("netns", NAMESPACE)

# The namespace's kernel forwards nothing, whatever the host's own settings are.
_NAMESPACE_SETTINGS = {"net.ipv4.ip_forward": "0", "net.ipv6.conf.all.forwarding": "0"}
# Frames are read from a packet socket: this device is to speak for nobody.
_DHCP_SETTINGS = {f"net.ipv6.conf.{DHCP_INNER}.disable_ipv6": "1"}
# One address, ours: no other made up, none learned, and no doubt whether somebody else has it.
_METADATA_SETTINGS = {
    f"net.ipv6.conf.{METADATA_INNER}.accept_dad": "0",
    f"net.ipv6.conf.{METADATA_INNER}.accept_ra": "0",
    f"net.ipv6.conf.{METADATA_INNER}.accept_redirects": "0",
    f"net.ipv6.conf.{METADATA_INNER}.addr_gen_mode": "1",
    f"net.ipv4.conf.{METADATA_INNER}.accept_redirects": "0",
    f"net.ipv4.conf.{METADATA_INNER}.accept_source_route": "0",
    f"net.ipv4.conf.{METADATA_INNER}.rp_filter": "0",
}


def device_mtu(mtus: int) -> int:
    """Return the MTU of the devices where the largest network of this host has *mtus* octets."""
    return min(max(mtus, LEAST_MTU), LARGEST_MTU)


def plan_host_dhcp(mtu: int, ofport: int | None) -> Group:
    """Plan the namespace and what DHCP needs in it; *ofport* is the number of the device, None while it has none."""
    flows: dict[str, str] = {}
    services.add_dhcp_device(flows, ofport)
    links, wired = _pair(DHCP_DEVICE, DHCP_INNER, mtu, None)
    settings = _settings({**_NAMESPACE_SETTINGS, **_DHCP_SETTINGS})
    socket = ItemRef("responder", identity.DHCP_SOCKET)
    items: dict[str, Mapping[Key, Value]] = {
        "netns": {NAMESPACE: OWNER},
        "links": links,
        "routes": settings,
        "ovs": {f"port/{DHCP_DEVICE}": OvsPort(DHCP_DEVICE, naming.INTEGRATION_BRIDGE, "")},
        "responder": {socket.key: ResponderSocket(SocketKind.FRAMES, NAMESPACE, DHCP_INNER)},
        "flows": flows,
    }
    inner = _inner(DHCP_INNER)
    requires = {
        **wired,
        **dict.fromkeys((ItemRef("routes", key) for key in settings), frozenset((inner,))),
        ItemRef("ovs", f"port/{DHCP_DEVICE}"): frozenset((ItemRef("links", DHCP_DEVICE),)),
        socket: frozenset((inner, *(ItemRef("routes", key) for key in settings))),
    }
    return Group(HOST_DHCP, items, requires)


def plan_host_metadata(mtu: int, ofport: int | None, service: Served, connects: str) -> Group:
    """Plan what the metadata service needs in the namespace, and what all ports' have in common.

    *connects* is how fast an address may connect, "" for as fast as it likes.
    """
    flows: dict[str, str] = {}
    services.add_metadata_device(flows, ofport)
    links, wired = _pair(METADATA_DEVICE, METADATA_INNER, mtu, identity.METADATA_MAC)
    settings = _settings(_METADATA_SETTINGS)
    routes = _routes()
    sockets = {key: _listener(address) for key, address in _SOCKETS.items()}
    items: dict[str, Mapping[Key, Value]] = {
        "links": links,
        "routes": {**settings, **routes},
        "connects": {NAMESPACE: connects} if connects else {},
        "ovs": {f"port/{METADATA_DEVICE}": OvsPort(METADATA_DEVICE, naming.INTEGRATION_BRIDGE, "")},
        "responder": {**sockets, identity.SERVICE: service},
        "flows": flows,
    }
    inner = _inner(METADATA_INNER)
    set_up = frozenset(ItemRef("routes", key) for key in settings)
    requires = {
        **wired,
        **dict.fromkeys(set_up, frozenset((inner,))),
        **dict.fromkeys((ItemRef("routes", key) for key in routes), frozenset((inner, *set_up))),
        ItemRef("ovs", f"port/{METADATA_DEVICE}"): frozenset((ItemRef("links", METADATA_DEVICE),)),
        **{ItemRef("responder", key): _listens_on(address) for key, address in _SOCKETS.items()},
        **({ItemRef("connects", NAMESPACE): frozenset((_NETNS,))} if connects else {}),
    }
    return Group(HOST_METADATA, items, requires)


_SOCKETS = {identity.METADATA_SOCKET4: identity.METADATA4, identity.METADATA_SOCKET6: identity.METADATA6}
_LENGTHS = {identity.METADATA4: 32, identity.METADATA6: 64}


@cache
def metadata_gate(version: int) -> frozenset[ItemRef]:
    """Return what must be in place before requests over IPv4 or IPv6 may be sent to the metadata service."""
    address = identity.METADATA4 if version == 4 else identity.METADATA6
    socket = identity.METADATA_SOCKET4 if version == 4 else identity.METADATA_SOCKET6
    prefix, router = (identity.ALIASES4, identity.ROUTER4) if version == 4 else (identity.ALIASES6, identity.ROUTER6)
    back = (f"{NAMESPACE} route {prefix}", f"{NAMESPACE} neighbor {METADATA_INNER} {router}")
    return frozenset((ItemRef("responder", socket), *_listens_on(address), *(ItemRef("routes", key) for key in back)))


def _inner(device: str) -> ItemRef:
    return ItemRef("links", f"{NAMESPACE}/{device}")


def _address_key(address: str) -> str:
    return f"{NAMESPACE} address {METADATA_INNER} {address}/{_LENGTHS[address]}"


def _listens_on(address: str) -> frozenset[ItemRef]:
    return frozenset((_inner(METADATA_INNER), ItemRef("routes", _address_key(address))))


def _listener(address: str) -> Item:
    return ResponderSocket(SocketKind.METADATA, NAMESPACE, METADATA_INNER, address, identity.METADATA_PORT)


def _pair(
    outer: str, inner: str, mtu: int, address: str | None
) -> tuple[dict[Key, Value], dict[ItemRef, frozenset[ItemRef]]]:
    """Return the two ends of a pair into the namespace, and what they require.

    Open vSwitch's userspace datapath reads packets as they are sent, so the namespace's
    end computes its checksums itself.
    """
    key = f"{NAMESPACE}/{inner}"
    links: dict[Key, Value] = {
        outer: Link(outer, "veth", OWNER, mtu, peer=key),
        key: Link(inner, "veth", OWNER, mtu, peer=outer, tx_checksum=False, namespace=NAMESPACE, address=address),
    }
    return links, dict.fromkeys((ItemRef("links", each) for each in links), frozenset((_NETNS,)))


def _settings(values: Mapping[str, str]) -> dict[Key, Value]:
    return {f"{NAMESPACE} sysctl {name}": value for name, value in values.items()}


def _routes() -> dict[Key, Value]:
    """Return our two addresses, and one next hop for the aliases of each family, whose MAC address is known."""
    addresses = {_address_key(address): "" for address in _LENGTHS}
    return {
        **addresses,
        f"{NAMESPACE} route {identity.ALIASES4}": f"via {identity.ROUTER4} dev {METADATA_INNER} onlink",
        f"{NAMESPACE} route {identity.ALIASES6}": f"via {identity.ROUTER6} dev {METADATA_INNER}",
        f"{NAMESPACE} neighbor {METADATA_INNER} {identity.ROUTER4}": identity.ROUTER_MAC,
        f"{NAMESPACE} neighbor {METADATA_INNER} {identity.ROUTER6}": identity.ROUTER_MAC,
    }
