# SPDX-License-Identifier: Apache-2.0
"""DHCPv4 messages and their frames against scapy, both ways; what is malformed is said to be."""

from __future__ import annotations

import struct
import time
from dataclasses import replace

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.l2 import Dot1Q, Ether

from agent.dhcp import frames
from agent.dhcp.frames import Datagram, PacketError
from agent.dhcp.v4_packet import MIN_LENGTH, Code, Header, Message, assemble, build, encode_option, parse
from tests.unit.dhcp_v4_client import IDENTITY, MAC, request

HARDWARE = bytes.fromhex(MAC.replace(":", ""))
COOKIE = b"\x63\x82\x53\x63"
FIXED = Header(op=1, xid=7, chaddr=HARDWARE)


def raw(options: bytes, sname: bytes = b"", file: bytes = b"", cookie: bytes = COOKIE, hlen: int = 6) -> bytes:
    """Return a message whose option field holds *options* as they are."""
    head = struct.pack("!BBBBIHH16x16s64s128s", 1, 1, hlen, 0, 7, 0, 0, HARDWARE, sname, file)
    return head + cookie + options


def test_what_scapy_builds_is_read_as_it_was_meant():
    frame = request(
        "request", ("requested_addr", "10.0.0.5"), ("param_req_list", [1, 3, 6]), ("client_id", b"\xff\x01\x02"),
        flags=0x8000, secs=9, hops=1, ciaddr="10.0.0.7", sname=b"server", file=b"file",
    )  # fmt: skip
    message = parse(frames.parse_udp4(frame).payload)

    assert message == Message(
        Header(
            op=1, xid=0x12345678, chaddr=HARDWARE, hops=1, secs=9, flags=0x8000, ciaddr=bytes((10, 0, 0, 7)),
            sname=b"server", file=b"file",
        ),
        {53: b"\x03", 50: bytes((10, 0, 0, 5)), 55: b"\x01\x03\x06", 61: b"\xff\x01\x02"},
    )  # fmt: skip


def test_scapy_reads_what_we_build_as_it_was_meant():
    header = Header(
        op=2, xid=99, chaddr=HARDWARE, flags=0x8000, yiaddr=bytes((10, 0, 0, 5)), siaddr=bytes((10, 0, 0, 9)),
        giaddr=bytes((10, 0, 0, 8)), sname=b"s", file=b"f", secs=3, hops=2,
    )  # fmt: skip
    parsed = BOOTP(build(Message(header, {Code.MESSAGE_TYPE: b"\x02", Code.ROUTER: bytes((10, 0, 0, 1))})))

    assert (parsed.op, parsed.xid, parsed.yiaddr, parsed.siaddr, parsed.giaddr) == (
        2,
        99,
        "10.0.0.5",
        "10.0.0.9",
        "10.0.0.8",
    )
    assert (parsed.secs, parsed.hops, parsed.hlen, parsed.chaddr[:6]) == (3, 2, 6, HARDWARE)
    assert (parsed.sname.rstrip(b"\0"), parsed.file.rstrip(b"\0")) == (b"s", b"f")
    assert parsed[DHCP].options[:3] == [("message-type", 2), ("router", "10.0.0.1"), "end"]


def test_messages_are_as_long_as_bootp_demands():
    assert len(build(Message(FIXED))) == MIN_LENGTH


@pytest.mark.parametrize(
    ("octets", "options"),
    [
        pytest.param(raw(b"\x35\x01\x01\xff\x35\x01\x02"), {53: b"\x01"}, id="nothing-counts-after-the-end"),
        pytest.param(raw(b"\0\0\x35\x01\x01\0\xff"), {53: b"\x01"}, id="padding-between"),
        pytest.param(raw(b"\x35\x01\x01"), {53: b"\x01"}, id="no-end"),
        pytest.param(raw(b"\x50\x00\xff"), {80: b""}, id="empty-option"),
        pytest.param(raw(b"\x4d\x02ab\x01\x00\x4d\x02cd\xff"), {77: b"abcd", 1: b""}, id="pieces-rfc3396"),
        pytest.param(
            raw(b"\x4d\x01a\x34\x01\x03\xff", sname=b"\x4d\x01c\xff", file=b"\x4d\x01b\x0c\x01h"),
            {77: b"abc", 52: b"\x03", 12: b"h"},
            id="overload-file-before-sname",
        ),
        pytest.param(
            raw(b"\x34\x01\x01\xff", file=b"\x35\x01\x01\xff"), {52: b"\x01", 53: b"\x01"}, id="overload-file"
        ),
        pytest.param(
            raw(b"\x34\x01\x02\xff", sname=b"\x35\x01\x01\xff"), {52: b"\x02", 53: b"\x01"}, id="overload-sname"
        ),
        pytest.param(raw(b"\xff", file=b"\x35\x01\x01\xff"), {}, id="no-overload"),
        pytest.param(raw(b"\x52\x04\x01\x02xy\xff"), {82: b"\x01\x02xy"}, id="relay-agent-information-uninterpreted"),
    ],
)
def test_options_are_found_where_the_rfcs_put_them(octets, options):
    assert dict(parse(octets).options) == options


def test_overloaded_fields_are_no_names():
    message = parse(raw(b"\x34\x01\x01\xff", sname=b"server", file=b"\x0c\x01h\xff"))

    assert (message.header.file, message.header.sname) == (b"", b"server")


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        pytest.param(b"", "too few", id="empty"),
        pytest.param(raw(b"")[:239], "too few", id="cut-in-the-cookie"),
        pytest.param(raw(b"", cookie=b"\x63\x82\x53\x62"), "magic cookie", id="cookie"),
        pytest.param(raw(b"\xff", hlen=17), "hardware address length 17", id="hardware-address"),
        pytest.param(raw(b"\x35"), "option 53 has no length", id="no-length"),
        pytest.param(raw(b"\x35\x02\x01"), "option 53 ends after", id="too-long"),
        pytest.param(raw(b"\x0c\xffabc"), "option 12 ends after", id="far-too-long"),
        pytest.param(raw(b"\x35\x02\x01\x01\xff"), "option 53 has 2 octets", id="type-of-two-octets"),
        pytest.param(raw(b"\x35\x01\x01\x35\x01\x01\xff"), "option 53 has 2 octets", id="type-twice"),
        pytest.param(raw(b"\x35\x00\xff"), "option 53 has 0 octets", id="type-of-nothing"),
        pytest.param(raw(b"\x32\x03abc\xff"), "option 50 has 3 octets", id="address"),
        pytest.param(raw(b"\x36\x05abcde\xff"), "option 54 has 5 octets", id="server"),
        pytest.param(raw(b"\x39\x01\xff\xff"), "option 57 has 1 octets", id="size"),
        pytest.param(raw(b"\x33\x00\xff"), "option 51 has 0 octets", id="lease"),
        pytest.param(raw(b"\x34\x01\x04\xff"), "overload 04", id="overload-4"),
        pytest.param(raw(b"\x34\x00\xff"), "overload ", id="overload-nothing"),
        pytest.param(raw(b"\x34\x01\x01\xff", file=b"\x0c\xff" + b"x" * 126), "option 12 ends after", id="in-file"),
        pytest.param(raw(b"\x34\x01\x02\xff", sname=b"\0" * 63 + b"\x0c"), "option 12 has no length", id="in-sname"),
        pytest.param(raw(b"\x34\x01\x01\xff", file=b"\x34\x01\x03\xff"), "option 52 has 2 octets", id="overload-again"),
    ],
)
def test_malformed_messages_are_told_apart(octets, why):
    with pytest.raises(PacketError, match=why):
        parse(octets)


def test_reading_takes_time_in_proportion_to_length():
    """Many pieces of one option must not be joined one by one."""
    largest = raw(b"\x4d\x01a" * 21_700)
    start = time.process_time()
    message = parse(largest)

    assert message.options[77] == b"a" * 21_700
    assert time.process_time() - start < 0.25  # it takes 5 ms; one by one, a second


def test_what_does_not_fit_goes_into_unused_fields_and_comes_back():
    options = {code: bytes((code,)) * 60 for code in range(200, 207)}
    message = Message(FIXED, options)
    octets = build(message, 548)

    assert len(octets) <= 548
    assert parse(octets).options == {**options, Code.OVERLOAD: b"\x03"}


def test_used_fields_are_not_overwritten():
    header = replace(FIXED, file=b"boot", sname=b"server")
    found = parse(build(Message(header, {code: bytes(60) for code in range(200, 210)}), 548))

    assert (found.header.file, found.header.sname) == (b"boot", b"server")
    assert list(found.options) == [200, 201, 202, 203]


def test_what_fits_nowhere_is_left_out_whole():
    found = parse(build(Message(FIXED, {200: bytes(250), 201: bytes(250), 202: bytes(20)}), 548))

    assert {code: len(value) for code, value in found.options.items()} == {200: 250, 202: 20}


def test_long_options_go_in_pieces_and_come_back():
    octets = build(Message(FIXED, {121: bytes(range(256)) * 2}), 1472)

    assert encode_option(121, bytes(256))[255 + 2 :] == b"\x79\x01\x00"
    assert parse(octets).options == {121: bytes(range(256)) * 2}


@pytest.mark.parametrize(
    "header", [replace(FIXED, chaddr=bytes(17)), replace(FIXED, file=bytes(129)), replace(FIXED, sname=bytes(65))]
)
def test_fields_that_are_too_long_are_not_cut(header):
    with pytest.raises(PacketError, match="too long"):
        assemble(header, [])


DATAGRAM = Datagram(
    eth_dst=HARDWARE,
    eth_src=bytes.fromhex(IDENTITY.replace(":", "")),
    src=bytes((10, 0, 0, 2)),
    dst=bytes((10, 0, 0, 5)),
    src_port=67,
    dst_port=68,
    payload=b"odd",
)


@pytest.mark.parametrize("payload", [b"", b"odd", b"even", bytes(1400), b"\xff" * 1400])
def test_frames_have_the_checksums_that_scapy_computes(payload):
    frame = frames.build_udp4(replace(DATAGRAM, payload=payload))
    expected = (
        Ether(dst=MAC, src=IDENTITY)
        / IP(src="10.0.0.2", dst="10.0.0.5", id=0, ttl=64)
        / UDP(sport=67, dport=68)
        / payload
    )

    assert frame == bytes(expected)
    assert frames.parse_udp4(frame) == replace(DATAGRAM, payload=payload)


def test_a_checksum_of_zero_is_sent_as_its_complement():
    """RFC 768: 0 would say that there is none."""
    sums = {frames.build_udp4(replace(DATAGRAM, payload=number.to_bytes(2)))[40:42] for number in range(1 << 16)}

    assert b"\0\0" not in sums
    assert b"\xff\xff" in sums


def over(inner, **ip):
    return Ether(dst=IDENTITY, src=MAC) / IP(src="10.0.0.5", dst="10.0.0.2", **ip) / inner


UDP_HELLO = UDP(sport=68, dport=67) / b"hello"


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(bytes(over(UDP_HELLO)) + bytes(20), id="padding"),
        pytest.param(bytes(over(UDP(sport=68, dport=67, chksum=0) / b"hello")), id="no-checksum"),
        pytest.param(bytes(over(UDP_HELLO, options=[IPOption_Router_Alert()])), id="ip-options"),
        pytest.param(bytes(over(UDP_HELLO, flags="DF", tos=0x10)), id="dont-fragment"),
        # what the kernel leaves to the device: the sum over addresses, protocol and length
        pytest.param(bytes(over(UDP(sport=68, dport=67, chksum=0x1425) / b"hello")), id="offloaded-checksum"),
    ],
)
def test_good_frames_are_taken(frame):
    datagram = frames.parse_udp4(frame)

    assert (datagram.payload, datagram.src_port, datagram.dst_port) == (b"hello", 68, 67)


GOOD = bytes(over(UDP_HELLO))


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        pytest.param(b"", "too short", id="empty"),
        pytest.param(GOOD[:41], "too short", id="no-udp-header"),
        pytest.param(GOOD[:-1], "IPv4 length", id="cut"),
        pytest.param(bytes(Ether(dst=IDENTITY, src=MAC) / Dot1Q(vlan=0) / IP() / UDP_HELLO), "not hold IPv4", id="tag"),
        pytest.param(bytes(over(UDP_HELLO, ihl=4)), "does not begin", id="short-header"),
        pytest.param(bytes(over(UDP_HELLO, ihl=15)), "IPv4 length|checksum", id="long-header"),
        pytest.param(bytes(over(UDP_HELLO, version=6)), "does not begin", id="version"),
        pytest.param(bytes(over(UDP_HELLO, proto=6)), "protocol 6", id="tcp"),
        pytest.param(bytes(over(UDP_HELLO, flags="MF")), "fragment", id="first-fragment"),
        pytest.param(bytes(over(UDP_HELLO, frag=1)), "fragment", id="later-fragment"),
        pytest.param(bytes(over(UDP_HELLO, chksum=1)), "header's checksum", id="ip-checksum"),
        pytest.param(bytes(over(UDP(sport=68, dport=67, chksum=1) / b"hello")), "UDP checksum", id="udp-checksum"),
        pytest.param(bytes(over(UDP(sport=68, dport=67, len=7) / b"hello")), "UDP length 7", id="udp-too-short"),
        pytest.param(bytes(over(UDP(sport=68, dport=67, len=14) / b"hello")), "UDP length 14", id="udp-too-long"),
    ],
)
def test_bad_frames_are_told_apart(frame, why):
    with pytest.raises(PacketError, match=why):
        frames.parse_udp4(frame)


def test_what_is_larger_than_a_packet_is_not_built():
    with pytest.raises(PacketError, match="do not fit"):
        frames.build_udp4(replace(DATAGRAM, payload=bytes(65508)))


def test_bootp_over_udp_is_what_the_frame_helper_sends():
    assert Ether(request("discover"))[BOOTP].chaddr[:6] == HARDWARE
