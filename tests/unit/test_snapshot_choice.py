# SPDX-License-Identifier: Apache-2.0
"""Which snapshot a pass works from: live, saved, or the one before when too much would go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core.inputs import OFFLINE_AFTER, HoldLimits, SnapshotChooser
from agent.core.model import (
    Host,
    HostName,
    HostSnapshot,
    PluggedInterface,
    Port,
    PortId,
    Router,
    RouterId,
    RouterInterface,
    SwitchView,
)
from agent.core.snapshot_file import SnapshotFile

HOST = HostName("host1")
LIMITS = HoldLimits(share=0.5, minimum=4)


def snapshot(count: int, revision: int = 1) -> HostSnapshot:
    ids = [PortId(f"p{number}") for number in range(count)]
    ports = {port: Port(port, port, "n", "fa:16:3e:00:00:01", ()) for port in ids}  # type: ignore[arg-type]
    return HostSnapshot(HOST, "g", revision, in_sync=True, ports=ports)


def plugged(count: int) -> SwitchView:
    ids = [PortId(f"p{number}") for number in range(count)]
    return SwitchView(True, interfaces={port: PluggedInterface(f"tap{port}", port, 1) for port in ids})


@pytest.fixture
def file(tmp_path):
    return SnapshotFile(tmp_path / "snapshot", HOST)


def chooser(file: SnapshotFile) -> SnapshotChooser:
    return SnapshotChooser(file, LIMITS, started=0.0)


def test_nothing_is_worked_from_before_the_store_is_in_sync(file):
    assert chooser(file).choose(HostSnapshot(HOST), plugged(0), 0.1, 0.0) is None


def test_without_a_store_the_saved_snapshot_is_used_after_a_while_and_marked(file):
    file.save(snapshot(3))
    choice = chooser(SnapshotFile(file._path, HOST))
    assert choice.choose(HostSnapshot(HOST), plugged(3), OFFLINE_AFTER - 0.1, 0.0) is None
    chosen = choice.choose(HostSnapshot(HOST), plugged(3), OFFLINE_AFTER, 0.0)
    assert chosen == replace(snapshot(3), stale=True)
    live = snapshot(3, revision=2)
    patient = chooser(SnapshotFile(file._path, HOST))
    assert patient.choose(HostSnapshot(HOST), plugged(3), OFFLINE_AFTER, 0.0, answering=True) is None
    assert choice.choose(live, plugged(3), OFFLINE_AFTER + 1, 0.0) is live


@pytest.mark.parametrize(
    ("before", "after", "in_place", "held"),
    [
        (10, 0, 10, True),
        (10, 4, 10, True),
        (10, 5, 10, False),  # half is not more than half
        (3, 0, 3, False),  # too few to mean anything
        (10, 0, 3, False),  # most of them are not plugged in: their instances are gone
        (10, 12, 10, False),
    ],
)
def test_a_state_that_takes_too_much_away_is_held(file, before, after, in_place, held):
    choice = chooser(file)
    first, second = snapshot(before), snapshot(after, revision=2)
    assert choice.choose(first, plugged(in_place), 0.0, 0.0) is first
    assert choice.choose(second, plugged(in_place), 0.0, 5.0) is (first if held else second)
    assert (choice.hold is not None) is held
    if choice.hold is not None:
        assert choice.hold.since == 5.0
        assert str(before - after) in choice.hold.text
        assert "hostplane hold release" in choice.hold.text


def test_a_held_state_is_applied_when_the_operator_says_so_or_the_ports_come_back(file):
    choice = chooser(file)
    full, empty = snapshot(10), snapshot(0, revision=2)
    choice.choose(full, plugged(10), 0.0, 0.0)
    assert choice.choose(empty, plugged(10), 0.0, 0.0) is full
    restored = snapshot(10, revision=3)
    assert choice.choose(restored, plugged(10), 0.0, 0.0) is restored
    assert choice.hold is None
    assert choice.choose(empty, plugged(10), 0.0, 0.0) is restored
    choice.release(empty)
    assert choice.choose(empty, plugged(10), 0.0, 0.0) is empty
    assert choice.hold is None


def test_another_database_that_knows_none_of_the_ports_is_held_however_few_they_are(file):
    choice = chooser(file)
    first, other = snapshot(2), replace(snapshot(0), generation="")
    choice.choose(first, plugged(2), 0.0, 0.0)
    assert choice.choose(other, plugged(2), 0.0, 0.0) is first
    assert choice.hold is not None
    restored = replace(snapshot(2), generation="other")
    assert choice.choose(restored, plugged(2), 0.0, 0.0) is restored


def with_routers(base: HostSnapshot, count: int, *gateway_hosts: HostName) -> HostSnapshot:
    """Return *base* with routers that each have one interface, on the network of all ports."""
    routers = {}
    for key in map(RouterId, map(str, range(count))):
        leg = RouterInterface(PortId(f"leg{key}"), "n", "fa:16:3e:00:00:02", ())  # type: ignore[arg-type]
        routers[key] = Router(key, key, gateway_hosts=gateway_hosts, interfaces=(leg,))
    return replace(base, routers=routers)


def legs(count: int, ports: int = 0) -> SwitchView:
    return replace(plugged(ports), ofports={f"hpr-leg{number}": number for number in range(count)})


@pytest.mark.parametrize(
    ("after", "in_place", "held"),
    [
        (0, 10, True),
        (4, 10, True),
        (5, 10, False),  # half is not more than half
        (7, 10, False),
        (0, 3, False),  # most of them have no leg: they never lived here
    ],
)
def test_a_gateway_host_that_would_lose_its_routers_holds_them(file, after, in_place, held):
    choice = chooser(file)
    first = with_routers(snapshot(0), 10, HostName("other"), HOST)
    second = with_routers(snapshot(0, revision=2), after, HostName("other"), HOST)
    choice.choose(first, legs(in_place), 0.0, 0.0)
    assert choice.choose(second, legs(in_place), 0.0, 0.0) is (first if held else second)
    if choice.hold is not None:
        assert f"{10 - after} of the 10 routers here" in choice.hold.text
        assert "ports" not in choice.hold.text
    choice.release(second)
    assert choice.choose(second, legs(in_place), 0.0, 0.0) is second


def test_routers_that_vanish_under_the_ports_of_a_host_are_held_and_those_that_leave_with_them_are_not(file):
    choice = chooser(file)
    first = with_routers(snapshot(3), 6, HostName("other"))
    choice.choose(first, legs(6, ports=3), 0.0, 0.0)
    assert choice.choose(snapshot(3, revision=2), legs(6, ports=3), 0.0, 0.0) is first
    evacuated = snapshot(0, revision=3)
    assert choice.choose(evacuated, legs(6, ports=3), 0.0, 0.0) is evacuated


def test_routers_that_get_other_gateway_hosts_are_handed_over(file):
    """To hold them here would be to have two gateways that are active."""
    choice = chooser(file)
    choice.choose(with_routers(snapshot(3), 6, HOST), legs(6, ports=3), 0.0, 0.0)
    elsewhere = with_routers(snapshot(3, revision=2), 6, HostName("other"))
    assert choice.choose(elsewhere, legs(6, ports=3), 0.0, 0.0) is elsewhere


def test_a_drained_host_gives_its_routers_up(file):
    choice = chooser(file)
    choice.choose(with_routers(snapshot(0), 6, HOST), legs(6), 0.0, 0.0)
    drained = replace(snapshot(0, revision=2), hosts={HOST: Host(HOST, drain=True)})
    assert choice.choose(drained, legs(6), 0.0, 0.0) is drained


def test_a_restart_does_not_release_a_hold(file):
    choice = chooser(file)
    full, empty = snapshot(10), snapshot(0, revision=2)
    for live in (full, empty):
        chosen = choice.choose(live, plugged(10), 0.0, 0.0)
        assert chosen is not None
        choice.save(chosen)
    again = chooser(SnapshotFile(file._path, HOST))
    assert again.choose(empty, plugged(10), 0.0, 0.0) == replace(full, stale=True)
    assert again.hold is not None


def test_a_disk_that_refuses_is_a_problem_and_no_obstacle(tmp_path):
    choice = chooser(SnapshotFile(tmp_path / "absent" / "snapshot", HOST))
    choice.save(snapshot(1))
    assert choice.file_error is not None
    assert "absent" in choice.file_error
    (tmp_path / "absent").mkdir()
    choice.save(snapshot(1))
    assert choice.file_error is None
