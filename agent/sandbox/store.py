# SPDX-License-Identifier: Apache-2.0
"""The sandbox's store: one ``ovsdb-server`` that all simulated hosts reach through the file system."""

from __future__ import annotations

from pathlib import Path

import agent.store
from agent.sandbox.layout import UNDERLAY, SandboxPaths
from agent.sandbox.namespaces import Namespaces
from agent.sandbox.ovs import LOGGING, ovs_environment
from agent.sandbox.process import ProcessFolder, ProcessRecord, start
from agent.sandbox.readiness import database_answers, wait_ready
from agent.sandbox.tools import run

SCHEMA = Path(agent.store.__file__).parent / "hostplane.ovsschema"
START_TIMEOUT = 15.0
PROCESS = "store"


class SandboxStore:
    """The store's process."""

    def __init__(self, paths: SandboxPaths, namespaces: Namespaces, processes: ProcessFolder) -> None:
        self._paths = paths
        self._namespaces = namespaces
        self._processes = processes

    @property
    def _folder(self) -> Path:
        return self._paths.root / PROCESS

    def start(self) -> None:
        """Start the server, on a new database if there is none; return when it answers."""
        self._folder.mkdir(exist_ok=True)
        if not self._paths.store_database.exists():
            run(["ovsdb-tool", "create", str(self._paths.store_database), str(SCHEMA)])
        log = self._folder / "ovsdb-server.log"
        argv = [
            *self._namespaces.enter(UNDERLAY),
            "ovsdb-server",
            f"--remote=punix:{self._paths.store_socket}",
            *LOGGING,
            str(self._paths.store_database),
        ]
        record = start(argv, ovs_environment(self._folder), log)
        self._processes.save(PROCESS, record)
        wait_ready("the store", record, lambda: database_answers(self._paths.store_socket), log, START_TIMEOUT)

    def stop(self, *, kill: bool = False) -> None:
        """End the server; agents keep their dataplane and reconnect later."""
        record = self.process()
        if record is not None:
            record.stop(kill=kill)

    def process(self) -> ProcessRecord | None:
        """Return the server's process if it runs."""
        record = self._processes.load(PROCESS)
        return record if record is not None and record.is_alive() else None
