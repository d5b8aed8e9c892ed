# SPDX-License-Identifier: Apache-2.0
"""Frames that announce a port, read by somebody else's parser."""

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from agent.core.model import FixedIp, NetworkId, Port, PortId, SubnetId
from agent.l2.announce import address_frames, announcements

MAC = "fa:16:3e:00:00:01"


def port(*addresses):
    fixed = tuple(FixedIp(address, SubnetId("any")) for address in addresses)
    return Port(PortId("p"), "p", NetworkId("n"), MAC, fixed)


def test_ipv4_address_is_announced_by_a_request_for_itself():
    (frame,) = map(Ether, announcements(port("10.0.0.5")))
    assert (frame.src, frame.dst) == (MAC, "ff:ff:ff:ff:ff:ff")
    assert (frame[ARP].op, frame[ARP].hwsrc) == (1, MAC)
    assert frame[ARP].psrc == frame[ARP].pdst == "10.0.0.5"
    assert frame[ARP].hwdst == "00:00:00:00:00:00"


def test_ipv6_address_is_announced_to_all_nodes_and_overrides():
    (raw,) = announcements(port("2001:db8::5"))
    frame = Ether(raw)
    assert (frame.src, frame.dst) == (MAC, "33:33:00:00:00:01")
    assert (frame[IPv6].src, frame[IPv6].dst, frame[IPv6].hlim) == ("2001:db8::5", "ff02::1", 255)
    advertisement = frame[ICMPv6ND_NA]
    assert (advertisement.tgt, advertisement.O, advertisement.S, advertisement.R) == ("2001:db8::5", 1, 0, 0)
    assert frame[ICMPv6NDOptDstLLAddr].lladdr == MAC
    sent = advertisement.cksum
    del advertisement.cksum
    assert Ether(bytes(frame))[ICMPv6ND_NA].cksum == sent


def test_every_address_is_announced():
    assert len(announcements(port("10.0.0.5", "10.0.0.6", "2001:db8::5"))) == 3


def test_frames_are_not_shorter_than_ethernet_allows():
    assert all(len(frame) >= 60 for frame in announcements(port("10.0.0.5")))


def test_port_without_addresses_announces_its_mac_address():
    (frame,) = map(Ether, announcements(port()))
    assert (frame.src, frame.type) == (MAC, 0x8035)


def test_an_address_of_a_router_is_announced_as_one():
    (raw,) = address_frames(MAC, ["2001:db8::1"], router=True)
    assert (Ether(raw)[ICMPv6ND_NA].R, Ether(raw)[ICMPv6ND_NA].O) == (1, 1)
