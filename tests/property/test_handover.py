# SPDX-License-Identifier: Apache-2.0
"""A gateway is handed over so that everybody always sends to one that is open, whenever each hears of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import HostName, RouterId
from agent.handover import Handovers, Stage

EDGE = RouterId("edge")
OLD, NEW, CLIENT = HostName("old"), HostName("new"), HostName("client")
INTERVAL = 0.1
TICK = 0.02  # seconds between two looks at everybody, and what a pass takes at most
HEARD = st.floats(0.0, 0.2)  # seconds after the first that somebody hears of it


@dataclass
class World:
    """Three hosts, and switches outside that lead to whoever has sent under the router's MAC address last."""

    heard: dict[HostName, float]
    led_to: HostName = OLD
    stages: dict[HostName, Stage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hosts = {name: Handovers(name) for name in self.heard}
        self.look(-10.0)

    def look(self, now: float) -> None:
        before = dict(self.stages)
        for name, handovers in self.hosts.items():
            handovers.begin([EDGE])
            chosen = NEW if now >= self.heard[name] else OLD
            self.stages[name] = handovers.step(EDGE, chosen, now, INTERVAL, forwards=True, alone=False)
        for name, stage in self.stages.items():
            last = before.get(name)
            if stage.speaking and not (last is not None and last.speaking):
                self.led_to = name  # it announces itself

    def use(self) -> None:
        """Let everybody send, and what is sent out go on to the switches; all must arrive."""
        for name, stage in self.stages.items():
            assert stage.host is not None
            assert self.stages[stage.host].active, (name, stage)
            sender = self.stages[stage.host]
            if not sender.passing:
                assert self.led_to == stage.host, "it draws the traffic to itself before it is to come"
        assert self.stages[self.led_to].active


@given(st.fixed_dictionaries({OLD: HEARD, NEW: HEARD, CLIENT: HEARD}))
def test_whoever_is_sent_to_or_led_to_is_open(heard: dict[HostName, float]) -> None:
    world = World(heard)
    moves = [world.led_to]
    for tick in range(int(3.0 / TICK)):
        world.look(tick * TICK)
        world.use()
        moves.append(world.led_to)
    assert moves == sorted(moves, key=(OLD, NEW).index), "switches are led there once, and not back"
    assert {stage.host for stage in world.stages.values()} == {NEW}
    assert [name for name, stage in world.stages.items() if stage.active] == [NEW]
    assert not world.stages[NEW].passing


@given(st.fixed_dictionaries({OLD: HEARD, NEW: HEARD, CLIENT: HEARD}))
def test_answers_to_the_gateway_itself_are_passed_back_until_all_have_moved(heard: dict[HostName, float]) -> None:
    """Who has moved is known to the next one; until then the one before knows the connections."""
    world = World(heard)
    for tick in range(int(3.0 / TICK)):
        world.look(tick * TICK)
        passed_back = world.led_to == NEW and world.stages[NEW].host == OLD
        if world.led_to == NEW and not passed_back:
            assert {stage.host for stage in world.stages.values()} == {NEW}
        if passed_back:
            assert world.stages[OLD].active


def test_a_dead_one_is_not_waited_for() -> None:
    handovers = Handovers(NEW)
    handovers.begin([EDGE])
    handovers.step(EDGE, OLD, 0.0, INTERVAL, forwards=True, alone=False)
    stage = handovers.step(EDGE, NEW, 1.0, INTERVAL, forwards=False, alone=False)
    assert stage == Stage(NEW, active=True, passing=False, speaking=True)


def test_one_that_dies_while_it_hands_over_is_not_waited_for() -> None:
    handovers = Handovers(NEW)
    handovers.begin([EDGE])
    handovers.step(EDGE, OLD, 0.0, INTERVAL, forwards=True, alone=False)
    assert handovers.step(EDGE, NEW, 1.0, INTERVAL, forwards=True, alone=False).host == OLD
    stage = handovers.step(EDGE, NEW, 1.1, INTERVAL, forwards=False, alone=False)
    assert stage == Stage(NEW, active=True, passing=False, speaking=True)
