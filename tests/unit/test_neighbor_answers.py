# SPDX-License-Identifier: Apache-2.0
"""Whom neighbor solicitations find, as scapy asks and reads them (RFC 4861, sections 7.1.1 and 7.2.4)."""

from dataclasses import replace

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether

from agent.core.service_identity import METADATA6
from agent.dhcp.data import PortData, SubnetData, decode_port, encode_port
from agent.dhcp.port_answers import NEIGHBORS, PortAnswers
from tests.dhcp6_client import IDENTITY, LINK_LOCAL, MAC, PORT, SERVER_LINK_LOCAL, SERVER_MAC, STATEFUL

SERVER = "2001:db8:1::2"
GROUP = "ff02::1:ff00:2"  # solicited-node group of SERVER
UNSPECIFIED = "::"


def frame(target=SERVER, *, src=LINK_LOCAL, dst=GROUP, hlim=255, code=0, option=True, eth_src=MAC):
    asked = ICMPv6ND_NS(tgt=target, code=code)
    if option:
        asked /= ICMPv6NDOptSrcLLAddr(lladdr=MAC)
    return bytes(Ether(src=eth_src, dst=IDENTITY) / IPv6(src=src, dst=dst, hlim=hlim) / asked)


def answers(port: PortData = PORT):
    return PortAnswers(port, bytes.fromhex(IDENTITY.replace(":", "")))


def ask(octets, port: PortData = PORT):
    told = answers(port).answer(octets)
    assert told.protocol == NEIGHBORS
    return told.result, Ether(told.frame) if told.frame is not None else None


@pytest.mark.parametrize(
    ("target", "group"),
    [(SERVER, GROUP), (METADATA6, "ff02::1:fffe:a9fe"), (SERVER_LINK_LOCAL, "ff02::1:ffff:1")],
)
def test_addresses_that_we_answer_from_are_at_the_servers_mac(target, group):
    for destination in (group, target):  # who looks for it first, and who looks whether it is still there
        result, reply = ask(frame(target, dst=destination))

        assert result == "answered"
        assert (reply.src, reply.dst) == (IDENTITY, MAC)
        assert (reply[IPv6].src, reply[IPv6].dst, reply[IPv6].hlim) == (target, LINK_LOCAL, 255)
        found = reply[ICMPv6ND_NA]
        assert (found.tgt, found.R, found.S, found.O) == (target, 0, 1, 1)
        assert found.payload.lladdr == SERVER_MAC
        sent = reply[IPv6].copy()
        del sent[ICMPv6ND_NA].cksum
        assert IPv6(bytes(sent))[ICMPv6ND_NA].cksum == found.cksum


def test_who_wants_our_address_for_itself_is_told_that_it_is_taken():
    result, reply = ask(frame(src=UNSPECIFIED, option=False))

    assert result == "defended"
    assert (reply.dst, reply[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
    assert (reply[ICMPv6ND_NA].S, reply[ICMPv6ND_NA].O) == (0, 1)


def test_who_advertises_itself_as_a_router_says_so_here_as_well():
    """Else hosts take it off their list of routers (RFC 4861, section 7.2.5)."""
    routed = replace(PORT, subnets=(replace(STATEFUL, routed=True), PORT.subnets[1]))
    ours = frame(SERVER_LINK_LOCAL, dst=SERVER_LINK_LOCAL)

    assert ask(ours, routed)[1][ICMPv6ND_NA].R == 1
    assert ask(frame(), routed)[1][ICMPv6ND_NA].R == 0
    assert ask(ours, replace(routed, router_mac="fa:16:3e:aa:00:01"))[1][ICMPv6ND_NA].R == 0


@pytest.mark.parametrize(
    "octets",
    [
        frame("2001:db8:1::1", dst="ff02::1:ff00:1"),  # the gateway answers for itself
        frame("2001:db8:1::5", dst="ff02::1:ff00:5"),  # the instance's own: duplicate detection must not find anybody
        frame(dst="ff02::1"),
        frame(dst=SERVER_LINK_LOCAL),
        frame(eth_src="01:00:5e:00:00:01"),
    ],
    ids=["gateway", "own address", "all nodes", "another address", "group as sender"],
)
def test_nobody_else_is_answered_for(octets):
    assert ask(octets) == ("not-for-us", None)


def test_a_server_address_of_ipv4_or_of_none_is_not_asked_for():
    bare = replace(PORT, subnets=(replace(STATEFUL, server=None), SubnetData("10.0.0.0/24", server="10.0.0.2")))
    assert ask(frame(), bare) == ("not-for-us", None)
    assert ask(frame(METADATA6, dst=METADATA6), bare)[0] == "answered"


@pytest.mark.parametrize(
    "octets",
    [
        frame(hlim=254),
        frame(code=1),
        frame("ff02::1"),
        frame(UNSPECIFIED),
        frame(src="ff02::5"),
        frame(src=UNSPECIFIED),  # with an option, which a probe has not
        frame(src=UNSPECIFIED, dst=SERVER, option=False),
        frame(src=UNSPECIFIED, dst="ff02::1:ff00:3", option=False),
    ],
    ids=["forwarded", "code", "group", "nothing", "from a group", "probe with option", "unicast probe", "other group"],
)
def test_what_a_host_must_silently_discard_is_counted_as_malformed(octets):
    assert ask(octets) == ("malformed", None)


def test_options_without_length_or_cut_short_are_malformed():
    good = IPv6(frame()[14:])
    for option in (b"\1\0" + bytes(6), b"\1\2" + bytes(6), b"\1"):
        packet = IPv6(src=good.src, dst=good.dst, hlim=255) / ICMPv6ND_NS(tgt=SERVER) / option
        assert ask(bytes(Ether(src=MAC, dst=IDENTITY) / packet)) == ("malformed", None)


def test_a_wrong_checksum_and_a_fragment_are_not_looked_at():
    broken = bytearray(frame())
    broken[56] ^= 1
    fragment = bytes(
        Ether(src=MAC, dst=IDENTITY)
        / IPv6(src=LINK_LOCAL, dst=GROUP, hlim=255)
        / IPv6ExtHdrFragment()
        / ICMPv6ND_NS(tgt=SERVER)
    )
    for octets in (bytes(broken), fragment):
        told = answers().answer(octets)
        assert (told.result, told.frame) == ("malformed", None)


def test_with_a_router_of_ours_advertisements_are_its_own():
    routed = replace(PORT, subnets=(replace(STATEFUL, routed=True),), addresses=(), router_mac="fa:16:3e:aa:00:01")
    advertisement = Ether(answers(decode_port(encode_port(routed))).advertisement())

    assert advertisement.src == IDENTITY
    assert advertisement[IPv6].src == "fe80::f816:3eff:feaa:1"
    assert advertisement.getlayer("ICMPv6 Neighbor Discovery Option - Source Link-Layer Address").lladdr == (
        "fa:16:3e:aa:00:01"
    )
