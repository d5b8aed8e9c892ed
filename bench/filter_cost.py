# SPDX-License-Identifier: Apache-2.0
"""What a packet costs in the filter of a host with few ports, and of one with many.

The agent's own rulesets (chains, sets, zones), taken from a host with 10 ports and from the same host with
all, are put by turns on a host without an agent, where one of the ports has its devices
but no switch behind them.  Timed is the kernel's way from the instance's device through
the bridge to the switch's (``datagrams.py``).  ``packet-new`` are datagrams of a flow that
was never answered: each is looked up in the tree and judged by the groups' rules;
``packet-established`` are those of one that was.  The floor is the same way without
filters, measured in the same turns.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.core.naming import hybrid_bridge_name, hybrid_veth_names
from agent.sandbox.tools import run as run_command
from agent.store.writer import Writer
from bench import filters
from bench.figures import SECONDS, Figure, Result
from bench.lab import Lab, lab
from bench.options import Options
from bench.switch import Interface

NAME = "filter-cost"
FEW = 10
PACKETS, QUICK_PACKETS = 20_000, 200  # of one turn
TURNS, QUICK_TURNS = 16, 1
DATAGRAMS = Path(__file__).with_name("datagrams.py")
NEW, ESTABLISHED = "packet-new", "packet-established"
PORTS = {NEW: 40_001, ESTABLISHED: 40_002}


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All that one host's filters are made of, as the tools take it back: (program and options, its input)."""

    steps: tuple[tuple[tuple[str, ...], str], ...]


def run(options: Options) -> Result:
    """Measure with 10 ports and with ``options.most``, by turns."""
    few = min(FEW, max(options.most - 1, 1))
    packets, turns = (QUICK_PACKETS, QUICK_TURNS) if options.quick else (PACKETS, TURNS)
    with lab(NAME) as place, Writer.connect([place.sandbox.paths.store_address]) as writer:
        writer.apply(filters.groups(filters.QUICK_MEMBERS))
        place.start_agent()
        ports = filters.add_hybrid_ports(place, writer, options.most)
        filters.plug(place, ports[:few])
        rulesets = {0: Ruleset(()), few: save(place)}
        filters.plug(place, ports[few:])
        rulesets[options.most] = save(place)
        place.stop_agent()
        place.bare.make_devices(ports[:1])
        samples = measure(place, ports[0], rulesets, packets, turns)
    return Result(
        NAME,
        [
            Figure(kind, SECONDS, values[count], {"ports": count, "packets": packets * turns}, values[0])
            for kind, values in samples.items()
            for count in rulesets
            if count
        ],
    )


def save(place: Lab) -> Ruleset:
    """Take down what the agent has made on its host."""
    enter = filters.enter(place, agent=True)
    sets = "".join(f"{line}\n" for line in run_command([*enter, "ipset", "save"]).splitlines() if " hp-" in line)
    chains = [
        ((f"{family}-restore",), run_command([*enter, f"{family}-save", "-t", "filter"]))
        for family in ("iptables", "ip6tables")
    ]
    tables = [run_command([*enter, "nft", "list", "table", family, "hostplane"]) for family in ("inet", "bridge")]
    return Ruleset(((("ipset", "restore"), sets), *chains, (("nft", "-f", "-"), "".join(tables))))


def install(place: Lab, port: Interface, ruleset: Ruleset) -> None:
    """Make *ruleset* all that filters on the host without an agent."""
    enter = filters.enter(place, agent=False)
    run_command([*enter, "nft", "flush", "ruleset"])
    run_command([*enter, "ipset", "destroy"])
    flag = "1" if ruleset.steps else "0"
    words = ["type", "bridge", "nf_call_iptables", flag, "nf_call_ip6tables", flag]
    run_command([*enter, "ip", "link", "set", hybrid_bridge_name(port.port), *words])
    for command, text in ruleset.steps:
        run_command([*enter, *command], stdin=text)


def measure(
    place: Lab, port: Interface, rulesets: Mapping[int, Ruleset], packets: int, turns: int
) -> Mapping[str, Mapping[int, Sequence[float]]]:
    """Return the seconds a packet took, by kind and number of ports (0: no filter), a sample for each turn."""
    samples: dict[str, dict[int, list[float]]] = {kind: defaultdict(list) for kind in PORTS}
    inside, outside = f"peer{port.device[3:]}", hybrid_veth_names(port.port)[1]
    enter = filters.enter(place, agent=False)
    for turn in range(turns):
        # Forward and backward, so that what drifts over the run hits all alike.
        for count in sorted(rulesets, reverse=bool(turn % 2)):
            install(place, port, rulesets[count])
            for kind, number in PORTS.items():
                ends = [inside, outside if kind == ESTABLISHED else "-"]
                argv = [sys.executable, str(DATAGRAMS), *ends, str(packets), str(number)]
                samples[kind][count].append(float(run_command([*enter, *argv])))
    return samples
