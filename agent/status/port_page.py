# SPDX-License-Identifier: Apache-2.0
"""The JSON of ``/port``: ports with their filters, rule by rule, and what these have counted.

Ports with the same group share its rules, so a count is that of this host and not of
the port.  Of a tracked connection only the first packet meets the rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.core import naming
from agent.core.errors import Problem
from agent.core.filter_report import Count, PortFilter, RuleCounters
from agent.core.model import Direction, SecurityGroup, SecurityGroupRule
from agent.core.protocols import protocol_name
from agent.core.report import AgentState
from agent.core.service_report import PortServices, addresses
from agent.status import answers
from agent.status.answers import Json

# Fields of the host's problems: what limits filters, and drivers that they cannot do without.
_FOR_ALL = frozenset(("filters", "iptables_backend", "bridges", "ipset", "iptables", "members", "zones", "conntrack"))
# The same of what answers instances.
_FOR_SERVICES = frozenset(("responder", "netns", "links", "routes"))


def ports(
    state: AgentState,
    name: str,
    filters: tuple[PortFilter, ...],
    counters: RuleCounters | None,
    error: str | None,
    services: tuple[PortServices, ...] = (),
) -> Json:
    """Return the ports called *name* (a name or an id), with ``filter`` null where everything passes.

    ``services`` is null for ports that are answered nothing.

    *counters* None: they were not read, or could not be because of *error*.
    """
    by_port: dict[object, PortFilter] = {found.port: found for found in filters}
    served: dict[object, PortServices] = {found.port: found for found in services}
    chosen = [port for port in state.ports.values() if name in (port.name, port.id)]
    listed: list[Json] = []
    for port in sorted(chosen, key=lambda port: port.id):
        found = by_port.get(port.id)
        own = (f"port:{port.id}", f"port:{port.id}/dhcp", f"port:{port.id}/metadata")
        services_of = served.get(port.id)
        concerned = {*own, f"network:{port.network}", *(() if found is None else _objects(found))}
        unanswered = [] if services_of is None else [p for p in state.problems if _is_of_services(p, services_of)]
        problems = [
            answers.problem_fields(problem)
            for problem in state.problems
            if problem.object_id in concerned
            or problem in unanswered
            or (found is not None and _is_of_filters(problem))
        ]
        shown = None if found is None else _filter(found, counters)
        listed.append(
            {
                **answers.port_fields(port, state),
                "problems": problems,
                "filter": shown,
                "services": _services(services_of, broken=any(p.object_id == "host" for p in unanswered)),
            }
        )
    return {"ports": listed, "counters_error": error}


def _services(found: PortServices | None, *, broken: bool) -> Json | None:
    """Return what a port is answered; *broken* tells that this host has a problem with answering at all."""
    if found is None:
        return None
    told = dict(found.told or {})
    return {
        "in_place": found.in_place and not broken,
        "unfinished": list(found.unfinished),
        "addresses": addresses(found.offer),
        "offer": dict(found.offer),
        "last": told,
        "error": found.error,
    }


def _is_of_services(problem: Problem, found: PortServices) -> bool:
    """Tell whether a problem is about what this port's answers are made from, or about who gives them."""
    if problem.object_id.startswith("metadata_service:"):
        return found.offer.get("metadata", {}).get("from_store") is False
    return problem.object_id in found.made_from or (problem.object_id == "host" and problem.field in _FOR_SERVICES)


def _is_of_filters(problem: Problem) -> bool:
    """Tell whether a problem is about what all filters of this host depend on."""
    return problem.object_id in ("host", "filters") and problem.field in _FOR_ALL


def _objects(found: PortFilter) -> Iterator[str]:
    """Yield the ids of what a port's filter is made from."""
    for group in found.groups:
        yield f"security_group:{group.id}"
        yield from (f"members:{rule.remote_owner}" for rule in group.rules if rule.remote_owner is not None)


def _filter(found: PortFilter, counters: RuleCounters | None) -> Json:
    return {
        "in_place": found.in_place,
        "bridge": found.bridge,
        "zone": found.zone,
        "chains": {direction.value: found.chains.get(direction) for direction in Direction},
        "dropped": {
            direction.value: _count(counters.drops.get(found.chains.get(direction, "")) if counters else None)
            for direction in Direction
        },
        "unfinished": list(found.unfinished),
        "security_groups": [_group(group, found, counters) for group in found.groups],
    }


def _group(group: SecurityGroup, found: PortFilter, counters: RuleCounters | None) -> Json:
    logged = (("accept", group.log_accepted), ("drop", group.log_dropped))
    return {
        "id": group.id,
        "name": group.name,
        "stateful": group.stateful,
        "log": [verdict for verdict, is_logged in logged if is_logged],
        "rules": [_rule(rule, found, counters) for rule in sorted(group.rules, key=_for_people)],
    }


def _for_people(rule: SecurityGroupRule) -> tuple[Any, ...]:
    ports = (rule.port_min or 0, rule.port_max or 0)
    return rule.direction, rule.ip_version, rule.protocol or 0, ports, rule.remote_prefix or "", rule.id


def _rule(rule: SecurityGroupRule, found: PortFilter, counters: RuleCounters | None) -> Json:
    owner = found.owners.get(rule.remote_owner) if rule.remote_owner is not None else None
    return {
        "id": rule.id,
        "direction": rule.direction.value,
        "ethertype": f"IPv{rule.ip_version}",
        "protocol": None if rule.protocol is None else protocol_name(rule.protocol),
        "port_range_min": rule.port_min,
        "port_range_max": rule.port_max,
        "remote_ip_prefix": rule.remote_prefix,
        "remote_owner": rule.remote_owner,
        "remote_owner_kind": None if owner is None else owner.kind.value,
        "remote_owner_name": None if owner is None else owner.name,
        **_count(counters.rules.get(naming.short_hash(rule.id)) if counters else None),
    }


def _count(count: Count | None) -> Json:
    """Return a count, nulls where there is none: the rule is not in place, or was not read."""
    return {"packets": None if count is None else count.packets, "bytes": None if count is None else count.bytes}
