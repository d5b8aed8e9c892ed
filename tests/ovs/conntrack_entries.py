# SPDX-License-Identifier: Apache-2.0
"""Connections made by hand in the kernel's table (ctnetlink), and the table as ``/proc`` prints it."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.drivers.conntrack_table import open_netfilter

CLONE_NEWNET = 0x40000000
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_CONFIRMED = 0xE  # IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED


@contextmanager
def own_network_namespace() -> Iterator[None]:
    """Put the calling thread into a network namespace that nobody else is in."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        yield
    finally:
        libc.setns(home, CLONE_NEWNET)
        os.close(home)


@dataclass(frozen=True)
class Entry:
    """A connection to be made; ``first`` and ``second`` are ports, or ICMP type and code."""

    zone: int
    protocol: int
    source: str
    destination: str
    first: int = 0
    second: int = 0
    mark: int = 0
    master: Entry | None = None


def attribute(kind: int, value: bytes, nested: bool = False) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind | (0x8000 if nested else 0)) + value + bytes(-len(value) % 4)


def nest(kind: int, *parts: bytes) -> bytes:
    return attribute(kind, b"".join(parts), nested=True)


def _protocol(entry: Entry, reply: bool) -> bytes:
    number = attribute(1, bytes([entry.protocol]))
    if entry.protocol in (ICMP, ICMPV6):
        first = 4 if entry.protocol == ICMP else 7
        kind = entry.first
        if reply:
            kind = {8: 0, 13: 14, 128: 129}[kind]
        parts = (struct.pack(">H", 77), bytes([kind]), bytes([entry.second]))
        return nest(2, number, *(attribute(first + index, part) for index, part in enumerate(parts)))
    if entry.protocol in (TCP, UDP, 132, 136):
        ports = (entry.second, entry.first) if reply else (entry.first, entry.second)
        return nest(2, number, *(attribute(2 + index, struct.pack(">H", port)) for index, port in enumerate(ports)))
    return nest(2, number)


def _tuple(kind: int, entry: Entry, reply: bool = False) -> bytes:
    ends = [ipaddress.ip_address(address).packed for address in (entry.source, entry.destination)]
    if reply:
        ends.reverse()
    first = 1 if len(ends[0]) == 4 else 3
    addresses = nest(1, attribute(first, ends[0]), attribute(first + 1, ends[1]))
    return nest(kind, addresses, _protocol(entry, reply))


def _creation(entry: Entry) -> bytes:
    u32 = struct.Struct(">I").pack
    parts = [_tuple(1, entry), _tuple(2, entry, reply=True), attribute(3, u32(_CONFIRMED)), attribute(7, u32(600))]
    parts += [attribute(8, u32(entry.mark)), attribute(18, struct.pack(">H", entry.zone))]
    if entry.protocol == TCP:
        parts.append(nest(4, nest(1, attribute(1, bytes([3])))))  # established
    if entry.master is not None:
        parts.append(_tuple(14, entry.master))
    return b"".join(parts)


def make(entries: Iterable[Entry]) -> None:
    """Make *entries* in the calling thread's namespace; OSError if the kernel refuses one."""
    everything = list(entries)
    with open_netfilter() as sock:
        for begin in range(0, len(everything), 64):
            batch = everything[begin : begin + 64]
            data = b""
            for number, entry in enumerate(batch):
                family = socket.AF_INET6 if ":" in entry.source else socket.AF_INET
                body = struct.pack("=BBH", family, 0, 0) + _creation(entry)
                flags = 0x601 | (0x4 if number == len(batch) - 1 else 0)  # REQUEST, CREATE, EXCL, ACK
                data += struct.pack("=IHHII", 16 + len(body), 1 << 8, flags, number, 0) + body
            sock.send(data)
            while True:
                answer = sock.recv(65536)
                (number,), (error,) = struct.unpack_from("=I", answer, 8), struct.unpack_from("=i", answer, 16)
                if error:
                    raise OSError(-error, f"{os.strerror(-error)}: {batch[number]}")
                if number == len(batch) - 1:
                    break


def listed() -> list[dict[str, str]]:
    """Return the connections of the calling thread's namespace as ``/proc`` prints them, each word's first value."""
    found = []
    for line in Path("/proc/thread-self/net/nf_conntrack").read_text().splitlines():
        words = line.split()
        entry = {"family": words[0], "protocol": words[3]}
        for word in words[5:]:
            name, _, value = word.partition("=")
            entry.setdefault(name, value)
        found.append(entry)
    return found
