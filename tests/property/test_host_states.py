# SPDX-License-Identifier: Apache-2.0
"""From store state to store state: planners, reconciler and the flows driver over executable fakes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.drivers.flows import FlowsDriver
from tests.fakes.drivers import Crash, FakeDriver, Fuse
from tests.fakes.flow_switch import FakeFlowSwitch
from tests.golden.host_states import WORLDS, SimulatedHost

FOREIGN = "table=60,priority=7,in_port=99"
HISTORIES = st.lists(WORLDS, min_size=1, max_size=4)


class FakeHost(SimulatedHost):
    def __init__(self) -> None:
        self.switch = FakeFlowSwitch()
        self.switch.add(FOREIGN, "drop", cookie=0x99)
        self.ovs = FakeDriver("ovs")
        super().__init__(self.ovs, FlowsDriver(self.switch, "unix:/br-int.mgmt"))

    def state(self):
        flows = {key: flow.actions for key, flow in self.switch.flows.items() if key != FOREIGN}
        return flows, dict(self.ovs.items)

    def light(self, fuse: Fuse | None) -> None:
        self.switch.fuse = self.ovs.fuse = fuse


def fresh(like: FakeHost, world) -> FakeHost:
    """A host that has never seen anything but *world*, with the numbers that *like* has been given."""
    host = FakeHost()
    host.ovs.items = {key: value for key, value in like.ovs.items.items() if key.startswith("allocation/")}
    host.start()
    host.settle(world)
    return host


def check(host: FakeHost, world) -> None:
    assert host.state() == fresh(host, world).state()
    assert host.switch.flows[FOREIGN].actions == "drop", "somebody else's flow was touched"
    before = host.switch.modifications, host.ovs.operations
    host.run(world)
    host.reconciler.need_resync()
    host.run(world)
    assert (host.switch.modifications, host.ovs.operations) == before, "nothing had changed, and something was written"


@given(HISTORIES)
def test_the_end_depends_only_on_the_last_state_of_the_store(history):
    host = FakeHost()
    for world in history:
        host.run(world)
    host.settle(history[-1])
    check(host, history[-1])


@given(WORLDS, WORLDS)
def test_there_and_back_again_restores_every_flow(first, second):
    host = FakeHost()
    host.settle(first)
    before = host.state()
    host.settle(second)
    host.settle(first)
    flows, _ = host.state()
    if {k: v for k, v in host.ovs.items.items() if k.startswith("allocation/")} == {
        k: v for k, v in before[1].items() if k.startswith("allocation/")
    }:
        assert flows == before[0]
    check(host, first)


@given(HISTORIES, st.integers(0, 30))
def test_a_process_that_dies_anywhere_is_followed_by_one_that_finishes(history, operations):
    host = FakeHost()
    host.light(Fuse(operations))
    try:
        for world in history:
            host.run(world)
    except Crash:
        pass
    host.light(None)
    host.start()
    host.settle(history[-1])
    check(host, history[-1])


@given(WORLDS, WORLDS, st.sampled_from(["restart of the switch", "hang after", "hang before"]))
def test_a_switch_that_fails_in_between_is_made_right(first, second, accident):
    host = FakeHost()
    host.settle(first)
    if accident == "restart of the switch":
        host.switch.restart()
        host.switch.add(FOREIGN, "drop", cookie=0x99)
        host.reconciler.need_resync(["flows"], lost=True)
    else:
        host.switch.hang = accident.removeprefix("hang ")
    host.run(second)
    host.settle(second)
    check(host, second)


@given(WORLDS)
def test_memory_of_earlier_passes_changes_the_cost_and_nothing_else(world):
    host = FakeHost()
    host.settle(world)
    plan, _ = host.planning.afresh(world.snapshot(), world.switch())
    assert host.reconciler.preview(plan) == {}
