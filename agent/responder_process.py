# SPDX-License-Identifier: Apache-2.0
"""Starting a responder, and finding one that an earlier agent has started.

It gets a session of its own and inherits nothing but the socket that it listens on, so
that it outlives whoever started it; that is why it is not started through
``agent.command``, whose programs end before the daemon goes on.  With systemd it is a
unit, and nothing here is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from agent.core.errors import AgentError, ConfigError
from agent.responder.protocol import SOCKET_NAME
from agent.responder_client import ResponderAwayError

MODULE: Final = "agent.responder"
BACKLOG = 16
LARGEST_LOG = 1 << 20  # octets that a log may have when a responder is started
KILL_SECONDS = 5.0  # that a killed process may take to vanish
_TAIL = 4096
_NOT_ITS = frozenset(  # what a service manager says to us
    ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
)


@dataclass(frozen=True, slots=True)
class ResponderPaths:
    """Where responders are found: sockets and data in *run_dir*, the log in *state_dir*."""

    run_dir: Path
    state_dir: Path

    @property
    def socket(self) -> Path:
        """Where the responder listens that is in force."""
        return self.run_dir / SOCKET_NAME

    @property
    def successor(self) -> Path:
        """Where one listens that is to take over from it."""
        return self.run_dir / f"next-{SOCKET_NAME}"

    @property
    def log(self) -> Path:
        """What responders say."""
        return self.state_dir / "responder.log"

    @property
    def data(self) -> Path:
        """The folder in which a responder keeps what it knows: not on a disk, there are secrets in it."""
        return self.run_dir / "responder"

    @property
    def pidfile(self) -> Path:
        """Which process was started last, and when the kernel says that it began."""
        return self.run_dir / "responder.pid"


class Child:
    """A responder that this process has started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def why_ended(self, patience: float = 0.0) -> str:
        """Return how it has ended and what it said last, "" if it runs on for *patience* seconds."""
        try:
            code = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            return ""
        how = f"exit status {code}" if code >= 0 else f"signal {-code}"
        return f"it ended with {how}: {last_line(self._log) or 'without a word'}; see {self._log}"

    def let_go(self) -> None:
        """Have it live on when we end, without a warning."""
        self._process.returncode = self._process.poll() or 0


def launch(paths: ResponderPaths, user: str, at: Path) -> Child:
    """Start a responder that becomes *user* and listens at *at*; what listened there before is cut off.

    Connections wait until it has begun to serve.  Raises ConfigError: there is no such
    user; AgentError: it cannot be started.
    """
    if os.geteuid() == 0:
        _check_user(user)
    argv = [sys.executable, "-m", MODULE, "--state-dir", str(paths.data)]
    argv += ["--user", user] if os.geteuid() == 0 else []
    # From wherever we are imported it is, too; and no folder is held.
    here = str(Path(__file__).resolve().parents[1])
    search = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_ITS}
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(search))
    try:
        with _listen(at) as listening, _open_log(paths.log) as log:
            process = subprocess.Popen(
                [*argv, "--listen-fd", str(listening.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment,
                pass_fds=(listening.fileno(),),
                start_new_session=True,
            )
    except OSError as err:
        raise AgentError(f"responder: it cannot be started: {err.filename or at}: {err.strerror or err}") from None
    with contextlib.suppress(OSError):
        paths.pidfile.write_text(f"{process.pid} {_began(process.pid)}\n")
    return Child(process, paths.log)


def lock(paths: ResponderPaths) -> int:
    """Return a descriptor that, while it is open, keeps other agents from starting responders here.

    Raises ResponderAwayError: another agent has it.
    """
    try:
        number = os.open(paths.run_dir / "responder.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(number)
            raise
    except BlockingIOError:
        raise ResponderAwayError("the responder is another agent's, which has not ended yet") from None
    except OSError as err:
        raise AgentError(f"responder: {err.filename}: {err.strerror}") from None
    return number


def kill_last(paths: ResponderPaths) -> None:
    """Kill the responder that was started last, if it still runs: it does not answer."""
    try:
        pid, began = (int(word) for word in paths.pidfile.read_text().split())
    except (OSError, ValueError):
        return
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            if _began(pid) == began:  # else the number is another's by now
                kill(process)
        finally:
            os.close(process)


def kill(process: int) -> None:
    """Kill the process that descriptor *process* stands for, and wait for its end."""
    with contextlib.suppress(OSError):  # it has ended
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [], KILL_SECONDS)


def last_line(log: Path) -> str:
    """Return the last line of *log*, "" where there is none."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _TAIL, 0))
        lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def _check_user(user: str) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(
            f"the user {user} does not exist: make it (systemd-sysusers with systemd/sysusers.d/hostplane.conf, or "
            f"adduser --system {user}), or name another one by [responder] user"
        ) from None


def _listen(at: Path) -> socket.socket:
    """Listen at *at*, for root alone; the name appears when it does."""
    new = at.with_name(f".{at.name}.{os.getpid()}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Through the folder's descriptor: a socket's path may have 107 bytes only.
        folder = os.open(at.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            new.unlink(missing_ok=True)
            listening.bind(f"/proc/self/fd/{folder}/{new.name}")
        finally:
            os.close(folder)
        new.chmod(0o600)
        listening.listen(BACKLOG)
        new.replace(at)
    except OSError:
        listening.close()
        raise
    return listening


def _open_log(log: Path) -> BinaryIO:
    with contextlib.suppress(OSError):
        if log.stat().st_size > LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640), "wb")


def _began(pid: int) -> int:
    """Return when a process began, in the kernel's ticks (field 22 of proc_pid_stat(5)); 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])
