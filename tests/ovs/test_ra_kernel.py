# SPDX-License-Identifier: Apache-2.0
"""The kernel's own IPv6 as the instance: it configures itself by our advertisements, and its UDP by our answers.

In a network namespace of the test's own, over a veth pair; needs root.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.dhcp import answers6, frames6, v6_packet
from agent.dhcp.data import PortData
from agent.dhcp.v6_packet import MessageType
from tests.dhcp6_client import (
    IDENTITY,
    MAC,
    OWN,
    PORT,
    SERVER_LINK_LOCAL,
    SERVER_MAC,
    SLAAC,
    STATEFUL,
    STATELESS,
    solicit,
)

CLONE_NEWNET = 0x40000000
SECONDS = 10.0
PATIENCE = "router_solicitation_delay", "accept_dad", "dad_transmits"  # no time to wait for neighbours
AUTOMATIC = "f816:3eff:fe00:1"
INSTANCE, SERVER = "eth0", "srv0"
ETH_P_ALL, PACKET_OUTGOING = 3, 4


def ip(*words: str) -> str:
    return subprocess.run(("ip", *words), check=True, capture_output=True, text=True).stdout


def setting(device: str, name: str, value: int) -> None:
    Path(f"/proc/sys/net/ipv6/conf/{device}/{name}").write_text(str(value))


class Wire:
    """An instance's device, and what its packets meet: the identity that flows write, and our answers."""

    def __init__(self) -> None:
        ip("link", "add", SERVER, "type", "veth", "peer", "name", INSTANCE, "address", MAC)
        setting(SERVER, "disable_ipv6", 1)
        ip("link", "set", SERVER, "promisc", "on", "up")
        for name in PATIENCE:
            setting(INSTANCE, name, 0)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.bind((SERVER, ETH_P_ALL))

    def close(self) -> None:
        self._socket.close()

    def serve(self, port: PortData, done) -> None:
        """Answer as *port* until *done*."""
        end = time.monotonic() + SECONDS
        while not done():
            assert time.monotonic() < end, f"not so within {SECONDS} s: {ip('-6', 'addr')}{ip('-6', 'route')}"
            if select.select([self._socket], [], [], 0.02)[0]:
                frame, source = self._socket.recvfrom(65536)
                if source[2] != PACKET_OUTGOING:
                    self._answer(frame, port)

    def _answer(self, frame: bytes, port: PortData) -> None:
        answer = answers6.answer_frame(frames6.packed_mac(IDENTITY) + frame[6:], port).frame
        if answer is not None:
            self._socket.send(answer[:6] + frames6.packed_mac(SERVER_MAC) + answer[12:])


@pytest.fixture
def wire():
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    made = Wire()
    yield made
    made.close()
    assert libc.setns(home, CLONE_NEWNET) == 0
    os.close(home)


def addresses() -> set[str]:
    """Return the global addresses that the kernel has."""
    shown = json.loads(ip("-6", "-j", "addr", "show", "dev", INSTANCE, "scope", "global"))
    return {found["local"] for device in shown for found in device.get("addr_info", ()) if "local" in found}


def mtu() -> int:
    return int(Path(f"/proc/sys/net/ipv6/conf/{INSTANCE}/mtu").read_text())


def routes() -> dict[str, dict[str, str]]:
    return {route["dst"]: route for route in json.loads(ip("-6", "-j", "route", "show", "dev", INSTANCE))}


@pytest.mark.parametrize(
    ("subnets", "automatic", "default"),
    [
        ((replace(SLAAC, routed=True), STATELESS), {f"2001:db8:3:0:{AUTOMATIC}", f"2001:db8:2:0:{AUTOMATIC}"}, True),
        ((SLAAC, STATEFUL), {f"2001:db8:3:0:{AUTOMATIC}"}, False),
    ],
)
def test_the_kernel_makes_addresses_and_routes_as_it_is_told(wire, subnets, automatic, default):
    ip("link", "set", INSTANCE, "up")
    wire.serve(replace(PORT, subnets=subnets), lambda: mtu() == PORT.mtu)  # that comes last
    found = routes()

    assert addresses() == automatic
    assert {subnet.cidr for subnet in subnets} <= set(found)
    assert ("default" in found) is default
    if default:
        assert found["default"]["gateway"] == SERVER_LINK_LOCAL


def test_a_socket_of_the_kernel_asks_and_is_answered(wire):
    """It leaves the checksum to the device, which never makes one."""
    ip("link", "set", INSTANCE, "up")
    index = socket.if_nametoindex(INSTANCE)
    wire.serve(PORT, lambda: "fe80::" in ip("-6", "addr", "show", "dev", INSTANCE, "-tentative"))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.bind(("::", 546, 0, index))
        client.sendto(bytes(solicit(23)), ("ff02::1:2", 547, 0, index))
        wire.serve(PORT, lambda: bool(select.select([client], [], [], 0)[0]))
        answer, source = client.recvfrom(2048)
    said = v6_packet.read_request(v6_packet.decode(answer))

    assert said.type is MessageType.ADVERTISE
    assert [lease.address for lease in said.associations[0].leases] == [frames6.packed(OWN)]
    assert source[:2] == (SERVER_LINK_LOCAL, 547)
