# SPDX-License-Identifier: Apache-2.0
"""What the agent holds in memory: empty, with ports of its own, with foreign endpoints on their network.

Each figure is of a fresh process, some seconds after its first pass.  RSS counts
pages that are shared with other processes in full, PSS by its share; the peak is the
highest RSS up to then, so that of the first pass.  The store's ``ovsdb-server`` is
counted apart.  The floor is a process that imports what the agent imports.

The cost of a port and of an endpoint are differences of what the process has allocated,
divided: PSS would also move with every other Python process of the machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from agent.core.errors import ApplyError
from agent.sandbox.host import agent_environment
from bench import wiring
from bench.figures import BYTES, Figure, Params, Result
from bench.lab import Lab, lab
from bench.options import Options
from bench.processes import Memory, memory

NAME = "memory"
ENDPOINTS, MANY_ENDPOINTS = 2_000, 10_000
QUICK_ENDPOINTS, QUICK_MANY_ENDPOINTS = 50, 100
REPEATS = 3
SETTLE, QUICK_SETTLE = 3.0, 0.2  # seconds after the first pass
IMPORT = "import agent.__main__, sys; print(flush=True); sys.stdin.read()"


@dataclass(frozen=True, slots=True)
class Usage:
    """The memory of the agent and of the store's server, a sample each."""

    agent: list[Memory]
    store: list[Memory]

    def own(self) -> float:
        """What the agent has allocated, the median of the samples."""
        return statistics.median(each.own for each in self.agent)


def run(options: Options) -> Result:
    """Measure each load with fresh processes."""
    endpoints = QUICK_ENDPOINTS if options.quick else ENDPOINTS
    many = QUICK_MANY_ENDPOINTS if options.quick else MANY_ENDPOINTS
    floor = [imports_only() for _ in range(_repeats(options))]
    figures: list[Figure] = []
    with lab(NAME) as place:
        empty = measure(place, options)
        figures += _figures(empty, {"ports": 0, "endpoints": 0}, floor)
        place.start_agent()
        wiring.plug(place, place.add_ports(options.most))
        ports = measure(place, options)
        figures += _figures(ports, {"ports": options.most, "endpoints": 0}, floor)
        place.add_foreign_ports(endpoints)
        both = measure(place, options)
        params = {"ports": options.most, "endpoints": endpoints}
        figures += _figures(both, params, floor)
        figures.append(_each("per-port", ports, empty, options.most, {"ports": options.most}))
        figures.append(_each("per-endpoint", both, ports, endpoints, params))
    with lab(NAME) as place:
        place.add_ports(1)
        one = measure(place, options)
        place.add_foreign_ports(many)
        crowd = measure(place, options)
        params = {"ports": 1, "endpoints": many}
        figures += _figures(crowd, params, floor)
        figures.append(_each("per-endpoint", crowd, one, many, params))
    return Result(NAME, figures)


def _repeats(options: Options) -> int:
    return 1 if options.quick else REPEATS


def measure(place: Lab, options: Options) -> Usage:
    """Start the agent afresh, some times, and look at it when it rests."""
    usage = Usage([], [])
    for _ in range(_repeats(options)):
        place.stop_agent()
        place.start_agent()
        place.wait_idle()
        time.sleep(QUICK_SETTLE if options.quick else SETTLE)
        usage.agent.append(memory(place.agent().pid))
        usage.store.append(memory(place.store().pid))
    place.stop_agent()
    return usage


def imports_only() -> Memory:
    """Return the memory of a process that has imported what the agent imports, and does nothing."""
    argv = [sys.executable, "-c", IMPORT]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(agent_environment()))
    try:
        if process.stdout is None or not process.stdout.readline():
            raise ApplyError("the agent's modules cannot be imported")
        return memory(process.pid)
    finally:
        process.kill()
        process.communicate()


def _figures(usage: Usage, params: Params, floor: list[Memory]) -> Iterator[Figure]:
    yield Figure("pss", BYTES, [each.pss for each in usage.agent], params, [each.pss for each in floor])
    yield Figure("rss", BYTES, [each.rss for each in usage.agent], params, [each.rss for each in floor])
    yield Figure("peak", BYTES, [each.peak for each in usage.agent], params, [each.peak for each in floor])
    yield Figure("store-pss", BYTES, [each.pss for each in usage.store], params)
    yield Figure("store-rss", BYTES, [each.rss for each in usage.store], params)


def _each(name: str, more: Usage, less: Usage, count: int, params: Params) -> Figure:
    """Return what one of *count* objects costs that *more* has and *less* has not."""
    return Figure(name, BYTES, [(more.own() - less.own()) / count], params)
