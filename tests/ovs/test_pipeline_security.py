# SPDX-License-Identifier: Apache-2.0
"""What instances may and may not say (port security), asked on a real switch."""

import pytest

from tests.golden.l2_world import example_world, mac, underlay
from tests.ovs.pipeline_lab import Lab, running_switch
from tests.ovs.pipeline_packets import (
    ALL_NODES,
    BROADCAST,
    VRRP,
    advertise,
    datagram,
    is_at,
    link_local,
    listener_report,
    ping,
    ping6,
    redirect,
    router_advertisement,
    router_solicitation,
    solicit,
    twice_solicit,
    who_has,
)

NOWHERE: set[str] = set()
OTHER = "fa:16:3e:aa:aa:aa"
# Everybody on network blue, here and elsewhere, but for the sender.
BLUE = {"tap1", "tap2", "tap7", "tap8", "tap9", f"vxlan 5000 to {underlay(2)}", f"vxlan 5000 to {underlay(3)}"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with running_switch(tmp_path_factory.mktemp("security"), ports=15) as switch:
        yield Lab(switch, example_world())


# Port 1 has 10.0.0.1 and 2001:db8::1 and port security.
PASSES = [
    ("IPv4", 1, ping(1, 2), {"tap2"}),
    ("IPv6", 1, ping6(1, 2), {"tap2"}),
    ("link-local", 1, ping6(1, 2, src=link_local(1)), {"tap2"}),
    ("DHCP client", 1, datagram(1, 68, 67, "0.0.0.0"), BLUE - {"tap1"}),
    ("DHCP client that renews", 1, datagram(1, 68, 67, "10.0.0.1", "10.0.0.2", 2), {"tap2"}),
    ("DHCPv6 client", 1, datagram(1, 546, 547, link_local(1), "ff02::1:2", "33:33:00:01:00:02"), BLUE - {"tap1"}),
    ("ARP reply", 1, is_at(1, "10.0.0.1"), BLUE - {"tap1"}),
    ("detection of duplicates", 1, solicit(1, "2001:db8::1", src="::"), BLUE - {"tap1"}),
    ("detection of duplicates, link-local", 1, solicit(1, link_local(1), src="::"), BLUE - {"tap1"}),
    ("listener report", 1, listener_report(1), BLUE - {"tap1"}),
    ("listener report with an address", 1, listener_report(1, link_local(1)), BLUE - {"tap1"}),
    ("router solicitation", 1, router_solicitation(1, link_local(1)), BLUE - {"tap1"}),
    ("router solicitation without address", 1, router_solicitation(1, "::"), BLUE - {"tap1"}),
    ("solicitation", 1, solicit(1, "2001:db8::99", sll=mac(1)), BLUE - {"tap1"}),
    ("solicitation without option", 1, solicit(1, "2001:db8::99"), BLUE - {"tap1"}),
    ("advertisement", 1, advertise(1, "2001:db8::1", tll=mac(1)), BLUE - {"tap1"}),
    ("advertisement, unicast, no option", 1, advertise(1, "2001:db8::1", target=2), {"tap2"}),
    ("advertisement, link-local", 1, advertise(1, link_local(1), src=link_local(1), tll=mac(1)), BLUE - {"tap1"}),
]

DROPPED = [
    ("another MAC address", 1, ping(OTHER, 2)),
    ("a neighbour's MAC and IP address", 1, ping(2, 7, src="10.0.0.2")),
    ("another IPv4 address", 1, ping(1, 2, src="10.0.0.2")),
    ("another IPv6 address", 1, ping6(1, 2, src="2001:db8::2")),
    ("another link-local address", 1, ping6(1, 2, src=link_local(2))),
    ("no IPv4 address", 1, ping(1, 2, src="0.0.0.0")),
    ("no IPv6 address", 1, ping6(1, 2, src="::")),
    ("no IPv4 address, other ports", 1, datagram(1, 68, 53, "0.0.0.0")),
    ("no IPv4 address, not to all", 1, datagram(1, 68, 67, "0.0.0.0", "10.0.0.2", 2)),
    ("ARP: another Ethernet address", 1, who_has(OTHER, "10.0.0.2", sha=mac(1))),
    ("ARP: another hardware address", 1, who_has(1, "10.0.0.2", sha=OTHER)),
    ("ARP: another protocol address", 1, who_has(1, "10.0.0.99", spa="10.0.0.2")),
    ("ARP: a probe for another's address", 1, who_has(1, "10.0.0.2", spa="0.0.0.0")),
    ("ARP: a reply for another's address", 1, is_at(1, "10.0.0.2")),
    ("ARP: a reply with another hardware address", 1, is_at(1, "10.0.0.1", sha=OTHER)),
    ("ARP: a reply from no address", 1, is_at(1, "0.0.0.0")),
    ("ND: detection for another's address", 1, solicit(1, "2001:db8::2", src="::")),
    ("ND: detection that names a MAC address", 1, solicit(1, "2001:db8::1", src="::", sll=mac(1))),
    ("ND: solicitation with another MAC address", 1, solicit(1, "2001:db8::99", sll=OTHER)),
    ("ND: the option twice", 1, twice_solicit(1, "2001:db8::99", OTHER)),
    ("ND: advertisement for another's address", 1, advertise(1, "2001:db8::2", tll=mac(1))),
    ("ND: advertisement with another MAC address", 1, advertise(1, "2001:db8::1", tll=OTHER)),
    ("ND: advertisement from another address", 1, advertise(1, "2001:db8::1", src="2001:db8::2")),
    ("router advertisement", 1, router_advertisement(1)),
    ("redirect", 1, redirect(1, 2)),
    ("DHCP server", 1, datagram(1, 67, 68, "10.0.0.1", "10.0.0.2", 2)),
    ("DHCPv6 server", 1, datagram(1, 547, 546, "2001:db8::1", "2001:db8::2", 2)),
]

# Port 8 has no fixed IPs.
UNADDRESSED = [
    ("any IPv4 address", 8, ping(8, 2, src="10.7.7.7"), {"tap2"}),
    ("any IPv6 address", 8, ping6(8, 2, src="2001:db8:7::7"), {"tap2"}),
    ("another MAC address", 8, ping(OTHER, 2, src="10.7.7.7"), NOWHERE),
    ("ARP with any address", 8, is_at(8, "10.7.7.7"), BLUE - {"tap8"}),
    ("ARP with another MAC address", 8, is_at(8, "10.7.7.7", sha=OTHER), NOWHERE),
    ("ARP probe", 8, who_has(8, "10.7.7.7", spa="0.0.0.0"), BLUE - {"tap8"}),
    ("advertisement of any address", 8, advertise(8, "fd00::7", src="fd00::7", tll=mac(8)), BLUE - {"tap8"}),
    ("advertisement with another MAC address", 8, advertise(8, "fd00::7", src="fd00::7", tll=OTHER), NOWHERE),
    ("detection of duplicates", 8, solicit(8, "fd00::7", src="::"), BLUE - {"tap8"}),
    ("no address", 8, ping6(8, 2, src="::"), NOWHERE),
    ("router advertisement", 8, router_advertisement(8), NOWHERE),
    ("DHCP server", 8, datagram(8, 67, 68, "10.7.7.7", "10.0.0.2", 2), NOWHERE),
]

# Port 9 has 10.0.0.9, and pairs: 10.0.0.200, 10.9.0.0/16, 2001:db8::200 with its own
# MAC address; 10.0.0.201 and 2001:db8:9::/64 with a virtual router's.
PAIRS = [
    ("its fixed IP", 9, ping(9, 1, src="10.0.0.9"), {"tap1"}),
    ("an address", 9, ping(9, 1, src="10.0.0.200"), {"tap1"}),
    ("a prefix", 9, ping(9, 1, src="10.9.255.1"), {"tap1"}),
    ("outside of the prefix", 9, ping(9, 1, src="10.10.0.1"), NOWHERE),
    ("another MAC address", 9, ping(VRRP, 1, src="10.0.0.201"), {"tap1"}),
    ("its own MAC address with the other's IP address", 9, ping(9, 1, src="10.0.0.201"), NOWHERE),
    ("the other MAC address with its own IP address", 9, ping(VRRP, 1, src="10.0.0.9"), NOWHERE),
    ("IPv6", 9, ping6(9, 1, src="2001:db8::200"), {"tap1"}),
    ("IPv6 prefix, another MAC address", 9, ping6(VRRP, 1, src="2001:db8:9::7"), {"tap1"}),
    ("link-local of another MAC address", 9, ping6(VRRP, 1, src="fe80::200:5eff:fe00:105"), {"tap1"}),
    ("announcement", 9, who_has(9, "10.0.0.200", spa="10.0.0.200"), BLUE - {"tap9"}),
    ("announcement, another MAC address", 9, who_has(VRRP, "10.0.0.201", spa="10.0.0.201"), BLUE - {"tap9"}),
    ("probe", 9, who_has(9, "10.9.0.1", spa="0.0.0.0"), BLUE - {"tap9"}),
    ("advertisement", 9, advertise(VRRP, "2001:db8:9::7", src="2001:db8:9::7", tll=VRRP), BLUE - {"tap9"}),
    ("advertisement, MAC addresses mixed", 9, advertise(9, "2001:db8:9::7", src="2001:db8::200", tll=mac(9)), NOWHERE),
]

# Port 7 has port security off.
OFF = [
    ("any address", 7, ping(OTHER, 2, src="10.7.7.7"), {"tap2"}),
    ("any ARP", 7, is_at(OTHER, "10.0.0.2"), BLUE - {"tap7"}),
    ("any advertisement", 7, advertise(OTHER, "2001:db8::2", src="fd00::1"), BLUE - {"tap7"}),
    ("router advertisement", 7, router_advertisement(7), BLUE - {"tap7"}),
    ("DHCP server", 7, datagram(7, 67, 68, "10.7.7.7", "10.0.0.2", 2), {"tap2"}),
]


def named(cases):
    return [pytest.param(*case[1:], id=case[0]) for case in cases]


@pytest.mark.parametrize(("source", "packet", "expected"), named(PASSES))
def test_what_is_its_own_passes(lab, source, packet, expected):
    assert lab.send(source, packet) == expected


@pytest.mark.parametrize(("source", "packet"), named(DROPPED))
def test_what_is_not_its_own_is_dropped(lab, source, packet):
    assert lab.send(source, packet) == NOWHERE


@pytest.mark.parametrize(("source", "packet", "expected"), named(UNADDRESSED))
def test_port_without_fixed_ips(lab, source, packet, expected):
    assert lab.send(source, packet) == expected


@pytest.mark.parametrize(("source", "packet", "expected"), named(PAIRS))
def test_allowed_address_pairs(lab, source, packet, expected):
    assert lab.send(source, packet) == expected


@pytest.mark.parametrize(("source", "packet", "expected"), named(OFF))
def test_port_security_off(lab, source, packet, expected):
    assert lab.send(source, packet) == expected


def test_solicitation_is_seen_by_all_where_only_one_may_answer(lab):
    assert lab.send(1, solicit(1, "2001:db8::99", target=ALL_NODES)) == BLUE - {"tap1"}
    assert lab.send(1, who_has(1, "10.0.0.99", target=BROADCAST)) == BLUE - {"tap1"}
