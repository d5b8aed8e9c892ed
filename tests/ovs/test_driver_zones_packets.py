# SPDX-License-Identifier: Apache-2.0
"""What driver ``zones`` writes, seen by packets through real bridges.  Needs root."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.packet import Raw

from agent.command import CommandRunner
from agent.core.errors import CommandError
from agent.core.plan import Delta, ObjectId
from agent.drivers.conntrack_table import ConntrackTable
from agent.drivers.zones import ZonesDriver
from tests.ovs.zone_bridges import make_bridges, namespace, shell, wire, zones_of_connections

BASE = {"base": "present"}
HEADER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
OLD = IP(src="10.0.0.1", dst="10.0.0.2")
NEW = IPv6(src="2001:db8::1", dst="2001:db8::2")
# What our filters do with what they let pass.
FILTER = "-w -A FORWARD -i qbr+ -j MARK --set-xmark 0x20000000/0x20000000"


class WithoutNft(CommandRunner):
    """A host that has no nft, or whose kernel takes tables of some families only."""

    def __init__(self, *families: str) -> None:
        super().__init__()
        self._families = families

    def __call__(self, argv, **options):
        text = str(options.get("stdin", "")) + " ".join(argv)
        if argv[0] == "nft" and not any(f"table {family} " in text for family in self._families):
            raise CommandError(argv, 1, "Error: Could not process rule: Operation not supported")
        return super().__call__(argv, **options)


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with namespace():
        yield


def flush(zones: Collection[int]) -> None:
    ConntrackTable().flush(zones)


def creating(**zones: str) -> Delta:
    return Delta(creates={**BASE, **zones})


def put_filters() -> None:
    shell(f"iptables {FILTER}; ip6tables {FILTER}")


def udp(ip: IP | IPv6, size: int = 8, fill: bytes = b"x", sport: int = 1000) -> Ether:
    return HEADER / ip / UDP(sport=sport, dport=2000) / Raw(fill * size)


PLAIN = (udp(OLD), udp(NEW))
TAGGED = (
    HEADER / Dot1Q(vlan=0, prio=3) / OLD / UDP(),
    HEADER / Dot1Q(vlan=5) / OLD / UDP(),
    HEADER / Dot1Q(vlan=5) / NEW / UDP(),
    HEADER / Dot1Q(vlan=5) / ARP(),
    Ether(src=HEADER.src, dst=HEADER.dst, type=0x88A8) / Dot1Q(vlan=5) / Dot1Q(vlan=6) / OLD / UDP(),
    HEADER / PPPoE(sessionid=1) / PPP(proto=0x21) / OLD / UDP(),
    HEADER / PPPoE(sessionid=1) / PPP(proto=0x57) / NEW / UDP(),
    Ether(src=HEADER.src, dst=HEADER.dst, type=0x88CC) / Raw(b"lldp" * 16),
)


@pytest.mark.parametrize(("source", "target"), [("ina", "qvoa"), ("qvoa", "ina")], ids=["out", "in"])
def test_the_guard_lets_pass_what_a_filter_has_marked_and_arp(source, target):
    make_bridges("a")
    driver = ZonesDriver(CommandRunner(), flush)
    with wire(source, target) as line:
        assert line.passes(*PLAIN) == [True, True]  # the bridge alone is open

        assert driver.apply(creating(qbra="5")) == {}
        assert line.passes(*PLAIN) == [False, False]
        assert line.passes(HEADER / ARP()) == [True]

        put_filters()
        assert line.passes(*PLAIN) == [True, True]
        shell("ip6tables -F FORWARD")
        assert line.passes(*PLAIN) == [True, False]
        shell("iptables -F FORWARD")
        assert line.passes(*PLAIN) == [False, False]


@pytest.mark.parametrize("settings", ["0", "1"])
def test_tagged_and_unknown_frames_never_pass(settings):
    make_bridges("a")
    for name in ("bridge-nf-filter-vlan-tagged", "bridge-nf-filter-pppoe-tagged", "bridge-nf-pass-vlan-input-dev"):
        Path(f"/proc/sys/net/bridge/{name}").write_text(settings)
    ZonesDriver(CommandRunner(), flush).apply(creating(qbra="5"))
    put_filters()
    for source, target in (("ina", "qvoa"), ("qvoa", "ina")):
        with wire(source, target) as line:
            assert line.passes(*PLAIN) == [True, True]
            assert line.passes(*TAGGED) == [False] * len(TAGGED)


def test_bridges_whose_filters_are_switched_off_shut():
    make_bridges("a", flags=False)
    ZonesDriver(CommandRunner(), flush).apply(creating(qbra="5"))
    put_filters()
    with wire("ina", "qvoa") as line:
        assert line.passes(*PLAIN) == [True, True]
        for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
            Path(f"/proc/sys/net/bridge/{name}").write_text("0")
        assert line.passes(*PLAIN) == [False, False]


def test_a_mark_does_not_follow_the_packet_out_of_the_bridge():
    make_bridges("a")
    ZonesDriver(CommandRunner(), flush).apply(creating(qbra="5"))
    put_filters()
    shell("nft add table netdev t; nft 'add chain netdev t c { type filter hook ingress device qvoa priority 0; }'")
    shell("nft add rule netdev t c meta mark and 0x30000000 != 0 drop")
    with wire("ina", "qvoa") as line:
        assert line.passes(*PLAIN) == [True, True]


def test_each_bridge_has_its_zone_and_a_zone_is_emptied_before_its_first_use():
    make_bridges("a", "b", "c")
    driver = ZonesDriver(CommandRunner(), flush)
    driver.apply(creating(qbra="5", qbrb="6", qbrc="7 notrack"))
    put_filters()
    shell("iptables -A FORWARD -m conntrack --ctstate NEW; ip6tables -A FORWARD -m conntrack --ctstate NEW")

    def talk(*letters: str) -> None:
        for x in letters:
            with wire(f"in{x}", f"qvo{x}") as line:
                assert line.passes(*PLAIN) == [True, True]

    talk("a", "b", "c")
    assert zones_of_connections() == [5, 5, 6, 6]

    assert driver.apply(creating(qbra="5", qbrb="6", qbrc="7 notrack")) == {}
    assert zones_of_connections() == [5, 5, 6, 6]
    # A number that somebody else had before: connections of that time must not count.
    assert driver.apply(Delta(deletes={"qbrb": "6"})) == {}
    assert zones_of_connections() == [5, 5, 6, 6]
    assert driver.apply(Delta(updates={"qbrc": ("7 notrack", "6")})) == {}
    assert zones_of_connections() == [5, 5]
    talk("c")
    assert zones_of_connections() == [5, 5, 6, 6]
    # And when two change places at once.
    assert driver.apply(Delta(updates={"qbrc": ("6", "5"), "qbra": ("5", "6")})) == {}
    assert zones_of_connections() == []
    assert driver.observe() == {**BASE, "qbra": "6", "qbrc": "5"}


def fragments_of_tenants(version: int) -> tuple[list[Ether], list[Ether]]:
    """Return the fragments of two datagrams that differ in nothing but their content."""
    if version == 4:
        ip = IP(src="10.0.0.1", dst="10.0.0.2", id=77)
        first, second = (fragment(udp(ip, 2000, fill), 1000) for fill in (b"a", b"b"))
    else:
        header = IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(id=77)
        first, second = (
            [HEADER / one[IPv6] for one in fragment6(header / UDP(sport=1, dport=2) / Raw(fill * 2000), 1000)]
            for fill in (b"a", b"b")
        )
    return list(first), list(second)


@pytest.mark.parametrize("tracked", ["", " notrack"], ids=["tracked", "untracked"])
@pytest.mark.parametrize("version", [4, 6])
def test_fragments_of_two_tenants_never_mix(version, tracked):
    make_bridges("a", "b")
    ZonesDriver(CommandRunner(), flush).apply(creating(qbra=f"5{tracked}", qbrb=f"6{tracked}"))
    put_filters()
    # What puts fragments together is only there when somebody asks for connections.
    shell("iptables -A FORWARD -m conntrack --ctstate NEW; ip6tables -A FORWARD -m conntrack --ctstate NEW")
    ours, theirs = fragments_of_tenants(version)
    with wire("ina", "qvoa") as one, wire("inb", "qvob") as other:
        one.send(ours[0])
        other.send(*theirs[1:])
        assert (one.received(), other.received()) == ([], [])  # neither is complete

        other.send(theirs[0])
        one.send(*ours[1:])
        for line, letter, foreign in ((one, b"a", b"b"), (other, b"b", b"a")):
            content = b"".join(line.received())
            assert content.count(letter * 100) >= 15, "it did not come through"
            assert foreign * 4 not in content


def test_fragments_cross_bridges_only_where_zones_come_too_late():
    """The fallback's limit is as it says; if this fails, the sentence can go."""
    make_bridges("a", "b")
    driver = ZonesDriver(WithoutNft(), flush, "nft")
    driver.apply(creating(qbra="5", qbrb="6"))
    shell("iptables -A FORWARD -m conntrack --ctstate NEW")
    ours, theirs = fragments_of_tenants(4)
    with wire("ina", "qvoa") as one, wire("inb", "qvob") as other:
        one.send(ours[0])
        other.send(*theirs[1:])
        content = b"".join(chain(one.received(), other.received()))
    assert b"aaaa" in content
    assert b"bbbb" in content
    assert "can mix" in driver.limits()[0]


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_without_nft_zones_are_set_all_the_same(backend):
    make_bridges("a", "b", "c")
    driver = ZonesDriver(WithoutNft(), flush, backend)
    wanted = {**BASE, "qbra": "5", "qbrb": "6", "qbrc": "7 notrack"}
    assert driver.apply(Delta(creates=wanted)) == {}
    assert driver.observe() == wanted
    assert len(driver.limits()) == 2
    put_filters()
    for family in ("iptables", "ip6tables"):
        shell(f"{family} -A FORWARD -m conntrack --ctstate NEW -m mark ! --mark 0x10000000/0x10000000 -j DROP")
    for x in "abc":
        with wire(f"in{x}", f"qvo{x}") as line:
            assert line.passes(*PLAIN) == [True, True]
    assert zones_of_connections() == [5, 5, 6, 6]
    assert driver.apply(Delta(updates={"qbra": ("5", "9")}, deletes={"qbrc": "7 notrack"})) == {}
    assert zones_of_connections() == [5, 5, 6, 6]
    assert driver.apply(Delta(updates={"qbra": ("9", "6")}, deletes={"qbrb": "6"})) == {}
    assert zones_of_connections() == [5, 5]
    assert driver.observe() == {**BASE, "qbra": "6"}


def test_the_guard_stands_alone_where_only_zones_are_refused():
    make_bridges("a")
    driver = ZonesDriver(WithoutNft("bridge"), flush, "nft")
    assert driver.apply(creating(qbra="5")) == {}
    assert driver.observe() == {**BASE, "qbra": "5"}
    assert len(driver.limits()) == 1
    with wire("ina", "qvoa") as line:
        assert line.passes(*PLAIN) == [False, False]
        put_filters()
        assert line.passes(*PLAIN) == [True, True]
    shell("nft delete table bridge hostplane")
    assert driver.observe({"base": ObjectId("filters")})["base"] != "present"


def test_icmp_errors_and_echoes_stay_in_their_zone():
    make_bridges("a", "b")
    ZonesDriver(CommandRunner(), flush).apply(creating(qbra="5", qbrb="6"))
    put_filters()
    shell("iptables -A FORWARD -m conntrack --ctstate NEW -j ACCEPT; iptables -P FORWARD ACCEPT")
    shell("iptables -I FORWARD -m conntrack --ctstate ESTABLISHED -j DROP")
    answer = HEADER / IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(type=0, id=9)
    with wire("ina", "qvoa") as out, wire("qvob", "inb") as other, wire("qvoa", "ina") as back:
        assert out.passes(HEADER / OLD / ICMP(id=9)) == [True]
        assert other.passes(answer) == [True]  # in that zone it is nobody's answer
        assert back.passes(answer) == [False]  # in this one it is, and the rule above drops it
