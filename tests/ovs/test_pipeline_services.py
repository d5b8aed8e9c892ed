# SPDX-License-Identifier: Apache-2.0
"""What instances ask the responder, and what it answers: planned flows in a real switch.

Who else is on the networks, and what ports are like, is said in ``services_world``.
"""

import re

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_RA, IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from agent.core.allocations import Claim
from agent.core.service_identity import (
    METADATA4,
    METADATA6,
    METADATA_MAC,
    ROUTER_MAC,
    SERVER_MAC,
    alias,
    identity_mac,
    slots,
)
from agent.l2.services import SERVER_LINK_LOCAL
from tests.golden.l2_world import SERVER6, SERVICE_OFPORTS, mac, services_world, underlay
from tests.ovs.pipeline_lab import PATCH, UNDERLAY, Lab, running_switch, tunnel
from tests.ovs.pipeline_packets import (
    ALL_NODES,
    BROADCAST,
    NOBODY,
    datagram,
    ether,
    link_local,
    ping,
    ping6,
    router_solicitation,
    solicit,
    tagged,
    who_has,
)

SERVER4 = "10.0.0.253"
DHCP, METADATA = (f"in_port={number}" for number in SERVICE_OFPORTS.values())
DHCPV6_GROUP, DHCPV6_GROUP_MAC = "ff02::1:2", "33:33:00:01:00:02"
OTHER = "fa:16:3e:aa:aa:aa"
NOWHERE: set[str] = set()
IN_BLUE = tunnel("vxlan", 5000, underlay(2))
BLUE = {"tap1", "tap2", "tap4", "tap5", "tap6", "tap7", "tap11"}
BLUE_FAR = f"vxlan 5000 to {underlay(2)}"


class ServicesLab(Lab):
    """A switch that holds the flows of a host whose ports are answered."""

    def __init__(self, switch):
        world = services_world()
        super().__init__(switch, world)
        self._numbers = world.allocations

    def number(self, port: int) -> int:
        """Return what stands for a port."""
        return self._numbers[Claim("responder", f"p{port}")]

    def alias(self, port: int, address: str, *others: str) -> str:
        """Return the alias of an address of a port; *others* are the rest of its addresses."""
        return alias(self.number(port), address, slots((address, *others))[address])

    def final(self) -> dict[str, str]:
        """Return the fields of the packet as it went out."""
        text = re.findall(r"^Final flow: (.*)$", self.trace, re.MULTILINE)[-1]
        return dict(part.partition("=")[::2] for part in text.split(","))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with running_switch(tmp_path_factory.mktemp("services"), ports=11) as switch:
        switch.ofctl("set-frags", "MGMT", "nx-match")  # as the daemon does: first fragments show their ports
        yield ServicesLab(switch)


def discover(source, **more):
    return datagram(source, 68, 67, "0.0.0.0", **more)


def solicit6(source, src=None):
    return datagram(source, 546, 547, src or link_local(source), DHCPV6_GROUP, DHCPV6_GROUP_MAC)


def get(source, src, dst=METADATA4, *, target=NOBODY, port=80):
    header = IPv6(src=src, dst=dst) if ":" in dst else IP(src=src, dst=dst)
    return ether(source, target) / header / TCP(sport=40000, dport=port, flags="S")


def first_fragment(packet):
    return fragment(packet / Raw(bytes(1600)), 1400)[0]


def fragment6(packet):
    """Return a packet with the header of a first fragment before its payload."""
    header, payload = packet[IPv6].copy(), packet[IPv6].payload
    header.remove_payload()
    following = 6 if TCP in payload else 17
    return ether(packet.src, packet.dst) / header / IPv6ExtHdrFragment(nh=following, m=1, id=7) / payload


ASKED = [
    ("DHCP", 1, discover(1)),
    ("DHCP, with a unicast frame", 1, discover(1, target=SERVER_MAC)),
    ("DHCP that renews", 1, datagram(1, 68, 67, "10.0.0.1", SERVER4, SERVER_MAC)),
    ("DHCP that rebinds", 1, datagram(1, 68, 67, "10.0.0.1")),
    ("DHCPv6", 1, solicit6(1)),
    ("DHCPv6 to the server", 1, datagram(1, 546, 547, "2001:db8:1::1", SERVER6, SERVER_MAC)),
    ("for a router", 1, router_solicitation(1, link_local(1))),
    ("for a router, without address", 1, router_solicitation(1, "::")),
    ("who has the metadata address", 1, solicit(1, METADATA6, src=link_local(1), sll=mac(1))),
    ("who has our link-local address", 1, solicit(1, SERVER_LINK_LOCAL, src="2001:db8:1::1", sll=mac(1))),
    ("who has the server's address", 1, solicit(1, SERVER6, src="2001:db8:1::1")),
    ("whether the metadata address is still there", 1, solicit(1, METADATA6, src=link_local(1), target=SERVER_MAC)),
    ("on a physical network, with equal addresses", 3, datagram(3, 68, 67, "10.0.0.1", SERVER4, SERVER_MAC)),
    ("on a physical network, to all", 3, discover(3)),
    ("without port security", 4, discover(4)),
    ("without port security, as somebody else", 4, discover(1)),
    ("without port security, the server's address for itself", 4, solicit(4, SERVER6, src="::")),
    ("without addresses", 5, discover(5)),
    ("with any address", 6, solicit(6, METADATA6, src=link_local(6))),
    ("on a network without IPv4", 8, router_solicitation(8, "::")),
    ("on a network without IPv4, the metadata address", 8, solicit(8, METADATA6, src=link_local(8))),
    ("filtered", 11, discover(11)),
]


def named(cases):
    return [pytest.param(*case[1:], id=case[0]) for case in cases]


@pytest.mark.parametrize(("source", "packet"), named(ASKED))
def test_questions_reach_the_responder_alone_and_say_who_asks(lab, source, packet):
    assert lab.send(source, packet) == {"hp-dhcp"}
    assert lab.final()["dl_dst"] == identity_mac(lab.number(source))


SPOOFED = [
    ("DHCP with another MAC address", 1, discover(OTHER)),
    ("DHCP as a neighbour", 1, discover(2)),
    ("renewal from another address", 1, datagram(1, 68, 67, "10.0.0.2", SERVER4, SERVER_MAC)),
    ("DHCPv6 as a neighbour", 1, solicit6(1, link_local(2))),
    ("for a router, as a neighbour", 1, router_solicitation(1, link_local(2))),
    ("who has, with another MAC address", 1, solicit(1, METADATA6, src=link_local(1), sll=OTHER)),
    ("as a neighbour, without addresses", 5, discover(1)),
    ("with a tag", 4, tagged(discover(4), (0x8100, 0))),
    ("with two tags", 4, tagged(discover(4), (0x88A8, 5), (0x8100, 6))),
    ("a fragment that renews", 1, first_fragment(datagram(1, 68, 67, "10.0.0.1", SERVER4, SERVER_MAC))),
    ("a fragment of DHCPv6", 1, fragment6(datagram(1, 546, 547, "2001:db8:1::1", SERVER6, SERVER_MAC))),
    ("from a port that is not served, to the server", 7, datagram(7, 68, 67, "10.0.0.7", SERVER4, SERVER_MAC)),
    ("a ping of the server", 1, ping(1, SERVER_MAC, dst=SERVER4)),
    ("a ping of the server on a physical network", 3, ping(3, SERVER_MAC, dst=SERVER4)),
    ("a ping of our link-local address", 1, ping6(1, SERVER_MAC, dst=SERVER_LINK_LOCAL)),
    ("a ping of the server from a port that is not served", 7, ping(7, SERVER_MAC, src="10.0.0.7", dst=SERVER4)),
]


@pytest.mark.parametrize(("source", "packet"), named(SPOOFED))
def test_what_is_not_its_own_reaches_nobody(lab, source, packet):
    assert lab.send(source, packet) == NOWHERE


LET_PAST = [
    ("not served", 7, discover(7), (BLUE - {"tap7"}) | {BLUE_FAR}),
    ("not served, for the metadata address", 7, solicit(7, METADATA6, src=link_local(7)),
     (BLUE - {"tap7"}) | {BLUE_FAR}),
    ("a fragment", 1, first_fragment(discover(1)), (BLUE - {"tap1"}) | {BLUE_FAR}),
    ("DHCP where it is switched off", 9, discover(9), {UNDERLAY}),
    ("for a router where there is no IPv6", 9, router_solicitation(9, "::"), {UNDERLAY}),
    ("from a tunnel", IN_BLUE, discover(21), BLUE),
    ("from a tunnel, for a router", IN_BLUE, router_solicitation(21, "::"), BLUE),
    ("from a tunnel, for the metadata address", IN_BLUE, solicit(21, METADATA6), BLUE),
    ("from a tunnel, for our MAC address", IN_BLUE, ping(21, SERVER_MAC, dst=SERVER4), NOWHERE),
    ("from a physical network", PATCH, tagged(discover(OTHER), (0x8100, 100)), {"tap3"}),
    ("from a physical network, for our MAC address", PATCH,
     tagged(datagram(OTHER, 68, 67, "10.0.0.9", SERVER4, SERVER_MAC), (0x8100, 100)), NOWHERE),
    ("from a tunnel, for the metadata service", IN_BLUE, get(21, "10.0.0.21", target=SERVER_MAC), NOWHERE),
]  # fmt: skip


@pytest.mark.parametrize(("source", "packet", "expected"), named(LET_PAST))
def test_others_are_let_past_as_if_there_were_no_responder(lab, source, packet, expected):
    assert lab.send(source, packet) == expected


def offer(identity, target=BROADCAST, dst="255.255.255.255"):
    return ether(identity, target) / IP(src=SERVER4, dst=dst) / UDP(sport=67, dport=68) / Raw(b"x" * 8)


def reply6(identity, number):
    header = IPv6(src=SERVER_LINK_LOCAL, dst=link_local(number))
    return ether(identity, number) / header / UDP(sport=547, dport=546) / Raw(b"x" * 8)


def advertisement(identity, layer, dst="ff02::1", target=ALL_NODES):
    return ether(identity, target) / IPv6(src=SERVER_LINK_LOCAL, dst=dst, hlim=255) / layer


@pytest.mark.parametrize("port", [1, 3, 4, 5, 11])
@pytest.mark.parametrize(
    "answer",
    [
        offer,
        lambda identity: offer(identity, mac(1), "10.0.0.1"),
        lambda identity: reply6(identity, 1),
        lambda identity: advertisement(identity, ICMPv6ND_RA()),
        lambda identity: advertisement(identity, ICMPv6ND_NA(tgt=METADATA6)),
    ],
    ids=["DHCP", "DHCP unicast", "DHCPv6", "RA", "NA"],
)
def test_answers_reach_their_port_alone_and_come_from_our_mac(lab, port, answer):
    assert lab.send(DHCP, answer(identity_mac(lab.number(port)))) == {f"tap{port}"}
    assert lab.final()["dl_src"] == SERVER_MAC


def test_nothing_but_answers_is_taken_from_who_reads_what_tenants_write(lab):
    identity = identity_mac(lab.number(1))
    header = ether(identity, 1)
    for packet in (
        offer(mac(2)),
        offer(SERVER_MAC),
        offer(identity_mac(0)),
        offer(identity_mac(999)),
        offer("01:48:50:01:00:01"),
        header / IP(src=SERVER4, dst="10.0.0.1") / ICMP(),
        header / IP(src=SERVER4, dst="10.0.0.1") / TCP(dport=22),
        header / IP(src=SERVER4, dst="10.0.0.1") / UDP(sport=53, dport=68),
        header / IPv6(src=SERVER_LINK_LOCAL, dst=link_local(1)) / ICMPv6EchoRequest(),
        who_has(identity, "10.0.0.1", spa=SERVER4),
        tagged(offer(identity), (0x8100, 5)),
    ):
        assert lab.send(DHCP, packet) == NOWHERE


# The metadata service.

FIRST = ("10.0.0.1", "2001:db8:1::1", link_local(1))


@pytest.mark.parametrize("target", [NOBODY, SERVER_MAC, mac(2), mac(7), mac(21)])
def test_a_request_is_taken_whatever_its_destination_mac(lab, target):
    assert lab.send(1, get(1, "10.0.0.1", target=target)) == {"hp-meta"}


@pytest.mark.parametrize(("port", "addresses"), [(1, FIRST), (3, (*FIRST[:2], link_local(3)))])
@pytest.mark.parametrize("index", range(3))
def test_requests_and_answers_are_rewritten(lab, port, addresses, index):
    address = addresses[index]
    service = METADATA6 if ":" in address else METADATA4
    source, target = ("ipv6_src", "ipv6_dst") if ":" in address else ("nw_src", "nw_dst")
    stands_for = lab.alias(port, address, *addresses)

    assert lab.send(port, get(port, address, service)) == {"hp-meta"}
    there = lab.final()
    assert (there["dl_src"], there["dl_dst"]) == (ROUTER_MAC, METADATA_MAC)
    assert (there[source], there[target]) == (stands_for, service)

    header = IPv6(src=service, dst=stands_for) if ":" in address else IP(src=service, dst=stands_for)
    answer = ether(METADATA_MAC, ROUTER_MAC) / header / TCP(sport=80, dport=40000, flags="SA")
    assert lab.send(METADATA, answer) == {f"tap{port}"}
    back = lab.final()
    assert (back["dl_src"], back["dl_dst"]) == (SERVER_MAC, mac(port))
    assert (back[source], back[target]) == (service, address)


REFUSED = [
    ("another port", 1, get(1, "10.0.0.1", port=443)),
    ("a ping", 1, ping(1, NOBODY, dst=METADATA4)),
    ("a ping, IPv6", 1, ping6(1, NOBODY, src=link_local(1), dst=METADATA6)),
    ("UDP", 1, datagram(1, 80, 80, "10.0.0.1", METADATA4, NOBODY)),
    ("a fragment", 1, first_fragment(get(1, "10.0.0.1"))),
    ("a fragment, IPv6", 1, fragment6(get(1, link_local(1), METADATA6))),
    ("a neighbour's address", 1, get(1, "10.0.0.2")),
    ("a neighbour's address, without port security", 4, get(4, "10.0.0.1")),
    ("a neighbour's MAC and IP address, without port security", 4, get(1, "10.0.0.1")),
    ("an address of allowed address pairs", 6, get(6, "10.7.7.7")),
    ("without addresses", 5, get(5, "10.0.0.5")),
    ("not served", 7, get(7, "10.0.0.7")),
    ("not served, IPv6", 7, get(7, link_local(7), METADATA6)),
    ("on a physical network, any port", 3, get(3, "10.0.0.1", port=8080)),
    ("IPv6 where there is none", 9, get(9, link_local(9), METADATA6)),
    ("with a tag", 4, tagged(get(4, "10.0.0.4"), (0x8100, 0))),
]


@pytest.mark.parametrize(("source", "packet"), named(REFUSED))
def test_everything_else_to_the_metadata_addresses_goes_nowhere(lab, source, packet):
    assert lab.send(source, packet) == NOWHERE


def test_nothing_but_answers_is_taken_from_the_metadata_side(lab):
    stands_for = lab.alias(1, *FIRST)
    header = ether(METADATA_MAC, ROUTER_MAC)
    for packet in (
        header / IP(src=METADATA4, dst="100.64.255.1") / TCP(sport=80),
        header / IP(src=METADATA4, dst="10.0.0.1") / TCP(sport=80),
        header / IP(src=METADATA4, dst=stands_for) / TCP(sport=22),
        header / IP(src="10.0.0.2", dst=stands_for) / TCP(sport=80),
        header / IP(src=METADATA4, dst=stands_for) / ICMP(),
        who_has(METADATA_MAC, "10.0.0.1", spa=METADATA4),
    ):
        assert lab.send(METADATA, packet) == NOWHERE


# Who has our IPv4 addresses.


@pytest.mark.parametrize(
    ("source", "address", "spa"),
    [
        pytest.param(1, SERVER4, "10.0.0.1", id="server"),
        pytest.param(1, METADATA4, "10.0.0.1", id="metadata"),
        pytest.param(3, SERVER4, "10.0.0.1", id="server, physical network"),
        pytest.param(3, METADATA4, "10.0.0.1", id="metadata, physical network"),
        pytest.param(4, SERVER4, "0.0.0.0", id="probe"),
        pytest.param(6, SERVER4, "10.0.0.6", id="port that may have any address"),
        pytest.param(9, METADATA4, "10.9.0.9", id="metadata without DHCP"),
    ],
)
def test_requests_for_our_addresses_are_answered(lab, source, address, spa):
    assert lab.send(source, who_has(source, address, spa=spa)) == {f"tap{source}"}
    reply = lab.final()
    assert (reply["dl_src"], reply["arp_sha"]) == (SERVER_MAC, SERVER_MAC)
    assert (reply["arp_op"], reply["arp_spa"], reply["arp_tpa"]) == ("2", address, spa)


def test_who_asks_from_outside_is_not_answered(lab):
    assert lab.send(IN_BLUE, who_has(21, SERVER4)) == BLUE
    assert lab.send(PATCH, tagged(who_has(OTHER, SERVER4), (0x8100, 100))) == {"tap3"}
