# SPDX-License-Identifier: Apache-2.0
"""Ports are looked at only when something changes that they depend on; then all that follows is planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from agent.core.model import HostSnapshot, PortId, SecurityGroupId, SwitchView
from agent.l2 import port_planner
from agent.planner import Planning
from tests.golden.l2_world import SETTINGS, World

WEB = SecurityGroupId("web")


@pytest.fixture
def world() -> World:
    made = World()
    made.network("blue", "vxlan", 77)
    made.group("web")
    made.port(1, "blue", "10.0.0.1", groups=("web",))
    made.port(2, "blue", "10.0.0.2")
    return made


@pytest.fixture
def rounds(monkeypatch) -> list[int]:
    """One entry for each time that the ports were gone through."""
    seen: list[int] = []
    run = port_planner.PortPlanning.run

    def counted(self, segments):
        seen.append(1)
        return run(self, segments)

    monkeypatch.setattr(port_planner.PortPlanning, "run", counted)
    return seen


def planning() -> Planning:
    made = Planning(replace(SETTINGS, filters=True))
    made.adopt_numbers({})
    return made


def test_ports_are_not_gone_through_again_for_what_does_not_concern_them(world, rounds):
    plans, snapshot, switch = planning(), world.snapshot(), world.switch()
    first = plans.make(snapshot, switch)[0]
    group = snapshot.security_groups[WEB]
    other = replace(snapshot, revision=2, security_groups={WEB: replace(group, log_dropped=not group.log_dropped)})
    second = plans.make(other, switch)[0]
    assert len(rounds) == 1
    same = [oid for oid, each in second.groups.items() if oid.startswith("port:") and first.groups[oid] is each]
    assert len(same) == 2


def shut(snapshot: HostSnapshot) -> HostSnapshot:
    stopped = replace(snapshot.ports[PortId("p1")], admin_state_up=False)
    return replace(snapshot, ports={**snapshot.ports, stopped.id: stopped})


def stateless(snapshot: HostSnapshot) -> HostSnapshot:
    return replace(snapshot, security_groups={WEB: replace(snapshot.security_groups[WEB], stateful=False)})


CHANGES: dict[str, Callable[[HostSnapshot, SwitchView], tuple[HostSnapshot, SwitchView]]] = {
    "a port is switched off": lambda snapshot, switch: (shut(snapshot), switch),
    "its group becomes stateless": lambda snapshot, switch: (stateless(snapshot), switch),
    "its group is gone": lambda snapshot, switch: (replace(snapshot, security_groups={}), switch),
    "its network is gone": lambda snapshot, switch: (replace(snapshot, networks={}), switch),
    "it is unplugged": lambda snapshot, switch: (snapshot, replace(switch, interfaces={})),
    "another interface has its number": lambda snapshot, switch: (
        snapshot,
        replace(switch, ofports={**switch.ofports, "new": 1}),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_after_a_change_all_is_as_if_it_was_planned_from_scratch(world, change):
    plans, snapshot, switch = planning(), world.snapshot(), world.switch()
    before = plans.make(snapshot, switch)
    for later in (change(snapshot, switch), (snapshot, switch)):
        after, fresh = plans.make(*later), plans.afresh(*later)
        assert {oid: group.items for oid, group in after[0].groups.items()} == {
            oid: group.items for oid, group in fresh[0].groups.items()
        }
        assert after[1] == fresh[1]
    assert {oid: g.items for oid, g in after[0].groups.items()} == {oid: g.items for oid, g in before[0].groups.items()}
