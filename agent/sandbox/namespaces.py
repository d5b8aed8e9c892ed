# SPDX-License-Identifier: Apache-2.0
"""The namespaces of simulated hosts: made, entered, and emptied again.

A host is a network namespace and a mount namespace.  Both are kept by a mount on a
file in the sandbox's folder, not by a process: so nothing has to stay alive for
them, and after any crash the files still say, without doubt, which namespaces are
ours.  A sandbox is emptied by ending every process that is in one of them; a
process that we did not start cannot be there.

In the mount namespace ``/run/netns`` is a folder of the sandbox, so that a host's
own ``ip netns`` shows its instances and nobody else's, and ``/sys`` shows the
host's own devices.  What is written below ``/etc`` and ``/var/lib`` stays in the
sandbox: DHCP clients of instances write name servers and leases there.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from agent.core.errors import ApplyError, CommandError
from agent.sandbox.layout import SandboxPaths
from agent.sandbox.process import reap
from agent.sandbox.tools import run

NsIdentity = tuple[int, int]  # device and inode of a namespace, as stat(2) gives them

SWEEP_TIMEOUT = 15.0  # seconds for all processes of a sandbox to end

# Runs inside the new namespaces.  $1 is what becomes /run/netns, $2 is for what is written
# to folders of the machine.  It ends with its standard input: when the pins are mounted,
# or when we have died before that.
_SET_UP = """
mkdir -p /run/netns
mount --bind "$1" /run/netns
mount -t sysfs sysfs /sys
for folder in /etc /var/lib; do
    mount -t overlay -o "lowerdir=$folder,upperdir=$2$folder,workdir=$2/work$folder" overlay "$folder"
done
ip link set lo up
echo ready
read -r _ || exit 0
"""
# The kernel makes no network namespace while it clears away others, which may take seconds.
CREATE_TIMEOUT = 60.0


class Namespaces:
    """The namespaces of one sandbox, by owner: a host's name, or the underlay."""

    def __init__(self, paths: SandboxPaths) -> None:
        self._paths = paths

    def prepare(self) -> None:
        """Make the folder of the pins: a mount of its own, as a mount namespace cannot be pinned on a shared one."""
        self._paths.pins.mkdir()
        run(["mount", "-t", "tmpfs", "-o", "mode=700,size=64k", f"hpsb-{self._paths.name}", str(self._paths.pins)])
        run(["mount", "--make-private", str(self._paths.pins)])

    def create(self, owner: str, netns_folder: Path) -> None:
        """Make the network and mount namespace of *owner*, with loopback up."""
        netns_folder.mkdir(parents=True, exist_ok=True)
        written = netns_folder.parent / "written"
        # Not by the script: who is interrupted before he knows its process takes the folders away under it, and it
        # must not make them anew.
        for folder in ("etc", "var/lib", "work/etc", "work/var/lib"):
            (written / folder).mkdir(parents=True, exist_ok=True)
        argv = ["unshare", "--net", "--mount", "--propagation", "private"]
        argv += ["sh", "-ec", _SET_UP, "sh", str(netns_folder), str(written)]
        pipe = subprocess.PIPE
        # Not unshare's own way to pin them: its helper waits for ever when unshare is killed.
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as process:
            try:
                self._pin(owner, process)
            except BaseException:
                process.kill()
                raise

    def _pin(self, owner: str, process: subprocess.Popen[bytes]) -> None:
        """Wait until *process* has set its namespaces up, and mount them on the pins."""
        if process.stdout is None or not select.select([process.stdout], [], [], CREATE_TIMEOUT)[0]:
            raise ApplyError(f"{owner}: its namespaces are not made after {CREATE_TIMEOUT:g} s")
        if (said := process.stdout.readline()) != b"ready\n":
            rest = (said + process.stdout.read()).decode(errors="replace").strip()
            raise ApplyError(f"{owner}: its namespaces cannot be made: {rest}")
        for kind, pin in zip(("net", "mnt"), self._pins(owner), strict=True):
            pin.touch()
            run(["mount", "--bind", f"/proc/{process.pid}/ns/{kind}", str(pin)])

    def enter(self, owner: str, *, directory: str = "/") -> list[str]:
        """Return the words that, put before a command, run it in the namespaces of *owner*.

        No process is added: ``nsenter`` executes the command in its own place.
        """
        net, mnt = self._pins(owner)
        return ["nsenter", f"--mount={mnt}", f"--net={net}", f"--wdns={directory}", "--"]

    def network_pin(self, owner: str) -> Path:
        """Return the file that keeps the network namespace of *owner*."""
        return self._pins(owner)[0]

    def sweep(self, owner: str | None = None) -> None:
        """End every process in the namespaces of this sandbox, or of *owner* only; ApplyError when one stays."""
        deadline = time.monotonic() + SWEEP_TIMEOUT
        ours = self._identities(owner)
        while victims := _processes_in(ours):
            if time.monotonic() > deadline:
                raise ApplyError(f"sandbox {self._paths.name}: processes {sorted(victims)} do not end")
            for pid in victims:
                _kill(pid, ours)
            time.sleep(0.005)
            reap()

    def remove(self) -> None:
        """Let go of all namespaces and of the pins' folder; harmless when they are gone."""
        pins = self._paths.pins
        if pins.is_dir():
            for pin in pins.iterdir():
                _unmount(pin)
                pin.unlink()  # also ends copies of the mount in other mount namespaces
        _unmount(pins)
        with contextlib.suppress(FileNotFoundError):
            pins.rmdir()

    def contains_us(self, processes: Iterable[int]) -> bool:
        """Tell whether the calling process is in one of the namespaces, or in one of those that *processes* are in.

        From inside of a host not all pins are visible, but the processes are.
        """
        theirs = (_identity(f"/proc/{pid}/ns/{kind}") for pid in processes for kind in ("net", "mnt"))
        return _is_in(os.getpid(), self._identities().union(identity for identity in theirs if identity is not None))

    def _pins(self, owner: str) -> tuple[Path, Path]:
        return self._paths.pins / f"{owner}.net", self._paths.pins / f"{owner}.mnt"

    def _identities(self, owner: str | None = None) -> frozenset[NsIdentity]:
        """Return the identities of all namespaces of the sandbox, or of *owner*, those of instances too."""
        if not self._paths.pins.is_dir():
            return frozenset()
        namespace_device = Path("/proc/self/ns/net").stat().st_dev
        found = set()
        for pin in self._paths.pins.iterdir() if owner is None else self._pins(owner):
            identity = _identity(pin)
            if identity is None or identity[0] != namespace_device:
                continue  # a file that was made but not mounted on yet
            found.add(identity)
            if pin.suffix == ".mnt":
                found.update(i for i in self._instances(pin.stem) if i[0] == namespace_device)
        return frozenset(found)

    def _instances(self, owner: str) -> Iterable[NsIdentity]:
        """Return the identities of the namespaces in a host's /run/netns, seen from inside the host."""
        command = "stat -L -c %d:%i /run/netns/* 2>/dev/null || true"
        try:
            listing = run([*self.enter(owner), "sh", "-c", command])
        except CommandError:  # only half made: then there are no instances either
            return
        for line in listing.split():
            device, inode = line.split(":")
            yield int(device), int(inode)


def join_network(path: str) -> list[str]:
    """Return the words that, put before a command, run it in the network namespace at *path*."""
    return ["nsenter", f"--net={path}", "--"]


def _unmount(path: Path) -> None:
    # Not mounted, or gone, is what we want; whatever else is wrong shows when the file is removed.
    with contextlib.suppress(CommandError):
        run(["umount", "--lazy", "--no-mtab", str(path)])


def _identity(path: Path | str) -> NsIdentity | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - called thousands of times
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_in(pid: int, namespaces: frozenset[NsIdentity]) -> bool:
    return _identity(f"/proc/{pid}/ns/net") in namespaces or _identity(f"/proc/{pid}/ns/mnt") in namespaces


def _processes_in(namespaces: frozenset[NsIdentity]) -> list[int]:
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    return [pid for pid in pids if _is_in(pid, namespaces)]


def _kill(pid: int, namespaces: frozenset[NsIdentity]) -> None:
    """Kill *pid* if it is (still) in one of *namespaces*: the pidfd holds it while we look."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if _is_in(pid, namespaces):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
