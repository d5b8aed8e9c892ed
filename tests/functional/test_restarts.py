# SPDX-License-Identifier: Apache-2.0
"""What a thousand pings a second notice of restarts, between two hosts, and among 400 ports."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from agent.cli.yaml_file import parse_file
from agent.core.naming import INTEGRATION_BRIDGE, tap_name
from tests.functional.hitless import TWO_HOSTS, stream_over, wait_converged
from tests.functional.lab import EchoStream, Lab, eventually

pytestmark = pytest.mark.alone

PORTS = 400


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(2)
    lab.bring_up(TWO_HOSTS)
    lab.assert_connection("vm1", "10.0.0.11")
    return lab


def add_crowd(lab: Lab, count: int) -> None:
    """Add so many more ports on host1, 20 on a network, each with a device but nobody behind it."""
    networks = range(-(-count // 20))
    lines = ["networks:", *(f"  n{number}: {{type: vxlan}}" for number in networks)]
    lines += ["subnets:", *(f"  s{number}: {{network: n{number}, cidr: 10.1.0.0/24}}" for number in networks)]
    lines += ["ports:", *(f"  p{number}: {{network: n{number // 20}, host: host1}}" for number in range(count))]
    lab.writer.apply(parse_file("\n".join(lines).encode(), "crowd"))
    crowd = [port for port in lab.writer.list_ports() if port.name.startswith("p")]
    devices, interfaces = [], []
    for port in crowd:
        tap = tap_name(port.id)
        devices.append(f"link add {tap} type veth peer name e{tap[3:]}")
        devices += [f"link set {device} addrgenmode none up" for device in (tap, f"e{tap[3:]}")]
        interfaces += ["--", "add-port", INTEGRATION_BRIDGE, tap]
        interfaces += ["--", "set", "Interface", tap, f"external_ids:iface-id={port.id}"]
    lab.output("host1", "ip", "-batch", "-", stdin="\n".join(devices))
    lab.output("host1", "ovs-vsctl", *interfaces[1:])
    ids = {port.id for port in crowd}
    eventually(lambda: all(port.up for port in lab.writer.list_ports() if port.id in ids), "all ports are up", 30)


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_nothing_is_lost_when_the_agents_restart(lab: Lab, kill: bool) -> None:
    def restart() -> None:
        for host in ("host1", "host2"):
            lab.sandbox.restart(host, "agent", kill=kill)
            wait_converged(lab, host)

    stream_over(lab, restart, f"agents restarted ({'SIGKILL' if kill else 'SIGTERM'})")


def test_a_restarted_agent_changes_no_flow(lab: Lab) -> None:
    def flows() -> str:
        return lab.output("host1", "ovs-ofctl", "-O", "OpenFlow14", "dump-flows", "--no-stats", INTEGRATION_BRIDGE)

    def ages() -> list[float]:
        dump = lab.output("host1", "ovs-ofctl", "-O", "OpenFlow14", "dump-flows", INTEGRATION_BRIDGE)
        return [float(line.split("duration=")[1].split("s")[0]) for line in dump.splitlines() if "duration=" in line]

    before = flows()
    lab.sandbox.restart("host1", "agent", kill=True)
    restarted = time.monotonic()
    wait_converged(lab, "host1")
    assert flows() == before
    assert min(ages()) > time.monotonic() - restarted, "a flow was written anew"


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_forwarding_is_back_within_a_second_of_the_switch_with_400_ports(lab: Lab, kill: bool) -> None:
    """From the moment that the OpenFlow socket accepts until the first reply."""
    if len(lab.writer.list_ports()) < PORTS:
        add_crowd(lab, PORTS - 1)
    stream = EchoStream(lab, "vm1", "10.0.0.11")
    stream.wait_flowing()
    switch = lab.sandbox.host("host1").switch
    begun = time.monotonic()
    switch.stop_switch(kill=kill)
    stopped = time.monotonic()
    accepted = switch.start_switch()
    lab.assert_connection("vm1", "10.0.0.11", 20)
    report = stream.stop()
    back = report.first_reply_after(stopped) - accepted
    print(f"ovs-vswitchd restarted with {PORTS} ports: forwarding {back * 1000:.0f} ms after OpenFlow is accepted")
    print(f"(ending took {stopped - begun:.2f} s, until accepted {accepted - stopped:.2f} s; {report.summary()})")
    assert back < 1.0
