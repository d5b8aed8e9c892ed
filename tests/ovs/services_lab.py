# SPDX-License-Identifier: Apache-2.0
"""A host whose instances are namespaces and whose switch forwards real packets, with a responder of the test's own.

Everything of the host is as it is planned, made by the drivers.  The responder is two
threads: one answers frames as ``agent.dhcp`` does, one says to whom it has accepted.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from agent.core.items import Served
from agent.core.model import PortId
from agent.core.plan import Delta, Driver, Group
from agent.core.service_identity import METADATA4, METADATA6, METADATA_INNER, METADATA_PORT, NAMESPACE
from agent.dhcp.data import decode_port
from agent.dhcp.port_answers import PortAnswers
from agent.drivers.links import LinksDriver
from agent.drivers.namespace_sockets import open_listener, open_packet_socket
from agent.drivers.netns import NetnsDriver
from agent.drivers.routes import RoutesDriver
from agent.namespace import inside_named
from tests.fakes.openvswitch import OpenVSwitch, wait_until
from tests.golden.l2_world import OFPORTS, SERVICE_OFPORTS, World, all_flows, mac, services_world
from tests.ovs.namespace_lab import host, run, within
from tests.ovs.pipeline_lab import load

BODY = b"x" * 200_000  # of each answer, behind the address that it was asked from
UPLINK, OUTSIDE = "uplink", "hpf-outside"  # what leads to the physical network, and where its other end is


def instance(number: int) -> str:
    """Return the namespace of the instance of a port."""
    return f"hpf-i{number}"


class Host:
    """What the test sees of it; ``groups`` is its plan."""

    def __init__(self, world: World, groups: Mapping[str, Group]) -> None:
        self.world = world
        self.groups = groups
        self.asked: list[str] = []  # addresses that metadata requests came from, as the responder sees them

    def served(self, kind: str) -> dict[str, dict[str, object]]:
        """Return what the responder would know of each port, by the port's id."""
        items = [item for group in self.groups.values() for item in group.items.get("responder", {}).items()]
        found = {}
        for key, value in items:
            if key.startswith(f"{kind} ") and isinstance(value, Served):
                found[key.partition(" ")[2]] = json.loads(value.data)
        return found

    def get(self, port: int, service: str) -> bytes:
        """Ask the metadata service from an instance; return all that it says."""
        with inside_named(instance(port)):
            opened = socket.socket(socket.AF_INET6 if ":" in service else socket.AF_INET, socket.SOCK_STREAM)
            scope = (0, socket.if_nametoindex("eth0")) if ":" in service else ()
        with opened:
            opened.settimeout(10)
            opened.connect((service, METADATA_PORT, *scope))
            opened.sendall(b"GET")
            parts = []
            while part := opened.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)


def packets_of(namespace: str, device: str = "eth0") -> socket.socket:
    """Return a packet socket that gets all that comes in on a device, and sends there."""
    opened = open_packet_socket(namespace, device)
    opened.setblocking(True)
    opened.settimeout(5)
    return opened


@contextlib.contextmanager
def running_host(folder: Path, ports: tuple[int, ...]) -> Iterator[Host]:
    """Run the host of ``services_world`` with some of its ports plugged in."""
    world = services_world()
    world.settings = replace(world.settings, datapath_type="netdev")
    world.interfaces = {PortId(f"p{number}"): world.interfaces[PortId(f"p{number}")] for number in ports}
    with host(), contextlib.ExitStack() as stack:
        groups, problems = world.groups()
        assert problems == []
        built = Host(world, groups)
        _apply(groups)
        switch = OpenVSwitch(folder, ())
        switch.start()
        stack.callback(switch.stop)
        _make_instances(ports)
        _plug(switch, ports)
        load(switch, all_flows(dict(groups)))
        stack.enter_context(_responder(built))
        yield built


def _apply(groups: Mapping[str, Group]) -> None:
    """Make what is planned in namespaces, with the drivers that the daemon has for it."""
    drivers: tuple[Driver, ...] = (NetnsDriver(), LinksDriver(), RoutesDriver())
    for driver in drivers:
        delta = _all_of(driver.name, groups)
        assert driver.apply(delta) == {}
        assert driver.observe() == delta.creates


def _all_of(driver: str, groups: Mapping[str, Group]) -> Delta:
    owned = [(group, key) for group in groups.values() for key in group.items.get(driver, {})]
    return Delta(
        creates={key: group.items[driver][key] for group, key in owned},
        owners={key: group.object_id for group, key in owned},
    )


def _make_instances(ports: tuple[int, ...]) -> None:
    run("ip", "netns", "add", OUTSIDE)
    run("ip", "link", "add", UPLINK, "type", "veth", "peer", "name", "eth0", "netns", OUTSIDE)
    run("ip", "link", "set", UPLINK, "up")
    within(OUTSIDE, "sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
    within(OUTSIDE, "ip", "link", "set", "eth0", "up")
    for number in ports:
        name, tap = instance(number), f"tap{number}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", tap, "type", "veth", "peer", "name", "eth0", "address", mac(number), "netns", name)
        run("ip", "link", "set", tap, "up")
        within(name, "ethtool", "-K", "eth0", "tx", "off")
        within(name, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0", "net.ipv6.conf.eth0.accept_ra=0")
        within(name, "ip", "link", "set", "eth0", "up")


def _plug(switch: OpenVSwitch, ports: tuple[int, ...]) -> None:
    words = ["--", "add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev", "fail-mode=secure"]
    numbers = {f"tap{number}": number for number in ports}
    numbers |= {**SERVICE_OFPORTS, UPLINK: OFPORTS["hp-i-physnet1"]}
    for name, number in numbers.items():
        words += ["--", "add-port", "br-int", name, "--", "set", "Interface", name, f"ofport_request={number}"]
    switch.vsctl(*words)
    wait_until((switch.folder / "br-int.mgmt").exists)
    switch.ofctl("set-frags", "MGMT", "nx-match")


@contextlib.contextmanager
def _responder(built: Host) -> Iterator[None]:
    """Answer until the test ends."""
    known: dict[bytes, PortAnswers] = {}
    for data in built.served("dhcp").values():
        identity = bytes.fromhex(str(data["identity"]).replace(":", ""))
        known[identity] = PortAnswers(decode_port(data["port"]), identity)
    frames = open_packet_socket(NAMESPACE, "hp-dhcp0")
    listeners = [open_listener(NAMESPACE, METADATA_INNER, each, METADATA_PORT) for each in (METADATA4, METADATA6)]
    stop, stopped = socket.socketpair()
    thread = threading.Thread(target=_answer, args=(built, known, frames, listeners, stopped))
    thread.start()
    try:
        yield
    finally:
        stop.close()
        thread.join()
        for opened in (frames, stopped, *listeners):
            opened.close()


def _answer(
    built: Host,
    known: Mapping[bytes, PortAnswers],
    frames: socket.socket,
    listeners: list[socket.socket],
    stopped: socket.socket,
) -> None:
    with selectors.DefaultSelector() as selector:
        for opened in (frames, stopped, *listeners):
            selector.register(opened, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is stopped:
                    return
                if key.fileobj is frames:
                    frame = frames.recv(65536)
                    port = known.get(frame[:6])
                    reply = port.answer(frame).frame if port is not None else None
                    if reply is not None:
                        frames.send(reply)
                    continue
                listener = next(each for each in listeners if each is key.fileobj)
                connection, peer = listener.accept()
                with connection:
                    connection.settimeout(10)
                    connection.recv(16)
                    built.asked.append(peer[0])
                    connection.sendall(peer[0].encode() + b" " + BODY)
