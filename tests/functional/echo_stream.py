# SPDX-License-Identifier: Apache-2.0
"""A thousand echo requests a second, each accounted for.  Runs as a program inside an instance.

``echo_stream.py ADDRESS RATE`` sends ICMP echo requests with a sequence number each
until its standard input closes, then listens for 2 more seconds and prints what it
saw as JSON.  After the first hundred replies it prints ``flowing``.  ``ping`` would
not do: it slows down by itself and does not say which packet was lost when.  Times
are CLOCK_MONOTONIC, which the whole machine shares.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import struct
import sys
import threading
import time

STRAGGLERS = 2.0  # seconds after the last request in which a reply still counts
FLOWING = 100  # replies after which it says "flowing"
HEADER = struct.Struct("!BBHHH")
REQUEST = {4: 8, 6: 128}  # by IP version
REPLY = {4: 0, 6: 129}
PAYLOAD = struct.Struct("!Qd")  # sequence number and time of sending
MAGIC = b"hostplane"


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def request(version: int, number: int, identifier: int, now: float) -> bytes:
    """Return an echo request; in ICMPv6 the kernel fills in the checksum."""
    body = PAYLOAD.pack(number, now) + MAGIC + b"\0"
    zero = HEADER.pack(REQUEST[version], 0, 0, identifier, number & 0xFFFF)
    return HEADER.pack(REQUEST[version], 0, checksum(zero + body), identifier, number & 0xFFFF) + body


class Stream:
    def __init__(self, address: str, rate: float) -> None:
        self.version = 6 if ":" in address else 4
        family, protocol = (
            (socket.AF_INET6, socket.IPPROTO_ICMPV6) if self.version == 6 else (socket.AF_INET, socket.IPPROTO_ICMP)
        )
        self.socket = socket.socket(family, socket.SOCK_RAW, protocol)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.connect((address, 0))
        self.interval = 1 / rate
        self.identifier = os.getpid() & 0xFFFF
        self.sent: list[float] = []
        self.unsendable = 0
        self.received: dict[int, float] = {}
        self.duplicates = 0
        self.ended = threading.Event()

    def receive(self) -> None:
        while not self.ended.is_set():
            if not select.select([self.socket], [], [], 0.1)[0]:
                continue
            packet = self.socket.recv(2048)
            icmp = packet if self.version == 6 else packet[(packet[0] & 15) * 4 :]  # IPv6 comes without its header
            kind, _, _, identifier, _ = HEADER.unpack_from(icmp)
            if kind != REPLY[self.version] or identifier != self.identifier or MAGIC not in icmp:
                continue
            number, _ = PAYLOAD.unpack_from(icmp, HEADER.size)
            if number in self.received:
                self.duplicates += 1
            else:
                self.received[number] = time.monotonic()
                if len(self.received) == FLOWING:
                    print("flowing", flush=True)

    def send(self) -> None:
        due = time.monotonic()
        while not select.select([sys.stdin], [], [], 0)[0]:
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)
            elif now - due > 0.1:
                due = now  # the machine was busy: go on from here, and make up no burst
            due += self.interval
            now = time.monotonic()
            try:
                self.socket.send(request(self.version, len(self.sent), self.identifier, now))
            except OSError:
                self.unsendable += 1
                continue
            self.sent.append(now)

    def run(self) -> dict[str, object]:
        receiver = threading.Thread(target=self.receive)
        receiver.start()
        self.send()
        time.sleep(STRAGGLERS)
        self.ended.set()
        receiver.join()
        arrivals = sorted(self.received.values())
        gaps = [(later - earlier, earlier) for earlier, later in itertools.pairwise(arrivals)]
        return {
            "sent": self.sent,
            "unsendable": self.unsendable,
            "lost": [self.sent[number] for number in range(len(self.sent)) if number not in self.received],
            "duplicates": self.duplicates,
            "arrivals": arrivals,
            "longest_gap": max(gaps, default=(0.0, 0.0)),
        }


if __name__ == "__main__":
    json.dump(Stream(sys.argv[1], float(sys.argv[2])).run(), sys.stdout)
