# SPDX-License-Identifier: Apache-2.0
"""Metrics for Prometheus: a registry of our own, read at scrape time.

Gauges are computed from the published ``AgentState`` when somebody scrapes; counters
and histograms are moved by what the loop reports (``observe_...``).  Labels have few
and known values: no series per port, network or rule.  ``docs/metrics.md`` says what
each one means.

Served by ``agent.status.server``; the library's own HTTP server is not used.
"""

from __future__ import annotations

import os
import platform
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from agent.core.allocations import RANGES
from agent.core.report import AgentState, ItemState, PassReport
from agent.core.router_report import RoutersReport, SessionState
from agent.core.service_report import ServiceCounts
from agent.status.answers import last_sync_at
from agent.status.conntrack_usage import ConntrackUsage, conntrack_usage
from agent.status.sdnotify import Heartbeat
from agent.status.source import StatusSource

PREFIX = "hostplane"

# Applying takes from a fraction of a millisecond (an empty batch) to a third of the watchdog's time.
DURATIONS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

SERVICE_COUNTERS = {
    "dhcp_messages": ("DHCP messages of instances.", ("family", "type", "result")),
    "ra_sent": ("Router advertisements sent.", ("kind",)),
    "nd_messages": ("Neighbor solicitations to the responder.", ("result",)),
    "metadata_requests": ("Metadata requests, by the status that answered them.", ("family", "code")),
    "rate_limited": ("What instances asked too often.", ("what", "family")),
    "dropped_frames": ("Frames to the responder that are of no served port, or broken.", ("reason",)),
}
"""What the responder counts, with the labels that it counts by."""

WIRING_STAGES = ("plan", "apply", "total")
"""From the interface's appearance in OVSDB until its pass began, from there until up, and both together."""


class AgentMetrics:
    """All metrics of one daemon.  Thread-safe."""

    def __init__(self, source: StatusSource, heartbeat: Heartbeat, now: Callable[[], float]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else each histogram is one more series
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(_StateCollector(source, heartbeat, now))
        self._apply = self._histogram(
            "apply_duration_seconds", "Time one driver took to write a pass's change", "driver"
        )
        self._resync = self._histogram(
            "resync_duration_seconds", "Time one driver took to read back all that is ours", "driver"
        )
        self._pass = self._histogram("pass_duration_seconds", "Time of a whole pass")
        self._plan = self._histogram("plan_duration_seconds", "Time of planning in a pass")
        self._wiring = self._histogram("port_wiring_seconds", "From interface in OVSDB to port up", "stage")
        self._commands = self._histogram("command_duration_seconds", "Time external commands took", "command")
        self._command_failures = self._counter("command_failures", "External commands that failed", "command")
        self._command_input = self._counter("command_input_bytes", "Bytes given to external commands", "command")
        self._passes = self._counter("passes", "Passes", "resync")
        self._operations = self._counter("operations", "Items written", "driver", "op", "result")
        self._failures = self._counter("apply_failures", "Items that could not be written", "driver", "reason")
        self._drift_detected = self._counter("drift_detected", "Items that somebody else had changed", "kind")
        self._drift_repaired = self._counter("drift_repaired", "Items of these that were put right", "kind")

    def observe_pass(self, report: PassReport) -> None:
        """Count what one pass did."""
        self._passes.labels("true" if report.resync else "false").inc()
        self._pass.observe(report.seconds)
        self._plan.observe(report.plan_seconds)
        for driver, done in report.operations.items():
            written = done.created + done.updated + done.deleted + done.failed
            if report.resync:
                self._resync.labels(driver).observe(done.read_seconds)
            if written:
                self._apply.labels(driver).observe(done.seconds)
            for op, count in (("create", done.created), ("update", done.updated), ("delete", done.deleted)):
                self._operations.labels(driver, op, "ok").inc(count)
            self._operations.labels(driver, "any", "failed").inc(done.failed)
            named = sum(done.failures.values())
            for reason, count in {**done.failures, "other": max(done.failed - named, 0)}.items():
                if count:
                    self._failures.labels(driver, reason).inc(count)
            self._drift_detected.labels(driver).inc(done.drifted)
            self._drift_repaired.labels(driver).inc(max(done.drifted - done.failed, 0))

    def observe_wiring(self, stage: str, seconds: float) -> None:
        """Note how long one port took for *stage*, one of ``WIRING_STAGES``."""
        if stage not in WIRING_STAGES:
            raise ValueError(f"{stage!r} is not one of {WIRING_STAGES}")
        self._wiring.labels(stage).observe(seconds)

    def observe_command(self, program: str, seconds: float, succeeded: bool, size: int = 0) -> None:
        """Note one external command, *size* the bytes that it was given; fits ``agent.command.Timed``."""
        name = PurePath(program).name
        self._commands.labels(name).observe(seconds)
        self._command_input.labels(name).inc(size)
        if not succeeded:
            self._command_failures.labels(name).inc()

    def scrape(self, accept: str) -> tuple[str, bytes]:
        """Return content type and body for a client that sends *accept*."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text + ".", labels, namespace=PREFIX, registry=self._registry, buckets=DURATIONS)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text + ".", labels, namespace=PREFIX, registry=self._registry)


class _StateCollector(Collector):
    """Turns what the daemon has published into gauges."""

    def __init__(self, source: StatusSource, heartbeat: Heartbeat, now: Callable[[], float]) -> None:
        self._source = source
        self._heartbeat = heartbeat
        self._now = now

    def collect(self) -> Iterator[Metric]:
        state = self._source.state()
        yield _info(state)
        yield from self._of_loop(state)
        yield from _of_store(state, self._now())
        yield _objects(state)
        yield _items(state)
        yield _labelled("flows", "Flows of ours, by table.", "table", self._source.flow_counts())
        counts = self._source.filter_counts()
        text = "Connections ended because nothing allows them any more."
        yield _total("conntrack_deleted", text, counts.connections_ended)
        yield _total("packets_logged", "Packets that security groups logged.", counts.packets_logged)
        yield _total("packets_log_lost", "Packets whose log was lost.", counts.packets_lost)
        yield from _services(self._source.service_counts())
        yield from _routers(self._source.routers())
        usage = conntrack_usage()
        yield _gauge("conntrack_entries", "Connections that the kernel tracks, of all zones.", usage.entries)
        yield _gauge("conntrack_limit", "Connections that the kernel can track; 0: it tracks none.", usage.limit)
        yield _labelled(
            "resource_pressure", "Share in use of what is limited; 1 is full.", "resource", _pressure(state, usage)
        )

    def _of_loop(self, state: AgentState) -> Iterator[Metric]:
        unfinished = state.last_pass.unfinished.values() if state.last_pass is not None else ()
        since = min((status.since for status in unfinished), default=None)
        oldest = 0.0 if since is None else max(self._now() - since, 0.0)
        yield _gauge("live", "Whether the reconcile loop advances.", self._source.live()[0])
        yield _gauge("ready", "Whether the host has converged once and follows.", self._source.ready()[0])
        yield _gauge("queue_length", "Items that are not done and will be tried again.", len(unfinished))
        yield _gauge("queue_oldest_seconds", "Age of the oldest of these.", oldest)
        text = "Longest time between two steps of the loop within the last one to two minutes."
        yield _gauge("loop_blocked_seconds_max", text, self._heartbeat.blocked_seconds_max())


def _info(state: AgentState) -> Metric:
    labels = {"version": state.version, "python": platform.python_version(), "kernel": os.uname().release}
    return InfoMetricFamily(f"{PREFIX}_build", "What runs here.", value=labels)


def _of_store(state: AgentState, now: float) -> Iterator[Metric]:
    yield _gauge("store_connected", "Whether the store is connected.", state.store_connected)
    yield _gauge("store_in_sync", "Whether the desired state is that of the store.", state.store_in_sync)
    yield _gauge("store_stale", "Whether the desired state is from the snapshot on disk.", state.stale)
    text = "When the desired state was last known to be that of the store; 0: never."
    yield _gauge("store_last_sync_timestamp_seconds", text, last_sync_at(state, now) or 0.0)
    yield _gauge("switch_connected", "Whether the local Open vSwitch is connected.", state.switch_connected)
    yield _gauge("desired_revision", "Revision of the store that is desired.", state.desired_revision)
    yield _gauge("applied_revision", "Revision of the store that is in place.", state.applied_revision)
    yield _gauge("converged", "Whether what is desired is in place, but for named failures.", state.converged)
    yield _gauge("held", "Whether a change that takes too much away is held.", state.hold is not None)
    yield _gauge("problems", "Objects that cannot be served as the store wants them.", len(state.problems))


def _objects(state: AgentState) -> Metric:
    """Count by noun; ports also by state: up, waiting, or with a named problem."""
    family = GaugeMetricFamily(f"{PREFIX}_objects", "Objects that this host serves.", labels=("kind", "state"))
    for noun, count in state.objects.items():
        if noun != "ports":
            family.add_metric((noun, "desired"), count)
    broken = {problem.object_id for problem in state.problems}
    up = sum(1 for port in state.ports.values() if port.up)
    error = sum(1 for port in state.ports.values() if not port.up and f"port:{port.id}" in broken)
    counts = {"desired": len(state.ports), "actual": up, "error": error, "pending": len(state.ports) - up - error}
    for name, count in counts.items():
        family.add_metric(("ports", name), count)
    return family


def _items(state: AgentState) -> Metric:
    """Count items of kernel and switch by driver."""
    family = GaugeMetricFamily(f"{PREFIX}_items", "Items of kernel and switch.", labels=("driver", "state"))
    unfinished = state.last_pass.unfinished if state.last_pass is not None else {}
    tally = Tally((ref.driver, status.state) for ref, status in unfinished.items())
    for driver, desired in state.items.items():
        error = tally[driver, ItemState.ERROR]
        pending = tally[driver, ItemState.PENDING] + tally[driver, ItemState.BLOCKED]
        actual = max(desired - error - pending, 0)
        for name, count in (("desired", desired), ("actual", actual), ("error", error), ("pending", pending)):
            family.add_metric((driver, name), count)
    return family


def _services(counts: ServiceCounts) -> Iterator[Metric]:
    """Yield what the responder has counted; it starts from 0 with each responder, as counters may."""
    yield _gauge("responder_up", "Whether the responder answers.", counts.up)
    for name, (text, labels) in SERVICE_COUNTERS.items():
        family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
        for pairs, number in counts.counters.get(name, {}).items():
            given = dict(pairs)
            family.add_metric([given.get(label, "") for label in labels], number)
        yield family
    connections = counts.counters.get("connections", {})
    yield _gauge("metadata_connections", "Open connections to the metadata service.", sum(connections.values()))


def _routers(report: RoutersReport) -> Iterator[Metric]:
    here = [router for router in report.routers if router.lives_here]
    yield _gauge("routers", "Routers that have a namespace on this host.", len(here))
    text = "Routers that have a namespace on this host and of which nothing is missing."
    yield _gauge("routers_ready", text, sum(router.ready for router in here))
    text = "Routers whose gateway is active on this host."
    yield _gauge("gateways_active", text, sum(router.active for router in report.routers))
    yield _gauge("gateways_usable", "Whether gateways of this host may be used.", not report.reason)
    yield _total("gateway_failovers", "Times that another gateway was chosen.", report.failovers)
    yield _total("gateway_conflicts", "Times that two gateways were active at once.", report.conflicts)
    tally = Tally(watched.state.value for watched in report.hosts)
    values = {state.value: tally[state.value] for state in SessionState}
    yield _labelled("watched_hosts", "Hosts that are watched (BFD), by how they look.", "state", values)


def _pressure(state: AgentState, usage: ConntrackUsage) -> Mapping[str, float]:
    pressure = {
        "network_numbers": state.objects.get("networks", 0) / len(RANGES["network"]),
        "responder_numbers": state.objects.get("served_ports", 0) / len(RANGES["responder"]),
        "conntrack_zones": state.objects.get("hybrid_ports", 0) / len(RANGES["zone"]),
    }
    if usage.limit:
        pressure["conntrack"] = usage.entries / usage.limit
    return pressure


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=float(value))


def _total(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, value=float(value))


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
