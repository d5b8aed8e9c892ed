# SPDX-License-Identifier: Apache-2.0
"""Whatever somebody does to the host, what is forbidden does not pass; and all is put right soon."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from tests.functional import filter_host
from tests.functional.filter_flood import MARKER, flood
from tests.functional.filter_wire import Wire, namespace_of, open_link
from tests.functional.lab import EchoStream, Lab, eventually

pytestmark = pytest.mark.alone

FOREIGN = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:theirs - [0:0]
-A FORWARD -m comment --comment "not ours" -j theirs
-A theirs -p tcp -m tcp --dport 25 -j DROP
COMMIT
"""
FOREIGN_RULES = [line for line in FOREIGN.splitlines() if line.startswith("-A")]
SETTINGS = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(1)
    lab.bring_up(filter_host.DOCUMENT)
    lab.assert_connection("friend", filter_host.VICTIM)
    return lab


@pytest.fixture(scope="module")
def wire(lab: Lab) -> Iterator[Wire]:
    with Wire(filter_host.stations(lab)) as wire:
        yield wire


def both(lab: Lab, *words: str) -> None:
    for program in ("iptables", "ip6tables"):
        lab.output("host1", program, *words)


def clear_flags(lab: Lab) -> None:
    """Switch the filters of all bridges off: each its own, and the global ones."""
    script = "for d in /sys/class/net/qbr*/bridge; do echo 0 > $d/nf_call_iptables; echo 0 > $d/nf_call_ip6tables; done"
    lab.output("host1", "sh", "-c", script)
    lab.output("host1", "sysctl", "-qw", *(f"{name}=0" for name in SETTINGS))


def restore_foreign(lab: Lab) -> None:
    for program in ("iptables-restore", "ip6tables-restore"):
        lab.output("host1", program, stdin=FOREIGN)


def put_accept_first(lab: Lab) -> None:
    both(lab, "-I", "FORWARD", "-m", "comment", "--comment", "not ours", "-j", "ACCEPT")


ACCIDENTS: dict[str, Callable[[Lab], object]] = {
    "the flags of the bridges are cleared": clear_flags,
    "our first chain is flushed": lambda lab: both(lab, "-F", "hp-forward"),
    "all chains are flushed": lambda lab: both(lab, "-F"),
    "our jump is deleted": lambda lab: both(lab, "-D", "FORWARD", "1"),
    "a foreign ruleset is restored over ours": restore_foreign,
    "a foreign rule accepts everything first": put_accept_first,
    "the zones are deleted": lambda lab: lab.output("host1", "nft", "delete", "table", "inet", "hostplane"),
    "the guard is deleted": lambda lab: lab.output("host1", "nft", "delete", "table", "bridge", "hostplane"),
}


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_nothing_forbidden_passes_and_all_is_repaired(lab: Lab, wire: Wire, accident: str) -> None:
    before, found = filter_host.tables(lab), filter_host.drift(lab)
    with flood(wire, filter_host.always_forbidden(lab)) as leaks:
        ACCIDENTS[accident](lab)
        eventually(lambda: filter_host.drift(lab) > found, f"{accident}: noticed")
        filter_host.wait_repaired(lab, before, accident)
    assert not leaks.arrived, leaks.text()
    lab.assert_connection("friend", filter_host.VICTIM, 3)


def test_foreign_rules_stay_where_they_are(lab: Lab) -> None:
    before = filter_host.tables(lab)
    restore_foreign(lab)
    filter_host.wait_repaired(lab, before, "a foreign ruleset was restored over ours")
    for program in ("iptables-save", "ip6tables-save"):
        lines = lab.output("host1", program, "-t", "filter").splitlines()
        assert [line for line in lines if line in FOREIGN_RULES] == FOREIGN_RULES


def test_the_global_switch_changes_nothing(lab: Lab, wire: Wire) -> None:
    """Each bridge has its own: what is allowed goes on, what is forbidden does not begin."""
    overflowed = filter_host.overflowed(lab)
    stream = EchoStream(lab, "friend", filter_host.VICTIM)
    stream.wait_flowing()
    with flood(wire, filter_host.always_forbidden(lab)) as leaks:
        lab.output("host1", "sysctl", "-qw", *(f"{name}=0" for name in SETTINGS))
        lab.assert_connection("friend", filter_host.VICTIM)
        lab.assert_connection("friend", lab.address("victim", 6))
    report = stream.stop()
    assert not leaks.arrived, leaks.text()
    assert len(report.lost) <= filter_host.overflowed(lab) - overflowed, report.summary()


def test_a_ruleset_that_is_flushed_whole_is_back_at_once(lab: Lab, wire: Wire) -> None:
    """Guard and filters gone together: nothing is left that could drop, so all depends on how soon they are back."""
    before = filter_host.tables(lab)
    with flood(wire, filter_host.always_forbidden(lab)) as leaks:
        lab.output("host1", "nft", "flush", "ruleset")
        filter_host.wait_repaired(lab, before, "nft flush ruleset")
    print(f"nft flush ruleset: open for {leaks.seconds() * 1000:.0f} ms ({len(leaks.arrived)} of {leaks.sent} passed)")
    assert leaks.seconds() < 3.0  # a tenth of that, unless the machine is busy


def marked_in(arrived: dict[str, list[bytes]]) -> list[tuple[str, bytes]]:
    """Return which of the forbidden packets arrived where."""
    return [(place, content) for place, contents in arrived.items() for content in contents if MARKER in content]


def vlan(content: bytes, *tags: tuple[int, int]) -> bytes:
    """Return a frame with tags (TPID, TCI) put in."""
    inserted = b"".join(struct.pack("!HH", tpid, tci) for tpid, tci in tags)
    return content[:12] + inserted + content[12:]


def pppoe(content: bytes) -> bytes:
    """Return the IP packet of a frame in a PPPoE session (RFC 2516)."""
    protocol = b"\x00\x21" if content[12:14] == b"\x08\x00" else b"\x00\x57"
    body = struct.pack("!BBHH", 0x11, 0, 1, len(content) - 14 + 2) + protocol + content[14:]
    return content[:12] + b"\x88\x64" + body


WRAPPINGS: dict[str, Callable[[bytes], bytes]] = {
    "untagged": lambda content: content,
    "a priority tag": lambda content: vlan(content, (0x8100, 3 << 13)),
    "a VLAN tag": lambda content: vlan(content, (0x8100, 100)),
    "two tags": lambda content: vlan(content, (0x88A8, 7), (0x8100, 100)),
    "two priority tags": lambda content: vlan(content, (0x8100, 0), (0x8100, 0)),
    "PPPoE": pppoe,
    "PPPoE in a priority tag": lambda content: vlan(pppoe(content), (0x8100, 0)),
}


@pytest.fixture
def wrapped_flags(lab: Lab) -> None:
    """Let br_netfilter look into tags as it does by default: not at all."""
    names = ("bridge-nf-filter-vlan-tagged", "bridge-nf-filter-pppoe-tagged")
    lab.output("host1", "sysctl", "-qw", *(f"net.bridge.{name}=0" for name in names))


@pytest.mark.usefixtures("wrapped_flags")
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_no_wrapping_takes_a_packet_past_the_filter(lab: Lab, wire: Wire, wrapping: str) -> None:
    """From the instance, and from the switch's side straight into the bridge, past ``br-int``."""
    wrap = WRAPPINGS[wrapping]
    frames = filter_host.always_forbidden(lab)
    if wrapping != "untagged":  # then not even what the rules allow
        frames += filter_host.forbidden(lab, "friend", "victim", 8000) + filter_host.forbidden(lab, "stranger", "open")
    arrived = wire.exchange([(sender, wrap(content)) for sender, content in frames])
    assert not marked_in(arrived)
    switch_end = filter_host.devices(lab, "victim")["qvo"]
    with open_link(namespace_of(lab, "host1"), switch_end) as link:
        for _, content in filter_host.forbidden(lab, "stranger", "victim"):
            link.send(wrap(content))
        arrived = wire.exchange([])
    assert not marked_in(arrived)


def test_what_a_jailed_instance_wraps_does_not_reach_its_bridges_other_side(lab: Lab, wire: Wire) -> None:
    """What leaves the bridge is seen on the switch's end of the pair, before ``br-int`` could drop it."""
    frames = [content for _, content in filter_host.forbidden(lab, "jailed", "open")]
    switch_end = filter_host.devices(lab, "jailed")["qvo"]
    with open_link(namespace_of(lab, "host1"), switch_end) as link:
        wire.exchange([("jailed", wrap(content)) for wrap in WRAPPINGS.values() for content in frames])
        link.setblocking(False)
        seen = []
        while True:
            try:
                seen.append(link.recv(65536))
            except BlockingIOError:
                break
    assert any(b"fence-" in content for content in seen), "the switch's end saw nothing at all"
    assert not any(MARKER in content for content in seen)
