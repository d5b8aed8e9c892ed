# SPDX-License-Identifier: Apache-2.0
"""Ask a DHCP server for addresses as many instances at once, and tell how long it took.

Runs as a program of its own in the namespace that holds the instances' devices, on the
standard library alone.  Standard input is one JSON object, standard output another::

    {"instances": [{"device": ..., "mac": ..., "address": ...}, ...], "mode": "rate",
     "count": 2000, "outstanding": 16}
    {"done": 2000, "seconds": 1.5, "lost": 0, "wrong": 0, "times": [...]}

An exchange is DISCOVER, OFFER, REQUEST, ACK.  ``rate`` does so many of them, so many at a
time, each of another instance; ``times`` are seconds from DISCOVER to ACK.  An answer is
``wrong`` unless it has come to its instance's device, for its MAC address, with its
address.  ``first`` sends each instance's DISCOVER every ``pause`` seconds until it is
offered its address, for ``seconds`` at most; ``ready`` is printed before, and ``times`` is
when (CLOCK_MONOTONIC) each was, in the order of the instances.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ETH_P_IP = 0x0800
SO_RCVBUFFORCE = 33
SILENCE = struct.pack("ll", 0, 1_000)  # struct timeval: 1 ms
LOST_AFTER = 1.0  # seconds
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5

# Where things are in a frame: Ethernet, IPv4 without options, UDP, BOOTP (RFC 951).
XID, YIADDR, OPTIONS = 46, 58, 282
_COOKIE = b"\x63\x82\x53\x63"
_ASKED = bytes((1, 3, 6, 12, 15, 26, 28, 42, 119, 121))
_INDEX_BITS = 12  # of a transaction id: which instance; the rest is its number


@dataclass(slots=True)
class Instance:
    """One client: its device, what it sends, and how far its exchange is; ``waits_for`` 0 means that it rests."""

    device: str
    mac: bytes
    address: bytes
    discover: bytearray
    request: bytearray | None = None
    waits_for: int = 0
    xid: int = 0
    begun: float = 0.0


@dataclass(slots=True)
class Outcome:
    """What came of it all; ``times`` as the mode has them."""

    times: list[float] = field(default_factory=list)
    lost: int = 0
    wrong: int = 0


def frame(mac: bytes, kind: int, options: bytes = b"") -> bytearray:
    """Return what a client broadcasts; without UDP checksum, as IPv4 allows (RFC 768)."""
    client_id = b"\x3d\x07\x01" + mac
    asked = bytes((55, len(_ASKED))) + _ASKED
    body = bytes((53, 1, kind)) + options + client_id + b"\x39\x02\x05\xdc" + asked + b"\xff"
    bootp = struct.pack("!BBBBIHH16x16s192x", 1, 1, 6, 0, 0, 0, 0, mac) + _COOKIE + body
    bootp = bootp.ljust(300, b"\0")
    udp = struct.pack("!HHHH", 68, 67, 8 + len(bootp), 0) + bootp
    head = struct.pack("!BBHHHBBHII", 0x45, 0x10, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0, 0, 0xFFFFFFFF)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    return bytearray(b"\xff" * 6 + mac + struct.pack("!H", ETH_P_IP) + head + udp)


def options_of(answer: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the options of an answer, as far as they make sense."""
    at = OPTIONS
    while at + 1 < len(answer) and answer[at] != 255:
        if answer[at] == 0:
            at += 1
            continue
        yield answer[at], answer[at + 2 : at + 2 + answer[at + 1]]
        at += 2 + answer[at + 1]


def kind_of(answer: bytes) -> int:
    """Return what DHCP message an answer is, 0 if none."""
    if answer[OPTIONS : OPTIONS + 2] == b"\x35\x01":  # where servers put it
        return answer[OPTIONS + 2]
    return next((value[0] for code, value in options_of(answer) if code == 53 and value), 0)


class Clients:
    """All instances, and the one socket that hears what comes in on any device."""

    def __init__(self, instances: Sequence[Mapping[str, str]]) -> None:
        self.instances = [_instance(each) for each in instances]
        self.outcome = Outcome()
        self._number = 0
        # One for all devices: hundreds of packet sockets take the kernel seconds to open and close.
        self._mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        self._ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, SILENCE)

    def discover(self, index: int, *, again: bool = False) -> None:
        """Begin an exchange of the instance at *index*, or ask the same once more."""
        each = self.instances[index]
        if not again:
            self._number += 1
            each.xid = (self._number << _INDEX_BITS | index) & 0xFFFFFFFF
            each.waits_for, each.begun = OFFER, time.monotonic()
        self._send(each, each.discover)

    def hear(self) -> tuple[int, int, bytes] | None:
        """Return the next answer that somebody waits for: whose it is (the index), its kind, itself.

        None after 1 ms of silence, or when what came is nothing to us.
        """
        try:
            answer, origin = self._ear.recvfrom(2048)
        except BlockingIOError:
            return None
        if len(answer) <= OPTIONS or answer[34:38] != b"\0\x43\0\x44":
            return None
        index = int.from_bytes(answer[XID : XID + 4]) & ((1 << _INDEX_BITS) - 1)
        each = self.instances[index] if index < len(self.instances) else None
        if each is None or answer[XID : XID + 4] != each.xid.to_bytes(4) or not each.waits_for:
            return None  # too late: it has been given up
        kind = kind_of(answer)
        if origin[0] != each.device or answer[:6] != each.mac or answer[YIADDR : YIADDR + 4] != each.address:
            self.outcome.wrong += 1
            return None
        return (index, kind, answer) if kind == each.waits_for else None

    def request(self, index: int, offer: bytes) -> None:
        """Take what was offered."""
        each = self.instances[index]
        if each.request is None:
            server = dict(options_of(offer)).get(54, b"")
            each.request = frame(each.mac, REQUEST, b"\x32\x04" + each.address + b"\x36\x04" + server)
        each.waits_for = ACK
        self._send(each, each.request)

    def _send(self, each: Instance, frame: bytearray) -> None:
        """Send *frame* under the exchange's transaction id."""
        struct.pack_into("!I", frame, XID, each.xid)
        self._mouth.sendto(frame, (each.device, 0))

    def give_up_late(self) -> list[int]:
        """Return the instances that have waited too long; their exchanges count as lost."""
        limit = time.monotonic() - LOST_AFTER
        late = [index for index, each in enumerate(self.instances) if each.waits_for and each.begun < limit]
        for index in late:
            self.instances[index].waits_for = 0
        self.outcome.lost += len(late)
        return late


def rate(clients: Clients, count: int, outstanding: int) -> float:
    """Do *count* exchanges, *outstanding* at a time; return how many seconds it took."""
    resting = deque(range(len(clients.instances)))
    started = looked = time.monotonic()
    begun, going = 0, 0
    while going or begun < count:
        while going < outstanding and resting and begun < count:
            clients.discover(resting.popleft())
            begun, going = begun + 1, going + 1
        done = _go_on(clients)
        if (now := time.monotonic()) - looked > LOST_AFTER / 10:
            looked = now
            done += clients.give_up_late()
        resting.extend(done)
        going -= len(done)
    return time.monotonic() - started


def _go_on(clients: Clients) -> list[int]:
    """Take one answer and do what it asks for; return whose exchange is done."""
    heard = clients.hear()
    if heard is None:
        return []
    index, kind, answer = heard
    if kind == OFFER:
        clients.request(index, answer)
        return []
    each = clients.instances[index]
    clients.outcome.times.append(time.monotonic() - each.begun)
    each.waits_for = 0
    return [index]


def first(clients: Clients, seconds: float, pause: float) -> float:
    """Have each instance ask until it is offered its address; those that never are have no time."""
    indices = range(len(clients.instances))
    offered: dict[int, float] = {}
    for index in indices:
        clients.discover(index)
    print("ready", flush=True)
    started = asked = time.monotonic()
    while len(offered) < len(indices) and (now := time.monotonic()) < started + seconds:
        if now - asked >= pause:
            asked = now
            for index in indices:
                if index not in offered:
                    clients.discover(index, again=True)
        heard = clients.hear()
        if heard is not None:
            offered[heard[0]] = time.monotonic()
            clients.instances[heard[0]].waits_for = 0
    clients.outcome.lost = len(clients.instances) - len(offered)
    clients.outcome.times = [offered[index] for index in sorted(offered)]
    return time.monotonic() - started


def _instance(order: Mapping[str, str]) -> Instance:
    mac = bytes.fromhex(order["mac"].replace(":", ""))
    return Instance(order["device"], mac, socket.inet_aton(order["address"]), frame(mac, DISCOVER))


def main(order: Mapping[str, Any]) -> Mapping[str, object]:
    """Do what *order* says."""
    clients = Clients(order["instances"])
    if order["mode"] == "rate":
        took = rate(clients, order["count"], order["outstanding"])
    else:
        took = first(clients, order["seconds"], order["pause"])
    outcome = clients.outcome
    return {
        "done": len(outcome.times),
        "seconds": took,
        "lost": outcome.lost,
        "wrong": outcome.wrong,
        "times": outcome.times,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
