# SPDX-License-Identifier: Apache-2.0
"""What passes came to: the states of host, ports and routers, told to all who follow them.

Used by the reconcile thread; ``state``, ``ports`` and ``routers`` are read by others, too, and never
changed in place.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from agent import __version__, logs
from agent.config import AgentConfig
from agent.core import naming
from agent.core.errors import Actor, AgentError, Problem
from agent.core.model import HostSnapshot, PortId, RouterId, SwitchView
from agent.core.plan import Plan
from agent.core.report import AgentState, ItemState, PassReport, PortState, RouterState
from agent.l2.settings import LocalSettings
from agent.parts import Parts
from agent.port_states import NOT_FOR_PORTS, PortFacts, concerned, first_by_object, is_news, port_states
from agent.problems import refused_problems, without_repeats
from agent.router_states import RouterFacts, router_states, unfinished_routers
from agent.status_reporter import HostReport, StatusReporter

LOG = logging.getLogger(__name__)

LOST_ATTEMPTS = 7  # failures in a row, 6 to 13 s, after which ports that were up count as down
STORED_STATUS_SECONDS = 2.0  # how long the first pass waits for the rows that an earlier process has left


class PassObserver(Protocol):
    """What wants to know of each pass (the metrics)."""

    def observe_pass(self, report: PassReport) -> None:
        """Count what one pass did."""

    def observe_wiring(self, stage: str, seconds: float) -> None:
        """Note how long one port took for *stage*."""


@dataclass(frozen=True, slots=True)
class Done:
    """A pass that has ended.

    ``before`` is what the one before was planned from, None in the first.  ``reasons`` are the
    monotonic times at which somebody woke the loop for it.
    """

    report: PassReport
    plan: Plan
    snapshot: HostSnapshot
    view: SwitchView
    before: HostSnapshot | None
    reasons: Mapping[str, float]


class Outcome:
    """What was last published, and who is told."""

    def __init__(self, config: AgentConfig, local: LocalSettings, parts: Parts) -> None:
        self._local = local
        self._parts = parts
        self.start_problems: tuple[Problem, ...] = ()
        self.observer: PassObserver | None = None
        self.on_converged: Callable[[], None] = lambda: None
        self.state = AgentState(config.host, __version__, time.time(), store_address=",".join(config.store.connection))
        self.ports: Mapping[PortId, PortState] | None = None
        self.routers: Mapping[RouterId, RouterState] = {}
        self._planned: tuple[Problem, ...] = ()
        self._refused: tuple[Problem, ...] = ()
        self._facts_then: PortFacts | None = None  # what these ports' states were made from
        self._log = logs.StateChangeLog(LOG)
        self._reporter = StatusReporter(parts.status_writer, time.monotonic, time.time)

    def next_due(self) -> float | None:
        """Return the monotonic time at which the store is to be told something, None if there is nothing."""
        return self._reporter.next_due()

    def flush(self) -> None:
        """Tell the store what is due."""
        self._reporter.flush(lambda: self._parts.wake.set("reported"))

    def planned(self, problems: tuple[Problem, ...]) -> None:
        """Take over the *problems* of a new plan."""
        self._planned = problems

    def no_pass(self) -> None:
        """Publish that there is nothing to plan from."""
        self._publish(self._with_problems())

    def take(self, done: Done) -> list[PortId]:
        """Publish what a pass came to; return the ports that have come up."""
        report, snapshot = done.report, done.snapshot
        before = self.ports if self.ports is not None else self._stored_ports(snapshot)
        facts = self._facts(done)
        if self.ports is None or self._facts_then is None or not facts.says_the_same(self._facts_then):
            self.ports = port_states(facts, before, time.time(), self._facts_then)
        self._facts_then = facts
        urgent = is_news(self.ports, before) or _others_changed(snapshot, done.before)
        self._refused = refused_problems(report.unfinished, self._parts.reconciler.desired.owner, snapshot)
        routers = self._router_states(done, facts.problems)
        urgent |= routers != self.routers
        self.routers = routers
        self._publish_pass(done, self.ports)
        self._reporter.say(HostReport(self.ports, snapshot.generation, snapshot.revision, routers), urgent=urgent)
        self.flush()
        up = [port for port, state in self.ports.items() if state.up and not (port in before and before[port].up)]
        self._note_wiring(up, done)
        return up

    def log(self, done: Done) -> None:
        """Count a pass, and log what has changed."""
        report, snapshot = done.report, done.snapshot
        if self.observer is not None:
            self.observer.observe_pass(report)
        self._log.items(report.unfinished, report.revision)
        self._log.ports(self.ports or {}, report.revision)
        self._log.routers(self.routers, snapshot.routers, report.revision)
        if any(snapshot.host in router.gateway_hosts for router in snapshot.routers.values()):
            gateways = self._parts.gateways.report
            self._log.fact("gateways", gateways.reason.value or "usable", gateways.detail, good=not gateways.why_not)

    def _router_states(self, done: Done, problems: Mapping[str, str]) -> Mapping[RouterId, RouterState]:
        report, snapshot = done.report, done.snapshot
        if not snapshot.routers:
            return {}
        unfinished = unfinished_routers(report.unfinished, self._parts.reconciler.desired.owner, snapshot)
        gateways = self._parts.gateways.report
        facts = RouterFacts(snapshot, done.plan, done.view, gateways.state, gateways.why_not, unfinished, problems)
        return router_states(facts, self.routers, time.time())

    def _facts(self, done: Done) -> PortFacts:
        reconciler = self._parts.reconciler
        unfinished: dict[str, str] = {}
        for ref, status in done.report.unfinished.items():
            owner = reconciler.desired.owner(ref)
            if owner is not None and status.state is not ItemState.PENDING and ref.driver not in NOT_FOR_PORTS:
                unfinished.setdefault(concerned(owner), f"{ref.driver}: {status.message}")
        return PortFacts(
            done.snapshot,
            done.view,
            unfinished,
            reconciler.unusable(),
            reconciler.unusable(LOST_ATTEMPTS),
            first_by_object(self._all_problems()),
            services=self._local.services,
        )

    def _all_problems(self) -> tuple[Problem, ...]:
        reconciler = self._parts.reconciler
        problems = (*self.start_problems, *self._planned, *reconciler.clashes(), *self._parts.reader.troubles())
        if self._parts.filtering is not None:
            problems = (*problems, *self._parts.filtering.problems())
        told = self._parts.responding.problems() if self._parts.responding is not None else ()
        # Why there is no responder its driver knows from who keeps it running.
        problems = (*problems, *told, *without_repeats(reconciler.troubles(), told))
        error = self._parts.chooser.file_error
        if error is not None:
            problems = (*problems, Problem("host", "state_dir", error, Actor.OPERATOR))
        return problems

    def _with_problems(self) -> AgentState:
        revision = self._parts.reader.snapshot().revision
        problems = (*self._all_problems(), *self._refused)
        return replace(self.state, hold=self._parts.chooser.hold, desired_revision=revision, problems=problems)

    def _publish_pass(self, done: Done, ports: Mapping[PortId, PortState]) -> None:
        state, snapshot = self._with_problems(), done.snapshot
        first = state.applied_at is None
        state = replace(
            state,
            generation=snapshot.generation,
            applied_revision=snapshot.revision,
            applied_at=time.time(),
            stale=snapshot.stale,
            ports=ports,
            network_names={network.id: network.name for network in snapshot.networks.values()},
            objects=_counted(done),
            items=self._parts.reconciler.desired.count(),
            last_pass=done.report,
        )
        if not self._parts.reader.snapshot().in_sync:
            state = replace(state, desired_revision=snapshot.revision)
        self._publish(state)
        if first:
            gc.collect()
            gc.freeze()  # what the first pass made stays: later collections need not look at it
            if snapshot.routers:
                self._parts.wake.set("gateways")  # from now on they may be used
            self.on_converged()

    def _publish(self, state: AgentState) -> None:
        self.state = state
        for name, there in (("store", self._parts.reader.connected()), ("switch", self._parts.switch.is_connected())):
            self._log.fact(name, "connected" if there else "away", good=there)

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

    def _note_wiring(self, up: list[PortId], done: Done) -> None:
        if self.observer is None or done.before is None or not up:
            return
        seen = min(done.reasons.values(), default=time.monotonic())
        report, ended = done.report, time.monotonic()
        waited = max(ended - report.seconds - report.plan_seconds - seen, 0.0)
        for _ in up:
            self.observer.observe_wiring("plan", waited)
            self.observer.observe_wiring("apply", report.seconds + report.plan_seconds)
            self.observer.observe_wiring("total", ended - seen)


def _counted(done: Done) -> Mapping[str, int]:
    """Return how many objects of each kind there are."""
    snapshot, view = done.snapshot, done.view
    return {
        "networks": len(snapshot.networks),
        "ports": len(snapshot.ports),
        "endpoints": sum(len(endpoints) for endpoints in snapshot.endpoints.values()),
        "hosts": len(snapshot.hosts),
        "routers": len(snapshot.routers),
        "floating_ips": sum(len(floating) for floating in snapshot.floating_ips.values()),
        "security_groups": len(snapshot.security_groups),
        "hybrid_ports": sum(naming.is_hybrid_interface(i.name) for i in view.interfaces.values()),
        "served_ports": sum(f"port:{port}/dhcp" in done.plan.groups for port in snapshot.ports),
        "interfaces": len(view.interfaces),
    }


def _others_changed(snapshot: HostSnapshot, before: HostSnapshot | None) -> bool:
    """Tell whether the store brought this host anything but a new revision."""
    if before is None:
        return True
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
