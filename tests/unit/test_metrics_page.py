# SPDX-License-Identifier: Apache-2.0
"""The metrics page, read as Prometheus reads it."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.core.errors import Actor, Problem
from agent.core.model import NetworkId, PortId
from agent.core.plan import ItemRef
from agent.core.report import ItemState, ObjectStatus, Operations, PassReport, PortState
from agent.status.metrics import AgentMetrics
from agent.status.sdnotify import Heartbeat, Notifier
from tests.fakes.status_source import FakeSource

NOW = 2000.0


@pytest.fixture
def source():
    return FakeSource()


@pytest.fixture
def metrics(source):
    return AgentMetrics(source, Heartbeat(Notifier(None)), now=lambda: NOW)


def scraped(metrics):
    """Return (name, labels) -> value of one scrape."""
    _, body = metrics.scrape("")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return scraped(metrics)[f"hostplane_{name}", tuple(sorted(labels.items()))]


def report(**changes):
    return replace(PassReport(revision=7, started_at=1990.0, seconds=0.02), **changes)


def test_revisions_and_connections_are_those_of_the_state(source, metrics):
    source.current = replace(
        source.current,
        store_connected=True,
        store_in_sync=True,
        store_last_sync_at=1999.5,
        desired_revision=9,
        applied_revision=8,
    )
    assert value(metrics, "store_connected") == 1
    assert value(metrics, "store_last_sync_timestamp_seconds") == NOW  # an idle store is no stale store
    assert value(metrics, "desired_revision") == 9
    assert value(metrics, "applied_revision") == 8
    assert value(metrics, "converged") == 0
    assert value(metrics, "live") == 1
    assert value(metrics, "ready") == 0
    source.current = replace(source.current, applied_revision=9)
    assert value(metrics, "converged") == 1
    source.current = replace(source.current, store_connected=False)
    assert value(metrics, "store_last_sync_timestamp_seconds") == 1999.5


def test_ports_are_counted_by_state_and_never_named(source, metrics):
    ports = {
        PortId(f"p{n}"): PortState(PortId(f"p{n}"), f"vm{n}", NetworkId("n"), up=n < 6, reason="", since=0.0)
        for n in range(10)
    }
    problems = (Problem("port:p9", "mac_address", "is no unicast address", Actor.CLOUD),)
    source.current = replace(source.current, ports=ports, problems=problems, objects={"networks": 3, "endpoints": 40})
    assert {s: value(metrics, "objects", kind="ports", state=s) for s in ("desired", "actual", "pending", "error")} == {
        "desired": 10,
        "actual": 6,
        "pending": 3,
        "error": 1,
    }
    assert value(metrics, "objects", kind="endpoints", state="desired") == 40
    assert value(metrics, "problems") == 1
    assert value(metrics, "resource_pressure", resource="network_numbers") == 3 / 65535
    assert not any("vm1" in str(labels) or "p1" in str(labels) for _, labels in scraped(metrics))


def test_items_that_are_not_done_are_a_queue_with_an_age(source, metrics):
    unfinished = {
        ItemRef("flows", "a"): ObjectStatus(ItemState.ERROR, "refused", since=1940.0, attempts=3),
        ItemRef("flows", "b"): ObjectStatus(ItemState.BLOCKED, "waits", since=1990.0),
        ItemRef("ovs", "c"): ObjectStatus(ItemState.PENDING, "changed", since=1980.0),
    }
    source.current = replace(source.current, items={"flows": 30, "ovs": 2}, last_pass=report(unfinished=unfinished))
    assert value(metrics, "queue_length") == 3
    assert value(metrics, "queue_oldest_seconds") == 60.0
    assert value(metrics, "items", driver="flows", state="actual") == 28
    assert value(metrics, "items", driver="flows", state="error") == 1
    assert value(metrics, "items", driver="ovs", state="pending") == 1


def test_passes_move_counters_and_histograms(metrics):
    metrics.observe_pass(
        report(
            operations={
                "flows": Operations(created=5, updated=1, deleted=2, failed=3, seconds=0.02, failures={"timeout": 2}),
                "ovs": Operations(),
            }
        )
    )
    metrics.observe_pass(
        report(resync=True, operations={"flows": Operations(created=1, drifted=1, seconds=0.001, read_seconds=0.3)})
    )
    assert value(metrics, "operations_total", driver="flows", op="create", result="ok") == 6
    assert value(metrics, "operations_total", driver="flows", op="any", result="failed") == 3
    assert value(metrics, "apply_failures_total", driver="flows", reason="timeout") == 2
    assert value(metrics, "apply_failures_total", driver="flows", reason="other") == 1
    assert value(metrics, "apply_duration_seconds_count", driver="flows") == 2
    assert value(metrics, "apply_duration_seconds_sum", driver="flows") == pytest.approx(0.021)
    assert ("hostplane_apply_duration_seconds_count", (("driver", "ovs"),)) not in scraped(metrics)
    assert value(metrics, "resync_duration_seconds_sum", driver="flows") == pytest.approx(0.3)
    assert value(metrics, "drift_detected_total", kind="flows") == 1
    assert value(metrics, "drift_repaired_total", kind="flows") == 1
    assert value(metrics, "passes_total", resync="false") == 1
    assert value(metrics, "passes_total", resync="true") == 1


def test_commands_are_timed_by_program_name(metrics):
    metrics.observe_command("/usr/bin/ovs-ofctl", 0.02, True)
    metrics.observe_command("ovs-ofctl", 10.0, False)
    assert value(metrics, "command_duration_seconds_count", command="ovs-ofctl") == 2
    assert value(metrics, "command_failures_total", command="ovs-ofctl") == 1


def test_wiring_has_known_stages_only(metrics):
    metrics.observe_wiring("total", 0.04)
    assert value(metrics, "port_wiring_seconds_count", stage="total") == 1
    with pytest.raises(ValueError, match="port-7"):
        metrics.observe_wiring("port-7", 0.04)


def test_flows_are_counted_by_table(source, metrics):
    source.known_flows = {"table=0,priority=1": "drop", "table=60,priority=1": "", "table=60,priority=2": ""}
    assert value(metrics, "flows", table="local") == 2


def test_names_follow_the_conventions_of_prometheus(source, metrics):
    metrics.observe_pass(report(operations={"flows": Operations(created=1, failed=1, drifted=1)}))
    metrics.observe_command("ovs-ofctl", 0.1, False)
    metrics.observe_wiring("total", 0.1)
    families = list(text_string_to_metric_families(metrics.scrape("")[1].decode()))
    for family in families:
        assert family.documentation, family.name
        assert re.fullmatch(r"(hostplane|process)_[a-z0-9_]+", family.name), family.name
        assert not re.search(r"(milliseconds|micros|_ms|_kb|_mb)$", family.name), family.name
        if family.type == "counter":
            assert all(s.name.endswith("_total") for s in family.samples), family.name
    names = {family.name for family in families}
    assert {"process_resident_memory_bytes", "process_cpu_seconds", "hostplane_build_info"} <= names
    assert not any(name.endswith("_created") for name in names)


def test_a_scraper_may_ask_for_openmetrics(metrics):
    content_type, body = metrics.scrape("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_metrics_bring_no_second_server_and_no_event_loop_of_their_own():
    program = (
        "import sys; import agent.status.metrics, agent.status.server; "
        "print([m for m in ('twisted', 'asyncio', 'aiohttp', 'django', 'eventlet', 'scapy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
