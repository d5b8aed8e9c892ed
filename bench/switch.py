# SPDX-License-Identifier: Apache-2.0
"""The raw side of a host's Open vSwitch: interfaces put in by one transaction, flows by one bundle."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.core.naming import COOKIE_OWNER, INTEGRATION_BRIDGE, hybrid_bridge_name, hybrid_veth_names, tap_name
from agent.core.openflow import OPENFLOW_VERSION
from agent.sandbox.host import SimulatedHost
from agent.sandbox.ovs import DATAPATH_TYPE
from agent.sandbox.tools import run, wait_until
from bench.database import Database, Json

TIMEOUT = 60.0  # seconds for anything to happen
OURS = f"cookie={COOKIE_OWNER << 48:#x}/0xffff000000000000"
DATABASE = "Open_vSwitch"


@dataclass(frozen=True, slots=True)
class Interface:
    """A port of the store and the device that is plugged in for it."""

    port: str
    mac: str
    hybrid: bool = False

    @property
    def device(self) -> str:
        """The name of the device on ``br-int``, as Nova gives it."""
        return hybrid_veth_names(self.port)[1] if self.hybrid else tap_name(self.port)


class Switch:
    """Open vSwitch of one simulated host."""

    def __init__(self, host: SimulatedHost, enter: Sequence[str]) -> None:
        self.database_path: Path = host.paths.switch_database
        self._database = f"unix:{self.database_path}"
        self.management = f"unix:{host.paths.ovs / INTEGRATION_BRIDGE}.mgmt"
        self._enter = list(enter)

    def make_bridge(self) -> None:
        """Make ``br-int`` as the agent does."""
        words = ["--", "set", "Bridge", INTEGRATION_BRIDGE, f"datapath_type={DATAPATH_TYPE}", "fail_mode=secure"]
        run(["ovs-vsctl", f"--db={self._database}", "add-br", INTEGRATION_BRIDGE, *words])

    def wait_for_bridge(self) -> None:
        """Wait until somebody has made ``br-int`` and it takes flows."""
        bridges = ["ovs-vsctl", f"--db={self._database}", "list-br"]
        wait_until("the integration bridge", lambda: INTEGRATION_BRIDGE in run(bridges).split(), TIMEOUT, pause=0.05)

    def make_devices(self, interfaces: Iterable[Interface]) -> None:
        """Make a veth pair for each interface, and what a hybrid plug has besides; all up and silent.

        Without IPv6 the devices themselves send nothing: what would otherwise be
        measured is how fast a switch floods 400 router solicitations to 400 ports.
        """
        run([*self._enter, "sysctl", "-q", "-w", "net.ipv6.conf.default.disable_ipv6=1"])
        lines = []
        for each in interfaces:
            tap, peer = tap_name(each.port), f"peer{each.device[3:]}"
            lines += [f"link add {tap} up type veth peer name {peer}", f"link set {peer} up"]
            lines += _hybrid_devices(each, tap) if each.hybrid else []
        run([*self._enter, "ip", "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))

    def add_device(self, name: str) -> None:
        """Put a device that is nobody's port on ``br-int``; return when it has a number."""
        run(["ovs-vsctl", f"--db={self._database}", "add-port", INTEGRATION_BRIDGE, name])

    def add_interfaces(self, interfaces: Sequence[Interface]) -> float:
        """Put all interfaces on ``br-int`` in one transaction; return the monotonic time of its commit."""
        operations: list[Json] = []
        for number, each in enumerate(interfaces):
            ids = [["iface-id", each.port], ["iface-status", "active"], ["attached-mac", each.mac]]
            interface = {"name": each.device, "external_ids": ["map", ids]}
            port = {"name": each.device, "interfaces": ["named-uuid", f"interface{number}"]}
            operations += [
                {"op": "insert", "table": "Interface", "row": interface, "uuid-name": f"interface{number}"},
                {"op": "insert", "table": "Port", "row": port, "uuid-name": f"port{number}"},
            ]
        added = ["set", [["named-uuid", f"port{number}"] for number in range(len(interfaces))]]
        operations.append(_mutate_bridge("insert", added))
        with Database(self.database_path, DATABASE) as database:
            database.transact(operations)
            return time.monotonic()

    def wait_for_numbers(self, interfaces: Iterable[Interface]) -> float:
        """Wait until Open vSwitch has given each interface an OpenFlow number; return when the last one had it."""
        names = [each.device for each in interfaces]
        with Database(self.database_path, DATABASE).watch("Interface", ["name", "ofport"]) as rows:
            return rows.wait_all("name", names, _has_number, TIMEOUT)

    def remove_interfaces(self, interfaces: Iterable[Interface]) -> None:
        """Take interfaces off ``br-int``; return when Open vSwitch has closed their devices."""
        names = {each.device for each in interfaces}
        with Database(self.database_path, DATABASE) as database:
            found = database.transact([{"op": "select", "table": "Port", "where": [], "columns": ["_uuid", "name"]}])
            ports = [row["_uuid"] for row in found[0]["rows"] if row["name"] in names]
            # As ovs-vsctl does: ask for one more round of configuration, and see that it was done.
            bump: Json = {"op": "mutate", "table": DATABASE, "where": [], "mutations": [["next_cfg", "+=", 1]]}
            read: Json = {"op": "select", "table": DATABASE, "where": [], "columns": ["next_cfg"]}
            results = database.transact([_mutate_bridge("delete", ["set", ports]), bump, read])
        asked = results[-1]["rows"][0]["next_cfg"]
        with Database(self.database_path, DATABASE).watch(DATABASE, ["cur_cfg"]) as rows:
            rows.wait(lambda row: row["cur_cfg"] >= asked, TIMEOUT)

    def flows(self) -> frozenset[str]:
        """Return all flows of ours, a line each that ``add_flows`` takes again."""
        text = self._ofctl("--no-stats", "--no-names", "dump-flows", self.management, OURS)
        return frozenset(line.strip() for line in text.splitlines() if "actions=" in line)

    def add_flows(self, flows: Iterable[str]) -> None:
        """Install flows in one bundle, as one process, which need not ask for the names of ports first."""
        script = "".join(f"{flow}\n" for flow in flows)
        self._ofctl("--no-names", "--bundle", "add-flows", self.management, "-", stdin=script)

    def add_named_flows(self, flows: Iterable[str]) -> None:
        """Install flows that give ports by their devices' names."""
        self._ofctl("--names", "--bundle", "add-flows", self.management, "-", stdin="".join(f"{f}\n" for f in flows))

    def set_flows(self, wanted: frozenset[str]) -> None:
        """Make *wanted* all that there is of ours."""
        present = self.flows()
        gone = {_match(flow) for flow in present} - {_match(flow) for flow in wanted}
        self.add_flows([*(f"delete_strict {match}" for match in gone), *(wanted - present)])

    def delete_flows(self, match: str) -> None:
        """Delete the flows that *match* selects."""
        self._ofctl("del-flows", self.management, match)

    def _ofctl(self, *words: str, stdin: str = "") -> str:
        return run(["ovs-ofctl", "-O", OPENFLOW_VERSION, *words], stdin=stdin)


def _hybrid_devices(interface: Interface, tap: str) -> list[str]:
    """Return what ``ip -batch`` makes a hybrid plug of, as Nova's os-vif does."""
    bridge, (qvb, qvo) = hybrid_bridge_name(interface.port), hybrid_veth_names(interface.port)
    return [
        f"link add {bridge} up type bridge forward_delay 0 ageing_time 0 mcast_snooping 0",
        f"link add {qvb} up type veth peer name {qvo}",
        f"link set {qvo} up",
        f"link set {tap} master {bridge}",
        f"link set {qvb} master {bridge}",
    ]


def _mutate_bridge(what: str, ports: Sequence[object]) -> Json:
    where = [["name", "==", INTEGRATION_BRIDGE]]
    return {"op": "mutate", "table": "Bridge", "where": where, "mutations": [["ports", what, list(ports)]]}


def _match(flow: str) -> str:
    """Return table, priority and match of a line of a dump."""
    return flow.partition(" actions=")[0].partition(", ")[2]


def _has_number(row: Json) -> bool:
    return isinstance(row["ofport"], int) and row["ofport"] > 0
