# SPDX-License-Identifier: Apache-2.0
"""Ask for addresses on a network until all of them answer an echo, and tell when each did.

Standard input is JSON: ``device``, the own ``address`` there, the ``addresses`` to ask for, how
many ``hops`` behind these those are who answer, the ``pause`` in seconds between two questions, and for
how many ``seconds`` to go on.  Prints ``ready``, and then JSON: ``times`` has by address the
time of CLOCK_MONOTONIC at which its first answer to an echo came.  An answer from nearer by
does not count: a router that does not translate yet would answer itself.

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
BROADCAST = b"\xff" * 6
TTL = 64  # that answers begin with
PAYLOAD = b"x" * 32


class Asker:
    """One device; ``pending`` are the addresses without an answer, and the MAC addresses known of them."""

    def __init__(self, device: str, address: str, addresses: list[str], hops: int) -> None:
        self._ttl = TTL - hops
        self._asked = 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self._socket.bind((device, 0))
        self._mac = bytes.fromhex(Path(f"/sys/class/net/{device}/address").read_text().strip().replace(":", ""))
        self._own = socket.inet_aton(address)
        self.pending: dict[str, bytes | None] = dict.fromkeys(addresses)
        self.times: dict[str, float] = {}

    def ask(self, address: str) -> None:
        """Send an echo request, or ask who has the address if that is not known."""
        mac = self.pending[address]
        target = socket.inet_aton(address)
        if mac is None:
            question = struct.pack("!HHBBH", 1, IPV4, 6, 4, REQUEST) + self._mac + self._own + bytes(6) + target
            self._socket.send(BROADCAST + self._mac + struct.pack("!H", ARP) + question)
            return
        # Each with an identifier of its own: what the kernel has decided on one packet holds for all like it.
        self._asked = (self._asked + 1) & 0xFFFF
        echo = struct.pack("!BBHHH", ECHO, 0, 0, self._asked, 0) + PAYLOAD
        echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(echo), 0, 0, 64, socket.IPPROTO_ICMP, 0) + self._own + target
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        self._socket.send(mac + self._mac + struct.pack("!H", IPV4) + head + echo)

    def listen(self, seconds: float) -> list[str]:
        """Take what arrives within *seconds*, or has arrived; return the addresses that have come nearer."""
        found: list[str] = []
        while select.select([self._socket], [], [], 0.0 if found else seconds)[0]:
            now, frame = time.monotonic(), self._socket.recv(2048)
            if frame[:6] == self._mac and (address := self._take(frame, now)) is not None:
                found.append(address)
            elif not found:
                return found  # somebody else's: the clock of the next question goes on
        return found

    def _take(self, frame: bytes, now: float) -> str | None:
        kind = int.from_bytes(frame[12:14], "big")
        if kind == ARP and int.from_bytes(frame[20:22], "big") == REPLY:
            address = socket.inet_ntoa(frame[28:32])
            if self.pending.get(address, b"") is None:
                self.pending[address] = frame[22:28]
                return address
        elif kind == IPV4 and (frame[22], frame[23], frame[34]) == (self._ttl, socket.IPPROTO_ICMP, ECHO_REPLY):
            address = socket.inet_ntoa(frame[26:30])
            if self.pending.pop(address, None) is not None:
                self.times[address] = now
                return address
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
