# SPDX-License-Identifier: Apache-2.0
"""How many metadata requests a second the host answers, and how long one takes.

200 ports on one network, and on 200 networks, 16 requests at a time, each of another
instance: ``requests`` on connections that stay, ``new-requests`` each on a connection of
its own.  Nova answers, or rather a stand-in on the same host, which costs next to
nothing; every answer is checked to be that of the instance that asked.  The floor is one
haproxy as the metadata agent of today starts it for one network, before the same
stand-in, asked by the same clients in the same turns.  (Today a request goes on from there
to a metadata agent written in Python, which signs it; that is not in the floor.)

``own-requests`` are answered from the store, without Nova.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.store.document import Document, Entry, MetadataServiceFields
from agent.store.writer import Writer
from bench.clients import Client, ClientSpace
from bench.figures import Figure, Result
from bench.nova import SECRET, URL, NovaStandIn
from bench.options import Options
from bench.services import EACH, OUTSTANDING, Series, ServiceLab, service_lab, sizes

NAME = "metadata"
PATH = "/openstack/latest/meta_data.json"
KEPT, NEW, OWN = "requests", "new-requests", "own-requests"


def run(options: Options) -> Result:
    """Measure with one network and with many."""
    most, repeats = sizes(options)
    with service_lab(NAME, 1, most) as one, service_lab(NAME, most, most) as many:
        own = from_store([one, many], repeats)
        return Result(NAME, [*own, *from_nova(one, many, repeats)])


def from_store(labs: Sequence[ServiceLab], repeats: int) -> list[Figure]:
    """Measure what is answered without Nova, each lab in turn."""
    series = [Series() for _ in labs]
    for _ in range(repeats):
        for here, found in zip(labs, series, strict=True):
            found.take("store", _ask(here.space, here.clients, by_name=True, keep_alive=True))
    none = Series()
    return [
        figure
        for here, found in zip(labs, series, strict=True)
        for figure in found.figures((OWN, "own-request"), here.params, none)
    ]


def from_nova(one: ServiceLab, many: ServiceLab, repeats: int) -> list[Figure]:
    """Measure what Nova is asked, on one network, through haproxy, and on many networks, in turn."""
    services, there = one.bare
    services.start_haproxy(NovaStandIn(one.place.sandbox, one.place.sandbox.hosts[1], unix=True).address)
    for here in (one, many):
        NovaStandIn(here.place.sandbox, here.place.host)
        use_nova(here)
    turns = {"one": (one.space, one.clients), "haproxy": (there, one.clients), "many": (many.space, many.clients)}
    series = {(what, kind): Series() for what in turns for kind in (KEPT, NEW)}
    for _ in range(repeats):
        for (what, kind), found in series.items():
            space, clients = turns[what]
            found.take(what, _ask(space, clients, by_name=what != "haproxy", keep_alive=kind == KEPT))
    return [
        figure
        for what, here in (("one", one), ("many", many))
        for kind in (KEPT, NEW)
        for figure in series[what, kind].figures((kind, kind.removesuffix("s")), here.params, series["haproxy", kind])
    ]


def use_nova(here: ServiceLab) -> None:
    """Say in the store that Nova answers; return when the agent has passed it on."""
    secret = here.place.host.paths.root / "nova.secret"
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    service = MetadataServiceFields(url=URL, secret_file=str(secret))
    with Writer.connect([here.place.sandbox.paths.store_address]) as writer:
        writer.wait_applied(writer.apply(Document(metadata_service=Entry("nova", service))))


def _ask(space: ClientSpace, clients: Sequence[Client], *, by_name: bool, keep_alive: bool) -> Mapping[str, Any]:
    """Have all *clients* ask; an answer is right if it has the instance's name, or else its address."""
    instances = [{**each.as_json(), "expect": each.instance if by_name else each.address} for each in clients]
    order = {"path": PATH, "count": EACH * len(clients), "outstanding": OUTSTANDING, "keep_alive": keep_alive}
    return space.ask("http_load", {**order, "instances": instances})
