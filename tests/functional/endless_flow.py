# SPDX-License-Identifier: Apache-2.0
"""Datagrams and echo requests that go on for as long as they are watched.  Runs as a program inside an instance.

``endless_flow.py serve NAME PORT`` prints ``listening``, answers each datagram with its own
name and as whom it sees the sender, and prints ``echo WHO`` when it first sees an echo
request of somebody, and once more after each line that it reads.

``endless_flow.py talk WHO ADDRESS PORT`` sends one of each every 10 ms
and prints what it is answered whenever that is another answer than before; when its standard
input closes it prints what it saw as JSON.  Ports and identifiers stay the same all the time:
whoever tracks connections sees two that never end.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time

INTERVAL = 0.01
MAGIC = b"endless"
ECHO = struct.Struct("!BBHHH")
REQUEST, REPLY = 8, 0


def serve(name: str, port: int) -> None:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("", port))
    icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    seen: set[str] = set()
    print("listening", flush=True)
    while True:
        readable = select.select([udp, icmp, sys.stdin], [], [])[0]
        if sys.stdin in readable:
            if not sys.stdin.readline():
                return
            seen.clear()
        if udp in readable:
            data, sender = udp.recvfrom(100)
            udp.sendto(f"{name} {sender[0]} {data.decode()}".encode(), sender)
        if icmp in readable:
            packet = icmp.recv(200)[20:]
            body = packet[ECHO.size :]
            who = body.removeprefix(MAGIC).decode(errors="replace").strip()
            if packet[0] == REQUEST and body.startswith(MAGIC) and who not in seen:
                seen.add(who)
                print(f"echo {who}", flush=True)


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def request(who: str, number: int) -> bytes:
    body = (MAGIC + who.encode()).ljust(32)
    identifier = os.getpid() & 0xFFFF
    zero = ECHO.pack(REQUEST, 0, 0, identifier, number & 0xFFFF)
    return ECHO.pack(REQUEST, 0, checksum(zero + body), identifier, number & 0xFFFF) + body


class Talk:
    def __init__(self, who: str, address: str, port: int) -> None:
        self.who = who
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.connect((address, port))
        self.icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.icmp.connect((address, 0))
        self.sent = self.echoes = self.refused = 0
        self.answer = ""

    def send(self) -> None:
        self.sent += 1
        self.icmp.send(request(self.who, self.sent))
        self.udp.send(str(self.sent).encode())

    def hear_datagram(self) -> None:
        answer = " ".join(self.udp.recv(100).decode().split()[:2])
        if answer != self.answer:
            self.answer = answer
            print(answer, flush=True)

    def run(self) -> dict[str, int]:
        due = time.monotonic()
        while True:
            readable = select.select([self.udp, self.icmp, sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]
            if sys.stdin in readable:
                return {"sent": self.sent, "echoes": self.echoes, "refused": self.refused}
            try:
                if self.icmp in readable:
                    self.echoes += self.icmp.recv(200)[20] == REPLY
                if self.udp in readable:
                    self.hear_datagram()
                if time.monotonic() >= due:
                    due = time.monotonic() + INTERVAL
                    self.send()
            except OSError:  # refused by who is there, or nobody is
                self.refused += 1


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        json.dump(Talk(sys.argv[2], sys.argv[3], int(sys.argv[4])).run(), sys.stdout)
