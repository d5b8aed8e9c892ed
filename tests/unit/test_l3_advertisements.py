# SPDX-License-Identifier: Apache-2.0
"""What instances are told of the routers on their network."""

import json
from dataclasses import replace

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether

from agent.core.model import NetworkId
from agent.core.service_identity import link_local
from agent.dhcp.data import decode_port
from agent.dhcp.port_answers import PortAnswers
from tests.golden.l2_world import SERVICE_OFPORTS
from tests.golden.router_world import edge_world, leg_mac


@pytest.fixture
def world():
    made = edge_world(distributed=False)
    made.settings = replace(made.settings, services=True)
    made.ofports.update(SERVICE_OFPORTS)
    blue4, blue6 = made.subnets[NetworkId("blue")]
    made.subnets[NetworkId("blue")] = (blue4, replace(blue6, ipv6_ra_mode="slaac", ipv6_address_mode="slaac"))
    return made


def advertised(world, port="p1"):
    """Return the router advertisement that a port gets, None for none."""
    served = world.group(f"port:{port}/dhcp").items["responder"][f"dhcp {port}"]
    told = json.loads(served.data)
    frame = PortAnswers(decode_port(told["port"]), bytes(6)).advertisement()
    return None if frame is None else Ether(frame)


def test_hosts_are_told_to_leave_by_the_routers_own_address(world):
    frame = advertised(world)
    assert frame[ICMPv6ND_RA].routerlifetime > 0
    assert frame[IPv6].src == link_local(leg_mac(1))
    assert frame[ICMPv6NDOptSrcLLAddr].lladdr == leg_mac(1)


@pytest.mark.parametrize("change", [{"admin_state_up": False}, {"interfaces": ()}])
def test_without_a_router_hosts_learn_no_way_out(world, change):
    world.change_router("edge", **change)
    assert advertised(world)[ICMPv6ND_RA].routerlifetime == 0


def test_a_subnet_without_a_mode_is_not_advertised_however_it_is_routed(world):
    blue4, blue6 = world.subnets["blue"]
    world.subnets["blue"] = (blue4, replace(blue6, ipv6_ra_mode=None))
    assert advertised(world) is None


def test_of_two_routers_that_with_the_gateway_address_is_told_of(world):
    world.router("side", "there")
    world.leg("side", "blue", "fd00:1::fe", plugged=False)
    assert advertised(world)[IPv6].src == link_local(leg_mac(1))
    blue4, blue6 = world.subnets["blue"]
    world.subnets["blue"] = (blue4, replace(blue6, gateway="fd00:1::fe"))
    assert advertised(world)[IPv6].src == link_local(leg_mac(4))


def test_what_another_router_does_tells_nobody_anything_new(world):
    before = world.plan(world.memo)
    world.change_router("edge", routes=(("10.9.0.0/16", "10.0.0.9"),))
    after = world.plan(world.memo)
    assert after.groups["port:p1/dhcp"] is before.groups["port:p1/dhcp"]
