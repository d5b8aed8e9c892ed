# SPDX-License-Identifier: Apache-2.0
"""Packets that no filter ever allows, all the time, and whether any of them arrives."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tests.functional.filter_oracle import GRE, ICMP, ICMPV6, TCP, UDP, Packet
from tests.functional.filter_packets import MARKER_LENGTH, Macs, frame
from tests.functional.filter_wire import Wire
from tests.functional.lab import eventually

MARKER = b"forbid"
PAUSE = 0.0005  # seconds between two packets
_numbers = itertools.count(1)
_ports = itertools.count()


def kinds(packet: Packet) -> list[Packet]:
    """Return what else the sender of *packet* (UDP) can try from the same addresses."""
    protocol, query, error = (ICMP, 8, 3) if packet.version == 4 else (ICMPV6, 128, 1)
    return [
        packet,
        *(replace(packet, protocol=TCP, flags=flags) for flags in ("S", "A", "SA", "RA")),
        replace(packet, protocol=GRE, source_port=0, target_port=0),
        replace(packet, protocol=protocol, target_port=0, icmp_type=query + 1 if query == 128 else 0),
        Packet(
            packet.sender,
            packet.receiver,
            packet.source,
            packet.target,
            protocol,
            icmp_type=error,
            icmp_code=1,
            about=replace(packet, source=packet.target, target=packet.source),
        ),
    ]


@dataclass(slots=True)
class Leaks:
    """What a flood has sent, and what of it arrived: where, and when (seconds since the flood began)."""

    kinds: int
    sent: int = 0
    arrived: list[tuple[str, float, bytes]] = field(default_factory=list)

    def text(self) -> str:
        """Return the first few that arrived."""
        some = [f"{place} after {when:.3f} s: {content.hex()}" for place, when, content in self.arrived[:5]]
        return f"{len(self.arrived)} of {self.sent} forbidden packets arrived: {some}"

    def one_round(self) -> None:
        """Wait until each kind of packet has been sent once more."""
        target = self.sent + self.kinds + 1
        eventually(lambda: self.sent >= target, "forbidden packets are being sent")

    def seconds(self) -> float:
        """Return the time from the first arrival to the last."""
        return self.arrived[-1][1] - self.arrived[0][1] if self.arrived else 0.0


def marked(packet: Packet, macs: Macs) -> bytes:
    """Return a frame that is counted as forbidden where it arrives."""
    return frame(packet, macs, MARKER + b"%08d" % next(_numbers))


class Steady:
    """Packets that must all arrive: sent one by one beside a flood, counted where they come."""

    def __init__(self, packets: Iterator[tuple[str, bytes, bytes]]) -> None:
        self._packets = packets
        self._sent: dict[bytes, float] = {}
        self._arrived: dict[bytes, int] = {}

    def send(self, wire: Wire) -> None:
        """Send the next one."""
        sender, content, marker = next(self._packets)
        self._sent[marker] = time.monotonic()
        wire.send(sender, content)

    def see(self, content: bytes) -> None:
        """Count a frame that has arrived, if it is one of ours (and no error about one)."""
        marker = content[-MARKER_LENGTH:]
        if marker in self._sent:
            self._arrived[marker] = self._arrived.get(marker, 0) + 1

    def lost(self) -> list[float]:
        """Return when those were sent that have not arrived (CLOCK_MONOTONIC)."""
        return [moment for marker, moment in self._sent.items() if marker not in self._arrived]

    def summary(self) -> str:
        """Return the figures in a line."""
        return f"{len(self._sent)} new connections tried, {len(self.lost())} failed at {self.lost()[:5]}"


@contextlib.contextmanager
def flood(wire: Wire, frames: Sequence[tuple[str, bytes]], allowed: Steady | None = None) -> Iterator[Leaks]:
    """Send *frames* round and round, at least once before and after what happens in the context.

    What arrived is complete when the context has ended.  Between them one of *allowed* each.
    """
    leaks = Leaks(len(frames))
    ended = threading.Event()
    begun = time.monotonic()

    def look(arrived: Mapping[str, list[bytes]]) -> None:
        now = time.monotonic() - begun
        for place, contents in arrived.items():
            for content in contents:
                if MARKER in content:
                    leaks.arrived.append((place, now, content))
                elif allowed is not None:
                    allowed.see(content)

    def send() -> None:
        for sender, content in itertools.cycle(frames):
            if ended.is_set():
                return
            with contextlib.suppress(OSError):  # a device that is being made or changed
                wire.send(sender, content)
                leaks.sent += 1
            if allowed is not None:
                allowed.send(wire)
            if leaks.sent % 50 == 0:
                look(wire.drain())
            time.sleep(PAUSE)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        leaks.one_round()
        yield leaks
        leaks.one_round()
    finally:
        ended.set()
        thread.join()
    look(wire.exchange([]))


def udp(sender: str, receiver: str, source: str, target: str, port: int) -> Packet:
    """Return a UDP packet between two instances."""
    one, two = ipaddress.ip_address(source), ipaddress.ip_address(target)
    return Packet(sender, receiver, one, two, UDP, 40_000 + next(_ports) % 20_000, port)
