# SPDX-License-Identifier: Apache-2.0
"""``hostplane status port NAME``: one port, and its filter rule by rule."""

from __future__ import annotations

from collections.abc import Iterator

from agent.cli.answer import Answer, count, flag, number, part, parts, text, words
from agent.cli.output import Value, age, table
from agent.cli.rule_view import ANY_PROTOCOL, ANYBODY, ports_text
from agent.cli.service_view import service_lines

MOST_PROBLEMS = 10
HEADS = ("group", "direction", "ethertype", "protocol", "ports", "remote", "packets", "bytes", "rule")


def port_lines(answer: Answer, now: float) -> Iterator[str]:
    """Yield the lines for people; *now* is in Unix seconds."""
    for index, port in enumerate(parts(answer, "ports")):
        if index:
            yield ""
        network = text(port, "network_name") or text(port, "network")
        yield f"{text(port, 'name')} ({text(port, 'id')}) on network {network}"
        why = f": {text(port, 'reason')}" if text(port, "reason") else ""
        since = age(number(port, "since"), now)
        yield f"state      {'up' if flag(port, 'up') else 'DOWN'}, unchanged for {since}{why}"
        ofport = number(port, "ofport")
        yield f"interface  {text(port, 'interface') or '-'}" + (
            "" if ofport is None else f", OpenFlow port {ofport:.0f}"
        )
        yield from _problems(port)
        yield from service_lines(part(port, "services"), now)
        yield from _filter(port)
    if text(answer, "counters_error"):
        yield ""
        yield f"the counters cannot be read: {text(answer, 'counters_error')}"


def _problems(port: Answer) -> Iterator[str]:
    found = [problem for problem in parts(port, "problems") if text(problem, "text") != text(port, "reason")]
    for problem in found[:MOST_PROBLEMS]:
        yield f"problem    {text(problem, 'text')} (who must act: {text(problem, 'actor')})"
    if len(found) > MOST_PROBLEMS:
        yield f"           and {len(found) - MOST_PROBLEMS} more (see hostplane status problems)"


def _filter(port: Answer) -> Iterator[str]:
    found = part(port, "filter")
    if not found:
        yield "filter     none: it has no security groups that could drop anything"
        return
    bridge = text(found, "bridge")
    if not bridge:
        yield "filter     NOT IN PLACE: the port is shut"
    else:
        zone = number(found, "zone")
        tracked = "connections are not tracked" if zone is None else f"connections in zone {zone:.0f}"
        yield f"filter     {'in place' if flag(found, 'in_place') else 'NOT IN PLACE'}, bridge {bridge}, {tracked}"
        for direction, verb in (("egress", "sends"), ("ingress", "receives")):
            chain = text(part(found, "chains"), direction)
            dropped = part(part(found, "dropped"), direction)
            told = f": {_amount(dropped)} dropped" if number(dropped, "packets") is not None else ""
            yield f"chain      {chain or '-'} for what it {verb}{told}"
    for line in words(found, "unfinished"):
        yield f"waits for  {line}"
    groups = parts(found, "security_groups")
    yield f"groups     {', '.join(_group(group) for group in groups) or 'none: only DHCP and neighbor discovery pass'}"
    lines = table([_rule(group, rule) for group in groups for rule in parts(group, "rules")], HEADS)
    if lines:
        yield ""
        yield from lines
        yield "Counted on this host, for all ports with the group; of a tracked connection only its first packet."


def _group(group: Answer) -> str:
    notes = [] if flag(group, "stateful") else ["stateless"]
    notes += [f"logs {verdict}" for verdict in words(group, "log")]
    return text(group, "name") + (f" ({', '.join(notes)})" if notes else "")


def _rule(group: Answer, rule: Answer) -> list[Value]:
    counts: list[Value] = [None if number(rule, key) is None else count(rule, key) for key in ("packets", "bytes")]
    protocol = text(rule, "protocol")
    ports = ports_text(protocol, *(_whole(rule, key) for key in ("port_range_min", "port_range_max")))
    whose = [text(rule, key) for key in ("direction", "ethertype")]
    what = [*whose, protocol or ANY_PROTOCOL, ports, _remote(rule)]
    return [text(group, "name"), *what, *counts, text(rule, "id")]


def _whole(rule: Answer, key: str) -> int | None:
    found = number(rule, key)
    return None if found is None else int(found)


def _remote(rule: Answer) -> str:
    owner = text(rule, "remote_owner")
    if not owner:
        return text(rule, "remote_ip_prefix") or ANYBODY
    kind = text(rule, "remote_owner_kind").removeprefix("security_").replace("_", " ")
    return f"{kind or 'members of'} {text(rule, 'remote_owner_name') or owner}"


def _amount(counted: Answer) -> str:
    return f"{count(counted, 'packets')} packets ({count(counted, 'bytes')} bytes)"
