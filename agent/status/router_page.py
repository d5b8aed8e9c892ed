# SPDX-License-Identifier: Apache-2.0
"""The JSON of ``/routers``, ``/router`` and ``/floating-ip``: where gateways are used, and what of routers is here."""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.model import PortId
from agent.core.protocols import protocol_name
from agent.core.report import AgentState
from agent.core.router_report import RoutersReport, RouterStatus
from agent.core.router_view import FloatingIpView, LegView, NextHop, PortForwardingView, RouterView
from agent.status import answers
from agent.status.answers import Json


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
        "ready": router.ready,
        "reason": router.reason,
        "since": router.since,
        "floating_ips": router.floating_ips,
        "port_forwardings": router.port_forwardings,
    }


def router(state: AgentState, views: Iterable[RouterView]) -> Json:
    """Return routers with all that belongs to them."""
    return {"routers": [_full_router(view, state) for view in views]}


def floating_ip(state: AgentState, views: Iterable[FloatingIpView]) -> Json:
    """Return floating IPs, where they are and why they do not work."""
    return {
        "floating_ips": [
            {
                **_floating_ip(view, state),
                "router": view.router.id,
                "router_name": view.router.name,
                "network_name": view.network_name,
                "gateway_hosts": list(view.router.gateway_hosts),
                "gateway_host": view.router.gateway_host,
                "since": view.router.since,
                "next_hops": [_next_hop(hop) for hop in view.next_hops],
                "look_error": view.look_error,
                "problems": _problems(state, f"router:{view.router.id}", f"floating_ip:{view.floating.id}"),
            }
            for view in views
        ]
    }


def _full_router(view: RouterView, state: AgentState) -> Json:
    legs = [*view.interfaces, *(() if view.gateway is None else (view.gateway,))]
    about = [f"router:{view.router.id}", *(f"network:{leg.network}" for leg in legs)]
    about += [f"port_forwarding:{each.forwarding.id}" for each in view.port_forwardings]
    return {
        **_router(view.status),
        "admin_state_up": view.router.admin_state_up,
        "ha": view.router.ha,
        "enable_snat": view.router.enable_snat,
        "namespace": view.namespace,
        "gateway": None if view.gateway is None else _leg(view.gateway),
        "interfaces": [_leg(leg) for leg in view.interfaces],
        "next_hops": [_next_hop(hop) for hop in view.next_hops],
        "unfinished": list(view.unfinished),
        "look_error": view.look_error,
        "problems": _problems(state, *about),
        "floating_ips": [_floating_ip(each, state) for each in view.floating_ips],
        "port_forwardings": [_port_forwarding(each, state) for each in view.port_forwardings],
    }


def _floating_ip(view: FloatingIpView, state: AgentState) -> Json:
    floating = view.floating
    return {
        "id": floating.id,
        "floating_ip_address": floating.address,
        "mac_address": view.mac,
        "fixed_ip_address": floating.fixed_address,
        **_port(floating.port, state),
        "port_host": floating.host or None,
        "host": view.host,
        "is_here": view.is_here,
        "reason": view.reason,
        "unfinished": list(view.unfinished),
        "begun": {"in": view.begun_in, "out": view.begun_out},
    }


def _port_forwarding(view: PortForwardingView, state: AgentState) -> Json:
    forwarding = view.forwarding
    return {
        "id": forwarding.id,
        "protocol": protocol_name(forwarding.protocol),
        "external_ip_address": forwarding.external_address,
        "external_port_min": forwarding.external_min,
        "external_port_max": forwarding.external_max,
        "internal_ip_address": forwarding.internal_address,
        "internal_port_min": forwarding.internal_min,
        "internal_port_max": forwarding.internal_max,
        **_port(forwarding.port, state),
        "begun": view.begun,
    }


def _port(port: PortId, state: AgentState) -> Json:
    """Return what this host knows of a port: of one of another host only the id."""
    here = state.ports.get(port)
    return {
        "port": port,
        "port_name": None if here is None else here.name,
        "port_up": None if here is None else here.up,
        "port_reason": None if here is None else here.reason,
    }


def _leg(leg: LegView) -> Json:
    return {
        "network": leg.network,
        "network_name": leg.network_name,
        "mac_address": leg.mac,
        "addresses": list(leg.addresses),
        "device": leg.device,
    }


def _next_hop(hop: NextHop) -> Json:
    state = "unknown" if hop.mac is None else "known" if hop.mac else "silent"
    return {
        "destination": hop.destination,
        "nexthop": hop.address,
        "device": hop.device,
        "state": state,
        "mac_address": hop.mac or None,
    }


def _problems(state: AgentState, *about: str) -> list[Json]:
    return [answers.problem_fields(problem) for problem in state.problems if problem.object_id in about]
