# SPDX-License-Identifier: Apache-2.0
"""The JSON of the status socket: pure functions of an ``AgentState``.

``docs/status.md`` lists the fields, ``docs/stability.md`` which of them are stable.
Times are Unix seconds, durations seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from agent.core.errors import InputError, Problem
from agent.core.report import AgentState, ObjectStatus, PassReport, PortState
from agent.l2.pipeline import Table

Json = dict[str, object]

MAX_FLOWS = 1000  # listed in one answer unless the client asks for more

_TABLES = {table.value: table.name.lower() for table in Table}


def envelope(state: AgentState, now: float) -> Json:
    """Return what every answer carries: the revisions and the age of what they say.

    ``age_seconds`` is how long ago the desired state is known to have been that of
    the store: 0 while the store is connected and in sync, null before the first time.
    """
    synced = last_sync_at(state, now)
    return {
        "desired_revision": state.desired_revision,
        "applied_revision": state.applied_revision,
        "age_seconds": None if synced is None else round(max(now - synced, 0.0), 3),
    }


def last_sync_at(state: AgentState, now: float) -> float | None:
    """Return when the desired state was last known to be that of the store: now, while it is connected and in sync."""
    return now if state.store_connected and state.store_in_sync else state.store_last_sync_at


def status(state: AgentState, now: float) -> Json:
    """Return the summary."""
    hold = state.hold
    up = sum(1 for port in state.ports.values() if port.up)
    last = state.last_pass
    return {
        "host": state.host,
        "version": state.version,
        "started_at": state.started_at,
        "uptime_seconds": round(now - state.started_at, 3),
        "converged": state.converged,
        "store": {
            "address": state.store_address,
            "connected": state.store_connected,
            "in_sync": state.store_in_sync,
            "last_sync_at": last_sync_at(state, now),
            "stale": state.stale,
            "generation": state.generation,
        },
        "switch": {"connected": state.switch_connected},
        "applied_at": state.applied_at,
        "hold": None
        if hold is None
        else {
            "since": hold.since,
            "revision": hold.revision,
            "ports_before": hold.ports_before,
            "ports_removed": hold.ports_removed,
            "text": hold.text,
        },
        "ports": {"total": len(state.ports), "up": up, "down": len(state.ports) - up},
        "objects": dict(state.objects),
        "items": _items(state),
        "problems": len(state.problems),
        "last_pass": None if last is None else _pass(last),
    }


def ports(state: AgentState, name: str | None = None) -> Json:
    """Return the ports of this host by name, or those called *name* (a name or an id)."""
    chosen = [port for port in state.ports.values() if name is None or name in (port.name, port.id)]
    return {"ports": [port_fields(port, state) for port in sorted(chosen, key=lambda port: (port.name, port.id))]}


def networks(state: AgentState) -> Json:
    """Return the networks that this host takes part in, with their ports here."""
    total = Counter(port.network for port in state.ports.values())
    up = Counter(port.network for port in state.ports.values() if port.up)
    rows = [
        {"id": network, "name": name, "ports": total[network], "ports_up": up[network]}
        for network, name in state.network_names.items()
    ]
    return {"networks": sorted(rows, key=lambda row: (str(row["name"]), str(row["id"])))}


def problems(state: AgentState) -> Json:
    """Return all that is not as the store wants it: objects that cannot be planned and items that are not done."""
    unfinished = state.last_pass.unfinished if state.last_pass is not None else {}
    return {
        "problems": [problem_fields(problem) for problem in state.problems],
        "unfinished": [
            {"driver": ref.driver, "key": ref.key, **_object_status(status)}
            for ref, status in sorted(unfinished.items(), key=lambda pair: pair[0])
        ],
    }


def problem_fields(problem: Problem) -> Json:
    """Return what is said of one problem."""
    return {
        "object_id": problem.object_id,
        "field": problem.field,
        "text": problem.text,
        "actor": problem.actor.value,
    }


def flows(counts: Mapping[str, int], listed: Mapping[str, str] | None = None, limit: int = MAX_FLOWS) -> Json:
    """Return the number of flows by table in the order of the tables and, if given, the flows *listed*.

    At most *limit* are listed; ``truncated`` tells that there are more.
    """
    order = {name: number for number, name in _TABLES.items()}
    tables = {name: counts[name] for name in sorted(counts, key=lambda name: (order.get(name, 256), name))}
    answer: Json = {"total": sum(counts.values()), "tables": tables}
    if listed is None:
        return answer
    keys = sorted(listed, key=lambda key: (flow_table(key), key))
    answer["flows"] = [
        {"table": _TABLES.get(flow_table(key), ""), "match": key, "actions": listed[key]} for key in keys[:limit]
    ]
    answer["truncated"] = len(keys) > limit
    return answer


def flow_table(key: str) -> int:
    """Return the table's number in a flow's key (``table=N,priority=P,<match>``)."""
    return int(key.partition(",")[0].removeprefix("table="))


def table_number(text: str) -> int:
    """Return the number of the table that *text* names or numbers.  Raises InputError if there is none."""
    numbers = {name: number for number, name in _TABLES.items()}
    if text in numbers:
        return numbers[text]
    if text.isascii() and text.isdigit() and len(text) <= 3:
        return int(text)
    raise InputError(f"table: {text!r} is none of {', '.join(numbers)}")


def _items(state: AgentState) -> Json:
    unfinished = Counter(
        (ref.driver, status.state.value)
        for ref, status in (state.last_pass.unfinished if state.last_pass is not None else {}).items()
    )
    answer: Json = {}
    for driver, desired in state.items.items():
        open_items = {name: unfinished[driver, name] for name in ("pending", "error", "blocked")}
        answer[driver] = {"desired": desired, "done": max(desired - sum(open_items.values()), 0), **open_items}
    return answer


def _pass(report: PassReport) -> Json:
    return {
        "revision": report.revision,
        "started_at": report.started_at,
        "seconds": report.seconds,
        "plan_seconds": report.plan_seconds,
        "reasons": list(report.reasons),
        "resync": report.resync,
        "groups": report.groups,
        "groups_changed": report.groups_changed,
        "unfinished": len(report.unfinished),
        "operations": {
            driver: {
                "created": done.created,
                "updated": done.updated,
                "deleted": done.deleted,
                "failed": done.failed,
                "drifted": done.drifted,
                "seconds": done.seconds,
                "read_seconds": done.read_seconds,
                "failures": dict(done.failures),
            }
            for driver, done in report.operations.items()
        },
    }


def port_fields(port: PortState, state: AgentState) -> Json:
    """Return what is said of one port."""
    return {
        "id": port.id,
        "name": port.name,
        "network": port.network,
        "network_name": state.network_names.get(port.network, ""),
        "up": port.up,
        "reason": port.reason,
        "since": port.since,
        "interface": port.interface,
        "ofport": port.ofport,
    }


def _object_status(status: ObjectStatus) -> Json:
    return {
        "state": status.state.value,
        "message": status.message,
        "actor": status.actor.value,
        "since": status.since,
        "attempts": status.attempts,
        "next_try_at": status.next_try_at,
        "waits_for": None
        if status.waits_for is None
        else {"driver": status.waits_for.driver, "key": status.waits_for.key},
    }
