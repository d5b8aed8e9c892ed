# SPDX-License-Identifier: Apache-2.0
"""One router and one floating IP as operators see them on one host: what is there, what is missing, what passes."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.model import FloatingIp, HostName, NetworkId, PortForwarding, Router
from agent.core.router_report import RouterStatus


@dataclass(frozen=True, slots=True)
class NextHop:
    """Who a route leads to, and on which device of the router's namespace.

    ``mac`` is what the kernel knows of it now: empty if it was asked for and does not answer, None
    if nobody has asked of late.
    """

    destination: str
    address: str
    device: str
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class LegView:
    """A port of a router; ``device`` is the one in its namespace, None where there is none on this host."""

    network: NetworkId
    network_name: str
    mac: str
    addresses: tuple[str, ...]
    device: str | None


@dataclass(frozen=True, slots=True)
class FloatingIpView:
    """A floating IP.

    ``network_name`` is the external network's.  ``host`` is where it leaves from as seen
    from here, None for nowhere; ``is_here`` that it is this host, which answers for it with
    ``mac``.  ``reason`` says why it does not work here, or nowhere, empty if nothing is known
    that would keep it from that; ``unfinished`` what is missing.  Counts are of connections
    that began (from outside, to the outside), since the rules were made; None if they were not read.
    ``look_error`` says why the router's namespace could not be looked into.
    """

    floating: FloatingIp
    router: RouterStatus
    network_name: str
    host: HostName | None
    is_here: bool
    mac: str
    reason: str
    unfinished: tuple[str, ...] = ()
    next_hops: tuple[NextHop, ...] = ()
    begun_in: int | None = None
    begun_out: int | None = None
    look_error: str | None = None


@dataclass(frozen=True, slots=True)
class PortForwardingView:
    """A port forwarding; ``begun`` counts connections as above."""

    forwarding: PortForwarding
    begun: int | None = None


@dataclass(frozen=True, slots=True)
class RouterView:
    """A router on this host; ``namespace`` is None where it has none.

    ``look_error`` is as above.
    """

    router: Router
    status: RouterStatus
    namespace: str | None
    gateway: LegView | None
    interfaces: tuple[LegView, ...]
    next_hops: tuple[NextHop, ...]
    unfinished: tuple[str, ...]
    floating_ips: tuple[FloatingIpView, ...]
    port_forwardings: tuple[PortForwardingView, ...]
    look_error: str | None = None
