# SPDX-License-Identifier: Apache-2.0
"""Which gateway of a router is used: one rule for all hosts, each applies it to what it sees itself.

Nobody is asked, so that gateways change while the store is away.  What a host sees are
its BFD sessions (RFC 5880): a gateway's is *forwarding* while it is heard and says that
its path is up; it is *up* while it is only heard.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agent.core.model import BfdSession, HostName, Router

FEW, MANY = 20, 100  # sessions
FAST, MEDIUM, SLOW = 100, 300, 1000  # milliseconds


@dataclass(frozen=True, slots=True)
class Sight:
    """What one host sees.

    ``sessions`` are those with its peers, as far as there are any yet.  ``usable`` tells
    that its own gateways may be used; ``alone`` that it hears nobody who could be heard.
    """

    own: HostName
    sessions: Mapping[HostName, BfdSession]
    usable: bool
    alone: bool


def gateway_order(router: Router) -> tuple[HostName, ...]:
    """Return the hosts that may have the gateway, the preferred one first."""
    return router.gateway_hosts if router.ha else router.gateway_hosts[:1]


def choose(router: Router, sight: Sight) -> HostName | None:
    """Return the host whose gateway is to be used, None if this host knows of none.

    The first that forwards.  If none does, the first that lives: when all gateways are
    drained, or have lost their uplinks, the router goes on as well as it can.  A gateway
    that hears nobody is not used even by itself: others have replaced it, and two would
    claim one address.
    """
    order = gateway_order(router)
    if len(order) < 2:  # nobody to choose between, and nobody watches
        return order[0] if order else None
    for host in order:
        if host == sight.own:
            if sight.usable and not sight.alone:
                return host
        elif host in sight.sessions and sight.sessions[host].forwarding:
            return host
    for host in order:
        if host == sight.own:
            if not sight.alone:
                return host
        elif host in sight.sessions and sight.sessions[host].up:
            return host
    return None if sight.own in order else order[0]


def peers_of(own: HostName, router: Router, members: Collection[HostName]) -> frozenset[HostName]:
    """Return whom *own* watches because of a router; *members* are the hosts with ports on its networks.

    Gateways watch each other and all members, members the gateways: both ends of a
    session find it by this rule.
    """
    order = gateway_order(router)
    if len(order) < 2 or not router.admin_state_up:
        return frozenset()
    if own in order:
        return frozenset((*order, *members)) - {own}
    return frozenset(order) if own in members else frozenset()


def has_witness(own: HostName, router: Router, peers: Collection[HostName]) -> bool:
    """Tell whether anybody but gateways of the router could tell *own* that it is not cut off."""
    order = gateway_order(router)
    return own not in order or not set(peers) <= set(order)


def session_interval(sessions: int) -> int:
    """Return how often to send to each of so many peers, in milliseconds: all together cost about the same."""
    if sessions <= FEW:
        return FAST
    return MEDIUM if sessions <= MANY else SLOW
