# SPDX-License-Identifier: Apache-2.0
"""Where the gateways of routers are, as seen from this host.

The store says which hosts a router may use and in which order; which of them it uses
now each host finds out by itself (BFD).  This is all of it that the planner must know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agent.core.model import HostName, RouterId


@dataclass(frozen=True, slots=True)
class GatewayState:
    """Which routers speak for themselves here, and where the others do.

    ``active`` are the routers whose gateway is active on this host.  ``hosts`` is the
    host that this one sends to for each router that it needs (its own name where it is
    active), None while no gateway of the router can be reached.  A router that is in
    neither is treated as one that cannot be reached.
    """

    active: frozenset[RouterId] = frozenset()
    hosts: Mapping[RouterId, HostName | None] = field(default_factory=lambda: MappingProxyType({}))


NO_GATEWAYS = GatewayState()
