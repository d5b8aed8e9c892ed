# SPDX-License-Identifier: Apache-2.0
"""A switch that waits for flows is released if it waits because of us, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.drivers.switch import LocalSwitch
from tests.fakes.openvswitch import OpenVSwitch, wait_until


@pytest.fixture
def ovs(tmp_path: Path) -> Iterator[OpenVSwitch]:
    switch = OpenVSwitch(tmp_path)
    switch.start()
    try:
        switch.vsctl("add-br", "br-int")
        yield switch
    finally:
        switch.stop()


@pytest.fixture
def local(ovs: OpenVSwitch) -> Iterator[LocalSwitch]:
    switch = LocalSwitch(ovs.database, lambda: None)
    switch.start()
    wait_until(lambda: switch.view().connected)
    yield switch
    switch.stop()


def settings(ovs: OpenVSwitch) -> tuple[str, str]:
    return ovs.vsctl("get", "Open_vSwitch", ".", "other_config"), ovs.vsctl("get", "Open_vSwitch", ".", "external_ids")


def test_a_wait_of_ours_is_ended_and_nothing_else_of_the_row_is_touched(ovs, local):
    assert not local.is_waiting_for_flows()
    ovs.vsctl("set", "Open_vSwitch", ".", "other_config:flow-restore-wait=true", "other_config:n-handler-threads=2")
    ovs.vsctl("set", "Open_vSwitch", ".", "external_ids:hostplane-flow-restore-wait=true", "external_ids:rack=7")
    wait_until(local.is_waiting_for_flows)
    local.release_restore_wait()
    wait_until(lambda: not local.is_waiting_for_flows())
    other_config, external_ids = settings(ovs)
    assert other_config.strip() == '{n-handler-threads="2"}'
    assert "rack" in external_ids
    assert "hostplane-flow-restore-wait" not in external_ids


def test_a_wait_of_somebody_else_is_left_alone(ovs, local):
    ovs.vsctl("set", "Open_vSwitch", ".", "other_config:flow-restore-wait=true")
    wait_until(lambda: "br-int" in local.view().bridges)
    local.release_restore_wait()
    ovs.vsctl("add-br", "br-marker")  # by the time that this is seen, the release has had its turn
    wait_until(lambda: "br-marker" in local.view().bridges)
    assert "flow-restore-wait" in settings(ovs)[0]
    assert not local.is_waiting_for_flows()
