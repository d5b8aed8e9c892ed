# SPDX-License-Identifier: Apache-2.0
"""Bridges of hybrid plugs in a network namespace, and raw frames through them.

Per letter: ``qbr<x>`` with the ports ``tap<x>`` and ``qvb<x>``; frames of the instance
are sent on ``in<x>``, the other end of ``tap<x>``, those of the switch on ``qvo<x>``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

CLONE_NEWNET = 0x40000000
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_ETH_P_ALL = 3
_SECONDS = 10.0


@contextlib.contextmanager
def namespace() -> Iterator[None]:
    """Put the thread into a network namespace that lives as long as it stays there."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)


def shell(script: str) -> str:
    """Run a shell script in the thread's namespace."""
    return subprocess.run(("sh", "-ec", script), check=True, capture_output=True, text=True).stdout


def make_bridges(*letters: str, flags: bool = True) -> None:
    """Make bridges with both ports; *flags*: their own settings that let iptables see frames."""
    for setting in ("default", "all"):
        Path(f"/proc/sys/net/ipv6/conf/{setting}/disable_ipv6").write_text("1")
    call = "nf_call_iptables 1 nf_call_ip6tables 1" if flags else ""
    lines = []
    for x in letters:
        lines += [
            f"link add qbr{x} type bridge forward_delay 0 mcast_snooping 0 {call}",
            f"link add tap{x} type veth peer name in{x}",
            f"link add qvb{x} type veth peer name qvo{x}",
            *(f"link set {port}{x} master qbr{x}" for port in ("tap", "qvb")),
            *(f"link set {device}{x} up" for device in ("qbr", "tap", "in", "qvb", "qvo")),
        ]
    subprocess.run(("ip", "-batch", "-"), input="\n".join(lines), text=True, check=True)


class Wire:
    """Sends on one device and receives on another; what arrives is compared as bytes."""

    def __init__(self, source: str, target: str) -> None:
        self._source, self._target = _bound(source), _bound(target)
        self._end = bytes(Ether(src="02:00:00:00:00:0e", dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="192.0.2.254"))

    def close(self) -> None:
        """Close both sockets."""
        self._source.close()
        self._target.close()

    def send(self, *frames: Packet) -> None:
        """Send frames."""
        for frame in frames:
            self._source.send(bytes(frame))

    def received(self) -> list[bytes]:
        """Return what has arrived; an ARP request, which always passes, tells that nothing is on its way."""
        self._source.send(self._end)
        deadline = time.monotonic() + _SECONDS
        frames: list[bytes] = []
        while True:
            assert select.select([self._target], [], [], max(deadline - time.monotonic(), 0))[0], "no ARP came through"
            frame = self._target.recv(1 << 16)
            if frame.startswith(self._end):
                return frames
            frames.append(frame)

    def passes(self, *frames: Packet) -> list[bool]:
        """Send frames and tell which arrived as they were."""
        self.send(*frames)
        arrived = self.received()
        return [bytes(frame) in arrived for frame in frames]


def _bound(device: str) -> socket.socket:
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    link.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    link.bind((device, _ETH_P_ALL))
    return link


@contextlib.contextmanager
def wire(source: str, target: str) -> Iterator[Wire]:
    """A ``Wire`` that is closed in the end."""
    made = Wire(source, target)
    try:
        yield made
    finally:
        made.close()


def connections() -> list[str]:
    """Return the connections of the thread's namespace as the kernel prints them."""
    return Path("/proc/thread-self/net/nf_conntrack").read_text().splitlines()


def zones_of_connections() -> list[int]:
    """Return the zone of each connection, sorted."""
    words = [word for line in connections() for word in (*line.split(), "zone=0")]
    return sorted(_zones(words))


def _zones(words: list[str]) -> Iterator[int]:
    zone = 0
    for word in words:
        if word == "zone=0":  # the end of a line
            yield zone
            zone = 0
        elif word.startswith("zone="):
            zone = int(word.removeprefix("zone="))
