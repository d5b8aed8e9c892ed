# SPDX-License-Identifier: Apache-2.0
"""How long until 1, 10, 100 floating IPs of one router answer.

``floating-ips`` is from the commit of the one transaction that makes them until the last one has answered an
echo that somebody on the external network sends, looked for by ARP, every 2 ms.
``floating-write`` is the writer's part before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from agent.store.document import Document, Entry, FixedIpRequest, FloatingIpFields, RouterFields
from agent.store.writer import Writer
from bench.clients import Client
from bench.figures import SECONDS, Figure, Result
from bench.lab import HOST, Lab
from bench.options import Options
from bench.outside import Asked, Moments, let_answer, network, until_answered, wait_applied
from bench.services import service_lab
from bench.wiring import SETTLE

NAME = "floating-ips"
COUNTS, QUICK_COUNTS = (1, 10, 100), (1, 2)
REPEATS = {1: 9, 10: 7, 100: 5}
ROUTER, GATEWAY, INSIDE = "edge", "203.0.113.2", "10.0.0.1"
SET = "floating"


def run(options: Options) -> Result:
    """Measure each number; the ports are there, plugged and up."""
    counts = QUICK_COUNTS if options.quick else COUNTS
    figures = []
    with service_lab("float", 1, counts[-1], external=True) as here:
        let_answer(here.place, here.clients, INSIDE)
        with Writer.connect([here.place.sandbox.paths.store_address]) as writer:
            writer.apply(network())
            until_answered(here.place, Asked([GATEWAY]), partial(writer.apply, router()))
            for count in counts:
                repeats = 1 if options.quick else REPEATS[count]
                moments = [sample(here.place, writer, here.clients[:count]) for _ in range(repeats)]
                params = {"floating_ips": count}
                figures.append(Figure("floating-ips", SECONDS, [m.seen - m.committed for m in moments], params))
                figures.append(Figure("floating-write", SECONDS, [m.committed - m.begun for m in moments], params))
    return Result(NAME, figures)


def router() -> Document:
    """Return a router of the lab's network, whose gateway is on the agent's host."""
    fields = RouterFields(
        external_network="public",
        external_fixed_ips=(FixedIpRequest(address=GATEWAY),),
        gateway_hosts=(HOST,),
        interfaces=(FixedIpRequest(subnet="bench4"),),
    )
    return Document(routers=(Entry(ROUTER, fields),))


def sample(place: Lab, writer: Writer, clients: Sequence[Client]) -> Moments:
    """Make a floating IP for each of *clients* at once, and delete them again."""
    ports = {port.id: port.name for port in writer.list_ports()}
    addresses = [f"203.0.113.{10 + number}" for number in range(len(clients))]
    entries = tuple(
        Entry(address, FloatingIpFields(port=ports[each.port]))
        for address, each in zip(addresses, clients, strict=True)
    )
    moments = until_answered(
        place, Asked(addresses, hops=1), partial(writer.apply, Document(floating_ips=entries), set_name=SET)
    )
    wait_applied(place, writer.apply(Document(), set_name=SET, prune=True).revision)
    time.sleep(SETTLE)
    return moments
