# SPDX-License-Identifier: Apache-2.0
"""A real Open vSwitch of a test's own, in a folder of its own.  Ends what it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
START_SECONDS = 20.0


def wait_until(condition: Callable[[], object], seconds: float = START_SECONDS) -> None:
    """Poll until *condition* holds; fail the test when it does not within *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {condition}")
        time.sleep(0.005)


def accepts(path: Path) -> bool:
    """Tell whether somebody listens on the unix socket at *path* (it exists before that)."""
    folder = os.open(path.parent, os.O_PATH)  # a socket's path may have 107 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(f"/proc/self/fd/{folder}/{path.name}") == 0
    finally:
        os.close(folder)


class OpenVSwitch:
    """``ovsdb-server`` and ``ovs-vswitchd`` with sockets, database and logs in *folder*.

    The datapath is the dummy one (no privileges needed) unless *vswitchd_options*
    say something else; *wrapper* goes before each program (``ip netns exec X``).
    """

    def __init__(
        self,
        folder: Path,
        vswitchd_options: tuple[str, ...] = ("--enable-dummy=override",),
        wrapper: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self._options = vswitchd_options
        self._wrapper = wrapper
        self._server: subprocess.Popen[bytes] | None = None
        self._vswitchd: subprocess.Popen[bytes] | None = None
        folders = ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR")
        self._environment = {**os.environ, **dict.fromkeys(folders, str(folder))}

    @property
    def database(self) -> str:
        """The address of the database."""
        return f"unix:{self.folder}/db.sock"

    @property
    def management(self) -> str:
        """The address of the management socket of br-int."""
        return f"unix:{self.folder}/br-int.mgmt"

    def start(self) -> None:
        """Start both, with whatever the database holds already."""
        self.start_server_alone()
        self.start_vswitchd()

    def start_server_alone(self) -> None:
        """Start the database without a switch, made if there is none yet."""
        if not (self.folder / "conf.db").exists():
            self._call("ovsdb-tool", "create", f"{self.folder}/conf.db", str(SCHEMA))
        self.start_server()
        self.vsctl("--no-wait", "init")

    def start_server(self) -> None:
        """Start the database server and wait until it answers."""
        self._server = self._spawn("ovsdb-server", f"--remote=punix:{self.folder}/db.sock", f"{self.folder}/conf.db")
        wait_until(lambda: accepts(self.folder / "db.sock"))

    def start_vswitchd(self) -> None:
        """Start the switch; returns at once."""
        self._vswitchd = self._spawn(
            "ovs-vswitchd", *self._options, "--disable-system", f"--unixctl={self.folder}/vswitchd.ctl", self.database
        )

    def stop_vswitchd(self, *, kill: bool = False) -> None:
        """End the switch, by SIGKILL if *kill*; the database stays."""
        _end(self._vswitchd, kill=kill)
        self._vswitchd = None

    def freeze(self) -> None:
        """Stop the switch's process without ending it: it takes connections and never answers."""
        if self._vswitchd is not None:
            self._vswitchd.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen switch go on."""
        if self._vswitchd is not None:
            self._vswitchd.send_signal(signal.SIGCONT)

    def stop_server(self) -> None:
        """End the database server."""
        _end(self._server, kill=False)
        self._server = None
        (self.folder / "db.sock").unlink(missing_ok=True)

    def stop(self) -> None:
        """End both."""
        self.stop_vswitchd()
        self.stop_server()

    def vsctl(self, *arguments: str) -> str:
        """Run ``ovs-vsctl``; waits for the switch to follow unless told otherwise."""
        return self._call("ovs-vsctl", "--timeout=20", f"--db={self.database}", *arguments)

    def ofctl(self, *arguments: str, stdin: str = "") -> str:
        """Run ``ovs-ofctl`` in OpenFlow 1.4; "MGMT" stands for the bridge's socket."""
        words = [self.management if word == "MGMT" else word for word in arguments]
        return self._call("ovs-ofctl", "-O", "OpenFlow14", *words, stdin=stdin)

    def appctl(self, *arguments: str) -> str:
        """Run ``ovs-appctl`` on the switch."""
        return self._call("ovs-appctl", "-t", f"{self.folder}/vswitchd.ctl", *arguments)

    def _call(self, *argv: str, stdin: str = "") -> str:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, env=self._environment, timeout=60)
        if done.returncode:
            raise AssertionError(f"{' '.join(argv)}: {done.stderr}")
        return done.stdout

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = f"--log-file={self.folder}/{program}.log"
        return subprocess.Popen(
            (*self._wrapper, program, "-vconsole:off", log, *arguments),
            env=self._environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _end(process: subprocess.Popen[bytes] | None, *, kill: bool) -> None:
    if process is None:
        return
    if kill:
        process.kill()
    else:
        process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
