# SPDX-License-Identifier: Apache-2.0
"""The C parser against its slow twin, against scapy, and against its own contract."""

from __future__ import annotations

import itertools
from array import array

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether

from agent._fastpath import Fragment, Layer, PacketBatch, Parsed, Result, parse, reference
from tests.property.fastpath_frames import frames, well_formed

MANY = settings(max_examples=2 * settings().max_examples)


@MANY
@given(frames)
def test_c_and_reference_agree(frame: bytes) -> None:
    assert parse(frame) == reference.parse(frame)


@given(well_formed)
def test_what_is_well_formed_is_valid(frame: bytes) -> None:
    result, key = parse(frame)
    assert result == Result.VALID
    assert key.layers & Layer.ETHERNET


@MANY
@given(frames, st.data())
def test_a_prefix_is_truncated_or_tells_the_same(frame: bytes, data: st.DataObject) -> None:
    whole = parse(frame)
    cut = data.draw(st.integers(0, len(frame)))
    part = parse(frame[:cut])
    if part.result == Result.TRUNCATED:
        assert part.key.layers & ~whole.key.layers == Layer.NONE
    else:
        assert part == whole


@given(st.lists(frames, max_size=4), st.data())
def test_a_batch_tells_what_single_calls_tell(many: list[bytes], data: st.DataObject) -> None:
    gap = data.draw(st.integers(0, 5))
    offsets = itertools.accumulate((len(frame) + gap for frame in many), initial=0)
    spans = array("I", [number for pair in zip(offsets, map(len, many), strict=False) for number in pair])
    batch = PacketBatch(4)
    assert batch.parse(b"".join(frame + bytes(gap) for frame in many), spans) == len(many)
    assert list(batch) == [parse(frame) for frame in many]
    assert batch.results == bytes(parse(frame).result for frame in many)


@given(well_formed)
def test_scapy_sees_the_same(frame: bytes) -> None:
    packet = Ether(frame)
    parsed = parse(frame)
    key = parsed.key
    assert (packet.dst, packet.src) == (key.eth_dst.hex(":"), key.eth_src.hex(":"))
    tags = [layer for layer in _layers(packet) if isinstance(layer, Dot1Q | Dot1AD)]
    assert len(tags) == key.vlan_count
    if tags:
        assert tags[0].prio << 13 | tags[0].dei << 12 | tags[0].vlan == key.vlan_tci
    if IP in packet and key.eth_type == 0x0800:
        _compare_ipv4(packet[IP], parsed)
    elif IPv6 in packet and key.eth_type == 0x86DD:
        _compare_ipv6(packet[IPv6], parsed)
    elif key.eth_type == 0x0806:
        arp = packet[ARP]
        assert (arp.op, arp.psrc, arp.pdst) == (key.arp_op, key.source, key.destination)
        assert (arp.hwsrc, arp.hwdst) == (key.arp_sha.hex(":"), key.arp_tha.hex(":"))


def _layers(packet: Ether) -> list[Ether]:
    return [packet.getlayer(index) for index in range(len(packet.layers()))]


def _compare_ipv4(ip: IP, parsed: Parsed) -> None:
    key = parsed.key
    assert (ip.src, ip.dst, ip.tos, ip.ttl, ip.proto) == (key.source, key.destination, key.tos, key.ttl, key.protocol)
    assert _fragment(ip.frag, bool(ip.flags.MF)) == key.fragment
    if key.fragment == Fragment.NONE:
        _compare_transport(ip, parsed)


def _compare_ipv6(ip: IPv6, parsed: Parsed) -> None:
    key = parsed.key
    assert (ip.src, ip.dst, ip.tc, ip.hlim) == (key.source, key.destination, key.tos, key.ttl)
    extensions = (IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt, IPv6ExtHdrRouting, IPv6ExtHdrFragment, AH)
    last, fragment = ip, Fragment.NONE
    while isinstance(last.payload, extensions):
        last = last.payload
        if isinstance(last, AH):
            return  # scapy looks no further
        if isinstance(last, IPv6ExtHdrFragment):
            fragment = _fragment(last.offset, bool(last.m))
            if fragment == Fragment.LATER:
                break
    assert (last.nh, fragment) == (key.protocol, key.fragment)
    if key.fragment == Fragment.NONE:
        _compare_transport(ip, parsed)


def _fragment(offset: int, more: bool) -> Fragment:
    if offset:
        return Fragment.LATER
    return Fragment.FIRST if more else Fragment.NONE


def _compare_transport(ip: IP, parsed: Parsed) -> None:
    key = parsed.key
    assert (TCP in ip) == bool(key.layers & Layer.TCP)
    assert (UDP in ip) == bool(key.layers & Layer.UDP)
    for layer in (TCP, UDP):
        if layer in ip:
            assert (ip[layer].sport, ip[layer].dport) == (key.src_port, key.dst_port)
    if TCP in ip:
        assert ip[TCP].reserved << 9 | int(ip[TCP].flags) == key.tcp_flags
