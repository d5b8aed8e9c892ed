# SPDX-License-Identifier: Apache-2.0
"""OpenStack's ``network_data.json``: how an instance is to set up its interface, as Nova tells it.

One link, one network for each subnet that the port has an address of.  What DHCP gives
over IPv4 is not said again (``ipv4_dhcp``).
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from functools import lru_cache

from agent.core.model import Network, Port, Subnet
from agent.core.naming import tap_name

_LINK_TYPE = "ovs"  # Nova's vif_type; cloud-init takes it for a physical interface
_IPV6_MODES = ("slaac", "dhcpv6-stateful", "dhcpv6-stateless")


def network_data(port: Port, network: Network, subnets: tuple[Subnet, ...]) -> str:
    """Return the JSON text for *port*; *subnets* are those of its network."""
    link = {
        "id": tap_name(port.id),
        "vif_id": port.id,
        "type": _LINK_TYPE,
        "mtu": network.mtu,
        "ethernet_mac_address": port.mac,
    }
    networks = [entry for subnet in subnets for entry in _networks(port, network, subnet, link["id"])]
    for number, entry in enumerate(networks):
        entry["id"] = f"network{number}"
    used = {ip.subnet for ip in port.fixed_ips}
    servers = dict.fromkeys(server for subnet in subnets if subnet.id in used for server in subnet.dns_servers)
    return json.dumps({"links": [link], "networks": networks, "services": [_dns(server) for server in servers]})


def _networks(port: Port, network: Network, subnet: Subnet, link: object) -> Iterator[dict[str, object]]:
    addresses = [ip.address for ip in port.fixed_ips if ip.subnet == subnet.id]
    kind = _kind(subnet)
    if kind.endswith("_dhcp"):
        addresses = addresses[:1]
    for index, address in enumerate(addresses):
        entry: dict[str, object] = {"id": "", "type": kind, "link": link, "network_id": network.id}
        if not kind.endswith("_dhcp"):
            entry["ip_address"] = address
            entry["netmask"] = _prefix(subnet.cidr)[1]
            entry["routes"] = [] if index else list(_routes(subnet))
            entry["services"] = [_dns(server) for server in subnet.dns_servers]
        yield entry


def _kind(subnet: Subnet) -> str:
    if ":" not in subnet.cidr:
        return "ipv4_dhcp" if subnet.dhcp else "ipv4"
    if not subnet.dhcp:
        return "ipv6"
    mode = subnet.ipv6_address_mode
    if mode in _IPV6_MODES:
        return f"ipv6_{mode}"
    return "ipv6" if subnet.ipv6_ra_mode else "ipv6_dhcp"  # as it is answered: see agent.dhcp


def _routes(subnet: Subnet) -> Iterator[dict[str, str]]:
    if subnet.gateway:
        yield _route("::/0" if ":" in subnet.cidr else "0.0.0.0/0", subnet.gateway)
    for destination, hop in subnet.host_routes:
        yield _route(destination, hop)


def _route(destination: str, hop: str) -> dict[str, str]:
    address, netmask = _prefix(destination)
    return {"network": address, "netmask": netmask, "gateway": hop}


@lru_cache(maxsize=1024)
def _prefix(cidr: str) -> tuple[str, str]:
    """Return address and netmask of a prefix; all ports of a network ask for the same few."""
    prefix = ipaddress.ip_network(cidr)
    return str(prefix.network_address), str(prefix.netmask)


def _dns(server: str) -> dict[str, str]:
    return {"type": "dns", "address": server}
