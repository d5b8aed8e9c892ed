# SPDX-License-Identifier: Apache-2.0
"""DHCP exchanges and metadata requests of several instances at a steady rate, each accounted for.

A program: ``service_stream.py`` reads a line of JSON from standard input::

    {"exchanges": 4, "requests": 10, "places": [
        {"name": ..., "namespace": PATH, "mac": ..., "address": ..., "instance": ...}]}

and begins so many DHCP exchanges and metadata requests a second for each place, whatever
has become of those before, until standard input closes.  It waits ``STRAGGLERS`` for what
is still open and prints what it saw as JSON.  After the first ``FLOWING`` of each kind have
ended well it prints ``flowing``.

Nothing is ever sent again: of an exchange each of the two messages goes out once, and what
is not answered in ``PATIENCE`` is lost.  What TCP has sent again for a request is counted.
Times are CLOCK_MONOTONIC, which the whole machine shares.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.modules["eventlet"] = None  # type: ignore[assignment]
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.functional.filter_wire import open_link  # noqa: E402
from tests.functional.instance_sockets import Http, retransmissions  # noqa: E402

PATIENCE = 5.0  # seconds until an answer counts as lost
STRAGGLERS = PATIENCE
FLOWING = 5
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
COOKIE = b"\x63\x82\x53\x63"
WORKERS = 200


def message(kind: int, number: int, mac: bytes, options: bytes = b"") -> bytes:
    """Return the frame of a DHCP message to everybody; without a UDP checksum, which is optional."""
    bootp = struct.pack("!BBBBIHH16x", 1, 1, 6, 0, number, 0, 0x8000) + mac + bytes(10 + 192) + COOKIE
    body = bootp + bytes((53, 1, kind)) + options + b"\xff"
    udp = struct.pack("!HHHH", 68, 67, 8 + len(body), 0) + body
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
    total = sum(struct.unpack("!10H", head))
    total = (total >> 16) + (total & 0xFFFF)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    return b"\xff" * 6 + mac + b"\x08\x00" + head + udp


def read_answer(frame: bytes) -> tuple[int, int, bytes, bytes] | None:
    """Return number, kind, address and server of an answer; None if it is something else."""
    if frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[34:38] != struct.pack("!HH", 67, 68):
        return None
    (number,) = struct.unpack_from("!I", frame, 46)
    options, found = frame[42 + 240 :], {}
    while options and options[0] != 255:
        if options[0] == 0:
            options = options[1:]
            continue
        found[options[0]] = options[2 : 2 + options[1]]
        options = options[2 + options[1] :]
    return number, found[53][0], frame[58:62], found[54]


class Place:
    """One instance: what it has begun, and how that ended."""

    def __init__(self, said: dict[str, Any], index: int) -> None:
        self.name: str = said["name"]
        self.namespace = Path(said["namespace"])
        self.mac = bytes.fromhex(said["mac"].replace(":", ""))
        self.address = socket.inet_aton(said["address"])
        self.instance: str = said["instance"]
        self.link = open_link(self.namespace)
        self.next = index << 24
        self.records: list[dict[str, Any]] = []
        self.exchanges: dict[int, dict[str, Any]] = {}

    def record(self, kind: str) -> dict[str, Any]:
        entry = {"kind": kind, "place": self.name, "begun": time.monotonic(), "ended": None, "wrong": "", "resent": 0}
        self.records.append(entry)
        return entry

    def discover(self) -> None:
        self.next += 1
        self.exchanges[self.next] = self.record("dhcp")
        self.link.send(message(DISCOVER, self.next, self.mac))

    def take(self) -> None:
        answer = read_answer(self.link.recv(65536))
        if answer is None or answer[0] not in self.exchanges:
            return
        number, kind, address, server = answer
        entry = self.exchanges[number]
        if address != self.address:
            entry["wrong"] = f"was given {socket.inet_ntoa(address)}"
        if kind == OFFER:
            chosen = bytes((50, 4)) + address + bytes((54, 4)) + server
            self.link.send(message(REQUEST, number, self.mac, chosen))
        elif kind == ACK and entry["ended"] is None:
            entry["ended"] = time.monotonic()
        else:
            entry["wrong"] = f"answered by {kind}"

    def request(self) -> None:
        entry = self.record("metadata")
        try:
            with Http(self.namespace, timeout=PATIENCE) as connection:
                answer = connection.ask("/latest/meta-data/instance-id")
                entry["resent"] = retransmissions(connection.link)
            if answer.status != 200 or answer.text != self.instance:
                entry["wrong"] = f"{answer.status} {answer.body[:60]!r}"
            entry["ended"] = time.monotonic()
        except (OSError, http.client.HTTPException) as err:
            entry["wrong"] = f"{type(err).__name__}: {err}"


class Stream:
    """All places."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.places = [Place(place, index) for index, place in enumerate(said["places"], 1)]
        self.rates = {"dhcp": said["exchanges"], "metadata": said["requests"]}
        self.ended = threading.Event()

    def receive(self) -> None:
        links = {place.link.fileno(): place for place in self.places}
        while not self.ended.is_set():
            for descriptor in select.select(list(links), [], [], 0.1)[0]:
                links[descriptor].take()

    def moments(self) -> Iterator[str]:
        """Yield what is to begin, when it is to begin, until standard input closes."""
        due = dict.fromkeys(self.rates, time.monotonic())
        while not select.select([sys.stdin], [], [], 0)[0]:
            kind = min(due, key=due.__getitem__)
            now = time.monotonic()
            if now < due[kind]:
                time.sleep(min(due[kind] - now, 0.05))
                continue
            if now - due[kind] > 0.2:
                due[kind] = now  # the machine was busy: go on from here, and make up no burst
            due[kind] += 1 / self.rates[kind]
            yield kind

    def run(self) -> list[dict[str, Any]]:
        receiver = threading.Thread(target=self.receive)
        receiver.start()
        flowing = False
        with ThreadPoolExecutor(WORKERS) as pool:
            for kind in self.moments():
                for place in self.places:
                    if kind == "dhcp":
                        place.discover()
                    else:
                        pool.submit(place.request)
                if not flowing and self.is_flowing():
                    flowing = True
                    print("flowing", flush=True)
        self.wait()
        self.ended.set()
        receiver.join()
        return [entry for place in self.places for entry in place.records]

    def is_flowing(self) -> bool:
        done = [e["kind"] for place in self.places for e in place.records if e["ended"] is not None and not e["wrong"]]
        return all(done.count(kind) >= FLOWING for kind in self.rates)

    def wait(self) -> None:
        deadline = time.monotonic() + STRAGGLERS
        while time.monotonic() < deadline and any(
            entry["ended"] is None and not entry["wrong"] for place in self.places for entry in place.records
        ):
            time.sleep(0.02)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        json.dump(Stream(json.loads(sys.stdin.readline())).run(), sys.stdout)
