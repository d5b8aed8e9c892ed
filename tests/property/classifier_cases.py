# SPDX-License-Identifier: Apache-2.0
"""Rules for Hypothesis, most of them about the very frames that are looked up.

A rule is drawn around a packet: each condition is absent, or such that the packet
meets it, or nearly so.  So rules match, overlap, and differ in one bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network

from hypothesis import strategies as st

from agent._fastpath import FlowKey, Fragment, parse
from agent._fastpath.rules import Direction, Network, Place, PortRange, Rule
from tests.property.fastpath_frames import frames

places = st.builds(Place, st.integers(0, 3), st.integers(0, 3), st.sampled_from(Direction))
packets = st.lists(st.tuples(frames, places), min_size=1, max_size=4)

_PRIORITIES = st.integers(0, 3) | st.sampled_from([2**32 - 1])


@st.composite
def rules_about(draw: st.DrawFn, seen: Sequence[tuple[bytes, Place]], rule_id: int) -> Rule:
    frame, place = draw(st.sampled_from(seen))
    flow = parse(frame).key
    # Few conditions in one rule: else none would match, and drawing would take long.
    names = draw(st.lists(st.sampled_from(list(_CONDITIONS)), max_size=4, unique=True))
    conditions = {name: draw(_CONDITIONS[name](flow, place)) for name in names}
    if "protocol" in conditions and draw(st.booleans()):
        conditions["protocol_mask"] = 0xF0 | conditions["protocol"]
    return Rule(rule_id, draw(_PRIORITIES), **conditions)


@st.composite
def rule_sets(draw: st.DrawFn, seen: Sequence[tuple[bytes, Place]], largest: int = 12) -> list[Rule]:
    return [draw(rules_about(seen, rule_id)) for rule_id in range(draw(st.integers(0, largest)))]


def _near(value: int, bits: int = 1) -> st.SearchStrategy[int]:
    return st.just(value) | st.integers(0, bits).map(lambda flip: value ^ flip)


def _version(flow: FlowKey) -> int:
    return 4 if flow.eth_type == 0x0800 else 6


def _networks(flow: FlowKey, address: bytes) -> st.SearchStrategy[Network]:
    size = 4 if _version(flow) == 4 else 16
    flips = st.just(0) | st.integers(0, 8 * size - 1).map(lambda bit: 1 << bit)
    number = int.from_bytes(address[:size], "big")
    return st.builds(
        lambda length, flip: ip_network(((number ^ flip).to_bytes(size, "big"), length), strict=False),
        st.integers(0, 8 * size),
        flips,
    )


def _ranges(port: int) -> st.SearchStrategy[PortRange]:
    ends = st.sampled_from([0, max(0, port - 1), port, min(65535, port + 1), 1024, 65535])
    return st.tuples(ends, ends).map(lambda pair: (min(pair), max(pair)))


def _sets(value: int, every: frozenset) -> st.SearchStrategy[frozenset]:
    return st.sampled_from([frozenset({value}), every - {value}, every])


_CONDITIONS: Mapping[str, Callable[[FlowKey, Place], st.SearchStrategy]] = {
    "network": lambda _, place: _near(place.network),
    "port": lambda _, place: _near(place.port),
    "direction": lambda _, place: st.sampled_from(Direction),
    "eth_type": lambda flow, _: _near(flow.eth_type),
    "version": lambda flow, _: st.just(_version(flow)),
    "protocol": lambda flow, _: _near(flow.protocol, 2),
    "src": lambda flow, _: _networks(flow, flow.src),
    "dst": lambda flow, _: _networks(flow, flow.dst),
    "src_ports": lambda flow, _: _ranges(flow.src_port),
    "dst_ports": lambda flow, _: _ranges(flow.dst_port),
    "icmp_type": lambda flow, _: _near(flow.icmp_type),
    "icmp_code": lambda flow, _: _near(flow.icmp_code),
    "dscp": lambda flow, _: _sets(flow.tos >> 2, frozenset(range(64))),
    "fragments": lambda flow, _: _sets(flow.fragment, frozenset(Fragment)),
}
