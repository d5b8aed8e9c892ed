# SPDX-License-Identifier: Apache-2.0
"""What reminds switches of instances teaches a real bridge where they are, and reaches nobody."""

from __future__ import annotations

import pytest
from scapy.layers.l2 import ARP, Dot1Q, Ether

from agent.command import CommandRunner
from agent.drivers.announcer import Announcer
from agent.l2.announce import place_frame
from tests.fakes.openvswitch import wait_until
from tests.golden.l2_world import OFPORTS, mac
from tests.golden.router_world import RouterWorld
from tests.ovs.pipeline_lab import UNDERLAY, Lab, running_switch
from tests.ovs.pipeline_packets import BROADCAST

UPLINK = OFPORTS["hp-i-physnet1"]


@pytest.fixture(scope="module")
def switch(tmp_path_factory):
    with running_switch(tmp_path_factory.mktemp("reminders"), ports=2) as running:
        yield running


@pytest.fixture
def lab(switch):
    world = RouterWorld()
    world.network("lan", "vlan", 100)
    world.subnet("lan", "192.168.0.0/24", "192.168.0.1")
    world.router("edge", distributed=True)
    world.leg("edge", "lan", "192.168.0.1", plugged=False)
    for number in (1, 2):
        world.port(number, "lan", f"192.168.0.{number + 1}")
    return Lab(switch, world)


def broadcast(number: int):
    """Return a frame of another host's instance that everybody hears."""
    arp = ARP(op=1, hwsrc=mac(number), psrc=f"192.168.0.{number}", pdst="192.168.0.200")
    return Ether(src=mac(number), dst=BROADCAST) / Dot1Q(vlan=100) / arp


def learned(switch) -> set[tuple[str, str]]:
    """Return (VLAN, MAC address) that the operator's bridge has behind our patch."""
    patch = switch.vsctl("get", "Interface", "hp-p-physnet1", "ofport").strip()
    rows = (line.split() for line in switch.appctl("fdb/show", "br-phy").splitlines()[1:])
    return {(vlan, address) for port, vlan, address, _ in rows if port == patch}


def test_the_bridge_outside_learns_all_of_them_from_one_bundle(switch, lab):
    frames = [(UPLINK, place_frame(mac(number), 100)) for number in (1, 2)]
    Announcer(CommandRunner(), switch.management).send_out(frames).result(5)
    wait_until(lambda: {("100", mac(1)), ("100", mac(2))} <= learned(switch))


def test_no_port_of_another_host_hears_it(lab):
    assert lab.send(UNDERLAY, broadcast(9)) == {"tap1", "tap2"}
    assert lab.send(UNDERLAY, place_frame(mac(9), 100)) == set()
