# SPDX-License-Identifier: Apache-2.0
"""A router's namespace and the devices in it: a pair for each leg, addresses, settings (ip-sysctl of the kernel)."""

from __future__ import annotations

from collections.abc import Mapping

from agent.core import naming
from agent.core.items import Link, OvsPort
from agent.core.plan import ItemRef, Key, Value
from agent.core.service_identity import link_local
from agent.l3.local_router import Leg, LocalRouter

# Of ``rp_filter`` and ``send_redirects`` the larger of a device's value and the one of all counts.
_SETTINGS: Mapping[str, str] = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.all.accept_redirects": "0",
    # An address is answered for on its own network only: nobody outside learns of those inside.
    "net.ipv4.conf.all.arp_ignore": "1",
    # A connection goes on at another gateway, which has not seen its beginning.
    "net.netfilter.nf_conntrack_tcp_loose": "1",
    # While it moves, packets go by one and answers by the other: sequence numbers seem to jump.
    "net.netfilter.nf_conntrack_tcp_be_liberal": "1",
}
_DEVICE_SETTINGS: Mapping[str, str] = {
    "net.ipv4.conf.{}.rp_filter": "0",
    "net.ipv4.conf.{}.send_redirects": "0",
    "net.ipv6.conf.{}.accept_ra": "0",
    "net.ipv6.conf.{}.disable_ipv6": "0",  # whatever new namespaces inherit from the host
}

# Whom a gateway that takes over asks for its neighbors may not be answered at first: switches still lead the answer to
# the gateway before.  So it asks again after 200 ms, for as long as it would have with a second between.
_GATEWAY_SETTINGS: Mapping[str, str] = {
    "net.ipv4.neigh.{}.retrans_time_ms": "200",
    "net.ipv4.neigh.{}.mcast_solicit": "15",
    "net.ipv6.neigh.{}.retrans_time_ms": "200",
    "net.ipv6.neigh.{}.mcast_solicit": "15",
}

Planned = tuple[dict[str, Mapping[Key, Value]], dict[ItemRef, frozenset[ItemRef]]]


def plan_settings(local: LocalRouter) -> tuple[dict[Key, Value], dict[ItemRef, frozenset[ItemRef]]]:
    """Return the settings of the namespace, and what they require."""
    items: dict[Key, Value] = {local.item("sysctl", name): value for name, value in _SETTINGS.items()}
    return items, {ItemRef("routes", key): frozenset((local.netns,)) for key in items}


def plan_leg(local: LocalRouter, leg: Leg) -> Planned:
    """Return a leg's pair of devices, its port of the switch, its addresses and its settings, and what they require.

    The userspace datapath reads packets as they are sent, so the namespace's end computes
    its checksums itself.  Of a leg with IPv6 the link-local address follows from the MAC
    address, as the kernel would have it, because that is where hosts send to.
    """
    inner, port = local.device_ref(leg), ItemRef("ovs", f"port/{leg.outer}")
    owner, mtu = str(leg.interface.port), leg.segment.network.mtu
    links: dict[Key, Value] = {
        leg.outer: Link(leg.outer, "veth", owner, mtu, peer=inner.key),
        inner.key: Link(
            leg.device,
            "veth",
            owner,
            mtu,
            peer=leg.outer,
            tx_checksum=False,
            namespace=local.namespace,
            address=leg.mac,
        ),
    }
    settings = {**_DEVICE_SETTINGS, **(_GATEWAY_SETTINGS if leg.is_gateway else {})}
    routes: dict[Key, Value] = {
        local.item("sysctl", name.format(leg.device)): value for name, value in settings.items()
    }
    routes.update((address, "") for address in leg_address_keys(local, leg))
    requires = {
        **dict.fromkeys((ItemRef("links", key) for key in links), frozenset((local.netns,))),
        **dict.fromkeys((ItemRef("routes", key) for key in routes), frozenset((inner,))),
        port: frozenset((ItemRef("links", leg.outer),)),
    }
    ports = {port.key: OvsPort(leg.outer, naming.INTEGRATION_BRIDGE, "")}
    return {"links": links, "routes": routes, "ovs": ports}, requires


def leg_address_keys(local: LocalRouter, leg: Leg) -> list[Key]:
    """Return the ``routes`` driver's keys of what addresses a leg has for itself, floating IPs aside.

    The leg to the outside has them where ``LocalRouter.has_addresses`` says.
    """
    if leg.is_gateway and not local.has_addresses:
        return []
    keys = [local.item("address", leg.device, address.with_length) for address in leg.addresses]
    if leg.has_family(ipv6=True):
        keys.append(local.item("address", leg.device, f"{link_local(leg.mac)}/64"))
    return keys
