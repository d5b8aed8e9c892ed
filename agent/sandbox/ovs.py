# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch of one simulated host, on the userspace datapath.

``ovsdb-server`` and ``ovs-vswitchd`` run in the host's namespaces with a folder of
their own.  What an operator would have set up before the agent comes is set up
here: ``br-phy`` with the uplink and, on its internal port, the underlay address
(there the userspace datapath looks for its tunnels' routes), and a bridge for each
physical network.  ``br-int`` is the agent's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.core.naming import INTEGRATION_BRIDGE, PEER_PORT_PREFIX
from agent.sandbox.layout import PHYSICAL_NETWORKS, TUNNEL_BRIDGE, UNDERLAY_NETWORK, UPLINK, HostPaths, physical_bridge
from agent.sandbox.namespaces import Namespaces
from agent.sandbox.process import ProcessFolder, ProcessRecord, start
from agent.sandbox.readiness import database_answers, openflow_answers, wait_ready
from agent.sandbox.tools import run

START_TIMEOUT = 20.0  # seconds
DATAPATH_TYPE = "netdev"
DATABASE = "ovsdb-server"
SWITCH = "ovs-vswitchd"

LOGGING = ("--no-chdir", "--pidfile", "--log-file", "--verbose=console:warn", "--verbose=syslog:off")


def ovs_environment(folder: Path) -> Mapping[str, str]:
    """Return the environment in which all of Open vSwitch's programs use *folder*."""
    ours = {variable: str(folder) for variable in ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR")}
    return {**os.environ, **ours}


class HostSwitch:
    """Open vSwitch of one host: start, stop, restart."""

    def __init__(self, paths: HostPaths, address: str, namespaces: Namespaces, processes: ProcessFolder) -> None:
        self._paths = paths
        self._address = address
        self._namespaces = namespaces
        self._processes = processes

    def start(self) -> None:
        """Start both processes and set up what is the operator's; return when ``br-phy`` has its address."""
        self._paths.ovs.mkdir(parents=True)
        self.start_database()
        self._vsctl("--no-wait", "init")
        self._vsctl("--no-wait", *self._operator_bridges())
        self.start_switch()

    def start_database(self) -> None:
        """Start ``ovsdb-server``; return when it answers."""
        database = self._paths.ovs / "conf.db"
        if not database.exists():
            run(["ovsdb-tool", "create", str(database), str(_switch_schema())])
        socket = self._paths.switch_database
        argv = [
            DATABASE,
            f"--remote=punix:{socket}",
            "--remote=db:Open_vSwitch,Open_vSwitch,manager_options",
            *LOGGING,
            str(database),
        ]
        self._launch(DATABASE, argv, lambda: database_answers(socket))

    def start_switch(self) -> float:
        """Start ``ovs-vswitchd``; return when all bridges accept OpenFlow, and the time of that (CLOCK_MONOTONIC).

        The internal ports that a dead ``ovs-vswitchd`` of the userspace datapath
        leaves behind are persistent taps: it takes them up again, addresses and all.
        """
        self._tell_gateways_down()
        argv = [SWITCH, f"unix:{self._paths.switch_database}", "--disable-system", *LOGGING]
        bridges = [*map(physical_bridge, PHYSICAL_NETWORKS), TUNNEL_BRIDGE]
        if INTEGRATION_BRIDGE in self._vsctl("list-br").split():
            bridges.append(INTEGRATION_BRIDGE)
        sockets = [self._paths.ovs / f"{bridge}.mgmt" for bridge in bridges]
        self._launch(SWITCH, argv, lambda: all(openflow_answers(socket) for socket in sockets))
        accepted = time.monotonic()
        self._set_address()
        return accepted

    def _tell_gateways_down(self) -> None:
        """Do what our drop-in for ``ovs-vswitchd.service`` does (``systemd/gateways-down``)."""
        words: list[str] = []
        for interface in self._vsctl("--bare", "--columns=name", "list", "Interface").split():
            if interface.startswith(PEER_PORT_PREFIX):
                words += ["--", "set", "Interface", interface, "bfd:cpath_down=true"]
        if words:
            self._vsctl("--no-wait", *words)

    def stop_switch(self, *, kill: bool = False) -> None:
        """End ``ovs-vswitchd``: the host forwards nothing until it is started again."""
        self._stop(SWITCH, kill=kill)

    def stop_database(self, *, kill: bool = False) -> None:
        """End ``ovsdb-server`` of the host."""
        self._stop(DATABASE, kill=kill)

    def processes(self) -> dict[str, ProcessRecord]:
        """Return those of the two processes that run."""
        records = {name: self._processes.load(f"{self._paths.host}.{name}") for name in (DATABASE, SWITCH)}
        return {name: record for name, record in records.items() if record is not None and record.is_alive()}

    def _operator_bridges(self) -> list[str]:
        words = ["set", "Open_vSwitch", ".", f"external_ids:hostname={self._paths.host}"]
        words += [f"external_ids:system-id={self._paths.host}"]
        uplinks = {TUNNEL_BRIDGE: UPLINK, **{physical_bridge(physnet): physnet for physnet in PHYSICAL_NETWORKS}}
        for bridge, uplink in uplinks.items():
            words += ["--", "add-br", bridge, "--", "set", "Bridge", bridge, f"datapath_type={DATAPATH_TYPE}"]
            words += ["--", "add-port", bridge, uplink]
        return words

    def _set_address(self) -> None:
        network = f"{self._address}/{UNDERLAY_NETWORK.prefixlen}"
        # "addrgenmode none": the host itself says nothing of IPv6 on the wires, only its tenants may.
        lines = [f"link set {device} addrgenmode none up" for device in (UPLINK, *PHYSICAL_NETWORKS)]
        lines += [f"link set {TUNNEL_BRIDGE} up", f"address replace {network} dev {TUNNEL_BRIDGE}"]
        run([*self._enter(), "ip", "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))

    def _launch(self, name: str, argv: list[str], ready: Callable[[], bool]) -> None:
        log = self._paths.log(name)
        record = start([*self._enter(), *argv], ovs_environment(self._paths.ovs), log)
        self._processes.save(f"{self._paths.host}.{name}", record)
        wait_ready(f"{name} of {self._paths.host}", record, ready, log, START_TIMEOUT)

    def _stop(self, name: str, *, kill: bool) -> None:
        record = self.processes().get(name)
        if record is not None:
            record.stop(kill=kill)

    def _vsctl(self, *words: str) -> str:
        return run(["ovs-vsctl", f"--db=unix:{self._paths.switch_database}", *words])

    def _enter(self) -> list[str]:
        return self._namespaces.enter(self._paths.host)


def _switch_schema() -> Path:
    folder = Path(os.environ.get("OVS_PKGDATADIR", "/usr/share/openvswitch"))
    return folder / "vswitch.ovsschema"
