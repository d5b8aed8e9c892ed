# SPDX-License-Identifier: Apache-2.0
"""Flows for who-has questions: ARP requests and neighbour solicitations.

The store knows who holds an address, so questions need not travel.  A local port's
ARP request for a known address is answered by flow.  Its neighbour solicitation is
not flooded but addressed to the owner, who answers (an answer by flow would need
actions that only the userspace datapath has).  The owner itself never gets an
answer for its own address, or duplicate address detection (RFC 5227, RFC 4862)
would fail.  Questions from outside reach the local owner only.
"""

from __future__ import annotations

from agent.core import openflow
from agent.core.openflow import match
from agent.l2.pipeline import PORT, SCRATCH, Goto, Table, add
from agent.l2.segments import Segment

ARP_REQUEST = 1
ARP_REPLY = 2
NEIGHBOR_SOLICITATION = 135

TO_LOCAL = Goto(Table.LOCAL)
TO_SERVICES = Goto(Table.SERVICES)
TO_REPLY = Goto(Table.NEIGHBOR_REPLY)
TO_DELIVER = Goto(Table.DELIVER)

EXEMPT = 110
KNOWN = 100
OTHER = 0


_SCRATCH = f"NXM_NX_REG{SCRATCH}"
# The owner's MAC address is in arp_tha, which means nothing in a request.
_REPLY = (
    openflow.move("NXM_OF_ETH_SRC", "NXM_OF_ETH_DST"),
    openflow.move("NXM_NX_ARP_THA", "NXM_OF_ETH_SRC"),
    openflow.move("NXM_NX_ARP_SHA", "NXM_NX_ARP_THA"),
    openflow.move("NXM_OF_ETH_SRC", "NXM_NX_ARP_SHA"),
    openflow.move("NXM_OF_ARP_SPA", _SCRATCH),
    openflow.move("NXM_OF_ARP_TPA", "NXM_OF_ARP_SPA"),
    openflow.move(_SCRATCH, "NXM_OF_ARP_TPA"),
    openflow.set_field(str(ARP_REPLY), "arp_op"),
    openflow.IN_PORT,
)


def add_fixed(flows: dict[str, str]) -> None:
    """Add what is the same on every host."""
    add(flows, Table.NEIGHBOR, OTHER, "", TO_SERVICES)
    add(flows, Table.NEIGHBOR_IN, OTHER, "", TO_LOCAL)
    add(flows, Table.NEIGHBOR_REPLY, KNOWN, match("arp", arp_op=ARP_REQUEST), *_REPLY)
    add(flows, Table.NEIGHBOR_REPLY, OTHER, "")


def add_reply_to(flows: dict[str, str], ofport: int, alias: str, mac: str) -> None:
    """Answer the port with *mac* that asks under the MAC address *alias*, which it does not know."""
    back = (openflow.set_field(mac, "eth_dst"), openflow.set_field(mac, "arp_tha"))
    request = match("arp", in_port=ofport, dl_src=alias, arp_op=ARP_REQUEST)
    add(flows, Table.NEIGHBOR_REPLY, EXEMPT, request, *_REPLY[:-1], *back, openflow.IN_PORT)


def add_known(flows: dict[str, str], segment: Segment, mac: str, address: str) -> None:
    """Answer local ports that ask for *address*, which *mac* holds."""
    if ":" in address:
        redirect = openflow.set_field(mac, "eth_dst")
        add(flows, Table.NEIGHBOR, KNOWN, _solicitation(segment, address), redirect, TO_LOCAL)
    else:
        answer = openflow.set_field(mac, "arp_tha")
        add(flows, Table.NEIGHBOR, KNOWN, _request(segment, address), answer, TO_REPLY)


def add_exemption(flows: dict[str, str], ofport: int, cidr: str) -> None:
    """Let the port's own questions for an address that it may hold travel as they are."""
    prefix = openflow.prefix_text(cidr)
    if ":" in cidr:
        text = match("icmp6", in_port=ofport, icmp_type=NEIGHBOR_SOLICITATION, icmp_code=0, nd_target=prefix)
    else:
        text = match("arp", in_port=ofport, arp_tpa=prefix, arp_op=ARP_REQUEST)
    add(flows, Table.NEIGHBOR, EXEMPT, text, TO_SERVICES)


def add_local_owner(flows: dict[str, str], segment: Segment, ofport: int, address: str) -> None:
    """Bring questions from outside for *address* to the port that holds it, and to no other."""
    text = _solicitation(segment, address) if ":" in address else _request(segment, address)
    add(flows, Table.NEIGHBOR_IN, KNOWN, text, openflow.set_register(PORT, ofport), TO_DELIVER)


def add_foreign_owner(flows: dict[str, str], segment: Segment, address: str) -> None:
    """Drop questions from a physical network for *address*: its holder is on another host and hears them there.

    A gratuitous request is an announcement and passes: whoever had the address
    before may have had another MAC address.
    """
    if ":" in address:
        add(flows, Table.NEIGHBOR_IN, KNOWN, _solicitation(segment, address))
        return
    announcement = match("arp", metadata=segment.number, arp_spa=address, arp_tpa=address, arp_op=ARP_REQUEST)
    add(flows, Table.NEIGHBOR_IN, EXEMPT, announcement, TO_LOCAL)
    add(flows, Table.NEIGHBOR_IN, KNOWN, _request(segment, address))


def _request(segment: Segment, address: str) -> str:
    return match("arp", metadata=segment.number, arp_tpa=address, arp_op=ARP_REQUEST)


def _solicitation(segment: Segment, address: str) -> str:
    return match(
        "icmp6",
        metadata=segment.number,
        icmp_type=NEIGHBOR_SOLICITATION,
        icmp_code=0,
        nd_target=openflow.ipv6_text(address),
    )
