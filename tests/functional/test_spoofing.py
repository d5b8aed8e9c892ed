# SPDX-License-Identifier: Apache-2.0
"""What an instance may not send, and what must not come to it: frames made with scapy, on real switches.

After the frames in question each sender sends a harmless one, the fence: when that has
arrived, what was sent before it has arrived or never will.  (Sent together they may
overtake each other: of a batch Open vSwitch forwards first what it sees for the first
time.)
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6MLReport,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from agent.sandbox.layout import UNDERLAY
from agent.sandbox.namespaces import Namespaces
from tests.functional.lab import HERE, Lab

DOCUMENT = """
networks:
  blue: {type: vxlan, segmentation_id: 5001}
  lan:  {type: vlan, physnet: physnet1, segmentation_id: 100}
subnets:
  blue4: {network: blue, cidr: 10.0.0.0/24}
  blue6: {network: blue, cidr: "2001:db8::/64", ipv6_mode: slaac}
  lan4:  {network: lan, cidr: 10.0.0.0/24}
ports:
  sender:  {network: blue, host: host1, mac_address: "02:00:00:00:00:01", fixed_ips: [10.0.0.11, {subnet: blue6}]}
  free:    {network: blue, host: host1, mac_address: "02:00:00:00:00:02", fixed_ips: [10.0.0.12, {subnet: blue6}],
            port_security: false}
  pairs:   {network: blue, host: host1, mac_address: "02:00:00:00:00:03", fixed_ips: [10.0.0.13],
            allowed_address_pairs: ["10.0.0.100", "10.9.0.0/16 02:00:00:00:99:99"]}
  blank:   {network: blue, host: host1, mac_address: "02:00:00:00:00:04", fixed_ips: []}
  # Who receives takes what comes: with port security they would get no foreign EtherTypes.
  near:    {network: blue, host: host1, mac_address: "02:00:00:00:00:05", fixed_ips: [10.0.0.15, {subnet: blue6}],
            port_security: false}
  far:     {network: blue, host: host2, mac_address: "02:00:00:00:00:06", fixed_ips: [10.0.0.16, {subnet: blue6}],
            port_security: false}
  lan1:    {network: lan, host: host1, mac_address: "02:00:00:00:01:01", fixed_ips: [10.0.0.21]}
  lan2:    {network: lan, host: host2, mac_address: "02:00:00:00:01:02", fixed_ips: [10.0.0.22]}
"""
MACS = {
    "sender": "02:00:00:00:00:01",
    "free": "02:00:00:00:00:02",
    "pairs": "02:00:00:00:00:03",
    "blank": "02:00:00:00:00:04",
    "near": "02:00:00:00:00:05",
    "far": "02:00:00:00:00:06",
    "lan1": "02:00:00:00:01:01",
    "lan2": "02:00:00:00:01:02",
}
IPS = {"sender": "10.0.0.11", "free": "10.0.0.12", "pairs": "10.0.0.13", "near": "10.0.0.15", "far": "10.0.0.16"}
FENCE = {**IPS, "blank": "10.0.0.99"}  # from where a sender sends what may pass
OTHER = "02:00:00:00:66:66"
BROADCAST = "ff:ff:ff:ff:ff:ff"
_numbers = itertools.count(1)


def slaac(port: str) -> str:
    return f"2001:db8::ff:fe00:{int(MACS[port][-2:], 16):x}"


def link_local(port: str) -> str:
    return f"fe80::ff:fe00:{int(MACS[port][-2:], 16):x}"


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(2)
    lab.bring_up(DOCUMENT)
    for source, target in (("sender", "far"), ("near", "far"), ("lan1", "lan2")):
        lab.assert_connection(source, lab.address(target))
    return lab


def mark() -> Raw:
    """Return a payload that no other frame has."""
    return Raw(f"mark-{next(_numbers):06}-".encode().ljust(32, b"."))


SENDER, FAR = MACS["sender"], MACS["far"]
OWN4, OWN6, OWN_LINK = IPS["sender"], slaac("sender"), link_local("sender")
TO_ALL, TO_FAR = Ether(src=SENDER, dst=BROADCAST), Ether(src=SENDER, dst=FAR)
TO_NODES = Ether(src=SENDER, dst="33:33:00:00:00:01")
DISCARD = UDP(sport=4000, dport=9)

TAGGED = {
    "a priority tag (VLAN 0)": (Dot1Q(vlan=0, prio=3),),
    "a VLAN tag": (Dot1Q(vlan=100),),
    "two VLAN tags": (Dot1Q(vlan=100), Dot1Q(vlan=5)),
    "two priority tags": (Dot1Q(vlan=0), Dot1Q(vlan=0)),
    "a service tag (802.1ad)": (Dot1AD(vlan=7),),
    "a service and a VLAN tag": (Dot1AD(vlan=0), Dot1Q(vlan=5)),
}


def tagged(mac: str, address: str, tags: Sequence[Packet]) -> Packet:
    frame = Ether(src=mac, dst=BROADCAST)
    for tag in tags:
        frame /= tag
    return frame / IP(src=address, dst="10.0.0.255") / DISCARD / mark()


# Nothing may follow a neighbour discovery message: it would be read as one more option.
FORBIDDEN = {
    "another MAC address": Ether(src=OTHER, dst=BROADCAST) / IP(src=OWN4, dst="10.0.0.255") / DISCARD / mark(),
    "the IPv4 address of another port": TO_FAR / IP(src=IPS["near"], dst=IPS["far"]) / DISCARD / mark(),
    "an IPv4 address of nobody": TO_FAR / IP(src="192.0.2.1", dst=IPS["far"]) / ICMP() / mark(),
    "no IPv4 address without being DHCP": TO_ALL / IP(src="0.0.0.0", dst="255.255.255.255") / DISCARD / mark(),
    "a DHCP server's answer": TO_ALL
    / IP(src=OWN4, dst="255.255.255.255")
    / UDP(sport=67, dport=68)
    / BOOTP(op=2)
    / DHCP(options=[("message-type", "offer"), "end"])
    / mark(),
    "a DHCP server's answer in a first fragment": TO_ALL
    / IP(src=OWN4, dst="255.255.255.255", flags="MF")
    / UDP(sport=67, dport=68)
    / BOOTP(op=2)
    / DHCP(options=[("message-type", "offer"), "end"])
    / mark(),
    "a DHCP server's answer from another port": TO_ALL
    / IP(src=OWN4, dst="255.255.255.255")
    / UDP(sport=1067, dport=68)
    / mark(),
    "a DHCPv6 server's answer in a first fragment": TO_FAR
    / IPv6(src=OWN6, dst=slaac("far"))
    / IPv6ExtHdrFragment(m=1)
    / UDP(sport=547, dport=546)
    / mark(),
    "the IPv6 address of another port": TO_FAR / IPv6(src=slaac("near"), dst=slaac("far")) / DISCARD / mark(),
    "another's link-local address": TO_FAR / IPv6(src=link_local("near"), dst=slaac("far")) / DISCARD / mark(),
    "a DHCPv6 server's answer": TO_FAR / IPv6(src=OWN6, dst=slaac("far")) / UDP(sport=547, dport=546) / mark(),
    "ARP for another's address": TO_ALL / ARP(op=2, hwsrc=SENDER, psrc=IPS["near"], pdst="10.0.0.77") / mark(),
    "ARP with another's MAC address": TO_ALL / ARP(op=2, hwsrc=OTHER, psrc=OWN4, pdst="10.0.0.77") / mark(),
    "a gratuitous request for the gateway": TO_ALL / ARP(hwsrc=SENDER, psrc="10.0.0.1", pdst="10.0.0.1") / mark(),
    "a neighbour advertisement for another's address": TO_FAR
    / IPv6(src=OWN6, dst=slaac("far"), hlim=255)
    / ICMPv6ND_NA(tgt=slaac("near"), O=1)
    / ICMPv6NDOptDstLLAddr(lladdr=SENDER),
    "a neighbour advertisement with another's MAC": TO_FAR
    / IPv6(src=OWN6, dst=slaac("far"), hlim=255)
    / ICMPv6ND_NA(tgt=OWN6, O=1)
    / ICMPv6NDOptDstLLAddr(lladdr=OTHER),
    "a router advertisement": TO_NODES / IPv6(src=OWN_LINK, dst="ff02::1", hlim=255) / ICMPv6ND_RA(reachabletime=7),
    "a redirect": TO_FAR
    / IPv6(src=OWN_LINK, dst=slaac("far"), hlim=255)
    / ICMPv6ND_Redirect(tgt=OWN_LINK, dst="2001:db8:9::1"),
    "a foreign EtherType": Ether(src=SENDER, dst=BROADCAST, type=0x88B5) / mark(),
    "the EtherType of LLDP": Ether(src=SENDER, dst=BROADCAST, type=0x88CC) / mark(),
}


ALLOWED = {
    "its own IPv4 address": TO_ALL / IP(src=OWN4, dst="10.0.0.255") / DISCARD / mark(),
    "its own IPv6 address": TO_NODES / IPv6(src=OWN6, dst="ff02::1") / DISCARD / mark(),
    "its link-local address": TO_NODES / IPv6(src=OWN_LINK, dst="ff02::1") / DISCARD / mark(),
    "a gratuitous request for its own address": TO_ALL / ARP(hwsrc=SENDER, psrc=OWN4, pdst=OWN4) / mark(),
    "a probe for its own address": TO_ALL / ARP(hwsrc=SENDER, psrc="0.0.0.0", pdst=OWN4) / mark(),
    "a multicast listener report": Ether(src=SENDER, dst="33:33:00:00:00:16")
    / IPv6(src=OWN_LINK, dst="ff02::16", hlim=1)
    / IPv6ExtHdrHopByHop(options=[RouterAlert()])
    / ICMPv6MLReport(mladdr="ff02::1:ff00:1"),
}


def from_address(mac: str, address: str) -> Packet:
    return Ether(src=mac, dst=BROADCAST) / IP(src=address, dst="10.0.0.255") / DISCARD / mark()


PAIR_MAC = "02:00:00:00:99:99"
PAIRS = {  # (MAC, IPv4 address): is it a pair of the port?
    "its own MAC with the first pair": (MACS["pairs"], "10.0.0.100", True),
    "the second pair": (PAIR_MAC, "10.9.1.2", True),
    "its own MAC with the second pair's prefix": (MACS["pairs"], "10.9.1.2", False),
    "the second pair's MAC with the first pair": (PAIR_MAC, "10.0.0.100", False),
    "the second pair's MAC with its own address": (PAIR_MAC, "10.0.0.13", False),
    "an address of no pair": (MACS["pairs"], "10.0.0.101", False),
}
UNADDRESSED = {
    "any address": (MACS["blank"], "172.16.0.1", True),
    "another MAC": (OTHER, "172.16.0.1", False),
}

Case = tuple[str, str]  # sender, what it sends
FRAMES: dict[Case, Packet] = {
    **{(source, what): frame for source in ("sender", "free") for what, frame in FORBIDDEN.items()},
    **{
        (source, what): tagged(MACS[source], IPS[source], tags)
        for source in ("sender", "free")
        for what, tags in TAGGED.items()
    },
    **{("sender", what): frame for what, frame in ALLOWED.items()},
    **{("pairs", what): from_address(mac, address) for what, (mac, address, _) in PAIRS.items()},
    **{("blank", what): from_address(mac, address) for what, (mac, address, _) in UNADDRESSED.items()},
}


@pytest.fixture(scope="module")
def arrived(lab: Lab) -> dict[Case, bool]:
    """Send all frames; tell of each whether it arrived where it was addressed to (groups: on both hosts)."""
    answers = {}
    for source in ("sender", "free", "pairs", "blank"):
        frames = {case: bytes(frame) for case, frame in FRAMES.items() if case[0] == source}
        fence = bytes(
            Ether(src=MACS[source], dst=BROADCAST) / IP(src=FENCE[source], dst="10.0.0.255") / DISCARD / mark()
        )
        with lab.capture("near") as near, lab.capture("far") as far:
            lab.send(source, frames.values())
            lab.send(source, [fence])
            heard = [capture.until(fence.__eq__)[:-1] for capture in (near, far)]
        for case, frame in frames.items():
            # Its end is what is its own of a frame, also if a tag was taken off on the way.
            ends = [any(frame[-32:] in seen for seen in frames_heard) for frames_heard in heard]
            is_group = bool(frame[0] & 1)
            assert not is_group or ends[0] == ends[1], f"{case}: arrived on one host and not on the other"
            answers[case] = ends[1]
    return answers


@pytest.mark.parametrize("what", FORBIDDEN)
def test_port_security_drops(arrived: dict[Case, bool], what: str) -> None:
    assert not arrived["sender", what]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_without_port_security_the_same_passes(arrived: dict[Case, bool], what: str) -> None:
    """So it is port security that drops it, and not that the frame could not arrive anyway."""
    assert arrived["free", what]


@pytest.mark.parametrize("what", TAGGED)
@pytest.mark.parametrize("source", ["sender", "free"])
def test_tags_never_pass(arrived: dict[Case, bool], source: str, what: str) -> None:
    assert not arrived[source, what]


@pytest.mark.parametrize("what", ALLOWED)
def test_port_security_lets_pass(arrived: dict[Case, bool], what: str) -> None:
    assert arrived["sender", what]


@pytest.mark.parametrize("what", PAIRS)
def test_allowed_address_pairs_are_pairs(arrived: dict[Case, bool], what: str) -> None:
    assert arrived["pairs", what] is PAIRS[what][2]


@pytest.mark.parametrize("what", UNADDRESSED)
def test_an_unaddressed_port_may_use_any_address_but_only_its_own_mac(arrived: dict[Case, bool], what: str) -> None:
    assert arrived["blank", what] is UNADDRESSED[what][2]


def test_an_instance_cannot_break_into_a_vlan_with_a_tag(lab: Lab) -> None:
    """The tag of the network itself, sent from inside, does not pass either."""
    inner = IP(src="10.0.0.21", dst="10.0.0.22") / UDP() / mark()
    frame = bytes(Ether(src=MACS["lan1"], dst=MACS["lan2"]) / Dot1Q(vlan=100) / inner)
    fence = bytes(Ether(src=MACS["lan1"], dst=MACS["lan2"]) / IP(src="10.0.0.21", dst="10.0.0.22") / UDP() / mark())
    with lab.capture("lan2") as there:
        lab.send("lan1", [frame])
        lab.send("lan1", [fence])
        assert not any(frame[-32:] in seen for seen in there.until(lambda seen: seen == fence)[:-1])


def on_the_wire(lab: Lab, frames: Sequence[Packet], segment: str) -> None:
    """Send frames as somebody on the wires would: into *segment*, to all hosts."""
    wires = Namespaces(lab.sandbox.paths).enter(UNDERLAY)
    lines = "".join(f"{bytes(frame).hex()}\n" for frame in frames)
    program = [sys.executable, str(HERE / "frames.py"), "send", segment]
    subprocess.run([*wires, *program], input=lines, text=True, check=True)


def test_from_a_physical_network_only_its_vlan_arrives_and_without_inner_tags(lab: Lab) -> None:
    def frame(*tags: Packet) -> Packet:
        outside = Ether(src=OTHER, dst=MACS["lan1"])
        for tag in tags:
            outside /= tag
        return outside / IP(src="10.0.0.77", dst="10.0.0.21") / UDP() / mark()

    bad = [
        frame(),
        frame(Dot1Q(vlan=0)),
        frame(Dot1Q(vlan=101)),
        frame(Dot1Q(vlan=100), Dot1Q(vlan=5)),
        frame(Dot1Q(vlan=100), Dot1Q(vlan=0)),
        frame(Dot1Q(vlan=100), Dot1AD(vlan=5)),
    ]
    good = frame(Dot1Q(vlan=100))
    with lab.capture("lan1") as there:
        on_the_wire(lab, bad, "physnet1")
        on_the_wire(lab, [good], "physnet1")
        seen = there.until(lambda frame: frame[-32:] == bytes(good)[-32:])
    assert seen[-1] == bytes(good)[:12] + bytes(good)[16:]  # the tag is off
    marks = {bytes(frame)[-32:] for frame in bad}
    assert not [frame for frame in seen if frame[-32:] in marks]


def test_from_a_tunnel_only_known_hosts_and_known_networks_are_heard(lab: Lab) -> None:
    def tunnelled(outer: str, vni: int, *tags: Packet) -> Packet:
        inner = Ether(src=OTHER, dst=MACS["near"])
        for tag in tags:
            inner /= tag
        inner = inner / IP(src="10.0.0.77", dst="10.0.0.15") / UDP() / mark()
        phy = lab.output("host1", "cat", "/sys/class/net/br-phy/address").strip()
        outside = Ether(src=OTHER, dst=phy) / IP(src=outer, dst="198.18.0.1")
        return outside / UDP(sport=40000, dport=4789) / VXLAN(vni=vni) / inner

    bad = [
        tunnelled("198.18.9.9", 5001),
        tunnelled("198.18.0.2", 5002),
        tunnelled("198.18.0.2", 5001, Dot1Q(vlan=0)),
        tunnelled("198.18.0.2", 5001, Dot1Q(vlan=5)),
    ]
    good = tunnelled("198.18.0.2", 5001)
    with lab.capture("near") as there:
        on_the_wire(lab, bad, UNDERLAY)
        on_the_wire(lab, [good], UNDERLAY)
        seen = there.until(lambda frame: frame[-32:] == bytes(good)[-32:])
    marks = {bytes(frame)[-32:] for frame in bad}
    assert not [frame for frame in seen if frame[-32:] in marks]


def test_duplicate_address_detection_of_its_own_address_is_answered_by_nobody(lab: Lab) -> None:
    probe = Ether(src=SENDER, dst="33:33:ff:00:00:01") / IPv6(src="::", dst="ff02::1:ff00:1", hlim=255)
    fence = bytes(from_address(FAR, IPS["far"]))
    with lab.capture("sender") as here:
        lab.send("sender", [bytes(probe / ICMPv6ND_NS(tgt=OWN6))])
        lab.send("far", [fence])
        seen = here.until(lambda frame: frame == fence)
    assert not [frame for frame in seen if frame[12:14] == b"\x86\xdd" and Ether(frame).haslayer(ICMPv6ND_NA)]
