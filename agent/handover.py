# SPDX-License-Identifier: Apache-2.0
"""How a gateway that works is handed from one host to another without losing a packet.

For a while both are open, and nothing is to be led to the one that does not expect it.
Counted from when each host hears of it, the hosts do this:

========  =====================================================================
at once   The next one opens.  Both of them are *passing*: on physical networks
          they send under another MAC address than the router's, so that
          switches go on leading that to the one before.
ANNOUNCE  The next one announces itself: now they lead it there.  The IPv4 that
          comes from outside it passes back to the one before, which knows the
          connections that SNAT made.
SETTLE    All others send to the next one; the one before closes LINGER later.
ARRIVE    It is passing no more, and its own host's instances use it.
========  =====================================================================

Each step comes later than the last by more than the time within which all hear of it.
Where the one before does not forward any more all happens at once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from agent.core.model import HostName, RouterId

# Seconds, besides the interval of BFD, after which at the latest others hear of it.
ANNOUNCE: Final = 0.3
SETTLE: Final = 0.5
ARRIVE: Final = 0.8
LINGER: Final = 1.0


@dataclass(frozen=True, slots=True)
class Stage:
    """What a host does for a router now.

    ``host``: where it sends to.  ``active``: its own gateway is open.  ``passing``: but
    under another MAC address.  ``speaking``: the gateway's addresses are announced from here.
    """

    host: HostName | None
    active: bool = False
    passing: bool = False
    speaking: bool = False


@dataclass(frozen=True, slots=True)
class _Move:
    to: HostName
    since: float


class Handovers:
    """Where each router stands on the host *own*; used by the reconcile thread.  Times are monotonic."""

    def __init__(self, own: HostName) -> None:
        self._own = own
        self._stages: dict[RouterId, Stage] = {}
        self._moves: dict[RouterId, _Move] = {}
        self._lingering: dict[RouterId, float] = {}  # until when
        self._due: float | None = None

    @property
    def due(self) -> float | None:
        """When ``step`` has to be asked again although nothing has changed, as of the last round."""
        return self._due

    def host(self, router: RouterId) -> HostName | None:
        """Return the host that was sent to so far."""
        stage = self._stages.get(router)
        return None if stage is None else stage.host

    def begin(self, routers: Collection[RouterId]) -> None:
        """Begin a round, and forget all but *routers*."""
        self._due = None
        for known in (self._stages, self._moves, self._lingering):
            for gone in known.keys() - set(routers):
                del known[gone]

    def step(
        self, router: RouterId, chosen: HostName | None, now: float, interval: float, *, forwards: bool, alone: bool
    ) -> Stage:
        """Return what to do for a router whose gateway is to be *chosen*.

        *interval* is that of BFD in seconds.  *forwards*: the gateway before still does.
        *alone*: others have replaced that of this host, if it had one.
        """
        before = self.host(router)
        since = self._moving_since(router, before, chosen, now) if forwards else None
        if since is None:
            self._moves.pop(router, None)
            host = chosen
        else:
            wait = (ARRIVE if chosen == self._own else SETTLE) + interval
            host = chosen if self._is_over(since + wait, now) else before
        if self._own == chosen:
            speaking = host == chosen or (since is not None and self._is_over(since + (ANNOUNCE + interval), now))
            stage = Stage(host, active=True, passing=host != chosen, speaking=speaking)
        elif self._own == host:
            stage = Stage(host, active=True, passing=True, speaking=True)
        else:
            lingers = self._lingers(router, before, now, wanted=host is not None and not alone)
            stage = Stage(host, active=lingers, passing=lingers)
        self._stages[router] = stage
        return stage

    def _moving_since(
        self, router: RouterId, before: HostName | None, chosen: HostName | None, now: float
    ) -> float | None:
        if chosen is None or before in (None, chosen):
            return None
        move = self._moves.get(router)
        if move is None or move.to != chosen:
            move = self._moves[router] = _Move(chosen, now)
        return move.since

    def _lingers(self, router: RouterId, before: HostName | None, now: float, *, wanted: bool) -> bool:
        if before == self._own:
            self._lingering[router] = now + LINGER
        until = self._lingering.get(router)
        if until is None or not wanted or self._is_over(until, now):
            self._lingering.pop(router, None)
            return False
        return True

    def _is_over(self, moment: float, now: float) -> bool:
        if now >= moment:
            return True
        self._due = moment if self._due is None else min(self._due, moment)
        return False
