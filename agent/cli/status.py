# SPDX-License-Identifier: Apache-2.0
"""``hostplane status``: what this host's agent is doing, the summary first."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from agent.cli.answer import Answer, count, flag, number, part, parts, plain, text, words
from agent.cli.options import Settings, add_common, settings
from agent.cli.output import Format, Value, age, duration, print_value, table, write_line
from agent.cli.status_port import port_lines
from agent.cli.status_problems import problem_lines
from agent.cli.status_router import floating_ip_lines, router_page_lines
from agent.cli.status_routers import router_lines
from agent.core.errors import InputError
from agent.status import client

PAGES = ("ports", "port", "networks", "routers", "router", "floating-ip", "flows", "problems")
NAMED = {"port": "by name or id", "router": "by name or id", "floating-ip": "by address or id"}
MAX_SHOWN_FLOWS = 1000
NAME_HELP = (
    "with port, router, floating-ip: this one, with all that is known of it; with ports, routers: only this one; "
    "with flows: list this table (or 'all')"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("page", nargs="?", choices=PAGES, help="details instead of the summary")
    parser.add_argument("name", nargs="?", help=NAME_HELP)
    limit = f"with flows: list at most so many ({MAX_SHOWN_FLOWS})"
    parser.add_argument("--limit", type=int, default=MAX_SHOWN_FLOWS, metavar="N", help=limit)
    add_common(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    ask = settings(args)
    if args.page in NAMED and not args.name:
        raise InputError(f"status {args.page}: say which one, {NAMED[args.page]}")
    answer = client.get(ask.socket, f"/{args.page or 'status'}", ask.timeout, _query(args))
    if args.name and args.page in _NOT_HERE and not parts(answer, _NOT_HERE[args.page][0]):
        raise InputError(_NOT_HERE[args.page][1].format(name=args.name))
    if ask.output is not Format.TABLE:
        print_value(plain(answer), ask.output)
        return 0
    for line in _LINES[args.page](answer, time.time()):
        write_line(line)
    return 0


def _query(args: argparse.Namespace) -> dict[str, str]:
    if args.page in _NOT_HERE and args.name:
        return {"name": args.name}
    if args.page == "flows" and args.name:
        return {"table": "" if args.name == "all" else args.name, "limit": str(args.limit)}
    return {}


def host_name(ask: Settings) -> str:
    """Return the name of this host as its agent knows it; raises AgentError if it cannot be asked."""
    return text(client.get(ask.socket, "/status", ask.timeout), "host")


def _summary(answer: Answer, now: float) -> Iterator[str]:
    uptime = duration(number(answer, "uptime_seconds") or 0)
    yield f"{text(answer, 'host')}: hostplane {text(answer, 'version')}, running for {uptime}"
    yield _verdict(answer, now)
    hold = part(answer, "hold")
    if hold:
        held = f"HELD for {age(number(hold, 'since'), now)}: {text(hold, 'text')}"
        yield f"{held} (to apply it nevertheless: hostplane hold release)"
    yield ""
    yield f"store     {_store(part(answer, 'store'), now)}"
    yield f"switch    {'connected' if flag(part(answer, 'switch'), 'connected') else 'NOT CONNECTED'}"
    ports = part(answer, "ports")
    yield f"ports     {count(ports, 'total')}: {count(ports, 'up')} up, {count(ports, 'down')} down"
    objects = part(answer, "objects")
    if objects:
        yield f"objects   {', '.join(f'{count(objects, noun)} {noun}' for noun in objects)}"
    problems = count(answer, "problems")
    yield f"problems  {problems}{' (see hostplane status problems)' if problems else ''}"
    yield ""
    yield from _items(answer)
    yield from _last_pass(part(answer, "last_pass"), now)


def _verdict(answer: Answer, now: float) -> str:
    applied, desired = count(answer, "applied_revision"), count(answer, "desired_revision")
    when = age(number(answer, "applied_at"), now)
    if flag(answer, "converged"):
        return f"converged: revision {applied} is in place since {when}"
    why = text(part(answer, "ready"), "text")
    live = part(answer, "live")
    if live and not flag(live, "ok"):
        why = text(live, "text")
    return f"NOT CONVERGED: revision {applied} of {desired} is in place{f'; {why}' if why else ''}"


def _store(store: Answer, now: float) -> str:
    if not flag(store, "connected"):
        seen = age(number(store, "last_sync_at"), now)
        state = f"NOT CONNECTED, last in sync {seen}{'' if seen == 'never' else ' ago'}"
    elif flag(store, "in_sync"):
        state = "connected, in sync"
    else:
        state = "connected, not in sync yet"
    stale = ", working from the last snapshot on disk" if flag(store, "stale") else ""
    return f"{text(store, 'address') or '-'} {state}{stale}"


def _items(answer: Answer) -> Iterator[str]:
    items = part(answer, "items")
    operations = part(part(answer, "last_pass"), "operations")
    rows: list[list[Value]] = []
    for driver in [*items, *(name for name in operations if name not in items)]:
        state, done = part(items, driver), part(operations, driver)
        wanted = [count(state, key) for key in ("desired", "done", "pending", "error", "blocked")]
        worked = [count(done, key) for key in ("created", "updated", "deleted", "failed", "drifted")]
        rows.append([driver, *wanted, *worked, duration(number(done, "seconds") or 0)])
    heads = ("driver", "items", "done", "pending", "error", "blocked")
    yield from table(rows, (*heads, "created", "updated", "deleted", "failed", "drifted", "time"))


def _last_pass(last: Answer, now: float) -> Iterator[str]:
    if not last:
        yield "no pass yet"
        return
    reasons = f", because of {', '.join(words(last, 'reasons'))}" if words(last, "reasons") else ""
    kind = "with everything read back, " if flag(last, "resync") else ""
    changed = f"{count(last, 'groups_changed')} of {count(last, 'groups')} groups planned anew"
    took = duration(number(last, "seconds") or 0)
    yield (
        f"last pass {age(number(last, 'started_at'), now)} ago, revision {count(last, 'revision')}, "
        f"{took}, {kind}{changed}{reasons}"
    )


def _ports(answer: Answer, now: float) -> Iterator[str]:
    rows = [
        [
            text(port, "name") or text(port, "id"),
            text(port, "network_name") or text(port, "network"),
            "up" if flag(port, "up") else "DOWN",
            age(number(port, "since"), now),
            text(port, "interface"),
            text(port, "reason"),
        ]
        for port in parts(answer, "ports")
    ]
    yield f"{len(rows)} ports, {sum(1 for row in rows if row[2] == 'up')} up"
    yield from table(rows, ("port", "network", "state", "for", "interface", "reason"))


def _networks(answer: Answer, _now: float) -> Iterator[str]:
    found = parts(answer, "networks")
    rows: list[list[Value]] = [[text(n, "name"), text(n, "id"), count(n, "ports"), count(n, "ports_up")] for n in found]
    yield f"{len(rows)} networks"
    yield from table(rows, ("network", "id", "ports", "up"))


def _flows(answer: Answer, _now: float) -> Iterator[str]:
    yield f"{count(answer, 'total')} flows"
    if "flows" not in answer:
        tables = part(answer, "tables")
        yield from table([[name, count(tables, name)] for name in tables], ("table", "flows"))
        return
    for flow in parts(answer, "flows"):
        yield f"{text(flow, 'match')} actions={text(flow, 'actions')}"
    if flag(answer, "truncated"):
        yield "... and more (--limit)"


_NO_PORT = ("ports", "there is no port {name} on this host (hostplane port show {name} tells its host)")
_NO_ROUTER = ("routers", "this host needs no router {name} (hostplane router show {name} tells its hosts)")
_NO_FLOATING_IP = (
    "floating_ips",
    "no router that this host needs has a floating ip {name} with a port "
    "(hostplane floating-ip show {name} tells its router, and hostplane router show its hosts)",
)
# Of pages of named objects: where they stand in the answer, and what to say if there are none.
_NOT_HERE = {
    "ports": _NO_PORT,
    "port": _NO_PORT,
    "routers": _NO_ROUTER,
    "router": _NO_ROUTER,
    "floating-ip": _NO_FLOATING_IP,
}
_LINES = {
    None: _summary,
    "ports": _ports,
    "port": port_lines,
    "networks": _networks,
    "routers": router_lines,
    "router": router_page_lines,
    "floating-ip": floating_ip_lines,
    "flows": _flows,
    "problems": problem_lines,
}
