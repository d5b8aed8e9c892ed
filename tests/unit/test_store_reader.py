# SPDX-License-Identifier: Apache-2.0
"""The reader against a real ovsdb-server: what it publishes is this host's part, whole and at one revision."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.errors import Actor
from agent.core.model import HostName, PortId
from agent.core.report import PortState
from agent.store.document import HostFields, NetworkFields, PortFields, SubnetFields
from agent.store.status_writer import StatusWriter
from agent.store.writer import Writer
from tests.fakes.openvswitch import wait_until
from tests.followed import DEADLINE, Followed
from tests.servers import StoreServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as running:
        yield running


@pytest.fixture
def writer(server: StoreServer) -> Iterator[Writer]:
    with Writer.connect([server.address]) as connected:
        yield connected


@pytest.fixture
def follow(server: StoreServer) -> Iterator[Callable[[str], Followed]]:
    started: list[Followed] = []

    def start(host: str) -> Followed:
        started.append(Followed(server.address, host))
        return started[-1]

    yield start
    for following in started:
        following.stop()
        for snapshot in following.published:
            whole = all(port.network in snapshot.networks for port in snapshot.ports.values())
            assert whole or snapshot.problems, "published too early"


def two_networks(writer: Writer) -> None:
    for name in ("blue", "red"):
        writer.create_network(name, NetworkFields(type="vxlan"))
        writer.create_subnet(f"{name}4", SubnetFields(network=name, cidr="10.0.0.0/24"))


def port(writer: Writer, name: str, network: str, host: str) -> int:
    return writer.create_port(name, PortFields(network=network, host=host)).revision


def test_an_empty_store_is_in_sync_with_nothing_in_it(follow):
    snapshot = follow("host1").until(lambda s: True)
    assert (snapshot.revision, dict(snapshot.ports), dict(snapshot.networks)) == (0, {}, {})


def test_a_host_gets_its_ports_and_all_that_they_need_and_nothing_else(writer, follow):
    two_networks(writer)
    port(writer, "a1", "blue", "host1")
    port(writer, "a2", "blue", "host2")
    revision = port(writer, "b2", "red", "host2")
    snapshot = follow("host1").until(lambda s: s.revision == revision)
    assert {p.name for p in snapshot.ports.values()} == {"a1"}
    (network,) = snapshot.networks.values()
    assert network.name == "blue"
    assert {e.host for e in snapshot.endpoints[network.id].values()} == {"host1", "host2"}
    assert [s.name for s in snapshot.subnets[network.id]] == ["blue4"]
    assert set(snapshot.endpoints) == {network.id}


def test_the_network_of_a_first_port_comes_with_it_in_one_snapshot(writer, follow):
    two_networks(writer)
    port(writer, "b2", "red", "host2")
    following = follow("host1")
    following.until(lambda s: True)
    port(writer, "b1", "red", "host1")
    snapshot = following.until(lambda s: s.ports)
    (network,) = snapshot.networks.values()
    assert len(snapshot.endpoints[network.id]) == 2


def test_what_did_not_change_is_the_same_object(writer, follow):
    two_networks(writer)
    port(writer, "a1", "blue", "host1")
    revision = port(writer, "a2", "blue", "host1")
    following = follow("host1")
    before = following.until(lambda s: s.revision == revision)
    revision = writer.set_port("a2", PortFields(admin_state_up=False)).revision
    after = following.until(lambda s: s.revision == revision)
    assert after.networks is before.networks
    assert after.subnets is before.subnets
    assert after.endpoints is before.endpoints
    by_name = {p.name: p for p in after.ports.values()}
    assert by_name["a1"] is next(p for p in before.ports.values() if p.name == "a1")
    assert by_name["a2"].admin_state_up is False


def test_a_revision_that_concerns_others_changes_only_the_number(writer, follow):
    two_networks(writer)
    first = port(writer, "a1", "blue", "host1")
    following = follow("host1")
    before = following.until(lambda s: s.revision == first)
    revision = port(writer, "b2", "red", "host2")
    after = following.until(lambda s: s.revision == revision)
    assert replace(after, revision=first) == before
    assert after.ports is before.ports


def test_a_port_that_moves_away_is_gone_and_its_endpoint_goes_with_it(writer, follow):
    two_networks(writer)
    port(writer, "a1", "blue", "host1")
    revision = port(writer, "a2", "blue", "host1")
    following = follow("host1")
    following.until(lambda s: s.revision == revision)
    revision = writer.set_port("a2", PortFields(host="host2")).revision
    snapshot = following.until(lambda s: s.revision == revision)
    assert {p.name for p in snapshot.ports.values()} == {"a1"}
    (network,) = snapshot.networks
    assert sorted(e.host for e in snapshot.endpoints[network].values()) == ["host1", "host2"]
    revision = writer.delete_port("a1").revision
    snapshot = following.until(lambda s: s.revision == revision)
    assert (dict(snapshot.ports), dict(snapshot.networks), dict(snapshot.endpoints)) == ({}, {}, {})


def transact(server: StoreServer, *operations: object) -> None:
    request = json.dumps(["Hostplane", *operations])
    reply = subprocess.run(
        ["ovsdb-client", "transact", server.address, request], check=True, capture_output=True, text=True
    ).stdout
    assert "error" not in reply, reply


def test_a_row_that_makes_no_sense_is_a_problem_of_that_object_alone(server, writer, follow):
    two_networks(writer)
    good = port(writer, "a1", "blue", "host1")
    bad = writer.create_port("a2", PortFields(network="blue", host="host1")).result
    following = follow("host1")
    following.until(lambda s: s.revision == good + 1)
    where = [["_uuid", "==", ["uuid", bad.id]]]
    transact(server, {"op": "update", "table": "Port", "where": where, "row": {"mac_address": "not:a:mac:at:all!"}})
    snapshot = following.until(lambda s: s.problems)
    (problem,) = snapshot.problems
    assert problem.object_id == f"port:{bad.id}"
    assert problem.field == "mac_address"
    assert problem.actor is Actor.CLOUD
    assert "a2" in problem.text
    assert {p.name for p in snapshot.ports.values()} == {"a1"}
    transact(server, {"op": "update", "table": "Port", "where": where, "row": {"mac_address": "fa:16:3e:00:00:77"}})
    snapshot = following.until(lambda s: not s.problems)
    assert {p.name for p in snapshot.ports.values()} == {"a1", "a2"}


def test_every_kind_of_bad_row_disables_only_itself(server, writer, follow):
    two_networks(writer)
    port(writer, "a1", "blue", "host1")
    broken = writer.create_port("a2", PortFields(network="red", host="host1")).result
    subnet = writer.get_subnet("red4")
    writer.create_host("host9", HostFields(tunnel_address="192.0.2.9"))
    following = follow("host1")
    following.until(lambda s: len(s.ports) == 2)
    for table, key, column, value in (
        ("Network", broken.network, "segmentation_id", ["set", []]),
        ("Subnet", subnet.id, "cidr", "10.0.0.0/33"),
        ("Port", broken.id, "allowed_address_pairs", ["set", ["fe80::1%x,actions=NORMAL/64"]]),
        ("Host", writer.get_host("host9").id, "tunnel_address", "nowhere"),
    ):
        where = [["_uuid", "==", ["uuid", key]]]
        transact(server, {"op": "update", "table": table, "where": where, "row": {column: value}})
        snapshot = following.until(
            lambda s, table=table: any(p.object_id.startswith(table.lower()) for p in s.problems)
        )
        (problem,) = [p for p in snapshot.problems if p.object_id.startswith(table.lower())]
        assert problem.field == column
        assert "a1" in {p.name for p in snapshot.ports.values()}
        assert "blue" in {n.name for n in snapshot.networks.values()}


def test_while_the_store_is_away_the_last_snapshot_stays_and_what_was_missed_is_caught_up(server, writer, follow):
    two_networks(writer)
    port(writer, "a1", "blue", "host1")
    revision = port(writer, "a2", "blue", "host1")
    following = follow("host1")
    before = following.until(lambda s: s.revision == revision)
    writer.close()
    server.stop()
    with StoreServer(server.folder, socket="aside.sock") as aside, Writer.connect([aside.address]) as unseen:
        unseen.delete_port("a2")
        revision = port(unseen, "b1", "red", "host1")
        assert following.reader.snapshot() is before
    server.start()
    snapshot = following.until(lambda s: s.revision == revision)
    assert {p.name for p in snapshot.ports.values()} == {"a1", "b1"}
    assert {n.name for n in snapshot.networks.values()} == {"blue", "red"}
    fresh = follow("host1").until(lambda s: s.revision == revision)
    assert fresh == snapshot


def test_after_many_changes_the_snapshot_is_that_of_a_fresh_reader(writer, follow):
    two_networks(writer)
    following = follow("host1")
    for step in range(30):
        name, network = f"p{step % 7}", ("blue", "red")[step % 2]
        existing = {p.name: p for p in writer.list_ports()}
        if name not in existing:
            revision = port(writer, name, network, f"host{1 + step % 2}")
        elif step % 3:
            revision = writer.set_port(name, PortFields(host=f"host{1 + step % 3}")).revision
        else:
            revision = writer.delete_port(name).revision
    assert following.until(lambda s: s.revision == revision) == follow("host1").until(lambda s: s.revision == revision)


def state(port_id: str, up: bool, reason: str = "") -> PortState:
    return PortState(PortId(port_id), "p", "n", up, reason, since=1_700_000_000.5)  # type: ignore[arg-type]


def test_status_is_written_read_back_and_taken_away_with_the_port(writer, follow):
    two_networks(writer)
    first = writer.create_port("a1", PortFields(network="blue", host="host1")).result
    following = follow("host1")
    snapshot = following.until(lambda s: s.ports)
    status = StatusWriter(following.reader, HostName("host1"))
    ports = {PortId(first.id): state(first.id, True), PortId("other"): state("other", False, "broken")}
    status.report(ports, snapshot.generation, snapshot.revision, 1_700_000_001.0).result(DEADLINE)
    stored = status.stored().result(DEADLINE)
    assert {(p, s.up, s.reason, s.since) for p, s in stored.items()} == {
        (first.id, True, "", 1_700_000_000.5),
        ("other", False, "broken", 1_700_000_000.5),
    }
    wait_until(lambda: [host.applied_revision for host in writer.list_hosts()] == [snapshot.revision])
    ports.pop(PortId("other"))
    status.report(ports, snapshot.generation, snapshot.revision, 1_700_000_002.0).result(DEADLINE)
    assert set(status.stored().result(DEADLINE)) == {first.id}
    wait_until(lambda: writer.get_port("a1").up)


def test_a_status_row_never_hinders_a_deletion(writer, follow):
    two_networks(writer)
    gone = writer.create_port("a1", PortFields(network="blue", host="host1")).result
    following = follow("host1")
    snapshot = following.until(lambda s: s.ports)
    status = StatusWriter(following.reader, HostName("host1"))
    status.report({PortId(gone.id): state(gone.id, True)}, snapshot.generation, 1, 1.0).result(DEADLINE)
    writer.delete_port("a1")
    following.until(lambda s: not s.ports)


def test_generation_and_names_are_those_of_the_store(writer, follow):
    two_networks(writer)
    snapshot = follow("host1").until(lambda s: s.generation)
    assert uuid.UUID(snapshot.generation)
    assert (snapshot.generation, snapshot.revision) == writer.revision()
