# SPDX-License-Identifier: Apache-2.0
"""Ask for addresses on a network until all of them answer, and tell when each did.

Standard input is JSON: ``device``, the own ``address`` there, the ``addresses`` to ask for, how
many ``hops`` behind these those are who answer, the ``pause`` in seconds between two questions, and for
how many ``seconds`` to go on.  Prints ``ready``, and then JSON: ``times`` has by address the
time of CLOCK_MONOTONIC at which its first answer came.  An answer from nearer by
does not count: a router that does not translate yet would answer itself.

An address is asked for an echo; one with a port (``203.0.113.5:22``) for a TCP connection, and
a refusal is an answer, too.

Each address is looked for by ARP, so no neighbor entry of the kernel has to time out in between.
Until one has answered, the last alone is asked for: a hundred questions each few
milliseconds would keep the switch from its work.  Runs as a program of its own in a
namespace, on the standard library alone.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ARP, IPV4 = 0x0806, 0x0800
REQUEST, REPLY = 1, 2
ECHO, ECHO_REPLY = 8, 0
SYN, ACK = 0x02, 0x10
BROADCAST = b"\xff" * 6
TTL = 64  # that answers begin with
PAYLOAD = b"x" * 32


class Asker:
    """One device; ``pending`` are those of the addresses, as they are called, that have not answered."""

    def __init__(self, device: str, address: str, addresses: list[str], hops: int) -> None:
        self._ttl = TTL - hops
        self._asked = 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self._socket.bind((device, 0))
        self._mac = bytes.fromhex(Path(f"/sys/class/net/{device}/address").read_text().strip().replace(":", ""))
        self._own = socket.inet_aton(address)
        self._macs: dict[str, bytes] = {}
        self.pending = dict.fromkeys(addresses)
        self.times: dict[str, float] = {}

    def ask(self, name: str) -> None:
        """Send a question, or ask who has the address if that is not known."""
        address, _, port = name.partition(":")
        mac, target = self._macs.get(address), socket.inet_aton(address)
        if mac is None:
            question = struct.pack("!HHBBH", 1, IPV4, 6, 4, REQUEST) + self._mac + self._own + bytes(6) + target
            self._socket.send(BROADCAST + self._mac + struct.pack("!H", ARP) + question)
            return
        # Each with an identifier of its own: what the kernel has decided on one packet holds for all like it.
        self._asked = (self._asked + 1) % 60_000
        protocol = socket.IPPROTO_TCP if port else socket.IPPROTO_ICMP
        body = self._connection(target, int(port)) if port else self._echo()
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + self._own + target
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        self._socket.send(mac + self._mac + struct.pack("!H", IPV4) + head + body)

    def _echo(self) -> bytes:
        echo = struct.pack("!BBHHH", ECHO, 0, 0, self._asked, 0) + PAYLOAD
        return echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]

    def _connection(self, target: bytes, port: int) -> bytes:
        first = struct.pack("!HHIIBBHHH", 1024 + self._asked, port, 0, 0, 5 << 4, SYN, 1024, 0, 0)
        pseudo = self._own + target + struct.pack("!HH", socket.IPPROTO_TCP, len(first))  # RFC 9293
        return first[:16] + struct.pack("!H", checksum(pseudo + first)) + first[18:]

    def listen(self, seconds: float) -> list[str]:
        """Take what arrives within *seconds*, or has arrived; return the names of those that have come nearer."""
        found: list[str] = []
        while select.select([self._socket], [], [], 0.0 if found else seconds)[0]:
            now, frame = time.monotonic(), self._socket.recv(2048)
            names = self._take(frame, now) if frame[:6] == self._mac else []
            found += names
            if not found:
                return found  # somebody else's: the clock of the next question goes on
        return found

    def _take(self, frame: bytes, now: float) -> list[str]:
        kind = int.from_bytes(frame[12:14], "big")
        if kind == ARP and int.from_bytes(frame[20:22], "big") == REPLY:
            address = socket.inet_ntoa(frame[28:32])
            if address in self._macs:
                return []
            self._macs[address] = frame[22:28]
            return [name for name in self.pending if name.partition(":")[0] == address]
        name = self._answered(frame) if kind == IPV4 and frame[22] == self._ttl else None
        if name is None or name not in self.pending:
            return []
        del self.pending[name]
        self.times[name] = now
        return [name]

    @staticmethod
    def _answered(frame: bytes) -> str | None:
        """Return what has sent a packet, None if it answers nothing."""
        address = socket.inet_ntoa(frame[26:30])
        if frame[23] == socket.IPPROTO_ICMP:
            return address if frame[34] == ECHO_REPLY else None
        if frame[23] == socket.IPPROTO_TCP and frame[47] & ACK:
            return f"{address}:{int.from_bytes(frame[34:36], 'big')}"
        return None


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of octets."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def main(order: Mapping[str, Any]) -> Mapping[str, float]:
    """Ask until all have answered or time is up; return the times."""
    asker = Asker(order["device"], order["address"], order["addresses"], order["hops"])
    pause, seconds = order["pause"], order["seconds"]
    print("ready", flush=True)
    due = time.monotonic()
    end = due + seconds
    while asker.pending and time.monotonic() < end:
        now = time.monotonic()
        if now >= due:
            for address in list(asker.pending) if asker.times else list(asker.pending)[-1:]:
                asker.ask(address)
            due = now + pause
        for address in asker.listen(max(due - time.monotonic(), 0.0)):
            if address in asker.pending:
                asker.ask(address)
            elif len(asker.times) == 1:
                due = 0.0  # the first: the others now
    return asker.times


if __name__ == "__main__":
    json.dump({"times": main(json.loads(sys.stdin.read()))}, sys.stdout)
