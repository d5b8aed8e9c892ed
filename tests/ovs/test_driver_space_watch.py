# SPDX-License-Identifier: Apache-2.0
"""What others do in routers' namespaces is heard from outside, over two sockets.  Needs root."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from agent.drivers.space_watch import Changed, SpaceWatch
from tests.ovs.namespace_lab import host, run, within

DEADLINE = 10.0  # seconds
OURS, OTHER = "qrouter-a", "qrouter-b"


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE:g} s"
        time.sleep(0.01)


def is_up(namespace: str) -> bool:
    return "state UP" in within(namespace, "ip", "link")


class Heard:
    """A watch of all namespaces whose names begin like a router's, and what it tells."""

    def __init__(self) -> None:
        self._told: queue.Queue[Changed] = queue.Queue()
        self.started: set[int] = set()
        self.watch = SpaceWatch(self._told.put, self.started.__contains__, lambda name: name.startswith("qrouter-"))

    def until(self, wanted: Changed) -> Changed:
        """Wait until all of *wanted* was told; return what was told by then."""
        found = Changed(frozenset(), frozenset())
        while not (wanted.devices <= found.devices and wanted.rules <= found.rules):
            more = self._told.get(timeout=DEADLINE)
            found = Changed(found.devices | more.devices, found.rules | more.rules)
        return found

    def of(self, *argv: str) -> Changed:
        """Return what is told of a command in a router's namespace, and of a mark that is set in another after it."""
        within(*argv)
        within(OTHER, "ip", "link", "set", "qr-b", "mtu", "1400")
        within(OTHER, "ip", "link", "set", "qr-b", "mtu", "1500")
        return self.until(Changed(frozenset({OTHER}), frozenset()))


@pytest.fixture
def heard() -> Iterator[Heard]:
    with host():
        for name, letter in ((OURS, "a"), (OTHER, "b"), ("somebody", "c")):
            run("ip", "netns", "add", name)
            run("ip", "link", "add", f"hpr-{letter}", "type", "veth", "peer", "name", f"qr-{letter}", "netns", name)
            within(name, "ip", "link", "set", f"qr-{letter}", "addrgenmode", "none")
            within(name, "ip", "link", "set", f"qr-{letter}", "up")
            run("ip", "link", "set", f"hpr-{letter}", "up")
        for name in (OURS, OTHER):  # the kernel says so a moment later
            eventually(partial(is_up, name), f"{name} is up")
        heard = Heard()
        assert heard.watch.start()
        try:
            yield heard
        finally:
            heard.watch.stop()


@pytest.mark.parametrize(
    "change",
    [
        "ip address add 10.0.0.1/24 dev qr-a",
        "ip link set qr-a down",
        "ip link set qr-a address 02:00:00:00:00:01",
        "ip route add blackhole 10.9.0.0/16",
        "ip -6 route add blackhole fd00::/64",
        "sysctl -q -w net.ipv4.ip_forward=1",
        "sysctl -q -w net.ipv6.conf.all.forwarding=1",
        "ip link delete qr-a",
    ],
)
def test_devices_addresses_routes_and_forwarding_are_heard(heard: Heard, change: str) -> None:
    within(OURS, *change.split())
    assert not heard.until(Changed(frozenset({OURS}), frozenset())).rules


def test_the_end_on_the_host_is_heard_too(heard: Heard) -> None:
    run("ip", "link", "set", "hpr-a", "down")
    heard.until(Changed(frozenset({OURS}), frozenset()))


@pytest.mark.parametrize("change", ["iptables -t nat -N mine", "ip6tables -N mine", "nft add table ip mine"])
def test_rules_are_heard_whoever_wrote_them(heard: Heard, change: str) -> None:
    within(OURS, *change.split())
    heard.until(Changed(frozenset(), frozenset({OURS})))


def test_our_own_commands_and_other_namespaces_are_not_told(heard: Heard) -> None:
    program = "import os; os.write(1, b'%d' % os.getpid()); input(); os.execvp('nft', ['nft', 'add table ip ours'])"
    child_in, ours = os.pipe()
    told, child_out = os.pipe()
    pid = os.posix_spawnp(
        "ip",
        ["ip", "netns", "exec", OURS, "python3", "-c", program],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, child_in, 0), (os.POSIX_SPAWN_DUP2, child_out, 1)],
    )
    heard.started.add(int(os.read(told, 20)))
    os.write(ours, b"\n")
    assert os.waitpid(pid, 0)[1] == 0
    for descriptor in (child_in, ours, told, child_out):
        os.close(descriptor)
    found = heard.of("somebody", "ip", "address", "add", "10.0.0.1/24", "dev", "qr-c")
    assert found == Changed(frozenset({OTHER}), frozenset())


def test_a_namespace_that_goes_is_heard_and_its_number_may_come_again(heard: Heard) -> None:
    within(OURS, "ip", "address", "add", "10.0.0.1/24", "dev", "qr-a")
    heard.until(Changed(frozenset({OURS}), frozenset()))
    run("ip", "netns", "delete", OURS)
    heard.until(Changed(frozenset({OURS}), frozenset()))
    run("ip", "netns", "add", "qrouter-new")
    run("ip", "link", "add", "hpr-n", "type", "veth", "peer", "name", "qr-n", "netns", "qrouter-new")
    within("qrouter-new", "ip", "address", "add", "10.0.0.1/24", "dev", "qr-n")
    heard.until(Changed(frozenset({"qrouter-new"}), frozenset()))
    assert not Path("/run/netns", OURS).exists()
