# SPDX-License-Identifier: Apache-2.0
"""How long until 1, 10, 100, 400 interfaces that appear at once are ports that are up.

The clock starts when the transaction that adds all interfaces has committed.  It
stops when the store says of the last port that it is up.  A dump of the switch's
flows follows at once: they must be all that there ever will be, else the benchmark
fails.

The floor is the same work without an agent: the same transaction, waiting until
Open vSwitch has numbered all interfaces, then one bundle with exactly the flows that
the agent installs for them, on a switch that holds what the agent's held before.

``after-numbers`` is the part from the last number on: what the agent adds to the time
that Open vSwitch takes to open the devices.  Its floor is the bundle alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench.figures import SECONDS, Figure, Result
from bench.lab import Lab, check_flows, lab
from bench.options import Options
from bench.switch import Interface, Switch

NAME = "wiring"
REPEATS = {1: 7, 10: 7, 100: 5}
MANY_REPEATS = 3
SETTLE = 0.3  # seconds of rest between two measurements


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from the commit on: until all interfaces are numbered, and until the end."""

    numbered: float
    end: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement; ``base`` and ``flows`` are the flows before and after."""

    times: Times
    base: frozenset[str]
    flows: frozenset[str]


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of the agent and of the floor, in turn."""

    agent: list[Times] = field(default_factory=list)
    bare: list[Times] = field(default_factory=list)

    def figures(self, name: str, ports: int) -> list[Figure]:
        """Return the whole time as *name*, and the part after the numbers."""
        params = {"ports": ports}
        rests = [[times.end - times.numbered for times in series] for series in (self.agent, self.bare)]
        return [
            Figure(name, SECONDS, [times.end for times in self.agent], params, [times.end for times in self.bare]),
            Figure("after-numbers", SECONDS, rests[0], params, rests[1]),
        ]


def run(options: Options) -> Result:
    """Measure each number of ports, with the floor after each sample."""
    figures: list[Figure] = []
    with lab(NAME) as place:
        place.start_agent()
        place.bare.make_bridge()
        for count in options.ports:
            place.add_ports(count - len(place.interfaces))
            repeats = 1 if options.quick else REPEATS.get(count, MANY_REPEATS)
            figures += measure(place, place.interfaces, repeats).figures(NAME, count)
    return Result(NAME, figures)


def measure(place: Lab, interfaces: Sequence[Interface], repeats: int) -> Series:
    """Plug *interfaces* at once and unplug them again, *repeats* times, with and without the agent."""
    series = Series()
    for _ in range(repeats):
        sample = plug(place, interfaces)
        series.agent.append(sample.times)
        unplug(place, interfaces, sample.base)
        series.bare.append(plug_bare(place.bare, interfaces, sample))
        place.bare.remove_interfaces(interfaces)
    return series


def plug(place: Lab, interfaces: Sequence[Interface]) -> Sample:
    """Plug *interfaces* into the agent's switch."""
    place.wait_idle()
    base = place.switch.flows()
    time.sleep(SETTLE)
    committed = place.switch.add_interfaces(interfaces)
    with ThreadPoolExecutor(1) as pool:
        numbered = pool.submit(place.switch.wait_for_numbers, interfaces)
        up = place.wait_up(interfaces)
        times = Times(numbered.result() - committed, up - committed)
    flows = place.switch.flows()
    place.wait_idle()
    check_flows(flows, place.switch.flows(), f"{len(interfaces)} ports")
    return Sample(times, base, flows)


def unplug(place: Lab, interfaces: Sequence[Interface], base: frozenset[str]) -> None:
    """Take *interfaces* off again and wait until all is as before."""
    place.switch.remove_interfaces(interfaces)
    place.wait_down(interfaces)
    place.wait_idle(base)


def plug_bare(switch: Switch, interfaces: Sequence[Interface], sample: Sample) -> Times:
    """Do by hand what the agent did in *sample*."""
    switch.set_flows(sample.base)
    added = sorted(sample.flows - sample.base)
    time.sleep(SETTLE)
    committed = switch.add_interfaces(interfaces)
    numbered = switch.wait_for_numbers(interfaces)
    switch.add_flows(added)
    return Times(numbered - committed, time.monotonic() - committed)
