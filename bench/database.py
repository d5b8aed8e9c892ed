# SPDX-License-Identifier: Apache-2.0
"""A bare OVSDB connection (RFC 7047) for measuring: nothing between the clock and the socket.

The IDL would do, but its own cost (a replica, parsing in Python) would be part of
what is measured, once beside the agent's and once in the floor.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

from agent.core.errors import StoreError

Json: TypeAlias = dict[str, Any]

ANSWER_SECONDS = 30.0


class Database:
    """One connection to the server at *path*, for one database."""

    def __init__(self, path: Path, database: str) -> None:
        self._database = database
        self._path = path
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._last_id = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def transact(self, operations: Sequence[Json]) -> list[Json]:
        """Commit *operations* and return their results; StoreError if the server refuses."""
        results: list[Json] = self._call("transact", [self._database, *operations])
        wrong = [result for result in results if result and result.get("error")]
        if wrong:
            raise StoreError(f"{self._path}: {wrong[0]['error']}: {wrong[0].get('details', '')}")
        return results

    def watch(self, table: str, columns: Sequence[str]) -> Watch:
        """Follow *columns* of all rows of *table*; the connection is the watch's from now on."""
        initial = self._call("monitor", [self._database, None, {table: {"columns": list(columns)}}])
        return Watch(self, table, initial)

    def receive(self, deadline: float) -> Json:
        """Return the next message that is not an echo; StoreError after *deadline* (monotonic seconds)."""
        while True:
            message = self._decode()
            if message is None:
                self._read(deadline)
            elif message.get("method") == "echo":
                self._send({"id": message["id"], "result": message["params"], "error": None})
            else:
                return message

    def _call(self, method: str, params: Sequence[object]) -> Any:
        self._last_id += 1
        self._send({"method": method, "params": params, "id": self._last_id})
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            message = self.receive(deadline)
            if message.get("id") == self._last_id and "method" not in message:
                break
        if message.get("error"):
            raise StoreError(f"{self._path}: {message['error']}")
        return message["result"]

    def _send(self, message: Json) -> None:
        self._socket.sendall(json.dumps(message).encode())

    def _read(self, deadline: float) -> None:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = self._socket.recv(1 << 20)
        except TimeoutError:
            raise StoreError(f"{self._path}: nothing came in time") from None
        if not data:
            raise StoreError(f"{self._path}: the server has closed the connection")
        self._text += data.decode()

    def _decode(self) -> Json | None:
        """Take one message from what has been read; None if there is no whole one."""
        if not self._text.rstrip().endswith("}"):
            return None  # each message is an object: do not try to parse half of one
        try:
            message, end = self._decoder.raw_decode(self._text)
        except ValueError:
            return None
        self._text = self._text[end:].lstrip()
        result: Json = message
        return result


class Watch:
    """The rows of one table by uuid, as they change."""

    def __init__(self, connection: Database, table: str, initial: Json) -> None:
        self._connection = connection
        self._table = table
        self.rows: dict[str, Json] = {}
        self._take(initial)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.__exit__(kind, error, trace)

    def wait(self, done: Callable[[Json], bool], timeout: float) -> float:
        """Wait until some row is *done*; otherwise as ``wait_all``."""
        return self._wait({""}, lambda _: "", done, timeout)

    def wait_all(self, column: str, wanted: Iterable[str], done: Callable[[Json], bool], timeout: float) -> float:
        """Wait until there is a row that is *done* for each value of *column* in *wanted*.

        Returns the monotonic time of the last of them.  StoreError after *timeout* seconds.
        """
        return self._wait(set(wanted), lambda row: str(row[column]), done, timeout)

    def _wait(
        self, pending: set[str], name: Callable[[Json], str], done: Callable[[Json], bool], timeout: float
    ) -> float:
        pending -= {name(row) for row in self.rows.values() if name(row) in pending and done(row)}
        now = time.monotonic()
        deadline = now + timeout
        while pending:
            try:
                message = self._connection.receive(deadline)
            except StoreError as err:
                raise StoreError(
                    f"{err}: {len(pending)} rows of {self._table} are missing after {timeout:g} s"
                ) from err
            now = time.monotonic()
            if message.get("method") == "update":
                changed = self._take(message["params"][1])
                pending -= {name(row) for row in changed if name(row) in pending and done(row)}
        return now

    def _take(self, updates: Mapping[str, Mapping[str, Json]]) -> list[Json]:
        """Note what changed; return the rows that are new or different."""
        changed = []
        for uuid, update in updates.get(self._table, {}).items():
            if "new" in update:
                self.rows[uuid] = update["new"]
                changed.append(update["new"])
            else:
                self.rows.pop(uuid, None)
        return changed
