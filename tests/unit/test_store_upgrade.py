# SPDX-License-Identifier: Apache-2.0
"""A store of before security groups, DHCP and routers: who has to convert it, and what becomes of its ports."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import refusable_idl
from agent.core.errors import Actor
from agent.core.model import HostName, PortId
from agent.store import remotes
from agent.store.embedded import StorePaths, ensure_running, stop
from agent.store.reader import SnapshotReader
from tests.servers import StoreServer

NEW_TABLES = (
    "Security_Group",
    "Security_Group_Rule",
    "Address_Group",
    "Address_Chunk",
    "Metadata_Service",
    "Router",
    "Router_Status",
    "Floating_IP",
    "Port_Forwarding",
    "Subnet_Pool",
    "Address_Scope",
)
NEW_COLUMNS = {
    "Port": ("filtered", "security_groups", "hostname", "dhcp_options", "metadata"),
    "Subnet": ("server_address", "server_allocation", "dns_nameservers", "host_routes", "subnet_pool", "address_scope"),
    "Host": ("drain",),
}
DEADLINE = 20.0


def schema_without_filters(path: Path) -> None:
    """Write schema 1.0.0: today's without what came with security groups, DHCP and routers."""
    schema = json.loads(remotes.schema_text()) | {"version": "1.0.0"}
    for table in NEW_TABLES:
        del schema["tables"][table]
    for table, columns in NEW_COLUMNS.items():
        for column in columns:
            del schema["tables"][table]["columns"][column]
    schema["tables"]["Name"]["columns"]["kind"]["type"]["key"]["enum"][1] = ["network", "subnet", "port"]
    path.write_text(json.dumps(schema))


def make_old(database: Path) -> None:
    schema = database.parent / "old-schema"
    schema_without_filters(schema)
    subprocess.run(["ovsdb-tool", "create", str(database), str(schema)], check=True)


def insert_port(address: str) -> PortId:
    """Insert network and port as a cloud of that time did; return the port's id."""
    network = {"name": "blue", "type": "local", "mtu": 1500, "admin_state_up": True}
    port = {"name": "vm1", "network": ["named-uuid", "n"], "mac_address": "fa:16:3e:00:00:01", "host": "host1"}
    operations = [
        "Hostplane",
        {"op": "insert", "table": "Network", "uuid-name": "n", "row": network},
        {"op": "insert", "table": "Port", "row": port | {"admin_state_up": True, "port_security_enabled": True}},
    ]
    done = subprocess.run(
        ["ovsdb-client", "transact", address, json.dumps(operations)], check=True, capture_output=True, text=True
    )
    return PortId(json.loads(done.stdout)[1]["uuid"][1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    make_old(tmp_path / "store.db")
    with StoreServer(tmp_path) as server:
        yield server


def follow(address: str) -> SnapshotReader:
    reader = SnapshotReader(address, remotes.schema_text(), HostName("host1"), lambda: None)
    reader.thread.start()
    return reader


def until(condition, what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_an_agent_that_comes_before_the_conversion_says_what_is_missing_and_follows_it(server, tmp_path, monkeypatch):
    monkeypatch.setattr(refusable_idl, "RETRY", 0.2)
    port = insert_port(server.address)
    reader = follow(server.address)
    try:
        until(reader.troubles, "the refusal is noticed")
        (trouble,) = reader.troubles()
        assert (trouble.object_id, trouble.field, trouble.actor) == ("host", "store", Actor.OPERATOR)
        assert "Security_Group" in trouble.text
        assert "ovsdb-client convert" in trouble.text
        assert not reader.thread.is_answering()  # so that nobody waits before working from the saved snapshot
        schema = tmp_path / "new-schema"
        schema.write_text(remotes.schema_text())
        subprocess.run(["ovsdb-client", "convert", server.address, str(schema)], check=True)
        until(lambda: reader.snapshot().in_sync, "the store is followed once it is converted")
        assert reader.troubles() == ()
        found = reader.snapshot().ports[port]
        assert (found.filtered, found.security_groups) == (False, ())
        assert not reader.snapshot().problems
    finally:
        reader.thread.stop()


def test_the_embedded_store_is_converted_and_its_ports_stay_unfiltered(tmp_path):
    paths = StorePaths(tmp_path / "state", tmp_path / "run")
    paths.database.parent.mkdir(parents=True)
    make_old(paths.database)
    try:
        address = ensure_running(paths)
        port = insert_port(address)
        reader = follow(address)
        until(lambda: port in reader.snapshot().ports, "the port is read")
        reader.thread.stop()
        assert not reader.snapshot().ports[port].filtered
    finally:
        stop(paths)
