# SPDX-License-Identifier: Apache-2.0
"""What 100 routers cost: until they are in place, memory, processes, and a restart among them.

Each has a network with a port on this host and a gateway with an address of its own.
``routers`` is from the commit of the one transaction that makes all of them until the gateway of
the last one has answered an echo from outside, ``routers-applied`` until the agent says that
all is done.

``pss`` is the agent's memory without and with them, ``per-router`` what one costs,
``processes`` are those of the host but Open vSwitch's: **their number must not depend on that of routers**.

``restart``, ``restart-cpu`` and ``flow-modifications`` are as of benchmark ``restart``;
``rules-written`` are rules, chains and addresses in the routers' namespaces that are not the same as before.
All but the memory without is measured of centralised routers, and again of distributed ones.

The floor of the restart also saves the rules of every namespace, as nobody can know that they are untouched without.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from agent.sandbox.sandbox import Place
from agent.sandbox.tools import run as run_command
from agent.store.document import Document, Entry, FixedIpRequest, RouterFields
from agent.store.writer import Writer
from bench.figures import BYTES, NUMBER, SECONDS, Figure, Params, Result
from bench.lab import HOST
from bench.options import Options
from bench.outside import PUBLIC, Asked, Moments, network, until_answered, wait_applied
from bench.processes import Memory, cpu_seconds, memory
from bench.restart import AFTERWARDS, children_seconds, flow_changes, read_by_hand
from bench.services import ServiceLab, own_processes, service_lab
from bench.wiring import SETTLE

NAME = "routers"
ROUTERS, QUICK_ROUTERS = 100, 3
REPEATS = 2
QUICK_SETTLE = 0.2  # seconds before memory is looked at
SET = "routers"
KINDS: tuple[Params, ...] = ({}, {"distributed": 1})
# As it stands: what is written again has another handle, or is another namespace.
_RULES = """
ls -i /run/netns
for space in /run/netns/qrouter-*; do
    nsenter --net="$space" nft -a list ruleset | sed -E 's/packets [0-9]+ bytes [0-9]+//'
    nsenter --net="$space" ip -o address
done
"""
_SAVE = 'for space in /run/netns/qrouter-*; do nsenter --net="$space" iptables-save; done'


@dataclass(slots=True)
class Restarts:
    """Samples of restarts, and of their floor."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    flows: list[float] = field(default_factory=list)
    rules: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    floor_cpu: list[float] = field(default_factory=list)


def run(options: Options) -> Result:
    """Make them some times, and restart the agent as often."""
    count, repeats, pause = (QUICK_ROUTERS, 1, QUICK_SETTLE) if options.quick else (ROUTERS, REPEATS, AFTERWARDS)
    figures: list[Figure] = []
    with service_lab("rout", count, count, external=True) as here:
        with here.place.host.paths.agent_config.open("a") as config:
            config.write("\n[pass]\nhold_share = 1\n")  # all are deleted at once, and nobody has to say so again
        with Writer.connect([here.place.sandbox.paths.store_address]) as writer:
            wait_applied(here.place, writer.apply(network()).revision)
            without = settled(here, pause)
            figures.append(Figure("pss", BYTES, [without.pss], {"routers": 0, "ports": count}))
            for kind in KINDS:
                moments = [make(here, writer, count, kind) for _ in range(repeats)]
                figures += _figures(here, moments, without, (count, pause), {"routers": count, **kind})
                delete(here, writer)
    return Result(NAME, figures)


def _figures(
    here: ServiceLab, moments: Sequence[Moments], without: Memory, much: tuple[int, float], params: Params
) -> list[Figure]:
    """Restart the agent, and return what came of the routers that are there."""
    count, pause = much
    restarts = Restarts()
    for _ in moments:
        restart(here, restarts)
    having = settled(here, pause)
    return [
        Figure("routers", SECONDS, [each.seen - each.committed for each in moments], params),
        Figure("routers-applied", SECONDS, [each.applied - each.committed for each in moments], params),
        Figure("routers-write", SECONDS, [each.committed - each.begun for each in moments], params),
        *_restart_figures(restarts, params),
        Figure("pss", BYTES, [having.pss], {**params, "ports": count}),
        Figure("peak", BYTES, [having.peak], {**params, "ports": count}),
        Figure("per-router", BYTES, [(having.own - without.own) / count], params),
        Figure("processes", NUMBER, [len(own_processes(here.place.host))], params),
    ]


def _restart_figures(restarts: Restarts, params: Params) -> list[Figure]:
    return [
        Figure("restart", SECONDS, restarts.seconds, params, restarts.floor),
        Figure("restart-cpu", SECONDS, restarts.cpu, params, restarts.floor_cpu),
        Figure("flow-modifications", NUMBER, restarts.flows, params),
        Figure("rules-written", NUMBER, restarts.rules, params),
    ]


def make(here: ServiceLab, writer: Writer, count: int, kind: Params) -> Moments:
    """Delete what routers there are, and make so many at once."""
    delete(here, writer)
    addresses = [f"203.0.113.{10 + number}" for number in range(count)]
    entries = tuple(
        Entry(
            f"router{number}",
            RouterFields(
                external_network=PUBLIC,
                external_fixed_ips=(FixedIpRequest(address=address),),
                gateway_hosts=(HOST,),
                interfaces=(FixedIpRequest(subnet=f"sub-net{number}"),),
                distributed=bool(kind),
            ),
        )
        for number, address in enumerate(addresses)
    )
    write = partial(writer.apply, Document(routers=entries), set_name=SET)
    return until_answered(here.place, Asked(addresses), write)


def delete(here: ServiceLab, writer: Writer) -> None:
    """Delete all routers."""
    wait_applied(here.place, writer.apply(Document(), set_name=SET, prune=True).revision)
    time.sleep(SETTLE)


def restart(here: ServiceLab, restarts: Restarts) -> None:
    """Restart the agent once, and read by hand what it has to read."""
    place, enter = here.place, here.place.sandbox.argv(Place(here.place.host), [])
    before = run_command([*enter, "sh", "-ec", _RULES])
    with flow_changes(place) as changed:
        place.stop_agent()
        begun = time.monotonic()
        place.start_agent()
        place.wait_idle()
        restarts.seconds.append(time.monotonic() - begun)
        restarts.cpu.append(cpu_seconds(place.agent().pid))
        time.sleep(AFTERWARDS)
    restarts.flows.append(len(changed))
    after = run_command([*enter, "sh", "-ec", _RULES])
    restarts.rules.append(len(set(before.splitlines()) ^ set(after.splitlines())))
    took, used = read_by_hand(place)
    begun, before_saving = time.monotonic(), children_seconds()
    run_command([*enter, "sh", "-ec", _SAVE])
    restarts.floor.append(took + time.monotonic() - begun)
    restarts.floor_cpu.append(used + children_seconds() - before_saving)


def settled(here: ServiceLab, pause: float) -> Memory:
    """Return the memory of a fresh agent that rests, some seconds after its first pass."""
    here.place.stop_agent()
    here.place.start_agent()
    here.place.wait_idle()
    time.sleep(pause)
    return memory(here.place.agent().pid)
