# SPDX-License-Identifier: Apache-2.0
"""Golden cases: a file for ``apply -f``, through the real writer, store, reader and planner, to text.

``pytest tests/golden --update-golden`` writes the expected files anew; read the
difference before it is committed.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from agent.cli.yaml_file import parse_file
from agent.core import codec
from agent.core.allocations import Claim
from agent.core.memo import Memo
from agent.core.model import HostName, HostSnapshot, PluggedInterface, SwitchView
from agent.core.plan import Plan
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
    names = {str(port.id): port.name for port in snapshot.ports.values()}
    names |= {str(network.id): network.name for network in snapshot.networks.values()}
    for uuid, name in names.items():
        text = text.replace(uuid, name)
    return codec.apply(HostSnapshot(HOST), json.loads(text))


def plan_of(snapshot: HostSnapshot) -> Plan:
    """Plan with numbers and OpenFlow ports in the order of names."""
    interfaces = {port: PluggedInterface(f"tap-{port}", port, n) for n, port in enumerate(sorted(snapshot.ports), 1)}
    numbers = {Claim("network", network): n for n, network in enumerate(sorted(snapshot.networks), 1)}
    switch = SwitchView(True, frozenset({"br-int", *MAPPINGS.values()}), interfaces, OFPORTS)
    return build_plan(snapshot, numbers, switch, Memo(), LocalSettings(underlay(1), BOTH, MAPPINGS, "netdev"))


def as_text(plan: Plan, driver: str) -> str:
    """Return all items of one driver, sorted."""
    items = [item for group in plan.groups.values() for item in group.items.get(driver, {}).items()]
    return "".join(sorted((f"{key} -> {value}\n" for key, value in items), key=_natural))


def _natural(line: str) -> tuple[int, int, str]:
    """Flows by table and falling priority, everything else by text."""
    if not line.startswith("table="):
        return 0, 0, line
    table, priority, rest = (line.split(" ")[0] + ",").split(",", 2)
    return int(table.removeprefix("table=")), -int(priority.removeprefix("priority=")), rest + line


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_plan_of_a_file(case, tmp_path, update_golden):
    plan = plan_of(named(snapshot_of(case, tmp_path)))
    assert plan.problems == ()
    for driver in ("ovs", "flows"):
        expected = case / "expected" / f"{driver}.txt"
        text = as_text(plan, driver)
        if update_golden:
            expected.parent.mkdir(exist_ok=True)
            expected.write_text(text)
        assert text == expected.read_text()
