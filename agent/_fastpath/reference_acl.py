# SPDX-License-Identifier: Apache-2.0
"""The classifier once more, slow and obviously right: every rule is asked, one after the other.

It shares nothing with the C code but the description of ``Rule``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from agent._fastpath.key import FlowKey, Layer
from agent._fastpath.rules import ANY_PORT, Network, Place, PortRange, Rule

_UNKNOWN_PROTOCOL = 255


def explain(rules: Iterable[Rule], flow: FlowKey, place: Place) -> tuple[int, ...]:
    """Return the ids of all rules that match, the winner first."""
    found = [rule for rule in rules if all(_conditions(rule, flow, place))]
    return tuple(rule.id for rule in sorted(found, key=lambda rule: (-rule.priority, rule.id)))


def _conditions(rule: Rule, flow: FlowKey, place: Place) -> Iterator[bool]:
    version = _version(flow)
    yield rule.network in (None, place.network)
    yield rule.port in (None, place.port)
    yield rule.direction in (None, place.direction)
    yield rule.eth_type in (None, flow.eth_type)
    yield rule.version in (None, version)
    yield rule.protocol is None or _protocol_is(rule.protocol, rule.protocol_mask, flow)
    yield rule.src is None or _is_in(rule.src, flow.src, version)
    yield rule.dst is None or _is_in(rule.dst, flow.dst, version)
    if rule.src_ports != ANY_PORT or rule.dst_ports != ANY_PORT:
        yield bool(flow.layers & (Layer.TCP | Layer.UDP))
        yield _is_between(rule.src_ports, flow.src_port)
        yield _is_between(rule.dst_ports, flow.dst_port)
    if rule.icmp_type is not None or rule.icmp_code is not None:
        yield bool(flow.layers & (Layer.ICMP | Layer.ICMPV6))
        yield rule.icmp_type in (None, flow.icmp_type)
        yield rule.icmp_code in (None, flow.icmp_code)
    yield rule.dscp is None or rule.dscp == frozenset(range(64)) or (version is not None and flow.tos >> 2 in rule.dscp)
    yield (
        rule.fragments is None or len(rule.fragments) == 3 or (version is not None and flow.fragment in rule.fragments)
    )


def _version(flow: FlowKey) -> int | None:
    if flow.layers & Layer.IPV4:
        return 4
    return 6 if flow.layers & Layer.IPV6 else None


def _protocol_is(value: int, mask: int, flow: FlowKey) -> bool:
    if mask == 0:
        return True
    protocol = flow.protocol if flow.l4_offset else _UNKNOWN_PROTOCOL
    return _version(flow) is not None and protocol & mask == value & mask


def _is_in(network: Network, address: bytes, version: int | None) -> bool:
    return version == network.version and ip_address(address[: 4 if version == 4 else 16]) in network


def _is_between(ports: PortRange, port: int) -> bool:
    return ports[0] <= port <= ports[1]
