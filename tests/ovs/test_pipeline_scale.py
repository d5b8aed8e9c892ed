# SPDX-License-Identifier: Apache-2.0
"""Floods to very many: every host and every port gets its copy, whatever limits the switch has on the way."""

import re

import pytest

from tests.golden.l2_world import World, underlay
from tests.ovs.pipeline_lab import Lab, dump, load, running_switch
from tests.ovs.pipeline_packets import BROADCAST, ping

HOSTS = 1000
# With tunnels of the userspace datapath each copy goes through the underlay's own tables, and Open
# vSwitch stops looking things up after 64 kB of datapath actions: about 780 copies.
HOSTS_IN_USERSPACE = 700
PORTS = 300


def world_with(hosts, ports=2):
    world = World()
    world.network("blue", "vxlan", 5000)
    for number in range(1, ports + 1):
        world.port(number, "blue", f"10.0.{number >> 8}.{number & 255}")
    for number in range(2, hosts + 2):
        world.host(f"host{number}", underlay(number))
        world.endpoint(5000 + number, "blue", f"host{number}", f"10.1.{number >> 8}.{number & 255}")
    return world


def test_broadcast_reaches_a_thousand_hosts(tmp_path):
    """The switch makes a thousand copies.  Tunnel ports are dummies here, as cheap as the kernel's."""
    with running_switch(tmp_path, ports=2, dummy_tunnels=True) as switch:
        flows = world_with(HOSTS).flows()
        load(switch, flows)
        assert dump(switch) == flows
        trace = switch.appctl("ofproto/trace", "--names", "br-int", "in_port=1", bytes(ping(1, BROADCAST)).hex())
        (actions,) = re.findall(r"^Datapath actions: (.*)$", trace, re.MULTILINE)
        assert actions.split(",").count("hp-vxlan") == HOSTS
        assert "tap2" in actions.split(",")
        destinations = re.findall(r"set_field:([\d.]+)->tun_dst", trace)
        assert sorted(destinations) == sorted(underlay(number) for number in range(2, HOSTS + 2))


def test_broadcast_through_tunnels_of_the_userspace_datapath(tmp_path):
    with running_switch(tmp_path, ports=2) as switch:
        lab = Lab(switch, world_with(HOSTS_IN_USERSPACE))
        far = {f"vxlan 5000 to {underlay(number)}" for number in range(2, HOSTS_IN_USERSPACE + 2)}
        assert lab.send(1, ping(1, BROADCAST)) == far | {"tap2"}


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    with running_switch(tmp_path_factory.mktemp("crowded"), ports=PORTS) as switch:
        yield Lab(switch, world_with(2, PORTS))


def test_broadcast_reaches_hundreds_of_ports(crowded):
    far = {f"vxlan 5000 to {underlay(number)}" for number in (2, 3)}
    assert crowded.send(1, ping(1, BROADCAST)) == {f"tap{number}" for number in range(2, PORTS + 1)} | far


def test_unicast_among_hundreds_reaches_one(crowded):
    assert crowded.send(1, ping(1, PORTS)) == {f"tap{PORTS}"}
