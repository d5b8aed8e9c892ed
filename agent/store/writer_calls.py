# SPDX-License-Identifier: Apache-2.0
"""What the calls of a ``Writer`` are made of: one transaction each, on one connection."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import TypeVar

from agent.store import writer_kinds
from agent.store.connection import StoreBackend
from agent.store.document import F, Unset
from agent.store.records import Written
from agent.store.writer_kinds import Kind
from agent.store.writer_session import Session
from agent.store.writer_transaction import read, rehearse, write
from agent.store.writer_view import TABLES, View, name_of

R = TypeVar("R")


class Calls:
    """Reading and writing calls on one connection; usable from several threads."""

    def __init__(self, api: StoreBackend, address: str, rng: random.Random | None = None) -> None:
        self._api = api
        self._address = address
        self._rng = rng or random.Random()  # noqa: S311  # nothing here is a secret

    def write(self, build: Callable[[Session], R]) -> Written[R]:
        """Run *build* as one transaction (``agent.store.writer_transaction.write``)."""
        return write(self._api, self._address, build, self._rng)

    def rehearse(self, build: Callable[[Session], R]) -> R:
        """Run *build* and write nothing."""
        return rehearse(self._api, self._address, build, self._rng)

    def read(self, look: Callable[[View], R]) -> R:
        """Return what *look* sees in the rows; they hold still meanwhile."""
        return read(self._api, self._address, look)

    def _create(
        self,
        kind: Kind[F, R],
        name: str,
        fields: F,
        object_id: str | None,
        claim_name: bool,
    ) -> Written[R]:
        # Chosen once, not in each attempt: so an attempt whose answer was lost is recognised by it.
        chosen = uuid.uuid4()
        builds = 0

        def build(session: Session) -> R:
            nonlocal builds
            builds += 1
            done = session.row(kind.table, chosen) if builds > 1 else None
            if done is not None:
                return kind.record(session, done)
            row = writer_kinds.create(session, kind, name, fields, object_id or chosen, claim_name)
            return kind.record(session, row)

        return self.write(build)

    def _set(self, kind: Kind[F, R], ref: str, fields: F, name: str | Unset) -> Written[R]:
        def build(session: Session) -> R:
            row = session.find(kind.name, ref)
            writer_kinds.change(session, kind, row, fields, name)
            return kind.record(session, row)

        return self.write(build)

    def _delete(self, kind: Kind[F, R], ref: str) -> Written[R]:
        def build(session: Session) -> R:
            row = session.find(kind.name, ref)
            record = kind.record(session, row)
            writer_kinds.delete(session, kind, row)
            return record

        return self.write(build)

    def _list(self, kind: str, record: Callable[[View, object], R]) -> list[R]:
        def look(view: View) -> list[R]:
            rows = sorted(view.rows(TABLES[kind]), key=lambda row: (name_of(row), str(row.uuid)))
            return [record(view, row) for row in rows]

        return self.read(look)
