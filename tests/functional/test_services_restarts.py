# SPDX-License-Identifier: Apache-2.0
"""What instances that ask for addresses and metadata notice of restarts, crashes and upgrades: nothing.

Every exchange and request that is begun meanwhile must end well, and nothing is sent
twice: of what no answer comes back it is lost, even if a client would try again.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.sandbox import host as sandbox_host
from agent.status import client
from tests.functional.filter_wire import namespace_of
from tests.functional.instance_sockets import Http
from tests.functional.lab import HERE, REPOSITORY, Lab, eventually
from tests.functional.service_places import route_to_metadata

pytestmark = pytest.mark.alone

PLACES = ("a1", "a2", "b1")
DOCUMENT = """
networks:
  a: {type: vxlan}
  b: {type: vxlan}
subnets:
  a4: {network: a, cidr: 10.0.0.0/24}
  b4: {network: b, cidr: 10.0.0.0/24}
security_groups:
  out: [{direction: egress}]
ports:
  a1: {network: a, host: host1, fixed_ips: [10.0.0.11], metadata: {instance_id: i-a1}}
  a2: {network: a, host: host1, fixed_ips: [10.0.0.12], metadata: {instance_id: i-a2}, security_groups: [out]}
  b1: {network: b, host: host1, fixed_ips: [10.0.0.11], metadata: {instance_id: i-b1}}
"""
AWAY = float(os.environ.get("HOSTPLANE_TEST_STORE_AWAY", "4"))  # seconds that the store is away
EXCHANGES, REQUESTS = 6, 15  # a second, of each of the places
REPAIRED = 1.0  # seconds in which a crash of the responder is repaired
LATE = 0.7  # seconds: late is not lost, but who waits longer than a scheduling hiccup notices


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of all that was begun."""

    records: Sequence[Mapping[str, Any]]

    def lost(self) -> list[str]:
        """Return what did not end well, or not at the first try, with when it was begun."""
        first = min(record["begun"] for record in self.records)
        return [
            f"{record['kind']} of {record['place']} at {record['begun'] - first:.2f} s: "
            f"{record['wrong'] or ('sent again' if record['resent'] else 'no answer')}"
            for record in self.records
            if record["wrong"] or record["ended"] is None or record["resent"]
        ]

    def between(self, begun: float, ended: float) -> int:
        """Return how many were begun in that time."""
        return sum(begun <= record["begun"] <= ended for record in self.records)

    def first_answer_after(self, moment: float) -> float:
        """Return when the first answer after *moment* came."""
        return min(float(r["ended"]) for r in self.records if r["ended"] is not None and r["ended"] > moment)

    def longest(self) -> float:
        """Return how many seconds the slowest took that ended."""
        return max(record["ended"] - record["begun"] for record in self.records if record["ended"] is not None)


class ServiceStream:
    """Exchanges and requests of all places, until ``stop``."""

    def __init__(self, lab: Lab) -> None:
        places = [
            {
                "name": name,
                "namespace": str(namespace_of(lab, name)),
                "mac": lab.mac(name),
                "address": lab.address(name),
                "instance": f"i-{name}",
            }
            for name in PLACES
        ]
        order = {"exchanges": EXCHANGES, "requests": REQUESTS, "places": places}
        argv = [sys.executable, str(HERE / "service_stream.py")]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=REPOSITORY)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def wait_flowing(self) -> None:
        """Wait until the first have ended well."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "flowing\n", "nothing is answered"

    def stop(self) -> Outcome:
        """Begin no more, wait for what is open."""
        output, _ = self._process.communicate(timeout=40)
        assert self._process.returncode == 0
        return Outcome(json.loads(output.rpartition("\n")[2]))


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(1)
    lab.bring_up(DOCUMENT)
    route_to_metadata(lab, *PLACES)
    return lab


def over(lab: Lab, fault: Callable[[], None], what: str, *, after: float = 1.0, late: float = LATE) -> Outcome:
    """Let the places ask while *fault* happens and for *after* seconds more; nothing may be lost."""
    stream = ServiceStream(lab)
    stream.wait_flowing()
    begun = time.monotonic()
    fault()
    ended = time.monotonic()
    time.sleep(after)  # what a restarted process does first, it does now
    outcome = stream.stop()
    during = outcome.between(begun, ended)
    print(f"{what}: {len(outcome.records)} begun, {during} of them in the {ended - begun:.2f} s meanwhile; ", end="")
    print(f"{len(outcome.lost())} lost, the slowest took {outcome.longest() * 1000:.0f} ms")
    assert outcome.between(0, begun) > 0
    assert outcome.between(ended, ended + after) > 0
    assert not outcome.lost(), outcome.lost()[:20]
    assert outcome.longest() < late
    return outcome


def responder(lab: Lab) -> int:
    """Return the process id of the responder that serves."""
    return lab.sandbox.host("host1").responders()[0].pid


def moment_of_end(pid: int) -> float:
    """Return when a process has ended."""
    process = os.pidfd_open(pid)
    try:
        select.select([process], [], [], 30)
        return time.monotonic()
    finally:
        os.close(process)


def repair_limit() -> float:
    """Return in how many seconds a crash must be repaired: a second, or twice what starting takes here and now."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import agent.responder.__main__"], cwd=REPOSITORY, check=True, timeout=30)
    return max(REPAIRED, 2 * (time.monotonic() - begun))


def wait_converged(lab: Lab) -> None:
    socket = lab.sandbox.host("host1").paths.agent_socket
    eventually(lambda: bool(client.get(socket, "/status")["converged"]), "host1 has converged", 30)


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_nothing_is_lost_when_the_agent_restarts(lab: Lab, kill: bool) -> None:
    before = responder(lab)

    def restart() -> None:
        lab.sandbox.restart("host1", "agent", kill=kill)
        wait_converged(lab)

    with Http(namespace_of(lab, "a1")) as connection:
        assert connection.ask("/latest/meta-data/instance-id").text == "i-a1"
        over(lab, restart, f"agent restarted ({'SIGKILL' if kill else 'SIGTERM'})")
        assert responder(lab) == before
        assert connection.ask("/latest/meta-data/instance-id").text == "i-a1"


def test_nothing_is_lost_while_agent_and_store_are_away(lab: Lab) -> None:
    host = lab.sandbox.host("host1")

    def outage() -> None:
        away = time.monotonic()
        host.stop_agent(kill=True)
        lab.sandbox.store.stop(kill=True)
        time.sleep(AWAY / 2)
        host.start_agent()
        time.sleep(max(0.0, away + AWAY - time.monotonic()))
        lab.sandbox.store.start()
        wait_converged(lab)

    over(lab, outage, f"agent away for {AWAY / 2:g} s and store for {AWAY:g} s")


def test_a_crash_of_the_responder_is_repaired_within_a_second_and_requests_wait_for_it(lab: Lab) -> None:
    """What is lost with it are the connections that it had open; what comes meanwhile waits in its sockets."""
    before, limit = responder(lab), repair_limit()
    with Http(namespace_of(lab, "a1"), timeout=3.0) as connection:
        assert connection.ask("/latest/meta-data/instance-id").text == "i-a1"
        stream = ServiceStream(lab)
        stream.wait_flowing()
        with ThreadPoolExecutor(1) as pool:
            watch = pool.submit(moment_of_end, before)
            begun = time.monotonic()
            lab.sandbox.restart("host1", "responder", kill=True)
            ended, gone = time.monotonic(), watch.result()
        time.sleep(1.0)
        outcome = stream.stop()
        served = outcome.first_answer_after(begun + LATE / 10)  # before that old answers may be on their way
        print(f"responder killed: answers again after {(served - begun) * 1000:.0f} ms, says hello after ", end="")
        print(f"{(ended - begun) * 1000:.0f} ms; {len(outcome.records)} begun, {len(outcome.lost())} lost, ", end="")
        print(f"the slowest took {outcome.longest() * 1000:.0f} ms")
        # What was being read by the process when it died dies with it; nothing that was begun later.
        later = Outcome([record for record in outcome.records if record["begun"] >= gone])
        earlier = Outcome([record for record in outcome.records if record["begun"] < gone])
        assert not later.lost(), later.lost()[:20]
        assert len(earlier.lost()) <= 2 * len(PLACES), earlier.lost()
        assert served - begun < limit
        assert outcome.longest() < limit + LATE
        with pytest.raises((OSError, http.client.HTTPException)):
            connection.ask("/latest/meta-data/instance-id")
    assert responder(lab) != before
    wait_converged(lab)


def test_a_responder_that_is_asked_to_end_hands_over_without_loss(lab: Lab) -> None:
    before = responder(lab)
    late = repair_limit() + LATE
    over(lab, lambda: lab.sandbox.restart("host1", "responder"), "responder replaced (SIGTERM)", late=late)
    assert responder(lab) != before


def test_an_upgrade_replaces_the_responder_without_loss(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent of another version brings its own responder, and ends the old one when the new one answers."""
    before = responder(lab)
    package = tmp_path / "agent"
    shutil.copytree(REPOSITORY / "agent", package, ignore=shutil.ignore_patterns("__pycache__"))
    text = (package / "__init__.py").read_text()
    version = next(line for line in text.splitlines() if line.startswith("__version__"))
    (package / "__init__.py").write_text(text.replace(version, '__version__ = "99.0.0"'))
    original = sandbox_host.agent_environment()
    newer = {**original, "PYTHONPATH": f"{tmp_path}{os.pathsep}{original['PYTHONPATH']}"}

    def upgrade() -> None:
        monkeypatch.setattr(sandbox_host, "agent_environment", lambda: newer)
        lab.sandbox.restart("host1", "agent")
        eventually(lambda: responder(lab) != before, "another responder serves", 15)
        wait_converged(lab)
        eventually(lambda: len(lab.sandbox.host("host1").responders()) == 1, "the old one has ended", 15)

    over(lab, upgrade, "agent and responder upgraded")
