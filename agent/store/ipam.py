# SPDX-License-Identifier: Apache-2.0
"""Choosing addresses and numbers: pure functions over what is in use.

The lowest free one comes first, so that a small installation gets the numbers that
its owner expects.  When another writer was quicker, the next try takes one at
random out of a window of free ones that doubles each time: many writers at once
then soon stop choosing the same.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TypeAlias

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAC_PREFIX = "fa:16:3e"  # Neutron's default base_mac
WINDOW_LIMIT = 4096


def network(cidr: str) -> IPNetwork:
    """Return a prefix that the store holds."""
    return ipaddress.ip_network(cidr)


def free_prefix(prefixes: Iterable[IPNetwork], length: int, used: Collection[IPNetwork]) -> IPNetwork | None:
    """Return the first prefix of *length* bits in one of *prefixes* that overlaps none of *used*; None without any."""
    taken = sorted((int(u.network_address), int(u.broadcast_address)) for u in used)
    for outer in sorted(prefixes, key=lambda prefix: int(prefix.network_address)):
        if length < outer.prefixlen:
            continue
        step = 1 << (outer.max_prefixlen - length)
        start = int(outer.network_address)
        for first, last in taken:
            if last >= start and first < start + step:
                start = (last // step + 1) * step
        if start + step - 1 <= int(outer.broadcast_address):
            return type(outer)((start, length))
    return None


def pick(candidates: Iterable[int], attempt: int, rng: random.Random) -> int | None:
    """Return the first candidate, or after lost races one of the first ``4 * 2**attempt``; None without any."""
    if attempt == 0:
        return next(iter(candidates), None)
    window = list(islice(candidates, min(4 << attempt, WINDOW_LIMIT)))
    return rng.choice(window) if window else None


def free_numbers(ranges: Iterable[tuple[int, int]], used: Collection[int]) -> Iterator[int]:
    """Yield the numbers of the inclusive *ranges* that are not in *used*, in order."""
    for first, last in ranges:
        yield from (number for number in range(first, last + 1) if number not in used)


def parse_pool(text: str) -> tuple[IPAddress, IPAddress]:
    """Return first and last address of ``first-last`` (a single address is a pool of one); raise ValueError."""
    first, dash, last = (part.strip() for part in text.partition("-"))
    low = ipaddress.ip_address(first)
    high = ipaddress.ip_address(last) if dash else low
    if low.version != high.version or int(low) > int(high):
        raise ValueError(f"{text} is not a range from a lower to a higher address")
    return low, high


def format_pool(first: IPAddress, last: IPAddress) -> str:
    """Return the canonical text of a pool."""
    return f"{first}-{last}"


def host_range(network: IPNetwork) -> tuple[int, int]:
    """Return the first and last address that a host may have.

    Not the network's and the broadcast address, but both of an IPv4 /31 (RFC 3021)
    and the one of a /32; of IPv6 not the subnet-router anycast address, except in
    /127 (RFC 6164) and /128.
    """
    first, last = int(network.network_address), int(network.broadcast_address)
    if network.prefixlen >= network.max_prefixlen - 1:
        return first, last
    return first + 1, last - 1 if network.version == 4 else last


def default_pools(network: IPNetwork, gateway: IPAddress | None) -> tuple[str, ...]:
    """Return the pools of a subnet for which none are given: all host addresses but the gateway's."""
    first, last = host_range(network)
    ranges = [(first, last)]
    if gateway is not None and first <= int(gateway) <= last:
        ranges = [(first, int(gateway) - 1), (int(gateway) + 1, last)]
    make = type(network.network_address)
    return tuple(format_pool(make(low), make(high)) for low, high in ranges if low <= high)


def default_gateway(network: IPNetwork) -> IPAddress | None:
    """Return the first host address; None where there is room for one host only."""
    if network.prefixlen == network.max_prefixlen:
        return None
    return type(network.network_address)(host_range(network)[0])


def pool_ranges(pools: Iterable[str]) -> list[tuple[int, int]]:
    """Return *pools* as inclusive integer ranges in order."""
    return sorted((int(first), int(last)) for first, last in map(parse_pool, pools))


class AddressPool:
    """The free addresses of one subnet, handed out one after the other.

    *used* (canonical text) is shared with the other subnets of the network and grows
    with what is taken here.  A cursor is kept, so that a thousand ports in one
    transaction do not search the pool from its start a thousand times.
    """

    def __init__(
        self, network: IPNetwork, pools: Sequence[str], used: set[str], attempt: int, rng: random.Random
    ) -> None:
        make = type(network.network_address)
        ranges = pool_ranges(pools)
        self._candidates = (str(make(number)) for low, high in ranges for number in range(low, high + 1))
        self._used = used
        self._size = 1 if attempt == 0 else min(4 << attempt, WINDOW_LIMIT)
        self._window: list[str] = []
        self._rng = rng

    def take(self) -> str | None:
        """Return an address that is free and no longer is after this; None when there is none."""
        while True:
            missing = self._size - len(self._window)
            self._window.extend(islice((a for a in self._candidates if a not in self._used), missing))
            if not self._window:
                return None
            address = self._window.pop(self._rng.randrange(len(self._window)))
            if address not in self._used:
                self._used.add(address)
                return address


def highest_free(
    network: IPNetwork, pools: Iterable[str], used: Collection[str], attempt: int, rng: random.Random
) -> str | None:
    """Return the highest free address of *pools*, or after lost races one near it; None if fewer than two are free.

    The last one is a port's: an address to answer from is of no use to a subnet that has none to give.
    """
    make = type(network.network_address)
    ranges = reversed(pool_ranges(pools))
    free = (n for low, high in ranges for n in range(high, low - 1, -1) if str(make(n)) not in used)
    two = list(islice(free, 2))
    number = pick(chain(two, free), attempt, rng) if len(two) == 2 else None
    return None if number is None else str(make(number))


def eui64_address(network: IPNetwork, mac: str) -> str:
    """Return the address that SLAAC gives *mac* in *network*, a /64 (RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    suffix = bytes([octets[0] ^ 0x02]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(ipaddress.IPv6Address(int(network.network_address) | int.from_bytes(suffix)))


def random_mac(rng: random.Random) -> str:
    """Return a random unicast MAC address with Neutron's prefix."""
    return ":".join([MAC_PREFIX, *(f"{rng.randrange(256):02x}" for _ in range(3))])
