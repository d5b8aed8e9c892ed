# SPDX-License-Identifier: Apache-2.0
"""``hostplane status router NAME`` and ``status floating-ip ADDRESS``: where it is, what is missing, who answers."""

from __future__ import annotations

from collections.abc import Iterator

from agent.cli.answer import Answer, count, flag, number, part, parts, text, words
from agent.cli.output import Value, age, table

_FLOATING = ("floating ip", "stands for", "port", "leaves from", "begun in", "begun out", "state")
_SIDES = ("external", "internal")
_FORWARDING = ("external", "protocol", "internal", "port", "begun")


def router_page_lines(answer: Answer, now: float) -> Iterator[str]:
    """Yield the lines for people of ``/router``; *now* is in Unix seconds."""
    for index, router in enumerate(parts(answer, "routers")):
        if index:
            yield ""
        kind = "distributed" if flag(router, "distributed") else "centralised"
        yield f"{text(router, 'name')} ({text(router, 'id')}), {kind}"
        yield f"state      {_state(router)}"
        yield from _gateway(router, now)
        for leg in parts(router, "interfaces"):
            yield f"interface  {_leg(leg)}"
        yield from _next_hops(router)
        namespace = text(router, "namespace")
        yield f"namespace  {namespace or 'none on this host'}"
        yield from _trouble(router)
        floating = [_floating_row(each) for each in parts(router, "floating_ips")]
        forwardings = [_forwarding_row(each) for each in parts(router, "port_forwardings")]
        for lines in (table(floating, _FLOATING), table(forwardings, _FORWARDING)):
            if lines:
                yield ""
                yield from lines


def floating_ip_lines(answer: Answer, now: float) -> Iterator[str]:
    """Yield the lines for people of ``/floating-ip``; *now* is in Unix seconds."""
    for index, floating in enumerate(parts(answer, "floating_ips")):
        if index:
            yield ""
        address, router = text(floating, "floating_ip_address"), text(floating, "router_name")
        yield f"{address} ({text(floating, 'id')}) of router {router} on network {text(floating, 'network_name')}"
        yield f"state      {_floating_state(floating)}"
        yield f"stands for {text(floating, 'fixed_ip_address')} of {_port(floating)}"
        host = text(floating, "gateway_host") or "nowhere"
        order = ", ".join(words(floating, "gateway_hosts")) or "none"
        yield f"gateway    used on {host} for {age(number(floating, 'since'), now)}, hosts in order: {order}"
        yield from _next_hops(floating)
        begun = part(floating, "begun")
        if number(begun, "in") is not None:
            yield f"begun      {count(begun, 'in')} connections from outside, {count(begun, 'out')} to the outside"
        yield from _trouble(floating)


def _state(router: Answer) -> str:
    if not flag(router, "ready"):
        return f"NOT READY: {text(router, 'reason')}"
    if flag(router, "active"):
        said = "ready, its gateway is active here"
    elif not text(router, "namespace"):
        said = "not on this host, which sends to its gateway"
    else:
        said = "ready"
    return f"{said} ({text(router, 'reason')})" if text(router, "reason") else said


def _gateway(router: Answer, now: float) -> Iterator[str]:
    gateway = part(router, "gateway")
    if not gateway:
        yield "gateway    none"
        return
    snat = "" if flag(router, "enable_snat") else ", nothing is translated but floating IPs"
    yield f"gateway    {_leg(gateway)}{snat}"
    order = ", ".join(words(router, "gateway_hosts")) or "none"
    host = text(router, "gateway_host") or "NOWHERE"
    yield f"           used on {host} for {age(number(router, 'since'), now)}, hosts in order: {order}"


def _leg(leg: Answer) -> str:
    network = text(leg, "network_name") or text(leg, "network")
    device = f", device {text(leg, 'device')}" if text(leg, "device") else ""
    return f"{', '.join(words(leg, 'addresses'))} on {network} ({text(leg, 'mac_address')}{device})"


def _next_hops(found: Answer) -> Iterator[str]:
    for hop in parts(found, "next_hops"):
        state = text(hop, "state")
        said = {"known": f"known as {text(hop, 'mac_address')}", "silent": "DOES NOT ANSWER"}.get(
            state, "not asked yet"
        )
        yield f"next hop   {text(hop, 'nexthop')} to {text(hop, 'destination')}: {said}"


def _trouble(found: Answer) -> Iterator[str]:
    yield from (f"waits for  {line}" for line in words(found, "unfinished"))
    for problem in parts(found, "problems"):
        yield f"problem    {text(problem, 'text')} (who must act: {text(problem, 'actor')})"
    if text(found, "look_error"):
        yield f"unknown    the router's namespace cannot be looked into: {text(found, 'look_error')}"


def _floating_state(floating: Answer) -> str:
    host, reason = text(floating, "host"), text(floating, "reason")
    if reason:
        return f"DOES NOT WORK: {reason}"
    if not flag(floating, "is_here"):
        return f"host {host} answers for it: hostplane status floating-ip there says more"
    return f"in place here, answered for with {text(floating, 'mac_address')}"


def _port(found: Answer) -> str:
    """Return what is known of the port that something leads to."""
    port, host = text(found, "port"), text(found, "port_host")
    name = f"port {text(found, 'port_name') or port}"
    if found.get("port_up") is None:
        return f"{name} on host {host}: hostplane status port there says more" if host else f"{name}, which has no host"
    if flag(found, "port_up"):
        return (
            f"{name}, which is up here (its security groups: hostplane status port {text(found, 'port_name') or port})"
        )
    return f"{name}, which is DOWN: {text(found, 'port_reason')}"


def _floating_row(floating: Answer) -> list[Value]:
    begun = part(floating, "begun")
    counts: list[Value] = [None if number(begun, way) is None else count(begun, way) for way in ("in", "out")]
    here = "in place" if flag(floating, "is_here") else ""
    state = text(floating, "reason") or ("its port is down" if floating.get("port_up") is False else here)
    address, fixed = text(floating, "floating_ip_address"), text(floating, "fixed_ip_address")
    return [address, fixed, _port_name(floating), text(floating, "host") or "nowhere", *counts, state]


def _forwarding_row(forwarding: Answer) -> list[Value]:
    begun: Value = None if number(forwarding, "begun") is None else count(forwarding, "begun")
    ways: list[Value] = [f"{text(forwarding, f'{side}_ip_address')}:{_range(forwarding, side)}" for side in _SIDES]
    return [ways[0], text(forwarding, "protocol"), ways[1], _port_name(forwarding), begun]


def _port_name(found: Answer) -> str:
    return text(found, "port_name") or text(found, "port")


def _range(forwarding: Answer, side: str) -> str:
    first, last = (count(forwarding, f"{side}_port_{end}") for end in ("min", "max"))
    return str(first) if first == last else f"{first}-{last}"
