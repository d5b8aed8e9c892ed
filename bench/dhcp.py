# SPDX-License-Identifier: Apache-2.0
"""How many DHCPv4 exchanges a second the host answers, what serving costs, and how soon it begins.

``exchanges`` are whole ones (DISCOVER, OFFER, REQUEST, ACK) a second, ``exchange-median``
and ``exchange-p99`` how long one takes, 16 at a time, each of another instance: 200 ports
on one network, and on 200 networks.  The way is the real one: the instance's device, the
switch, the responder and back.  The floor is one dnsmasq as the DHCP agent of today starts
it for one network, behind a switch with the least flows, asked by the same clients in the
same turns.

``first-answer`` is from the commit that plugs a port until the first offer, asked every
5 ms.  The floor is until the store says that the port is up: a ratio over 1 would mean that
a port is up before it is served.  ``served`` is from the one commit that binds ports of 50
networks, none of which the host knew, until each of them has been offered its address and is up.

``processes`` are all of the host but Open vSwitch's, ``pss`` is their memory, and
``responder-pss`` that of the responder, beside one dnsmasq and one haproxy.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from agent.core.errors import ApplyError
from bench.clients import Client, answer_of
from bench.database import Database, Json
from bench.figures import BYTES, NUMBER, SECONDS, Figure, Result
from bench.lab import HOST, STORE, Lab
from bench.nova import NovaStandIn
from bench.options import Options
from bench.processes import memory
from bench.services import EACH, OUTSTANDING, Series, ServiceLab, own_processes, service_lab, sizes

NAME = "dhcp"
NEW_NETWORKS = 50
PLUGS = 10
PAUSE = 0.005  # seconds between two questions of an instance that waits for its first answer
PATIENCE = 20.0  # seconds
SETTLE, QUICK_SETTLE = 3.0, 0.2  # seconds before memory is looked at


def run(options: Options) -> Result:
    """Measure with one network and with many."""
    most, repeats = sizes(options)
    figures: list[Figure] = []
    if not options.quick:  # alone on the machine: what two hosts share would count for half
        for networks in (1, most):
            with service_lab(f"{NAME}-mem", networks, most) as here:
                figures += footprint(here, SETTLE)
    with service_lab(NAME, 1, most) as one, service_lab(NAME, most, most) as many:
        if options.quick:
            figures += [*footprint(one, QUICK_SETTLE), *footprint(many, QUICK_SETTLE)]
        figures += exchanges(one, many, repeats)
        figures.append(first_answer(one, 1 if options.quick else PLUGS))
        new = min(NEW_NETWORKS, most)
        figures.append(served(many, new, 1 if options.quick else 3))
    return Result(NAME, figures)


def exchanges(one: ServiceLab, many: ServiceLab, repeats: int) -> list[Figure]:
    """Measure on one network, with dnsmasq, and on many networks, in turn."""
    services, there = one.bare
    services.start_dnsmasq(one.clients)
    series = {"one": Series(), "dnsmasq": Series(), "many": Series()}
    turns = {"one": (one.space, one.clients), "dnsmasq": (there, one.clients), "many": (many.space, many.clients)}
    for _ in range(repeats):
        for what, (space, clients) in turns.items():
            order = {"mode": "rate", "count": EACH * len(clients), "outstanding": OUTSTANDING}
            found = space.ask("dhcp_load", {**order, "instances": [each.as_json() for each in clients]})
            series[what].take(what, found)
    names = ("exchanges", "exchange")
    floor = series["dnsmasq"]
    return [*series["one"].figures(names, one.params, floor), *series["many"].figures(names, many.params, floor)]


def first_answer(here: ServiceLab, repeats: int) -> Figure:
    """Plug one port after the other; each asks from before it is plugged."""
    first: list[float] = []
    up: list[float] = []
    for client in here.make(repeats, networks=0):
        here.place.wait_idle()
        order = {"mode": "first", "instances": [client.as_json()], "pause": PAUSE, "seconds": PATIENCE}
        with here.space.asking("dhcp_load", order) as process:
            _wait_ready(process)
            committed = here.plug([client])
            up.append(here.wait_up([client]) - committed)
            first.append(_last_answer(answer_of(process), 1) - committed)
    return Figure("first-answer", SECONDS, first, here.params, up)


def served(here: ServiceLab, networks: int, repeats: int) -> Figure:
    """Bind ports of *networks* new networks in one commit, as often, each time others."""
    seconds = []
    for _ in range(repeats):
        clients = here.make(networks, networks=networks, host="")
        here.plug(clients)
        here.place.switch.wait_for_numbers([each.interface for each in clients])
        here.place.wait_idle()
        order = {"mode": "first", "instances": [each.as_json() for each in clients], "pause": 0.02, "seconds": PATIENCE}
        with here.space.asking("dhcp_load", order) as process:
            _wait_ready(process)
            committed = bind(here.place, clients)
            up = here.wait_up(clients)
            answered = _last_answer(answer_of(process), len(clients))
            seconds.append(max(up, answered) - committed)
    return Figure("served", SECONDS, seconds, {"networks": networks, "others": here.networks})


def bind(place: Lab, clients: Sequence[Client]) -> float:
    """Give ports of no host to the agent's, in one transaction; return the time of its commit."""
    operations: list[Json] = []
    for each in clients:
        operations.append(_set_host("Port", ["_uuid", "==", ["uuid", each.port]]))
        operations.append(_set_host("Endpoint", ["mac", "==", each.mac]))
    operations.append({"op": "mutate", "table": "Global", "where": [], "mutations": [["revision", "+=", 1]]})
    with Database(place.sandbox.paths.store_socket, STORE) as database:
        database.transact(operations)
        return time.monotonic()


def footprint(here: ServiceLab, settle: float) -> list[Figure]:
    """Measure memory and count processes, *settle* seconds after all is up."""
    time.sleep(settle)
    ours = own_processes(here.place.host)
    responders = here.place.host.responders()
    if len(responders) != 1:
        raise ApplyError(f"{len(responders)} responders run")
    floor = [] if here.networks > 1 else [today(here)]
    return [
        Figure("processes", NUMBER, [len(ours)], here.params),
        Figure("pss", BYTES, [sum(memory(pid).pss for pid in ours)], here.params),
        Figure("responder-pss", BYTES, [memory(responders[0].pid).pss], here.params, floor),
    ]


def today(here: ServiceLab) -> float:
    """Return the memory of one dnsmasq and one haproxy that serve the same clients."""
    services, _ = here.bare
    services.start_dnsmasq(here.clients)
    host = here.place.sandbox.hosts[1]
    services.start_haproxy(NovaStandIn(here.place.sandbox, host, unix=True).address)
    return float(sum(memory(record.pid).pss for record in services.processes.values()))


def _wait_ready(process: subprocess.Popen[str]) -> None:
    if process.stdout is None or process.stdout.readline().strip() != "ready":
        raise ApplyError("the clients cannot ask")


def _last_answer(found: Mapping[str, Any], wanted: int) -> float:
    if len(found["times"]) != wanted or found["wrong"]:
        raise ApplyError(f"{found['lost']} of {wanted} were never offered an address, {found['wrong']} a wrong one")
    return float(max(found["times"]))


def _set_host(table: str, condition: list[object]) -> Json:
    return {"op": "update", "table": table, "where": [condition], "row": {"host": HOST}}
