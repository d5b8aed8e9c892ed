# SPDX-License-Identifier: Apache-2.0
"""Announcements through a real pipeline."""

import logging

import pytest

from agent.command import CommandRunner
from agent.drivers.announcer import Announcer
from tests.fakes.openvswitch import OpenVSwitch, accepts, wait_until

ARP = bytes.fromhex("ffffffffffff 525400000001 0806 0001080006040001 525400000001 0a000001 000000000000 0a000001")


@pytest.fixture(scope="module")
def ovs(tmp_path_factory):
    switch = OpenVSwitch(tmp_path_factory.mktemp("announce"))
    switch.start()
    switch.vsctl("add-br", "br-int", "--", "set", "Bridge", "br-int", "fail_mode=secure")
    for name in ("p1", "p2", "p3"):
        switch.vsctl("add-port", "br-int", name, "--", "set", "Interface", name, "type=dummy")
    wait_until(lambda: accepts(switch.folder / "br-int.mgmt"))
    yield switch
    switch.stop()


def sent(ovs, port):
    """Return how many frames left through *port*."""
    text = ovs.ofctl("dump-ports", "MGMT", port)
    return int(text.split("tx pkts=")[1].split(",")[0])


def test_frames_take_the_way_of_the_port_and_are_judged_by_its_flows(ovs):
    """Those know by a register that the daemon speaks for the port."""
    ovs.ofctl("add-flow", "MGMT", "table=0,priority=1,in_port=1,reg5=1,arp,arp_spa=10.0.0.1,actions=resubmit(,5)")
    ovs.ofctl("add-flow", "MGMT", "table=5,arp,actions=output:3")
    before = sent(ovs, "p3")

    Announcer(CommandRunner(), ovs.management).announce([(1, ARP), (2, ARP), (1, ARP)]).result(5)

    wait_until(lambda: sent(ovs, "p3") == before + 2)  # that of port 2 was not allowed to pass


def test_a_failure_is_logged_and_goes_no_further(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        Announcer(CommandRunner(), f"unix:{tmp_path}/br-int.mgmt").announce([(1, ARP)]).result(5)

    assert "1 announcements of ports were not sent" in caplog.text


def test_nothing_to_say_needs_no_switch(caplog):
    with caplog.at_level(logging.WARNING):
        Announcer(CommandRunner(), "unix:/nonexistent").announce([]).result(5)

    assert caplog.text == ""
