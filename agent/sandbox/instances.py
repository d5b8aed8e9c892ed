# SPDX-License-Identifier: Apache-2.0
"""Instances: namespaces that stand for virtual machines, each plugged into its port."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from agent.cli.plug_devices import PortView
from agent.cli.plug_view import port_view
from agent.core.errors import AgentError
from agent.core.naming import INTEGRATION_BRIDGE
from agent.sandbox.host import SimulatedHost, agent_environment
from agent.sandbox.layout import check_instance_name
from agent.sandbox.sandbox import Sandbox
from agent.sandbox.tools import run, wait_until
from agent.status import client
from agent.store.document import Document
from agent.store.records import PortRecord, SubnetRecord
from agent.store.writer import Writer

BRIDGE_TIMEOUT = 20.0  # seconds until a new agent has made the integration bridge
UP_TIMEOUT = 30.0  # seconds until all ports are up
PLUG_TIMEOUT = 60.0
ANSWER_TIMEOUT = 3.0
SLAAC, STATELESS = "slaac", "dhcpv6-stateless"


@dataclass(frozen=True, slots=True)
class BroughtUp:
    """What came of a file; ``failures`` say why, by port name; ``elsewhere`` are ports of hosts that are not here."""

    revision: int
    ports: tuple[PortRecord, ...]
    failures: dict[str, str]
    missing_hosts: tuple[str, ...]
    elsewhere: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """0 when all is up, 3 when ports are not, 4 when hosts did not answer (as of ``apply --wait``)."""
        return 4 if self.missing_hosts else 3 if self.failures else 0


def check_names(document: Document, hosts: Sequence[str]) -> None:
    """Raise InputError unless every port of *document* can have an instance called after it."""
    for entry in document.ports:
        check_instance_name(entry.name, tuple(hosts))


def bring_up(sandbox: Sandbox, document: Document, *, dhcp: bool = False) -> BroughtUp:
    """Apply *document*, make an instance for each of its ports whose host is here, and wait until they are up.

    With *dhcp* the instances are told nothing but their MAC address and MTU, and ask for the rest.
    """
    with Writer.connect([sandbox.paths.store_address]) as writer:
        written = writer.apply(document)
        names = {entry.name for entry in document.ports}
        ports = [port for port in writer.list_ports() if port.name in names]
        here = [port for port in ports if port.host in sandbox.host_names]
        if sandbox.upstream is not None:
            sandbox.upstream.follow(writer)
        failures = plug(sandbox, writer, here, dhcp=dhcp)
        missing = _wait_applied(sandbox, written.revision)
        wait = [port for port in here if port.admin_state_up and port.name not in failures and port.host not in missing]
        failures.update(_wait_up(writer, {port.id for port in wait}))
        if dhcp:
            subnets = {subnet.id: subnet for subnet in writer.list_subnets()}
            asking = [port for port in wait if port.name not in failures and _leased(port, subnets, version=4)]
            failures.update(_ask(sandbox, asking))
        elsewhere = tuple(port.name for port in ports if port not in here)
        return BroughtUp(written.revision, tuple(here), failures, missing, elsewhere)


def plug(sandbox: Sandbox, writer: Writer, ports: Iterable[PortRecord], *, dhcp: bool = False) -> dict[str, str]:
    """Make an instance for each of *ports* on its host; return what failed, by the port's name."""
    networks = {network.id: network for network in writer.list_networks()}
    subnets = {subnet.id: subnet for subnet in writer.list_subnets()}
    by_host: dict[str, list[PortView]] = {}
    for port in ports:
        view = port_view(port, networks[port.network], subnets)
        if dhcp:
            served = _leased(port, subnets, version=4) + _leased(port, subnets, version=6)
            rest = tuple(address for address in view.addresses if address.split("/")[0] not in served)
            view = replace(view, addresses=rest, gateways=())
        by_host.setdefault(port.host, []).append(view)
    failures: dict[str, str] = {}
    with ThreadPoolExecutor(8) as pool:
        for failed in pool.map(lambda item: plug_on(sandbox, sandbox.host(item[0]), item[1]), by_host.items()):
            failures.update(failed)
    return failures


def plug_on(sandbox: Sandbox, host: SimulatedHost, views: Sequence[PortView]) -> dict[str, str]:
    """Make an instance for each of *views* on *host*; return what failed, by the port's name."""
    bridges = ["ovs-vsctl", f"--db=unix:{host.paths.switch_database}", "list-br"]
    wait_until(
        f"{host.name}: the agent has made {INTEGRATION_BRIDGE}",
        lambda: INTEGRATION_BRIDGE in run(bridges).split(),
        BRIDGE_TIMEOUT,
        pause=0.05,
    )
    order = {
        "database": f"unix:{host.paths.switch_database}",
        "instances": [{"name": view.name, "port": asdict(view)} for view in views],
    }
    program = [sys.executable, "-m", "agent.sandbox.plugger"]
    argv = sandbox.argv(sandbox.resolve(host.name), program)
    answer = run(argv, stdin=json.dumps(order), timeout=PLUG_TIMEOUT, environment=agent_environment())
    names = {view.id: view.name for view in views}
    failed: dict[str, str] = json.loads(answer)
    return {names[port]: text for port, text in failed.items()}


def _leased(port: PortRecord, subnets: Mapping[str, SubnetRecord], *, version: int) -> list[str]:
    """Return the addresses that an instance gets by DHCPv4, or makes from router advertisements.

    Those of DHCPv6 are set as without DHCP: the kernel does not ask for them.
    """
    modes = (None,) if version == 4 else (SLAAC, STATELESS)
    found = []
    for fixed_ip in port.fixed_ips:
        subnet = subnets[fixed_ip.subnet]
        if subnet.dhcp and (":" in subnet.cidr) is (version == 6) and subnet.ipv6_address_mode in modes:
            found.append(fixed_ip.address)
    return found


def _ask(sandbox: Sandbox, ports: Sequence[PortRecord]) -> dict[str, str]:
    """Let the instances of *ports* ask for their addresses; return what failed, by the port's name."""
    failures: dict[str, str] = {}
    for host in sandbox.hosts:
        names = [port.name for port in ports if port.host == host.name]
        if names:
            order = {"script": str(host.paths.root / "udhcpc.script"), "instances": names}
            argv = sandbox.argv(sandbox.resolve(host.name), [sys.executable, "-m", "agent.sandbox.dhcp_clients"])
            answer = run(argv, stdin=json.dumps(order), timeout=PLUG_TIMEOUT, environment=agent_environment())
            failures.update(json.loads(answer))
    return failures


def _wait_applied(sandbox: Sandbox, revision: int) -> tuple[str, ...]:
    """Wait until every agent says that *revision* is applied; return the hosts that do not.

    The agents are asked themselves: what they write to the store about a revision that
    brought them nothing may come seconds later, and hosts that are not here never answer.
    """
    deadline = time.monotonic() + UP_TIMEOUT
    missing = list(sandbox.hosts)
    while missing:
        missing = [host for host in missing if not _has_applied(host, revision)]
        if time.monotonic() > deadline:
            break
        time.sleep(0.02 if missing else 0)
    return tuple(host.name for host in missing)


def _has_applied(host: SimulatedHost, revision: int) -> bool:
    try:
        answer = client.get(host.paths.agent_socket, "/status", ANSWER_TIMEOUT)
    except AgentError:
        return False
    applied = answer.get("applied_revision")
    return isinstance(applied, int) and applied >= revision


def _wait_up(writer: Writer, ports: set[str]) -> dict[str, str]:
    """Wait until *ports* are up; return why those that are not are not, by name."""
    deadline = time.monotonic() + UP_TIMEOUT
    while True:
        down = [port for port in writer.list_ports() if port.id in ports and not port.up]
        if not down or time.monotonic() > deadline:
            return {port.name: port.reason or "its host says nothing about it" for port in down}
        time.sleep(0.05)
