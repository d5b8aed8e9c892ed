# SPDX-License-Identifier: Apache-2.0
"""How many frames a second the packet parser takes, one by one, in batches and on two threads.

The frames are a mix of what instances send: TCP over IPv4 and IPv6 with 64 bytes of
payload, UDP behind a VLAN tag, ARP, a neighbour solicitation, a fragment.  The floor
of a batch is copying as many bytes as its keys have: no parser that returns keys can
do with less.  The floor of single frames is a batch of one.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from array import array
from collections.abc import Callable, Sequence

from agent._fastpath import PacketBatch, parse, reference
from bench.figures import RATE, Figure, Result
from bench.options import Options

NAME = "fastpath"
SAMPLES = 9
SECONDS = 0.2  # of a sample
KEY_SIZE = 104

_MACS = "fa163e000002 fa163e000001"
_IPV4 = "4500 0068 0001 4000 40 {protocol} 0000 0a000001 0a000002"
_IPV6 = "60000000 {size} {protocol} ff 20010db8000000000000000000000001 20010db8000000000000000000000002"
_TCP = "9c40 01bb 00000001 00000002 5018 2000 0000 0000" + " 00" * 64
_UDP = "9c40 0035 0054 0000" + " 00" * 76
_MIX = tuple(
    bytes.fromhex(f"{_MACS} {text}")
    for text in (
        f"0800 {_IPV4.format(protocol='06')} {_TCP}",
        f"0800 {_IPV4.format(protocol='06')} {_TCP}",
        f"86dd {_IPV6.format(size='0054', protocol='06')} {_TCP}",
        f"86dd {_IPV6.format(size='0054', protocol='06')} {_TCP}",
        f"8100 0064 0800 {_IPV4.format(protocol='11')} {_UDP}",
        "0806 0001 0800 06 04 0001 fa163e000001 0a000001 000000000000 0a000002",
        f"86dd {_IPV6.format(size='0018', protocol='3a')} 8700 0000 00000000 fe80 0000000000000000000000000009",
        f"0800 {_IPV4.format(protocol='11').replace('4000', '00b9')} {' 00' * 84}",
    )
)


def run(options: Options) -> Result:
    """Measure; the numbers of ports in *options* have no meaning here."""
    samples = 2 if options.quick else SAMPLES
    figures = [_batch(count, threads, samples) for threads in (1, 2) for count in (64, 256, 4096)]
    frames = _MIX * 32
    single = PacketBatch(1)
    ones = [(frame, array("I", (0, len(frame)))) for frame in frames]
    floor = _rates(lambda: [single.parse(frame, span) for frame, span in ones], len(frames), samples)
    figures.append(
        Figure("parse", RATE, _rates(lambda: [parse(frame) for frame in frames], len(frames), samples), {}, floor)
    )
    figures.append(
        Figure("reference", RATE, _rates(lambda: [reference.parse(frame) for frame in frames], len(frames), samples))
    )
    return Result(NAME, figures)


def _batch(count: int, threads: int, samples: int) -> Figure:
    """Parse batches of *count* frames on *threads* threads at once; the rate is that of all together."""
    frames = _MIX * (count // len(_MIX))
    spans, offset = array("I"), 0
    for frame in frames:
        spans.extend((offset, len(frame)))
        offset += len(frame)
    buffer = b"".join(frames)
    batches = [PacketBatch(count) for _ in range(threads)]
    works = [functools.partial(batch.parse, buffer, spans) for batch in batches]
    rates = [math.fsum(_together(works, count)) for _ in range(samples)]
    source, target = bytes(KEY_SIZE * count), memoryview(bytearray(KEY_SIZE * count))

    def copy() -> None:
        target[:] = source

    return Figure("parse-batch", RATE, rates, {"frames": count, "threads": threads}, _rates(copy, count, samples))


def _together(works: Sequence[Callable[[], object]], count: int) -> list[float]:
    """Return the rate of each of *works* while all run."""
    rates: list[float] = []
    threads = [threading.Thread(target=_append_rate, args=(rates, work, count)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rates


def _append_rate(rates: list[float], work: Callable[[], object], count: int) -> None:
    rates.append(_rate(work, count))


def _rates(work: Callable[[], object], count: int, samples: int) -> list[float]:
    return [_rate(work, count) for _ in range(samples)]


def _rate(work: Callable[[], object], count: int) -> float:
    """Return how many frames a second *work*, which takes *count*, does."""
    work()
    rounds, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SECONDS:
        for _ in range(16):
            work()
        rounds += 16
    return rounds * count / elapsed
