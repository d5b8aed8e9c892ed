# SPDX-License-Identifier: Apache-2.0
"""What the reader makes of security groups: those of this host's ports, whole, and nothing that it has to trust."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.core.errors import Actor
from agent.core.model import AddressChunk, AddressOwner, Direction, HostName, HostSnapshot, OwnerKind, SecurityGroup
from agent.store import remotes
from agent.store.document import AddressGroupFields, NetworkFields, PortFields, SubnetFields
from agent.store.kinds import KINDS, Kind
from agent.store.reader import SnapshotReader
from agent.store.writer import Writer
from tests.servers import StoreServer

DEADLINE = 10.0
Operation = dict[str, object]


class Store:
    """A store with network ``blue``, filled row by row as a careless cloud might."""

    def __init__(self, server: StoreServer) -> None:
        self._server = server
        with Writer.connect([server.address]) as writer:
            writer.create_network("blue", NetworkFields(type="vxlan"))

    def empty(self) -> None:
        """Delete everything."""
        with Writer.connect([self._server.address]) as writer:
            for port in writer.list_ports():
                writer.delete_port(port.id)
            for subnet in writer.list_subnets():
                writer.delete_subnet(subnet.id)
            writer.delete_network("blue")
        for table in ("Security_Group_Rule", "Security_Group", "Address_Group"):
            self.transact({"op": "delete", "table": table, "where": []})

    def transact(self, *operations: Operation) -> list[str]:
        """Run *operations* in one transaction, one revision more; return the ids of the rows inserted."""
        reply = self._run(["Hostplane", *operations, self._next_revision()])
        return [result["uuid"][1] for result in reply if "uuid" in result]

    def port(self, name: str, *groups: str, host: str = "host1") -> str:
        with Writer.connect([self._server.address]) as writer:
            port_id = writer.create_port(name, PortFields(network="blue", host=host)).result.id
        self.set("Port", port_id, filtered=True, security_groups=ids(*groups))
        return port_id

    def group(self, name: str, **columns: object) -> str:
        return self.transact(group(name, **columns))[0]

    def address_group(self, name: str) -> str:
        return self.transact({"op": "insert", "table": "Address_Group", "row": {"name": name}})[0]

    def rule(self, of: str, **columns: object) -> str:
        return self.transact(rule(of, **columns))[0]

    def members(self, owner: str, chunk: str, *addresses: str) -> None:
        """Write a chunk, a new row each time; it hangs on its security group, as it must to stay."""
        select: Operation = {"op": "select", "table": "Address_Chunk", "columns": ["_uuid"], "where": [
            ["owner", "==", ref(owner)], ["chunk", "==", chunk]]}  # fmt: skip
        old = [row["_uuid"] for row in self._run(["Hostplane", select])[0]["rows"]]
        self.transact(
            {"op": "mutate", "table": "Security_Group", "where": where(owner), "mutations": [
                ["addresses", "delete", ["set", old]], ["addresses", "insert", ["set", [["named-uuid", "c"]]]]]},
            {"op": "insert", "table": "Address_Chunk", "uuid-name": "c", "row": {
                "owner": ref(owner), "chunk": chunk, "addresses": counted(*addresses)}},
        )  # fmt: skip

    def set(self, table: str, row: str, **columns: object) -> None:
        self.transact({"op": "update", "table": table, "where": where(row), "row": columns})

    def delete(self, table: str, row: str) -> None:
        self.transact({"op": "delete", "table": table, "where": where(row)})

    def _run(self, request: list[object]) -> list[dict[str, Any]]:
        command = ["ovsdb-client", "transact", self._server.address, json.dumps(request)]
        reply = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert not [result for result in reply if result and "error" in result], reply
        return reply

    @staticmethod
    def _next_revision() -> Operation:
        return {"op": "mutate", "table": "Global", "where": [], "mutations": [["revision", "+=", 1]]}


def ref(row: str) -> list[str]:
    return ["uuid", row]


def ids(*rows: str) -> list[object]:
    return ["set", [ref(row) for row in rows]]


def where(row: str) -> list[object]:
    return [["_uuid", "==", ref(row)]]


def counted(*addresses: str) -> list[object]:
    return ["map", [[address, 1] for address in addresses]]


def group(name: str, **columns: object) -> Operation:
    row = {"name": name, "stateful": True, "log_rate": 100, "log_burst": 25, **columns}
    return {"op": "insert", "table": "Security_Group", "row": row}


def rule(of: str, **columns: object) -> Operation:
    row = {"group": ref(of), "direction": "ingress", "ethertype": "IPv4", **columns}
    return {"op": "insert", "table": "Security_Group_Rule", "row": row}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with StoreServer(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def store(server: StoreServer) -> Iterator[Store]:
    filled = Store(server)
    yield filled
    filled.empty()


@pytest.fixture
def reader(server: StoreServer) -> Iterator[SnapshotReader]:
    started = SnapshotReader(server.address, remotes.schema_text(), HostName("host1"), lambda: None)
    started.thread.start()
    yield started
    started.thread.stop()


def until(reader: SnapshotReader, condition: Callable[[HostSnapshot], object]) -> HostSnapshot:
    deadline = time.monotonic() + DEADLINE
    while not ((snapshot := reader.snapshot()).in_sync and condition(snapshot)):
        assert time.monotonic() < deadline, f"never published; last: {snapshot}"
        time.sleep(0.002)
    return snapshot


def named(snapshot: HostSnapshot, name: str) -> SecurityGroup:
    return next(group for group in snapshot.security_groups.values() if group.name == name)


def test_a_host_gets_the_groups_of_its_ports_their_rules_and_whom_these_refer_to(store, reader):
    web, peer, other = store.group("web", log=["set", ["drop"]]), store.group("peer"), store.group("other")
    store.rule(web, protocol=6, port_range_min=80, port_range_max=81, remote_group=ref(peer))
    store.rule(other)
    store.members(peer, "0", "10.0.0.1", "10.1.0.0/24")
    store.members(peer, "1", "2001:db8::1")
    store.members(other, "", "10.0.0.2")
    store.port("there", other, host="host2")
    port = store.port("here", web)
    snapshot = until(reader, lambda s: s.ports and s.security_groups)
    assert set(snapshot.security_groups) == {web}
    assert (snapshot.ports[port].filtered, snapshot.ports[port].security_groups) == (True, (web,))
    (found,) = snapshot.security_groups[web].rules
    assert (found.direction, found.ip_version, found.protocol) == (Direction.INGRESS, 4, 6)
    assert (found.port_min, found.port_max, found.remote_owner) == (80, 81, peer)
    assert (named(snapshot, "web").log_accepted, named(snapshot, "web").log_dropped) == (False, True)
    assert snapshot.address_chunks == {
        peer: {
            "0": AddressChunk(peer, "0", frozenset({"10.0.0.1", "10.1.0.0/24"})),
            "1": AddressChunk(peer, "1", frozenset({"2001:db8::1"})),
        }
    }
    assert not snapshot.problems


def test_a_host_knows_what_those_are_called_whom_its_rules_refer_to(store, reader):
    web, peer = store.group("web"), store.group("peer")
    office, _ = (store.address_group(name) for name in ("office", "nobody refers to it"))
    store.rule(peer, remote_group=ref(store.group("further")))
    for remote in ({"remote_group": ref(peer)}, {"remote_address_group": ref(office)}, {"remote_group": ref(web)}):
        store.rule(web, **remote)
    store.port("p", web)
    before = until(reader, lambda s: len(s.owners) == 3)
    kinds = {(peer, "peer"): OwnerKind.SECURITY_GROUP, (office, "office"): OwnerKind.ADDRESS_GROUP}
    kinds[web, "web"] = OwnerKind.SECURITY_GROUP
    assert before.owners == {owner: AddressOwner(owner, kind, name) for (owner, name), kind in kinds.items()}
    assert set(before.security_groups) == {web}  # the rules of others are nobody's business here
    store.set("Address_Group", office, name="headquarters")
    after = until(reader, lambda s: s.owners is not before.owners)
    assert after.owners[office].name == "headquarters"
    assert all(after.owners[other] is before.owners[other] for other in (web, peer))
    assert after.security_groups is before.security_groups


def test_no_snapshot_shows_a_port_without_the_rules_and_members_that_belong_to_it(store, server):
    peer = store.group("peer")
    store.members(peer, "", "10.0.0.1")
    groups = [store.group(f"g{i}") for i in range(3)]
    for one in groups:
        store.rule(one, remote_group=ref(peer))
    published: list[HostSnapshot] = []
    following = SnapshotReader(
        server.address, remotes.schema_text(), HostName("host1"), lambda: published.append(following.snapshot())
    )
    following.thread.start()
    try:
        for number, one in enumerate(groups):
            store.port(f"p{number}", one)
        store.rule(groups[0], remote_group=ref(groups[1]))
        until(following, lambda s: sorted(len(g.rules) for g in s.security_groups.values()) == [1, 1, 2])
    finally:
        following.thread.stop()
    for snapshot in published:
        assert not snapshot.problems
        for port in snapshot.ports.values():
            for of in port.security_groups:
                assert snapshot.security_groups[of].rules
        if snapshot.security_groups:
            assert snapshot.address_chunks[peer][""].addresses == {"10.0.0.1"}


def test_a_change_gives_new_objects_to_what_it_is_about_only(store, reader):
    web, db, peer = store.group("web"), store.group("db"), store.group("peer")
    first, _ = store.rule(web, protocol=6), store.rule(db, remote_group=ref(peer))
    store.rule(web, remote_group=ref(web))
    store.members(peer, "0", "10.0.0.1")
    store.members(peer, "1", "10.0.0.2")
    store.members(web, "", "10.0.0.3")
    store.port("p", web, db)
    before = until(reader, lambda s: len(s.security_groups) == 2 and s.address_chunks)

    store.rule(web, protocol=17)
    after = until(reader, lambda s: len(named(s, "web").rules) == 3)
    assert after.security_groups[db] is before.security_groups[db]
    assert after.address_chunks is before.address_chunks
    assert after.ports is before.ports
    kept = {rule.id: rule for rule in before.security_groups[web].rules}
    assert [rule for rule in after.security_groups[web].rules if rule.id in kept] == list(kept.values())
    assert all(rule is kept[rule.id] for rule in after.security_groups[web].rules if rule.id in kept)
    assert list(after.security_groups[web].rules) == sorted(after.security_groups[web].rules, key=lambda r: r.id)

    before = after
    store.transact(
        {"op": "mutate", "table": "Address_Chunk", "where": [["owner", "==", ref(peer)], ["chunk", "==", "1"]],
         "mutations": [["addresses", "insert", counted("10.0.0.9")]]},
    )  # fmt: skip
    after = until(reader, lambda s: "10.0.0.9" in s.address_chunks[peer]["1"].addresses)
    assert after.security_groups is before.security_groups
    assert after.address_chunks[peer]["0"] is before.address_chunks[peer]["0"]
    assert after.address_chunks[web] is before.address_chunks[web]

    before = after
    store.set("Security_Group", web, log=["set", ["accept"]])
    after = until(reader, lambda s: named(s, "web").log_accepted)
    assert after.security_groups[db] is before.security_groups[db]

    before = after
    store.delete("Security_Group_Rule", first)
    after = until(reader, lambda s: len(named(s, "web").rules) == 2)
    assert after.security_groups[db] is before.security_groups[db]


def test_an_address_that_one_port_more_has_changes_nothing_here(store, reader):
    web = store.group("web")
    store.rule(web, remote_group=ref(web))
    store.members(web, "", "10.0.0.3")
    store.port("p", web)
    before = until(reader, lambda s: s.address_chunks)
    store.transact(
        {"op": "update", "table": "Address_Chunk", "where": [["owner", "==", ref(web)]],
         "row": {"addresses": ["map", [["10.0.0.3", 2]]]}},
    )  # fmt: skip
    after = until(reader, lambda s: s.revision > before.revision)
    assert after.address_chunks is before.address_chunks
    assert after.security_groups is before.security_groups


def test_chunks_that_are_cut_in_two_lose_nobody(store, reader):
    web = store.group("web")
    store.rule(web, remote_group=ref(web))
    store.port("p", web)
    everybody = {f"10.0.{i}.1" for i in range(40)}
    store.members(web, "", *everybody)
    until(reader, lambda s: s.address_chunks)
    for cut in range(6):  # the order in which the rows of one change are read is up to their ids
        half = {f"10.0.{i}.1" for i in range(cut, 40, 2)}
        insert = [("a", str(cut % 2), half), ("b", f"1{cut}", everybody - half)]
        store.transact(
            *({"op": "insert", "table": "Address_Chunk", "uuid-name": name, "row": {
                "owner": ref(web), "chunk": chunk, "addresses": counted(*part)}} for name, chunk, part in insert),
            {"op": "update", "table": "Security_Group", "where": where(web), "row": {
                "addresses": ["set", [["named-uuid", name] for name, _, _ in insert]]}},
        )  # fmt: skip
        added = f"1{cut}"
        snapshot = until(reader, lambda s, added=added: added in s.address_chunks.get(web, {}))  # type: ignore[misc]
        assert frozenset().union(*(c.addresses for c in snapshot.address_chunks[web].values())) == everybody
        store.members(web, str(cut % 2), *half)  # deleted and made anew in one transaction
        revision = snapshot.revision
        snapshot = until(reader, lambda s, revision=revision: s.revision > revision)  # type: ignore[misc]
        assert frozenset().union(*(c.addresses for c in snapshot.address_chunks[web].values())) == everybody


BAD_RULES: list[tuple[Operation, str, str]] = [
    ({"protocol": 6, "port_range_min": 90, "port_range_max": 80}, "port_range_min", "90..80"),
    ({"protocol": 6, "port_range_min": 90}, "port_range_min", "90..None"),
    ({"port_range_min": 80, "port_range_max": 80}, "port_range_min", "without a protocol"),
    ({"protocol": 47, "port_range_min": 80, "port_range_max": 80}, "port_range_min", "protocol 47"),
    ({"protocol": 1, "port_range_max": 1}, "port_range_max", "without a type"),
    ({"protocol": 1, "port_range_min": 300}, "port_range_min", "300"),
    ({"protocol": 58}, "protocol", "ICMPv6"),
    ({"remote_ip_prefix": "2001:db8::/32"}, "remote_ip_prefix", "IPv4"),
    ({"remote_ip_prefix": "10.0.0.0/33"}, "remote_ip_prefix", "10.0.0.0/33"),
    ({"remote_ip_prefix": "everybody"}, "remote_ip_prefix", "everybody"),
    ({"ethertype": "IPv6", "remote_ip_prefix": "fe80::1%x -j ACCEPT/64"}, "remote_ip_prefix", "zone"),
]


def test_a_rule_that_makes_no_sense_allows_nothing_and_is_named_with_its_group(store, reader):
    web = store.group("web")
    good = store.rule(web, protocol=6, port_range_min=443, port_range_max=443)
    store.port("p", web)
    bad = store.transact(*(rule(web, **columns) for columns, _, _ in BAD_RULES))
    snapshot = until(reader, lambda s: s.security_groups and s.problems)
    assert [rule.id for rule in snapshot.security_groups[web].rules] == [good]
    problems = {problem.text.split(": ")[0]: problem for problem in snapshot.problems}
    assert len(problems) == len(BAD_RULES)
    for rule_id, (_, column, word) in zip(bad, BAD_RULES, strict=True):
        problem = problems[f"security group web, rule {rule_id}"]
        assert (problem.object_id, problem.field) == (f"security_group:{web}", column)
        assert problem.actor is Actor.CLOUD
        assert word in problem.text
    store.set("Security_Group_Rule", bad[0], port_range_max=95)
    snapshot = until(reader, lambda s: len(s.security_groups[web].rules) == 2)
    assert len(snapshot.problems) == len(BAD_RULES) - 1


def test_a_rule_with_two_remotes_allows_nothing(store, reader):
    web = store.group("web")
    store.port("p", web)
    store.rule(web, remote_group=ref(web), remote_ip_prefix="10.0.0.0/8")
    snapshot = until(reader, lambda s: s.problems)
    assert snapshot.security_groups[web].rules == ()
    assert "more than one" in snapshot.problems[0].text


GOOD_RULES: list[tuple[Operation, tuple[object, ...]]] = [
    ({"ethertype": "IPv6", "protocol": 1}, (6, 58, None, None, None)),
    ({"protocol": 1, "port_range_min": 8, "port_range_max": 0}, (4, 1, 8, 0, None)),
    ({"protocol": 1, "port_range_min": 3}, (4, 1, 3, None, None)),
    ({"protocol": 0}, (4, 0, None, None, None)),
    ({"protocol": 132, "port_range_min": 1, "port_range_max": 65535}, (4, 132, 1, 65535, None)),
    ({"remote_ip_prefix": "10.0.0.7"}, (4, None, None, None, "10.0.0.7/32")),
    ({"remote_ip_prefix": "10.0.0.7/8"}, (4, None, None, None, "10.0.0.0/8")),
    ({"ethertype": "IPv6", "remote_ip_prefix": "2001:DB8:0::/32"}, (6, None, None, None, "2001:db8::/32")),
]


def test_rules_mean_what_they_mean_in_the_api(store, reader):
    web = store.group("web")
    made = store.transact(*(rule(web, **columns) for columns, _ in GOOD_RULES))
    store.port("p", web)
    snapshot = until(reader, lambda s: s.security_groups)
    rules = {rule.id: rule for rule in snapshot.security_groups[web].rules}
    told = [(r.ip_version, r.protocol, r.port_min, r.port_max, r.remote_prefix) for r in (rules[m] for m in made)]
    assert told == [expected for _, expected in GOOD_RULES]


def test_what_is_no_address_is_left_out_of_a_list_and_named(store, reader):
    web = store.group("web")
    store.rule(web, remote_group=ref(web))
    store.port("p", web)
    store.members(web, "", "10.0.0.1/32", "10.0.0.300", "fe80::1%eth0", "2001:DB8::/64")
    snapshot = until(reader, lambda s: s.problems)
    assert snapshot.address_chunks[web][""].addresses == {"10.0.0.1", "2001:db8::/64"}
    (problem,) = snapshot.problems
    assert problem.object_id == f"members:{web}"
    assert "security group web" in problem.text
    assert "1 more" in problem.text
    store.members(web, "", "10.0.0.1")
    until(reader, lambda s: not s.problems)


def test_a_group_that_cannot_be_read_allows_nothing_and_its_ports_stay_filtered(store, reader, monkeypatch):
    web, db = store.group("web"), store.group("db")
    store.rule(web)
    port = store.port("p", web, db)
    until(reader, lambda s: len(s.security_groups) == 2)
    # The schema refuses what this version cannot read; a later one may hold it.
    monkeypatch.setitem(KINDS, "Security_Group", Kind("Security_Group", lambda *_: next(iter(()))))
    store.set("Security_Group", web, log_rate=7)
    snapshot = until(reader, lambda s: s.problems)
    assert set(snapshot.security_groups) == {db}
    assert snapshot.ports[port].filtered
    texts = {problem.object_id: problem.text for problem in snapshot.problems}
    assert set(texts) == {f"security_group:{web}", f"port:{port}"}
    assert web in texts[f"port:{port}"]


def test_a_port_with_groups_is_filtered_even_if_its_row_says_otherwise(store, reader):
    web = store.group("web")
    port = store.port("p", web)
    store.set("Port", port, filtered=False)
    snapshot = until(reader, lambda s: s.ports and s.security_groups)
    assert snapshot.ports[port].filtered


def test_groups_go_with_their_last_port_and_come_back_with_the_next(store, reader):
    web = store.group("web")
    store.rule(web, remote_group=ref(web))
    store.members(web, "", "10.0.0.3")
    port = store.port("p", web)
    until(reader, lambda s: s.address_chunks)
    store.set("Port", port, security_groups=ids())
    snapshot = until(reader, lambda s: not s.security_groups)
    assert (dict(snapshot.address_chunks), snapshot.ports[port].filtered) == ({}, True)
    store.rule(web, protocol=6)
    store.set("Port", port, security_groups=ids(web))
    snapshot = until(reader, lambda s: s.security_groups)
    assert len(snapshot.security_groups[web].rules) == 2
    assert snapshot.address_chunks


def test_a_group_that_refers_to_what_has_no_addresses_is_whole(store, reader):
    web = store.group("web")
    office = store.transact({"op": "insert", "table": "Address_Group", "row": {"name": "office"}})[0]
    store.rule(web, remote_address_group=ref(office))
    store.port("p", web)
    snapshot = until(reader, lambda s: s.security_groups)
    assert snapshot.security_groups[web].rules[0].remote_owner == office
    assert dict(snapshot.address_chunks) == {}
    assert uuid.UUID(office)


def test_after_the_store_was_away_everything_is_there_again_and_what_was_missed(store, server, reader):
    web = store.group("web")
    gone = store.rule(web, remote_group=ref(web))
    store.members(web, "", "10.0.0.3")
    store.port("p", web)
    before = until(reader, lambda s: s.address_chunks)
    server.stop()
    server.start()
    store.delete("Security_Group_Rule", gone)
    store.rule(web, protocol=6)
    store.rule(web, remote_group=ref(web), protocol=6)
    snapshot = until(reader, lambda s: s.revision == before.revision + 3)
    assert len(snapshot.security_groups[web].rules) == 2
    assert snapshot.address_chunks == before.address_chunks
    assert not snapshot.problems


def test_what_was_written_past_the_writer_is_shown_and_can_be_taken_away(store, server):
    with Writer.connect([server.address]) as writer:
        office = writer.create_address_group("office", AddressGroupFields(addresses=("10.0.0.0/8",))).result
        subnet = writer.create_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24")).result
    port = store.port("p")
    fixed_ips = {"nowhere": ref(subnet.id), "10.0.0.9": ref(subnet.id)}
    store.set("Port", port, fixed_ips=["map", list(fixed_ips.items())])
    wrong = counted("everybody", "10.1.0.9/16")
    change = {"where": [["owner", "==", ref(office.id)]], "mutations": [["addresses", "insert", wrong]]}
    store.transact({"op": "mutate", "table": "Address_Chunk", **change})
    with Writer.connect([server.address]) as writer:
        assert writer.get_address_group("office").addresses == ("10.0.0.0/8", "10.1.0.9/16", "everybody")
        assert [fixed.address for fixed in writer.get_port(port).fixed_ips] == ["10.0.0.9", "nowhere"]
        assert writer.remove_addresses("office", ("everybody", "10.1.0.9/16")).result.addresses == ("10.0.0.0/8",)
        writer.delete_address_group("office")
