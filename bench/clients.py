# SPDX-License-Identifier: Apache-2.0
"""Instances that only ask: devices of many ports in one namespace of a host, and the programs that ask there.

All devices are in one namespace, each with its port's MAC and IP addresses, so that one
program can drive hundreds.  What tells the instances apart is the device, so each has its
own route to the metadata address.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.core.errors import ApplyError
from agent.core.naming import tap_name
from agent.sandbox.host import SimulatedHost
from agent.sandbox.sandbox import Place, Sandbox
from agent.sandbox.tools import run
from bench.switch import Interface

NAMESPACE = "clients"
METADATA_ADDRESS = "169.254.169.254"
ANSWER_SECONDS = 60.0
_FOLDER = Path(__file__).parent
# Without these the namespace would answer ARP for an address on every device, and drop what
# comes in on another device than the first that leads back.
_SETTINGS = (
    "net.ipv6.conf.all.disable_ipv6=1",
    "net.ipv6.conf.default.disable_ipv6=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.all.arp_ignore=1",
    "net.ipv4.conf.all.arp_announce=2",
)


@dataclass(frozen=True, slots=True)
class Client:
    """An instance that asks: what Nova calls it, its port and the port's addresses."""

    instance: str
    port: str
    mac: str
    address: str

    @property
    def interface(self) -> Interface:
        """What is plugged into the switch for it."""
        return Interface(self.port, self.mac)

    @property
    def device(self) -> str:
        """Its own end."""
        return f"c{tap_name(self.port)[3:]}"

    def as_json(self) -> Mapping[str, str]:
        """Return what the programs that ask are told of it."""
        return {"device": self.device, "mac": self.mac, "address": self.address}


class ClientSpace:
    """The namespace of all clients of one host."""

    def __init__(self, sandbox: Sandbox, host: SimulatedHost) -> None:
        self._sandbox = sandbox
        self._host = host
        enter = sandbox.argv(Place(host), [])
        run([*enter, "ip", "netns", "add", NAMESPACE])
        run([*enter, "sysctl", "-q", "-w", "net.ipv6.conf.default.disable_ipv6=1"])
        run([*enter, "ip", "netns", "exec", NAMESPACE, "sysctl", "-q", "-w", *_SETTINGS])
        run([*enter, "ip", "-n", NAMESPACE, "link", "set", "lo", "up"])
        self._count = 0

    def add(self, clients: Sequence[Client]) -> None:
        """Make the devices of *clients*: one end here, the other for the switch."""
        enter = self._sandbox.argv(Place(self._host), [])
        pairs = [
            f"link add {tap_name(each.port)} up type veth peer name {each.device} address {each.mac} netns {NAMESPACE}"
            for each in clients
        ]
        run([*enter, "ip", "-batch", "-"], stdin="".join(f"{line}\n" for line in pairs))
        inner = []
        for each in clients:
            self._count += 1
            inner += [
                f"link set {each.device} up",
                f"address add {each.address}/32 dev {each.device}",
                f"route add {METADATA_ADDRESS} dev {each.device} src {each.address} metric {self._count}",
            ]
        run([*enter, "ip", "-n", NAMESPACE, "-batch", "-"], stdin="".join(f"{line}\n" for line in inner))
        # The switch reads packets as they are: a checksum that was left to the device would be wrong.
        script = 'while read -r device; do ethtool -K "$device" tx off >/dev/null; done'
        devices = "".join(f"{each.device}\n" for each in clients)
        run([*enter, "ip", "netns", "exec", NAMESPACE, "sh", "-ec", script], stdin=devices)

    @contextlib.contextmanager
    def asking(self, program: str, order: Mapping[str, object]) -> Iterator[subprocess.Popen[str]]:
        """Have a program of this folder begin what *order* says; killed at the end if it still runs."""
        path = str(_FOLDER / f"{program}.py")
        argv = self._sandbox.argv(Place(self._host, NAMESPACE), [sys.executable, path])
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                if process.stdin is not None:
                    process.stdin.write(json.dumps(order))
                    process.stdin.close()
                yield process
            finally:
                process.kill()

    def ask(self, program: str, order: Mapping[str, object]) -> Mapping[str, Any]:
        """Run a program of this folder to its end; return what it found."""
        with self.asking(program, order) as process:
            return answer_of(process)


def answer_of(process: subprocess.Popen[str]) -> Mapping[str, Any]:
    """Return what a program that asks has found, once it has ended; ApplyError if it failed."""
    process.stdin = None  # closed already: communicate() must not flush it
    try:
        text, errors = process.communicate(timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise ApplyError(f"the clients have no answer after {ANSWER_SECONDS:g} s") from None
    if process.returncode != 0:
        raise ApplyError(f"the clients cannot ask: {errors.strip()}")
    found: Mapping[str, Any] = json.loads(text)
    return found
