# SPDX-License-Identifier: Apache-2.0
"""Ports that change while others talk to them: moved to another host, given other addresses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.cli.plug_view import port_view
from agent.sandbox import instances
from agent.sandbox.reach import ping_all
from agent.store.document import FixedIpRequest, PortFields
from tests.functional.lab import EchoStream, Lab, eventually

pytestmark = pytest.mark.alone

DOCUMENT = """
networks:
  blue: {type: vxlan}
  lan:  {type: vlan, physnet: physnet1, segmentation_id: 100}
subnets:
  blue4: {network: blue, cidr: 10.0.0.0/24}
  lan4:  {network: lan, cidr: 10.0.0.0/24}
ports:
  blue-mover: {network: blue, host: host1, fixed_ips: [10.0.0.10]}
  blue-near:  {network: blue, host: host1, fixed_ips: [10.0.0.11]}
  blue-far:   {network: blue, host: host2, fixed_ips: [10.0.0.12]}
  blue-third: {network: blue, host: host3, fixed_ips: [10.0.0.13]}
  lan-mover:  {network: lan, host: host1, fixed_ips: [10.0.0.10]}
  lan-near:   {network: lan, host: host1, fixed_ips: [10.0.0.11]}
  lan-far:    {network: lan, host: host2, fixed_ips: [10.0.0.12]}
  lan-third:  {network: lan, host: host3, fixed_ips: [10.0.0.13]}
"""
RATE = 200  # echo requests a second
BLACKOUT = 1.0  # seconds that the mover may be away once it is plugged and moved


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(3)
    lab.bring_up(DOCUMENT)
    return lab


def move(lab: Lab, port: str, old: str, new: str) -> None:
    """Move a port as a live migration does: plugged at its destination first, then bound there."""
    record = lab.writer.get_port(port)
    host = lab.sandbox.host(new)
    network = lab.writer.get_network(record.network)
    subnets = {subnet.id: subnet for subnet in lab.writer.list_subnets()}
    failed = instances.plug_on(lab.sandbox, host, [port_view(record, network, subnets)])
    assert not failed
    lab.writer.set_port(port, PortFields(host=new))
    lab.output(old, "ip", "netns", "delete", port)


@pytest.mark.parametrize("network", ["blue", "lan"])
def test_a_moved_port_is_reached_by_all_at_its_new_place(lab: Lab, network: str) -> None:
    mover = f"{network}-mover"
    others = [f"{network}-{name}" for name in ("near", "far", "third")]
    for other in others:
        lab.assert_connection(other, "10.0.0.10")
    streams = [EchoStream(lab, other, "10.0.0.10", RATE) for other in others]
    for old, new in (("host1", "host2"), ("host2", "host3"), ("host3", "host1")):
        move(lab, mover, old, new)
        lab.wait_port(mover, up=True)
        for other in others:
            lab.assert_connection(other, "10.0.0.10", 5)
            lab.assert_connection(mover, lab.address(other), 5)
    for other, stream in zip(others, streams, strict=True):
        report = stream.stop()
        print(f"{other}: {report.summary()}")
        assert report.longest_gap[0] < BLACKOUT, (other, report.losses_by_second())
        assert len(report.lost) < 3 * BLACKOUT * RATE, (other, report.losses_by_second())


def test_a_host_that_a_port_has_left_keeps_nothing_of_it(lab: Lab) -> None:
    """The instance that stays behind, still plugged under the port's id, is shut."""
    record = lab.writer.get_port("blue-near")
    lab.writer.set_port("blue-near", PortFields(host="host3"))
    eventually(
        lambda: not any(ping.arrived_at for ping in ping_all(lab.sandbox, [("blue-near", "10.0.0.12")], 0.3)),
        "nothing of the old instance gets out",
    )
    lab.assert_no_connection("blue-far", "10.0.0.11")
    lab.writer.set_port("blue-near", PortFields(host=record.host))
    lab.assert_connection("blue-far", "10.0.0.11")


def test_a_new_address_works_and_the_old_one_is_refused(lab: Lab) -> None:
    lab.assert_connection("lan-far", "10.0.0.13")
    lab.applied(lab.writer.set_port("lan-third", PortFields(fixed_ips=(FixedIpRequest(address="10.0.0.99"),))))
    lab.assert_no_connection("lan-far", "10.0.0.13")
    lab.output("lan-third", "ip", "addr", "add", "10.0.0.99/24", "dev", "eth0")
    lab.assert_connection("lan-far", "10.0.0.99")
