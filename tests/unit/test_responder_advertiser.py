# SPDX-License-Identifier: Apache-2.0
"""When ports are sent router advertisements: soon after a change, rarely after that, and never all at once."""

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, IPv6
from scapy.layers.l2 import Ether

from agent.core.service_identity import link_local
from agent.dhcp.data import encode_port
from agent.dhcp.port_answers import PortAnswers
from agent.dhcp.ra_answers import LONGEST_INTERVAL, SHORTEST_INTERVAL
from agent.responder.advertiser import Advertiser
from agent.responder.counters import Counters
from agent.responder.knowledge import FramePort, Knowledge, Record
from tests.dhcp6_client import IPV4, PORT


@dataclass
class World:
    """Time that passes only when everything that is due has been done; ``sent`` are (when, identity)."""

    now: float = 1000.0
    jitter: float = 0.5

    def __post_init__(self):
        self.ports: dict[bytes, FramePort] = {}
        self.sent: list[tuple[float, bytes]] = []
        self.counters = Counters()
        self.up = True
        self.advertiser = Advertiser(self.ports, self._send, self.counters, lambda: self.now, lambda: self.jitter)

    def _send(self, frame):
        if self.up:
            self.sent.append((self.now, frame[6:12]))
        return self.up

    def add(self, number, data=PORT, **how):
        identity = number.to_bytes(6, "big")
        port = FramePort(f"dhcp {number}", identity, PortAnswers(data, identity), Record())
        self.ports[identity] = port
        self.advertiser.add(port, **how)
        return port

    def run(self, seconds):
        end = self.now + seconds
        while True:
            wait = self.advertiser.send_due()
            if self.now + wait > end:
                self.now = end
                return
            self.now += wait

    def times(self, number):
        return [when for when, identity in self.sent if identity == number.to_bytes(6, "big")]


def test_a_new_port_is_told_three_times_soon_and_then_rarely():
    world = World()
    port = world.add(1)
    world.run(3600)

    times = [when - 1000 for when in world.times(1)]
    assert times[0] <= 2.0  # its flows come right after it
    assert all(8 <= later - earlier <= 16 for earlier, later in pairwise(times[:3]))
    gaps = [later - earlier for earlier, later in pairwise(times[2:])]
    assert gaps
    assert all(SHORTEST_INTERVAL <= gap <= LONGEST_INTERVAL for gap in gaps)
    assert port.record.advertised_at is not None
    assert world.counters.dump()["ra_sent"] == {"kind=periodic": len(times)}


def test_a_port_that_was_known_before_is_only_reminded():
    """A responder that is started anew does not make all instances of the host listen."""
    world = World()
    for number in range(400):
        world.jitter = number / 400
        world.add(number, known_before=True)
    world.run(10)
    assert len(world.sent) < 40
    world.run(SHORTEST_INTERVAL)
    assert {identity for _, identity in world.sent} == set(world.ports)


def test_many_new_ports_are_not_told_at_once():
    world = World()
    for number in range(400):
        world.add(number)
    world.run(8)
    assert len(world.sent) == 400
    times = [when for when, _ in world.sent]
    busiest = max(sum(1 for other in times if 0 <= other - when < 0.1) for when in times[::10])
    assert busiest <= 100


def test_a_changed_port_is_told_anew_and_of_its_old_data_no_more():
    world = World()
    world.add(1)
    world.run(300)
    before = len(world.sent)
    world.add(1, replace(PORT, mtu=1400))
    world.run(20)
    assert 2 <= len(world.sent) - before <= 3
    world.sent.clear()
    world.run(3600)
    gaps = [later - earlier for earlier, later in pairwise(world.times(1)[2:])]
    assert min(gaps) >= SHORTEST_INTERVAL  # one schedule, not two


def test_a_port_that_has_gone_and_one_without_advertisements_get_none():
    world = World()
    world.add(1)
    world.add(2, replace(PORT, subnets=(IPV4,), addresses=()))
    del world.ports[(1).to_bytes(6, "big")]
    world.run(100)
    assert world.sent == []


def test_what_the_device_did_not_take_is_not_counted_and_tried_again_in_turn():
    world = World()
    port = world.add(1)
    world.up = False
    world.run(5)
    assert port.record.advertised_at is None
    assert "ra_sent" not in world.counters.dump()
    world.up = True
    world.run(16)
    assert world.sent


@pytest.mark.parametrize("changes", [1000])
def test_a_port_that_changes_all_the_time_fills_nothing(changes):
    world = World()
    for number in range(changes):
        world.add(1, replace(PORT, mtu=1280 + number))
    assert len(world.advertiser._heap) < 100


ROUTED = replace(PORT, subnets=tuple(replace(subnet, routed=True) for subnet in PORT.subnets))
ROUTER, OTHER = "fa:16:3e:00:00:aa", "fa:16:3e:00:00:bb"
IDENTITY = "06:48:50:00:00:09"


def told(*data):
    """Return the lifetimes that a port's hosts have heard of each router in the end, and how often they heard one."""
    frames = []
    knowledge, world = Knowledge(), World()

    def send(frame):
        frames.append(frame)
        return True

    world.advertiser = Advertiser(knowledge.ports, send, world.counters, lambda: world.now, lambda: world.jitter)
    knowledge.on_port = world.advertiser.add
    for number, each in enumerate(data):
        knowledge.put("dhcp 1", str(number), {"identity": IDENTITY, "port": encode_port(each)})
        world.run(100)
    packets = [Ether(frame) for frame in frames]
    heard = {packet[IPv6].src: packet[ICMPv6ND_RA].routerlifetime for packet in packets}
    return heard, [packet[IPv6].src for packet in packets]


def test_a_router_that_goes_takes_leave_by_its_own_name():
    """Hosts know it by the address that it sent from: no other's advertisement ends their default route."""
    heard, _ = told(replace(ROUTED, router_mac=ROUTER), PORT)
    assert heard == {link_local(ROUTER): 0, link_local(PORT.server_mac): 0}


def test_a_router_that_takes_another_ones_place_sees_it_off():
    heard, _ = told(replace(ROUTED, router_mac=ROUTER), replace(ROUTED, router_mac=OTHER))
    assert heard == {link_local(ROUTER): 0, link_local(OTHER): 1800}


def test_a_router_that_comes_back_stays():
    heard, _ = told(replace(ROUTED, router_mac=ROUTER), PORT, replace(ROUTED, router_mac=ROUTER))
    assert heard == {link_local(ROUTER): 1800, link_local(PORT.server_mac): 0}


def test_leave_is_taken_a_few_times_even_if_nothing_else_is_to_be_said():
    heard, senders = told(replace(ROUTED, router_mac=ROUTER), replace(PORT, subnets=(IPV4,), addresses=()))
    assert heard == {link_local(ROUTER): 0}
    assert len(senders) == 6
