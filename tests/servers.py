# SPDX-License-Identifier: Apache-2.0
"""Real servers for tests that need no root: started in a folder, ended by pid."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from types import TracebackType

from agent.store import remotes
from tests.fakes.openvswitch import accepts

START_SECONDS = 10.0


@cache
def _empty_database() -> bytes:
    """Return what ``ovsdb-tool create`` writes: hundreds of tests begin with it."""
    with tempfile.TemporaryDirectory() as folder:
        database, schema = Path(folder) / "store.db", Path(folder) / "schema"
        schema.write_text(remotes.schema_text())
        subprocess.run(["ovsdb-tool", "create", str(database), str(schema)], check=True)
        return database.read_bytes()


class StoreServer:
    """An ``ovsdb-server`` with the Hostplane schema on ``<folder>/store.db``; may be stopped and started again."""

    def __init__(self, folder: Path, socket: str = "store.sock") -> None:
        self.folder = folder
        self._socket = folder / socket
        self._database = folder / "store.db"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix:{self._socket}"

    def start(self) -> None:
        if not self._database.exists():
            self._database.write_bytes(_empty_database())
        argv = ["ovsdb-server", "--no-chdir", f"--remote=punix:{self._socket}", f"--unixctl={self._socket}.ctl"]
        environment = {**os.environ, "OVS_RUNDIR": str(self.folder), "OVS_LOGDIR": str(self.folder)}
        log = (self.folder / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen([*argv, str(self._database)], env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not accepts(self._socket):
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, "ovsdb-server did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_SECONDS)
            self._process = None
        self._socket.unlink(missing_ok=True)

    def __enter__(self) -> StoreServer:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()
