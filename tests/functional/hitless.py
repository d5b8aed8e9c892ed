# SPDX-License-Identifier: Apache-2.0
"""A thousand pings a second between two hosts, over whatever happens to them: nothing may be lost."""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.status import client
from tests.functional.lab import EchoReport, EchoStream, Lab, eventually

TWO_HOSTS = """
networks:
  blue: {type: vxlan}
subnets:
  blue4: {network: blue, cidr: 10.0.0.0/16}
ports:
  vm1: {network: blue, host: host1, fixed_ips: [10.0.0.10]}
  vm2: {network: blue, host: host2, fixed_ips: [10.0.0.11]}
"""
GAP = 0.5  # seconds that a scheduling hiccup of the machine may delay a reply: late is not lost


def stalls(lab: Lab) -> list[str]:
    """Return where a switch says that it was held up: by its work, or by the kernel (then it used no time)."""
    logs = [host.paths.ovs / "ovs-vswitchd.log" for host in lab.sandbox.hosts]
    return [line for log in logs for line in log.read_text().splitlines() if "Unreasonably long" in line]


def assert_hitless(lab: Lab, report: EchoReport, begun: float, ended: float, what: str) -> None:
    """Check that the stream had begun before the fault, outlived it, and lost nothing."""
    print(f"{what}: {report.summary()}")
    assert report.sent[0] < begun
    assert report.sent[-1] > ended
    assert not report.lost, (report.losses_by_second(), stalls(lab))
    assert report.longest_gap[0] < GAP, stalls(lab)


def stream_over(lab: Lab, fault: Callable[[], None], what: str, after: float = 1.0) -> None:
    """Ping while *fault* happens and for *after* seconds more; nothing may be lost."""
    stream = EchoStream(lab, "vm1", "10.0.0.11")
    stream.wait_flowing()
    begun = time.monotonic()
    fault()
    ended = time.monotonic()
    time.sleep(after)  # what the restarted process does first, it does now
    assert_hitless(lab, stream.stop(), begun, ended, what)


def wait_converged(lab: Lab, host: str) -> None:
    socket = lab.sandbox.host(host).paths.agent_socket
    eventually(lambda: bool(client.get(socket, "/status")["converged"]), f"{host} has converged", 30)
