# SPDX-License-Identifier: Apache-2.0
"""How the addresses of a group are spread over small rows: extendible hashing, as pure functions.

Each address has a stable hash; a chunk holds the addresses whose hash begins with the
chunk's bits.  The chunks of a group always cover all hashes, each once: at first there
is one with no bits.  One that grows over ``LARGEST`` is divided by the next bit, two
that have shrunk become one again.  So one address more touches one row of at most
``LARGEST`` addresses, however many the group has.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Container, Mapping

LARGEST = 256
JOINED = 96  # two chunks with no more addresses than that together become one; far below LARGEST: no to and fro
BITS = 32

Counts = dict[str, int]  # address -> how many have it


def address_bits(address: str) -> str:
    """Return the hash of an address as 32 binary digits."""
    return f"{int.from_bytes(hashlib.blake2b(address.encode(), digest_size=4).digest()):032b}"


def chunk_of(address: str, chunks: Container[str]) -> str:
    """Return which of *chunks* (bits) is the address's; the one without bits if there are none."""
    bits = address_bits(address)
    return next((bits[:length] for length in range(BITS + 1) if bits[:length] in chunks), "")


def spread(addresses: Mapping[str, int], chunks: Container[str]) -> dict[str, Counts]:
    """Return *addresses* by the chunk that each belongs to."""
    found: dict[str, Counts] = defaultdict(dict)
    for address, value in addresses.items():
        found[chunk_of(address, chunks)][address] = value
    return found


def divided(chunk: str, counts: Counts) -> dict[str, Counts]:
    """Return *counts* in as many chunks below *chunk* as it takes; that alone if it is small enough."""
    if len(counts) <= LARGEST or len(chunk) == BITS:
        return {chunk: counts}
    halves: dict[str, Counts] = {chunk + "0": {}, chunk + "1": {}}
    for address, count in counts.items():
        halves[address_bits(address)[: len(chunk) + 1]][address] = count
    return {bits: part for half, found in halves.items() for bits, part in divided(half, found).items()}


def sibling(chunk: str) -> str:
    """Return the chunk that has the other half of the parent's hashes."""
    return chunk[:-1] + ("1" if chunk[-1] == "0" else "0")


def added(counts: Counts, deltas: Mapping[str, int]) -> Counts:
    """Return *counts* with *deltas* added; an address that nobody has any more is not in it."""
    result = dict(counts)
    for address, delta in deltas.items():
        count = result.pop(address, 0) + delta
        if count > 0:
            result[address] = count
    return result
