# SPDX-License-Identifier: Apache-2.0
"""Keys and values of driver ``routes``: what they mean, and what is refused."""

from __future__ import annotations

import pytest

from agent.core.errors import ApplyError
from agent.drivers.routes_text import Address, Hop, Neighbor, Prefix, Setting, hops_text, parse_hops, parse_key

V4, V6 = bytes([10, 0, 0, 1]), bytes.fromhex("fe80" + "00" * 13 + "01")


@pytest.mark.parametrize(
    ("text", "thing"),
    [
        ("address eth0 10.0.0.1/24", Address("eth0", V4, 24)),
        ("address eth0 fe80::1/64", Address("eth0", V6, 64)),
        ("route 0.0.0.0/0", Prefix(bytes(4), 0)),
        ("route ::/0", Prefix(bytes(16), 0)),
        ("neighbor eth0 fe80::1", Neighbor("eth0", V6)),
        ("sysctl net.ipv4.ip_forward", Setting("/proc/sys/net/ipv4/ip_forward")),
        ("sysctl net.ipv6.conf.eth0/7.disable_ipv6", Setting("/proc/sys/net/ipv6/conf/eth0.7/disable_ipv6")),
    ],
)
def test_a_key_names_a_thing_in_a_namespace(text, thing):
    assert parse_key(f"qrouter-1 {text}") == ("qrouter-1", thing)


@pytest.mark.parametrize(
    "text",
    [
        "address eth0 10.0.0.1",
        "address eth0 10.0.0.256/24",
        "address eth0 10.0.0.1/x",
        "route default",
        "route 10.0.0.0/8 dev eth0",
        "neighbor eth0 10.0.0.1/32",
        "sysctl kernel.hostname",
        "sysctl net/../kernel.hostname",
        "sysctl net.//.kernel",
        "sysctl net..ipv4",
        "rule 1",
        "",
    ],
)
def test_what_is_no_key_is_refused(text):
    with pytest.raises(ApplyError, match="is no address, route, neighbor or sysctl"):
        parse_key(f"qrouter-1 {text}")


@pytest.mark.parametrize(
    ("text", "hops"),
    [
        ("via 10.0.0.1 dev eth0", (Hop("eth0", V4),)),
        ("via fe80::1 dev eth0 onlink", (Hop("eth0", V6, onlink=True),)),
        ("dev eth0", (Hop("eth0"),)),
        ("nexthop via 10.0.0.1 dev eth0 nexthop via 10.0.0.1 dev eth1", (Hop("eth0", V4), Hop("eth1", V4))),
    ],
)
def test_ways_are_read_as_they_are_written(text, hops):
    assert parse_hops(text) == hops
    assert hops_text(hops[::-1]) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eth0",
        "via eth0",
        "via 10.0.0.1 dev eth0, via 10.0.0.2 dev eth0",
        "via x dev y",
        "nexthop via 10.0.0.1 dev eth0",
        "nexthop dev eth0 nexthop dev eth1",
        "nexthop via 10.0.0.1 dev eth0 nexthop via 10.0.0.1 dev eth0",
        "nexthop via 10.0.0.1 dev eth0 weight 2 nexthop via 10.0.0.2 dev eth0",
    ],
)
def test_what_is_no_way_is_refused(text):
    with pytest.raises(ApplyError, match="a route cannot lead"):
        parse_hops(text)
