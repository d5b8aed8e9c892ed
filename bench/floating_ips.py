# SPDX-License-Identifier: Apache-2.0
"""How long until 1, 10, 100 floating IPs of one router answer, and as many forwarded ports.

``floating-ips`` is from the commit of the one transaction that makes them until the last one has answered an
echo that somebody on the external network sends, looked for by ARP, every 2 ms.
``floating-write`` is the writer's part before.

``port-forwardings`` and ``forwarding-write`` are the same of as many ports of one address, each of which leads to
another instance, whose answer is that nobody listens there.

Both by a router that has its gateway on this host, and by a distributed one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial

from agent.store.document import Document, Entry, FixedIpRequest, FloatingIpFields, PortForwardingFields, RouterFields
from agent.store.writer import Writer
from bench.clients import Client
from bench.figures import SECONDS, Figure, Params, Result
from bench.lab import HOST, Lab
from bench.options import Options
from bench.outside import Asked, Moments, forget_router, let_answer, network, until_answered, wait_applied
from bench.services import service_lab
from bench.wiring import SETTLE

NAME = "floating-ips"
COUNTS, QUICK_COUNTS = (1, 10, 100), (1, 2)
REPEATS = {1: 7, 10: 5, 100: 3}
ROUTER, GATEWAY, INSIDE = "edge", "203.0.113.2", "10.0.0.1"
FORWARDED, FIRST_PORT, CLOSED_PORT = "203.0.113.3", 10_001, 9
ROUTER_SET, SET = "router", "floating"
CENTRALISED: Params = {}
DISTRIBUTED: Params = {"distributed": 1}


def run(options: Options) -> Result:
    """Measure each number; the ports are there, plugged and up."""
    counts = QUICK_COUNTS if options.quick else COUNTS
    figures: list[Figure] = []
    with service_lab("float", 1, counts[-1], external=True) as here:
        let_answer(here.place, here.clients, INSIDE)
        with Writer.connect([here.place.sandbox.paths.store_address]) as writer:
            writer.apply(network())
            for kind in (CENTRALISED, DISTRIBUTED):
                make = partial(writer.apply, router(distributed=bool(kind)), set_name=ROUTER_SET)
                until_answered(here.place, Asked([GATEWAY]), make)
                forget_router(here.place)
                for count in counts:
                    repeats = 1 if options.quick else REPEATS[count]
                    wanted = floating_ips(writer, here.clients[:count])
                    moments = [sample(here.place, writer, wanted) for _ in range(repeats)]
                    figures += _figures(("floating-ips", "floating-write"), moments, {"floating_ips": count, **kind})
                    wanted = port_forwardings(writer, here.clients[:count])
                    moments = [sample(here.place, writer, wanted) for _ in range(repeats)]
                    names = "port-forwardings", "forwarding-write"
                    figures += _figures(names, moments, {"port_forwardings": count, **kind})
                wait_applied(here.place, writer.apply(Document(), set_name=ROUTER_SET, prune=True).revision)
    return Result(NAME, figures)


def _figures(names: tuple[str, str], moments: Sequence[Moments], params: Params) -> list[Figure]:
    seen, written = names
    return [
        Figure(seen, SECONDS, [m.seen - m.committed for m in moments], params),
        Figure(written, SECONDS, [m.committed - m.begun for m in moments], params),
    ]


def router(*, distributed: bool) -> Document:
    """Return a router of the lab's network, whose gateway is on the agent's host."""
    fields = RouterFields(
        external_network="public",
        external_fixed_ips=(FixedIpRequest(address=GATEWAY),),
        gateway_hosts=(HOST,),
        interfaces=(FixedIpRequest(subnet="bench4"),),
        distributed=distributed,
    )
    return Document(routers=(Entry(ROUTER, fields),))


def floating_ips(writer: Writer, clients: Sequence[Client]) -> Document:
    """Return a floating IP for each of *clients*."""
    ports = _ports(writer)
    return Document(
        floating_ips=tuple(
            Entry(f"203.0.113.{10 + number}", FloatingIpFields(port=ports[each.port]))
            for number, each in enumerate(clients)
        )
    )


def port_forwardings(writer: Writer, clients: Sequence[Client]) -> Document:
    """Return a port of one address for each of *clients*."""
    ports = _ports(writer)
    return Document(
        port_forwardings=tuple(
            Entry(
                f"{FORWARDED}:{FIRST_PORT + number}",
                PortForwardingFields(protocol="tcp", internal=f"{ports[each.port]}:{CLOSED_PORT}"),
            )
            for number, each in enumerate(clients)
        )
    )


def _ports(writer: Writer) -> Mapping[str, str]:
    return {port.id: port.name for port in writer.list_ports()}


def sample(place: Lab, writer: Writer, wanted: Document) -> Moments:
    """Make what is *wanted* at once, each of which is called as it is asked for, and delete it again."""
    names = [entry.name for entry in wanted.floating_ips] + [entry.name for entry in wanted.port_forwardings]
    moments = until_answered(place, Asked(names, hops=1), partial(writer.apply, wanted, set_name=SET))
    wait_applied(place, writer.apply(Document(), set_name=SET, prune=True).revision)
    time.sleep(SETTLE)
    return moments
