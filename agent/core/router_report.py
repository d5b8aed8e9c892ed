# SPDX-License-Identifier: Apache-2.0
"""What operators see of routers and gateways on one host."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.core.model import HostName, RouterId


class SessionState(StrEnum):
    """How a host that is watched looks from here (BFD)."""

    FORWARDING = "forwarding"
    UP = "up"  # it is heard, and says that its gateways are not to be used
    DOWN = "down"
    NONE = "none"  # Open vSwitch has not said anything yet


@dataclass(frozen=True, slots=True)
class WatchedHost:
    """A host with which there is a session; ``since`` is in Unix seconds."""

    host: HostName
    state: SessionState
    since: float


@dataclass(frozen=True, slots=True)
class RouterStatus:
    """A router that this host needs.

    ``gateway_hosts`` are in the order of preference, ``gateway_host`` is the one whose
    gateway is used as seen from here, None while there is none.  ``active`` tells that it is
    this one; ``lives_here`` that the router has a namespace here.  ``since`` (Unix seconds) is
    when ``gateway_host`` or ``active`` last changed.  ``ready`` tells that all of it that should
    be here is in place; ``reason`` why not, or what is left out of it.
    """

    id: RouterId
    name: str
    distributed: bool
    gateway_hosts: tuple[HostName, ...]
    gateway_host: HostName | None
    active: bool
    lives_here: bool
    floating_ips: int
    port_forwardings: int
    since: float
    ready: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RoutersReport:
    """All of them; ``reason`` says why gateways of this host are not to be used, empty if they are.

    ``failovers`` counts the times that another gateway was chosen, ``conflicts`` those that
    two gateways which could not see each other were active at once.
    """

    routers: tuple[RouterStatus, ...] = ()
    hosts: tuple[WatchedHost, ...] = ()
    reason: str = ""
    failovers: int = 0
    conflicts: int = 0
