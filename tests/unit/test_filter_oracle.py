# SPDX-License-Identifier: Apache-2.0
"""The judge is judged: what the API says in so many words, and that its packets are what they claim to be."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP

from tests.functional import filter_oracle as api
from tests.functional.filter_oracle import EGRESS, INGRESS, Group, Oracle, Packet, PortState, Rule, World, answer_to
from tests.functional.filter_packets import Macs, checksum, frame

MACS = Macs("02:00:00:00:00:01", "02:00:00:00:00:02")
MARKER = b"marker-0123456"[:14]


def networks(*texts: str):
    return tuple(ipaddress.ip_network(text) for text in texts)


def packet(protocol: int = api.UDP, port: int = 80, **changes: object) -> Packet:
    """Return a packet from "one" to "two"."""
    one, two = (ipaddress.ip_address(f"10.0.0.{number}") for number in (1, 2))
    return replace(Packet("one", "two", one, two, protocol, 20_000, port), **changes)  # type: ignore[arg-type]


def six(made: Packet) -> Packet:
    """Return the same packet over IPv6."""
    one, two = (ipaddress.ip_address(f"2001:db8::{number}") for number in (1, 2))
    return replace(made, source=one, target=two)


def world(one: Group, two: Group, pairs: tuple[str, ...] = (), **lists: tuple[api.Network, ...]) -> World:
    """Return two ports, each with a group called after it."""
    ports = {
        "one": PortState(networks("10.0.0.1", "2001:db8::1", *pairs), ("one",)),
        "two": PortState(networks("10.0.0.2", "2001:db8::2"), ("two",)),
    }
    return World(ports, {"one": one, "two": two}, lists)


OPEN = Group((Rule(EGRESS, 4), Rule(EGRESS, 6), Rule(INGRESS, 4), Rule(INGRESS, 6)))
OUT_ONLY = Group((Rule(EGRESS, 4), Rule(EGRESS, 6)))


def ingress(**values: object) -> Group:
    """Return a group with one ingress rule for IPv4."""
    return Group((Rule(INGRESS, 4, **values),))  # type: ignore[arg-type]


def test_what_no_rule_allows_is_dropped_on_either_side() -> None:
    assert Oracle(world(OPEN, OPEN)).judge(packet()).passes
    assert not Oracle(world(Group(), OPEN)).judge(packet()).passes
    assert not Oracle(world(OPEN, Group())).judge(packet()).passes


@pytest.mark.parametrize(
    ("group", "passes"),
    [
        (ingress(protocol=api.UDP, low=80, high=80), True),
        (ingress(protocol=api.UDP, low=81, high=90), False),
        (ingress(protocol=api.UDP), True),
        (ingress(protocol=api.TCP), False),
        (ingress(prefix=networks("10.0.0.0/30")[0]), True),
        (ingress(prefix=networks("10.0.0.2")[0]), False),
        (ingress(group="one"), True),
        (ingress(group="two"), False),
        (ingress(address_group="office"), True),
        (ingress(address_group="nowhere"), False),
        (Group((Rule(INGRESS, 6),)), False),
        (Group((Rule(EGRESS, 4),)), False),
    ],
)
def test_a_rule_allows_what_all_its_fields_fit(group: Group, passes: bool) -> None:
    made = world(OPEN, group, office=networks("10.0.0.1"), nowhere=())
    assert Oracle(made).judge(packet()).passes is passes


def test_allowed_address_pairs_are_members_too() -> None:
    made = world(OPEN, ingress(group="one"), ("10.9.0.0/24",))
    assert Oracle(made).judge(packet(source=ipaddress.ip_address("10.9.0.7"))).passes
    assert not Oracle(made).judge(packet(source=ipaddress.ip_address("10.8.0.7"))).passes


def test_an_answer_passes_a_stateful_filter_and_no_stateless_one() -> None:
    for stateful in (True, False):
        oracle = Oracle(world(replace(OUT_ONLY, stateful=stateful), OPEN))
        assert not oracle.judge(answer_to(packet())).passes
        assert oracle.judge(packet()).passes
        assert oracle.judge(answer_to(packet())).passes is stateful


def test_an_error_passes_if_it_is_about_a_connection() -> None:
    oracle = Oracle(world(OUT_ONLY, ingress()))
    error = Packet("two", "one", packet().target, packet().source, api.ICMP, icmp_type=3, icmp_code=3, about=packet())
    assert not oracle.judge(error).passes
    assert oracle.judge(packet()).passes
    assert oracle.judge(error).passes
    assert not oracle.judge(replace(error, about=packet(port=81))).passes


def test_a_reset_ends_what_was_asked_for_and_nothing_else() -> None:
    oracle = Oracle(world(OPEN, OPEN))
    syn = packet(api.TCP, flags="S")
    assert not oracle.judge(answer_to(syn, flags="RA")).passes
    assert oracle.judge(syn).passes
    assert oracle.judge(answer_to(syn, flags="RA")).passes


def test_when_a_rule_goes_its_connections_end_and_others_go_on() -> None:
    both = Group((Rule(INGRESS, 4, api.UDP, 80, 80), Rule(INGRESS, 4, api.UDP, 22, 22)))
    oracle = Oracle(world(OUT_ONLY, both))
    for port in (80, 22):
        assert oracle.judge(packet(port=port)).passes
        assert oracle.judge(answer_to(packet(port=port))).passes
    oracle.change(world(OUT_ONLY, Group(both.rules[1:])))
    assert not oracle.judge(packet(port=80)).passes
    assert not oracle.judge(answer_to(packet(port=80))).passes
    assert oracle.judge(packet(port=22)).passes
    assert oracle.judge(answer_to(packet(port=22))).passes


def test_a_tcp_connection_that_is_over_is_not_picked_up_from_the_other_side() -> None:
    oracle = Oracle(world(OPEN, OPEN))
    syn = packet(api.TCP, flags="S")
    data, back = replace(syn, flags="A"), answer_to(syn, flags="A")
    for each in (syn, answer_to(syn, flags="SA"), data, back):
        assert oracle.judge(each).passes
    oracle.change(world(OPEN, OUT_ONLY))
    for each in (data, back, data):
        assert not oracle.judge(each).passes
    oracle.change(world(OPEN, OPEN))
    assert oracle.judge(data).passes


def test_the_port_without_groups_can_do_only_what_every_instance_needs() -> None:
    oracle = Oracle(world(Group(), OPEN))
    assert oracle.judge(packet(source_port=68, target_port=67)).passes
    for kind, passes in ((135, True), (136, True), (134, False), (128, False)):
        assert oracle.judge(six(packet(api.ICMPV6, icmp_type=kind))).passes is passes


def test_no_instance_is_a_dhcp_server_or_a_router() -> None:
    oracle = Oracle(world(OPEN, OPEN))
    assert not oracle.judge(packet(source_port=67, target_port=68)).passes


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [api.TCP, api.UDP, api.SCTP, api.ICMP])
def test_packets_are_what_they_claim_to_be(version: int, protocol: int) -> None:
    made = packet(protocol, flags="S" if protocol == api.TCP else "")
    if version == 6:
        made = replace(six(made), protocol=api.ICMPV6 if protocol == api.ICMP else protocol)
    if made.is_icmp:
        made = replace(made, icmp_type=8 if version == 4 else 128)
    content = frame(made, MACS, MARKER)
    assert MARKER in content
    parsed = Ether(content)[IP if version == 4 else IPv6]
    assert (parsed.src, parsed.dst) == (str(made.source), str(made.target))
    layer = {api.TCP: TCP, api.UDP: UDP, api.SCTP: SCTP}.get(protocol)
    if layer is not None:
        assert (parsed[layer].sport, parsed[layer].dport) == (made.source_port, made.target_port)
    again = Ether(content)
    for part in (IP, TCP, UDP, SCTP, ICMP):
        if part in again:
            del again[part].chksum
    if ICMPv6EchoRequest in again:
        del again[ICMPv6EchoRequest].cksum
    assert bytes(again)[: len(content)] == content  # scapy comes to the same checksums


def test_the_checksum_is_that_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2
