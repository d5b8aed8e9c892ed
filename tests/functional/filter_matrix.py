# SPDX-License-Identifier: Apache-2.0
"""Send what a topology wants to be tried, and compare what arrives with what the oracle says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tests.functional.filter_oracle import Oracle, Packet, Rule, Verdict, World
from tests.functional.filter_packets import MARKER_LENGTH, Macs, frame
from tests.functional.filter_topologies import PLACES, Topology, later_rounds_of, rounds_of
from tests.functional.filter_wire import Wire

MACS = {place.name: place.mac for place in PLACES}
_markers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A packet that did not do what the oracle says."""

    packet: Packet
    expected: Verdict
    arrived: tuple[str, ...]

    def text(self) -> str:
        """Say in a line what was sent, what came, and what should have."""
        should = "should pass" if self.expected.passes else "should be dropped"
        came = f"arrived at {', '.join(self.arrived)}" if self.arrived else "was dropped"
        return f"{describe(self.packet)}: {came}, {should} ({self.expected.reason})"


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a topology."""

    sent: int
    passed: int
    disagreements: tuple[Disagreement, ...]


class Matrix:
    """The instances' devices, and how their groups are changed.

    *change* puts a world in force; *forget* makes the hosts forget their connections.
    """

    def __init__(self, wire: Wire, change: Callable[[World], None], forget: Callable[[], None]) -> None:
        self._wire = wire
        self._change = change
        self._forget = forget

    def try_out(self, topology: Topology) -> Tried:
        """Put the topology's groups in force, send its packets, change the groups, send what follows."""
        self._change(topology.before)
        self._forget()
        oracle = Oracle(topology.before)
        tried = [self._send(oracle, packets) for packets in rounds_of(topology.conversations)]
        self._change(topology.after)
        oracle.change(topology.after)
        tried += [self._send(oracle, packets) for packets in later_rounds_of(topology.conversations)]
        wrong = tuple(each for one in tried for each in one.disagreements)
        return Tried(sum(one.sent for one in tried), sum(one.passed for one in tried), wrong)

    def _send(self, oracle: Oracle, packets: Sequence[Packet]) -> Tried:
        verdicts = [oracle.judge(packet) for packet in packets]
        marked = [(packet, b"hp%012d" % next(_markers)) for packet in packets]
        frames = [
            (packet.sender, frame(packet, Macs(MACS[packet.sender], MACS[packet.receiver]), marker))
            for packet, marker in marked
        ]
        assert all(len(marker) == MARKER_LENGTH for _, marker in marked)
        arrived = self._wire.exchange(frames)
        places: dict[bytes, list[str]] = {content[12:]: [] for _, content in frames}
        for place, contents in arrived.items():
            for content in contents:
                if content[0] & 1:  # the host announces its ports to everybody; what is tried goes to one
                    continue
                assert content[12:] in places, f"{place} got a frame that nobody sent: {content.hex()}"
                places[content[12:]].append(place)
        wrong = []
        for packet, verdict, (_, content) in zip(packets, verdicts, frames, strict=True):
            there = tuple(places[content[12:]])
            if there != ((packet.receiver,) if verdict.passes else ()):
                wrong.append(Disagreement(packet, verdict, there))
        return Tried(len(packets), sum(verdict.passes for verdict in verdicts), tuple(wrong))


def smallest(fails: Callable[[Topology], bool], topology: Topology, attempts: int = 80) -> Topology:
    """Leave out conversations, rules and changes as long as *fails* still does; at most so many attempts."""
    budget = itertools.repeat(None, attempts)

    def still(candidate: Topology) -> bool:
        return next(budget, budget) is None and fails(candidate)

    halves = len(topology.conversations) // 2
    while halves:
        for start in range(0, len(topology.conversations), halves):
            rest = topology.conversations[:start] + topology.conversations[start + halves :]
            if rest and still(replace(topology, conversations=rest)):
                topology = replace(topology, conversations=rest)
                break
        else:
            halves //= 2
    if still(replace(topology, after=topology.before)):
        topology = replace(topology, after=topology.before)
    for name, group in topology.before.groups.items():
        for rule in group.rules:
            less = replace(topology, before=_without(topology.before, name, rule))
            less = replace(less, after=_without(topology.after, name, rule))
            if still(less):
                topology = less
    return topology


def _without(world: World, name: str, rule: Rule) -> World:
    group = world.groups[name]
    rules = tuple(each for each in group.rules if each != rule)
    return replace(world, groups={**world.groups, name: replace(group, rules=rules)})


def describe(packet: Packet) -> str:
    """Return a packet in a line."""
    what = f"protocol {packet.protocol} {packet.source_port}>{packet.target_port} {packet.flags}"
    if packet.is_icmp:
        about = f" about [{describe(packet.about)}]" if packet.about else ""
        what = f"ICMP type {packet.icmp_type} code {packet.icmp_code}{about}"
    return f"{packet.sender} ({packet.source}) -> {packet.receiver} ({packet.target}) {what.strip()}"


def describe_world(world: World) -> str:
    """Return who has which groups and what is in them, as far as somebody has or uses them."""
    lines = [
        f"  {name}: {', '.join(map(str, port.addresses))}; groups {port.groups}" for name, port in world.ports.items()
    ]
    used = {group for port in world.ports.values() for group in port.groups or ()}
    for name in sorted(used):
        group = world.groups[name]
        lines.append(f"  {name} ({'stateful' if group.stateful else 'stateless'}):")
        lines += [f"    {number}: {_describe_rule(rule)}" for number, rule in enumerate(group.rules)]
    lines += [f"  address group {name}: {', '.join(map(str, of))}" for name, of in world.address_groups.items()]
    return "\n".join(lines)


def _describe_rule(rule: Rule) -> str:
    remote = rule.prefix or rule.group or rule.address_group or "any"
    kind = "group " if rule.group else "address group " if rule.address_group else ""
    return f"{rule.direction} IPv{rule.version} protocol {rule.protocol} {rule.low}:{rule.high} {kind}{remote}"


def report(topology: Topology, tried: Tried, first: Tried) -> str:
    """Return what somebody needs to see what went wrong; *first* is of the topology before it was made smaller."""
    lines = [each.text() for each in tried.disagreements[:10]]
    lines += ["in the whole topology:", *(each.text() for each in first.disagreements[:10])]
    for conversation in topology.conversations:
        lines += ["sent:", *(describe(packet) for packet in conversation.rounds)]
        lines += ["sent afterwards:", *(describe(packet) for packet in conversation.later)]
    lines += ["groups:", describe_world(topology.before)]
    if topology.after != topology.before:
        lines += ["afterwards:", describe_world(topology.after)]
    return "\n".join(lines)
