# SPDX-License-Identifier: Apache-2.0
"""How a port is filtered, from the plan to what ``hostplane status port`` prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.config import StatusConfig
from agent.core import naming
from agent.core.errors import Actor, CommandError, Problem
from agent.core.filter_report import Count, PortFilter, RuleCounters, port_filters
from agent.core.items import HybridBridge
from agent.core.model import (
    AddressOwner,
    Direction,
    HostName,
    HostSnapshot,
    NetworkId,
    OwnerId,
    OwnerKind,
    Port,
    PortId,
    SecurityGroup,
    SecurityGroupId,
    SecurityGroupRule,
)
from agent.core.plan import Group, ItemRef, ObjectId, Plan, Value
from agent.core.report import ItemState, ObjectStatus, PortState
from agent.status.server import StatusServer
from tests.fakes.status_source import FakeSource

WEB, DB = SecurityGroupId("web-id"), SecurityGroupId("db-id")
RULES = (
    SecurityGroupRule("r1", Direction.INGRESS, 4, 6, 80, 90, remote_prefix="198.51.100.0/24"),
    SecurityGroupRule("r2", Direction.INGRESS, 4, 1, 8, 0, remote_owner=OwnerId(WEB)),
    SecurityGroupRule("r3", Direction.EGRESS, 6, remote_owner=OwnerId("office-id")),
    SecurityGroupRule("r4", Direction.EGRESS, 4, 17),
    SecurityGroupRule("r5", Direction.INGRESS, 6, remote_owner=OwnerId("gone-id")),
)
OWNERS = {
    OwnerId(WEB): AddressOwner(OwnerId(WEB), OwnerKind.SECURITY_GROUP, "web"),
    OwnerId("office-id"): AddressOwner(OwnerId("office-id"), OwnerKind.ADDRESS_GROUP, "office"),
}
GROUPS = {
    WEB: SecurityGroup(WEB, "web", rules=RULES, log_dropped=True),
    DB: SecurityGroup(DB, "db", stateful=False),
}
PORT = Port(PortId("p1"), "vm1", NetworkId("n"), "fa:16:3e:00:00:01", (), filtered=True, security_groups=(WEB,))
OPEN = replace(PORT, id=PortId("p2"), name="vm2", filtered=False, security_groups=())
PORTS = {p.id: p for p in (PORT, OPEN)}
SNAPSHOT = HostSnapshot(HostName("host1"), in_sync=True, ports=PORTS, security_groups=GROUPS, owners=OWNERS)
CHAIN = "4 filter hp-p-0123456789abcdef"
TREE = "4 filter hp-t-p1 -i qbrp1 -m physdev --physdev-in tapp1 --physdev-out qvbp1 --physdev-is-bridged"


def plan(zone: str = "4097", *, hybrid: bool = True) -> Plan:
    items: dict[str, Mapping[str, Value]] = {
        "bridges": {"qbrp1": HybridBridge("qbrp1", "tapp1", "qvbp1")},
        "zones": {"qbrp1": zone},
        "iptables": {
            f"{TREE} -g hp-p-0123456789abcdef-o": "",
            f"{TREE} -g hp-p-0123456789abcdef-i": "",
        },
    }
    flow = ItemRef("flows", "table=0")
    port = Group(
        ObjectId("port:p1"), items if hybrid else {"flows": {"table=0": "drop"}},
        {flow: frozenset({ItemRef("iptables", f"{CHAIN}-o")})},
    )  # fmt: skip
    web = Group(ObjectId("security_group:web-id"), {"iptables": {"4 filter hp-g-web-i one": ""}})
    return Plan({group.object_id: group for group in (port, web)})


def failed(driver: str, key: str) -> dict[ItemRef, ObjectStatus]:
    return {ItemRef(driver, key): ObjectStatus(ItemState.ERROR, "refused", 1.0)}


def test_a_filter_that_is_in_place_tells_where_it_is():
    (found,) = port_filters("vm1", SNAPSHOT, plan(), {})
    assert found == port_filters("p1", SNAPSHOT, plan(), {})[0]
    assert (found.bridge, found.zone, found.in_place, found.unfinished) == ("qbrp1", 4097, True, ())
    assert found.chains == {
        Direction.EGRESS: "hp-p-0123456789abcdef-o",
        Direction.INGRESS: "hp-p-0123456789abcdef-i",
    }
    assert [group.name for group in found.groups] == ["web"]


@pytest.mark.parametrize(
    ("unfinished", "in_place"),
    [
        (failed("zones", "qbrp1"), False),
        (failed("iptables", f"{CHAIN}-o"), False),
        (failed("iptables", "4 filter hp-g-web-i one"), True),  # one rule of the group: what it allows is dropped
        (failed("iptables", "4 filter hp-g-other-i one"), True),
    ],
)
def test_what_a_filter_waits_for_is_named(unfinished, in_place):
    (found,) = port_filters("vm1", SNAPSHOT, plan(), unfinished)
    assert found.in_place is in_place
    key = next(iter(unfinished)).key
    assert ("other" not in key) == any(key in text and "refused" in text for text in found.unfinished)


def test_a_port_without_tracking_without_hybrid_plug_or_without_filter():
    assert port_filters("vm1", SNAPSHOT, plan("4097 notrack"), {})[0].zone is None
    direct = port_filters("vm1", SNAPSHOT, plan(hybrid=False), {})[0]
    assert (direct.bridge, direct.in_place) == (None, False)
    assert port_filters("vm1", SNAPSHOT, Plan(), {})[0].in_place is False
    assert port_filters("vm2", SNAPSHOT, plan(), {}) == ()
    assert port_filters("vm3", SNAPSHOT, plan(), {}) == ()


@pytest.fixture
def source() -> FakeSource:
    states = {
        port.id: PortState(port.id, port.name, port.network, True, "", 900.0, f"qvo{port.id}", 5)
        for port in (PORT, OPEN)
    }
    source = FakeSource(filters=port_filters("vm1", SNAPSHOT, plan(), {}))
    source.current = replace(source.current, ports=states, network_names={PORT.network: "blue"})
    source.counters = RuleCounters(
        {naming.short_hash("r1"): Count(12, 720)}, {"hp-p-0123456789abcdef-i": Count(3, 180)}
    )
    return source


@pytest.fixture
def hostplane(source, tmp_path: Path, capsys, monkeypatch):
    config = StatusConfig(socket=tmp_path / "agent.sock", socket_group="hpc-no-such-group", metrics_port=0)
    served = StatusServer(config, source, scrape=lambda _: ("text/plain", b""), now=lambda: 2000.0)
    served.start()
    monkeypatch.setenv("HOSTPLANE_SOCKET", str(config.socket))
    monkeypatch.setattr("time.time", lambda: 2000.0)

    def run(*words: str, status: int = 0) -> str:
        capsys.readouterr()
        assert main(["status", "port", *words]) == status
        captured = capsys.readouterr()
        return captured.out if status == 0 else captured.err

    yield run
    served.stop()


Run = Callable[..., str]


def test_people_see_each_rule_with_its_hits(hostplane: Run):
    lines = hostplane("vm1").splitlines()
    assert lines[0] == "vm1 (p1) on network blue"
    assert "filter     in place, bridge qbrp1, connections in zone 4097" in lines
    assert "chain      hp-p-0123456789abcdef-i for what it receives: 3 packets (180 bytes) dropped" in lines
    assert "groups     web (logs drop)" in lines
    rows = [line.split() for line in lines if line.startswith("web ")]
    assert rows == [
        ["web", "egress", "IPv4", "udp", "-", "anybody", "-", "-", "r4"],
        ["web", "egress", "IPv6", "any", "-", "address", "group", "office", "-", "-", "r3"],
        ["web", "ingress", "IPv4", "icmp", "type", "8", "code", "0", "group", "web", "-", "-", "r2"],
        ["web", "ingress", "IPv4", "tcp", "80-90", "198.51.100.0/24", "12", "720", "r1"],
        ["web", "ingress", "IPv6", "any", "-", "members", "of", "gone-id", "-", "-", "r5"],
    ]
    assert "only its first packet" in lines[-1]


def test_what_is_wrong_with_a_port_or_its_rules_is_said(hostplane: Run, source: FakeSource):
    ids = ("port:p1", "network:n", "security_group:web-id", "members:office-id", "host", "port:p2", "members:db-id")
    problems = tuple(Problem(object_id, "iptables", f"wrong with {object_id}", Actor.CLOUD) for object_id in ids)
    problems = (*problems, Problem("host", "tunnel_address", "wrong, but not with filters", Actor.OPERATOR))
    source.current = replace(source.current, problems=problems)
    lines = [line for line in hostplane("vm1").splitlines() if line.startswith("problem ")]
    assert lines == [f"problem    wrong with {object_id} (who must act: cloud)" for object_id in ids[:5]]
    many = tuple(Problem("security_group:web-id", "rules", f"rule {number}", Actor.CLOUD) for number in range(12))
    source.current = replace(source.current, problems=many)
    assert "           and 2 more (see hostplane status problems)" in hostplane("vm1").splitlines()
    (port,) = json.loads(hostplane("p1", "-o", "json"))["ports"]
    assert len(port["problems"]) == 12
    assert "problem" not in hostplane("vm2")


def test_programs_get_the_numbers(hostplane: Run):
    answer = json.loads(hostplane("p1", "-o", "json"))
    (port,) = answer["ports"]
    found = port["filter"]
    assert (found["zone"], found["in_place"], found["dropped"]["ingress"]["packets"]) == (4097, True, 3)
    first = {rule["id"]: rule for rule in found["security_groups"][0]["rules"]}["r1"]
    assert (first["packets"], first["bytes"], first["port_range_max"]) == (12, 720, 90)
    assert answer["counters_error"] is None


def test_a_port_is_shown_even_if_its_counters_cannot_be_read(hostplane: Run, source: FakeSource):
    source.counters = CommandError(("iptables-save",), 4, "locked")
    text = hostplane("vm1")
    assert "in place" in text
    assert "the counters cannot be read: iptables-save: exit status 4: locked" in text


def test_a_port_that_is_shut_says_so(hostplane: Run, source: FakeSource):
    source.filters = (PortFilter(PORT.id, ()),)
    source.counters = CommandError(("iptables-save",), 4, "not to be asked")
    text = hostplane("vm1")
    assert "NOT IN PLACE: the port is shut" in text
    assert "not to be asked" not in text


def test_ports_that_are_open_or_unknown_or_not_named(hostplane: Run):
    assert "filter     none" in hostplane("vm2")
    assert "vm3" in hostplane("vm3", status=1)
    assert "which one" in hostplane(status=1)


def test_every_field_is_documented(hostplane: Run):
    text = (Path(__file__).parents[2] / "docs" / "status.md").read_text()
    answer = json.loads(hostplane("vm1", "-o", "json"))
    names: set[str] = set()
    unseen = [answer]
    while unseen:
        value = unseen.pop()
        if isinstance(value, dict):
            names |= value.keys()
        unseen += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    assert {name for name in names if f"`{name}`" not in text} == set()
