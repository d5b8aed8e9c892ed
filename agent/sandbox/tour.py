# SPDX-License-Identifier: Apache-2.0
"""What ``make demo`` shows: two simulated hosts, two tenants, who reaches whom."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.cli.apply import read_document
from agent.core.errors import AgentError
from agent.sandbox.asking import METADATA_URL, ask_all, namesakes
from agent.sandbox.expected import Expected, Filters
from agent.sandbox.host import SimulatedHost, agent_environment
from agent.sandbox.instances import BroughtUp, bring_up, check_names
from agent.sandbox.layout import UNDERLAY_NETWORK, host_names
from agent.sandbox.picture import topology
from agent.sandbox.reach import Ping, ping_all
from agent.sandbox.sandbox import Sandbox, remove
from agent.sandbox.way_out import DOCUMENT, FIRST, FLOATING_IP, INSTANCE, OUTSIDE, SECOND, add_router, lose_gateway
from agent.status import client
from agent.store.records import PortRecord
from agent.store.writer import Writer

NAME = "demo"
HOSTS = 2
METRICS = (
    "hostplane_converged",
    "hostplane_applied_revision",
    'hostplane_objects{kind="ports"',
    'hostplane_operations_total{driver="flows"',
    'hostplane_port_wiring_seconds_sum{stage="total"',
    'hostplane_port_wiring_seconds_count{stage="total"',
    "process_resident_memory_bytes",
)


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent in each step, in order."""

    steps: dict[str, float]

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step."""
        begun = time.monotonic()
        yield
        self.steps[name] = time.monotonic() - begun


def run(file: str) -> int:
    """Show what Hostplane makes of *file*; take everything down at the end, whatever happened.

    Return 0 when all was as it should be, else 1.
    """
    try:
        if remove(NAME):
            _say("(An earlier demo had not been taken down; it is gone now.)\n")
        try:
            good = _show(file)
        finally:
            remove(NAME)
            _say("\nEverything has been taken down again.")
    except AgentError as err:
        _say(f"\nThe demo failed: {err}")
        return 1
    _say(f"Try it yourself: hostplane sandbox up -f {file}" if good else "Something is wrong: see above.")
    return 0 if good else 1


def _show(file: str) -> bool:
    watch = Stopwatch({})
    _say("Hostplane makes the network of a hypervisor equal to what a central store says.")
    _say(f"This demo simulates {HOSTS} hypervisors on this machine and touches nothing outside of them.")

    _title(f"1. {HOSTS} hosts")
    document = read_document(file)
    check_names(document, host_names(HOSTS))
    with watch.step("hosts, Open vSwitch, store and agents started"):
        sandbox = Sandbox.create(NAME, HOSTS, external=True)
    _say("Each host has network namespaces, an Open vSwitch and one daemon, hostplane-agent, of its own.")
    _say("A wire joins them. One store, an OVSDB database, tells both agents what is wanted.")

    _title(f"2. What is wanted: {Path(file).name}")
    _say(_indented(Path(file)))
    with watch.step("file applied, instances plugged, all ports up"):
        done = bring_up(sandbox, document)
    if not _all_up(done):
        return False
    _say(f"Written to the store as revision {done.revision}; both agents have applied it.")
    _say("For each port there is an instance now: a network namespace with the port's device and addresses.")

    _title("3. What came of it")
    _say("\n".join(topology([(host.name, host.address) for host in sandbox.hosts], done.ports, str(UNDERLAY_NETWORK))))

    _title("4. Who reaches whom: pings from each row to each column")
    with watch.step("every instance pinged every other one"):
        good = _matrix(sandbox, done.ports)

    _title("5. What two tenants with the same address are told")
    with watch.step("instances asked for their addresses and metadata"):
        good = _answers(sandbox, done.ports) and good

    _title("6. The way out, and how it is lost")
    with watch.step("router made, its gateway lost while an instance pings"):
        _way_out(sandbox, done.ports)

    _title("7. What the agents say")
    for host in sandbox.hosts:
        _command(host, "status")
    _command(sandbox.hosts[0], "status", "ports")
    here = [port.name for port in done.ports if port.host == sandbox.hosts[0].name and port.security_groups]
    for name in here[:1]:
        _command(sandbox.hosts[0], "status", "port", name)

    _title("8. What Prometheus would read on host1 (some of it)")
    _say("\n".join(_metrics(sandbox.hosts[0])))

    _title("9. How long it took")
    for name, seconds in watch.steps.items():
        _say(f"  {seconds:6.2f} s  {name}")
    return good


def _all_up(done: BroughtUp) -> bool:
    for name, why in done.failures.items():
        _say(f"  port {name} is not up: {why}")
    for host in done.missing_hosts:
        _say(f"  {host} has not applied the file")
    return done.exit_status == 0


def _matrix(sandbox: Sandbox, ports: Sequence[PortRecord]) -> bool:
    pairs = [(source, target) for source in ports for target in ports if source is not target]
    asks = [(source, target, address.address) for source, target in pairs for address in target.fixed_ips]
    pings = ping_all(sandbox, [(source.name, address) for source, _, address in asks])
    with Writer.connect([sandbox.paths.store_address]) as writer:
        filters = Filters.read(writer)
    heard: dict[tuple[str, str], list[tuple[Ping, Expected]]] = {}
    for (source, target, address), ping in zip(asks, pings, strict=True):
        expected = filters.expect(source, target, address)
        heard.setdefault((source.name, target.name), []).append((ping, expected))
    networks = {port.name: port.network for port in ports}
    cells = {(s, t): _cell(t, heard[s, t], networks[s] == networks[t]) for s, t in heard}
    rows = [["from \\ to", *(f"{port.name} ({port.network_name})" for port in ports)]]
    for source in ports:
        named = f"{source.name} ({source.network_name})"
        rows.append([named, *(cells.get((source.name, target.name), ".") for target in ports)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        _say("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    if "-" in cells.values():
        _say("  - Security groups do not allow it, and nothing arrived.")
    if "no*" in cells.values():
        _say("  * This address exists in the sender's own network as well: the packet arrived there and nowhere else.")
    wrong = [f"{s} to {t}" for s, t in heard if not all(_is_right(t, *outcome) for outcome in heard[s, t])]
    _say(
        f"  WRONG: {', '.join(wrong)}"
        if wrong
        else "  As it should be: yes in the same network, on whatever host, where filters allow it;\n"
        "  other tenants, even with equal addresses: no."
    )
    return not wrong


def _answers(sandbox: Sandbox, ports: Sequence[PortRecord]) -> bool:
    """Show what two instances with the same address are told by DHCP and as metadata."""
    asking = namesakes(ports)
    if not asking:
        _say("  No two instances on one host have the same address here.")
        return True
    told = ask_all(sandbox, asking)
    for answer in told:
        _say(f"{answer.port.name}# busybox udhcpc")
        lease = ", ".join(f"{name} {value}" for name, value in answer.lease.items() if value)
        _say(f"  {lease or 'no answer'}")
        _say(f"{answer.port.name}# curl {METADATA_URL}")
        some = {name: answer.metadata[name] for name in ("uuid", "hostname") if name in answer.metadata}
        _say(f"  {json.dumps(some)[:-1]}, ..." if some else "  no answer: do its security groups allow to ask?")
    wrong = [answer.port.name for answer in told if not answer.is_right]
    _say(
        f"  WRONG: {', '.join(wrong)} was told something else than its port says."
        if wrong
        else "  Each was told what its own port says: what counts is where a question came in, not what it says."
    )
    return not wrong


def _way_out(sandbox: Sandbox, ports: Sequence[PortRecord]) -> None:
    """Show a router with a floating IP, and its gateway that another host takes over."""
    if INSTANCE not in {port.name for port in ports}:
        _say(f"  There is no {INSTANCE} here to send out.")
        return
    _say("\n".join(f"  {line}" for line in DOCUMENT.splitlines()))
    add_router(sandbox)
    _say(f"{INSTANCE} on {SECOND} reaches {OUTSIDE} by {FIRST}, and is {FLOATING_IP} there.")
    seconds = lose_gateway(sandbox)
    _say(f"Now {FIRST} has lost its uplink, and {SECOND} has the gateway: {seconds:.2f} s without answers.\n")
    _command(sandbox.host(SECOND), "status", "routers")
    _command(sandbox.host(SECOND), "status", "floating-ip", FLOATING_IP)


def _is_right(target: str, ping: Ping, expected: Expected) -> bool:
    arrived = target in ping.arrived_at
    return Expected(arrived, arrived and ping.answered) == expected


def _cell(target: str, outcomes: Sequence[tuple[Ping, Expected]], near: bool) -> str:
    """Return ``yes`` when all addresses of *target* were reached, ``part`` when some were.

    When none was: ``-`` when that was to be in a network that is the sender's (*near*),
    too, ``no*`` when namesakes were reached, else ``no``.
    """
    if all(target in ping.arrived_at and ping.answered for ping, _ in outcomes):
        return "yes"
    if any(target in ping.arrived_at for ping, _ in outcomes):
        return "part"
    if near and not any(expected.arrives for _, expected in outcomes):
        return "-"
    return "no*" if any(ping.answered for ping, _ in outcomes) else "no"


def _command(host: SimulatedHost, *words: str) -> None:
    """Run the ``hostplane`` command as an operator on *host* would, and show both."""
    _say(f"{host.name}# hostplane {' '.join(words)}")
    argv = [sys.executable, "-m", "agent.cli.main", *words]
    environment = {**os.environ, **agent_environment(), **host.environment()}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=False)
    _say("\n".join(f"  {line}".rstrip() for line in (done.stdout or done.stderr).splitlines()) + "\n")


def _metrics(host: SimulatedHost) -> list[str]:
    text = client.get_text(host.paths.agent_socket, "/metrics")
    lines = [line for line in text.splitlines() if not line.endswith(" 0.0")]
    return [f"  {line}" for metric in METRICS for line in lines if line.startswith(metric)]


def _indented(file: Path) -> str:
    lines = file.read_text().splitlines()
    while lines and (not lines[0] or lines[0].startswith("#")):
        lines.pop(0)  # what it says about itself at its head is told by what follows here
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _title(text: str) -> None:
    _say(f"\n{text}\n{'-' * len(text)}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
