# SPDX-License-Identifier: Apache-2.0
"""Each decision of ``fp_packet.h``, asked of the C parser and of its reference."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import pytest

import agent._fastpath as fastpath
from agent._fastpath import FlowKey, Fragment, Layer, PacketBatch, Parsed, Result, reference
from agent._fastpath._fp import ffi, lib
from tests.unit.fastpath.frames import (
    DST,
    SAMPLES,
    SRC,
    TARGET,
    V4_SRC,
    arp,
    authentication,
    ether,
    extension,
    fragment_header,
    icmp,
    ipv4,
    ipv6,
    nd,
    tcp,
    udp,
)

Parser = Callable[[bytes], Parsed]
L2, V4, V6 = Layer.ETHERNET, Layer.ETHERNET | Layer.IPV4, Layer.ETHERNET | Layer.IPV6
V4_FIELDS = {"tos": 0xB8, "ttl": 63, "l3_offset": 14, "eth_type": 0x0800}
V6_FIELDS = {"tos": 0xB8, "ttl": 255, "l3_offset": 14, "eth_type": 0x86DD}
TCP_FIELDS = {"src_port": 40000, "dst_port": 443, "tcp_flags": 0x12}
UDP_FIELDS = {"src_port": 5353, "dst_port": 53}
ND_FIELDS = {"icmp_type": 135, "nd_target": TARGET}

VALID: list[tuple[str, bytes, dict[str, Any]]] = [
    ("tcp", SAMPLES["tcp4"], {**V4_FIELDS, **TCP_FIELDS, "layers": V4 | Layer.TCP, "l4_offset": 34}),
    ("all 12 tcp flags", ipv4(6, tcp(0xFFF)), {"tcp_flags": 0xFFF}),
    ("udp", SAMPLES["udp4"], {**V4_FIELDS, **UDP_FIELDS, "layers": V4 | Layer.UDP, "l4_offset": 34}),
    ("icmp", ipv4(1, icmp(3, 4)), {"icmp_type": 3, "icmp_code": 4, "layers": V4 | Layer.ICMP}),
    ("ip options are skipped", SAMPLES["options4"], {**TCP_FIELDS, "l4_offset": 38}),
    ("a protocol that we do not parse", ipv4(132, b"sctp"), {"protocol": 132, "layers": V4, "l4_offset": 34}),
    ("icmpv6 over ipv4 is only a number", ipv4(58, nd()), {"protocol": 58, "layers": V4}),
    ("icmp over ipv6 is only a number", ipv6(1, icmp()), {"protocol": 1, "layers": V6}),
    ("ports of a first fragment", SAMPLES["first4"], {**UDP_FIELDS, "fragment": Fragment.FIRST}),
    ("no ports of a later fragment", SAMPLES["later4"], {"src_port": 0, "layers": V4, "fragment": Fragment.LATER}),
    ("the last fragment is a later one", ipv4(6, tcp(), fragment=0x0001), {"layers": V4, "fragment": Fragment.LATER}),
    ("do not fragment is no fragment", ipv4(6, tcp(), fragment=0x4000), {**TCP_FIELDS, "fragment": Fragment.NONE}),
    ("tcp6", SAMPLES["tcp6"], {**V6_FIELDS, **TCP_FIELDS, "layers": V6 | Layer.TCP, "l4_offset": 54}),
    ("solicitation", ipv6(58, nd()), {**V6_FIELDS, **ND_FIELDS, "layers": V6 | Layer.ICMPV6 | Layer.ND}),
    ("advertisement", ipv6(58, nd(136)), {"icmp_type": 136, "nd_target": TARGET}),
    ("nd with a code is none", ipv6(58, nd(code=1)), {"nd_target": bytes(16), "layers": V6 | Layer.ICMPV6}),
    ("a whole chain of extension headers", SAMPLES["chain6"], {**TCP_FIELDS, "protocol": 6, "fragment": Fragment.NONE}),
    ("eight extension headers", ipv6(60, 7 * extension(60) + extension(6) + tcp()), TCP_FIELDS),
    ("ah counts in words of 4", ipv6(51, authentication(6, 4) + tcp()), {**TCP_FIELDS, "l4_offset": 78}),
    ("esp ends the chain", ipv6(60, extension(50) + b"secret"), {"protocol": 50, "layers": V6}),
    ("no next header", ipv6(59, b""), {"protocol": 59, "layers": V6}),
    ("first fragment 6", SAMPLES["first6"], {**UDP_FIELDS, "fragment": Fragment.FIRST}),
    ("later fragment 6", SAMPLES["later6"], {"protocol": 17, "src_port": 0, "fragment": Fragment.LATER}),
    (
        "a later fragment's next header is not followed",
        ipv6(44, fragment_header(60, offset=8) + bytes([6, 0]) + bytes(30)),
        {"protocol": 60, "fragment": Fragment.LATER},
    ),
    ("atomic fragment", ipv6(44, fragment_header(6) + tcp()), {**TCP_FIELDS, "fragment": Fragment.NONE}),
    ("jumbogram", SAMPLES["jumbo6"], {**UDP_FIELDS, "l4_offset": 62}),
    (
        "arp",
        arp(op=2),
        {"arp_op": 2, "arp_sha": SRC, "arp_tha": DST, "layers": L2 | Layer.ARP, "src": V4_SRC + bytes(12)},
    ),
    ("rarp is an ethertype", ether(0x8035, bytes(28)), {"eth_type": 0x8035, "layers": L2}),
    ("802.3 length", SAMPLES["llc"], {"eth_type": 0x26, "layers": L2, "eth_dst": DST, "eth_src": SRC}),
    ("priority tag", ether(0x0800, ipv4(6, tcp())[14:], (0x8100, 0xE000)), {**TCP_FIELDS, "vlan_tci": 0xE000}),
    ("the outermost tag", SAMPLES["qinq"], {"vlan_tpid": 0x88A8, "vlan_tci": 100, "vlan_count": 2, "l3_offset": 22}),
    ("four tags", ether(0x9999, b"", *[(0x8100, n) for n in (9, 8, 7, 6)]), {"vlan_count": 4, "vlan_tci": 9}),
    ("ethernet padding is no transport header", ipv4(59, b"") + bytes(26), {"layers": V4}),
    ("payload may be missing", ipv4(6, tcp() + bytes(1000))[:54], TCP_FIELDS),
    ("tcp options may be missing", ipv4(6, tcp(offset=15, options=bytes(40)))[:54], TCP_FIELDS),
]

TRUNCATED: list[tuple[str, bytes, Layer]] = [
    ("nothing", b"", Layer.NONE),
    ("ethernet", SAMPLES["tcp4"][:13], Layer.NONE),
    ("tag", SAMPLES["vlan"][:17], L2),
    ("second tag", SAMPLES["qinq"][:21], L2),
    ("arp", SAMPLES["arp"][:41], L2),
    ("ipv4", SAMPLES["tcp4"][:33], L2),
    ("ipv6", SAMPLES["tcp6"][:53], L2),
    ("tcp", SAMPLES["tcp4"][:53], V4),
    ("udp behind options", ipv4(17, udp(), options=bytes(40))[:81], V4),
    ("icmp", SAMPLES["icmp4"][:35], V4),
    ("extension header", SAMPLES["chain6"][:61], V6),
    ("nd target", SAMPLES["nd6"][:77], V6 | Layer.ICMPV6),
]

MALFORMED: list[tuple[str, bytes, Layer]] = [
    ("ip version", ipv4(6, tcp(), first=0x65), L2),
    ("ip header size", ipv4(6, tcp(), first=0x44), L2),
    ("total size below the header", ipv4(6, tcp(), total=19), L2),
    ("total size zero", ipv4(6, tcp(), total=0), L2),
    ("tcp reaches over the declared end", ipv4(6, tcp(), total=39), V4),
    ("first fragment without ports", ipv4(6, tcp()[:8], fragment=0x2000) + bytes(40), V4),
    ("first fragment with half a tcp header", ipv4(6, tcp()[:16], fragment=0x2000) + bytes(40), V4),
    ("tcp data offset", ipv4(6, tcp(offset=4)), V4),
    ("tcp options over the end", ipv4(6, tcp(offset=6)), V4),
    ("udp size below its header", ipv4(17, udp(size=7)), V4),
    ("udp size zero", ipv4(17, udp(size=0)), V4),
    ("udp over the end", ipv4(17, udp(size=14)), V4),
    ("short icmp", ipv4(1, icmp()[:7]), V4),
    ("ipv6 version", ipv6(6, tcp(), first=4), L2),
    ("ipv6 payload too short", ipv6(6, tcp(), size=19), V6),
    ("ipv6 payload zero", ipv6(6, tcp(), size=0), V6),
    ("hop-by-hop not first", ipv6(60, extension(0) + extension(6) + tcp()), V6),
    ("two fragment headers", ipv6(44, fragment_header(44) + fragment_header(6) + tcp()), V6),
    ("nine extension headers", ipv6(60, 8 * extension(60) + extension(6) + tcp()), V6),
    ("extension over the end", ipv6(60, extension(6, 3)[:8] + tcp()), V6),
    ("first fragment without the transport header", ipv6(44, fragment_header(6, more=True)), V6),
    ("nd without its target", ipv6(58, nd()[:23]), V6 | Layer.ICMPV6),
    ("arp for another hardware", arp("0006 0800 06 04"), L2),
    ("arp for another protocol", arp("0001 86dd 06 10"), L2),
    ("five tags", ether(0x0800, ipv4(6, tcp())[14:], *[(0x8100, 1)] * 5), L2),
]


@pytest.fixture(params=[fastpath.parse, reference.parse], ids=["c", "reference"])
def parse(request: pytest.FixtureRequest) -> Parser:
    return request.param


@pytest.mark.parametrize(("frame", "expected"), [case[1:] for case in VALID], ids=[case[0] for case in VALID])
def test_valid(parse: Parser, frame: bytes, expected: dict[str, Any]) -> None:
    result, key = parse(frame)
    assert result == Result.VALID
    assert {name: getattr(key, name) for name in expected} == expected


@pytest.mark.parametrize(("frame", "layers"), [case[1:] for case in TRUNCATED], ids=[case[0] for case in TRUNCATED])
def test_truncated(parse: Parser, frame: bytes, layers: Layer) -> None:
    result, key = parse(frame)
    assert (result, key.layers) == (Result.TRUNCATED, layers)


@pytest.mark.parametrize(("frame", "layers"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_malformed(parse: Parser, frame: bytes, layers: Layer) -> None:
    result, key = parse(frame)
    assert (result, key.layers) == (Result.MALFORMED, layers)
    assert (key.src_port, key.dst_port) == (0, 0)


def test_addresses_as_text(parse: Parser) -> None:
    texts = {name: (parse(frame).key.source, parse(frame).key.destination) for name, frame in SAMPLES.items()}
    assert texts["tcp4"] == ("10.0.0.1", "10.0.0.2")
    assert texts["tcp6"] == ("2001:db8::1", "2001:db8::2")
    assert texts["arp"] == ("10.0.0.1", "10.0.0.2")
    assert texts["llc"] == (None, None)


def test_the_key_has_the_fields_of_the_structure_in_their_order() -> None:
    fields = [name for name, _ in ffi.typeof("struct fp_flow_key").fields if not name.startswith("reserved")]
    assert fields == list(FlowKey.__dataclass_fields__)


def test_the_limits_are_those_of_the_header() -> None:
    assert (lib.FP_MAX_VLAN_TAGS, lib.FP_MAX_EXTENSIONS) == (reference.MAX_VLAN_TAGS, reference.MAX_EXTENSIONS)


def test_a_batch_reads_frames_anywhere_in_any_buffer() -> None:
    buffer = bytearray(b"headroom" + SAMPLES["tcp4"] + SAMPLES["arp"])
    size4, size_arp = len(SAMPLES["tcp4"]), len(SAMPLES["arp"])
    batch = PacketBatch(4)
    spans = array("I", [8 + size4, size_arp, 8, size4, 8, 13])
    assert batch.parse(buffer, spans) == 3
    assert [parsed.result for parsed in batch] == [Result.VALID, Result.VALID, Result.TRUNCATED]
    assert batch[0] == fastpath.parse(SAMPLES["arp"])
    assert batch[1] == fastpath.parse(SAMPLES["tcp4"])
    assert batch.parse(memoryview(b""), array("I", [0, 0])) == 1
    assert (len(batch), batch[0].result) == (1, Result.TRUNCATED)
    assert batch.parse(b"", array("I")) == 0
    with pytest.raises(IndexError):
        batch[0]


@pytest.mark.parametrize(
    "spans",
    [
        array("I", [0, 54, 1, 54]),  # the second reaches out of the buffer
        array("I", [55, 0]),
        array("I", [0xFFFFFFFF, 2]),  # the sum overflows 32 bits
        array("I", [0, 54, 0]),  # half a pair
        array("I", [0, 54] * 3),  # more than it can hold
    ],
)
def test_a_batch_refuses_as_a_whole_and_keeps_what_it_had(spans: array[int]) -> None:
    batch = PacketBatch(2)
    batch.parse(SAMPLES["udp4"], array("I", [0, len(SAMPLES["udp4"])]))
    with pytest.raises(ValueError, match="frame"):
        batch.parse(SAMPLES["tcp4"], spans)
    assert list(batch) == [fastpath.parse(SAMPLES["udp4"])]


def test_a_batch_needs_room() -> None:
    with pytest.raises(ValueError, match="capacity"):
        PacketBatch(0)
