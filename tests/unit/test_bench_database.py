# SPDX-License-Identifier: Apache-2.0
"""The bare OVSDB connection of the benchmarks, on a real ``ovsdb-server``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.errors import StoreError
from bench.database import Database, Json
from tests.servers import StoreServer

SECONDS = 10.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    with StoreServer(tmp_path) as server:
        yield Path(server.address.removeprefix("unix:"))


def connect(path: Path) -> Database:
    return Database(path, "Hostplane")


def say(path: Path, port: str, *, up: bool) -> None:
    row = {"port": port, "host": "host1", "up": up}
    with connect(path) as database:
        database.transact([{"op": "insert", "table": "Port_Status", "row": row}])


def is_up(row: Json) -> bool:
    return row["up"] is True


def test_a_committed_row_is_found_again(store):
    say(store, "one", up=True)

    with connect(store) as database:
        (found,) = database.transact([{"op": "select", "table": "Port_Status", "where": [], "columns": ["port"]}])

    assert found["rows"] == [{"port": "one"}]


def test_what_the_server_refuses_is_an_error_that_says_why(store):
    say(store, "one", up=True)

    with pytest.raises(StoreError, match="constraint violation"):
        say(store, "one", up=True)


def test_rows_that_are_there_need_no_waiting(store):
    say(store, "one", up=True)

    with connect(store).watch("Port_Status", ["port", "up"]) as rows:
        rows.wait_all("port", ["one"], is_up, timeout=0.0)


def test_waiting_ends_with_the_last_row_that_is_as_wanted(store):
    say(store, "one", up=True)
    change = {"op": "update", "table": "Port_Status", "where": [["port", "==", "two"]], "row": {"up": True}}

    def later() -> None:
        say(store, "two", up=False)
        with connect(store) as database:
            database.transact([change])

    writer = threading.Thread(target=later)
    with connect(store).watch("Port_Status", ["port", "up"]) as rows:
        writer.start()
        rows.wait_all("port", ["one", "two"], is_up, SECONDS)
        writer.join()

        assert {row["port"]: row["up"] for row in rows.rows.values()} == {"one": True, "two": True}


def test_many_rows_at_once_arrive_whole(store):
    names = [f"port-{number:05}" for number in range(3000)]
    inserts = [{"op": "insert", "table": "Port_Status", "row": {"port": n, "host": "h", "up": True}} for n in names]
    with connect(store).watch("Port_Status", ["port", "up"]) as rows, connect(store) as database:
        database.transact(inserts)

        rows.wait_all("port", names, is_up, SECONDS)


def test_a_row_that_never_comes_is_an_error_that_counts_what_is_missing(store):
    with connect(store).watch("Port_Status", ["port", "up"]) as rows, pytest.raises(StoreError, match="2 rows"):
        rows.wait_all("port", ["one", "two"], is_up, timeout=0.05)
