# SPDX-License-Identifier: Apache-2.0
"""Ports of ours whose devices somebody has made anew, on the userspace datapath and the real kernel.  Needs root."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.items import OvsBridge, OvsPort
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.ovs import OvsDriver
from agent.drivers.switch import LocalSwitch
from tests.fakes.openvswitch import OpenVSwitch, wait_until
from tests.ovs.namespace_lab import host, run

BRIDGE = {"bridge/br-int": OvsBridge("br-int", "netdev")}
PORT = {"port/hp-dhcp": OvsPort("hp-dhcp", "br-int", "")}
OWNER = ObjectId("host")
FRAME = bytes.fromhex("0248500000ff 0248500000fe 88b5") + bytes(46)


@pytest.fixture
def ovs(tmp_path: Path) -> Iterator[OpenVSwitch]:
    with host():
        switch = OpenVSwitch(tmp_path, ())
        switch.start()
        try:
            yield switch
        finally:
            switch.stop()


@pytest.fixture
def local(ovs: OpenVSwitch) -> Iterator[LocalSwitch]:
    switch = LocalSwitch(ovs.database, lambda: None)  # its thread is in our namespace, too
    switch.start()
    wait_until(lambda: switch.view().connected)
    yield switch
    switch.stop()


def make_device() -> None:
    run("ip", "link", "add", "hp-dhcp", "up", "type", "veth", "peer", "name", "inner")
    run("ip", "link", "set", "inner", "up")


def apply(driver: OvsDriver, local: LocalSwitch) -> dict[str, str]:
    """Have the driver write what differs, as a pass does; return what it could not."""
    found = driver.observe()
    wanted: dict[Key, Value] = {**BRIDGE, **PORT}
    changed = {key: (found[key], value) for key, value in wanted.items() if key in found and found[key] != value}
    missing = {key: value for key, value in wanted.items() if key not in found}
    failed = driver.apply(Delta(missing, changed, owners=dict.fromkeys(wanted, OWNER)))
    if not failed:
        wait_until(lambda: local.view().ofports.get("hp-dhcp"))
    return {key: str(error) for key, error in failed.items()}


def passes(ovs: OpenVSwitch) -> bool:
    """Tell whether a frame that comes in through the device is sent back through it."""
    ovs.ofctl("replace-flows", "MGMT", "-", stdin="actions=set_field:02:48:50:00:00:fd->eth_src,in_port\n")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as inner:
        inner.bind(("inner", 0x88B5))
        for _ in range(100):  # the first may come before the switch is at it
            inner.send(FRAME)
            if select.select([inner], [], [], 0.05)[0] and inner.recv(2048)[6:12] != FRAME[6:12]:
                return True
    return False


def test_a_device_that_was_made_anew_is_opened(ovs: OpenVSwitch, local: LocalSwitch) -> None:
    make_device()
    driver = OvsDriver(local, "netdev")
    assert not apply(driver, local)
    assert passes(ovs)
    assert driver.observe() == {**BRIDGE, **PORT}

    run("ip", "link", "del", "hp-dhcp")
    assert driver.observe() == {**BRIDGE, **PORT}  # the links' driver will make it
    make_device()
    assert driver.observe() != {**BRIDGE, **PORT}

    wait_until(lambda: not apply(driver, local))
    assert driver.observe() == {**BRIDGE, **PORT}
    assert passes(ovs)


def test_a_switch_that_does_not_answer_has_the_port_wait(
    ovs: OpenVSwitch, local: LocalSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.drivers.ovs.CLOSE_SECONDS", 0.05)
    make_device()
    driver = OvsDriver(local, "netdev")
    assert not apply(driver, local)
    run("ip", "link", "del", "hp-dhcp")
    make_device()
    ovs.freeze()

    for _ in range(2):  # the second time its row is gone, the device still open
        assert list(apply(driver, local)) == ["port/hp-dhcp"]
        assert driver.observe() == BRIDGE

    ovs.thaw()
    monkeypatch.undo()
    wait_until(lambda: not apply(driver, local))
    assert passes(ovs)


def test_after_a_reboot_the_port_is_made_for_the_device_that_there_is_then(
    ovs: OpenVSwitch, local: LocalSwitch
) -> None:
    """The database stays, the devices do not, and their numbers begin anew."""
    make_device()
    driver = OvsDriver(local, "netdev")
    assert not apply(driver, local)
    ovs.stop_vswitchd()
    run("ip", "link", "del", "hp-dhcp")
    ovs.start_vswitchd()
    make_device()

    wait_until(lambda: not apply(driver, local))
    assert driver.observe() == {**BRIDGE, **PORT}
    assert passes(ovs)


def test_the_device_of_a_plug_is_left_to_who_plugged_it(ovs: OpenVSwitch, local: LocalSwitch) -> None:
    make_device()
    run("ip", "link", "add", "tap1", "up", "type", "veth", "peer", "name", "eth0")
    driver = OvsDriver(local, "netdev")
    assert not apply(driver, local)
    ovs.vsctl("add-port", "br-int", "tap1", "--", "set", "Interface", "tap1", "external_ids:iface-id=p1")
    row = ovs.vsctl("get", "Port", "tap1", "_uuid")
    run("ip", "link", "del", "tap1")
    run("ip", "link", "add", "tap1", "type", "veth", "peer", "name", "eth0")

    assert not apply(driver, local)
    assert driver.observe() == {**BRIDGE, **PORT}
    assert ovs.vsctl("get", "Port", "tap1", "_uuid") == row
