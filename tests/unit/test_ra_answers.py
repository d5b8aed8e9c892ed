# SPDX-License-Identifier: Apache-2.0
"""Router advertisements: what they say by subnet mode, whom they answer, when they come; scapy reads them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    ICMPv6Unknown,
    IPv6,
    in6_chksum,
)
from scapy.layers.l2 import Ether

from agent.dhcp import frames6, ra_answers
from agent.dhcp.data import SubnetData
from agent.dhcp.frames import PacketError
from agent.dhcp.ra_packet import decode_solicitation
from tests.dhcp6_client import (
    IDENTITY,
    IPV4,
    LINK_LOCAL,
    MAC,
    PORT,
    SERVER_LINK_LOCAL,
    SERVER_MAC,
    SLAAC,
    STATEFUL,
    STATELESS,
    rs_frame,
    solicit_router,
    source_option,
)

ALL_NODES = ("ff02::1", "33:33:00:00:00:01")
ON_SLAAC = replace(PORT, subnets=(SLAAC, IPV4))
NO_MODE = replace(SLAAC, ra_mode=None, address_mode=None)


def advertisement(*subnets: SubnetData, **changes):
    """Return what the hosts of a port with *subnets* are told."""
    result, frame = solicit_router(rs_frame(), replace(PORT, subnets=subnets, **changes))
    assert result == "answered"
    return frame[ICMPv6ND_RA]


def prefixes(ra) -> list[tuple[str, int, int, int]]:
    """Return (prefix, length, on link, autonomous)."""
    found = []
    option = ra.getlayer(ICMPv6NDOptPrefixInfo)
    while option is not None:
        found.append((option.prefix, option.prefixlen, option.L, option.A))
        option = option.payload.getlayer(ICMPv6NDOptPrefixInfo)
    return found


@pytest.mark.parametrize(
    ("subnets", "managed", "other", "expected"),
    [
        ((SLAAC,), 0, 0, [("2001:db8:3::", 64, 1, 1)]),
        ((STATELESS,), 0, 1, [("2001:db8:2::", 64, 1, 1)]),
        ((STATEFUL,), 1, 0, [("2001:db8:1::", 64, 1, 0)]),
        (
            (STATEFUL, IPV4, STATELESS, SLAAC),
            1,
            1,
            [("2001:db8:1::", 64, 1, 0), ("2001:db8:2::", 64, 1, 1), ("2001:db8:3::", 64, 1, 1)],
        ),
        ((replace(SLAAC, cidr="2001:db8:4::/80"),), 0, 0, [("2001:db8:4::", 80, 1, 0)]),
        ((replace(NO_MODE, routed=True),), 0, 0, []),
        ((SLAAC, NO_MODE), 0, 0, [("2001:db8:3::", 64, 1, 1)]),
    ],
)
def test_prefixes_and_flags_follow_the_modes(subnets, managed, other, expected):
    ra = advertisement(*subnets)

    assert [managed, other] == [ra.M, ra.O]
    assert prefixes(ra) == expected


@pytest.mark.parametrize(
    ("subnets", "lifetime"),
    [
        ((SLAAC,), 0),
        ((replace(SLAAC, routed=True),), 1800),
        ((SLAAC, replace(STATEFUL, routed=True)), 1800),
        ((SLAAC, replace(IPV4, routed=True)), 0),  # an IPv4 router routes no IPv6
    ],
)
def test_only_a_router_is_a_default_route(subnets, lifetime):
    assert advertisement(*subnets).routerlifetime == lifetime


@pytest.mark.parametrize("subnets", [(), (IPV4,), (NO_MODE,), (replace(IPV4, routed=True),)])
def test_networks_without_an_ra_mode_or_router_stay_silent(subnets):
    port = replace(PORT, subnets=subnets)

    assert solicit_router(rs_frame(), port) == ("not-served", None)
    assert ra_answers.unsolicited(port, bytes(6)) is None


def test_what_every_host_needs_is_said():
    ra = advertisement(
        SLAAC, replace(STATELESS, dns=("2001:db8::54", "10.0.0.53", "2001:db8::53")), search=("b.example",)
    )

    assert ra.chlim == 64
    assert ra[ICMPv6NDOptSrcLLAddr].lladdr == SERVER_MAC
    assert ra[ICMPv6NDOptMTU].mtu == 1450
    assert ra[ICMPv6NDOptRDNSS].dns == ["2001:db8::53", "2001:db8::54"]
    assert ra[ICMPv6NDOptDNSSL].searchlist == ["example.org.", "b.example."]
    assert ra[ICMPv6NDOptRDNSS].lifetime == ra[ICMPv6NDOptDNSSL].lifetime == 1800
    assert (ra[ICMPv6NDOptPrefixInfo].validlifetime, ra[ICMPv6NDOptPrefixInfo].preferredlifetime) == (86400, 14400)


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        (ICMPv6NDOptMTU, {"mtu": 1279}),
        (ICMPv6NDOptRDNSS, {"dns": ()}),
        (ICMPv6NDOptRDNSS, {"dns": ("10.0.0.53",)}),
        (ICMPv6NDOptDNSSL, {"domain": ""}),
        (ICMPv6NDOptDNSSL, {"domain": "no..name"}),
    ],
)
def test_nothing_empty_is_said(option, changes):
    subnet = replace(SLAAC, dns=changes.pop("dns", SLAAC.dns))
    ra = advertisement(subnet, **changes)

    assert not ra.haslayer(option)
    assert not ra.haslayer(ICMPv6NDOptUnknown)


def test_an_answer_goes_to_who_has_asked():
    _, frame = solicit_router(rs_frame(options=[source_option()]), ON_SLAAC)

    assert (frame.src, frame.dst) == (IDENTITY, MAC)
    assert (frame[IPv6].src, frame[IPv6].dst, frame[IPv6].hlim) == (SERVER_LINK_LOCAL, LINK_LOCAL, 255)


def test_who_has_no_address_yet_is_answered_as_all_are():
    _, frame = solicit_router(rs_frame(src="::"), ON_SLAAC)

    assert frame.src == IDENTITY
    assert (frame[IPv6].dst, frame.dst) == ALL_NODES
    assert frame[IPv6].src == SERVER_LINK_LOCAL


def test_periodic_advertisements_say_the_same_to_all_on_the_port():
    raw = ra_answers.unsolicited(ON_SLAAC, bytes.fromhex(IDENTITY.replace(":", "")))
    assert raw is not None
    frame = Ether(raw)

    assert (frame[IPv6].dst, frame.dst) == ALL_NODES
    assert (frame.src, frame[IPv6].src, frame[IPv6].hlim) == (IDENTITY, SERVER_LINK_LOCAL, 255)
    _, answer = solicit_router(rs_frame(src="::"), ON_SLAAC)
    assert bytes(answer) == raw


def test_the_checksum_is_right():
    _, frame = solicit_router(rs_frame(), ON_SLAAC)

    assert in6_chksum(58, frame[IPv6], bytes(frame[IPv6].payload)) == 0


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"hlim": 254}, "malformed"),
        ({"code": 1}, "malformed"),
        ({"type": 134}, "malformed"),
        ({"src": "::", "options": [source_option()]}, "malformed"),
        ({"src": "ff02::1"}, "malformed"),
        ({"src": "::1"}, "malformed"),
        ({"options": [b"\1\0" + bytes(6)]}, "malformed"),  # an option of no length
        ({"options": [b"\1\2" + bytes(6)]}, "malformed"),
        ({"options": [b"\1"]}, "malformed"),
        ({"dst": "ff02::1"}, "not-for-us"),
        ({"dst": "fe80::1"}, "not-for-us"),
        ({"dst": "ff02::2"}, "answered"),
        ({"dst": SERVER_LINK_LOCAL}, "answered"),
        ({"src": "2001:db8:3::5"}, "answered"),
        ({"options": [b"\x63\2" + bytes(14), source_option()]}, "answered"),  # of types that nobody knows
        ({"options": [b"\1\2" + bytes(14)]}, "answered"),
    ],
)
def test_solicitations_are_judged_by_the_rfc(how, why):
    result, frame = solicit_router(rs_frame(**how), ON_SLAAC)

    assert result == why
    assert (frame is not None) == (why == "answered")


def test_a_solicitation_that_is_cut_short_is_none():
    frame = bytes(
        Ether(src=MAC, dst=IDENTITY) / IPv6(src=LINK_LOCAL, dst="ff02::2", hlim=255) / ICMPv6Unknown(type=133)
    )

    assert solicit_router(frame, ON_SLAAC) == ("malformed", None)


def test_a_wrong_checksum_is_no_packet():
    with pytest.raises(PacketError, match="checksum"):
        frames6.parse(rs_frame(cksum=1))


def test_the_askers_link_layer_address_is_read():
    parsed = frames6.parse(rs_frame(options=[source_option("02:00:00:00:00:77")]))

    assert isinstance(parsed, frames6.ControlMessage)
    assert decode_solicitation(parsed).source_mac == bytes.fromhex("020000000077")


def test_what_does_not_fit_into_a_packet_of_the_link_is_left_out():
    names = tuple(f"{'long' * 12}{number}.example" for number in range(30))
    _, frame = solicit_router(rs_frame(), replace(ON_SLAAC, mtu=1280, search=names))

    assert len(bytes(frame)) <= 14 + 1280
    assert frame.haslayer(ICMPv6NDOptRDNSS)
    assert not frame.haslayer(ICMPv6NDOptDNSSL)


def test_the_first_come_soon_and_the_others_seldom():
    """RFC 4861, section 6.2.4; what is said lives as long as three intervals."""
    assert ra_answers.next_time(0, 1000.0, 0.7) == 1000.0
    for jitter in (0.0, 0.5, 0.999):
        assert all(0 < ra_answers.next_time(sent, 0.0, jitter) <= 16 for sent in (1, 2))
        assert all(200 <= ra_answers.next_time(sent, 0.0, jitter) <= 600 for sent in (3, 4, 1000))
    assert 3 * ra_answers.LONGEST_INTERVAL <= ra_answers.ROUTER_LIFETIME <= 9000


def test_ports_of_a_host_do_not_come_together():
    times = {ra_answers.next_time(5, 0.0, jitter / 100) for jitter in range(100)}

    assert len(times) == 100
