# SPDX-License-Identifier: Apache-2.0
"""Who is answered what by DHCPv6, after the rules of RFC 8415 sections 16 and 18.3; scapy is the client."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.dhcp6 import (
    DUID_LLT,
    DHCP6_Advertise,
    DHCP6_Confirm,
    DHCP6_Decline,
    DHCP6_InfoRequest,
    DHCP6_Rebind,
    DHCP6_Reconf,
    DHCP6_RelayForward,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptIA_PD,
    DHCP6OptIA_TA,
    DHCP6OptPref,
    DHCP6OptRapidCommit,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
)
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6

from tests.dhcp6_client import (
    CLIENT_ID,
    IDENTITY,
    IPV4,
    LINK_LOCAL,
    MAC,
    OTHER_SERVER_ID,
    OWN,
    PORT,
    SERVER_ID,
    SERVER_LINK_LOCAL,
    SERVER_MAC,
    SLAAC,
    STATEFUL,
    STATELESS,
    answer,
    ask,
    ia_na,
    leases,
    outcome,
    solicit,
    udp_frame,
)

DAY = 86400
INFINITY = 0xFFFFFFFF
SECOND = "2001:db8:9::7"
TWO_SUBNETS = replace(
    PORT,
    subnets=(STATEFUL, replace(STATEFUL, cidr="2001:db8:9::/64", server="2001:db8:9::2")),
    addresses=((OWN, 0), (SECOND, 1)),
)
ONLY_STATELESS = replace(PORT, subnets=(STATELESS,), addresses=(("2001:db8:2::f816:3eff:fe00:1", 0),))
NO_ADDRS, NO_BINDING, NOT_ON_LINK, USE_MULTICAST, NO_PREFIX = 2, 3, 4, 5, 6


def statuses(frame) -> dict[int, int]:
    """Return status codes by IAID of IA_NA."""
    found: dict[int, int] = {}
    layer = frame.getlayer(DHCP6OptIA_NA)
    while layer is not None:
        found.update((layer.iaid, option.statuscode) for option in layer.ianaopts if option.optcode == 13)
        layer = layer.payload.getlayer(DHCP6OptIA_NA)
    return found


def test_a_solicit_is_answered_with_the_ports_address_and_at_once():
    result, frame = ask(solicit())

    assert result == "answered"
    assert frame.haslayer(DHCP6_Advertise)
    assert frame[DHCP6_Advertise].trid == 0x123456
    assert leases(frame) == {7: [(OWN, DAY, DAY)]}
    assert (frame[DHCP6OptIA_NA].T1, frame[DHCP6OptIA_NA].T2) == (DAY // 2, DAY * 4 // 5)
    assert frame[DHCP6OptPref].prefval == 255
    assert bytes(frame[DHCP6OptClientId].duid) == bytes(CLIENT_ID.duid)
    assert frame[DHCP6OptServerId].duid.lladdr == SERVER_MAC


def test_the_answer_goes_back_along_the_way_the_question_came():
    _, frame = ask(solicit())

    assert (frame.src, frame.dst) == (IDENTITY, MAC)
    assert (frame[IPv6].src, frame[IPv6].dst) == (SERVER_LINK_LOCAL, LINK_LOCAL)
    assert (frame[UDP].sport, frame[UDP].dport) == (547, 546)


def test_what_is_requested_is_given():
    result, frame = ask(DHCP6_Request(trid=9) / CLIENT_ID / SERVER_ID / ia_na(OWN))

    assert result == "answered"
    assert frame.haslayer(DHCP6_Reply)
    assert leases(frame) == {7: [(OWN, DAY, DAY)]}


def test_rapid_commit_spares_the_second_exchange():
    _, frame = ask(solicit() / DHCP6OptRapidCommit())

    assert frame.haslayer(DHCP6_Reply)
    assert frame.haslayer(DHCP6OptRapidCommit)
    assert leases(frame) == {7: [(OWN, DAY, DAY)]}


def test_nothing_is_committed_where_there_is_nothing():
    result, frame = ask(solicit() / DHCP6OptRapidCommit(), ONLY_STATELESS)

    assert result == "no-address"
    assert frame.haslayer(DHCP6_Advertise)
    assert not frame.haslayer(DHCP6OptRapidCommit)


def test_a_lease_may_last_for_ever():
    _, frame = ask(solicit(), replace(PORT, lease_seconds=-1))

    assert leases(frame) == {7: [(OWN, INFINITY, INFINITY)]}
    assert (frame[DHCP6OptIA_NA].T1, frame[DHCP6OptIA_NA].T2) == (INFINITY, INFINITY)


@pytest.mark.parametrize(
    ("associations", "expected"),
    [
        ([ia_na(iaid=1)], {1: [OWN, SECOND]}),
        ([ia_na(iaid=1), ia_na(iaid=2)], {1: [OWN], 2: [SECOND]}),
        ([ia_na(SECOND, iaid=1), ia_na(OWN, iaid=2)], {1: [SECOND], 2: [OWN]}),
        ([ia_na(OWN, SECOND, iaid=1), ia_na(iaid=2)], {1: [OWN, SECOND], 2: []}),
        ([ia_na(iaid=1), ia_na(iaid=2), ia_na(iaid=3)], {1: [OWN], 2: [SECOND], 3: []}),
        ([ia_na("2001:db8:1::99", iaid=1)], {1: [OWN, SECOND]}),
    ],
)
def test_all_addresses_are_given_and_none_twice(associations, expected):
    message = DHCP6_Request(trid=9) / CLIENT_ID / SERVER_ID
    for association in associations:
        message /= association
    _, frame = ask(message, TWO_SUBNETS)

    assert {iaid: [lease[0] for lease in found] for iaid, found in leases(frame).items()} == expected
    assert statuses(frame) == {iaid: NO_ADDRS for iaid, found in expected.items() if not found}


def test_only_addresses_of_stateful_subnets_are_given():
    port = replace(
        PORT, subnets=(SLAAC, STATELESS, STATEFUL), addresses=(("2001:db8:3::1", 0), ("2001:db8:2::1", 1), (OWN, 2))
    )
    _, frame = ask(solicit(), port)

    assert leases(frame) == {7: [(OWN, DAY, DAY)]}


@pytest.mark.parametrize("kind", [DHCP6_Solicit, DHCP6_Request])
def test_who_asks_for_addresses_on_a_stateless_subnet_is_told_so_and_configured(kind):
    message = kind(trid=9) / CLIENT_ID / ia_na()
    result, frame = ask(message if kind is DHCP6_Solicit else message / SERVER_ID, ONLY_STATELESS)

    assert result == "no-address"
    assert statuses(frame) == {7: NO_ADDRS}
    assert frame[DHCP6OptDNSServers].dnsservers == ["2001:db8::53"]


def test_nobody_gets_prefixes_or_temporary_addresses():
    _, frame = ask(solicit() / DHCP6OptIA_PD(iaid=1, T1=0, T2=0) / DHCP6OptIA_TA(iaid=2))

    assert [option.statuscode for option in frame[DHCP6OptIA_PD].iapdopt] == [NO_PREFIX]
    assert [option.statuscode for option in frame[DHCP6OptIA_TA].iataopts] == [NO_ADDRS]
    assert leases(frame) == {7: [(OWN, DAY, DAY)]}


def test_an_address_of_another_link_is_refused_when_it_is_requested():
    result, frame = ask(DHCP6_Request(trid=9) / CLIENT_ID / SERVER_ID / ia_na("fd00::5"))

    assert result == "not-on-link"
    assert leases(frame) == {7: []}
    assert statuses(frame) == {7: NOT_ON_LINK}


@pytest.mark.parametrize(
    ("addresses", "status"),
    [([OWN], 0), (["fd00::5"], NOT_ON_LINK), (["2001:db8:1::6"], NOT_ON_LINK), ([OWN, "fd00::5"], NOT_ON_LINK)],
)
def test_only_the_ports_own_addresses_are_confirmed(addresses, status):
    result, frame = ask(DHCP6_Confirm(trid=9) / CLIENT_ID / ia_na(*addresses))

    assert result == ("answered" if status == 0 else "not-on-link")
    assert frame[DHCP6OptStatusCode].statuscode == status
    assert not frame.haslayer(DHCP6OptIA_NA)


@pytest.mark.parametrize("kind", [DHCP6_Renew, DHCP6_Rebind])
@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([OWN], [(OWN, DAY, DAY)]),
        (["2001:db8:1::6"], [(OWN, DAY, DAY), ("2001:db8:1::6", 0, 0)]),
        ([OWN, "fd00::5"], [(OWN, DAY, DAY), ("fd00::5", 0, 0)]),
        ([], [(OWN, DAY, DAY)]),
    ],
)
def test_what_is_held_is_prolonged_and_what_is_gone_ends(kind, held, expected):
    message = kind(trid=9) / CLIENT_ID / ia_na(*held)
    _, frame = ask(message / SERVER_ID if kind is DHCP6_Renew else message)

    assert frame.haslayer(DHCP6_Reply)
    assert leases(frame) == {7: expected}


def test_a_port_without_addresses_ends_what_is_held_and_knows_of_nothing_else():
    port = replace(PORT, addresses=())
    message = DHCP6_Renew(trid=9) / CLIENT_ID / SERVER_ID / ia_na(OWN, iaid=1) / ia_na(iaid=2)
    result, frame = ask(message / DHCP6OptIA_PD(iaid=3), port)

    assert result == "no-binding"
    assert leases(frame) == {1: [(OWN, 0, 0)], 2: []}
    assert statuses(frame)[2] == NO_BINDING
    assert [option.statuscode for option in frame[DHCP6OptIA_PD].iapdopt] == [NO_BINDING]


@pytest.mark.parametrize(("kind", "expected"), [(DHCP6_Release, "released"), (DHCP6_Decline, "declined")])
def test_what_is_given_back_is_acknowledged_and_stays_the_ports(kind, expected):
    result, frame = ask(kind(trid=9) / CLIENT_ID / SERVER_ID / ia_na(OWN, iaid=1) / ia_na("fd00::5", iaid=2))

    assert result == expected
    assert statuses(frame) == {2: NO_BINDING}
    assert leases(frame) == {2: []}
    result, frame = ask(kind(trid=9) / CLIENT_ID / SERVER_ID / ia_na(OWN))
    assert (result, frame[DHCP6OptStatusCode].statuscode) == (expected, 0)
    _, frame = ask(solicit())
    assert leases(frame) == {7: [(OWN, DAY, DAY)]}


@pytest.mark.parametrize("port", [PORT, ONLY_STATELESS])
@pytest.mark.parametrize("message", [DHCP6_InfoRequest(trid=9) / CLIENT_ID, DHCP6_InfoRequest(trid=9)])
def test_who_has_an_address_may_ask_for_the_rest_alone(port, message):
    result, frame = ask(message, port)

    assert result == "answered"
    assert frame[DHCP6OptDNSServers].dnsservers == ["2001:db8::53"]
    assert frame.haslayer(DHCP6OptClientId) == message.haslayer(DHCP6OptClientId)
    assert not frame.haslayer(DHCP6OptIA_NA)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (DHCP6_Solicit() / ia_na(), "no-client-id"),
        (DHCP6_Solicit() / CLIENT_ID / SERVER_ID / ia_na(), "unexpected-option"),
        (DHCP6_Request() / CLIENT_ID / ia_na(), "no-server-id"),
        (DHCP6_Request() / SERVER_ID / ia_na(), "no-client-id"),
        (DHCP6_Request() / CLIENT_ID / OTHER_SERVER_ID / ia_na(), "other-server"),
        (DHCP6_Confirm() / ia_na(OWN), "no-client-id"),
        (DHCP6_Confirm() / CLIENT_ID / SERVER_ID / ia_na(OWN), "unexpected-option"),
        (DHCP6_Confirm() / CLIENT_ID / ia_na(), "unexpected-option"),
        (DHCP6_Renew() / CLIENT_ID / ia_na(OWN), "no-server-id"),
        (DHCP6_Renew() / SERVER_ID / ia_na(OWN), "no-client-id"),
        (DHCP6_Renew() / CLIENT_ID / OTHER_SERVER_ID / ia_na(OWN), "other-server"),
        (DHCP6_Rebind() / ia_na(OWN), "no-client-id"),
        (DHCP6_Rebind() / CLIENT_ID / SERVER_ID / ia_na(OWN), "unexpected-option"),
        (DHCP6_Decline() / CLIENT_ID / ia_na(OWN), "no-server-id"),
        (DHCP6_Decline() / CLIENT_ID / OTHER_SERVER_ID / ia_na(OWN), "other-server"),
        (DHCP6_Release() / SERVER_ID / ia_na(OWN), "no-client-id"),
        (DHCP6_Release() / CLIENT_ID / OTHER_SERVER_ID / ia_na(OWN), "other-server"),
        (DHCP6_InfoRequest() / OTHER_SERVER_ID, "other-server"),
        (DHCP6_InfoRequest() / CLIENT_ID / ia_na(), "unexpected-option"),
        (DHCP6_Advertise() / CLIENT_ID / SERVER_ID, "not-for-servers"),
        (DHCP6_Reply() / CLIENT_ID / SERVER_ID, "not-for-servers"),
        (DHCP6_Reconf() / CLIENT_ID / SERVER_ID, "not-for-servers"),
        (DHCP6_RelayForward(linkaddr="2001:db8::1", peeraddr=LINK_LOCAL), "relayed"),
        (DHCP6_Solicit(msgtype=99) / CLIENT_ID, "malformed"),
        (DHCP6_Solicit() / CLIENT_ID / CLIENT_ID / ia_na(), "malformed"),
    ],
)
def test_where_the_rfc_demands_silence_there_is_silence(message, why):
    assert outcome(message) == why


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"dst": "ff02::1"}, "not-for-us"),
        ({"dst": "ff05::1:3"}, "not-for-us"),
        ({"dst": "2001:db8:1::9"}, "not-for-us"),
        ({"dport": 546}, "not-for-us"),
        ({"src": "::"}, "not-for-us"),
        ({"src": "ff02::1"}, "not-for-us"),
        ({"src": OWN}, "not-for-us"),
        ({"dst": "2001:db8:1::2"}, "unicast"),
        ({"dst": SERVER_LINK_LOCAL, "src": OWN}, "unicast"),
    ],
)
def test_what_is_not_sent_as_clients_do_is_not_answered(how, why):
    assert outcome(solicit(), **how) == why


@pytest.mark.parametrize("kind", [DHCP6_Request, DHCP6_Renew, DHCP6_Release, DHCP6_Decline])
def test_who_asks_our_address_is_told_to_ask_the_group(kind):
    result, frame = ask(kind(trid=9) / CLIENT_ID / SERVER_ID / ia_na(OWN), src=OWN, dst="2001:db8:1::2")

    assert result == "use-multicast"
    assert frame[DHCP6OptStatusCode].statuscode == USE_MULTICAST
    assert (frame[IPv6].src, frame[IPv6].dst) == ("2001:db8:1::2", OWN)
    assert not frame.haslayer(DHCP6OptIA_NA)


@pytest.mark.parametrize(
    ("dhcp", "address_mode", "ra_mode", "expected"),
    [
        (True, "dhcpv6-stateful", "dhcpv6-stateful", "answered"),
        (True, "dhcpv6-stateful", None, "answered"),
        (True, None, None, "not-served"),  # the business of a router outside
        (True, "dhcpv6-stateless", "dhcpv6-stateless", "no-address"),
        (True, "dhcpv6-stateless", None, "no-address"),
        (True, "slaac", "slaac", "not-served"),
        (True, "slaac", None, "not-served"),
        (True, None, "dhcpv6-stateful", "not-served"),  # somebody else's DHCPv6
        (False, "dhcpv6-stateful", "dhcpv6-stateful", "not-served"),
        (False, None, None, "not-served"),
    ],
)
def test_subnets_are_served_by_their_modes(dhcp, address_mode, ra_mode, expected):
    subnet = replace(STATEFUL, dhcp=dhcp, address_mode=address_mode, ra_mode=ra_mode)

    assert ask(solicit(), replace(PORT, subnets=(subnet, IPV4)))[0] == expected


def test_a_port_without_ipv6_is_not_answered():
    assert outcome(solicit(), replace(PORT, subnets=(IPV4,), addresses=(("10.0.0.5", 0),))) == "not-served"


def test_any_system_behind_the_port_gets_its_address():
    other = DHCP6OptClientId(duid=DUID_LLT(lladdr="00:00:00:00:00:99", timeval=1))
    _, frame = ask(DHCP6_Solicit(trid=1) / other / ia_na(iaid=4711))

    assert leases(frame) == {4711: [(OWN, DAY, DAY)]}


def test_more_addresses_than_a_packet_holds_are_counted_and_not_sent():
    addresses = tuple((f"2001:db8:1::{number:x}", 0) for number in range(1, 60))

    assert outcome(solicit(), replace(PORT, addresses=addresses)) == "too-large"


def test_the_message_is_named_for_the_counters():
    assert answer(udp_frame(solicit())).message == "solicit"
    assert answer(udp_frame(DHCP6_InfoRequest(trid=1))).message == "information-request"
    assert answer(udp_frame(DHCP6_RelayForward())).message == ""
