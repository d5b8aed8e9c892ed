# SPDX-License-Identifier: Apache-2.0
"""Raw frames out of and into many instances at once, from one process, and knowing when all have come."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agent.namespace import inside
from tests.functional.filter_packets import gratuitous_arp, mac_bytes
from tests.functional.lab import Lab

ETH_P_ALL = 3
PACKET_OUTGOING = 4
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
SO_RCVBUFFORCE = 33
DEVICE = "eth0"
FENCE = b"fence-"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Station:
    """An instance: where its frames come from, and who hears its broadcasts."""

    name: str
    mac: str
    address: str
    network: str
    namespace: Path


def namespace_of(lab: Lab, place: str) -> Path:
    """Return a path to the network namespace of a host or an instance that works from outside the sandbox."""
    found = lab.sandbox.resolve(place)
    switch = lab.sandbox.host(found.host.name).switch
    # The database outlives restarts of agent and switch.
    process = next(record for name, record in switch.processes().items() if "db" in name)
    if found.instance is None:
        return Path(f"/proc/{process.pid}/ns/net")
    return Path(f"/proc/{process.pid}/root/run/netns/{found.instance}")


def open_link(namespace: Path, device: str = DEVICE) -> socket.socket:
    """Return a packet socket on a device of another namespace; it sees what arrives there."""
    with namespace.open("rb") as opened, inside(opened.fileno()):
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        link.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        link.bind((device, ETH_P_ALL))
        return link


class Wire:
    """The instances' devices.  Close it, or use it with ``with``."""

    def __init__(self, stations: Sequence[Station]) -> None:
        self.stations = {station.name: station for station in stations}
        with contextlib.ExitStack() as ends:
            self._links = {s.name: ends.enter_context(open_link(s.namespace)) for s in stations}
            self._ends = ends.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def send(self, sender: str, frame: bytes) -> None:
        """Send a frame as the instance would."""
        self._links[sender].send(frame)

    def exchange(self, frames: Sequence[tuple[str, bytes]], timeout: float = 10.0) -> dict[str, list[bytes]]:
        """Send all *frames* in order, return what has arrived where once nothing can come any more.

        AssertionError if the fences do not all arrive within *timeout* seconds.
        """
        for sender, frame in frames:
            self.send(sender, frame)
        arrived: dict[str, list[bytes]] = {name: [] for name in self._links}
        # One fence may overtake frames that the switch took up together with it; a second
        # one, sent when the first has come, cannot overtake what is already done.
        for _ in range(2):
            self._fence(arrived, timeout)
        return arrived

    def _fence(self, arrived: dict[str, list[bytes]], timeout: float) -> None:
        wanted: dict[str, set[bytes]] = {name: set() for name in self._links}
        for station in self.stations.values():
            text = FENCE + b"%d." % next(_numbers)
            self.send(station.name, gratuitous_arp(station.mac, socket.inet_aton(station.address), text))
            for other in self.stations.values():
                if other.network == station.network and other is not station:
                    wanted[other.name].add(text)
        deadline = time.monotonic() + timeout
        names = {link.fileno(): name for name, link in self._links.items()}
        poll = select.poll()
        for descriptor in names:
            poll.register(descriptor, select.POLLIN)
        while any(wanted.values()):
            assert time.monotonic() < deadline, f"fences that did not come: { {k: v for k, v in wanted.items() if v} }"
            for descriptor, _ in poll.poll(100):
                name = names[descriptor]
                for frame in _read(self._links[name]):
                    if FENCE in frame:
                        wanted[name].discard(FENCE + frame.partition(FENCE)[2].partition(b".")[0] + b".")
                    else:
                        arrived[name].append(frame)

    def drain(self) -> Mapping[str, list[bytes]]:
        """Return, without waiting, what has arrived since the last look."""
        return {name: [frame for frame in _read(link) if FENCE not in frame] for name, link in self._links.items()}


def _read(link: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield link.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return


def is_from(frame: bytes, mac: str) -> bool:
    """Tell whether *mac* is the source of a frame."""
    return frame[6:12] == mac_bytes(mac)
