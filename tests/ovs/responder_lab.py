# SPDX-License-Identifier: Apache-2.0
"""A real responder process on sockets of a namespace: frames over a veth pair, metadata from aliases on a device."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from agent.core.service_identity import (
    DHCP_DEVICE,
    DHCP_INNER,
    DHCP_SOCKET,
    METADATA4,
    METADATA_PORT,
    METADATA_SOCKET4,
    METADATA_SOCKET6,
    NAMESPACE,
    SERVER_MAC,
    alias,
    identity_mac,
)
from agent.dhcp.data import PortData, SubnetData, encode_port
from agent.drivers.namespace_sockets import open_listener, open_packet_socket
from agent.metadata.data import (
    ContentData,
    Limits,
    MetadataData,
    NovaData,
    ServiceData,
    encode_metadata,
    encode_service,
)
from agent.namespace import inside_named
from agent.responder_client import Request, ResponderClient
from tests.ovs.namespace_lab import host, run, within

ROOT = Path(__file__).parents[2]
USER = "nobody"
PATIENCE = 10.0  # seconds
LISTEN6 = "fd00:a9fe:1::1"  # stands for the link-local address, which needs a device's scope
SUBNETS = (
    SubnetData("10.0.0.0/16", gateway="10.0.0.1", server="10.0.0.2", dns=("10.0.0.3",)),
    SubnetData(
        "2001:db8:1::/64",
        gateway="2001:db8:1::1",
        server="2001:db8:1::2",
        address_mode="dhcpv6-stateful",
        ra_mode="dhcpv6-stateful",
    ),
)


def mac(number: int) -> str:
    return f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}"


def address(number: int) -> str:
    return f"10.0.{number >> 8}.{number & 255}"


def address6(number: int) -> str:
    return f"2001:db8:1::{number:x}:5"


def port_data(number: int, subnets: tuple[SubnetData, ...] = SUBNETS) -> PortData:
    return PortData(
        port=f"port-{number}",
        mac=mac(number),
        server_mac=SERVER_MAC,
        hostname=f"host-{number}",
        domain="example.org",
        addresses=((address(number), 0), (address6(number), 1)),
        subnets=subnets,
    )


def put_dhcp(number: int, data: PortData | None = None, digest: str = "1") -> Request:
    value = {"identity": identity_mac(number), "port": encode_port(data or port_data(number))}
    return Request({"type": "put", "key": f"dhcp port-{number}", "digest": digest, "data": value})


def alias4(number: int) -> str:
    return alias(number, address(number), 1)


def alias6(number: int) -> str:
    return alias(number, address6(number), 1)


def put_metadata(number: int, *, user_data: bytes = b"", nova: bool = False, digest: str = "1") -> Request:
    content = ContentData(hostname=f"host-{number}", user_data=user_data or f"of port-{number}".encode())
    data = MetadataData(
        port=f"port-{number}",
        name="",
        network="network",
        mac=mac(number),
        instance_id=f"instance-{number}",
        project="project",
        aliases=((alias4(number), address(number)), (alias6(number), address6(number))),
        addresses=(address(number), address6(number)),
        content=None if nova else content,
    )
    return Request({"type": "put", "key": f"metadata port-{number}", "digest": digest, "data": encode_metadata(data)})


def put_service(nova: NovaData | None = None, limits: Limits | None = None, digest: str = "1") -> Request:
    data = encode_service(ServiceData(nova, limits or Limits()))
    return Request({"type": "put", "key": "service", "digest": digest, "data": data})


class Process:
    """A running responder.  *stored* are sockets of an earlier one by name, as systemd passes them."""

    def __init__(
        self,
        folder: Path,
        state: Path,
        *,
        user: str | None = USER,
        stored: dict[str, int] | None = None,
        environ: dict[str, str] | None = None,
        root: Path = ROOT,
        path: Path | None = None,
    ) -> None:
        self.path = path or folder / f"s{time.monotonic_ns()}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        listener.listen()
        self.log = folder / f"{self.path.name}.log"
        arguments = [sys.executable, "-m", "agent.responder", "--state-dir", str(state)]
        arguments += ["--user", user] if user else []
        variables = {**os.environ, "PYTHONPATH": str(root), **(environ or {})}
        numbers = [listener.fileno(), *(stored or {}).values()]
        names = ["hostplane-responder.socket", *(stored or {})]
        # As systemd does it: descriptors from 3 on, and who they are for.
        moves = "".join(f" {at}<&{number}" for at, number in enumerate(numbers, 200))
        final = "".join(f" {3 + at}<&{200 + at}" for at in range(len(numbers)))
        rest = "".join(f" {number}<&-" for number in (*numbers, *range(200, 200 + len(numbers))) if number > 8)
        script = f'exec{moves}; exec{final}; exec{rest}; export LISTEN_PID=$$; exec "$@"'
        variables |= {"LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": ":".join(names)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", script, "bash", *arguments],
                pass_fds=numbers,
                env=variables,
                cwd=root,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        listener.close()
        self._client: ResponderClient | None = None
        self._before: dict = {}

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def client(self) -> ResponderClient:
        if self._client is None:
            self._client = ResponderClient(self.path, PATIENCE)
        return self._client

    def tell(self, *requests: Request) -> list[str | None]:
        """Return the errors of *requests*."""
        return [answer.error for answer in self.client.ask(requests)]

    def stats(self, port: str | None = None) -> dict:
        return dict(self.client.stats(port, PATIENCE))

    def mark(self) -> None:
        """Count from now on."""
        self._before = self.stats()["counters"]

    def count(self, name: str, *labels: str) -> int:
        """Return the sum of a counter's numbers that have all *labels*, since `mark`."""
        now, before = self.stats()["counters"].get(name, {}), self._before.get(name, {})
        return sum(n - before.get(text, 0) for text, n in now.items() if set(labels) <= set(text.split(",")))

    def drain(self) -> None:
        self.client.drain()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def memory(self) -> int:
        """Return the proportional set size in KiB."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if self.process.poll() is None:
            self.kill()


@dataclass
class Lab:
    """Sockets as the daemon opens them, and the other ends: `wire` is the switch's of the DHCP veth pair."""

    folder: Path
    sockets: dict[str, socket.socket]
    wire: socket.socket
    processes: list[Process] = field(default_factory=list)

    def start(self, *requests: Request, sockets: bool = True, **options) -> Process:
        """Start a responder, tell it *requests* and give it the sockets."""
        process = Process(self.folder, options.pop("state", self.folder / "state"), **options)
        self.processes.append(process)
        if sockets:
            assert process.tell(*requests, *self.handing_over()) == [None] * (len(requests) + len(self.sockets))
        elif requests:
            assert process.tell(*requests) == [None] * len(requests)
        return process

    def handing_over(self) -> list[Request]:
        kinds = {DHCP_SOCKET: "frames"}
        return [
            Request({"type": "socket", "key": key, "kind": kinds.get(key, "metadata"), "digest": key}, opened.fileno())
            for key, opened in self.sockets.items()
        ]

    def ask(self, frame: bytes, number: int, seconds: float = PATIENCE, *, want=lambda answer: True) -> bytes | None:
        """Send *frame* and return the answer to the port *number* that *want* accepts; None after *seconds*."""
        self.wire.send(frame)
        return self.hear(number, seconds, want=want)

    def hear(self, number: int, seconds: float = PATIENCE, *, want=lambda answer: True) -> bytes | None:
        source = bytes.fromhex(identity_mac(number).replace(":", ""))
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not select.select([self.wire], [], [], left)[0]:
                return None
            frame = self.wire.recv(65536)
            if frame[6:12] == source and want(frame):
                return frame
        return None

    def hush(self) -> None:
        """Forget what has come and was not heard."""
        while select.select([self.wire], [], [], 0)[0]:
            self.wire.recv(65536)

    def connect(self, number: int, version: int = 4, seconds: float = PATIENCE) -> socket.socket:
        """Connect to the metadata service as the port *number*."""
        family, source, target = (
            (socket.AF_INET, alias4(number), METADATA4) if version == 4 else (socket.AF_INET6, alias6(number), LISTEN6)
        )
        with inside_named(NAMESPACE):
            opened = socket.socket(family, socket.SOCK_STREAM)
        opened.settimeout(seconds)
        opened.bind((source, 0))
        opened.connect((target, METADATA_PORT))
        return opened

    def get(self, number: int, path: str = "/openstack/latest/user_data", version: int = 4) -> tuple[int, bytes]:
        """Return status and body of a request of the port *number*."""
        with self.connect(number, version) as opened:
            opened.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return read_answer(opened)


def read_answer(opened: socket.socket) -> tuple[int, bytes]:
    """Return status and body of an answer with a length."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = opened.recv(65536)
        if not more:
            raise ConnectionResetError(f"only {data!r} came")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        more = opened.recv(65536)
        if not more:
            raise ConnectionResetError(f"{len(body)} of {length} octets came")
        body += more
    return int(head.split()[1]), body


def discover(number: int, xid: int = 0x1234, kind: str = "discover", **options) -> bytes:
    hardware = bytes.fromhex(mac(number).replace(":", ""))
    return bytes(
        Ether(src=mac(number), dst=identity_mac(number))
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=hardware + bytes(10), xid=xid)
        / DHCP(options=[("message-type", kind), *options.items(), "end"])
    )


def with_xid(frame: bytes, xid: int) -> bytes:
    """Return a discover with another transaction id, without scapy's cost; the UDP checksum is left out."""
    return frame[:40] + b"\0\0" + frame[42:46] + struct.pack("!I", xid) + frame[50:]


@contextlib.contextmanager
def lab(folder: Path, ports: int = 4) -> Iterator[Lab]:
    """A host with the responder's namespace; aliases of so many *ports* are there to connect from."""
    with host():
        run("ip", "netns", "add", NAMESPACE)
        run("ip", "link", "add", DHCP_DEVICE, "type", "veth", "peer", "name", DHCP_INNER, "netns", NAMESPACE)
        within(
            NAMESPACE, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0", f"net.ipv6.conf.{DHCP_INNER}.disable_ipv6=1"
        )
        run("sysctl", "-qw", f"net.ipv6.conf.{DHCP_DEVICE}.disable_ipv6=1")
        run("ip", "link", "set", DHCP_DEVICE, "up")
        within(NAMESPACE, "ip", "link", "set", DHCP_INNER, "up")
        within(NAMESPACE, "ip", "link", "set", "lo", "up")
        commands = [f"address add {METADATA4}/32 dev lo", f"address add {LISTEN6}/128 dev lo nodad"]
        for number in range(1, ports + 1):
            commands += [f"address add {alias4(number)}/32 dev lo", f"address add {alias6(number)}/128 dev lo nodad"]
        within(NAMESPACE, "ip", "-batch", "-", stdin="\n".join(commands))
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        wire.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
        wire.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING
        wire.bind((DHCP_DEVICE, 3))
        sockets = {
            DHCP_SOCKET: open_packet_socket(NAMESPACE, DHCP_INNER),
            METADATA_SOCKET4: open_listener(NAMESPACE, "lo", METADATA4, METADATA_PORT),
            METADATA_SOCKET6: open_listener(NAMESPACE, "lo", LISTEN6, METADATA_PORT),
        }
        built = Lab(folder, sockets, wire)
        try:
            yield built
        finally:
            for process in built.processes:
                process.close()
            for opened in (wire, *sockets.values()):
                opened.close()


def json_of(body: bytes) -> dict:
    return json.loads(body)
