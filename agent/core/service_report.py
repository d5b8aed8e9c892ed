# SPDX-License-Identifier: Apache-2.0
"""What the daemon tells about the services of a port: what it is answered, whether that is in place, what it asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from agent.core.errors import AgentError
from agent.core.items import Served
from agent.core.model import HostSnapshot, PortId
from agent.core.plan import Group, ItemRef, ObjectId, Plan
from agent.core.report import ObjectStatus

MOST_SHOWN = 10  # items that a service waits for
_STATEFUL = "dhcpv6-stateful"  # a subnet's mode, as Neutron has them
Json: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ServiceCounts:
    """What the responder has counted since it started: metric -> labels -> number; ``up`` tells that it answers."""

    up: bool = False
    counters: Mapping[str, Mapping[tuple[tuple[str, str], ...], float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PortServices:
    """How one port is served.

    ``offer`` is what it is answered, as the responder knows it (without user data);
    ``in_place`` tells that nothing is missing, else ``unfinished`` says what.  ``told`` is
    what the responder says of the port, None if it could not be asked, because of ``error``.
    ``made_from`` are the ids of what else of the store it is made from.
    """

    port: PortId
    offer: Json
    in_place: bool
    unfinished: tuple[str, ...] = ()
    told: Json | None = None
    error: str | None = None
    made_from: frozenset[str] = frozenset()


def port_services(
    name: str,
    snapshot: HostSnapshot,
    plan: Plan,
    unfinished: Mapping[ItemRef, ObjectStatus],
    ask: Callable[[PortId], Json],
) -> tuple[PortServices, ...]:
    """Return how the ports called *name* (a name or an id) are served; those without services are left out.

    *plan* is what is desired, *unfinished* what of it is not done.  *ask* asks the
    responder and may raise AgentError.
    """
    found = []
    for port in sorted(port.id for port in snapshot.ports.values() if name in (port.id, port.name)):
        groups = [group for kind in ("dhcp", "metadata") if (group := plan.groups.get(ObjectId(f"port:{port}/{kind}")))]
        if groups:
            waits = sorted({ref for group in groups for ref in _refs(group)} & unfinished.keys())
            texts = tuple(f"{ref.driver} {ref.key}: {unfinished[ref].message}" for ref in waits[:MOST_SHOWN])
            told, error = _ask(ask, port)
            subnets = snapshot.subnets.get(snapshot.ports[port].network, ())
            made_from = frozenset(f"subnet:{subnet.id}" for subnet in subnets)
            found.append(PortServices(port, _offer(groups), not waits, texts, told, error, made_from))
    return tuple(found)


def addresses(offer: Json) -> list[Json]:
    """Return how the port learns each of its addresses, of what is offered to it.

    ``by`` is ``dhcp``, ``dhcpv6`` or ``ra`` (made by the instance from an advertised
    prefix), None where we do not tell, because of ``why_not``.
    """
    dhcp = offer.get("dhcp") or {}
    subnets = dhcp.get("subnets") or ()
    return [{"address": address, **_way(subnets[place])} for address, place in dhcp.get("addresses") or ()]


def _way(subnet: Json) -> Json:
    cidr, server, mode = subnet["cidr"], subnet.get("server"), subnet.get("address_mode")
    by = "dhcp" if ":" not in cidr else "dhcpv6" if mode == _STATEFUL else "ra"
    why_not = None
    if not subnet.get("dhcp", True):
        why_not = "the subnet has DHCP off"
    elif by == "dhcp" and server is None:
        why_not = "the subnet has no server address"
    elif by == "ra" and subnet.get("ra_mode") is None:
        why_not = "the subnet has no IPv6 mode" if mode is None else "the subnet has no mode of router advertisements"
    told = why_not is None
    return {
        "subnet": cidr,
        "by": by if told else None,
        "server": server if told and by == "dhcp" else None,
        "why_not": why_not,
    }


def _ask(ask: Callable[[PortId], Json], port: PortId) -> tuple[Json | None, str | None]:
    try:
        return ask(port), None
    except AgentError as err:
        return None, str(err)


def _refs(group: Group) -> Iterator[ItemRef]:
    for driver, items in group.items.items():
        for key in items:
            yield ItemRef(driver, key)
    for needed in group.requires.values():
        yield from needed


def _offer(groups: list[Group]) -> Json:
    """Return what the responder is told, for people."""
    offer: dict[str, Any] = {}
    for group in groups:
        for key, value in group.items.get("responder", {}).items():
            if isinstance(value, Served) and value.data:
                data = json.loads(value.data)
                offer |= {"dhcp": data.get("port")} if key.startswith("dhcp ") else {"metadata": _without_content(data)}
    return offer


def _without_content(data: Json) -> Json:
    """Leave out what may be large or a secret of the tenant's."""
    content = data.get("content")
    return {**{key: value for key, value in data.items() if key != "content"}, "from_store": content is not None}
