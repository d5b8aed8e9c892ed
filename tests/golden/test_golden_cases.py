# SPDX-License-Identifier: Apache-2.0
"""Golden cases: a file for ``apply -f``, through the real writer, store, reader and planner, to text.

``pytest tests/golden --update-golden`` writes the expected files anew; read the
difference before it is committed.
"""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli.yaml_file import parse_file
from agent.core import codec
from agent.core.allocations import Claim
from agent.core.items import GroupRules
from agent.core.memo import Memo
from agent.core.model import (
    AddressChunk,
    HostName,
    HostSnapshot,
    PluggedInterface,
    SecurityGroupRule,
    SwitchView,
)
from agent.core.naming import (
    FORWARD_CHAIN,
    INPUT_CHAIN,
    hybrid_veth_names,
    is_list_chain,
    is_our_chain,
    short_hash,
)
from agent.core.plan import Plan, Value
from agent.l2.policies import OPEN, policy_id
from agent.l2.settings import LocalSettings
from agent.planner import build_plan
from agent.store import remotes
from agent.store.document import HostFields
from agent.store.reader import SnapshotReader
from agent.store.writer import Writer
from tests.golden.l2_world import BOTH, underlay
from tests.servers import StoreServer

CASES = sorted(path.parent for path in (Path(__file__).parent / "cases").glob("*/input.yaml"))
MAPPINGS = {"physnet1": "br-physnet1", "external": "br-external"}
HOST = HostName("host1")
OFPORTS = {"hp-vxlan": 100, "hp-geneve": 101, "hp-i-physnet1": 102, "hp-i-external": 103}


def snapshot_of(case: Path, folder: Path) -> HostSnapshot:
    """Apply the case's file and return what the reader of host1 publishes."""
    with StoreServer(folder) as server, Writer.connect([server.address]) as writer:
        for number in (1, 2, 3):
            name = f"host{number}"
            writer.create_host(
                name,
                HostFields(
                    tunnel_address=underlay(number), encapsulations=("geneve", "vxlan"), bridge_mappings=MAPPINGS
                ),
            )
        path = case / "input.yaml"
        revision = writer.apply(parse_file(path.read_bytes(), str(path))).revision
        published = threading.Event()
        reader = SnapshotReader(server.address, remotes.schema_text(), HOST, lambda: follow())

        def follow() -> None:
            if reader.snapshot().in_sync and reader.snapshot().revision == revision:
                published.set()

        reader.thread.start()
        try:
            assert published.wait(10), reader.snapshot()
            return reader.snapshot()
        finally:
            reader.thread.stop()


def named(snapshot: HostSnapshot) -> HostSnapshot:
    """Return *snapshot* with names in place of the random ids, by which things are ordered."""
    text = json.dumps(codec.difference(HostSnapshot(HOST), snapshot))
    for uuid, name in _names(snapshot).items():
        text = text.replace(uuid, name)
    changed = codec.apply(HostSnapshot(HOST), json.loads(text))
    ports = {i: replace(p, security_groups=tuple(sorted(p.security_groups))) for i, p in changed.ports.items()}
    groups = {i: replace(g, rules=tuple(sorted(g.rules, key=_id))) for i, g in changed.security_groups.items()}
    return replace(changed, ports=ports, security_groups=groups)


def _id(rule: SecurityGroupRule) -> tuple[int, str]:
    return len(rule.id), rule.id


def _names(snapshot: HostSnapshot) -> dict[str, str]:
    names = {str(port.id): port.name for port in snapshot.ports.values()}
    names |= {str(network.id): network.name for network in snapshot.networks.values()}
    for group in snapshot.security_groups.values():
        names[group.id] = group.name
        for number, rule in enumerate(sorted(group.rules, key=_content), 1):
            names[rule.id] = f"{group.name}-rule{number}"
    lists = [owner for owner in snapshot.address_chunks if owner not in names]
    by_content = sorted(lists, key=lambda o: sorted(map(_addresses, snapshot.address_chunks[o].values())))
    return names | {str(owner): f"list{number}" for number, owner in enumerate(by_content, 1)}


def _content(rule: SecurityGroupRule) -> str:
    return repr(replace(rule, id="", remote_owner=None))


def _addresses(chunk: AddressChunk) -> list[str]:
    return sorted(chunk.addresses)


def plan_of(snapshot: HostSnapshot) -> Plan:
    """Plan with numbers and OpenFlow ports in the order of names.

    Ports that are filtered, and others whose name says so, are plugged hybrid.
    """
    ports = sorted(snapshot.ports.values(), key=lambda port: port.id)
    interfaces = {}
    for number, port in enumerate(ports, 1):
        hybrid = port.filtered or port.name.startswith("hybrid")
        name = hybrid_veth_names(port.id)[1] if hybrid else f"tap-{port.id}"
        interfaces[port.id] = PluggedInterface(name, port.id, number)
    numbers = {Claim("network", network): n for n, network in enumerate(sorted(snapshot.networks), 1)}
    numbers |= {Claim("zone", port.id): n for n, port in enumerate(ports, 1)}
    switch = SwitchView(True, frozenset({"br-int", *MAPPINGS.values()}), interfaces, OFPORTS)
    return build_plan(snapshot, numbers, switch, Memo(), LocalSettings(underlay(1), BOTH, MAPPINGS, "netdev"))


def as_text(plan: Plan, driver: str) -> str:
    """Return all items of one driver, sorted."""
    items = [item for group in plan.groups.values() for item in group.items.get(driver, {}).items()]
    return "".join(sorted((f"{key} -> {_value(value)}".rstrip() + "\n" for key, value in items), key=_natural))


def _value(value: Value) -> str:
    if isinstance(value, AddressChunk):
        return " ".join(_addresses(value))
    if isinstance(value, GroupRules):
        return " ".join(rule.id for rule in value.rules)
    return str(value)


def _natural(line: str) -> tuple[int, int, str]:
    """Flows by table and falling priority, everything else by text."""
    if not line.startswith("table="):
        return 0, 0, line
    table, priority, rest = (line.split(" ")[0] + ",").split(",", 2)
    return int(table.removeprefix("table=")), -int(priority.removeprefix("priority=")), rest + line


def as_iptables_save(plan: Plan, family: int) -> str:
    """Return the filter table of a family as ``iptables-save`` would show it, chains sorted.

    Of list chains the rules are sorted, too: their order means nothing.
    """
    chains: dict[str, list[str]] = {}
    for group in plan.groups.values():
        for key, value in group.items.get("iptables", {}).items():
            number, _, chain, *line = key.split(" ", 3)
            if number == str(family):
                rules = line or ([] if value == "*" else str(value).split("\n"))
                chains.setdefault(chain, []).extend(rules)
    for chain, rules in chains.items():
        if is_list_chain(chain):
            rules.sort()
    heads = [f":{chain} - [0:0]" if is_our_chain(chain) else f":{chain} ACCEPT [0:0]" for chain in sorted(chains)]
    body = [f"-A {chain} {rule}" for chain in sorted(chains) for rule in chains[chain]]
    return "\n".join(("*filter", *heads, *body, "COMMIT", ""))


def readable(text: str, plan: Plan, snapshot: HostSnapshot) -> str:
    """Return *text* with names in angle brackets in place of hashes."""
    hashed = [FORWARD_CHAIN, INPUT_CHAIN, *snapshot.security_groups, *snapshot.address_chunks]
    hashed += [rule.id for group in snapshot.security_groups.values() for rule in group.rules]
    for name in hashed:
        text = text.replace(short_hash(name), f"<{name}>")
    policies = {port.security_groups: "+".join(port.security_groups) or "none" for port in snapshot.ports.values()}
    for groups, name in policies.items():
        text = text.replace(short_hash(policy_id(groups)), f"<{name}>")
    return text.replace(short_hash(OPEN.id), "<open>")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_plan_of_a_file(case, tmp_path, update_golden):
    snapshot = named(snapshot_of(case, tmp_path))
    plan = plan_of(snapshot)
    assert plan.problems == ()
    texts = {driver: as_text(plan, driver) for driver in ("ovs", "flows")}
    if case.name.startswith("filters"):
        texts |= {f"iptables{family}": as_iptables_save(plan, family) for family in (4, 6)}
        texts |= {driver: as_text(plan, driver) for driver in ("ipset", "members", "zones", "bridges", "conntrack")}
    for name, text in texts.items():
        expected = case / "expected" / f"{name}.txt"
        text = readable(text, plan, snapshot)
        if update_golden:
            expected.parent.mkdir(exist_ok=True)
            expected.write_text(text)
        assert text == expected.read_text()
