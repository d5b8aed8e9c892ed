# SPDX-License-Identifier: Apache-2.0
"""Flows that keep an instance from speaking as somebody else (port security).

As in Neutron: a port may use its own MAC address with its fixed IPs, and each
allowed address pair's MAC address with the pair's prefix.  A port without fixed IPs
(unaddressed) may use its MAC address with any IP address.  Only ARP, IPv4 and IPv6
pass.  What it says about its neighbours (RFC 4861) must be about itself, and it is
no router and no DHCP server.

Two tables: PORT_SECURITY holds the source addresses of each port, ND_SECURITY looks
into neighbour discovery, where most rules are the same for all ports.
"""

from __future__ import annotations

from agent.core import openflow
from agent.core.model import Port
from agent.core.openflow import NO_MAC, match
from agent.core.service_identity import link_local
from agent.l2.pipeline import Goto, Table, add

TO_ND = Goto(Table.ND_SECURITY)
TO_NEIGHBOR = Goto(Table.NEIGHBOR)

ALLOW = 100
DENY = 0

# In ND_SECURITY.
INVALID = 130
UNSPECIFIED_OWN = 120
UNSPECIFIED_HARMLESS = 115
UNSPECIFIED_OTHER = 110
ND_ALLOW = 100
ND_DENY = 90

ROUTER_SOLICITATION = 133
ROUTER_ADVERTISEMENT = 134
NEIGHBOR_SOLICITATION = 135
NEIGHBOR_ADVERTISEMENT = 136
REDIRECT = 137
# Multicast listener reports (RFC 2710, RFC 3810) and router solicitations claim no address.
FROM_UNSPECIFIED = (131, 132, 143, ROUTER_SOLICITATION)

NO_ADDRESS = "0.0.0.0"  # noqa: S104 - not to listen on: source of who has no IPv4 address yet
ANY_IPV4 = f"{NO_ADDRESS}/0"
ANY_IPV6 = "::/0"


def add_fixed(flows: dict[str, str]) -> None:
    """Add what is the same on every host."""
    add(flows, Table.PORT_SECURITY, DENY, "")
    for kind in (NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT):
        # Open vSwitch gives up on malformed options (one of them twice, say) and then shows
        # all fields as zero, where the instance that receives it might be more lenient.
        text = match("icmp6", icmp_type=kind, icmp_code=0, nd_target="::")
        add(flows, Table.ND_SECURITY, INVALID, text)
    for kind in FROM_UNSPECIFIED:
        text = match("icmp6", ipv6_src="::", icmp_type=kind)
        add(flows, Table.ND_SECURITY, UNSPECIFIED_HARMLESS, text, TO_NEIGHBOR)
    add(flows, Table.ND_SECURITY, UNSPECIFIED_OTHER, match("ipv6", ipv6_src="::"))
    quiet = match("icmp6", icmp_type=NEIGHBOR_SOLICITATION, icmp_code=0, nd_sll=NO_MAC)
    add(flows, Table.ND_SECURITY, ND_ALLOW, quiet, TO_NEIGHBOR)
    for kind in (ROUTER_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT, REDIRECT):
        add(flows, Table.ND_SECURITY, ND_DENY, match("icmp6", icmp_type=kind))
    # Whatever port it is from: a client looks at where an answer goes to.
    add(flows, Table.ND_SECURITY, ND_DENY, match("udp", tp_dst=68))
    add(flows, Table.ND_SECURITY, ND_DENY, match("udp6", tp_dst=546))
    add(flows, Table.ND_SECURITY, DENY, "", TO_NEIGHBOR)


def add_port(flows: dict[str, str], port: Port, ofport: int) -> None:
    """Add what *port* may send; with port security off that is everything."""
    if not port.port_security:
        add(flows, Table.PORT_SECURITY, ALLOW, match(in_port=ofport), TO_NEIGHBOR)
        return
    claims = source_claims(port)
    for mac, cidr in claims:
        if ":" in cidr:
            _add_ipv6(flows, ofport, mac, cidr)
        else:
            _add_ipv4(flows, ofport, mac, cidr)
    discover = match(
        "udp", in_port=ofport, dl_src=port.mac, nw_src=NO_ADDRESS, nw_dst="255.255.255.255", tp_src=68, tp_dst=67
    )
    add(flows, Table.PORT_SECURITY, ALLOW, discover, TO_ND)
    for mac in dict.fromkeys(mac for mac, cidr in claims if ":" in cidr):
        unspecified = match("ipv6", in_port=ofport, dl_src=mac, ipv6_src="::")
        add(flows, Table.PORT_SECURITY, ALLOW, unspecified, TO_ND)
        solicitation = match(
            "icmp6", in_port=ofport, dl_src=mac, icmp_type=NEIGHBOR_SOLICITATION, icmp_code=0, nd_sll=mac
        )
        add(flows, Table.ND_SECURITY, ND_ALLOW, solicitation, TO_NEIGHBOR)


def source_claims(port: Port) -> tuple[tuple[str, str], ...]:
    """Return the (MAC address, address or prefix) pairs that a port with port security may use as source.

    Each MAC address that has an IPv6 address has its EUI-64 link-local address, too;
    the port's own always has.
    """
    claims: dict[tuple[str, str], None] = {}
    if port.fixed_ips:
        claims.update(((port.mac, ip.address), None) for ip in port.fixed_ips)
        claims[port.mac, link_local(port.mac)] = None
    else:
        claims[port.mac, ANY_IPV4] = None
        claims[port.mac, ANY_IPV6] = None
    for pair in port.allowed_address_pairs:
        claims[pair.mac, pair.cidr] = None
        if ":" in pair.cidr and (pair.mac, ANY_IPV6) not in claims:
            claims[pair.mac, link_local(pair.mac)] = None
    return tuple(claims)


def _add_ipv4(flows: dict[str, str], ofport: int, mac: str, cidr: str) -> None:
    prefix = openflow.prefix_text(cidr)
    arp = match("arp", in_port=ofport, dl_src=mac, arp_spa=prefix, arp_sha=mac)
    add(flows, Table.PORT_SECURITY, ALLOW, arp, TO_NEIGHBOR)
    if prefix is not None:
        # RFC 5227: a probe comes from 0.0.0.0 and asks for an address that is to be used.
        probe = match("arp", in_port=ofport, dl_src=mac, arp_spa=NO_ADDRESS, arp_tpa=prefix, arp_op=1, arp_sha=mac)
        add(flows, Table.PORT_SECURITY, ALLOW, probe, TO_NEIGHBOR)
    add(flows, Table.PORT_SECURITY, ALLOW, match("ip", in_port=ofport, dl_src=mac, nw_src=prefix), TO_ND)


def _add_ipv6(flows: dict[str, str], ofport: int, mac: str, cidr: str) -> None:
    prefix = openflow.prefix_text(cidr)
    add(flows, Table.PORT_SECURITY, ALLOW, match("ipv6", in_port=ofport, dl_src=mac, ipv6_src=prefix), TO_ND)
    # Duplicate address detection (RFC 4862) must not say who asks.
    detection = match(
        "icmp6",
        in_port=ofport,
        dl_src=mac,
        ipv6_src="::",
        icmp_type=NEIGHBOR_SOLICITATION,
        icmp_code=0,
        nd_target=prefix,
        nd_sll=NO_MAC,
    )
    add(flows, Table.ND_SECURITY, UNSPECIFIED_OWN, detection, TO_NEIGHBOR)
    for target_mac in (NO_MAC, mac):
        advertisement = match(
            "icmp6",
            in_port=ofport,
            dl_src=mac,
            icmp_type=NEIGHBOR_ADVERTISEMENT,
            icmp_code=0,
            nd_target=prefix,
            nd_tll=target_mac,
        )
        add(flows, Table.ND_SECURITY, ND_ALLOW, advertisement, TO_NEIGHBOR)
