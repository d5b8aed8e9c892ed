# SPDX-License-Identifier: Apache-2.0
"""What the status socket and the metrics ask of the daemon.

All methods may be called by any thread.  Nothing but ``plan``, ``rule_counters``, what looks
into namespaces and what asks the responder may wait, and only ``plan`` for the reconcile
loop: a status page must answer while the dataplane is busy or stuck.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from agent.core.filter_report import FilterCounts, PortFilter, RuleCounters
from agent.core.report import AgentState
from agent.core.router_report import RoutersReport
from agent.core.router_view import FloatingIpView, RouterView
from agent.core.service_report import PortServices, ServiceCounts


class StatusSource(Protocol):
    """The daemon, as far as it can be asked."""

    def state(self) -> AgentState:
        """Return what was published after the last pass or change of connection."""

    def plan(self, timeout: float) -> Mapping[str, object]:
        """Return what a pass with everything read back first would do, as JSON values.

        Computed on the reconcile thread between two passes.  Raises TimeoutError if
        it is not there after *timeout* seconds, AgentError if it cannot be computed.
        """

    def flows(self) -> Mapping[str, str]:
        """Return the flows of ours as last known: ``table=N,priority=P,<match>`` -> actions."""

    def flow_counts(self) -> Mapping[str, int]:
        """Return how many flows of ours each table holds, by the table's name; cheap."""

    def port_filters(self, name: str) -> tuple[PortFilter, ...]:
        """Return how the filtered ports called *name* (a name or an id) are filtered, as last published."""

    def rule_counters(self) -> RuleCounters:
        """Read what the rules of the filters have counted.  Raises AgentError if they cannot be read."""

    def filter_counts(self) -> FilterCounts:
        """Return what the filters' part of the daemon has counted; cheap."""

    def port_services(self, name: str) -> tuple[PortServices, ...]:
        """Return how the ports called *name* (a name or an id) are served; may wait for the responder, a second."""

    def service_counts(self) -> ServiceCounts:
        """Return what the responder has counted; may wait for it, a second."""

    def routers(self) -> RoutersReport:
        """Return where the gateways of routers are used as seen from here, and why; cheap."""

    def router_views(self, name: str) -> tuple[RouterView, ...]:
        """Return the routers called *name* (a name or an id); looks into their namespaces."""

    def floating_ip_views(self, name: str) -> tuple[FloatingIpView, ...]:
        """Return the floating IPs called *name* (an address or an id); looks as above."""

    def request_resync(self) -> None:
        """Have the next pass read everything back; returns at once."""

    def release_hold(self) -> None:
        """Let the held desired state be applied; returns at once, harmless without a hold."""

    def set_log_level(self, level: str) -> None:
        """Log *level* and above until the next reload.  Raises InputError for an unknown one."""

    def live(self) -> tuple[bool, str]:
        """Tell whether the loop advances, and in words."""

    def ready(self) -> tuple[bool, str]:
        """Tell whether the host has converged once and all parts are there, else which is not."""


def readiness(state: AgentState) -> tuple[bool, str]:
    """Judge *state*: the plain answer to ``StatusSource.ready``.

    Ready means that the dataplane has been made equal to a desired state once since
    the start, and that it still follows: the switch is there, and either the store
    is or what it last said is in place (then marked stale).
    """
    if not state.switch_connected:
        return False, "switch: not connected to the local Open vSwitch"
    if state.applied_at is None:
        if not state.store_connected and not state.stale:
            return False, f"store: not connected to {state.store_address}, and there is no snapshot to start from"
        if not state.store_in_sync and not state.stale:
            return False, f"store: {state.store_address} is not in sync yet"
        return False, f"pass: revision {state.desired_revision} has not been applied yet"
    if state.hold is not None:
        return False, f"hold: {state.hold.text}"
    if not state.store_connected:
        return True, f"revision {state.applied_revision} is in place; store: not connected to {state.store_address}"
    return True, f"revision {state.applied_revision} is in place"
