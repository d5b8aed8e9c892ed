# SPDX-License-Identifier: Apache-2.0
"""A simulated host: its namespaces, its Open vSwitch, its agent and the responder that this starts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import agent
from agent.core.errors import ApplyError
from agent.sandbox import ovs, responder
from agent.sandbox.layout import PHYSICAL_NETWORKS, HostPaths, SandboxPaths, is_agents_namespace, physical_bridge
from agent.sandbox.namespaces import Namespaces
from agent.sandbox.process import ProcessFolder, ProcessRecord, start
from agent.sandbox.readiness import NotifySocket, wait_ready
from agent.sandbox.tools import wait_until

AGENT = "agent"
AGENT_START_TIMEOUT = 30.0  # seconds
RESPONDER_USER = "nobody"  # on every machine; a user of its own comes with the units


class SimulatedHost:
    """One host of a sandbox; every method may run in a thread of its own."""

    def __init__(
        self, sandbox: SandboxPaths, name: str, address: str, namespaces: Namespaces, processes: ProcessFolder
    ) -> None:
        self.name = name
        self.address = address
        self.paths: HostPaths = sandbox.host(name)
        self.switch = ovs.HostSwitch(self.paths, address, namespaces, processes)
        self._sandbox = sandbox
        self._namespaces = namespaces
        self._processes = processes

    def configure(self) -> None:
        """Write the agent's configuration file."""
        self.paths.run.mkdir(parents=True, exist_ok=True)
        self.paths.state.mkdir(parents=True, exist_ok=True)
        mappings = ",".join(f"{physnet}:{physical_bridge(physnet)}" for physnet in PHYSICAL_NETWORKS)
        self.paths.agent_config.write_text(
            f"""[DEFAULT]
host = {self.name}
state_dir = {self.paths.state}
run_dir = {self.paths.run}

[store]
connection = {self._sandbox.store_address}

[switch]
ovsdb = unix:{self.paths.switch_database}
run_dir = {self.paths.ovs}
datapath_type = {ovs.DATAPATH_TYPE}

[l2]
tunnel_address = {self.address}
encapsulations = vxlan,geneve
bridge_mappings = {mappings}

[filters]
packet_log = {self.paths.packet_log}

[responder]
user = {RESPONDER_USER}

[status]
socket = {self.paths.agent_socket}
"""
        )

    def start_agent(self) -> None:
        """Start the agent; return when it says that it is ready."""
        log = self.paths.log(AGENT)
        with NotifySocket(self.paths.root / "notify.sock") as notify:
            environment = {**agent_environment(), **self.inner_environment(), "NOTIFY_SOCKET": notify.path}
            argv = [sys.executable, "-m", "agent", "--config-file", str(self.paths.agent_config)]
            record = start([*self._namespaces.enter(self.name), *argv], environment, log)
            self._processes.save(f"{self.name}.{AGENT}", record)
            wait_ready(f"the agent of {self.name}", record, notify.is_ready, log, AGENT_START_TIMEOUT)

    def stop_agent(self, *, kill: bool = False) -> None:
        """End the agent; what it has set up stays."""
        record = self.processes().get(AGENT)
        if record is not None:
            record.stop(kill=kill)

    def restart_responder(self, *, kill: bool = False) -> None:
        """End the responder; return when the one that the agent starts instead answers.

        Ended with SIGTERM it may go on with open requests meanwhile.  ApplyError when none
        runs, or when no other one comes: without the agent nobody starts it.
        """
        before = self.responders()
        if not before:
            raise ApplyError(f"the responder of {self.name} does not run")
        before[0].send(signal.SIGKILL if kill else signal.SIGTERM)

        def is_replaced() -> bool:
            now = self.responders()
            return bool(now) and now[0] not in before and responder.answers(self.paths.run)

        wait_until(f"{self.name}: another responder answers", is_replaced, responder.RESTART_TIMEOUT)

    def responders(self) -> list[ProcessRecord]:
        """Return the host's responders that run, the one that serves first."""
        return responder.find(self._namespaces.network_pin(self.name))

    def processes(self) -> dict[str, ProcessRecord]:
        """Return the processes of this host that run, by name."""
        record = self._processes.load(f"{self.name}.{AGENT}")
        ours = {AGENT: record} if record is not None and record.is_alive() else {}
        serving = self.responders()
        if serving:
            ours[responder.RESPONDER] = serving[0]
        return {**ours, **self.switch.processes()}

    def environment(self) -> dict[str, str]:
        """Return the variables that point commands at this host and at the sandbox's store."""
        return {
            "HOSTPLANE_STORE": self._sandbox.store_address,
            "HOSTPLANE_SOCKET": str(self.paths.agent_socket),
            "OVS_RUNDIR": str(self.paths.ovs),
            "OVS_DBDIR": str(self.paths.ovs),
        }

    def inner_environment(self) -> dict[str, str]:
        """Return the variables of commands that run on this host: ``environment``, and an iptables lock of its own."""
        return {**self.environment(), "XTABLES_LOCKFILE": str(self.paths.xtables_lock)}

    def namespaces(self) -> list[str]:
        """Return the names of the network namespaces that the host's ``ip netns`` shows."""
        return sorted(entry.name for entry in self.paths.netns.iterdir()) if self.paths.netns.is_dir() else []

    def instances(self) -> list[str]:
        """Return the names of those that stand for virtual machines: all but the agent's own."""
        return [name for name in self.namespaces() if not is_agents_namespace(name)]


def agent_environment() -> Mapping[str, str]:
    """Return an environment in which ``python -m agent`` finds this package, wherever it was started from."""
    package = str(Path(agent.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": package if not inherited else f"{package}{os.pathsep}{inherited}"}
