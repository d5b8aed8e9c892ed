# SPDX-License-Identifier: Apache-2.0
"""BFD between two real Open vSwitches over a tunnel, as driver and view of the local switch have it."""

from __future__ import annotations

import threading
import time

import pytest

from agent.core import naming
from agent.core.items import OvsBridge, OvsPort
from agent.core.model import BfdSession
from agent.core.plan import Delta, ObjectId
from agent.drivers.ovs import OvsDriver
from agent.drivers.switch import LocalSwitch
from tests.fakes.openvswitch import OpenVSwitch, wait_until

OWNER = ObjectId("host")
pytestmark = pytest.mark.alone  # who does not get a processor for 0.6 s counts as dead

HOSTS = ("left", "right")
ADDRESSES = {"left": "172.16.0.1", "right": "172.16.0.2"}
MACS = {"left": "02:00:00:00:00:01", "right": "02:00:00:00:00:02"}
BFD = (("decay_min_rx", "0"), ("enable", "true"), ("min_rx", "200"), ("min_tx", "200"))
UP, NOT_FORWARDING = BfdSession(up=True, forwarding=True), BfdSession(up=True, forwarding=False)


def other(host):
    return HOSTS[1 - HOSTS.index(host)]


def peer(host):
    """The port on which *host* watches the other one."""
    return naming.peer_port_name(other(host))


def watching(host, bfd=BFD):
    options = (("key", "flow"), ("remote_ip", ADDRESSES[other(host)]))
    return {f"port/{peer(host)}": OvsPort(peer(host), "br-int", "vxlan", options, bfd)}


class Host:
    """A switch whose uplink is a socket to the other one's."""

    def __init__(self, folder, name):
        self.name = name
        self.ovs = OpenVSwitch(folder / name, ("--enable-dummy=system",))  # real tunnels
        self.ovs.folder.mkdir()
        self.ovs.start()
        # Two switches with dummy devices would have one MAC address.
        words = ("fail_mode=standalone", f"other_config:hwaddr={MACS[name]}")
        self.ovs.vsctl("add-br", "br-phy", "--", "set", "Bridge", "br-phy", *words)
        end = "pstream=punix" if name == HOSTS[0] else "stream=unix"
        wire = f"options:{end}:{folder}/wire"
        self.ovs.vsctl("add-port", "br-phy", "eth0", "--", "set", "Interface", "eth0", "type=dummy", wire)
        self.ovs.appctl("netdev-dummy/ip4addr", "br-phy", f"{ADDRESSES[name]}/24")
        self.ovs.appctl("ovs/route/add", f"{ADDRESSES[name]}/24", "br-phy")
        self.wakes = threading.Semaphore(0)
        self.local = LocalSwitch(self.ovs.database, self.wakes.release)
        self.local.start()
        wait_until(lambda: self.local.view().connected)
        self.driver = OvsDriver(self.local)

    def write(self, items, old=None):
        delta = Delta(creates=items, owners=dict.fromkeys(items, OWNER))
        if old is not None:
            delta = Delta(updates={key: (old[key], items[key]) for key in items}, owners=dict.fromkeys(items, OWNER))
        assert self.driver.apply(delta) == {}

    def session(self):
        return self.local.view().sessions.get(peer(self.name))

    def is_seen(self, up, forwarding):
        found = self.session()
        return found is not None and (found.up, found.forwarding) == (up, forwarding)

    def stop(self):
        self.local.stop()
        self.ovs.stop()


@pytest.fixture
def pair(tmp_path):
    hosts = []
    try:
        for name in HOSTS:
            hosts.append(Host(tmp_path, name))
        for host in hosts:
            host.ovs.appctl("tnl/arp/set", "br-phy", ADDRESSES[other(host.name)], MACS[other(host.name)])
            host.write({"bridge/br-int": OvsBridge("br-int"), **watching(host.name)})
        yield hosts
    finally:
        for host in hosts:
            host.stop()


def test_a_peer_that_lives_that_does_not_forward_and_that_dies_is_told_apart(pair):
    left, right = pair
    wait_until(lambda: all(host.is_seen(up=True, forwarding=True) for host in pair))
    assert left.driver.observe(dict.fromkeys(watching("left"), OWNER)) == watching("left")
    flaps = left.session().flaps

    drained = watching("right", (("cpath_down", "true"), *BFD))
    right.write(drained, old=watching("right"))
    wait_until(lambda: left.is_seen(up=True, forwarding=False))
    wait_until(lambda: right.is_seen(up=True, forwarding=True))  # what it says is about itself
    right.write(watching("right"), old=drained)
    wait_until(lambda: left.is_seen(up=True, forwarding=True))
    assert left.session().flaps >= flaps + 2  # a machine that stands still for 0.3 s makes more of them

    while left.wakes.acquire(blocking=False):
        pass
    right.ovs.stop_vswitchd(kill=True)
    killed = time.monotonic()
    assert left.wakes.acquire(timeout=10)
    wait_until(lambda: left.is_seen(up=False, forwarding=False))
    print(f"seen {1000 * (time.monotonic() - killed):.0f} ms after the death of the peer's switch")


def test_bfd_that_somebody_changes_reads_as_changed_and_is_put_right(pair):
    left, _ = pair
    key = f"port/{peer('left')}"
    left.ovs.vsctl("set", "Interface", peer("left"), "bfd:min_rx=5000", "bfd:bogus=1")
    wait_until(lambda: left.driver.observe() != {**watching("left"), "bridge/br-int": OvsBridge("br-int")})
    found = left.driver.observe()
    assert dict(found[key].bfd) == {**dict(BFD), "min_rx": "5000", "bogus": "1"}

    left.write(watching("left"), old=found)
    assert left.driver.observe()[key] == watching("left")[key]
    without = watching("left", ())
    left.write(without, old=watching("left"))
    wait_until(lambda: left.session() is None)
    assert left.driver.observe()[key] == without[key]


def test_the_carrier_of_a_bridges_physical_ports_is_told_and_wakes_and_counters_do_not(pair):
    left, _ = pair
    ovs = left.ovs
    wait_until(lambda: left.local.view().uplinks == {"br-phy": True})
    words = ["--", "set", "Interface", "a", "type=patch", "options:peer=b", "--", "set", "Interface", "b", "type=patch"]
    ovs.vsctl("add-br", "br-lan", "--", "add-port", "br-lan", "a", "--", "add-port", "br-int", "b", *words)
    wait_until(lambda: "br-lan" in left.local.view().bridges)
    wait_until(lambda: left.is_seen(up=True, forwarding=True))
    assert left.local.view().uplinks == {"br-phy": True}

    ovs.appctl("netdev-dummy/set-admin-state", "eth0", "down")
    ovs.vsctl("--no-wait", "set", "Interface", "eth0", "link_state=down")  # the dummy device has no carrier to lose
    wait_until(lambda: left.local.view().uplinks == {"br-phy": False})
    ovs.vsctl("--no-wait", "set", "Interface", "eth0", "link_state=up")
    wait_until(lambda: left.local.view().uplinks == {"br-phy": True})

    flaps = left.session().flaps
    while left.wakes.acquire(blocking=False):
        pass
    for number in range(10):
        for row in (f"statistics:rx_bytes={number}", f"external_ids:theirs={number}"):
            ovs.vsctl("--no-wait", "set", "Interface", peer("left"), row)
    ovs.vsctl("--no-wait", "add-br", "br-last")  # by then all that came before has been seen
    wait_until(lambda: "br-last" in left.local.view().bridges)
    assert left.wakes.acquire(timeout=10)
    wakes = 1
    while left.wakes.acquire(blocking=False):
        wakes += 1
    # A bridge may come in parts, and on a machine that stands still sessions come and go.
    assert wakes <= 3 + 2 * (left.session().flaps - flaps)
