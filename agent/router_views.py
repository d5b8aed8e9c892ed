# SPDX-License-Identifier: Apache-2.0
"""One router, or one floating IP, on this host: what of it is here, and why it does not work.

Pure but for *look*, which asks the router's namespace.  What is told is what this host
knows: other hosts may have another part of the same router, and are named where they have.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from agent.core import naming
from agent.core.errors import AgentError
from agent.core.memo import Memo
from agent.core.model import FloatingIp, HostName, HostSnapshot, Router, RouterInterface
from agent.core.plan import Group, ItemRef, ObjectId, Plan
from agent.core.report import ObjectStatus, cause_of
from agent.core.router_report import RoutersReport, RouterStatus
from agent.core.router_view import FloatingIpView, LegView, NextHop, PortForwardingView, RouterView
from agent.l2.settings import LocalSettings
from agent.l3 import floating_ips, port_forwardings
from agent.l3.places import is_everywhere, outside_hosts
from agent.router_states import NOT_FOR_ROUTERS

MOST_SHOWN = 10  # items that something waits for
_DEFAULT = "0.0.0.0/0"  # floating IPs are IPv4
_RULES_GONE = "its rules are not in the router's namespace; they are put back when that is read back"
_HOP = re.compile(r"via (\S+) dev (\S+)")


class Look(Protocol):
    """How a router's namespace is looked into; see ``agent.drivers.router_look``.  Both raise AgentError."""

    def neighbors(self, name: str, wanted: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        """Return the MAC addresses of (device, address), empty for who does not answer."""

    def translated(self, name: str) -> Mapping[str, int]:
        """Return how many connections each rule has begun to translate, by chain and rule."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is told is made from: what the last pass has ended with, and what is seen of routers."""

    snapshot: HostSnapshot
    plan: Plan
    local: LocalSettings
    unfinished: Mapping[ItemRef, ObjectStatus]
    report: RoutersReport


class _Looking:
    """A *look* that fails is an ``error`` to tell of, and no reason to tell nothing."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self.error: str | None = None

    def neighbors(self, name: str, wanted: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        try:
            return self._look.neighbors(name, wanted)
        except AgentError as err:
            self.error = self.error or str(err)
            return {}

    def translated(self, name: str) -> Mapping[str, int] | None:
        try:
            return self._look.translated(name)
        except AgentError as err:
            self.error = self.error or str(err)
            return None


def router_views(name: str, facts: Facts, look: Look) -> tuple[RouterView, ...]:
    """Return the routers called *name* (a name or an id) that this host needs."""
    return tuple(
        _view(status, facts, _Looking(look))
        for status in sorted(facts.report.routers, key=lambda status: status.id)
        if name in (status.name, status.id) and status.id in facts.snapshot.routers
    )


def floating_ip_views(name: str, facts: Facts, look: Look) -> tuple[FloatingIpView, ...]:
    """Return the floating IPs called *name* (an address or an id) of routers that this host needs."""
    found = []
    for status in sorted(facts.report.routers, key=lambda status: status.id):
        router = facts.snapshot.routers.get(status.id)
        for floating in facts.snapshot.floating_ips.get(status.id, {}).values() if router is not None else ():
            if router is not None and name in (floating.address, floating.id):
                looking = _Looking(look)
                hops = _next_hops(router, facts, looking, _DEFAULT)
                view = _floating(floating, router, status, facts, _translated(router, facts, looking), hops)
                found.append(replace(view, look_error=looking.error))
    return tuple(found)


def _view(status: RouterStatus, facts: Facts, look: _Looking) -> RouterView:
    router = facts.snapshot.routers[status.id]
    counts, next_hops = _translated(router, facts, look), _next_hops(router, facts, look)
    floating = facts.snapshot.floating_ips.get(router.id, {}).values()
    forwardings = facts.snapshot.port_forwardings.get(router.id, {}).values()
    return RouterView(
        router,
        status,
        _namespace(router, facts),
        gateway=_leg(router.gateway, router, facts, is_gateway=True) if router.gateway is not None else None,
        interfaces=tuple(_leg(interface, router, facts, is_gateway=False) for interface in router.interfaces),
        next_hops=next_hops,
        unfinished=_unfinished(_groups_of(router, facts.plan), facts.unfinished),
        floating_ips=tuple(
            _floating(each, router, status, facts, counts) for each in sorted(floating, key=lambda each: each.address)
        ),
        port_forwardings=tuple(
            PortForwardingView(
                each, _begun(port_forwardings.object_id(each), facts.plan, counts).get(naming.DNAT_CHAIN)
            )
            for each in sorted(forwardings, key=lambda each: (each.external_address, each.protocol, each.external_min))
        ),
        look_error=look.error,
    )


def _namespace(router: Router, facts: Facts) -> str | None:
    return naming.router_namespace(router.id) if ObjectId(f"router:{router.id}") in facts.plan.groups else None


def _translated(router: Router, facts: Facts, look: _Looking) -> Mapping[str, int] | None:
    namespace = _namespace(router, facts)
    return None if namespace is None else look.translated(namespace)


def _leg(port: RouterInterface, router: Router, facts: Facts, *, is_gateway: bool) -> LegView:
    network = facts.snapshot.networks.get(port.network)
    part = "gateway" if is_gateway else f"interface/{port.port}"
    group = facts.plan.groups.get(ObjectId(f"router:{router.id}/{part}"))
    device = (
        naming.router_link_names(port.port, is_gateway)[1] if group is not None and "links" in group.items else None
    )
    addresses = tuple(fixed_ip.address for fixed_ip in port.fixed_ips)
    return LegView(port.network, "" if network is None else network.name, port.mac, addresses, device)


def _next_hops(router: Router, facts: Facts, look: _Looking, destination: str | None = None) -> tuple[NextHop, ...]:
    """Return who the routes of the router lead to here, to *destination* only if that is given."""
    namespace = _namespace(router, facts)
    if namespace is None:
        return ()
    hops: list[tuple[str, str, str]] = []
    for part in ("gateway", "routes"):
        group = facts.plan.groups.get(ObjectId(f"router:{router.id}/{part}"))
        for key, way in group.items.get("routes", {}).items() if group is not None else ():
            words = key.split(" ")
            if words[1] == "route" and destination in (None, words[2]):
                hops += [(words[2], address, device) for address, device in _HOP.findall(str(way))]
    known = look.neighbors(namespace, {(device, address) for _, address, device in hops}) if hops else {}
    return tuple(NextHop(where, address, device, known.get((device, address))) for where, address, device in hops)


def _floating(
    floating: FloatingIp,
    router: Router,
    status: RouterStatus,
    facts: Facts,
    counts: Mapping[str, int] | None,
    hops: tuple[NextHop, ...] = (),
) -> FloatingIpView:
    snapshot = facts.snapshot
    external = snapshot.networks.get(router.gateway.network) if router.gateway is not None else None
    at_home = is_everywhere(router) and external is not None
    carriers = outside_hosts(Memo(), snapshot, external, facts.local) if at_home and external is not None else ()
    host = floating.host if floating.host in carriers else status.gateway_host
    is_here = host == snapshot.host
    group = facts.plan.groups.get(floating_ips.object_id(floating))
    own = _unfinished([] if group is None else [group], facts.unfinished)
    begun = _begun(floating_ips.object_id(floating), facts.plan, counts) if is_here else {}
    rules_gone = is_here and counts is not None and not {naming.DNAT_CHAIN, naming.FLOATING_CHAIN} <= begun.keys()
    gateway_mac = router.gateway.mac if router.gateway is not None else floating.mac
    return FloatingIpView(
        floating,
        status,
        "" if external is None else external.name,
        host,
        is_here,
        floating.mac if is_everywhere(router) else gateway_mac,
        _why_not(group, host, status, own, is_here=is_here) or (_RULES_GONE if rules_gone else ""),
        own,
        hops if is_here else (),
        begun.get(naming.DNAT_CHAIN),
        begun.get(naming.FLOATING_CHAIN),
    )


def _begun(object_id: ObjectId, plan: Plan, counts: Mapping[str, int] | None) -> dict[str, int]:
    """Return how often the rules of an object were used, by chain."""
    group, found = plan.groups.get(object_id), dict[str, int]()
    for key in group.items.get("nat", {}) if group is not None and counts is not None else ():
        rule = key.split(" ", 3)[3]  # after namespace, family and table
        if counts is not None and rule in counts:
            found[rule.partition(" ")[0]] = counts[rule]
    return found


def _why_not(
    group: Group | None, host: HostName | None, status: RouterStatus, own: tuple[str, ...], *, is_here: bool
) -> str:
    """Return why a floating IP does not work, as far as this host knows; "" if it should."""
    router = "" if status.ready else status.reason
    if host is None or (is_here and router):
        return router or "nobody has the gateway"
    if not is_here:
        return ""
    if own:
        return own[0]
    return "" if group is not None and "flows" in group.items else "its router's gateway is not connected here yet"


def _groups_of(router: Router, plan: Plan) -> Iterator[Group]:
    base = f"router:{router.id}"
    for object_id, group in plan.groups.items():
        if object_id == base or object_id.startswith(f"{base}/"):
            yield group


def _unfinished(groups: Iterable[Group], unfinished: Mapping[ItemRef, ObjectStatus]) -> tuple[str, ...]:
    """Return what these groups wait for in the end, and how much of them waits for it."""
    if not unfinished:
        return ()
    refs = {ItemRef(driver, key) for group in groups for driver, items in group.items.items() for key in items}
    causes = Counter(cause_of(ref, unfinished) for ref in refs & unfinished.keys() if ref.driver not in NOT_FOR_ROUTERS)
    return tuple(
        f"{cause.driver} {cause.key}: {unfinished[cause].message}{f' ({number} items)' if number > 1 else ''}"
        for cause, number in sorted(causes.items())[:MOST_SHOWN]
    )
