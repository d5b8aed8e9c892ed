# SPDX-License-Identifier: Apache-2.0
"""Connections to the store: addresses, TLS, the schema's version, and a full replica for writers.

Several addresses are the members of one cluster; any of them will do, relays too.
A store that is away is a ``StoreError`` within the time-out, never a traceback.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from ovs import jsonrpc, poller, stream, timeval
from ovs.db import idl as ovs_idl
from ovsdbapp.backend import ovs_idl as backend
from ovsdbapp.backend.ovs_idl import connection as ovsdbapp_connection

from agent.core.errors import StoreError
from agent.ovsdb import PROBE_INTERVAL_MS
from agent.store.connection_version import check_version
from agent.store.errors import unreachable
from agent.store.remotes import TlsFiles, parse_remotes, schema_helper, use_tls

__all__ = ["DEFAULT_TIMEOUT", "StoreBackend", "TlsFiles", "connect"]

SCHEMA_NAME = "Hostplane"
DEFAULT_TIMEOUT = 10.0  # seconds
RESTART_SECONDS = 1.0


def fetch_version(remote: str, timeout: float = DEFAULT_TIMEOUT) -> str:
    """Return the version of the schema that the server at *remote* holds; raise StoreError if it has none."""
    request = jsonrpc.Message.create_request("get_schema", [SCHEMA_NAME])
    reply = _ask(remote, request, timeout)
    if reply.error is not None:
        raise StoreError(f"store {remote}: it has no database {SCHEMA_NAME} (is this address that of another service?)")
    schema: dict[str, Any] = reply.result
    return str(schema.get("version", ""))


def _ask(remote: str, request: jsonrpc.Message, timeout: float) -> jsonrpc.Message:
    deadline = timeval.msec() + int(timeout * 1000)
    try:
        error, connected = stream.Stream.open_block(stream.Stream.open(remote), int(timeout * 1000))
    except OSError as err:  # TLS files that do not fit
        raise unreachable(remote, err.strerror or str(err)) from None
    if error:
        raise unreachable(remote, os.strerror(error))
    rpc = jsonrpc.Connection(connected)
    try:
        error = rpc.send(request)
        while not error:
            rpc.run()
            error, message = rpc.recv()
            if error == errno.EAGAIN:
                error = 0 if timeval.msec() < deadline else errno.ETIMEDOUT
                waiter = poller.Poller()
                rpc.wait(waiter)
                rpc.recv_wait(waiter)
                waiter.timer_wait_until(deadline)
                if not error:
                    waiter.block()
            elif not error and message.id == request.id:
                return message
        raise unreachable(remote, "the connection was closed" if error < 0 else os.strerror(error))
    finally:
        rpc.close()


def check_store(remotes: Sequence[str], timeout: float = DEFAULT_TIMEOUT) -> None:
    """Return once one of *remotes* has answered with a schema that we understand.

    A server that is being restarted is given a second.  Raises StoreError: the
    version's if one answered with another version, else why none could be reached.
    """
    give_up = time.monotonic() + min(timeout, RESTART_SECONDS)
    while True:
        errors: list[StoreError] = []
        for remote in remotes:
            try:
                found = fetch_version(remote, timeout / len(remotes))
            except StoreError as err:
                errors.append(err)
                continue
            return check_version(remote, found)
        if time.monotonic() >= give_up:
            raise StoreError("; ".join(str(err) for err in errors))
        time.sleep(RESTART_SECONDS / 20)


class Replica(ovs_idl.Idl):
    """A replica that tells of changes: ``changed`` is set whenever a row or the connection did.

    Whoever waits clears ``changed`` first, looks at the rows, and then waits.
    """

    def __init__(self, remotes: Sequence[str]) -> None:
        helper = schema_helper()
        helper.register_all()
        # A follower or relay will do: conflicts are found by the server, not by reading.
        super().__init__(",".join(remotes), helper, probe_interval=PROBE_INTERVAL_MS, leader_only=False)
        self.changed = threading.Event()

    def notify(self, *_: object) -> None:
        """See ``Idl.notify``: which row it was is of no interest, the waiter looks at all that it needs."""
        self.changed.set()


class _Connection(ovsdbapp_connection.Connection):
    def stop(self, timeout: float | None = None) -> bool:
        """End the thread; unlike the base class, do not wait for a place in its queue."""
        if self.thread is None:
            return True
        self.is_running = False
        self.txns.alert_notify()
        self.thread.join(timeout)
        return not self.thread.is_alive()


class StoreBackend(backend.Backend):
    """A running replica with ovsdbapp's commands and transactions on it."""

    schema = SCHEMA_NAME

    def __init__(self, remotes: Sequence[str], timeout: float) -> None:
        self.replica = Replica(remotes)
        super().__init__(_Connection(self.replica, timeout), start=False, auto_index=False)

    @property
    def ovsdb_connection(self) -> _Connection:
        """The connection of this object alone; the base class would share the first one with all."""
        return self._own_connection

    @ovsdb_connection.setter
    def ovsdb_connection(self, connection: _Connection) -> None:
        self._own_connection = connection

    @property
    def lock(self) -> threading.RLock:
        """The lock under which the rows may be read."""
        lock: threading.RLock = self.ovsdb_connection.lock
        return lock


def connect(remotes: Sequence[str], tls: TlsFiles | None = None, timeout: float = DEFAULT_TIMEOUT) -> StoreBackend:
    """Return a running replica of the store at *remotes* (addresses of one cluster) with its data in it.

    *timeout* in seconds holds for connecting and later for each transaction.  Raises
    ConfigError for a wrong address, StoreError when the store is away or has a
    schema of another version.
    """
    remotes = parse_remotes(remotes)
    use_tls(remotes, tls)
    check_store(remotes, timeout)
    api = StoreBackend(remotes, timeout)
    try:
        api.ovsdb_connection.start()
    except Exception as err:  # ovsdbapp's exceptions have no common base of use here
        api.replica.close()
        raise unreachable(",".join(remotes), f"no data within {timeout:g} s") from err
    return api
