# SPDX-License-Identifier: Apache-2.0
"""What it costs to restart the agent on a host whose ports are all wired.

Time and CPU seconds run from the start of the process until it is ready and says that
what the store wants is in place: it has then read everything back.  Flow modifications are counted
from outside, by a flow monitor on the switch (``ovs-ofctl monitor``): any flow that is
added, changed or deleted between stop and 2 s after that, even if it comes out as
it was.

The floor is a process that imports what the agent imports, and one dump of the flows.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.core.errors import ApplyError
from agent.core.openflow import OPENFLOW_VERSION
from agent.sandbox.host import agent_environment
from agent.sandbox.ovs import ovs_environment
from agent.sandbox.tools import wait_until
from bench import wiring
from bench.figures import NUMBER, SECONDS, Figure, Result
from bench.lab import Lab, lab
from bench.options import Options
from bench.processes import cpu_seconds
from bench.switch import TIMEOUT

NAME = "restart"
REPEATS = 5
AFTERWARDS = 2.0  # seconds after ready in which the agent may still do something to the flows
MARK_COOKIE = "0x62656e6368"
IMPORT = "import agent.__main__"


def run(options: Options) -> Result:
    """Restart the agent again and again, with ``options.most`` ports plugged."""
    seconds, cpu, changes, floor, floor_cpu = [], [], [], [], []
    with lab(NAME) as place:
        place.start_agent()
        wiring.plug(place, place.add_ports(options.most))
        for _ in range(1 if options.quick else REPEATS):
            with flow_changes(place) as changed:
                place.stop_agent()
                begun = time.monotonic()
                place.start_agent()
                place.wait_idle()  # it may have said that it is ready on what it had saved on disk
                seconds.append(time.monotonic() - begun)
                cpu.append(cpu_seconds(place.agent().pid))
                check(place, options.most)
                time.sleep(AFTERWARDS)
            changes.append(len(changed))
            took, used = read_by_hand(place)
            floor.append(took)
            floor_cpu.append(used)
    params = {"ports": options.most}
    return Result(
        NAME,
        [
            Figure("converged", SECONDS, seconds, params, floor),
            Figure("cpu", SECONDS, cpu, params, floor_cpu),
            Figure("flow-modifications", NUMBER, changes, params),
        ],
    )


def check(place: Lab, ports: int) -> None:
    """Raise ApplyError unless the agent says that all ports are up."""
    up = place.status()["ports"]["up"]
    if up != ports:
        raise ApplyError(f"{up} of {ports} ports are up after the restart")


@contextmanager
def flow_changes(place: Lab) -> Iterator[list[str]]:
    """Collect the changes of flows, one text each, while the body runs; the list is filled when it has ended.

    A flow of our own is added before and deleted after: when the monitor has told of
    both, it has told of everything in between.
    """
    changes: list[str] = []
    report = place.sandbox.paths.root / "flow-monitor.txt"
    argv = ["ovs-ofctl", "-O", OPENFLOW_VERSION, "monitor", place.switch.management, "watch:!initial"]
    environment = ovs_environment(place.sandbox.paths.root)  # it makes a control socket
    with report.open("wb") as output:
        monitor = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        wait_until("the flow monitor", lambda: _mark(place, report), TIMEOUT, pause=0.05)
        yield changes
        place.switch.delete_flows(f"cookie={MARK_COOKIE}/-1")
        wait_until("the flow monitor", lambda: _is_marked(report, "DELETED"), TIMEOUT, pause=0.05)
    finally:
        monitor.kill()
        monitor.wait()
    changes += [line for line in _events(report) if MARK_COOKIE not in line]


def _mark(place: Lab, report: Path) -> bool:
    """Add the mark, once more if need be: the monitor takes a moment to be there."""
    place.switch.add_flows([f"cookie={MARK_COOKIE},table=250,priority=1 actions=drop"])
    return _is_marked(report, "ADDED")


def _is_marked(report: Path, event: str) -> bool:
    return any(f"event={event}" in line and MARK_COOKIE in line for line in _events(report))


def _events(report: Path) -> list[str]:
    return [line for line in report.read_text().splitlines() if "event=" in line]


def read_by_hand(place: Lab) -> tuple[float, float]:
    """Import what the agent imports and dump the flows; return the seconds and the CPU seconds of both."""
    dump = ["ovs-ofctl", "-O", OPENFLOW_VERSION, "dump-flows", place.switch.management]
    begun, used = time.monotonic(), children_seconds()
    for command in ([sys.executable, "-c", IMPORT], dump):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(agent_environment()))
    return time.monotonic() - begun, children_seconds() - used


def children_seconds() -> float:
    """Return the CPU seconds of all commands that have run to their end."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
