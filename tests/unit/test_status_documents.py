# SPDX-License-Identifier: Apache-2.0
"""What is documented is there, and what is there is documented."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.core.model import NetworkId, PortId
from agent.core.plan import ItemRef
from agent.core.report import HoldState, ItemState, ObjectStatus, Operations, PassReport, PortState
from agent.core.service_report import ServiceCounts
from agent.status import answers
from agent.status.metrics import SERVICE_COUNTERS, AgentMetrics
from agent.status.sdnotify import Heartbeat, Notifier
from agent.status.server import Pages
from tests.fakes.status_source import FakeSource

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def source():
    """A daemon whose every field has something in it."""
    port = PortState(PortId("p"), "vm1", NetworkId("n"), up=False, reason="no interface", since=1.0)
    unfinished = {ItemRef("flows", "k"): ObjectStatus(ItemState.ERROR, "refused", 1.0)}
    done = {"flows": Operations(created=1, failed=1)}
    report = PassReport(7, 1.0, 0.5, resync=True, operations=done, unfinished=unfinished)
    source = FakeSource(known_flows={"table=0,priority=1": "drop"})
    counted = {name: {tuple((label, "x") for label in labels): 1.0} for name, (_, labels) in SERVICE_COUNTERS.items()}
    source.service_counters = ServiceCounts(up=True, counters=counted)
    source.current = replace(
        source.current,
        ports={port.id: port},
        network_names={port.network: "blue"},
        objects={"networks": 1},
        items={"flows": 3},
        last_pass=report,
        hold=HoldState(1.0, 8, 20, 15, "15 of 20 ports would go"),
    )
    return source


def test_the_table_of_metrics_is_complete_and_true(source):
    metrics = AgentMetrics(source, Heartbeat(Notifier(None)), now=lambda: 2.0)
    assert source.current.last_pass is not None
    metrics.observe_pass(source.current.last_pass)
    metrics.observe_command("ovs-ofctl", 0.1, False)
    metrics.observe_wiring("total", 0.1)
    exported = {}
    for family in text_string_to_metric_families(metrics.scrape("")[1].decode()):
        if family.name.startswith("hostplane_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            exported[name] = (family.type, labels)

    documented = {}
    for line in (DOCS / "metrics.md").read_text().splitlines():
        if row := re.match(r"\| `(hostplane_\w+)(?:\{([a-z,]+)\})?` \| (\w+) \|", line):
            documented[row[1]] = (row[3], set(row[2].split(",")) if row[2] else set())

    assert documented == exported


def test_every_page_is_documented_and_every_documented_page_is_there(source):
    pages = Pages(source, lambda accept: ("", b""), lambda: 0.0)
    documented = set(re.findall(r"^\| `(GET|POST) (/\S+)` \|", (DOCS / "status.md").read_text(), re.MULTILINE))
    assert documented == pages.paths()


def test_every_field_is_documented(source):
    text = (DOCS / "status.md").read_text()
    state = source.current
    shown = [
        answers.envelope(state, 2.0),
        answers.status(state, 2.0),
        answers.ports(state),
        answers.networks(state),
        answers.problems(state),
        answers.flows(source.flow_counts(), source.known_flows),
    ]
    values = {"flows", "networks", "classify"}  # a driver, a noun and a table: keys, but no fields
    for name in set(fields(shown)) - values:
        assert f"`{name}`" in text, name


def fields(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner)
