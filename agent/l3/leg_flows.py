# SPDX-License-Identifier: Apache-2.0
"""Flows of a router's legs: how packets come to the right host and leg, and what may leave a leg.

Of a centralised router only the active gateway's legs have flows; elsewhere frames to its
interfaces go through the tunnel to that host.  A distributed router's interfaces speak on
every host that has it; what leaves the router's networks (table ROUTER) goes through the
tunnel to the active gateway host, whose leg takes it as if an instance there had sent it.

On a physical network a distributed router's MAC address never shows, because switches
would see it in many places: each host puts one of its own in place of it, and takes what
comes to that.  Neighbor advertisements name the router's all the same, which actions of
the kernel's datapath cannot change: who does not get it from the store floods to it, and
the active gateway takes that.

A leg hears little: what is for its MAC address, ARP, and neighbor discovery.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.core import naming, openflow
from agent.core.model import Host, HostName, NetworkType
from agent.core.openflow import UNTAGGED, match
from agent.core.service_identity import link_local
from agent.l2 import neighbors
from agent.l2.pipeline import CHUNK, PORT, Action, Goto, Resubmit, Table, add
from agent.l2.segments import Segment
from agent.l3.local_router import Away, Leg

TO_FROM_ROUTER = Goto(Table.FROM_ROUTER)
TO_NEIGHBOR = Goto(Table.NEIGHBOR)
TO_LOCAL = Goto(Table.LOCAL)
TO_DELIVER = Goto(Table.DELIVER)
TO_FLOOD_REMOTE = Goto(Table.FLOOD_REMOTE)
LOCAL = Resubmit(Table.LOCAL)

ENTRY = 100
OWN_ADDRESS, PASSED_BACK = 100, 110
KNOWN = 100
OWN_ECHO = 110  # in DELIVER
ANNOUNCEMENT = 120  # in FROM_ROUTER, above whatever writes another MAC address
FORGED, ARP_FROM_OTHER_HOST, FROM_OTHER_HOST = 120, 115, 90  # in NEIGHBOR_IN
ARP_FROM_LEG, FROM_LEG = 30, 20  # in REMOTE, above what others send outside
# In ROUTER: answers to the router's own questions, who has a floating IP here, then by the
# length of the prefix (0..128), then all that is left.
ANSWER = 250
FLOATING = 240
PREFIX = 100
ELSEWHERE = 50

NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT = 135, 136
_ARP_REQUEST, _ARP_REPLY = 1, 2
_LINK_LOCALS = "fe80::/10"
_BROADCAST = "ff:ff:ff:ff:ff:ff"


def addresses_of(leg: Leg) -> list[str]:
    """Return what a leg answers for on its network; with IPv6 its link-local address, too."""
    own = [address.address for address in leg.addresses]
    return [*own, link_local(leg.mac)] if leg.has_family(ipv6=True) else own


def add_entry(flows: dict[str, str], leg: Leg, ofport: int) -> str:
    """Take what a leg sends; return the key of the flow, which alone opens the leg."""
    marks = (openflow.set_metadata(leg.segment.number), TO_FROM_ROUTER)
    return add(flows, Table.CLASSIFY, ENTRY, match(in_port=ofport, vlan_tci=UNTAGGED), *marks)


def add_speaker(flows: dict[str, str], leg: Leg, ofport: int) -> None:
    """Let a leg send what it likes, and its announcements pass the answers for its addresses."""
    add(flows, Table.FROM_ROUTER, ENTRY, match(in_port=ofport), TO_NEIGHBOR)
    for address in addresses_of(leg):
        neighbors.add_exemption(flows, ofport, address)


def add_passing(flows: dict[str, str], leg: Leg, ofport: int, mac: str) -> None:
    """Let a leg send under *mac*, and take what comes to that; only what is announced is under its own.

    Nobody uses *mac* but for another gateway of the router: ARP goes on naming the leg's own.
    """
    add(flows, Table.FROM_ROUTER, ENTRY, match(in_port=ofport), openflow.set_field(mac, "eth_src"), TO_NEIGHBOR)
    announced = match(in_port=ofport, **{f"reg{openflow.ANNOUNCED}": 1})
    add(flows, Table.FROM_ROUTER, ANNOUNCEMENT, announced, TO_NEIGHBOR)
    to_leg = (openflow.set_field(leg.mac, "eth_dst"), openflow.set_register(PORT, ofport), TO_DELIVER)
    add(flows, Table.LOCAL, OWN_ADDRESS, match(reg0=1, metadata=leg.segment.number, dl_dst=mac), *to_leg)


def add_way_back(flows: dict[str, str], leg: Leg, mac: str, host: HostName) -> None:
    """Pass the IPv4 that comes from outside on to *host*, which knows the connections of the gateway's own address.

    It goes back under *mac* to the switch that it came from, which learns nothing new of who has sent it.  What is for
    floating IPs goes along, though it need not: a match on the destination would give the cached flows of one MAC
    address two masks, those that the bridge outside drops another than those that come here.  Of flows that overlap
    Open vSwitch 3.1 (userspace datapath) changes the wrong one, and goes on dropping what it counts as delivered.
    """
    if leg.segment.uplink is None:
        return
    vid = leg.segment.network.segmentation_id or 0
    tag = openflow.push_vlan(vid) if leg.segment.network.type is NetworkType.VLAN else ()
    target = openflow.set_field(naming.host_mac(host, leg.interface.port), "eth_dst")
    if leg.has_family(ipv6=False):
        text = match("ip", reg0=1, metadata=leg.segment.number, dl_dst=leg.mac)
        under = openflow.set_field(mac, "eth_src")
        add(flows, Table.LOCAL, PASSED_BACK, text, target, under, *tag, openflow.IN_PORT)


def add_delivery(flows: dict[str, str], leg: Leg, ofport: int, *, hears_itself: bool) -> None:
    """Let a leg hear what it must; *hears_itself* tells that the same leg on other hosts is somebody else to it."""
    heard = (
        match(reg1=ofport, vlan_tci=UNTAGGED, dl_dst=leg.mac),
        match("arp", reg1=ofport, vlan_tci=UNTAGGED),
        match("icmp6", reg1=ofport, vlan_tci=UNTAGGED, icmp_type=NEIGHBOR_SOLICITATION, icmp_code=0),
        match("icmp6", reg1=ofport, vlan_tci=UNTAGGED, icmp_type=NEIGHBOR_ADVERTISEMENT, icmp_code=0),
    )
    for text in heard:
        add(flows, Table.DELIVER, ENTRY, text, openflow.output(ofport))
    if not hears_itself:
        # The same router on another host asked: this one must not take it for somebody with its address.
        add(flows, Table.DELIVER, OWN_ECHO, match(reg1=ofport, dl_src=leg.mac))


def add_answers(flows: dict[str, str], leg: Leg) -> None:
    """Answer local ports that ask for a leg's addresses, wherever the leg is."""
    for address in addresses_of(leg):
        neighbors.add_known(flows, leg.segment, leg.mac, address)


def add_owner(flows: dict[str, str], leg: Leg, ofport: int, *, from_others_only: bool = False) -> None:
    """Bring to a leg what is for its MAC address, and questions from outside for its addresses."""
    text = match(reg0=1 if from_others_only else None, metadata=leg.segment.number, dl_dst=leg.mac)
    add(flows, Table.LOCAL, OWN_ADDRESS, text, openflow.set_register(PORT, ofport), TO_DELIVER)
    for address in addresses_of(leg):
        neighbors.add_local_owner(flows, leg.segment, ofport, address)


def add_local_owner(flows: dict[str, str], leg: Leg, ofport: int) -> None:
    """Bring to a leg what local ports send to its MAC address, and answers to it from other hosts.

    Who asked for an address that the store does not know cannot be told from the answer:
    all hosts that have the router hear it, and only who asked takes it.
    """
    to_leg = (openflow.set_register(PORT, ofport), TO_DELIVER)
    number = leg.segment.number
    add(flows, Table.LOCAL, OWN_ADDRESS, match(reg0=0, metadata=number, dl_dst=leg.mac), *to_leg)
    for protocol, fields in _ANSWERS:
        text = match(protocol, reg0=1, metadata=number, dl_dst=leg.mac, **fields)
        add(flows, Table.LOCAL, OWN_ADDRESS, text, *to_leg)


_ANSWERS: tuple[tuple[str, dict[str, int | str]], ...] = (
    ("arp", {"arp_op": _ARP_REPLY}),
    ("icmp6", {"icmp_type": NEIGHBOR_ADVERTISEMENT, "icmp_code": 0}),
)


def add_shared_answers(flows: dict[str, str], leg: Leg) -> None:
    """Send answers of local ports to the router's questions to all hosts that may have asked."""
    segment = leg.segment
    if segment.network.type.is_physical and (way := _exit(segment)):
        answer = match("arp", metadata=segment.number, dl_dst=leg.mac, arp_op=_ARP_REPLY)
        add(flows, Table.ROUTER, ANSWER, answer, LOCAL, openflow.set_field(_BROADCAST, "eth_dst"), *way)
    if not segment.network.type.is_tunnel or segment.uplink is None:
        return
    flood = (
        LOCAL,
        openflow.set_register(CHUNK, 0),
        openflow.set_tunnel_id(segment.network.segmentation_id or 0),
        TO_FLOOD_REMOTE,
    )
    for protocol, fields in _ANSWERS:
        text = match(protocol, metadata=segment.number, dl_dst=leg.mac, **fields)
        add(flows, Table.ROUTER, ANSWER, text, *flood)


def tunnel_to(segment: Segment, host: Host) -> tuple[str, ...]:
    """Return the actions that bring a frame to *host*, none if no tunnel leads there."""
    network = segment.network
    if not network.type.is_tunnel or segment.uplink is None or network.type not in host.encapsulations:
        return ()
    return (
        openflow.set_tunnel_id(network.segmentation_id or 0),
        openflow.set_tunnel_destination(host.tunnel_address or ""),
        openflow.output(segment.uplink),
    )


def _exit(segment: Segment) -> tuple[str, ...]:
    """Return the actions that bring a frame out to a physical network, none if there is no way."""
    if segment.uplink is None:
        return ()
    vid = segment.network.segmentation_id or 0
    tag = openflow.push_vlan(vid) if segment.network.type is NetworkType.VLAN else ()
    return (*tag, openflow.output(segment.uplink))


def add_host_mac(flows: dict[str, str], leg: Leg, ofport: int, own: HostName, *, active: bool) -> None:
    """Have a distributed router's leg speak on a physical network under the MAC address that *own* has for it."""
    number, mac = leg.segment.number, naming.host_mac(own, leg.interface.port)
    to_leg = (openflow.set_field(leg.mac, "eth_dst"), openflow.set_register(PORT, ofport), TO_DELIVER)
    add(flows, Table.LOCAL, OWN_ADDRESS, match(reg0=None if active else 0, metadata=number, dl_dst=leg.mac), *to_leg)
    add(flows, Table.LOCAL, OWN_ADDRESS, match(reg0=1, metadata=number, dl_dst=mac), *to_leg)
    # Nobody brings the router's own from outside.
    add(flows, Table.NEIGHBOR_IN, FORGED, match(metadata=number, dl_src=leg.mac))
    for address in addresses_of(leg):
        if not active:
            neighbors.add_foreign_owner(flows, leg.segment, address)
        elif ":" in address:
            neighbors.add_local_owner(flows, leg.segment, ofport, address)
        else:
            request = match("arp", metadata=number, arp_tpa=address, arp_op=_ARP_REQUEST)
            add(flows, Table.NEIGHBOR_IN, KNOWN, request, *to_leg)
    way, as_host = _exit(leg.segment), openflow.set_field(mac, "eth_src")
    if way:
        add(flows, Table.REMOTE, FROM_LEG, match(reg0=0, metadata=number, dl_src=leg.mac), as_host, *way)
        arp = match("arp", reg0=0, metadata=number, dl_src=leg.mac)
        add(flows, Table.REMOTE, ARP_FROM_LEG, arp, as_host, openflow.set_field(mac, "arp_sha"), *way)


def add_other_hosts(flows: dict[str, str], leg: Leg, hosts: Iterable[HostName]) -> None:
    """Give what other hosts route to instances here the router's own MAC address back.

    In ARP, too: instances here would else send to the other host what this one is to route.
    """
    restored = openflow.set_field(leg.mac, "eth_src")
    for host in hosts:
        mac = naming.host_mac(host, leg.interface.port)
        text = match(metadata=leg.segment.number, dl_src=mac)
        add(flows, Table.NEIGHBOR_IN, FROM_OTHER_HOST, text, restored, TO_LOCAL)
        arp = match("arp", metadata=leg.segment.number, dl_src=mac)
        in_arp = openflow.set_field(leg.mac, "arp_sha")
        add(flows, Table.NEIGHBOR_IN, ARP_FROM_OTHER_HOST, arp, restored, in_arp, TO_LOCAL)


def _to_gateway(leg: Leg, away: Away | None) -> tuple[Action, ...]:
    """Return the actions that bring a frame for a leg to the active gateway host, none if there is no way."""
    if away is None:
        return ()
    if leg.segment.network.type.is_physical:
        way = _exit(leg.segment)
        target = openflow.set_field(naming.host_mac(away.name, leg.interface.port), "eth_dst")
        return (target, *way) if way else ()
    return () if away.host is None else tunnel_to(leg.segment, away.host)


def add_way(flows: dict[str, str], leg: Leg, away: Away | None) -> None:
    """Send frames to a leg's MAC address to the host where it is; on physical networks they find it by themselves."""
    if away is None or away.host is None:
        return
    way = tunnel_to(leg.segment, away.host)
    if way:
        text = match(reg0=0, metadata=leg.segment.number, dl_dst=leg.mac)
        add(flows, Table.REMOTE, KNOWN, text, *way)


def add_choice(
    flows: dict[str, str], leg: Leg, inside: Iterable[str], outside: Iterable[str], away: Away | None
) -> None:
    """Choose who routes what local ports send to a distributed router: this host, or the active gateway host.

    *inside* are the prefixes that the router reaches by its interfaces, *outside* longer
    ones in them that it reaches by its gateway.  With *away* None what goes outside is
    dropped: another host would have to translate it.
    """
    detour = _to_gateway(leg, away)
    number, mac = leg.segment.number, leg.mac
    for protocol in ("ip", "ipv6"):
        add(flows, Table.ROUTER, ELSEWHERE, match(protocol, metadata=number, dl_dst=mac), *detour)
    for prefixes, actions in ((outside, detour), (inside, (TO_LOCAL,))):
        for prefix in prefixes:
            _add_prefix(flows, leg, prefix, actions)
    _add_prefix(flows, leg, _LINK_LOCALS, (TO_LOCAL,))


def _add_prefix(flows: dict[str, str], leg: Leg, prefix: str, actions: tuple[Action, ...]) -> None:
    text = openflow.prefix_text(prefix)
    fields: dict[str, int | str | None] = {"metadata": leg.segment.number, "dl_dst": leg.mac}
    ipv6 = ":" in prefix
    fields["ipv6_dst" if ipv6 else "nw_dst"] = text
    priority = PREFIX + int(prefix.partition("/")[2])
    add(flows, Table.ROUTER, priority, match("ipv6" if ipv6 else "ip", **fields), *actions)
