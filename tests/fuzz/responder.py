# SPDX-License-Identifier: Apache-2.0
"""A well-behaved instance and fifty that are not, at one responder: ``python -m tests.fuzz.responder --seconds 600``.

As root; everything happens in a network namespace of its own.  The good port asks for
its address and its metadata all the time.  It is a failure if it is not answered, if
anything is sent to a port that is not its own, if the responder ends or its memory grows.
"""

from __future__ import annotations

import argparse
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.service_identity import METADATA4, METADATA_PORT
from bench.dhcp_load import DISCOVER, OFFER, XID, YIADDR, frame, kind_of
from tests.fuzz.responder_attacks import KINDS
from tests.fuzz.responder_place import (
    EVIL,
    GOOD,
    MAC,
    OUTSIDE,
    address_of,
    alias_of,
    identity_of,
    instance_id,
    open_frames,
    serving,
)

PAUSE = 0.1  # seconds between two questions of the good port, which may ask 20 a second
PATIENCE = 2.0  # seconds that it waits for an answer
WARM_UP = 10.0  # seconds, after which memory shall not grow
GROWTH = 16 << 20  # octets that it may nevertheless: what all connections together may hold comes and goes
PACKED_MAC, BROADCAST = bytes.fromhex(MAC.replace(":", "")), b"\xff" * 6


@dataclass
class Findings:
    """What the good port saw; times in seconds."""

    leases: list[float] = field(default_factory=list)
    pages: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)


class Listener(threading.Thread):
    """Hears all that the responder sends, and looks whether it may."""

    def __init__(self, findings: Findings) -> None:
        super().__init__(daemon=True)
        self.offers: dict[bytes, float] = {}
        self._findings = findings
        self._link = open_frames(OUTSIDE, 64 << 20)
        self._addresses = {identity_of(n): socket.inet_aton(address_of(n)) for n in (GOOD, *EVIL)}

    def run(self) -> None:
        while True:
            self._judge(self._link.recv(65536))

    def _judge(self, answer: bytes) -> None:
        whose = answer[6:12]
        address = self._addresses.get(whose)
        if address is None:
            self._findings.failures[f"an answer to nobody: {answer[:64].hex()}"] += 1
        elif answer[12:14] == b"\x08\x00":
            self._findings.answers["dhcpv4"] += 1
            if answer[:6] not in (PACKED_MAC, BROADCAST) or answer[YIADDR : YIADDR + 4] not in (address, bytes(4)):
                self._findings.failures[f"somebody else's answer: {answer[:80].hex()}"] += 1
            elif whose == identity_of(GOOD) and kind_of(answer) == OFFER:
                self.offers[answer[XID : XID + 4]] = time.monotonic()
        else:
            self._findings.answers["ipv6"] += 1


def ask_for_lease(listener: Listener, findings: Findings, link: socket.socket, number: int) -> None:
    """Send a DISCOVER of the good port and wait for its offer."""
    question = frame(PACKED_MAC, DISCOVER)
    xid = number.to_bytes(4)
    question[:6] = identity_of(GOOD)
    question[XID : XID + 4] = xid
    begun = time.monotonic()
    link.send(question)
    while xid not in listener.offers:
        if time.monotonic() - begun > PATIENCE:
            findings.failures["DISCOVER without an offer"] += 1
            return
        time.sleep(0.001)
    findings.leases.append(listener.offers.pop(xid) - begun)


def ask_for_page(findings: Findings) -> None:
    """Ask for the good port's instance id on a connection of its own."""
    begun = time.monotonic()
    try:
        with socket.create_connection((METADATA4, METADATA_PORT), PATIENCE, source_address=(alias_of(GOOD), 0)) as link:
            link.sendall(b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := link.recv(65536):
                answer += data
    except OSError as err:
        findings.failures[f"request: {err!r}"] += 1
        return
    if not answer.endswith(f"\r\n\r\n{instance_id(GOOD)}".encode()):
        findings.failures[f"a wrong page: {answer[:120]!r}"] += 1
    findings.pages.append(time.monotonic() - begun)


def resident(pid: int) -> int:
    """Return a process's resident memory in octets; OSError when it has ended."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def soak(seconds: float, seed: int, kinds: Sequence[str]) -> int:
    """Attack and look; return 1 if something was wrong."""
    findings = Findings()
    with serving() as served:
        listener = Listener(findings)
        listener.start()
        argv = [sys.executable, "-m", "tests.fuzz.responder_attacks"]
        attackers = [subprocess.Popen([*argv, kind, str(seconds), str(seed)]) for kind in kinds]
        sizes: list[int] = []
        begun = time.monotonic()
        try:
            with open_frames(OUTSIDE) as link:
                while (now := time.monotonic()) < begun + seconds:
                    ask_for_lease(listener, findings, link, len(sizes) + 1)
                    ask_for_page(findings)
                    sizes.append(resident(served.pid))
                    time.sleep(max(0.0, now + PAUSE - time.monotonic()))
            counters = served.client.stats(None, 5.0)["counters"]
        except OSError as err:
            print(f"the responder has ended: {err}; it said: {served.log.read_text()[-2000:]}")
            return 1
        finally:
            for attacker in attackers:
                attacker.terminate()
                attacker.wait()
        bugs = served.log.read_text().count("Traceback")
        if bugs:
            print(served.log.read_text()[-4000:])
    return report(findings, sizes, counters, bugs)


def report(findings: Findings, sizes: Sequence[int], counters: object, bugs: int) -> int:
    """Print what was found; return 1 if something was wrong."""
    warm = sizes[min(int(WARM_UP / PAUSE), len(sizes) // 2) :]
    grown = max(warm[-len(warm) // 4 :]) - max(warm[: len(warm) // 4 or 1])
    for name, times in (("offers", sorted(findings.leases)), ("pages", sorted(findings.pages))):
        if times:
            slow = times[min(int(len(times) * 0.99), len(times) - 1)]
            middle = times[len(times) // 2]
            spread = f"median {middle * 1e3:.1f} ms, p99 {slow * 1e3:.1f} ms, max {times[-1] * 1e3:.0f} ms"
            print(f"{len(times)} {name}, {spread}")
    print(f"memory {max(sizes) / 1e6:.1f} MB at most, {grown / 1e6:+.1f} MB from the first quarter to the last")
    print(f"answers {dict(findings.answers)}; {bugs} exceptions")
    for name, numbers in sorted(counters.items() if isinstance(counters, dict) else ()):
        print(f"  {name}: {numbers}")
    for failure, count in findings.failures.most_common(10):
        print(f"FAILED {count} times: {failure}")
    return 1 if findings.failures or bugs or grown > GROWTH or not (findings.leases and findings.pages) else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"any of {', '.join(KINDS)}")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        argv = [sys.executable, "-m", "tests.fuzz.responder", *sys.argv[1:], "--seed", str(arguments.seed), "--inside"]
        return subprocess.run(["unshare", "--net", *argv], check=False).returncode
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the responder ends, too
    print(f"seed {arguments.seed}", flush=True)
    return soak(arguments.seconds, arguments.seed, arguments.kinds.split(","))


if __name__ == "__main__":
    sys.exit(main())
