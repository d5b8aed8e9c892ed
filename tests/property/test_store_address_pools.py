# SPDX-License-Identifier: Apache-2.0
"""Pools: every free address is given out exactly once, whatever was in use and however many races were lost."""

from __future__ import annotations

import ipaddress
import random

from hypothesis import given
from hypothesis import strategies as st

from agent.store import ipam
from agent.store.ipam import IPNetwork

NETWORKS = st.one_of(
    st.builds(lambda n, p: ipaddress.ip_network((n, p), strict=False), st.integers(0, 2**32 - 1), st.integers(24, 32)),
    st.builds(
        lambda n, p: ipaddress.ip_network((ipaddress.IPv6Address(n), p), strict=False),
        st.integers(0, 2**128 - 1),
        st.integers(120, 128),
    ),
)


def hosts(network: IPNetwork) -> set[str]:
    first, last = ipam.host_range(network)
    make = type(network.network_address)
    return {str(make(number)) for number in range(first, last + 1)}


@given(network=NETWORKS, data=st.data(), attempt=st.integers(0, 6), seed=st.integers(0, 1000))
def test_a_pool_gives_each_free_address_once(network: IPNetwork, data: st.DataObject, attempt: int, seed: int) -> None:
    gateway = ipam.default_gateway(network)
    pools = ipam.default_pools(network, gateway)
    in_use = data.draw(st.sets(st.sampled_from(sorted(hosts(network)))))
    pool = ipam.AddressPool(network, pools, set(in_use), attempt, random.Random(seed))
    given_out = []
    while (address := pool.take()) is not None:
        given_out.append(address)
    assert len(given_out) == len(set(given_out))
    assert set(given_out) == hosts(network) - in_use - {str(gateway)}
    if attempt == 0:
        numbers = [int(ipaddress.ip_address(address)) for address in given_out]
        assert numbers == sorted(numbers)


@given(network=NETWORKS, data=st.data())
def test_default_pools_are_all_host_addresses_but_the_gateway(network: IPNetwork, data: st.DataObject) -> None:
    gateway = data.draw(st.none() | st.sampled_from(sorted(hosts(network))).map(ipaddress.ip_address))
    covered = {
        str(type(network.network_address)(number))
        for first, last in ipam.pool_ranges(ipam.default_pools(network, gateway))
        for number in range(first, last + 1)
    }
    assert covered == hosts(network) - {str(gateway)}


@given(
    macs=st.sets(st.integers(0, 2**48 - 1), min_size=2, max_size=5),
    prefix=st.integers(0, 2**64 - 1),
)
def test_automatic_addresses_differ_as_macs_do(macs: set[int], prefix: int) -> None:
    network = ipaddress.ip_network((ipaddress.IPv6Address(prefix << 64), 64))
    texts = {":".join(f"{octet:02x}" for octet in mac.to_bytes(6)) for mac in macs}
    addresses = {ipam.eui64_address(network, mac) for mac in texts}
    assert len(addresses) == len(macs)
    assert all(ipaddress.ip_address(address) in network for address in addresses)
