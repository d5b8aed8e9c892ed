# SPDX-License-Identifier: Apache-2.0
"""The JSON of ``/routers``: where gateways are used, who is watched, and why so."""

from __future__ import annotations

from agent.core.router_report import RoutersReport, RouterStatus

Json = dict[str, object]


def routers(report: RoutersReport, name: str | None = None) -> Json:
    """Return the routers of this host by name, or those called *name* (a name or an id), and whom it watches."""
    chosen = [router for router in report.routers if name is None or name in (router.name, router.id)]
    return {
        "routers": [_router(router) for router in sorted(chosen, key=lambda router: (router.name, router.id))],
        "gateways": {
            "usable": not report.reason,
            "reason": report.reason,
            "failovers": report.failovers,
            "conflicts": report.conflicts,
            "watched": [
                {"host": watched.host, "state": watched.state.value, "since": watched.since} for watched in report.hosts
            ],
        },
    }


def _router(router: RouterStatus) -> Json:
    return {
        "id": router.id,
        "name": router.name,
        "distributed": router.distributed,
        "lives_here": router.lives_here,
        "gateway_hosts": list(router.gateway_hosts),
        "gateway_host": router.gateway_host,
        "active": router.active,
        "since": router.since,
        "floating_ips": router.floating_ips,
        "port_forwardings": router.port_forwardings,
    }
