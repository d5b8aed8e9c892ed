# SPDX-License-Identifier: Apache-2.0
"""A daemon that can be asked: what ``StatusSource`` describes, with everything settable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent import logs
from agent.core.filter_report import FilterCounts, PortFilter, RuleCounters
from agent.core.model import HostName
from agent.core.report import AgentState
from agent.core.router_report import RoutersReport
from agent.core.router_view import FloatingIpView, RouterView
from agent.core.service_report import PortServices, ServiceCounts
from agent.l2.pipeline import Table
from agent.status.source import readiness


@dataclass
class FakeSource:
    """Keeps what it was told in ``asked`` and changes its state as the daemon would."""

    current: AgentState = field(
        default_factory=lambda: AgentState(host=HostName("host1"), version="1.2.3", started_at=1000.0)
    )
    answer_plan: Mapping[str, object] | Exception = field(default_factory=dict)
    known_flows: Mapping[str, str] = field(default_factory=dict)
    filters: tuple[PortFilter, ...] = ()
    counters: RuleCounters | Exception = field(default_factory=RuleCounters)
    services: tuple[PortServices, ...] = ()
    service_counters: ServiceCounts = field(default_factory=ServiceCounts)
    routers_report: RoutersReport = field(default_factory=RoutersReport)
    views: tuple[RouterView, ...] = ()
    floating_ips: tuple[FloatingIpView, ...] = ()
    asked: list[str] = field(default_factory=list)
    level: str = "info"
    is_live: bool = True

    def state(self) -> AgentState:
        return self.current

    def plan(self, timeout: float) -> Mapping[str, object]:
        if isinstance(self.answer_plan, Exception):
            raise self.answer_plan
        return self.answer_plan

    def flows(self) -> Mapping[str, str]:
        return self.known_flows

    def flow_counts(self) -> Mapping[str, int]:
        counts: dict[str, int] = {}
        for key in self.known_flows:
            name = Table(int(key.partition(",")[0].removeprefix("table="))).name.lower()
            counts[name] = counts.get(name, 0) + 1
        return counts

    def port_filters(self, name: str) -> tuple[PortFilter, ...]:
        return tuple(f for f in self.filters if name in (f.port, self.current.ports[f.port].name))

    def rule_counters(self) -> RuleCounters:
        if isinstance(self.counters, Exception):
            raise self.counters
        return self.counters

    def filter_counts(self) -> FilterCounts:
        return FilterCounts(3, 2, 1)

    def port_services(self, name: str) -> tuple[PortServices, ...]:
        return tuple(s for s in self.services if name in (s.port, self.current.ports[s.port].name))

    def routers(self) -> RoutersReport:
        return self.routers_report

    def router_views(self, name: str) -> tuple[RouterView, ...]:
        return tuple(view for view in self.views if name in (view.router.name, view.router.id))

    def floating_ip_views(self, name: str) -> tuple[FloatingIpView, ...]:
        return tuple(v for v in self.floating_ips if name in (v.floating.address, v.floating.id))

    def service_counts(self) -> ServiceCounts:
        return self.service_counters

    def request_resync(self) -> None:
        self.asked.append("resync")

    def release_hold(self) -> None:
        self.asked.append("release")

    def set_log_level(self, level: str) -> None:
        logs.set_level(level)
        self.level = level

    def live(self) -> tuple[bool, str]:
        return (True, "it advances") if self.is_live else (False, "it is stuck")

    def ready(self) -> tuple[bool, str]:
        return readiness(self.current)
