# SPDX-License-Identifier: Apache-2.0
"""Which gateways are in use, as this host sees it: what the planners take from who watches them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agent.core.model import HostName, RouterId


@dataclass(frozen=True, slots=True)
class Peer:
    """A host that this one watches (BFD), and is watched by.

    ``interval`` is in milliseconds, of sending and of receiving; after three in vain the
    peer counts as gone.
    """

    host: HostName
    interval: int


@dataclass(frozen=True, slots=True)
class GatewayState:
    """``hosts``: the host whose gateway of a router is to be used, None while there is none.

    ``active``: the routers whose gateway works here.  Those of them that are ``passing`` are
    about to be used here, or were until a moment ago: what comes is forwarded, but not
    under the router's MAC address, so that switches learn no place from it; and those of these
    that are ``silent`` do not announce the gateway's addresses either (``agent/handover.py``).
    ``peers`` are sorted by host; ``path_down`` tells them that no gateway here is to be used.
    ``claims`` has a number for each router whose gateway is to be used here; with a new one it
    is announced anew.
    """

    hosts: Mapping[RouterId, HostName | None] = field(default_factory=lambda: MappingProxyType({}))
    active: frozenset[RouterId] = frozenset()
    passing: frozenset[RouterId] = frozenset()
    silent: frozenset[RouterId] = frozenset()
    peers: tuple[Peer, ...] = ()
    path_down: bool = False
    claims: Mapping[RouterId, int] = field(default_factory=lambda: MappingProxyType({}))
