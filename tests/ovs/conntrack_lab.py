# SPDX-License-Identifier: Apache-2.0
"""Two ports with equal addresses behind hybrid bridges of one host, filtered by hand, and traffic through them.

The calling thread is in the host's network namespace; the sockets of instances and of
those whom they talk to are made in theirs and used from here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tests.ovs.conntrack_entries import CLONE_NEWNET, own_network_namespace

INSTANCE, OUTSIDE = {4: "10.0.0.1", 6: "fd00::1"}, {4: "10.0.0.2", 6: "fd00::2"}
ANSWER_SECONDS = 3.0

# Each port's own zone, before defragmentation; a mark says that it has been set.
ZONES = """
table inet hostplane {
  chain zones {
    type filter hook prerouting priority -450
    iifname "qbr*" ct zone set iifname map { "qbr1" : 1, "qbr2" : 2 } meta mark set meta mark | 0x10000000
  }
}
"""
_NEW = "-m conntrack --ctstate NEW -j CONNMARK --set-xmark"
FILTER = f"""
*filter
:hp-forward - [0:0]
:hp-out - [0:0]
:hp-in - [0:0]
-F FORWARD
-A FORWARD -j hp-forward
-A hp-forward -i qbr+ -m connmark --mark 0x4/0x4 -j DROP
-A hp-forward -i qbr+ -m mark --mark 0x10000000/0x10000000 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A hp-forward -i qbr+ -m physdev --physdev-in tap+ --physdev-is-bridged -j hp-out
-A hp-forward -i qbr+ -m physdev --physdev-in qvb+ --physdev-is-bridged -j hp-in
-A hp-forward -i qbr+ -j DROP
-A hp-out {_NEW} 0x1/0x3
-A hp-in {_NEW} 0x2/0x3
{{rules}}
COMMIT
"""

_Made = TypeVar("_Made")


def run(*argv: str, stdin: str = "") -> None:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: {done.stderr}"


class Lab:
    """The host; ``inside(port)`` and ``outside(port)`` are namespaces."""

    def __init__(self) -> None:
        self.prefix = f"hpg-{os.getpid()}"
        self._libc = ctypes.CDLL(None, use_errno=True)

    def inside(self, port: int) -> str:
        return f"{self.prefix}-i{port}"

    def outside(self, port: int) -> str:
        return f"{self.prefix}-o{port}"

    def build(self) -> None:
        for port in (1, 2):
            self._plug(port)
        run("nft", "-f", "-", stdin=ZONES)
        run("ip", "link", "set", "lo", "up")

    def _plug(self, port: int) -> None:
        bridge = f"qbr{port}"
        run("ip", "link", "add", bridge, "type", "bridge")
        run("ip", "link", "set", bridge, "type", "bridge", "nf_call_iptables", "1", "nf_call_ip6tables", "1")
        ends = ((self.inside(port), f"tap{port}", INSTANCE), (self.outside(port), f"qvb{port}", OUTSIDE))
        for name, device, addresses in ends:
            run("ip", "netns", "add", name)
            run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", device, "master", bridge, "up")
            run("ip", "-n", name, "address", "add", f"{addresses[4]}/24", "dev", "eth0")
            run("ip", "-n", name, "address", "add", f"{addresses[6]}/64", "dev", "eth0", "nodad")
            run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "link", "set", bridge, "up")

    def filter(self, rules: dict[int, list[str]]) -> None:
        """Make *rules* the filter: by family, as ``iptables-restore`` reads them."""
        for family, program in ((4, "iptables-restore"), (6, "ip6tables-restore")):
            always = ["-A hp-in -p ipv6-icmp -j ACCEPT", "-A hp-out -p ipv6-icmp -j ACCEPT"] if family == 6 else []
            text = "\n".join(always + rules[family])
            run(program, "--noflush", stdin=FILTER.format(rules=text))

    def tear_down(self) -> None:
        for port in (1, 2):
            for name in (self.inside(port), self.outside(port)):
                subprocess.run(("ip", "netns", "del", name), capture_output=True)

    def within(self, name: str, make: Callable[[], _Made]) -> _Made:
        """Return what *make* makes while this thread is in namespace *name*."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(Path("/run/netns") / name, os.O_RDONLY)
        try:
            assert self._libc.setns(there, CLONE_NEWNET) == 0
            return make()
        finally:
            assert self._libc.setns(home, CLONE_NEWNET) == 0
            os.close(home)
            os.close(there)


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """Build a lab around the calling thread, and take it away again."""
    with own_network_namespace():
        made = Lab()
        try:
            made.build()
            yield made
        finally:
            made.tear_down()


class Stream:
    """Two sockets that talk through a filter: ``first`` sent the first packet."""

    def __init__(self, first: socket.socket, second: socket.socket) -> None:
        self.first, self.second = first, second

    def send(self) -> None:
        """Send something each way, whether or not it arrives."""
        for sock in (self.first, self.second):
            with contextlib.suppress(OSError):
                sock.send(b"word")

    def arrived(self) -> bool:
        """Tell whether anything has come, either way, since it was asked last."""
        came = [_drain(sock) for sock in (self.first, self.second)]
        return any(came)

    def passes(self) -> bool:
        """Tell whether what each sends reaches the other."""
        self.arrived()
        self.send()
        return all(select.select([sock], [], [], ANSWER_SECONDS)[0] for sock in (self.first, self.second))

    def close(self) -> None:
        for sock in (self.first, self.second):
            sock.close()


class Ping(Stream):
    """Echo requests of one id: the other side's kernel answers."""

    def __init__(self, sock: socket.socket, identity: int) -> None:
        super().__init__(sock, sock)
        self._request = struct.pack(">BBHHH", 8, 0, 0xFFFF - (8 << 8) - identity - 1, identity, 1)

    def send(self) -> None:
        self.first.send(self._request)


def _drain(sock: socket.socket) -> bool:
    some = False
    while select.select([sock], [], [], 0)[0]:
        try:
            if not sock.recv(4096):
                break
        except OSError:
            break
        some = True
    return some


def tcp(lab: Lab, port: int, service: int, source_port: int) -> Stream:
    """Connect from outside to *service* of the instance."""
    with lab.within(lab.inside(port), lambda: socket.create_server((INSTANCE[4], service))) as server:
        client = lab.within(lab.outside(port), lambda: socket.socket())
        client.bind((OUTSIDE[4], source_port))
        client.settimeout(ANSWER_SECONDS)
        client.connect((INSTANCE[4], service))
        accepted, _ = server.accept()
    for sock in (client, accepted):  # closed by reset: nothing of it waits for its end
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Stream(client, accepted)


def udp(lab: Lab, port: int, service: int, source_port: int, *, family: int = 4, egress: bool = False) -> Stream:
    """Talk UDP to *service* of the instance, or with *egress* from the instance to that of somebody outside."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    ends = [(lab.outside(port), OUTSIDE[family], source_port), (lab.inside(port), INSTANCE[family], service)]
    if egress:
        ends = [(lab.inside(port), INSTANCE[family], source_port), (lab.outside(port), OUTSIDE[family], service)]
    socks = [lab.within(name, lambda: socket.socket(kind, socket.SOCK_DGRAM)) for name, _, _ in ends]
    for sock, (_, address, number) in zip(socks, ends, strict=True):
        sock.bind((address, number))
    first, second = socks
    first.connect(ends[1][1:])
    second.connect(ends[0][1:])
    first.send(b"hello")
    assert select.select([second], [], [], ANSWER_SECONDS)[0]
    return Stream(first, second)


def ping(lab: Lab, port: int, identity: int) -> Stream:
    """Ping the instance from outside."""
    raw = lab.within(lab.outside(port), lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    raw.connect((INSTANCE[4], 0))
    return Ping(raw, identity)
