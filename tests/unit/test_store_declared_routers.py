# SPDX-License-Identifier: Apache-2.0
"""Routers and what belongs to them in declarative files: made, changed, swapped and pruned in one transaction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.apply import read_document
from agent.cli.yaml_file import parse_file
from agent.core.errors import InputError
from agent.store.records import Change
from agent.store.writer import Writer
from tests.servers import StoreServer
from tests.store_rows import assert_consistent

EXAMPLE = Path(__file__).parents[2] / "examples" / "routers.yaml"


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with StoreServer(tmp_path) as server, Writer.connect([server.address]) as writer:
        writer.apply(read_document(str(EXAMPLE)), set_name="set")
        yield writer
        assert_consistent(writer)


def edited(*replacements: tuple[str, str]) -> bytes:
    text = EXAMPLE.read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text.encode()


def apply(writer: Writer, *replacements: tuple[str, str]) -> list[str]:
    changes = writer.apply(parse_file(edited(*replacements), "f.yaml"), set_name="set", prune=True).result
    return [told(change) for change in changes]


def told(change: Change) -> str:
    fields = f" ({', '.join(field.field for field in change.fields)})" if change.verb == "change" else ""
    return f"{change.verb} {change.kind} {change.name}{fields}"


def test_the_same_file_changes_nothing(writer: Writer) -> None:
    assert apply(writer) == []
    edge = writer.get_router("edge")
    assert edge.gateway_hosts == ("host1", "host2")
    assert [(i.subnet_name, i.address) for i in edge.interfaces] == [
        ("blue4", "10.0.0.1"),
        ("blue6", "2001:db8:1000::1"),
    ]
    assert {f.name: f.port_name for f in writer.list_floating_ips()} == {
        "203.0.113.10": "vm1",
        "203.0.113.11": None,
        "203.0.113.20": "db1",
    }
    assert [f.name for f in writer.list_port_forwardings()] == ["203.0.113.11:2222/tcp", "203.0.113.2:8000-8009/udp"]


def test_what_the_file_no_longer_has_goes_and_the_rest_stays(writer: Writer) -> None:
    ports = {port.id for port in writer.list_ports()}
    changes = apply(
        writer,
        ("    routes: [{destination: 10.9.0.0/16, nexthop: 10.0.0.9}]\n", "    routes: []\n"),
        ("  203.0.113.20: {port: db1}\n", ""),
        ('  - {external: "203.0.113.11:2222", internal: "vm2:22", protocol: tcp}\n', ""),
        ("interfaces: [db4, {subnet: app4, address: 10.0.1.254}]", "interfaces: [db4]"),
    )
    assert changes == [
        "delete port_forwarding 203.0.113.11:2222/tcp",
        "delete floating_ip 203.0.113.20",
        "change router edge (routes)",
        "change router inner (interfaces)",
    ]
    assert [f.name for f in writer.list_floating_ips()] == ["203.0.113.10"]
    assert len(ports - {port.id for port in writer.list_ports()}) == 1


def test_a_router_of_another_name_takes_over_all_that_the_old_one_had(writer: Writer) -> None:
    before = writer.get_floating_ip("203.0.113.10")
    changes = apply(writer, ("  edge:\n", "  brink:\n"))
    assert changes == ["delete router edge", "create router brink", *MOVED]
    after = writer.get_floating_ip("203.0.113.10")
    assert (after.router_name, after.id, after.mac_address) == ("brink", before.id, before.mac_address)


MOVED = [
    "change floating_ip 203.0.113.10 (router, router_name)",
    "change port_forwarding 203.0.113.11:2222/tcp (router, router_name)",
    "change port_forwarding 203.0.113.2:8000-8009/udp (router, router_name)",
]


def test_ports_swap_their_floating_ips(writer: Writer) -> None:
    changes = apply(
        writer,
        ("203.0.113.10: {port: vm1}", "203.0.113.10: {port: db1}"),
        ("203.0.113.20: {port: db1}", "203.0.113.20: {port: vm1}"),
    )
    assert [change.partition(" (")[0] for change in changes] == [
        "change floating_ip 203.0.113.10",
        "change floating_ip 203.0.113.20",
    ]
    assert writer.get_floating_ip("203.0.113.10").router_name == "inner"


def test_addresses_that_a_file_wishes_are_not_given_away_before(tmp_path: Path) -> None:
    text = edited(
        (", fixed_ips: [203.0.113.2]", ""),
        ("203.0.113.10: {port: vm1}", "203.0.113.2: {port: vm1}"),
        ("203.0.113.2:8000", "203.0.113.4:8000"),
    )
    with StoreServer(tmp_path) as server, Writer.connect([server.address]) as writer:
        writer.apply(parse_file(text, "f.yaml"))
        assert [fixed_ip.address for fixed_ip in writer.get_router("edge").external_fixed_ips] == ["203.0.113.5"]
        assert_consistent(writer)


def test_an_empty_file_of_the_set_leaves_nothing_behind(writer: Writer) -> None:
    writer.apply(parse_file(b"{}", "f.yaml"), set_name="set", prune=True)
    tables = ("Router", "Port", "Floating_IP", "Port_Forwarding", "Subnet_Pool", "Address_Scope", "Network", "Endpoint")
    assert writer.read(lambda view: {table: len(view.rows(table)) for table in tables if view.rows(table)}) == {}


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            "[blue4, blue6]",
            "[blue4, {subnet: db4, address: 10.0.0.2}]",
            "router edge: interfaces: subnets blue4 (10.0.0",
        ),
        ('internal: "vm2:22"', 'internal: "vm7:22"', "line LINE: port forwarding 203.0.113.11:2222/tcp: there is no"),
        ("203.0.113.20: {port: db1}", "203.0.113.10: {port: db1}", "f.yaml:LINE"),
        (
            "{port: db1}",
            "{prot: db1}",
            "f.yaml:LINE: floating ip 203.0.113.20: unknown key 'prot'; did you mean 'port'",
        ),
        (
            "gateway: {network: public, hosts: [host1, host2], fixed_ips: [203.0.113.2]}",
            "gateway: public",
            "f.yaml:LINE: router edge: gateway: keys",
        ),
        (
            "hosts: [host1, host2]",
            "host: [host1]",
            "f.yaml:LINE: router edge: gateway: unknown key 'host'; did you mean",
        ),
        ("    distributed: true", "    gateway_hosts: [host3]", "'gateway_hosts' is written under gateway in a file"),
        ('- {external: "203.0.113.11:2222", ', "- {", "f.yaml:LINE: port forwarding 1: external is required"),
        (
            '203.0.113.2:8000-8009"',
            '203.0.113.2:8000-"',
            "line LINE: port forwarding 203.0.113.2:8000-: external ports",
        ),
    ],
)
def test_mistakes_are_told_with_line_object_and_field(writer: Writer, old: str, new: str, text: str) -> None:
    line = EXAMPLE.read_text().partition(old)[0].count("\n") + 1
    with pytest.raises(InputError, match=re.escape(text.replace("LINE", str(line)))):
        apply(writer, (old, new))
