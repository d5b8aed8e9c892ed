# SPDX-License-Identifier: Apache-2.0
"""The lines of ``hostplane status port NAME`` about what a port is answered, and what it asked last."""

from __future__ import annotations

from collections.abc import Iterator

from agent.cli.answer import Answer, count, flag, number, part, parts, text, words
from agent.cli.output import age

MOST_MESSAGES = 6
_WAYS = {"dhcp": "DHCP", "dhcpv6": "DHCPv6", "ra": "router advertisements"}
_NAMES = {"dhcpv4": "DHCP", "dhcpv6": "DHCPv6", "ra": "router", "nd": "neighbor"}


def service_lines(found: Answer, now: float) -> Iterator[str]:
    """Yield the lines for people of a port's ``services``; *now* is in Unix seconds."""
    if not found:
        yield "services   none: the port is not answered anything"
        return
    offer = part(found, "offer")
    yield f"services   {'in place' if flag(found, 'in_place') else 'NOT IN PLACE'}{_offered(offer)}"
    yield from (f"waits for  {line}" for line in words(found, "unfinished"))
    yield from _addresses(found)
    if text(found, "error"):
        yield f"asked      unknown: {text(found, 'error')}"
        return
    last = part(found, "last")
    for message in parts(last, "messages")[:MOST_MESSAGES]:
        protocol = _NAMES.get(text(message, "protocol"), text(message, "protocol"))
        told = f"{protocol} {text(message, 'message')}: {text(message, 'result')}"
        yield f"asked      {told}, {age(number(message, 'at'), now)} ago"
    if number(last, "advertised_at") is not None:
        yield f"told       router advertisement, {age(number(last, 'advertised_at'), now)} ago"
    yield from _metadata(last, now)


def _offered(offer: Answer) -> str:
    dhcp, metadata = part(offer, "dhcp"), part(offer, "metadata")
    facts = []
    if text(dhcp, "hostname"):
        facts.append(f"host name {text(dhcp, 'hostname')}")
    if metadata and flag(metadata, "from_store"):
        facts.append(f"metadata of instance {text(metadata, 'instance_id')} from the store")
    elif text(metadata, "instance_id"):
        facts.append(f"metadata of instance {text(metadata, 'instance_id')} from Nova")
    elif metadata:
        facts.append("no metadata: without a device id Nova does not know the port")
    return "".join(f", {fact}" for fact in facts)


def _addresses(found: Answer) -> Iterator[str]:
    """Yield how the instance learns each of its addresses, or why not from us."""
    addresses = parts(found, "addresses")
    for address in addresses:
        way, server = _WAYS.get(text(address, "by"), ""), text(address, "server")
        told = f"by {way}{f' from {server}' if server else ''}" if way else f"NOT TOLD: {text(address, 'why_not')}"
        yield f"address    {text(address, 'address')} {told}"
    if not addresses and part(found, "offer"):
        yield "address    none: the port has no fixed address on a subnet"


def _metadata(last: Answer, now: float) -> Iterator[str]:
    request = part(last, "metadata")
    if request:
        asked = f"{text(request, 'method')} {text(request, 'path')}: {count(request, 'code')}"
        yield f"asked      metadata {asked}, {age(number(request, 'at'), now)} ago, from {text(request, 'address')}"
    if count(last, "connections"):
        yield f"metadata   {count(last, 'connections')} connections are open"
    if count(last, "rate_limited"):
        yield f"refused    {count(last, 'rate_limited')} messages and requests were too many"
