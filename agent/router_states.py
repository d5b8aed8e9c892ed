# SPDX-License-Identifier: Apache-2.0
"""Is a router ready on this host, or why not?  Pure: from what is wanted, what the switch has, and what is not done.

Ready is a host that has all of the router that it should have, so that packets pass as far
as it depends on this host: everything is written, the switch has numbered the ports, the
router's networks lead where they should, and the host knows whose gateway to use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.core.model import HostSnapshot, Router, RouterId, SwitchView
from agent.core.plan import ItemRef, ObjectId, Plan
from agent.core.report import ObjectStatus, RouterState, cause_of
from agent.l3.gateways import gateway_order
from agent.l3.state import GatewayState
from agent.port_states import NUMBERLESS

# End what is no longer translated, and translate what conntrack lost: a router works without.
NOT_FOR_ROUTERS = frozenset(("fallback", "translations"))
_PORT = "port/"  # what keys of driver ``ovs`` begin with that are ports


@dataclass(frozen=True, slots=True)
class RouterFacts:
    """What the states are made from: *plan* is that of *snapshot*, *switch* and *gateways*.

    ``why_not`` says why gateways of this host are not to be used, "" if they are;
    ``unfinished`` has the first reason by router, ``problems`` the first text by object id.
    """

    snapshot: HostSnapshot
    plan: Plan
    switch: SwitchView
    gateways: GatewayState
    why_not: str
    unfinished: Mapping[RouterId, str]
    problems: Mapping[str, str]


def unfinished_routers(
    unfinished: Mapping[ItemRef, ObjectStatus], owner: Callable[[ItemRef], ObjectId | None], snapshot: HostSnapshot
) -> dict[RouterId, str]:
    """Return what of routers is not in place, the first of each, with their floating IPs and port forwardings."""
    found: dict[RouterId, str] = {}
    users: dict[str, str] = {}
    for ref in unfinished:
        if ref.driver in NOT_FOR_ROUTERS:
            continue
        noun, _, rest = str(owner(ref) or "").partition(":")
        cause = cause_of(ref, unfinished)
        text = f"{cause.driver}: {unfinished[cause].message}"
        if noun == "router":
            found.setdefault(RouterId(rest.partition("/")[0]), text)
        elif noun in ("floating_ip", "port_forwarding"):
            users.setdefault(rest, text)
    if users:
        for members in (snapshot.floating_ips, snapshot.port_forwardings):
            for router, of_router in members.items():
                for user in of_router.keys() & users.keys():
                    found.setdefault(router, users[user])
    return found


def router_states(
    facts: RouterFacts, previous: Mapping[RouterId, RouterState], now: float
) -> dict[RouterId, RouterState]:
    """Return the state of every router of the snapshot; *now* is in Unix seconds.

    An unchanged state is the same object as in *previous*.
    """
    states = {}
    for router in facts.snapshot.routers.values():
        state, before = _state_of(router, facts, now), previous.get(router.id)
        same = before is not None and (before.active, before.ready, before.reason) == (
            state.active,
            state.ready,
            state.reason,
        )
        states[router.id] = before if same and before is not None else state
    return states


def _state_of(router: Router, facts: RouterFacts, now: float) -> RouterState:
    active, order = router.id in facts.gateways.active, gateway_order(router)
    if not router.admin_state_up:
        return RouterState(router.id, active, ready=False, reason="the router is administratively down", since=now)
    missing = facts.unfinished.get(router.id) or _unconnected(router, facts)
    if missing:
        return RouterState(router.id, active, ready=False, reason=missing, since=now)
    host = facts.gateways.hosts.get(router.id)
    if order and host is None:
        reason = "; ".join(filter(None, ("nobody has the gateway", facts.why_not)))
        return RouterState(router.id, active, ready=False, reason=reason, since=now)
    remark = facts.problems.get(f"router:{router.id}", "")
    if not active and facts.snapshot.host in order:
        remark = "; ".join(filter(None, (f"host {host} has the gateway", facts.why_not, remark)))
    return RouterState(router.id, active, ready=True, reason=remark, since=now)


def _unconnected(router: Router, facts: RouterFacts) -> str:
    """Return what keeps the router's legs here from their networks, "" if nothing does."""
    legs = [(f"interface/{interface.port}", interface.network) for interface in router.interfaces]
    legs += [("gateway", router.gateway.network)] if router.gateway is not None else []
    for part, network in legs:
        group = facts.plan.groups.get(ObjectId(f"router:{router.id}/{part}"))
        ports = () if group is None else group.items.get("ovs", ())
        for key in ports:
            device = key.removeprefix(_PORT)
            if facts.switch.ofports.get(device, 0) < 1:
                return f"device {device} {NUMBERLESS}"
        if ports and (problem := facts.problems.get(f"network:{network}")):
            return problem
    return ""
