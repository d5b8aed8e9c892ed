# SPDX-License-Identifier: Apache-2.0
"""Whatever octets a tenant sends: an answer to that port with that port's addresses, or silence; never more."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp6 import DHCP6_Request, DHCP6OptDNSDomains
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether

from agent.dhcp import frames6, v6_packet
from agent.dhcp.domain_names import encode_names
from agent.dhcp.frames import PacketError
from agent.dhcp.v6_packet import Association, Code, Lease, Message, MessageType
from tests.dhcp6_client import CLIENT_ID, OWN, PORT, SERVER_ID, answer, ia_na, leases, udp_frame
from tests.property.dhcp6_mutations import CORPUS, judge, mutate, repair

TIMES = st.integers(0, 0xFFFFFFFF)
ADDRESSES = st.binary(min_size=16, max_size=16)
LEASES = st.lists(st.builds(Lease, ADDRESSES, TIMES, TIMES), max_size=4).map(tuple)
STATUS = st.none() | st.tuples(st.integers(0, 0xFFFF), st.text(max_size=20))
NA = st.builds(Association, st.just(Code.IA_NA), TIMES, TIMES, TIMES, LEASES, STATUS)
TA = st.builds(Association, st.just(Code.IA_TA), TIMES, leases=LEASES, status=STATUS)
PD = st.builds(Association, st.just(Code.IA_PD), TIMES, TIMES, TIMES, status=STATUS)
OPTIONS = st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=12).map(tuple)
PAYLOADS = st.binary(max_size=300)
LABELS = st.text(st.sampled_from("abcxyz019-_"), min_size=1, max_size=63)


@given(frame=st.binary(max_size=400))
def test_any_octets_are_a_packet_or_none(frame):
    judge(frame)


@given(which=st.integers(0, len(CORPUS) - 1), body=PAYLOADS)
def test_any_octets_behind_right_headers_are_judged(which, body):
    judge(repair(CORPUS[which][: 14 + 40 + 8] + body))


@given(kind=st.sampled_from(MessageType), options=OPTIONS)
def test_any_options_of_any_message_are_judged(kind, options):
    judge(udp_frame(v6_packet.encode(Message(kind, b"abc", options))))


def test_changed_messages_of_clients_are_answered_as_what_they_are_or_not_at_all():
    dice = random.Random(4)
    found = Counter(judge(mutate(dice.choice(CORPUS), dice)) for _ in range(8000))

    assert found["  malformed"] > 100  # it tries both
    assert found["dhcpv6 solicit answered"] > 100
    assert found["ra solicitation answered"] > 100
    assert found["nd solicitation answered"] > 30
    assert len(found) > 20


@given(kind=st.integers(1, 11), transaction=st.binary(min_size=3, max_size=3), options=OPTIONS)
def test_messages_come_back_as_they_went(kind, transaction, options):
    message = Message(kind, transaction, options)

    assert v6_packet.decode(v6_packet.encode(message)) == message
    assert len(v6_packet.encode(message)) == v6_packet.message_size(options)


@given(association=NA | TA | PD)
def test_associations_come_back_as_they_went(association):
    code, payload = v6_packet.encode_association(association)

    assert v6_packet.decode_association(Code(code), payload) == association


@given(payload=PAYLOADS, ports=st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)), hops=st.integers(0, 255))
def test_datagrams_come_back_as_they_went_and_as_scapy_has_them(payload, ports, hops):
    envelope = frames6.Envelope(b"\2abcde", b"\6fghij", frames6.packed(OWN), frames6.packed("fe80::1"), hops)
    frame = frames6.build_datagram(envelope, payload, *ports)
    theirs = Ether(frame)
    del theirs[UDP].chksum

    assert frames6.parse(frame) == frames6.Datagram(envelope, ports[0], ports[1], payload)
    assert bytes(theirs) == frame


@given(frame=st.sampled_from(CORPUS), at=st.integers(22, 400), bit=st.integers(0, 7))
def test_a_packet_with_one_wrong_bit_is_none(frame, at, bit):
    """The checksum covers addresses and message; the ICMPv6 or UDP length field is checked beside it."""
    at = 22 + (at - 22) % (len(frame) - 22)
    damaged = bytearray(frame)
    damaged[at] ^= 1 << bit
    try:
        parsed = frames6.parse(bytes(damaged))
    except PacketError:
        return
    raise AssertionError(f"octet {at} was changed, and it was taken for {parsed}")


@settings(max_examples=30)
@given(
    iaids=st.lists(TIMES, min_size=1, max_size=8, unique=True), wishes=st.lists(st.booleans(), min_size=8, max_size=8)
)
def test_scapy_reads_all_that_is_granted(iaids, wishes):
    message = DHCP6_Request(trid=1) / CLIENT_ID / SERVER_ID
    for iaid, wished in zip(iaids, wishes, strict=False):
        message /= ia_na(*([OWN] if wished else []), iaid=iaid)
    frame = answer(udp_frame(message), PORT).frame
    assert frame is not None
    found = leases(Ether(frame))

    assert list(found) == iaids
    assert [lease[0] for granted in found.values() for lease in granted] == [OWN]


@given(names=st.lists(st.lists(LABELS, min_size=1, max_size=3).map(".".join), min_size=1, max_size=4, unique=True))
def test_scapy_reads_search_lists(names):
    wire = encode_names(names)
    option = DHCP6OptDNSDomains(bytes((0, 24)) + len(wire).to_bytes(2) + wire)

    assert option.dnsdomains == [f"{name}." for name in names]
