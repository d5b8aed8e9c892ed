# SPDX-License-Identifier: Apache-2.0
"""Switches outside are reminded of instances whose routed traffic does not show where they are."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future

import pytest
from scapy.layers.l2 import Dot1Q, Ether

from agent.core.model import PortId
from agent.core.naming import patch_port_names
from agent.l2.announce import PLACE_GROUP, place_frame
from agent.reminders import PERIOD, TURNS, Reminders
from tests.golden.host_states import Clock
from tests.golden.l2_world import mac
from tests.golden.router_world import RouterWorld

UPLINK = 77


class Wire:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.sent: list[tuple[float, int, bytes]] = []

    def send_out(self, frames) -> Future[float]:
        self.sent += [(self._clock.time, ofport, frame) for ofport, frame in frames]
        sent: Future[float] = Future()
        sent.set_result(0.0)
        return sent


def world_of(kind: str, *, distributed: bool) -> RouterWorld:
    world = RouterWorld()
    world.ofports[patch_port_names("physnet1")[0]] = UPLINK
    world.network("lan", kind, {"vlan": 100, "vxlan": 5000}.get(kind), "physnet1" if kind != "vxlan" else None)
    world.network("blue", "vxlan", 6000)
    world.subnet("lan", "192.168.0.0/24", "192.168.0.1")
    world.router("edge", distributed=distributed)
    world.leg("edge", "lan", "192.168.0.1")
    for number in range(1, 41):
        world.port(number, "lan", f"192.168.0.{number + 1}")
    world.port(50, "blue", "10.0.0.50")
    return world


def run(world: RouterWorld, seconds: float) -> list[tuple[float, int, bytes]]:
    clock = Clock()
    wire = Wire(clock)
    reminders = Reminders(wire, clock)
    reminders.step(world.snapshot(), world.switch())
    end = clock.time + seconds
    while (due := reminders.next_due()) is not None and due <= end:
        clock.time = due
        reminders.step(world.snapshot(), world.switch())
    return wire.sent


@pytest.mark.parametrize(("kind", "vlan"), [("vlan", 100), ("flat", None)])
def test_each_port_of_a_physical_network_has_its_turn_once_in_a_period(kind: str, vlan: int | None) -> None:
    world = world_of(kind, distributed=True)
    sent = run(world, 2 * PERIOD)
    assert {ofport for _, ofport, _ in sent} == {UPLINK}
    frames = Counter(frame for _, _, frame in sent)
    assert frames == {place_frame(mac(number), vlan): 2 for number in range(1, 41)}
    assert TURNS < len({time for time, _, _ in sent}) <= 2 * TURNS  # spread, and many at a time


@pytest.mark.parametrize(("kind", "distributed"), [("vxlan", True), ("vlan", False)])
def test_who_shows_by_himself_or_is_known_to_the_store_is_left_alone(kind: str, distributed: bool) -> None:
    world = world_of(kind, distributed=distributed)
    if not distributed:
        world.change_router("edge", gateway_hosts=("here",))
    assert not run(world, PERIOD)


def test_ports_that_are_down_or_not_here_are_not_spoken_for() -> None:
    world = world_of("vlan", distributed=True)
    world.change_port(1, admin_state_up=False)
    del world.interfaces[PortId("p2")]
    sources = {Ether(frame).src for _, _, frame in run(world, PERIOD)}
    assert sources == {mac(number) for number in range(3, 41)}


def test_the_frame_is_for_nobody_and_tagged_as_the_network_is() -> None:
    frame = Ether(place_frame("fa:16:3e:00:00:05", 100))
    assert (frame.dst, frame.src, frame[Dot1Q].vlan) == (PLACE_GROUP, "fa:16:3e:00:00:05", 100)
    assert int(PLACE_GROUP[:2], 16) & 3 == 3  # a group address, locally administered
    assert {len(place_frame("fa:16:3e:00:00:05", vlan)) for vlan in (100, None)} == {60}
