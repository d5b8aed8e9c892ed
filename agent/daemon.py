# SPDX-License-Identifier: Apache-2.0
"""The reconcile loop: wake up, choose what to believe, plan, pass, say how it went.

One thread runs it; everything else (replicas, status, signals) only wakes it or
reads what it has published (``agent.outcome``).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace

from agent import logs, preview
from agent.announcements import Announcements
from agent.config import AgentConfig
from agent.core.errors import AgentError, Problem
from agent.core.filter_report import FilterCounts, PortFilter, RuleCounters, port_filters
from agent.core.inputs import HoldLimits
from agent.core.model import HostSnapshot, PortId, SwitchView
from agent.core.plan import Driver, ObjectId, Plan
from agent.core.report import AgentState, PassReport
from agent.core.retry import Allowance
from agent.core.router_report import RoutersReport
from agent.core.router_view import FloatingIpView, RouterView
from agent.core.service_report import PortServices, ServiceCounts, port_services
from agent.filtering import DEVICES_CHANGED, RULES_CHANGED
from agent.l2.pipeline import Table
from agent.l2.settings import LocalSettings
from agent.l3.state import GatewayState
from agent.outcome import Done, Outcome, PassObserver
from agent.parts import Parts
from agent.planner import NUMBERED_DRIVERS, Planning
from agent.read_back import ReadBack
from agent.reminders import Reminders
from agent.router_repair import SPACES_CHANGED
from agent.router_views import Facts, floating_ip_views, router_views
from agent.status.source import readiness
from agent.verification import Verification

LOG = logging.getLogger(__name__)

SWITCH_RESTART_SECONDS = 2.0  # that a restart of ovs-vswitchd is given before ports are announced again
_NO_PASS = frozenset(("announced", "reported", "request"))  # reasons to wake up that change nothing of what is wanted
# The filters are read back when somebody else changes rules, whoever and how often that may be.
OTHERS_AT_ONCE, OTHERS_SHARE = 1.0, 0.1  # seconds of reading in a row; share of the time in the long run


class Daemon:
    """The loop.  Also answers the status page (``StatusSource``)."""

    def __init__(self, config: AgentConfig, local: LocalSettings, parts: Parts) -> None:
        self._config = config
        self._local = local
        self._parts = parts
        self._stopping = threading.Event()
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._planning = Planning(local)
        self._for_others = Allowance(OTHERS_AT_ONCE, OTHERS_SHARE, time.monotonic)
        self._done_with: tuple[HostSnapshot, SwitchView, LocalSettings, GatewayState] | None = None
        self._plan = Plan()
        self._outcome = Outcome(config, local, parts)
        self._read_back = ReadBack(parts.drivers, time.monotonic, config.passes.resync_interval)
        self._verification = Verification(parts.drivers, self._read_back, time.monotonic)
        self._announcements = Announcements(parts.announcer, time.monotonic, lambda: parts.wake.set("announced"))
        self._reminders = Reminders(parts.announcer, time.monotonic)

    # What other threads may call.

    def state(self) -> AgentState:
        """Return what was last published, with the connections as they are now."""
        reader, switch = self._parts.reader, self._parts.switch
        return replace(
            self._outcome.state,
            store_connected=reader.connected(),
            store_in_sync=reader.snapshot().in_sync,
            store_last_sync_at=reader.last_sync_at,
            switch_connected=switch.is_connected(),
            desired_revision=max(reader.snapshot().revision, self._outcome.state.desired_revision),
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
        done, last = self._done_with, self._outcome.state.last_pass
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
        done, last, responding = self._done_with, self._outcome.state.last_pass, self._parts.responding
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
        report, states = self._parts.gateways.seen(done[0], here), self._outcome.routers
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
        done, last = self._done_with, self._outcome.state.last_pass
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
        self._outcome.observer = observer

    def converge_with(self, told: Callable[[], None]) -> None:
        """Call *told* when the first pass has ended; before ``run``."""
        self._outcome.on_converged = told

    def add_problems(self, problems: tuple[Problem, ...]) -> None:
        """Show *problems* of the start in all that is published; before ``run``."""
        self._outcome.start_problems = problems

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
            self._outcome.flush()

    def _until_due(self) -> float:
        """Return the seconds until something is to be done without being woken."""
        if self._verification.is_pending():
            return 0.0
        now = time.monotonic()
        at_most = 60.0 if self._outcome.state.applied_at is not None else 1.0
        times = (
            self._read_back.next_due(),
            self._parts.reconciler.next_due(),
            self._outcome.next_due(),
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
        if reasons.keys() - _NO_PASS or self._outcome.state.applied_at is None:
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
            self._outcome.no_pass()
            return
        gateways = parts.gateways.decide(
            snapshot, view, time.monotonic(), converged=self._outcome.state.applied_at is not None
        )
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
            self._outcome.planned(problems)
            plan_seconds = time.monotonic() - begun
        report = parts.reconciler.run(self._plan, snapshot.revision, tuple(sorted(reasons)), sweep=not snapshot.stale)
        before = self._done_with[0] if self._done_with is not None else None
        report = replace(report, plan_seconds=plan_seconds)
        self._after_pass(Done(report, self._plan, snapshot, view, before, reasons))
        self._done_with = inputs

    def _after_pass(self, done: Done) -> None:
        parts, report, snapshot = self._parts, done.report, done.snapshot
        # Not only when all is done: of instances that are switched off something is missing for weeks.
        if parts.reconciler.is_clean(NUMBERED_DRIVERS) and not snapshot.stale:
            self._planning.settled()
        if report.resync and "flows" not in parts.reconciler.unusable() and parts.switch.is_waiting_for_flows():
            parts.switch.release_restore_wait()  # the flows of the switch that waits have been read and written
        up = self._outcome.take(done)
        self._announce(up, report, snapshot)
        self._verification.after_pass(parts.reconciler)
        parts.repair.after_pass(parts.reconciler)
        if parts.filtering is not None and parts.filtering.after_pass(report, parts.reconciler):
            parts.wake.set("judge")
        self._outcome.log(done)

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

    def _preview(self) -> Mapping[str, object]:
        """Plan the store's present state from scratch and compare it with what is there."""
        view, live = self._parts.switch.view(), self._parts.reader.snapshot()
        snapshot = live if live.in_sync else self._parts.chooser.accepted
        if snapshot is None or not view.connected or not self._read_numbers():
            raise AgentError("nothing to plan from yet: store or switch have not answered")
        plan, problems = self._planning.afresh(snapshot, view, self._parts.gateways.report.state)
        deltas = self._parts.reconciler.preview(plan)
        return preview.as_json(snapshot, deltas, problems, self._parts.chooser.hold)
