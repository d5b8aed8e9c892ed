# SPDX-License-Identifier: Apache-2.0
"""Rule sets and headers for the classifier's benchmark: ClassBench's format, read, written, and drawn.

``draw`` makes sets in the manner of ClassBench's three seeds that the literature
measures with: acl1 (hosts and networks against services), fw1 (many wildcards) and ipc1 (in
between).  The same name and size give the same set.  ``load`` reads real ones.
"""

from __future__ import annotations

import gzip
import random
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypeAlias

from agent._fastpath.rules import Rule

Header: TypeAlias = tuple[int, int, int, int, int]  # addresses, ports, protocol

_ALL_PORTS = (0, 65535)
_IPV4_PORTS = 1  # enum fp_acl_class
_LINE = re.compile(r"@(\S+)\s+(\S+)\s+(\d+) : (\d+)\s+(\d+) : (\d+)\s+(0x\w+)/(0x\w+)")


@dataclass(frozen=True, slots=True)
class Box:
    """One five-tuple rule: prefixes as (address, length), inclusive ranges of ports, None for any protocol."""

    src: tuple[int, int]
    dst: tuple[int, int]
    src_ports: tuple[int, int]
    dst_ports: tuple[int, int]
    protocol: int | None

    def matches(self, header: Header) -> bool:
        """Say whether *header* is in the box."""
        src, dst, src_port, dst_port, protocol = header
        return (
            (src ^ self.src[0]) >> (32 - self.src[1]) == 0
            and (dst ^ self.dst[0]) >> (32 - self.dst[1]) == 0
            and self.src_ports[0] <= src_port <= self.src_ports[1]
            and self.dst_ports[0] <= dst_port <= self.dst_ports[1]
            and self.protocol in (None, protocol)
        )


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Boxes by falling priority, and headers in an order without locality."""

    boxes: Sequence[Box]
    headers: Sequence[Header]

    def rules(self) -> Iterator[Rule]:
        """The boxes as rules; ids count from 0, the first has the highest priority."""
        for index, box in enumerate(self.boxes):
            yield Rule(
                index,
                len(self.boxes) - index,
                version=4,
                protocol=box.protocol,
                src=IPv4Network(box.src),
                dst=IPv4Network(box.dst),
                src_ports=box.src_ports,
                dst_ports=box.dst_ports,
            )

    def first_match(self, header: Header) -> int | None:
        """Search all boxes, one after the other."""
        return next((index for index, box in enumerate(self.boxes) if box.matches(header)), None)


@dataclass(frozen=True, slots=True)
class _Manner:
    """Weights of prefix lengths and of kinds of ports; ``networks`` addresses share a /16."""

    src_lengths: Sequence[int]
    dst_lengths: Sequence[int]
    exact_src_ports: float
    exact_dst_ports: float
    any_protocol: float
    networks: int


_MANNERS = {
    "acl1": _Manner((0, 16, 23, 24, 27, 28, 32, 32, 32, 32), (8, 24, 27, 30, 32, 32, 32, 32, 32), 0.0, 0.7, 0.05, 200),
    "fw1": _Manner((0, 0, 0, 0, 24, 28, 29, 30, 32, 32), (0, 0, 0, 24, 28, 29, 32, 32), 0.15, 0.5, 0.1, 60),
    "ipc1": _Manner((0, 8, 14, 16, 20, 24, 28, 30, 32, 32), (0, 12, 16, 20, 24, 28, 31, 32, 32), 0.2, 0.5, 0.15, 100),
}
NAMES = tuple(_MANNERS)

_SERVICES = (20, 21, 22, 25, 53, 69, 80, 110, 119, 123, 143, 161, 443, 514, 993, 1521, 1711, 3306, 5060, 5540, 8080)


def draw(name: str, size: int, headers: int = 100_000) -> RuleSet:
    """Return *size* different rules in the manner of *name*, the last of which matches everything."""
    dice = random.Random(f"{name} {size}")
    manner = _MANNERS[name]
    networks = [dice.getrandbits(16) << 16 for _ in range(max(8, size // manner.networks))]
    drawn: set[Box] = set()
    while len(drawn) < size - 1:
        drawn.add(_draw_box(dice, manner, networks))
    # Narrow rules mostly before wide ones, as people write them.
    boxes = sorted(sorted(drawn, key=repr), key=lambda box: 12 * dice.random() - box.src[1] - box.dst[1])
    boxes.append(Box((0, 0), (0, 0), _ALL_PORTS, _ALL_PORTS, None))
    return RuleSet(boxes, [_draw_header(dice, dice.choice(boxes)) for _ in range(headers)])


def zipf(headers: Sequence[Header]) -> list[Header]:
    """Return as many headers, in which the k-th most frequent comes with a frequency of 1/k."""
    dice = random.Random(len(headers))
    ranked = dice.sample(headers, len(headers))
    return dice.choices(ranked, weights=[1 / rank for rank in range(1, len(ranked) + 1)], k=len(ranked))


def keys(headers: Sequence[Header]) -> array[int]:
    """Return the keys of *headers* (``struct fp_acl_key``), one after the other."""
    words = array("I")
    rest = (0,) * 11
    for src, dst, src_port, dst_port, protocol in headers:
        words.extend((src, dst, src_port, dst_port, protocol | _IPV4_PORTS << 8, *rest))
    return words


def load(rules: Path, trace: Path) -> RuleSet:
    """Read gzipped files in ClassBench's format."""
    with gzip.open(rules, "rt") as lines:
        boxes = [_read_box(match) for line in lines if (match := _LINE.match(line))]
    with gzip.open(trace, "rt") as lines:
        headers = [(int(w[0]), int(w[1]), int(w[2]), int(w[3]), int(w[4])) for w in map(str.split, lines) if w]
    return RuleSet(boxes, headers)


def rule_lines(boxes: Sequence[Box]) -> Iterator[str]:
    """Write boxes in ClassBench's format."""
    for box in boxes:
        ports = "\t".join(f"{first} : {last}" for first, last in (box.src_ports, box.dst_ports))
        protocol = "0x00/0x00" if box.protocol is None else f"0x{box.protocol:02x}/0xFF"
        yield f"@{IPv4Network(box.src)}\t{IPv4Network(box.dst)}\t{ports}\t{protocol}\t0x0000/0x0000\t\n"


def header_lines(headers: Sequence[Header]) -> Iterator[str]:
    """Write headers in ClassBench's format."""
    for header in headers:
        yield "\t".join(map(str, header)) + "\t0\t0\n"


def _draw_box(dice: random.Random, manner: _Manner, networks: Sequence[int]) -> Box:
    protocol = None if dice.random() < manner.any_protocol else dice.choice((6, 6, 6, 17))
    return Box(
        _draw_prefix(dice, networks, dice.choice(manner.src_lengths)),
        _draw_prefix(dice, networks, dice.choice(manner.dst_lengths)),
        _draw_ports(dice, manner.exact_src_ports),
        _draw_ports(dice, manner.exact_dst_ports),
        protocol,
    )


def _draw_prefix(dice: random.Random, networks: Sequence[int], length: int) -> tuple[int, int]:
    # Squared: some networks have many hosts with rules, most have few.
    network = networks[int(dice.random() ** 2 * len(networks))]
    return (network | dice.getrandbits(16)) >> (32 - length) << (32 - length), length


def _draw_ports(dice: random.Random, exact: float) -> tuple[int, int]:
    if dice.random() >= exact:
        return (1024, 65535) if dice.random() < exact / 4 else _ALL_PORTS
    port = dice.choice(_SERVICES) if dice.random() < 0.8 else dice.randrange(65536)
    return (port, port) if dice.random() < 0.9 else (port, min(65535, port + dice.randrange(1, 60)))


def _draw_header(dice: random.Random, box: Box) -> Header:
    return (
        box.src[0] | dice.getrandbits(32) & (1 << (32 - box.src[1])) - 1,
        box.dst[0] | dice.getrandbits(32) & (1 << (32 - box.dst[1])) - 1,
        dice.choice(box.src_ports),
        dice.choice(box.dst_ports),
        dice.choice((6, 17)) if box.protocol is None else box.protocol,
    )


def _read_box(match: re.Match[str]) -> Box:
    src, dst = (IPv4Network(text, strict=False) for text in match.group(1, 2))
    ports = [int(text) for text in match.group(3, 4, 5, 6)]
    return Box(
        (int(src.network_address), src.prefixlen),
        (int(dst.network_address), dst.prefixlen),
        (ports[0], ports[1]),
        (ports[2], ports[3]),
        int(match.group(7), 16) if int(match.group(8), 16) else None,
    )
