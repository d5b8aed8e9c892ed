# SPDX-License-Identifier: Apache-2.0
"""Ping from and to all instances of one host at once; runs inside the host as a program of its own.

Tenants may have equal addresses, so an answer alone does not tell who gave it.  A
raw socket in each instance therefore also watches which echo *requests* arrive.

Reads one line of JSON, ``{"key": hex, "instances": [name], "here": name, "asks": [[number,
instance, address]], "seconds": s}``, prints ``ready`` once it listens, waits for another line,
pings for that long and prints ``{"arrived": [[number, instance, source address]], "answered":
[number]}``.  ``here`` is what the machine itself is called, if it takes part.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import selectors
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

from agent.cli.plug_devices import NETNS_FOLDER
from agent.namespace import inside

TRIES = 4  # the first packet to a new neighbour may be lost in a tunnel
KEY_BYTES = 8

_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
_NUMBER = struct.Struct("!I")
_ECHO = {4: (8, 0), 6: (128, 129)}  # ICMP types of request and reply by IP version
_PROTOCOL = {4: (socket.AF_INET, socket.IPPROTO_ICMP), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6)}


@dataclass(frozen=True, slots=True)
class Ear:
    """A raw socket in an instance."""

    instance: str
    version: int
    socket: socket.socket


@dataclass(slots=True)
class Probe:
    """Everything heard; ``key`` tells our own packets from those of others."""

    key: bytes
    ears: dict[tuple[str, int], Ear] = field(default_factory=dict)
    arrived: set[tuple[int, str, str]] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)

    def listen(self, instance: str) -> None:
        """Open the sockets of an instance."""
        with (NETNS_FOLDER / instance).open("rb") as namespace, inside(namespace.fileno()):
            self.listen_here(instance)

    def listen_here(self, name: str) -> None:
        """Open the sockets of the namespace that we are in."""
        for version, (family, protocol) in _PROTOCOL.items():
            ear = Ear(name, version, socket.socket(family, socket.SOCK_RAW, protocol))
            ear.socket.setblocking(False)
            self.ears[name, version] = ear

    def ask(self, number: int, instance: str, address: str) -> None:
        """Send an echo request; that there is no route is as good as no answer."""
        version = ipaddress.ip_address(address).version
        body = self.key + _NUMBER.pack(number)
        # With an identifier of its own each probe is a connection of its own to whoever tracks them.
        identifier = int.from_bytes(self.key[:2])
        packet = _HEADER.pack(_ECHO[version][0], 0, 0, identifier, number & 0xFFFF) + body
        if version == 4:  # for ICMPv6 the kernel does it
            packet = packet[:2] + struct.pack("!H", _checksum(packet)) + packet[4:]
        with contextlib.suppress(OSError):
            self.ears[instance, version].socket.sendto(packet, (address, 0))

    def hear(self, ear: Ear) -> None:
        """Take down all that has come to a socket."""
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, (sender, *_) = ear.socket.recvfrom(2048)
                icmp = packet[(packet[0] & 15) * 4 :] if ear.version == 4 else packet
                body = icmp[_HEADER.size :]
                if not body.startswith(self.key) or len(body) < KEY_BYTES + _NUMBER.size:
                    continue
                (number,) = _NUMBER.unpack_from(body, KEY_BYTES)
                request, reply = _ECHO[ear.version]
                if icmp[0] == request:
                    self.arrived.add((number, ear.instance, sender))
                elif icmp[0] == reply:
                    self.answered.add(number)


def _checksum(packet: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return total ^ 0xFFFF


def main() -> None:
    """See the module."""
    order = json.loads(sys.stdin.readline())
    probe = Probe(bytes.fromhex(order["key"]))
    for instance in order["instances"]:
        probe.listen(instance)
    if order["here"]:
        probe.listen_here(order["here"])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    selector = selectors.DefaultSelector()
    for ear in probe.ears.values():
        selector.register(ear.socket, selectors.EVENT_READ, ear)
    begun, seconds, tries = time.monotonic(), float(order["seconds"]), 0
    while (now := time.monotonic()) < begun + seconds:
        if tries < TRIES and now >= begun + tries * seconds / (2 * TRIES):
            tries += 1
            for number, instance, address in order["asks"]:
                if number not in probe.answered:
                    probe.ask(number, instance, address)
        for key, _ in selector.select(0.02):
            probe.hear(key.data)
    json.dump({"arrived": sorted(probe.arrived), "answered": sorted(probe.answered)}, sys.stdout)


if __name__ == "__main__":
    main()
