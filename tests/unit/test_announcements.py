# SPDX-License-Identifier: Apache-2.0
"""Ports are announced a few at a time; on physical networks first, and more than once."""

from __future__ import annotations

import itertools
from collections import Counter
from concurrent.futures import Future
from dataclasses import replace

from agent.announcements import AT_ONCE, MOST_AT_ONCE, PACE, QUICK, REPEATS, REST, URGENT_REPEATS, Announcements
from agent.core.model import PortId
from agent.core.plan import ObjectId, Voice
from tests.golden.host_states import Clock
from tests.golden.l2_world import World


class Wire:
    """Takes *seconds* for each step."""

    def __init__(self, clock: Clock, seconds: float = 0.0) -> None:
        self._clock = clock
        self._seconds = seconds
        self.sent: list[tuple[float, int]] = []

    def announce(self, frames) -> Future[float]:
        self.sent += [(self._clock.time, ofport) for ofport, _ in frames]
        self._clock.time += self._seconds
        sent: Future[float] = Future()
        sent.set_result(self._seconds)
        return sent


def run(world: World, ports, seconds: float = 10.0, gone=(), takes: float = 0.0) -> list[tuple[float, int]]:
    clock = Clock()
    wire = Wire(clock, takes)
    queue = Announcements(wire, clock, lambda: None)
    queue.add(ports, world.snapshot())
    for port in gone:
        del world.ports[port]
    end = clock.time + seconds
    while (due := queue.next_due()) is not None and due <= end:
        clock.time = max(clock.time, due)
        queue.step(world.snapshot(), world.switch())
    assert queue.next_due() is None
    return [(time - 1000.0, ofport) for time, ofport in wire.sent]


def crowd(count: int) -> World:
    world = World()
    world.network("blue", "vxlan", 77)
    world.network("lan", "vlan", 10)
    for number in range(1, count + 1):
        world.port(number, "blue", f"10.0.{number >> 8}.{number & 255}")
    world.port(900, "lan", "192.168.0.1")
    return world


def test_many_ports_are_announced_a_few_at_a_time():
    world = crowd(100)
    sent = run(world, [PortId(f"p{number}") for number in range(1, 101)], seconds=60, takes=QUICK)
    assert Counter(ofport for _, ofport in sent) == dict.fromkeys(range(1, 101), 1)
    assert max(Counter(time for time, _ in sent).values()) <= AT_ONCE
    times = sorted({time for time, _ in sent})
    assert all(later - earlier >= PACE * 0.99 for earlier, later in itertools.pairwise(times))


def test_a_switch_that_is_done_at_once_gets_more_at_a_time():
    sent = run(crowd(400), [PortId(f"p{number}") for number in range(1, 401)], seconds=60, takes=QUICK / 2)
    steps = list(Counter(time for time, _ in sent).values())
    assert steps[:6] == [AT_ONCE, 4, 8, 16, MOST_AT_ONCE, MOST_AT_ONCE]
    assert sent[-1][0] < 1.0


def test_a_port_of_a_physical_network_comes_first_and_is_repeated():
    world = crowd(20)
    sent = run(world, [*(PortId(f"p{number}") for number in range(1, 21)), PortId("p900")])
    assert sent[0] == (0.0, 900)
    assert len([ofport for _, ofport in sent if ofport == 900]) == 1 + len(REPEATS)


def test_a_port_that_is_gone_meanwhile_is_passed_over():
    assert run(crowd(2), [PortId("p1"), PortId("p2")], gone=[PortId("p1")])[0][1] == 2


def test_nothing_is_sent_while_the_switch_is_away():
    clock = Clock()
    wire = Wire(clock)
    queue = Announcements(wire, clock, lambda: None)
    world = crowd(1)
    queue.add([PortId("p1")], world.snapshot())
    queue.postpone(2.0)
    queue.step(world.snapshot(), world.switch())
    assert wire.sent == []
    assert queue.next_due() == clock.time + 2.0
    clock.time += 2.0
    queue.step(world.snapshot(), world.switch())
    assert len(wire.sent) == 1


def test_a_switch_that_takes_long_gets_long_rests():
    world = crowd(4)
    sent = run(world, [PortId(f"p{number}") for number in range(1, 5)], takes=0.1)
    first, second = sorted({time for time, _ in sent})
    assert second - first >= 0.1 * (1 + REST) * 0.99


def test_one_step_ends_before_the_next_begins():
    clock, woken = Clock(), []
    under_way: Future[float] = Future()
    steps = []

    class Slow:
        def announce(self, frames) -> Future[float]:
            steps.append([ofport for ofport, _ in frames])
            return under_way

    world = crowd(AT_ONCE + 1)
    queue = Announcements(Slow(), clock, lambda: woken.append(clock.time))
    queue.add([PortId(f"p{number}") for number in range(1, AT_ONCE + 2)], world.snapshot())
    queue.step(world.snapshot(), world.switch())
    assert queue.next_due() is None
    clock.time += 60
    queue.step(world.snapshot(), world.switch())
    assert len(steps) == 1
    under_way.set_result(60.0)
    assert woken == [clock.time]
    assert queue.next_due() is not None
    queue.step(world.snapshot(), world.switch())
    assert len(steps) == 1
    assert queue.next_due() == clock.time + 60.0 * REST


ROUTER, GATEWAY, FLOATING = ObjectId("router:r"), ObjectId("router:r/gateway"), ObjectId("floating_ip:f")
AT_GATEWAY = Voice("hpr-gw", "fa:16:3e:00:00:01", ("203.0.113.10", "2001:db8::10"), repeated=True, urgent=True)
AT_FLOATING = Voice("hpr-gw", "fa:16:3e:00:00:01", ("203.0.113.20",), repeated=False, urgent=False)


class Speaking:
    """Announcements of a world in which a router has a leg with OpenFlow number 5077."""

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.world.ofports["hpr-gw"] = 5077
        self.clock = Clock()
        self.wire = Wire(self.clock)
        self.queue = Announcements(self.wire, self.clock, lambda: None)

    def sent(self) -> list[int]:
        """Return to whom something was sent until nothing was left, in order."""
        self.wire.sent.clear()
        while (due := self.queue.next_due()) is not None:
            self.clock.time = max(self.clock.time, due)
            self.queue.step(self.world.snapshot(), self.world.switch())
        return [ofport for _, ofport in self.wire.sent]


def test_a_gateway_that_has_moved_here_comes_before_all_ports_that_wait():
    speaking = Speaking(crowd(100))
    speaking.queue.add([PortId(f"p{number}") for number in range(1, 101)], speaking.world.snapshot())
    speaking.clock.time += 0.01
    speaking.queue.hear({ROUTER: {GATEWAY: AT_GATEWAY, FLOATING: AT_FLOATING}})
    sent = speaking.sent()
    assert sent[:2] == [5077, 5077]  # an address of each family
    assert sent.count(5077) == 2 * (1 + len(URGENT_REPEATS)) + 1


def test_only_what_is_new_of_a_router_is_announced():
    speaking = Speaking()
    speaking.queue.hear({ROUTER: {FLOATING: AT_FLOATING}})
    assert speaking.sent() == [5077]
    speaking.queue.hear({ROUTER: {FLOATING: AT_FLOATING, ObjectId("floating_ip:g"): AT_FLOATING}})
    assert speaking.sent() == [5077]
    speaking.queue.hear({ROUTER: {}})
    speaking.queue.hear({ROUTER: {FLOATING: AT_FLOATING}})
    assert speaking.sent() == [5077]


def test_what_was_there_before_the_daemon_is_not_announced():
    speaking = Speaking()
    voices = {ROUTER: {GATEWAY: AT_GATEWAY, FLOATING: AT_FLOATING}}
    speaking.queue.hear(voices, adopted=lambda what: what == GATEWAY)
    assert speaking.sent() == [5077]
    speaking.queue.hear(voices)
    assert speaking.sent() == []
    speaking.queue.hear({})
    speaking.queue.hear(voices)
    assert len(speaking.sent()) == 2 * (1 + len(URGENT_REPEATS)) + 1


def test_a_gateway_that_is_claimed_again_is_announced_again():
    speaking = Speaking()
    for claim, sent in ((1, 2 * (1 + len(URGENT_REPEATS)) + 1), (1, 0), (2, 2 * (1 + len(URGENT_REPEATS)))):
        speaking.queue.hear({ROUTER: {GATEWAY: replace(AT_GATEWAY, claim=claim), FLOATING: AT_FLOATING}})
        assert len(speaking.sent()) == sent


def test_what_fell_silent_meanwhile_is_not_announced_from_here():
    speaking = Speaking()
    speaking.queue.hear({ROUTER: {GATEWAY: AT_GATEWAY}})
    speaking.queue.hear({})
    assert speaking.sent() == []


def test_what_cannot_speak_yet_is_announced_once_it_can():
    speaking = Speaking()
    voices = {ROUTER: {GATEWAY: AT_FLOATING, FLOATING: AT_FLOATING}}
    speaking.queue.hear(voices, held={FLOATING})
    assert speaking.sent() == [5077]
    speaking.queue.hear(voices, held={GATEWAY})  # what is behind the leg is silent with it
    assert speaking.sent() == []
    speaking.queue.hear(voices)
    assert speaking.sent() == [5077, 5077]
