# SPDX-License-Identifier: Apache-2.0
"""One whole host without root: a store, an Open vSwitch with the dummy datapath, and the real daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from agent.core.errors import AgentError
from agent.drivers.flow_text import parse_dump
from agent.status import client
from agent.store.document import NetworkFields, PortFields, SubnetFields
from agent.store.writer import Writer
from tests.fakes.openvswitch import OpenVSwitch, wait_until
from tests.servers import StoreServer

STOP_SECONDS = 15.0


class DaemonHost:
    """The host ``host1``; everything it starts lives in *folder* and ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("ovs", "store", "state", "run"):
            (folder / name).mkdir()
        self.store = StoreServer(folder / "store")
        self.ovs = OpenVSwitch(folder / "ovs")
        self.process: subprocess.Popen[bytes] | None = None
        self.config = folder / "agent.conf"
        self.configure()

    def configure(self, **settings: str) -> None:
        """Write the configuration; *settings* go into ``[pass]``."""
        passes = "".join(f"{name} = {value}\n" for name, value in settings.items())
        self.config.write_text(
            f"[DEFAULT]\nhost = host1\nstate_dir = {self.folder}/state\nrun_dir = {self.folder}/run\n"
            f"[store]\nconnection = {self.store.address}\n"
            f"[switch]\novsdb = {self.ovs.database}\nrun_dir = {self.ovs.folder}\ndatapath_type = dummy\n"
            "[l2]\ntunnel_address = 198.18.0.1\n[status]\nmetrics_port = 0\n"
            f"[filters]\nenabled = false\n[responder]\nenabled = false\n[pass]\n{passes}"
        )

    @property
    def log(self) -> str:
        """Everything that all daemons of this host have logged."""
        path = self.folder / "agent.log"
        return path.read_text() if path.exists() else ""

    def start(self) -> None:
        """Start the daemon; returns at once."""
        argv = [sys.executable, "-m", "agent", "--config-file", str(self.config)]
        with (self.folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=os.environ.get("PWD"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon; return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(STOP_SECONDS)
        self.process = None
        return status

    def status(self, page: str = "/status") -> dict[str, Any]:
        """Ask the status socket; {} while nobody answers."""
        try:
            return client.get(self.folder / "run" / "agent.sock", page)
        except AgentError:
            return {}

    def post(self, page: str) -> dict[str, Any]:
        """Tell the daemon something."""
        return client.post(self.folder / "run" / "agent.sock", page)

    def wait_converged(self, revision: int) -> None:
        """Wait until *revision* is in place."""
        wait_until(lambda: self.status().get("applied_revision") == revision and self.status()["converged"])

    def wait_ports(self, up: int) -> None:
        """Wait until that many ports are up."""
        wait_until(lambda: self.status().get("ports", {}).get("up") == up)

    def plug(self, *port_ids: str) -> None:
        """Plug an interface for each port, in one transaction."""
        words: list[str] = []
        for port_id in port_ids:
            name = f"tap{port_id[:11]}"
            words += ["--", "add-port", "br-int", name, "--", "set", "Interface", name, "type=dummy"]
            words += [f"external_ids:iface-id={port_id}"]
        self.ovs.vsctl(*words[1:])

    def flows(self) -> dict[str, str]:
        """Return what the switch holds."""
        return parse_dump(self.ovs.ofctl("--no-stats", "--no-names", "dump-flows", "MGMT"))

    def __enter__(self) -> DaemonHost:
        self.store.start()
        self.ovs.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
        self.ovs.stop()
        self.store.stop()


def make_ports(writer: Writer, count: int) -> tuple[list[str], int]:
    """Make one network with *count* ports on host1; return their ids and the revision."""
    writer.create_network("blue", NetworkFields(type="vxlan"))
    revision = writer.create_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24")).revision
    ids = []
    for number in range(count):
        written = writer.create_port(f"vm{number}", PortFields(network="blue", host="host1"))
        ids.append(written.result.id)
        revision = written.revision
    return ids, revision
