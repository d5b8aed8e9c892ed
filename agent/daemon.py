# SPDX-License-Identifier: Apache-2.0
"""The reconcile loop: wake up, choose what to believe, plan, pass, say how it went.

One thread runs it; everything else (replicas, status, signals) only wakes it or
reads what it has published.
"""

from __future__ import annotations

import gc
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol

from agent import __version__, logs, preview
from agent.announcements import Announcements
from agent.config import AgentConfig
from agent.core import naming
from agent.core.errors import Actor, AgentError, Problem
from agent.core.filter_report import FilterCounts, PortFilter, RuleCounters, port_filters
from agent.core.inputs import HoldLimits, SnapshotChooser
from agent.core.model import HostSnapshot, PortId, RouterId, SwitchView
from agent.core.plan import Driver, ObjectId, Plan
from agent.core.reconciler import Reconciler
from agent.core.report import AgentState, ItemState, PassReport, PortState, RouterState
from agent.core.retry import Allowance
from agent.core.router_report import RoutersReport
from agent.core.router_view import FloatingIpView, RouterView
from agent.core.service_report import PortServices, ServiceCounts, port_services
from agent.drivers.announcer import Announcer
from agent.drivers.flows import FlowsDriver
from agent.drivers.switch import LocalSwitch
from agent.filtering import DEVICES_CHANGED, RULES_CHANGED, Filtering
from agent.gateways import Gateways
from agent.l2.pipeline import Table
from agent.l2.settings import LocalSettings
from agent.l3.state import GatewayState
from agent.planner import NUMBERED_DRIVERS, Planning
from agent.port_states import NOT_FOR_PORTS, PortFacts, concerned, first_by_object, is_news, port_states
from agent.problems import refused_problems, without_repeats
from agent.read_back import ReadBack
from agent.reminders import Reminders
from agent.responding import Responding
from agent.router_repair import SPACES_CHANGED, RouterRepair
from agent.router_states import RouterFacts, router_states, unfinished_routers
from agent.router_views import Facts, Look, floating_ip_views, router_views
from agent.status.sdnotify import Heartbeat
from agent.status.source import readiness
from agent.status_reporter import HostReport, StatusReporter
from agent.store.reader import SnapshotReader
from agent.store.status_writer import StatusWriter
from agent.verification import Verification
from agent.wake import Wake

LOG = logging.getLogger(__name__)

LOST_ATTEMPTS = 7  # failures in a row, 6 to 13 s, after which ports that were up count as down
SWITCH_RESTART_SECONDS = 2.0  # that a restart of ovs-vswitchd is given before ports are announced again
_NO_PASS = frozenset(("announced", "reported", "request"))  # reasons to wake up that change nothing of what is wanted
# The filters are read back when somebody else changes rules, whoever and how often that may be.
OTHERS_AT_ONCE, OTHERS_SHARE = 1.0, 0.1  # seconds of reading in a row; share of the time in the long run
STORED_STATUS_SECONDS = 2.0  # how long the first pass waits for the rows that an earlier process has left


class PassObserver(Protocol):
    """What wants to know of each pass (the metrics)."""

    def observe_pass(self, report: PassReport) -> None:
        """Count what one pass did."""

    def observe_wiring(self, stage: str, seconds: float) -> None:
        """Note how long one port took for *stage*."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop works with; made by ``agent.__main__``."""

    reader: SnapshotReader
    status_writer: StatusWriter
    switch: LocalSwitch
    drivers: tuple[Driver, ...]
    flows: FlowsDriver
    announcer: Announcer
    chooser: SnapshotChooser
    heartbeat: Heartbeat
    reconciler: Reconciler
    wake: Wake
    filtering: Filtering | None
    responding: Responding | None
    gateways: Gateways
    look: Look
    repair: RouterRepair


class Daemon:
    """The loop and what it has published.  Also answers the status page (``StatusSource``)."""

    def __init__(self, config: AgentConfig, local: LocalSettings, parts: Parts) -> None:
        self._config = config
        self._local = local
        self._parts = parts
        self._start_problems: tuple[Problem, ...] = ()
        self._stopping = threading.Event()
        self._observer: PassObserver | None = None
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._planning = Planning(local)
        self._for_others = Allowance(OTHERS_AT_ONCE, OTHERS_SHARE, time.monotonic)
        self._done_with: tuple[HostSnapshot, SwitchView, LocalSettings, GatewayState] | None = None
        self._plan = Plan()
        self._problems: tuple[Problem, ...] = ()
        self._refused: tuple[Problem, ...] = ()
        self._ports: Mapping[PortId, PortState] | None = None
        self._routers: Mapping[RouterId, RouterState] = {}
        self._facts_then: PortFacts | None = None  # what these ports' states were made from
        self._log = logs.StateChangeLog(LOG)
        self._read_back = ReadBack(parts.drivers, time.monotonic, config.passes.resync_interval)
        self._verification = Verification(parts.drivers, self._read_back, time.monotonic)
        self._announcements = Announcements(parts.announcer, time.monotonic, lambda: parts.wake.set("announced"))
        self._reminders = Reminders(parts.announcer, time.monotonic)
        self._reporter = StatusReporter(parts.status_writer, time.monotonic, time.time)
        self._state = AgentState(config.host, __version__, time.time(), store_address=",".join(config.store.connection))
        self.on_converged: Callable[[], None] = lambda: None

    # What other threads may call.

    def state(self) -> AgentState:
        """Return what was last published, with the connections as they are now."""
        reader, switch = self._parts.reader, self._parts.switch
        return replace(
            self._state,
            store_connected=reader.connected(),
            store_in_sync=reader.snapshot().in_sync,
            store_last_sync_at=reader.last_sync_at,
            switch_connected=switch.is_connected(),
            desired_revision=max(reader.snapshot().revision, self._state.desired_revision),
        )

    def plan(self, timeout: float) -> Mapping[str, object]:
        """Return what a pass over the store's present state would do, as JSON values."""
        answer: Future[Mapping[str, object]] = Future()

        def work() -> None:
            try:
                answer.set_result(self._preview())
            except AgentError as err:
                answer.set_exception(err)

        self._requests.put(work)
        self._parts.wake.set("request")
        return answer.result(timeout)

    def flows(self) -> Mapping[str, str]:
        """Return the flows that are wanted."""
        groups = self._plan.groups.values()
        return {key: str(value) for group in groups for key, value in group.items.get("flows", {}).items()}

    def flow_counts(self) -> Mapping[str, int]:
        """Return how many flows of ours each table holds, by the table's name."""
        names = {table.value: table.name.lower() for table in Table}
        # A flow under our cookie in a table that we do not use is somebody's mistake, not a reason to fail.
        return {names.get(number, str(number)): n for number, n in self._parts.flows.flow_counts().items()}

    def port_filters(self, name: str) -> tuple[PortFilter, ...]:
        """Return how the filtered ports called *name* are filtered."""
        done, last = self._done_with, self._state.last_pass
        if done is None or last is None:
            return ()
        return port_filters(name, done[0], self._plan, last.unfinished)

    def rule_counters(self) -> RuleCounters:
        """Read what the rules of the filters have counted."""
        filtering = self._parts.filtering
        return RuleCounters() if filtering is None else filtering.rule_counters()

    def filter_counts(self) -> FilterCounts:
        """Return what the filters' part has counted."""
        filtering = self._parts.filtering
        return FilterCounts() if filtering is None else filtering.counts()

    def port_services(self, name: str) -> tuple[PortServices, ...]:
        """Return how the ports called *name* are served."""
        done, last, responding = self._done_with, self._state.last_pass, self._parts.responding
        if done is None or last is None or responding is None:
            return ()
        return port_services(name, done[0], self._plan, last.unfinished, lambda port: responding.stats(port).port)

    def service_counts(self) -> ServiceCounts:
        """Return what the responder has counted."""
        responding = self._parts.responding
        if responding is None:
            return ServiceCounts()
        try:
            return responding.stats().counts()
        except AgentError:
            return ServiceCounts()

    def routers(self) -> RoutersReport:
        """Return where the gateways of routers are used as seen from here."""
        done = self._done_with
        if done is None:
            return RoutersReport()
        here = [router for router in done[0].routers if f"router:{router}" in self._plan.groups]
        report, states = self._parts.gateways.seen(done[0], here), self._routers
        known = ((router, states.get(router.id)) for router in report.routers)
        routers = (r if state is None else replace(r, ready=state.ready, reason=state.reason) for r, state in known)
        return replace(report, routers=tuple(routers))

    def router_views(self, name: str) -> tuple[RouterView, ...]:
        """Return the routers called *name*."""
        facts = self._router_facts()
        return () if facts is None else router_views(name, facts, self._parts.look)

    def floating_ip_views(self, name: str) -> tuple[FloatingIpView, ...]:
        """Return the floating IPs called *name*."""
        facts = self._router_facts()
        return () if facts is None else floating_ip_views(name, facts, self._parts.look)

    def _router_facts(self) -> Facts | None:
        done, last = self._done_with, self._state.last_pass
        if done is None or last is None:
            return None
        return Facts(done[0], self._plan, self._local, last.unfinished, self.routers())

    def request_resync(self) -> None:
        """Have the next pass read everything back."""
        self._requests.put(self._parts.reconciler.need_resync)
        self._parts.wake.set("resync")

    def release_hold(self) -> None:
        """Let the held desired state be applied."""
        self._requests.put(lambda: self._parts.chooser.release(self._parts.reader.snapshot()))
        self._parts.wake.set("release")

    def set_log_level(self, level: str) -> None:
        """Log *level* and above."""
        logs.set_level(level)

    def live(self) -> tuple[bool, str]:
        """Tell whether the loop advances."""
        return self._parts.heartbeat.live()

    def ready(self) -> tuple[bool, str]:
        """Tell whether the host has converged once and follows."""
        return readiness(self.state())

    def observe_with(self, observer: PassObserver) -> None:
        """Tell *observer* of each pass from now on; before ``run``."""
        self._observer = observer

    def add_problems(self, problems: tuple[Problem, ...]) -> None:
        """Show *problems* of the start in all that is published; before ``run``."""
        self._start_problems = problems

    def switch_lost(self) -> None:
        """Note that ``ovs-vswitchd`` has gone."""
        self._requests.put(lambda: self._announcements.postpone(SWITCH_RESTART_SECONDS))
        self._parts.wake.set("switch")

    def switch_back(self, ofports: Mapping[str, int]) -> None:
        """Note that ``ovs-vswitchd`` was restarted: its flows are gone, its port numbers are *ofports*."""
        self._parts.switch.overlay_ofports(ofports)

        def work() -> None:
            self._parts.reconciler.need_resync(["ovs", "flows"], lost=True)
            self._parts.gateways.lose_flows()

        self._requests.put(work)
        self._parts.wake.set("switch-back")

    def reconfigure(self, config: AgentConfig) -> None:
        """Take over what can change in a running daemon."""

        def work() -> None:
            self._config = config
            self._parts.chooser.limits = HoldLimits(config.passes.hold_share, config.passes.hold_minimum)
            self._read_back.set_interval(config.passes.resync_interval)

        self._requests.put(work)
        self._parts.wake.set("reload")

    def stop(self) -> None:
        """End the loop after the present step; the dataplane stays as it is."""
        self._stopping.set()
        self._parts.wake.set("stop")

    # The loop.

    def run(self) -> None:
        """Reconcile until ``stop``."""
        heartbeat = self._parts.heartbeat
        while not self._stopping.is_set():
            heartbeat.resting()
            reasons = self._parts.wake.wait(min(self._until_due(), heartbeat.longest_rest))
            heartbeat.advanced()
            if self._stopping.is_set():
                break
            while not self._requests.empty():
                self._requests.get()()
            self._advance(dict(reasons))
            if self._done_with is not None:
                snapshot, view = self._done_with[0], self._parts.switch.view()
                self._announcements.step(snapshot, view)
                self._reminders.step(snapshot, view)
            self._reporter.flush(lambda: self._parts.wake.set("reported"))

    def _until_due(self) -> float:
        """Return the seconds until something is to be done without being woken."""
        if self._verification.is_pending():
            return 0.0
        now = time.monotonic()
        at_most = 60.0 if self._state.applied_at is not None else 1.0
        times = (
            self._read_back.next_due(),
            self._parts.reconciler.next_due(),
            self._reporter.next_due(),
            self._announcements.next_due(),
            self._reminders.next_due(),
            self._parts.gateways.next_due(),
        )
        return max(min(due for due in (*times, now + at_most) if due is not None) - now, 0.0)

    def _advance(self, reasons: dict[str, float]) -> None:
        """Do the most urgent thing: a pass if one is due, else look at what passes wrote, else read back a slice."""
        reconciler, now = self._parts.reconciler, time.monotonic()
        due = reconciler.next_due()
        if due is not None and due <= now:
            reasons.setdefault("retry", now)
        due = self._parts.gateways.next_due()
        if due is not None and due <= now:
            reasons.setdefault("gateways", now)
        if reasons.keys() - _NO_PASS or self._state.applied_at is None:
            self._pass(reasons)
            if self._verification.is_late():
                self._verification.step(reconciler)
        elif self._verification.is_pending():
            self._verification.step(reconciler)
        elif self._read_back.step(reconciler):
            self._pass({"drift": now})

    def _pass(self, reasons: Mapping[str, float]) -> None:
        parts = self._parts
        view, live = parts.switch.view(), parts.reader.snapshot()
        snapshot = None
        if view.connected:
            answering = parts.reader.thread.is_answering()
            snapshot = parts.chooser.choose(live, view, time.monotonic(), time.time(), answering=answering)
        if snapshot is None or not self._read_numbers():
            if parts.filtering is not None and not reasons.keys().isdisjoint((RULES_CHANGED, DEVICES_CHANGED)):
                parts.reconciler.need_resync([driver.name for driver in parts.filtering.before_flows])
            self._publish(None, view, None)
            return
        gateways = parts.gateways.decide(snapshot, view, time.monotonic(), converged=self._state.applied_at is not None)
        inputs = (snapshot, view, self._local, gateways)
        unchanged = self._done_with is not None and all(a is b for a, b in zip(self._done_with, inputs, strict=True))
        plan_seconds = 0.0
        if "switch" in reasons:  # a bridge or port of ours may have been taken away; reading the replica costs nothing
            parts.reconciler.read_back(self._driver("ovs"), 0, 1)
        if parts.filtering is not None:
            begun = time.monotonic()
            parts.filtering.read_back(parts.reconciler, reasons)
            if RULES_CHANGED in reasons:
                parts.wake.hold_back(RULES_CHANGED, self._for_others.spend(time.monotonic() - begun))
            parts.filtering.follow(snapshot)
        begun = time.monotonic()
        if SPACES_CHANGED in reasons and parts.repair.read_back(parts.reconciler, self._read_back):
            parts.wake.hold_back(SPACES_CHANGED, self._for_others.spend(time.monotonic() - begun))
        if parts.responding is not None:
            parts.responding.before_pass(parts.reconciler, reasons)
        if not unchanged:
            if self._done_with is not None and self._done_with[0].stale and not snapshot.stale:
                parts.reconciler.need_resync()  # what could not be deleted so far
            parts.chooser.save(snapshot)
            begun = time.monotonic()
            self._plan, problems = self._planning.make(snapshot, view, gateways)
            self._problems = (*self._start_problems, *problems)
            plan_seconds = time.monotonic() - begun
        report = parts.reconciler.run(self._plan, snapshot.revision, tuple(sorted(reasons)), sweep=not snapshot.stale)
        self._after_pass(replace(report, plan_seconds=plan_seconds), snapshot, view, reasons)
        self._done_with = inputs

    def _after_pass(
        self, report: PassReport, snapshot: HostSnapshot, view: SwitchView, reasons: Mapping[str, float]
    ) -> None:
        parts = self._parts
        # Not only when all is done: of instances that are switched off something is missing for weeks.
        if parts.reconciler.is_clean(NUMBERED_DRIVERS) and not snapshot.stale:
            self._planning.settled()
        if report.resync and "flows" not in parts.reconciler.unusable() and parts.switch.is_waiting_for_flows():
            parts.switch.release_restore_wait()  # the flows of the switch that waits have been read and written
        before = self._ports if self._ports is not None else self._stored_ports(snapshot)
        facts = self._facts(report, snapshot, view)
        if self._ports is None or self._facts_then is None or not facts.says_the_same(self._facts_then):
            self._ports = port_states(facts, before, time.time(), self._facts_then)
        self._facts_then = facts
        urgent = is_news(self._ports, before) or self._done_with is None or self._others_changed(snapshot)
        self._refused = refused_problems(report.unfinished, parts.reconciler.desired.owner, snapshot)
        routers = self._router_states(report, snapshot, view, facts.problems)
        urgent |= routers != self._routers
        self._routers = routers
        self._publish(report, view, snapshot)
        self._reporter.say(HostReport(self._ports, snapshot.generation, snapshot.revision, routers), urgent=urgent)
        self._reporter.flush(lambda: parts.wake.set("reported"))
        up = [port for port, state in self._ports.items() if state.up and not (port in before and before[port].up)]
        self._note_wiring(up, report, reasons)
        self._announce(up, report, snapshot)
        self._verification.after_pass(parts.reconciler)
        parts.repair.after_pass(parts.reconciler)
        if parts.filtering is not None and parts.filtering.after_pass(report, parts.reconciler):
            parts.wake.set("judge")
        if self._observer is not None:
            self._observer.observe_pass(report)
        self._log.items(report.unfinished, report.revision)
        self._log.ports(self._ports, report.revision)
        self._log.routers(routers, snapshot.routers, report.revision)
        if any(snapshot.host in router.gateway_hosts for router in snapshot.routers.values()):
            gateways = parts.gateways.report
            self._log.fact("gateways", gateways.reason.value or "usable", gateways.detail, good=not gateways.why_not)

    def _announce(self, up: Iterable[PortId], report: PassReport, snapshot: HostSnapshot) -> None:
        """Announce the ports that have come up, and addresses of routers that have appeared.

        In the first pass only those of which flows had to be written: all else works as it did before.
        """
        if self._done_with is not None:
            self._announcements.add(up, snapshot)
            self._announcements.hear(self._plan.voices, self._shut(report))
            return
        new = self._parts.reconciler.objects_written("flows")
        self._announcements.add([port for port in up if ObjectId(f"port:{port}") in new], snapshot)
        self._announcements.hear(self._plan.voices, self._shut(report), adopted=lambda what: what not in new)

    def _shut(self, report: PassReport) -> frozenset[ObjectId]:
        """Return what has flows that are not in place: it cannot speak yet."""
        owner = self._parts.reconciler.desired.owner
        found = (owner(ref) for ref in report.unfinished if ref.driver == "flows")
        return frozenset(object_id for object_id in found if object_id is not None)

    def _router_states(
        self, report: PassReport, snapshot: HostSnapshot, view: SwitchView, problems: Mapping[str, str]
    ) -> Mapping[RouterId, RouterState]:
        if not snapshot.routers:
            return {}
        unfinished = unfinished_routers(report.unfinished, self._parts.reconciler.desired.owner, snapshot)
        gateways = self._parts.gateways.report
        facts = RouterFacts(snapshot, self._plan, view, gateways.state, gateways.why_not, unfinished, problems)
        return router_states(facts, self._routers, time.time())

    def _facts(self, report: PassReport, snapshot: HostSnapshot, view: SwitchView) -> PortFacts:
        reconciler = self._parts.reconciler
        unfinished: dict[str, str] = {}
        for ref, status in report.unfinished.items():
            owner = reconciler.desired.owner(ref)
            if owner is not None and status.state is not ItemState.PENDING and ref.driver not in NOT_FOR_PORTS:
                unfinished.setdefault(concerned(owner), f"{ref.driver}: {status.message}")
        return PortFacts(
            snapshot,
            view,
            unfinished,
            reconciler.unusable(),
            reconciler.unusable(LOST_ATTEMPTS),
            first_by_object(self._all_problems()),
            services=self._local.services,
        )

    def _all_problems(self) -> tuple[Problem, ...]:
        reconciler = self._parts.reconciler
        problems = (*self._problems, *reconciler.clashes(), *self._parts.reader.troubles())
        if self._parts.filtering is not None:
            problems = (*problems, *self._parts.filtering.problems())
        told = self._parts.responding.problems() if self._parts.responding is not None else ()
        # Why there is no responder its driver knows from who keeps it running.
        problems = (*problems, *told, *without_repeats(reconciler.troubles(), told))
        error = self._parts.chooser.file_error
        if error is not None:
            problems = (*problems, Problem("host", "state_dir", error, Actor.OPERATOR))
        return problems

    def _publish(self, report: PassReport | None, view: SwitchView, snapshot: HostSnapshot | None) -> None:
        state, chooser = self._state, self._parts.chooser
        live = self._parts.reader.snapshot()
        state = replace(state, hold=chooser.hold, desired_revision=live.revision)
        state = replace(state, problems=(*self._all_problems(), *self._refused))
        if report is not None and snapshot is not None and self._ports is not None:
            first = state.applied_at is None
            state = replace(
                state,
                generation=snapshot.generation,
                applied_revision=snapshot.revision,
                applied_at=time.time(),
                stale=snapshot.stale,
                ports=self._ports,
                network_names={network.id: network.name for network in snapshot.networks.values()},
                objects={
                    "networks": len(snapshot.networks),
                    "ports": len(snapshot.ports),
                    "endpoints": sum(len(endpoints) for endpoints in snapshot.endpoints.values()),
                    "hosts": len(snapshot.hosts),
                    "routers": len(snapshot.routers),
                    "floating_ips": sum(len(floating) for floating in snapshot.floating_ips.values()),
                    "security_groups": len(snapshot.security_groups),
                    "hybrid_ports": sum(naming.is_hybrid_interface(i.name) for i in view.interfaces.values()),
                    "served_ports": sum(f"port:{port}/dhcp" in self._plan.groups for port in snapshot.ports),
                    "interfaces": len(view.interfaces),
                },
                items=self._parts.reconciler.desired.count(),
                last_pass=report,
            )
            if not live.in_sync:
                state = replace(state, desired_revision=snapshot.revision)
            self._state = state
            if first:
                gc.collect()
                gc.freeze()  # what the first pass made stays: later collections need not look at it
                if snapshot.routers:
                    self._parts.wake.set("gateways")  # from now on they may be used
                self.on_converged()
        self._state = state
        for name, there in (("store", self._parts.reader.connected()), ("switch", self._parts.switch.is_connected())):
            self._log.fact(name, "connected" if there else "away", good=there)

    # Parts of a pass.

    def _driver(self, name: str) -> Driver:
        return next(driver for driver in self._parts.drivers if driver.name == name)

    def _read_numbers(self) -> bool:
        """Learn the numbers that are in use, before the first plan."""
        if not self._planning.knows_numbers:
            try:
                items = self._driver("ovs").observe()
                self._planning.adopt_numbers(items)
                self._parts.gateways.adopt(items)
            except AgentError as err:
                LOG.warning("allocated numbers cannot be read yet: %s", err)
                return False
        return True

    def _stored_ports(self, snapshot: HostSnapshot) -> Mapping[PortId, PortState]:
        """Return the states that an earlier process has written, so that ``since`` goes on."""
        if snapshot.stale or not self._parts.reader.connected():
            return {}
        try:
            stored = self._parts.status_writer.stored().result(STORED_STATUS_SECONDS)
        except (AgentError, TimeoutError):
            return {}
        return {
            port: PortState(port, item.name, item.network, stored[port].up, stored[port].reason, stored[port].since)
            for port, item in snapshot.ports.items()
            if port in stored
        }

    def _others_changed(self, snapshot: HostSnapshot) -> bool:
        """Tell whether the store brought this host anything but a new revision."""
        if self._done_with is None:
            return True
        before = self._done_with[0]
        return snapshot is not before and not (
            snapshot.ports is before.ports
            and snapshot.networks is before.networks
            and snapshot.subnets is before.subnets
            and snapshot.endpoints is before.endpoints
            and snapshot.hosts is before.hosts
            and snapshot.security_groups is before.security_groups
            and snapshot.address_chunks is before.address_chunks
            and snapshot.owners is before.owners
            and snapshot.routers is before.routers
            and snapshot.floating_ips is before.floating_ips
            and snapshot.port_forwardings is before.port_forwardings
            and snapshot.metadata_service == before.metadata_service
        )

    def _note_wiring(self, up: list[PortId], report: PassReport, reasons: Mapping[str, float]) -> None:
        if self._observer is None or self._done_with is None or not up:
            return
        seen = min(reasons.values(), default=time.monotonic())
        ended = time.monotonic()
        waited = max(ended - report.seconds - report.plan_seconds - seen, 0.0)
        for _ in up:
            self._observer.observe_wiring("plan", waited)
            self._observer.observe_wiring("apply", report.seconds + report.plan_seconds)
            self._observer.observe_wiring("total", ended - seen)

    def _preview(self) -> Mapping[str, object]:
        """Plan the store's present state from scratch and compare it with what is there."""
        view, live = self._parts.switch.view(), self._parts.reader.snapshot()
        snapshot = live if live.in_sync else self._parts.chooser.accepted
        if snapshot is None or not view.connected or not self._read_numbers():
            raise AgentError("nothing to plan from yet: store or switch have not answered")
        plan, problems = self._planning.afresh(snapshot, view, self._parts.gateways.report.state)
        deltas = self._parts.reconciler.preview(plan)
        return preview.as_json(snapshot, deltas, problems, self._parts.chooser.hold)
