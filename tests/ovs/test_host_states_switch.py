# SPDX-License-Identifier: Apache-2.0
"""From store state to store state in a real Open vSwitch: what it holds depends on the last one alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.command import CommandRunner
from agent.drivers.flows import FlowsDriver
from tests.fakes.openvswitch import OpenVSwitch
from tests.golden.host_states import WORLDS, SimulatedHost, histories
from tests.ovs.pipeline_lab import dump, running_switch

FOREIGN = ("table=60,priority=7,in_port=99", "drop")
SEVERAL = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenVSwitch]:
    with running_switch(tmp_path_factory.mktemp("switch"), ports=12) as running:
        yield running


class RealHost(SimulatedHost):
    """A host whose flows are in a real switch, which is emptied first but for a flow of somebody else."""

    def __init__(self, switch: OpenVSwitch) -> None:
        self.switch = switch
        switch.ofctl("--bundle", "add-flows", "MGMT", "-", stdin=f"delete\nadd cookie=0x99,{FOREIGN[0]},actions=drop\n")
        super().__init__(FlowsDriver(CommandRunner(), switch.management))

    def flows(self) -> dict[str, str]:
        flows = dump(self.switch)
        assert flows.pop(FOREIGN[0]) == FOREIGN[1], "somebody else's flow was touched"
        return flows

    def wanted(self) -> dict[str, str]:
        groups = self.reconciler.desired.groups.values()
        return {key: str(value) for group in groups for key, value in group.items.get("flows", {}).items()}


@SEVERAL
@given(history=histories(3), restart=st.booleans())
def test_the_switch_holds_what_the_last_state_wants(switch, history, restart):
    host = RealHost(switch)
    for world in history:
        host.run(world)
        assert host.misread == 0, host.reconciler.unfinished()
    if restart:
        host.start()
    host.settle(history[-1])
    assert host.flows() == host.wanted()
    again = host.run(history[-1])
    host.reconciler.need_resync()
    resynced = host.run(history[-1])
    for report in (again, resynced):
        done = report.operations["flows"]
        assert (done.created, done.updated, done.deleted, done.failed) == (0, 0, 0, 0)


@SEVERAL
@given(world=WORLDS, which=st.integers(0, 1000), how=st.sampled_from(["delete", "alter", "add"]))
def test_what_is_changed_by_hand_is_found_in_its_slice_and_put_right(switch, world, which, how):
    host = RealHost(switch)
    host.settle(world)
    wanted = host.flows()
    key = sorted(wanted)[which % len(wanted)]
    if how == "delete":
        switch.ofctl("--strict", "del-flows", "MGMT", key)
    elif how == "alter":
        switch.ofctl("--strict", "mod-flows", "MGMT", f"{key},actions=output:99")
    else:
        cookie = f"0x4850{which:04x}00000000"
        switch.ofctl("add-flow", "MGMT", f"cookie={cookie},table=60,priority=9,in_port=98,actions=drop")
    found = sum(host.reconciler.read_back(host.flows_driver, index, 4) for index in range(4))
    assert found == 1
    report = host.run(world)
    assert report.operations["flows"].drifted == 1
    assert host.flows() == wanted
