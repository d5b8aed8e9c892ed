# SPDX-License-Identifier: Apache-2.0
"""A real responder in a network namespace of its own, with the wires that instances' packets come from.

``va`` is where frames go in and answers come out.  Metadata requests come over ``lo``
from the ports' aliases.  Nothing but this process's namespace is touched.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.core.service_identity import METADATA4, METADATA_PORT, SERVER_MAC, alias, identity_mac
from agent.dhcp.data import PortData, SubnetData, encode_port
from agent.drivers.namespace_sockets import RECEIVE_BUFFER
from agent.metadata.data import ContentData, MetadataData, encode_metadata
from agent.responder_client import Request, ResponderClient
from agent.responder_process import ResponderPaths, launch

OUTSIDE, INSIDE = "va", "vb"
GOOD = 1  # the number of the port that means well
EVIL = range(2, 52)
MAC = "fa:16:3e:00:00:01"  # of all instances, as on networks of tenants who know nothing of each other
ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
_SETUP = f"""
link set lo up
link add name {OUTSIDE} type veth peer name {INSIDE}
link set {OUTSIDE} up
link set {INSIDE} up
address add {METADATA4}/32 dev lo
route add local 100.64.0.0/10 dev lo
"""


def address_of(number: int) -> str:
    """Return the IPv4 address of a port's instance."""
    return f"10.0.0.{number}"


def alias_of(number: int) -> str:
    """Return what a port's metadata requests come from."""
    return alias(number, address_of(number), 0)


def identity_of(number: int) -> bytes:
    """Return what stands for a port, packed."""
    return bytes.fromhex(identity_mac(number).replace(":", ""))


def instance_id(number: int) -> str:
    """Return what a port's metadata call it."""
    return f"instance-{number:04}"


@dataclass(frozen=True, slots=True)
class Served:
    """A responder that serves; ``client`` is our connection to it."""

    pid: int
    client: ResponderClient
    log: Path


@contextlib.contextmanager
def serving() -> Iterator[Served]:
    """Serve all ports in the namespace that we are in; call it in a new one."""
    subprocess.run(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"], check=True)
    subprocess.run(["ip", "-batch", "-"], input=_SETUP, text=True, check=True)
    with tempfile.TemporaryDirectory(prefix="hpi-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        paths = ResponderPaths(folder, folder)
        child = launch(paths, "nobody", paths.socket)
        try:
            client = ResponderClient(paths.socket, 30.0)
            _tell(client)
            yield Served(child.pid, client, paths.log)
            client.close()
        finally:
            subprocess.run(["kill", "-KILL", str(child.pid)], check=False)


def open_frames(device: str, buffer: int = 0) -> socket.socket:
    """Return a packet socket on *device* that hears what comes in; *buffer* in octets."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    if buffer:
        link.setsockopt(socket.SOL_SOCKET, 33, buffer)  # SO_RCVBUFFORCE
    link.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    link.bind((device, ETH_P_ALL))
    return link


def _tell(client: ResponderClient) -> None:
    requests = []
    for number in (GOOD, *EVIL):
        requests.append(
            _put(f"dhcp port-{number}", {"identity": identity_mac(number), "port": encode_port(_port(number))})
        )
        requests.append(_put(f"metadata port-{number}", encode_metadata(_metadata(number))))
    listener = socket.create_server((METADATA4, METADATA_PORT), backlog=256)
    with open_frames(INSIDE, RECEIVE_BUFFER) as frames, listener:
        requests.append(_socket("socket dhcp", "frames", frames))
        requests.append(_socket("socket metadata4", "metadata", listener))
        for answer in client.ask(requests):
            assert answer.error is None, answer.error


def _put(key: str, data: object) -> Request:
    return Request({"type": "put", "key": key, "digest": "1", "data": data})


def _socket(key: str, kind: str, opened: socket.socket) -> Request:
    return Request({"type": "socket", "key": key, "digest": "1", "kind": kind}, opened.fileno())


def _port(number: int) -> PortData:
    return PortData(
        port=f"port-{number}",
        mac=MAC,
        server_mac=SERVER_MAC,
        hostname=f"host-{number}",
        domain="example.org",
        mtu=1450,
        addresses=((address_of(number), 0), (f"2001:db8::{number:x}", 1)),
        subnets=(
            SubnetData("10.0.0.0/24", "10.0.0.254", "10.0.0.253", ("9.9.9.9",)),
            SubnetData(
                "2001:db8::/64",
                "2001:db8::fe",
                "2001:db8::fd",
                address_mode="dhcpv6-stateful",
                ra_mode="dhcpv6-stateful",
            ),
        ),
    )


def _metadata(number: int) -> MetadataData:
    return MetadataData(
        port=f"port-{number}",
        name=f"port {number}",
        network="net",
        mac=MAC,
        instance_id=instance_id(number),
        project="project",
        aliases=((alias_of(number), address_of(number)),),
        addresses=(address_of(number),),
        content=ContentData(hostname=f"host-{number}", user_data=b"#!/bin/sh\n" + b"#" * 65_536),
    )
