# SPDX-License-Identifier: Apache-2.0
"""From the moment that a filtered port is plugged, by whomever, nothing forbidden passes."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest

from agent.core.naming import INTEGRATION_BRIDGE
from agent.namespace import inside
from agent.sandbox.instances import plug
from agent.status import client
from agent.store.document import PortFields
from agent.store.records import PortRecord
from tests.functional import filter_host
from tests.functional.filter_flood import MARKER, flood
from tests.functional.filter_wire import (
    ETH_P_ALL,
    PACKET_IGNORE_OUTGOING,
    SO_RCVBUFFORCE,
    SOL_PACKET,
    Wire,
    namespace_of,
)
from tests.functional.lab import REPOSITORY, Lab, eventually

NEW = "newcomer"


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(1)
    lab.bring_up(filter_host.DOCUMENT)
    return lab


@pytest.fixture
def new_port(lab: Lab) -> Iterator[PortRecord]:
    """A filtered port without groups, and a namespace for its instance, not plugged yet."""
    record = lab.writer.create_port(NEW, PortFields(network="blue", host="host1", security_groups=())).result
    lab.output("host1", "ip", "netns", "add", NEW)
    yield record
    lab.output("host1", "ip", "netns", "del", NEW)
    lab.applied(lab.writer.delete_port(record.id))


@contextlib.contextmanager
def link_without_device(lab: Lab, place: str) -> Iterator[socket.socket]:
    """Return a packet socket that sees all devices of a namespace, those to come too."""
    with namespace_of(lab, place).open("rb") as namespace, inside(namespace.fileno()):
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with link:
        link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        link.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        yield link


class PlugWire(Wire):
    """The instances that are there, and one more whose device may not be there yet."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(filter_host.stations(lab))
        self.sent_by_newcomer = 0
        self._namespace = namespace_of(lab, NEW)

    def send(self, sender: str, frame: bytes) -> None:
        """Send a frame; of the newcomer as soon as there is a device (OSError before)."""
        if sender != NEW:
            super().send(sender, frame)
            return
        # A device's number is asked for in the namespace itself: it changes from plug to plug.
        with self._namespace.open("rb") as namespace, inside(namespace.fileno()):
            socket.if_nametoindex("eth0")
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
                link.bind(("eth0", 0))
                link.send(frame)
                self.sent_by_newcomer += 1


def leaked(link: socket.socket) -> list[bytes]:
    """Return the forbidden packets that a socket has seen."""
    seen = []
    while True:
        try:
            seen.append(link.recv(65536, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return [content for content in seen if MARKER in content]


def both_ways(lab: Lab) -> list[tuple[str, bytes]]:
    """Return what may pass neither to the newcomer nor from it: it has no groups at all."""
    return filter_host.forbidden(lab, "stranger", NEW) + filter_host.forbidden(lab, NEW, "open")


def test_nothing_passes_from_before_it_is_plugged_until_it_is_up(lab: Lab, new_port: PortRecord) -> None:
    with link_without_device(lab, NEW) as link, PlugWire(lab) as wire:
        with flood(wire, both_ways(lab)) as leaks:
            assert not plug(lab.sandbox, lab.writer, [new_port])
            lab.wait_port(NEW, up=True)
        assert wire.sent_by_newcomer
        assert not leaked(link)
        assert not leaks.arrived, leaks.text()
    # It was not for lack of a way: what it may do, it can.
    lab.applied(lab.writer.set_port(NEW, PortFields(security_groups=("anything-in",))))
    lab.assert_connection(NEW, lab.address("open"))
    lab.assert_connection("stranger", lab.address(NEW))


def make_as_os_vif(lab: Lab, port: PortRecord) -> None:
    """Make the devices of a hybrid plug by hand, as os-vif does (and Nova the tap); no alias, no flags."""
    tap, qbr, qvb, qvo = (kind + port.id[:11] for kind in ("tap", "qbr", "qvb", "qvo"))
    lines = [
        f"link add {qbr} type bridge forward_delay 0 stp_state 0 ageing_time 0 mcast_snooping 0",
        f"link add {qvb} type veth peer name {qvo}",
        f"link add {tap} type veth peer name eth0 netns {NEW}",
        *(f"link set {device} addrgenmode none" for device in (tap, qbr, qvb, qvo)),
        *(f"link set {device} master {qbr}" for device in (tap, qvb)),
        *(f"link set {device} up" for device in (tap, qbr, qvb, qvo)),
    ]
    lab.output("host1", "ip", "-batch", "-", stdin="\n".join(lines))
    lab.output("host1", "ethtool", "-K", qvb, "tx", "off")
    addresses = [f"addr add {fixed.address}/{24 if '.' in fixed.address else 64} dev eth0" for fixed in port.fixed_ips]
    inner = [f"link set eth0 address {port.mac_address}", "link set eth0 up", *addresses]
    lab.output("host1", "ip", "-netns", NEW, "-batch", "-", stdin="\n".join(inner))
    lab.output(NEW, "ethtool", "-K", "eth0", "tx", "off")
    ids = (f"iface-id={port.id}", f"attached-mac={port.mac_address}", "iface-status=active")
    words = ["--", "set", "Interface", qvo, *(f"external_ids:{each}" for each in ids)]
    lab.output("host1", "ovs-vsctl", "add-port", INTEGRATION_BRIDGE, qvo, *words)


def links(lab: Lab, port: PortRecord) -> set[str]:
    listing = lab.output("host1", "ip", "-o", "link")
    return {line.split(": ")[1].split("@")[0] for line in listing.splitlines() if port.id[:11] in line}


def test_devices_of_os_vif_are_filtered_and_stay_theirs(lab: Lab, new_port: PortRecord) -> None:
    with link_without_device(lab, NEW) as link, PlugWire(lab) as wire:
        with flood(wire, both_ways(lab)) as leaks:
            make_as_os_vif(lab, new_port)
            lab.wait_port(NEW, up=True)
        assert wire.sent_by_newcomer
        assert not leaked(link)
        assert not leaks.arrived, leaks.text()
    lab.applied(lab.writer.set_port(NEW, PortFields(security_groups=("asked", "friends"))))
    lab.assert_connection("stranger", lab.address(NEW))
    lab.assert_connection(NEW, lab.address("open"))
    devices = links(lab, new_port)
    assert len(devices) == 4
    lab.applied(lab.writer.delete_port(NEW))
    client.post(lab.sandbox.host("host1").paths.agent_socket, "/resync")
    lab.sandbox.restart("host1", "agent")
    assert links(lab, new_port) == devices
    # The fixture deletes the port, so there must be one; and the devices go as os-vif would take them.
    lab.output("host1", "ovs-vsctl", "del-port", INTEGRATION_BRIDGE, "qvo" + new_port.id[:11])
    for device in ("qvb", "qbr"):
        lab.output("host1", "ip", "link", "del", device + new_port.id[:11])
    lab.writer.create_port(NEW, PortFields(network="blue", host="host1"), port_id=new_port.id)


def test_a_filtered_port_without_a_bridge_stays_shut_and_says_so(lab: Lab, new_port: PortRecord) -> None:
    lab.applied(lab.writer.set_port(NEW, PortFields(security_groups=("anything-in",))))
    with link_without_device(lab, NEW) as link, PlugWire(lab) as wire:
        with flood(wire, both_ways(lab)) as leaks:
            hostplane(lab, "plug", NEW, "--netns", NEW, "--direct")
            eventually(lambda: "hybrid" in reason(lab), "the port says why it is shut")
        assert wire.sent_by_newcomer
        assert not leaked(link)
        assert not leaks.arrived, leaks.text()
    assert lab.writer.get_port(NEW).up is False
    lab.assert_no_connection(NEW, lab.address("open"))
    hostplane(lab, "plug", NEW, "--netns", NEW)
    lab.wait_port(NEW, up=True)
    lab.assert_connection(NEW, lab.address("open"))


def reason(lab: Lab) -> str:
    """Return why the host says that the port is not up."""
    return str(lab.writer.get_port(NEW).reason)


def hostplane(lab: Lab, *words: str) -> None:
    """Run the command on the host."""
    done = lab.run("host1", "env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", "agent.cli.main", *words)
    assert done.returncode == 0, done.stderr


def test_a_port_that_gets_groups_while_it_is_plugged_is_filtered_from_then_on(lab: Lab) -> None:
    """A port with a bridge but without filters: they come, and go, with nothing lost that both allow."""
    wanted: Sequence[tuple[str, ...] | None] = ((), None, ("anything-in",), ("asked",), None, ())
    for groups in wanted:
        lab.applied(lab.writer.set_port("open", PortFields(security_groups=groups)))
        reached = lab.ping("stranger", lab.address("open"), wait=0.3)
        assert reached is (groups is None or bool(groups))
        if groups is None:
            assert not lab.ping("open", lab.address("stranger"), wait=0.3)  # its own filter lets nothing in
    lab.applied(lab.writer.set_port("open", PortFields(security_groups=("anything-in",))))
