# SPDX-License-Identifier: Apache-2.0
"""The programs that ask: their frames are right, and they know a right answer from a wrong one."""

from __future__ import annotations

import os
import struct

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from agent.core.errors import ApplyError
from bench import dhcp_load, http_load
from bench.dhcp_load import ACK, DISCOVER, OFFER, REQUEST, XID, YIADDR
from bench.figures import NUMBER
from bench.processes import companions
from bench.services import Series, percentile

MAC, ADDRESS, SERVER = "fa:16:3e:00:00:07", "10.0.0.7", "10.0.255.254"
OCTETS = bytes.fromhex(MAC.replace(":", ""))


def answer(kind: int, *, first: bool = True) -> bytes:
    options = [("message-type", kind), ("server_id", SERVER), "end"]
    if not first:
        options[0], options[1] = options[1], options[0]
    bootp = BOOTP(op=2, xid=0x1234, yiaddr=ADDRESS, chaddr=OCTETS) / DHCP(options=options)
    return bytes(Ether(dst=MAC) / IP(src=SERVER, dst=ADDRESS) / UDP(sport=67, dport=68) / bootp)


@pytest.mark.parametrize("kind", [DISCOVER, REQUEST])
def test_a_request_is_one_that_others_understand(kind):
    octets = dhcp_load.frame(OCTETS, kind, b"\x32\x04\x0a\x00\x00\x07")
    struct.pack_into("!I", octets, XID, 0xABCDEF01)
    read = Ether(bytes(octets))

    options: dict[str, object] = dict([option for option in read[DHCP].options if isinstance(option, tuple)])
    assert (read.dst, read.src, read[IP].dst) == ("ff:ff:ff:ff:ff:ff", MAC, "255.255.255.255")
    assert read[BOOTP].xid == 0xABCDEF01
    assert read[BOOTP].chaddr[:6] == OCTETS
    assert options["message-type"] == kind
    assert options["requested_addr"] == ADDRESS
    checksum = read[IP].chksum
    del read[IP].chksum
    assert Ether(bytes(read))[IP].chksum == checksum


@pytest.mark.parametrize("first", [True, False])
def test_what_an_answer_says_is_found_wherever_it_stands(first):
    offer = answer(OFFER, first=first)

    assert dhcp_load.kind_of(offer) == OFFER
    assert dhcp_load.kind_of(answer(ACK, first=first)) == ACK
    assert offer[YIADDR : YIADDR + 4] == bytes((10, 0, 0, 7))
    assert dict(dhcp_load.options_of(offer))[54] == bytes((10, 0, 255, 254))


def test_an_http_answer_is_whole_when_its_body_is():
    octets = bytearray(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")

    assert [http_load.whole(octets[:size]) for size in (10, len(octets) - 1, len(octets))] == [0, 0, len(octets)]
    assert http_load.whole(bytearray(b"HTTP/1.1 204 No Content\r\n\r\n")) == 27


def test_of_a_hundred_times_the_ninety_ninth_is_the_one_that_ninety_nine_do_not_exceed():
    times = [float(number) for number in range(100, 0, -1)]

    assert percentile(times, 99) == 99
    assert percentile(times[:1], 99) == 100


def test_a_sample_in_which_something_was_lost_measures_nothing():
    good = {"done": 100, "seconds": 0.5, "lost": 0, "wrong": 0, "times": [0.001] * 100}
    series = Series()
    series.take("ours", good)

    assert series.rates == [200]
    with pytest.raises(ApplyError, match="ours: 1 were not answered, 2 wrongly: a stranger's"):
        series.take("ours", {**good, "lost": 1, "wrong": 2, "first_wrong": "a stranger's"})
    assert series.figures(("many", "one"), {NUMBER: 1}, Series())[0].median == 200


def test_this_process_is_one_of_its_namespace():
    assert os.getpid() in companions(os.getpid())
