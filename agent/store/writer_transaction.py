# SPDX-License-Identifier: Apache-2.0
"""One writing call as one OVSDB transaction, built again as often as other writers get in between.

Each call ends with a mutation that adds one to ``Global.revision``.  Two writers never
fail because of that, only because of what they both want: an index, or an object that
the other has deleted.  Then the rows are read afresh: either there is another
candidate, or the same check that a single writer would have met says what is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ovs.db import idl as ovs_idl
from ovsdbapp import exceptions
from ovsdbapp.backend.ovs_idl import command

from agent.core.errors import StoreError
from agent.store.connection import StoreBackend
from agent.store.errors import parse_refusal
from agent.store.records import Written
from agent.store.writer_session import Session
from agent.store.writer_view import View

ATTEMPT_LIMIT = 30

R = TypeVar("R")
Build = Callable[[Session], R]


class _Call(command.BaseCommand, Generic[R]):
    """The command that ovsdbapp runs on its thread; several times if the server says "try again"."""

    def __init__(self, api: StoreBackend, build: Build[R], attempt: int, rng: random.Random) -> None:
        super().__init__(api)
        self._build = build
        self._attempt = attempt
        self._rng = rng
        self._given_up = False

    def give_up(self) -> None:
        """Do not build again: nobody waits for the answer any more."""
        self._given_up = True

    def run_idl(self, txn: ovs_idl.Transaction) -> None:
        """See ``ovsdbapp.api.Command``."""
        if self._given_up:
            raise StoreError("nobody waits for this write any more")
        session = Session(self.api.tables, txn, self._attempt, self._rng)
        value = self._build(session)
        session.finish()
        self._session, self._value = session, value
        self.result = self._written(None)

    def post_commit(self, txn: ovs_idl.Transaction) -> None:
        """See ``ovsdbapp.api.Command``; not called when the transaction changed nothing."""
        self.result = self._written(txn.get_increment_new_value())

    def _written(self, revision: int | None) -> Written[R]:
        row = self._session.global_row
        present = 0 if row is None or row._data is None else row.revision
        return Written(
            result=self._value,
            generation="" if row is None else str(row.generation),
            revision=present if revision is None else revision,
            changed=revision is not None,
            networks=frozenset(self._session.touched_networks),
            ports=frozenset(self._session.touched_ports),
            hosts=frozenset(self._session.touched_hosts),
            groups=frozenset(self._session.touched_groups),
            routers=frozenset(self._session.touched_routers),
        )


def write(api: StoreBackend, address: str, build: Build[R], rng: random.Random) -> Written[R]:
    """Run *build* in a transaction and return what it did.

    *build* may run several times and must only read and write through its session.
    Raises what it raises (InputError), or StoreError naming the store's *address* when
    it does not answer in time or refuses for a reason that *build* did not foresee.
    """
    refusal = None
    for attempt in range(ATTEMPT_LIMIT):
        call: _Call[R] = _Call(api, build, attempt, rng)
        try:
            with api.create_transaction(check_error=True, log_errors=False) as transaction:
                transaction.add(call)
        except exceptions.TimeoutException:
            # What waits for the connection must not be written when it is back; what was
            # sent already may have been.
            call.give_up()
            waited = f"no answer within {api.ovsdb_connection.timeout:g} s"
            raise StoreError(f"store {address}: {waited}; whether it wrote is unknown") from None
        except RuntimeError as err:  # how ovsdbapp hands on what the server said
            refusal = parse_refusal(str(err))
            if refusal.raced:
                continue
            raise StoreError(f"store {address}: {refusal.text}") from None
        written: Written[R] = call.result
        return written
    raise StoreError(f"store {address}: gave up after {ATTEMPT_LIMIT} lost races ({refusal and refusal.text})")


def rehearse(api: StoreBackend, address: str, build: Build[R], rng: random.Random) -> R:
    """Run *build* on the rows as they are and write nothing; return what it returned."""
    with Locked(api, address):
        txn = ovs_idl.Transaction(api.idl)
        try:
            session = Session(api.tables, txn, 0, rng)
            value = build(session)
            session.finish()
            return value
        finally:
            txn.abort()


def read(api: StoreBackend, address: str, look: Callable[[View], R]) -> R:
    """Return what *look* sees in the rows; they hold still meanwhile."""
    with Locked(api, address):
        return look(View(api.tables))


class Locked:
    """Hold the replica still; give up after the connection's time-out.

    The lock is held by ovsdbapp's thread while a transaction is under way, and a store
    that hangs would keep it for ever.
    """

    def __init__(self, api: StoreBackend, address: str) -> None:
        self._api = api
        self._address = address

    def __enter__(self) -> None:
        timeout: float = self._api.ovsdb_connection.timeout
        if not self._api.lock.acquire(timeout=timeout):
            raise StoreError(f"store {self._address}: no answer within {timeout:g} s")

    def __exit__(self, *_: Any) -> None:
        self._api.lock.release()
