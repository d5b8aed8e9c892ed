# SPDX-License-Identifier: Apache-2.0
"""``hostplane status routers``: where gateways are used as seen from this host, and whom it watches for that."""

from __future__ import annotations

from collections.abc import Iterator

from agent.cli.answer import Answer, count, flag, number, part, parts, text, words
from agent.cli.output import Value, age, table


def router_lines(answer: Answer, now: float) -> Iterator[str]:
    """Yield what people read of ``/routers``; *now* is in Unix seconds."""
    rows = [_row(router, now) for router in parts(answer, "routers")]
    yield f"{len(rows)} routers, {sum(1 for row in rows if row[1] == 'active')} with their gateway here"
    heads = ("router", "here", "kind", "gateway on", "for", "in order of", "floating", "forwardings")
    yield from table(rows, heads)
    for router in parts(answer, "routers"):
        if router.get("ready") is False:
            yield f"router {text(router, 'name') or text(router, 'id')} is NOT READY: {text(router, 'reason')}"
    gateways = part(answer, "gateways")
    if not flag(gateways, "usable"):
        yield f"gateways of this host are NOT TO BE USED: {text(gateways, 'reason')}"
    watched: list[list[Value]] = [
        [text(host, "host"), text(host, "state"), age(number(host, "since"), now)]
        for host in parts(gateways, "watched")
    ]
    if watched:
        yield ""
        yield from table(watched, ("watched host", "gateway", "for"))
    if count(gateways, "failovers") or count(gateways, "conflicts"):
        yield f"{count(gateways, 'failovers')} times another gateway was chosen; {_conflicts(gateways)}"
        yield "each time connections through SNAT and port forwardings may have ended, never those of floating IPs"


def _row(router: Answer, now: float) -> list[Value]:
    here = "active" if flag(router, "active") else "ready" if flag(router, "lives_here") else "-"
    return [
        text(router, "name") or text(router, "id"),
        here,
        "distributed" if flag(router, "distributed") else "centralised",
        text(router, "gateway_host") or "-",
        age(number(router, "since"), now),
        ",".join(words(router, "gateway_hosts")) or "-",
        count(router, "floating_ips"),
        count(router, "port_forwardings"),
    ]


def _conflicts(gateways: Answer) -> str:
    return f"{count(gateways, 'conflicts')} times two were active at once"
