# SPDX-License-Identifier: Apache-2.0
"""One thread that owns an OVSDB replica: keeps it current, freezes it, writes to it.

Python's IDL is not safe to read while another thread runs it, so everything that
touches rows happens on this thread: ``on_change`` is called after each batch of
updates (to copy rows to frozen values) and transactions are built here on behalf
of other threads.  Both the store's reader and the local switch stand on it.

The inactivity probe is 60 s; after a lost connection the IDL reconnects by itself
and the replica keeps its last contents meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ovs import poller
from ovs.db import idl as ovs_idl

from agent import ovsdb_json
from agent.core.errors import StoreError
from agent.refusable_idl import RefusableIdl

ovsdb_json.install()

LOG = logging.getLogger(__name__)

PROBE_INTERVAL_MS = 60_000  # for the ``probe_interval`` of each Idl that is made
TRY_AGAIN_LIMIT = 100

Build = Callable[[ovs_idl.Transaction], None]


class _Write:
    """A transaction on its way: built anew each time the server asks to try again."""

    def __init__(self, build: Build) -> None:
        self.build = build
        self.done: Future[None] = Future()
        self.txn: ovs_idl.Transaction | None = None
        self.tries = 0
        self.abandoned = False  # nobody waits any more: do not build it again
        self.tried_at: int | None = None  # change_seqno of the replica that the last try was built on


class IdlThread:
    """Run *idl* on a thread of its own.

    *on_change* runs on that thread whenever the replica, its conditions or the
    connection changed; it must not block.  An exception in it is a bug and ends the
    process through ``threading.excepthook``.
    """

    def __init__(self, name: str, idl: ovs_idl.Idl, on_change: Callable[[], None]) -> None:
        self._idl = idl
        self._on_change = on_change
        self._writes: deque[_Write] = deque()
        self._in_flight: list[_Write] = []
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Close the connection and end the thread; pending writes fail with StoreError."""
        self._stopping = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def wake(self) -> None:
        """Make the thread look at the replica again (any thread, never blocks)."""
        # A full pipe means that a wake-up is pending already.
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"x")

    def submit(self, build: Build) -> Future[None]:
        """Queue a transaction; *build* fills it in on the IDL thread.

        *build* may run several times (the server said "try again") and must read the
        rows afresh each time.  The future ends with None once the server has
        committed, or with StoreError.
        """
        return self._queue(_Write(build)).done

    def transact(self, build: Build, timeout: float) -> None:
        """Like ``submit``, and wait up to *timeout* seconds for the commit.

        When the time is over the outcome of what was sent is unknown, but it is not
        sent again: by the time the server is back it may no longer be wanted.
        """
        write = self._queue(_Write(build))
        try:
            write.done.result(timeout)
        except TimeoutError:
            write.abandoned = True
            write.done.cancel()
            raise StoreError(f"no answer within {timeout:g} s") from None

    def _queue(self, write: _Write) -> _Write:
        if self._stopping:
            write.done.set_exception(StoreError("the connection is closed"))
        else:
            self._writes.append(write)
            self.wake()
        return write

    def is_connected(self) -> bool:
        """Tell whether the server is there and has sent its data."""
        return bool(self._idl.has_ever_connected() and self._idl._session.is_connected())

    def is_answering(self) -> bool:
        """Tell whether the server is there and may send its data, even if it has not yet."""
        return bool(self._idl._session.is_connected()) and not self.refusal()

    def _run(self) -> None:
        seen: object = None
        try:
            while not self._stopping:
                self._idl.run()
                if self._state() != seen:
                    self._on_change()
                    # As it is now: conditions that it asked for may be granted before we look again.
                    seen = self._state()
                self._advance_writes()
                self._wait()
        finally:
            self._idl.close()
            for write in [*self._in_flight, *self._writes]:
                if not write.done.done():
                    write.done.set_exception(StoreError("the connection is closed"))

    def _state(self) -> tuple[Any, ...]:
        """Return what tells that rows changed, or that conditions were asked for or came into force."""
        conditions = tuple(
            (name, table.condition_state.new is None, table.condition_state.requested is None)
            for name, table in self._idl.tables.items()
        )
        return self._idl.change_seqno, self.is_connected(), conditions, self.refusal()

    def refusal(self) -> str:
        """Return why the server does not let us follow it (any thread); "" if it has not refused."""
        return self._idl.refusal if isinstance(self._idl, RefusableIdl) else ""

    def _advance_writes(self) -> None:
        connected = self._idl.has_ever_connected()
        while self._writes and connected:
            write = self._writes.popleft()
            if write.done.set_running_or_notify_cancel():
                self._in_flight.append(write)
        for write in list(self._in_flight):
            try:
                finished = self._advance(write)
            except Exception as err:  # the builder's error belongs to who submitted it
                if write.txn is not None:
                    write.txn.abort()
                write.done.set_exception(err)
                finished = True
            if finished:
                self._in_flight.remove(write)

    def _advance(self, write: _Write) -> bool:
        """Move *write* on; return True when it has ended."""
        if write.txn is None:
            if write.abandoned:
                write.done.set_exception(StoreError("given up: no answer in time"))
                return True
            if write.tried_at == self._idl.change_seqno:
                return False  # the rows that made us lose have not arrived yet
            write.tried_at = self._idl.change_seqno
            write.txn = ovs_idl.Transaction(self._idl)
            write.tries += 1
            write.build(write.txn)
        status = write.txn.commit()
        if status == ovs_idl.Transaction.INCOMPLETE:
            return False
        if status in (ovs_idl.Transaction.TRY_AGAIN, ovs_idl.Transaction.NOT_LOCKED):
            write.txn = None
            if write.tries < TRY_AGAIN_LIMIT:
                return False
            write.done.set_exception(StoreError(f"gave up after {write.tries} conflicting writes"))
        elif status in (ovs_idl.Transaction.SUCCESS, ovs_idl.Transaction.UNCHANGED):
            write.done.set_result(None)
        else:
            write.done.set_exception(StoreError(write.txn.get_error() or f"the server refused ({status})"))
        return True

    def _wait(self) -> None:
        waiter = poller.Poller()
        if self._idl.cond_changed and not self.is_connected():
            # Idl.wait would wake at once, again and again, for conditions that it cannot send.
            self._idl._session.wait(waiter)
            self._idl._session.recv_wait(waiter)
        else:
            self._idl.wait(waiter)
        if isinstance(self._idl, RefusableIdl):
            self._idl.wait_to_retry(waiter)
        waiter.fd_wait(self._wake_read, poller.POLLIN)
        for write in self._in_flight:
            if write.txn is not None:
                write.txn.wait(waiter)
        waiter.block()
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
