# SPDX-License-Identifier: Apache-2.0
"""The world outside of a lab: an external network, and somebody on it who asks until he is answered."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import ApplyError
from agent.sandbox.layout import EXTERNAL
from agent.sandbox.sandbox import Place
from agent.sandbox.tools import run
from agent.sandbox.upstream import ADDRESSES, DEVICE
from agent.store.document import Document, Entry, NetworkFields, SubnetFields
from agent.store.records import Written
from bench.clients import NAMESPACE, Client, answer_of
from bench.database import Database
from bench.lab import HOST, STORE, Lab
from bench.switch import TIMEOUT

PUBLIC, PUBLIC_SUBNET = "public", "public4"
UPSTREAM_ADDRESS, PREFIX = ADDRESSES[0].split("/")
TURN = 0.0002  # seconds that a thread of this process has before another one may run
PAUSE = 0.002  # seconds between two questions
_PROGRAM = Path(__file__).with_name("ask_addresses.py")


@dataclass(frozen=True, slots=True)
class Asked:
    """Addresses on the external network, and how many hops behind those are who answer."""

    addresses: Sequence[str]
    hops: int = 0


@dataclass(frozen=True, slots=True)
class Moments:
    """When (monotonic seconds) a change was begun by the writer, committed, seen in force for the last address,
    and all of it applied by the agent, as that says.
    """

    begun: float
    committed: float
    seen: float
    applied: float


def network() -> Document:
    """Return the external network and its subnet."""
    fields = NetworkFields(type="flat", physnet=EXTERNAL, external=True)
    cidr = f"{UPSTREAM_ADDRESS.rpartition('.')[0]}.0/{PREFIX}"
    subnet = SubnetFields(network=PUBLIC, cidr=cidr, gateway=UPSTREAM_ADDRESS, dhcp=False)
    return Document(networks=(Entry(PUBLIC, fields),), subnets=(Entry(PUBLIC_SUBNET, subnet),))


def until_answered(place: Lab, asked: Asked, write: Callable[[], Written[object]]) -> Moments:
    """Have *write* commit what lets addresses answer; return once all have, and the agent has applied it all."""
    place.wait_idle()
    watch = Database(place.sandbox.paths.store_socket, STORE).watch("Global", ["revision"])
    before = max(row["revision"] for row in watch.rows.values())
    # The writer first brings its own replica up to date, while the agent is at work already: another thread hears
    # of the commit at once.
    with watch, _turns(), ThreadPoolExecutor(1) as pool, asking(place, asked) as process:
        committed = pool.submit(watch.wait, lambda row: row["revision"] > before, TIMEOUT)
        begun = time.monotonic()
        revision = write().revision
        moment = committed.result()
        applied = pool.submit(wait_applied, place, revision)
        times: Mapping[str, float] = answer_of(process)["times"]
    if missing := [address for address in asked.addresses if address not in times]:
        raise ApplyError(f"{len(missing)} of {len(asked.addresses)} never answered: {', '.join(missing[:5])}")
    seen = max(times.values())
    # On a busy machine the thread may hear of the commit after what has come of it.
    return Moments(begun, min(moment, seen), seen, max(applied.result(), moment))


@contextlib.contextmanager
def _turns() -> Iterator[None]:
    """Let threads take turns quickly: one that waits for a busy one does so for 5 ms otherwise."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def wait_applied(place: Lab, revision: int) -> float:
    """Wait until the agent says that it has applied *revision*, and has nothing left to do; return when it had."""
    with Database(place.sandbox.paths.store_socket, STORE).watch("Host_Status", ["host", "applied_revision"]) as rows:
        rows.wait(lambda row: row["host"] == HOST and row["applied_revision"] >= revision, TIMEOUT)
    place.wait_idle()
    return time.monotonic()


@contextlib.contextmanager
def asking(place: Lab, asked: Asked) -> Iterator[subprocess.Popen[str]]:
    """Have the router beyond ask until all have answered; it has begun when the body does."""
    if place.sandbox.upstream is None:
        raise ApplyError("the lab has no external network")
    order = {"device": DEVICE, "address": UPSTREAM_ADDRESS, "addresses": list(asked.addresses), "hops": asked.hops}
    argv = place.sandbox.argv(Place(place.sandbox.upstream), [sys.executable, str(_PROGRAM)])
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            if process.stdin is None or process.stdout is None:
                raise ApplyError("nobody can ask")
            process.stdin.write(json.dumps({**order, "pause": PAUSE, "seconds": TIMEOUT}))
            process.stdin.close()
            if process.stdout.readline() != "ready\n":
                raise ApplyError(f"nobody asks: {answer_of(process)}")
            yield process
        finally:
            process.kill()


def let_answer(place: Lab, clients: Sequence[Client], router: str) -> None:
    """Let *clients* answer whoever asks them, each through its own device and the *router*'s address."""
    enter = place.sandbox.argv(Place(place.host), [])
    lines = []
    for number, each in enumerate(clients, 1):
        lines += [
            f"route add default via {router} dev {each.device} src {each.address} onlink table {number}",
            f"rule add from {each.address} lookup {number}",
        ]
    run([*enter, "ip", "-n", NAMESPACE, "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))


def forget_router(place: Lab) -> None:
    """Let the clients know nothing of the router before: another one has other MAC addresses."""
    run([*place.sandbox.argv(Place(place.host), []), "ip", "-n", NAMESPACE, "neighbor", "flush", "all"])
