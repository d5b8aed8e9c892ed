# SPDX-License-Identifier: Apache-2.0
"""Packets that instances and others send, good and bad, made with scapy.

``source`` and ``target`` are port numbers of a world or MAC addresses.
"""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from agent.core import service_identity
from tests.golden.l2_world import mac

BROADCAST = "ff:ff:ff:ff:ff:ff"
NOBODY = "fa:16:3e:ff:ff:ff"
ALL_NODES = "33:33:00:00:00:01"
VRRP = "00:00:5e:00:01:05"


def link_local(number: int) -> str:
    """Return the link-local address of port *number*."""
    return service_identity.link_local(mac(number))


def ether(source: int | str, target: int | str) -> Packet:
    """Return an Ethernet header."""
    return Ether(src=_mac(source), dst=_mac(target))


def _mac(who: int | str) -> str:
    return mac(who) if isinstance(who, int) else who


def ping(source: int | str, target: int | str, src: str = "10.0.0.1", dst: str = "10.0.0.99") -> Packet:
    """Return an echo request."""
    return ether(source, target) / IP(src=src, dst=dst) / ICMP()


def ping6(source: int | str, target: int | str, src: str = "2001:db8::1", dst: str = "2001:db8::99") -> Packet:
    """Return an echo request."""
    return ether(source, target) / IPv6(src=src, dst=dst) / ICMPv6EchoRequest()


def who_has(
    source: int | str, address: str, spa: str = "10.0.0.1", sha: str | None = None, target: int | str = BROADCAST
) -> Packet:
    """Return an ARP request."""
    return ether(source, target) / ARP(op=1, hwsrc=sha or _mac(source), psrc=spa, pdst=address)


def is_at(source: int | str, spa: str, sha: str | None = None) -> Packet:
    """Return an ARP reply to everybody."""
    return ether(source, BROADCAST) / ARP(op=2, hwsrc=sha or _mac(source), psrc=spa, pdst="10.0.0.99")


def solicit(
    source: int | str, address: str, src: str = "2001:db8::1", sll: str | None = None, target: int | str | None = None
) -> Packet:
    """Return a neighbour solicitation."""
    tail = bytes.fromhex("".join(f"{int(word or '0', 16):04x}" for word in address.split(":")[-2:]))[-3:]
    group = "33:33:ff:" + ":".join(f"{byte:02x}" for byte in tail)
    packet = ether(source, target or group) / IPv6(src=src, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=address)
    return packet / ICMPv6NDOptSrcLLAddr(lladdr=sll) if sll else packet


def advertise(
    source: int | str, address: str, src: str = "2001:db8::1", tll: str | None = None, target: int | str = ALL_NODES
) -> Packet:
    """Return a neighbour advertisement."""
    packet = ether(source, target) / IPv6(src=src, dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=address, O=1)
    return packet / ICMPv6NDOptDstLLAddr(lladdr=tll) if tll else packet


def twice_solicit(source: int, address: str, sll: str) -> Packet:
    """Return a solicitation whose source link-layer address option is there twice, the second one true."""
    return solicit(source, address, sll=sll) / ICMPv6NDOptSrcLLAddr(lladdr=mac(source))


def router_advertisement(source: int) -> Packet:
    """Return an announcement that the sender routes."""
    return ether(source, ALL_NODES) / IPv6(src=link_local(source), dst="ff02::1", hlim=255) / ICMPv6ND_RA()


def router_solicitation(source: int, src: str) -> Packet:
    """Return a question for routers."""
    return ether(source, "33:33:00:00:00:02") / IPv6(src=src, dst="ff02::2", hlim=255) / ICMPv6ND_RS()


def redirect(source: int, target: int) -> Packet:
    """Return a claim that another way is better."""
    header = IPv6(src=link_local(source), dst="2001:db8::2", hlim=255)
    return ether(source, target) / header / ICMPv6ND_Redirect(tgt=link_local(source), dst="2001:db8::9")


def listener_report(source: int, src: str = "::") -> Packet:
    """Return an MLDv2 report, with the router alert option that it must have."""
    header = IPv6(src=src, dst="ff02::16", hlim=1) / IPv6ExtHdrHopByHop(options=[RouterAlert()])
    return ether(source, "33:33:00:00:00:16") / header / ICMPv6MLReport2()


def datagram(
    source: int | str, sport: int, dport: int, src: str, dst: str = "255.255.255.255", target: int | str = BROADCAST
) -> Packet:
    """Return a UDP packet."""
    header = IPv6(src=src, dst=dst) if ":" in src else IP(src=src, dst=dst)
    return ether(source, target) / header / UDP(sport=sport, dport=dport) / Raw(b"x" * 8)


def tagged(packet: Packet | bytes, *tags: tuple[int, int]) -> bytes:
    """Return *packet* with VLAN headers (Ethernet type, VID), the outer one first."""
    frame = bytes(packet)
    headers = b"".join(kind.to_bytes(2) + vid.to_bytes(2) for kind, vid in tags)
    return frame[:12] + headers + frame[12:]


def of_type(source: int | str, target: int | str, ether_type: int) -> bytes:
    """Return a frame of some Ethernet type."""
    return bytes(Ether(src=_mac(source), dst=_mac(target), type=ether_type) / Raw(bytes(46)))
