# SPDX-License-Identifier: Apache-2.0
"""What RFC 2131 says a server answers, case by case, as a client of scapy's sees it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from agent.dhcp.data import INFINITE
from agent.dhcp.v4_answers import Result, answer_frame
from agent.dhcp.v4_port import prepare
from tests.unit.dhcp_v4_client import BLUE, IDENTITY, MAC, PORT, RED, STATIC, codes, exchange, request, silence

OFFER, ACK, NAK = 2, 5, 6
BROADCAST = "255.255.255.255"
TWO_ADDRESSES = replace(PORT, addresses=(("10.0.0.5", 0), ("10.1.0.7", 1)), subnets=(BLUE, RED))
REQUESTED, SERVER = "requested_addr", "server_id"


def test_a_discover_is_offered_the_address_of_the_port():
    answer, reply = exchange(request("discover"))

    assert (answer.result, reply.kind) == (Result.OFFERED, OFFER)
    assert reply.bootp.yiaddr == "10.0.0.5"
    assert (reply.bootp.op, reply.bootp.xid, reply.bootp.ciaddr, reply.bootp.hops) == (2, 0x12345678, "0.0.0.0", 0)
    assert reply.options["server_id"] == "10.0.0.2"
    assert reply.options["subnet_mask"] == "255.255.255.0"
    assert reply.options["lease_time"] == 86400
    assert reply.options["renewal_time"] == 43200
    assert reply.options["rebinding_time"] == 75600


def test_the_answer_goes_back_to_the_port_that_asked():
    _, reply = exchange(request("discover"))

    assert (reply.eth.src, reply.eth.dst) == (IDENTITY, MAC)
    assert (reply.ip.src, reply.ip.dst) == ("10.0.0.2", "10.0.0.5")
    assert (reply.udp.sport, reply.udp.dport) == (67, 68)


def test_who_cannot_take_unicast_yet_gets_broadcast():
    _, reply = exchange(request("discover", flags=0x8000))

    assert (reply.eth.dst, reply.ip.dst) == ("ff:ff:ff:ff:ff:ff", BROADCAST)
    assert int(reply.bootp.flags) == 0x8000


# What a client says in each of its states (RFC 2131 section 4.3.2), and the address it gets.
SELECTING = request("request", (REQUESTED, "10.0.0.5"), (SERVER, "10.0.0.2"))
INIT_REBOOT = request("request", (REQUESTED, "10.0.0.5"))
RENEWING = request("request", ciaddr="10.0.0.5")


@pytest.mark.parametrize(
    ("frame", "destination"),
    [
        pytest.param(SELECTING, "10.0.0.5", id="selecting"),
        pytest.param(INIT_REBOOT, "10.0.0.5", id="init-reboot"),
        pytest.param(RENEWING, "10.0.0.5", id="renewing"),
        pytest.param(request("request", ciaddr="10.0.0.5", flags=0x8000), "10.0.0.5", id="rebinding-broadcast"),
        pytest.param(request("request", (REQUESTED, "10.0.0.5"), flags=0x8000), BROADCAST, id="init-reboot-broadcast"),
    ],
)
def test_a_right_address_is_acknowledged_in_every_state(frame, destination):
    answer, reply = exchange(frame)

    assert (answer.result, reply.kind, reply.bootp.yiaddr) == (Result.ACKNOWLEDGED, ACK, "10.0.0.5")
    assert reply.ip.dst == destination
    assert reply.options["lease_time"] == 86400
    assert reply.bootp.ciaddr == Ether(frame)[BOOTP].ciaddr


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(request("request", (REQUESTED, "10.0.0.6"), (SERVER, "10.0.0.2")), id="selecting-other-address"),
        pytest.param(request("request", (REQUESTED, "10.0.0.6")), id="init-reboot-other-address"),
        pytest.param(request("request", (REQUESTED, "192.168.7.7")), id="init-reboot-other-network"),
        pytest.param(request("request", ciaddr="10.0.0.6"), id="renewing-other-address"),
        pytest.param(request("request", ciaddr="192.168.7.7"), id="rebinding-other-network"),
    ],
)
def test_a_wrong_address_is_refused_to_everybody_on_the_link(frame):
    answer, reply = exchange(frame)

    assert (answer.result, reply.kind) == (Result.REFUSED, NAK)
    assert (reply.eth.dst, reply.ip.dst) == ("ff:ff:ff:ff:ff:ff", BROADCAST)
    assert (reply.bootp.yiaddr, reply.bootp.ciaddr, reply.bootp.siaddr) == ("0.0.0.0", "0.0.0.0", "0.0.0.0")
    assert codes(reply) <= {53, 54, 56, 61}  # RFC 2131 table 3: nothing else in a NAK


V6_ONLY = replace(PORT, addresses=(("fd00::5", 0),), subnets=(replace(BLUE, cidr="fd00::/64"),))
NOT_SERVED = replace(PORT, addresses=(("10.2.0.5", 0),), subnets=(STATIC,))
PARTLY_SERVED = replace(PORT, addresses=(("10.0.0.5", 0), ("10.2.0.5", 1)), subnets=(BLUE, STATIC))


@pytest.mark.parametrize(
    ("frame", "port", "result"),
    [
        pytest.param(
            request("request", (REQUESTED, "10.0.0.9"), (SERVER, "10.0.0.77")), PORT, Result.OTHER_SERVER, id="chosen"
        ),
        pytest.param(request("request"), PORT, Result.MALFORMED, id="request-for-nothing"),
        pytest.param(request("request", (SERVER, "10.0.0.2")), PORT, Result.MALFORMED, id="selecting-nothing"),
        pytest.param(request("discover"), replace(PORT, addresses=(), subnets=()), Result.NO_ADDRESS, id="addressless"),
        pytest.param(request("discover"), V6_ONLY, Result.NO_ADDRESS, id="only-ipv6"),
        pytest.param(request("discover"), NOT_SERVED, Result.NO_ADDRESS, id="subnet-without-dhcp"),
        pytest.param(request("request", ciaddr="10.2.0.5"), NOT_SERVED, Result.NO_ADDRESS, id="renew-without-dhcp"),
        pytest.param(
            request("request", ciaddr="10.2.0.5"), PARTLY_SERVED, Result.NO_ADDRESS, id="own-address-from-elsewhere"
        ),
        pytest.param(request("discover", giaddr="10.0.0.9"), PORT, Result.RELAYED, id="relayed"),
        pytest.param(
            request("discover", mac="fa:16:3e:00:00:02"), PORT, Result.OTHER_HARDWARE, id="for-somebody-behind-it"
        ),
        pytest.param(request("discover", htype=32), PORT, Result.OTHER_HARDWARE, id="infiniband"),
        pytest.param(request("discover", op=2), PORT, Result.NOT_DHCP, id="a-reply"),
        pytest.param(request("offer"), PORT, Result.NOT_DHCP, id="an-offer"),
        pytest.param(request("ack"), PORT, Result.NOT_DHCP, id="an-ack"),
        pytest.param(request("lease_query"), PORT, Result.NOT_DHCP, id="lease-query"),
        pytest.param(request("inform", ciaddr="172.16.0.1"), PORT, Result.NO_ADDRESS, id="inform-other-network"),
        pytest.param(request("decline", (REQUESTED, "10.0.0.5")), PORT, Result.DECLINED, id="decline"),
        pytest.param(request("decline", (REQUESTED, "10.0.0.6")), PORT, Result.NO_ADDRESS, id="decline-not-ours"),
        pytest.param(request("release", ciaddr="10.0.0.5"), PORT, Result.RELEASED, id="release"),
        pytest.param(
            request("release", (SERVER, "10.0.0.77"), ciaddr="10.0.0.5"), PORT, Result.OTHER_SERVER, id="release-other"
        ),
    ],
)
def test_silence_has_its_reason(frame, port, result):
    assert silence(frame, port) is result


def test_bootp_is_not_answered():
    frame = bytes(
        Ether(src=MAC, dst=IDENTITY)
        / IP(src="0.0.0.0", dst=BROADCAST)
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=bytes.fromhex(MAC.replace(":", "")))
        / DHCP(options=[("hostname", "x"), "end"])
    )

    assert silence(frame) is Result.NOT_DHCP


def test_a_declined_address_is_named():
    answer, _ = answer_frame(request("decline", (REQUESTED, "10.0.0.5")), prepare(PORT))

    assert answer.address == bytes((10, 0, 0, 5))


def test_an_inform_is_told_everything_but_an_address():
    _, reply = exchange(request("inform", ("param_req_list", [1, 6]), ciaddr="10.0.0.5"))

    assert (reply.kind, reply.bootp.yiaddr, reply.bootp.ciaddr) == (ACK, "0.0.0.0", "10.0.0.5")
    assert reply.ip.dst == "10.0.0.5"
    assert {"lease_time", "renewal_time", "rebinding_time"}.isdisjoint(reply.options)
    assert reply.options["name_server"] == "9.9.9.9"


def test_an_inform_of_an_address_pair_is_told_what_goes_for_its_subnet():
    _, reply = exchange(request("inform", ciaddr="10.1.200.200"), TWO_ADDRESSES)

    assert (reply.options["server_id"], reply.options["subnet_mask"]) == ("10.1.0.2", "255.255.0.0")


def test_each_address_comes_from_the_server_of_its_subnet():
    _, first = exchange(request("discover"), TWO_ADDRESSES)
    _, wished = exchange(request("discover", (REQUESTED, "10.1.0.7")), TWO_ADDRESSES)
    _, foreign = exchange(request("discover", (REQUESTED, "10.9.9.9")), TWO_ADDRESSES)
    _, renewed = exchange(request("request", ciaddr="10.1.0.7"), TWO_ADDRESSES)

    told = [(reply.bootp.yiaddr, reply.options["server_id"], reply.ip.src) for reply in (first, wished, foreign)]
    assert told == [
        ("10.0.0.5", "10.0.0.2", "10.0.0.2"),
        ("10.1.0.7", "10.1.0.2", "10.1.0.2"),
        ("10.0.0.5", "10.0.0.2", "10.0.0.2"),
    ]
    assert (renewed.kind, renewed.options["router"]) == (ACK, "10.1.0.1")


def test_an_address_is_not_had_from_the_server_of_another_subnet():
    _, reply = exchange(request("request", (REQUESTED, "10.1.0.7"), (SERVER, "10.0.0.2")), TWO_ADDRESSES)

    assert (reply.kind, reply.options["server_id"]) == (NAK, "10.0.0.2")


@pytest.mark.parametrize(
    ("configured", "wish", "lease", "t1"),
    [
        (86400, 3600, 3600, 1800),
        (86400, 1, 120, 60),
        (600, 86400, 600, 300),
        (60, 1, 60, 30),
        (INFINITE, 600, 600, 300),
    ],
)
def test_a_client_may_want_an_address_for_a_shorter_time(configured, wish, lease, t1):
    _, reply = exchange(request("discover", ("lease_time", wish)), replace(PORT, lease_seconds=configured))

    assert (reply.options["lease_time"], reply.options["renewal_time"]) == (lease, t1)


def test_a_lease_without_end_is_never_renewed():
    _, reply = exchange(request("discover"), replace(PORT, lease_seconds=INFINITE))

    assert reply.options["lease_time"] == 0xFFFFFFFF
    assert {"renewal_time", "rebinding_time"}.isdisjoint(reply.options)


def test_rapid_commit_saves_two_messages():
    answer, reply = exchange(request("discover", (80, b"")))

    assert (answer.result, reply.kind, reply.bootp.yiaddr) == (Result.ACKNOWLEDGED, ACK, "10.0.0.5")
    assert 80 in codes(reply)


@pytest.mark.parametrize(
    "client_id", [b"\x01" + bytes(6), b"\xff\x00\x00\x00\x01\x00\x02" + bytes(range(40)), b"\x00\x00"]
)
def test_client_ids_are_echoed_as_they_came(client_id):
    for frame in (
        request("discover", ("client_id", client_id)),
        request("request", ("client_id", client_id), ciaddr="1.1.1.1"),
    ):
        _, reply = exchange(frame)
        assert reply.options["client_id"] == client_id


def test_a_relay_agents_option_means_nothing():
    with_option, without = (
        exchange(frame)[1] for frame in (request("discover", (82, b"\x01\x04evil")), request("discover"))
    )

    assert bytes(with_option.eth) == bytes(without.eth)
