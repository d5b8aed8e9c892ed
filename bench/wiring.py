# SPDX-License-Identifier: Apache-2.0
"""How long until 1, 10, 100, 400 interfaces that appear at once are ports that are up.

The clock starts when the transaction that adds all interfaces has committed.  It
stops when the store says of the last port that it is up.  A dump of the switch's
flows follows at once: they must be all that there ever will be, else the benchmark
fails.

The floor is the same work without an agent: the same transaction, waiting until
Open vSwitch has numbered all interfaces, then one bundle with exactly the flows that
the agent installs for them, on a switch that holds what the agent's held before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.figures import SECONDS, Figure, Result
from bench.lab import Lab, check_flows, lab
from bench.options import Options
from bench.switch import Interface, Switch

NAME = "wiring"
REPEATS = {1: 7, 10: 7, 100: 5}
MANY_REPEATS = 3
SETTLE = 0.3  # seconds of rest between two measurements


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement, in seconds from the commit; ``base`` and ``flows`` are before and after."""

    seconds: float
    base: frozenset[str]
    flows: frozenset[str]


def run(options: Options) -> Result:
    """Measure each number of ports, with the floor after each sample."""
    figures = []
    with lab(NAME) as place:
        place.start_agent()
        place.bare.make_bridge()
        for count in options.ports:
            place.add_ports(count - len(place.interfaces))
            repeats = 1 if options.quick else REPEATS.get(count, MANY_REPEATS)
            figures.append(measure(place, count, repeats))
    return Result(NAME, figures)


def measure(place: Lab, count: int, repeats: int) -> Figure:
    """Plug all *count* ports of the lab at once, *repeats* times."""
    samples, floor = [], []
    for _ in range(repeats):
        sample = plug(place, place.interfaces)
        samples.append(sample.seconds)
        unplug(place, place.interfaces, sample.base)
        floor.append(plug_bare(place.bare, place.interfaces, sample))
        place.bare.remove_interfaces(place.interfaces)
    return Figure(NAME, SECONDS, samples, {"ports": count}, floor)


def plug(place: Lab, interfaces: Sequence[Interface]) -> Sample:
    """Plug *interfaces* into the agent's switch."""
    place.wait_idle()
    base = place.switch.flows()
    time.sleep(SETTLE)
    committed = place.switch.add_interfaces(interfaces)
    seconds = place.wait_up(interfaces) - committed
    flows = place.switch.flows()
    place.wait_idle()
    check_flows(flows, place.switch.flows(), f"{len(interfaces)} ports")
    return Sample(seconds, base, flows)


def unplug(place: Lab, interfaces: Sequence[Interface], base: frozenset[str]) -> None:
    """Take *interfaces* off again and wait until all is as before."""
    place.switch.remove_interfaces(interfaces)
    place.wait_down(interfaces)
    place.wait_idle(base)


def plug_bare(switch: Switch, interfaces: Sequence[Interface], sample: Sample) -> float:
    """Do by hand what the agent did in *sample*; return the seconds from the commit on."""
    switch.delete_flows()
    switch.add_flows(sample.base)
    added = sorted(sample.flows - sample.base)
    time.sleep(SETTLE)
    committed = switch.add_interfaces(interfaces)
    switch.wait_for_numbers(interfaces)
    switch.add_flows(added)
    return time.monotonic() - committed
