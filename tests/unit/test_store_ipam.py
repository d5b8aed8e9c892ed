# SPDX-License-Identifier: Apache-2.0
"""Choosing addresses and numbers, without a store."""

from __future__ import annotations

import random

import pytest

from agent.store import ipam


@pytest.mark.parametrize(
    ("cidr", "mac", "address"),
    [
        # RFC 4291 appendix A and RFC 2464 section 4 (34-56-78-9A-BC-DE).
        ("2001:db8::/64", "34:56:78:9a:bc:de", "2001:db8::3656:78ff:fe9a:bcde"),
        ("fd00:1::/64", "fa:16:3e:00:00:01", "fd00:1::f816:3eff:fe00:1"),
        ("2001:db8::/64", "02:00:00:00:00:00", "2001:db8::ff:fe00:0"),
    ],
)
def test_eui64(cidr: str, mac: str, address: str) -> None:
    assert ipam.eui64_address(ipam.network(cidr), mac) == address


@pytest.mark.parametrize(
    ("cidr", "first", "last"),
    [
        ("10.0.0.0/24", "10.0.0.1", "10.0.0.254"),
        ("10.0.0.0/31", "10.0.0.0", "10.0.0.1"),
        ("10.0.0.0/32", "10.0.0.0", "10.0.0.0"),
        ("2001:db8::/64", "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),
        ("2001:db8::/127", "2001:db8::", "2001:db8::1"),
        ("2001:db8::/128", "2001:db8::", "2001:db8::"),
    ],
)
def test_addresses_that_a_host_may_have(cidr: str, first: str, last: str) -> None:
    network = ipam.network(cidr)
    make = type(network.network_address)
    assert tuple(str(make(number)) for number in ipam.host_range(network)) == (first, last)


def test_the_first_attempt_takes_the_lowest_and_later_ones_spread() -> None:
    numbers = range(100, 10_000)
    assert ipam.pick(iter(numbers), 0, random.Random(1)) == 100
    assert ipam.pick(iter([]), 0, random.Random(1)) is None
    assert ipam.pick(iter([]), 3, random.Random(1)) is None
    chosen = {ipam.pick(iter(numbers), 5, random.Random(seed)) for seed in range(200)}
    assert len(chosen) > 50
    assert all(number is not None and number < 100 + 128 for number in chosen)


def test_a_pool_of_a_large_prefix_is_not_walked_through() -> None:
    network = ipam.network("2001:db8::/64")
    used = {"2001:db8::2"}
    pool = ipam.AddressPool(
        network, ipam.default_pools(network, ipam.default_gateway(network)), used, 0, random.Random()
    )
    assert [pool.take(), pool.take()] == ["2001:db8::3", "2001:db8::4"]
    assert used == {"2001:db8::2", "2001:db8::3", "2001:db8::4"}


@pytest.mark.parametrize("text", ["", "10.0.0.5-", "10.0.0.9-10.0.0.1", "10.0.0.1-2001:db8::1", "a-b", "10.0.0.0/24"])
def test_what_is_no_pool(text: str) -> None:
    with pytest.raises(ValueError):
        ipam.parse_pool(text)


def test_random_macs_are_unicast_with_the_prefix_that_clouds_know() -> None:
    macs = {ipam.random_mac(random.Random(seed)) for seed in range(100)}
    assert len(macs) > 95
    assert all(mac.startswith("fa:16:3e:") and len(mac) == 17 for mac in macs)
