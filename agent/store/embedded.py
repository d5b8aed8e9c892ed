# SPDX-License-Identifier: Apache-2.0
"""The embedded store: an ``ovsdb-server`` of our own on a local file, for those without a cluster.

It detaches into a session of its own and outlives whoever started it: a later agent
finds it by its socket and uses it.  With systemd it is a unit of its own instead (else
it would die with the agent's cgroup), and what is here only finds it running.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.command import CommandRunner, Runner
from agent.core.errors import CommandError, StoreError
from agent.store import remotes
from agent.store.connection_version import is_older
from agent.store.remotes import TlsFiles

SCHEMA = "Hostplane"
ASK_TIMEOUT = 5.0  # seconds that a running server may take to answer
STOP_TIMEOUT = 10.0  # seconds that it may take to end


@dataclass(frozen=True, slots=True)
class StorePaths:
    """Where the embedded store lives: its database in *state_dir*, sockets and pid file in *run_dir*."""

    state_dir: Path
    run_dir: Path

    @property
    def database(self) -> Path:
        """The database file."""
        return self.state_dir / "store.db"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.state_dir / "store.log"

    @property
    def socket(self) -> Path:
        """The socket on which it serves."""
        return self.run_dir / "store.sock"

    @property
    def pidfile(self) -> Path:
        """The server's pid, written by itself."""
        return self.run_dir / "store.pid"

    @property
    def address(self) -> str:
        """The address for ``[store] connection``."""
        return f"unix:{self.socket}"


def ensure_running(
    paths: StorePaths, listen: Sequence[str] = (), tls: TlsFiles | None = None, run: Runner | None = None
) -> str:
    """Return the address of the embedded store, after starting it if it does not run.

    A database that is missing is made; one whose schema is older than ours is
    converted while it serves.  *listen* are further places to listen on (``ptcp:``,
    ``pssl:``), with *tls* for the latter; they count only when the server is started.

    Raises StoreError: it cannot be started, a server is there that does not answer,
    or its schema is of another major version.
    """
    run = run or CommandRunner()
    try:
        with _lock(paths):
            version = _ask_version(paths, run)
            if version is None:
                _start(paths, listen, tls, run)
                version = _ask_version(paths, run)
            if version is None:
                raise StoreError(f"store {paths.address}: it was started but does not answer: see {paths.log}")
            if is_older(paths.address, version):
                _convert(paths, run)
    except CommandError as err:
        raise StoreError(f"store {paths.address}: {err}") from None
    except OSError as err:
        raise StoreError(f"store {paths.address}: {err.filename}: {err.strerror}") from None
    return paths.address


def stop(paths: StorePaths) -> bool:
    """End the embedded store; return False if it did not run.

    Raises StoreError if it does not end in time.  A process that is not ours is left
    alone, whatever the pid file says.
    """
    with _our_process(paths) as process:
        if process is None:
            return False
        signal.pidfd_send_signal(process, signal.SIGTERM)
        ended, _, _ = select.select([process], [], [], STOP_TIMEOUT)
        if not ended:
            raise StoreError(f"store {paths.address}: it does not end within {STOP_TIMEOUT:g} s")
    return True


@contextlib.contextmanager
def _lock(paths: StorePaths) -> Iterator[None]:
    """Keep two starters apart; the lock goes with the process."""
    for folder in (paths.state_dir, paths.run_dir):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (paths.run_dir / "store.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ask_version(paths: StorePaths, run: Runner) -> str | None:
    """Return the schema's version of the server that runs, None if none does."""
    argv = ("ovsdb-client", f"--timeout={ASK_TIMEOUT:.0f}", "get-schema-version", paths.address, SCHEMA)
    try:
        return run(argv, env=_environment(paths), timeout=ASK_TIMEOUT + 1).strip()
    except CommandError as err:
        with _our_process(paths) as process:
            if process is not None:
                raise StoreError(f"store {paths.address}: its server runs but does not answer: {err.stderr}") from None
        return None


def _start(paths: StorePaths, listen: Sequence[str], tls: TlsFiles | None, run: Runner) -> None:
    prepare(paths, run)
    argv = [
        "ovsdb-server",
        # Returns once it serves.  Its own fork and session: nothing of ours is inherited.
        "--detach",
        "--no-chdir",
        f"--pidfile={paths.pidfile}",
        f"--unixctl={paths.run_dir / 'store.ctl'}",
        f"--log-file={paths.log}",
        "--verbose=console:off",
        "--verbose=syslog:off",
        f"--remote=punix:{paths.socket}",
        *(f"--remote={remote}" for remote in listen),
    ]
    if tls is not None:
        argv += [f"--private-key={tls.private_key}", f"--certificate={tls.certificate}", f"--ca-cert={tls.ca_cert}"]
    run((*argv, str(paths.database)), env=_environment(paths))


def prepare(paths: StorePaths, run: Runner) -> None:
    """Make the database if it is not there, with its generation in it.

    It gets its name only when it is whole.  Raises CommandError.
    """
    if paths.database.exists():
        return
    new = paths.database.with_suffix(".new")
    new.unlink(missing_ok=True)
    row = {"generation": ["uuid", str(uuid.uuid4())], "revision": 0}
    insert = json.dumps([SCHEMA, {"op": "insert", "table": "Global", "row": row}])
    run(("ovsdb-tool", "create", str(new), _schema_file(paths)), env=_environment(paths))
    run(("ovsdb-tool", "transact", str(new), insert), env=_environment(paths))
    new.rename(paths.database)
    (new.parent / f".{new.name}.~lock~").unlink(missing_ok=True)


def _convert(paths: StorePaths, run: Runner) -> None:
    run(("ovsdb-client", "convert", paths.address, _schema_file(paths)), env=_environment(paths))


def _schema_file(paths: StorePaths) -> str:
    """Write our schema where the tools can read it, whatever we are installed in."""
    file = paths.run_dir / "store.ovsschema"
    file.write_text(remotes.schema_text(), encoding="utf-8")
    return str(file)


def _environment(paths: StorePaths) -> dict[str, str]:
    """Return what keeps the OVS programs out of the host's own folders."""
    return {
        "OVS_RUNDIR": str(paths.run_dir),
        "OVS_DBDIR": str(paths.state_dir),
        "OVS_LOGDIR": str(paths.state_dir),
        "OVS_SYSCONFDIR": str(paths.state_dir),
    }


@contextlib.contextmanager
def _our_process(paths: StorePaths) -> Iterator[int | None]:
    """Give a descriptor of the server that runs on our database, None if there is none.

    The descriptor stands for that very process, also when its pid is used again.
    """
    try:
        pid = int(paths.pidfile.read_text())
        process = os.pidfd_open(pid)
    except (OSError, ValueError):
        yield None
        return
    try:
        yield process if _serves(pid, paths.database) else None
    finally:
        os.close(process)


def _serves(pid: int, database: Path) -> bool:
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return Path(os.fsdecode(argv[0])).name == "ovsdb-server" and os.fsencode(database) in argv
