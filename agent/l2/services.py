# SPDX-License-Identifier: Apache-2.0
"""Flows between instances and the responder: DHCP, router and neighbor solicitations, metadata.

What a local port asks leaves by one of two devices, whatever network it is of.  Who
asked is written into the packet here and nowhere else: the port's number, set when the
packet came in, becomes the destination MAC address of what the DHCP side reads, and an
alias the source address of what goes to the metadata side.  The way back is found by
the same number, so that nothing that an instance says decides who is answered.

Nothing from tunnels or physical networks comes here, and a port without a number is
let past as if there were no responder.  Fragments are never taken: they do not show
who asks for what.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.core import openflow, service_identity
from agent.core.openflow import match
from agent.core.service_identity import METADATA4, METADATA6, METADATA_PORT, SERVER_MAC
from agent.l2.neighbors import ARP_REQUEST, NEIGHBOR_SOLICITATION, TO_REPLY
from agent.l2.pipeline import IDENTITY, PORT, Goto, Table, add
from agent.l2.port_security import NEIGHBOR_ADVERTISEMENT, ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION
from agent.l2.segments import Segment

TO_ROUTER = Goto(Table.ROUTER)
TO_DELIVER = Goto(Table.DELIVER)
TO_FROM_SERVICES = Goto(Table.FROM_SERVICES)

# In SERVICES: first who is not served, then what is, then what nobody else may have.
NEVER = 230
NOT_SERVED = 220
SERVED = 210
NOTHING_ELSE = 200
# In NEIGHBOR: above the exemption of ports that may have any address (a pair of 0.0.0.0/0).
OURS = 120
ENTRY = 100
OTHER = 0

DHCP_SERVER, DHCP_CLIENT = 67, 68
DHCPV6_CLIENT, DHCPV6_SERVER = 546, 547
TO_EVERYBODY = "255.255.255.255"
SERVERS_AND_RELAYS = "ff02::1:2"  # RFC 8415, section 7.1
ALL_ROUTERS = "ff02::2"
IDENTITY_BITS = 16
WHOLE = "no"  # value of nw_frag: not a fragment

_Packets = tuple[str, dict[str, int | str]]  # a protocol and fields of a match
_TOLD: tuple[_Packets, ...] = (
    ("udp", {"tp_src": DHCP_SERVER, "tp_dst": DHCP_CLIENT}),
    ("udp6", {"tp_src": DHCPV6_SERVER, "tp_dst": DHCPV6_CLIENT}),
    ("icmp6", {"icmp_type": ROUTER_ADVERTISEMENT, "icmp_code": 0}),
    ("icmp6", {"icmp_type": NEIGHBOR_ADVERTISEMENT, "icmp_code": 0}),
)
SERVER_LINK_LOCAL = service_identity.link_local(SERVER_MAC)


@dataclass(frozen=True, slots=True)
class NetworkNeeds:
    """What the instances of a network are to be answered, as its subnets say.

    ``servers`` are the addresses that DHCP is answered from, of both families;
    ``ipv4`` and ``ipv6`` tell of which families there are subnets.
    """

    ipv4: bool = False
    ipv6: bool = False
    servers: tuple[str, ...] = ()
    dhcpv4: bool = False
    dhcpv6: bool = False
    advertised: bool = False


def add_fixed(flows: dict[str, str]) -> None:
    """Add what is the same on every host, with services or without."""
    add(flows, Table.SERVICES, OTHER, "", TO_ROUTER)
    add(flows, Table.FROM_SERVICES, OTHER, "")


def add_dhcp_device(flows: dict[str, str], ofport: int | None) -> None:
    """Add what all ports' DHCP needs: the device's entry if it has a number, and that frames to us end here.

    Whoever sends there reads what tenants write: nothing is taken from it but answers.
    """
    if ofport is not None:
        for protocol, fields in _TOLD:
            add(flows, Table.CLASSIFY, ENTRY, match(protocol, in_port=ofport, **fields), TO_FROM_SERVICES)
    add(flows, Table.SERVICES, NEVER, match(reg4=0, dl_dst=SERVER_MAC))
    add(flows, Table.SERVICES, NOT_SERVED, match(reg4=0), TO_ROUTER)
    add(flows, Table.SERVICES, NOTHING_ELSE, match(dl_dst=SERVER_MAC))


def add_metadata_device(flows: dict[str, str], ofport: int | None) -> None:
    """Add what all ports' metadata needs; what no port's flows take never goes anywhere else."""
    if ofport is not None:
        add(flows, Table.CLASSIFY, ENTRY, match(in_port=ofport), TO_FROM_SERVICES)
    add(flows, Table.SERVICES, NEVER, match("ip", reg4=0, nw_dst=METADATA4))
    add(flows, Table.SERVICES, NEVER, match("ipv6", reg4=0, ipv6_dst=METADATA6))
    add(flows, Table.SERVICES, NOTHING_ELSE, match("ip", nw_dst=METADATA4))
    add(flows, Table.SERVICES, NOTHING_ELSE, match("ipv6", ipv6_dst=METADATA6))


def add_network(flows: dict[str, str], segment: Segment, needs: NetworkNeeds, ofport: int | None) -> None:
    """Add what the ports of a network may ask; *ofport* is the DHCP device's number, None while it has none."""
    for server in (*needs.servers, *((METADATA4,) if needs.ipv4 else ())):
        if ":" not in server:
            _add_arp_answer(flows, segment, server)
    if ofport is None:
        return
    asked = [*_dhcpv4(needs), *_dhcpv6(needs), *_solicitations(needs)]
    for protocol, fields in asked:
        text = match(protocol, metadata=segment.number, **fields)
        add(flows, Table.SERVICES, SERVED, text, *_to_responder(), openflow.output(ofport))


def _dhcpv4(needs: NetworkNeeds) -> list[_Packets]:
    if not needs.dhcpv4:
        return []
    targets = (TO_EVERYBODY, *(server for server in needs.servers if ":" not in server))
    return [("udp", {"nw_dst": target, "tp_dst": DHCP_SERVER, "nw_frag": WHOLE}) for target in targets]


def _dhcpv6(needs: NetworkNeeds) -> list[_Packets]:
    if not needs.dhcpv6:
        return []
    own = (server for server in needs.servers if ":" in server)
    targets = dict.fromkeys((SERVERS_AND_RELAYS, SERVER_LINK_LOCAL, *own))
    return [("udp6", {"ipv6_dst": _text6(t), "tp_dst": DHCPV6_SERVER, "nw_frag": WHOLE}) for t in targets]


def _solicitations(needs: NetworkNeeds) -> list[_Packets]:
    """Return questions for routers, and who-has questions for what is ours."""
    found: list[_Packets] = []
    if needs.advertised:
        for target in (ALL_ROUTERS, SERVER_LINK_LOCAL):
            fields: dict[str, int | str] = {"ipv6_dst": _text6(target), "icmp_type": ROUTER_SOLICITATION}
            found.append(("icmp6", {**fields, "icmp_code": 0, "nw_frag": WHOLE}))
    if needs.ipv6:
        own = (server for server in needs.servers if ":" in server)
        for target in dict.fromkeys((METADATA6, SERVER_LINK_LOCAL, *own)):
            fields = {"icmp_type": NEIGHBOR_SOLICITATION, "icmp_code": 0, "nd_target": _text6(target)}
            found.append(("icmp6", {**fields, "nw_frag": WHOLE}))
    return found


def _text6(address: str) -> str:
    return openflow.ipv6_text(address)


def _add_arp_answer(flows: dict[str, str], segment: Segment, address: str) -> None:
    text = match("arp", metadata=segment.number, arp_tpa=address, arp_op=ARP_REQUEST)
    add(flows, Table.NEIGHBOR, OURS, text, openflow.set_field(SERVER_MAC, "arp_tha"), TO_REPLY)


def _to_responder() -> tuple[str, str]:
    """Return the actions that say to the DHCP side who asks."""
    return (
        openflow.set_field(service_identity.identity_mac(0), "eth_dst"),
        openflow.move_low_bits(f"NXM_NX_REG{IDENTITY}", "NXM_OF_ETH_DST", IDENTITY_BITS),
    )


def add_dhcp_answers(flows: dict[str, str], number: int, ofport: int, device: int) -> str:
    """Bring what is sent as the port with *number* to it, and to no other; return the key of the flow."""
    text = match(in_port=device, dl_src=service_identity.identity_mac(number))
    return add(
        flows,
        Table.FROM_SERVICES,
        ENTRY,
        text,
        openflow.set_field(SERVER_MAC, "eth_src"),
        openflow.set_register(PORT, ofport),
        TO_DELIVER,
    )


@dataclass(frozen=True, slots=True)
class MetadataWay:
    """How an address of a port meets the metadata service: the port's number, address, alias and MAC address."""

    number: int
    address: str
    alias: str
    mac: str


def add_metadata_way(flows: dict[str, str], way: MetadataWay, ofport: int, device: int) -> tuple[str, str]:
    """Lead requests from the way's address to the metadata side and answers back; return both keys."""
    version6 = ":" in way.address
    protocol = "tcp6" if version6 else "tcp"
    source, target = ("ipv6_src", "ipv6_dst") if version6 else ("nw_src", "nw_dst")
    service = METADATA6 if version6 else METADATA4
    asked: dict[str, int | str] = {source: _address(way.address), target: service}
    told: dict[str, int | str] = {source: service, target: way.alias}
    there = add(
        flows,
        Table.SERVICES,
        SERVED,
        match(protocol, reg4=way.number, **asked, tp_dst=METADATA_PORT, nw_frag=WHOLE),
        openflow.set_field(_address(way.alias), "ipv6_src" if version6 else "ip_src"),
        openflow.set_field(service_identity.ROUTER_MAC, "eth_src"),
        openflow.set_field(service_identity.METADATA_MAC, "eth_dst"),
        openflow.output(device),
    )
    back = add(
        flows,
        Table.FROM_SERVICES,
        ENTRY,
        match(protocol, in_port=device, **told, tp_src=METADATA_PORT),
        openflow.set_field(_address(way.address), "ipv6_dst" if version6 else "ip_dst"),
        openflow.set_field(way.mac, "eth_dst"),
        openflow.set_field(SERVER_MAC, "eth_src"),
        openflow.set_register(PORT, ofport),
        TO_DELIVER,
    )
    return there, back


def _address(text: str) -> str:
    return openflow.ipv6_text(text) if ":" in text else text
