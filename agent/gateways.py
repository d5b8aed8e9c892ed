# SPDX-License-Identifier: Apache-2.0
"""Who has the gateways, over time: sessions as Open vSwitch reports them, and how long they are believed.

A gateway goes at once and comes back slowly: a host whose gateways were not usable,
or that heard nobody, holds back for ``hold_down`` seconds, told to everybody by
``bfd:cpath_down``, and without preemption for as long as another gateway of its routers
forwards.  Nothing waits for that while no other gateway is usable (``choose``).

While the gateway before still forwards nothing need be lost: it is handed over (``Handovers``).
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from agent.core import naming
from agent.core.items import OvsPort
from agent.core.model import (
    BfdSession,
    Endpoint,
    EndpointId,
    HostName,
    HostSnapshot,
    NetworkId,
    Router,
    RouterId,
    SwitchView,
)
from agent.core.plan import Key, Value
from agent.core.router_report import RoutersReport, RouterStatus, SessionState, WatchedHost
from agent.handover import Handovers, Stage
from agent.l2.settings import LocalSettings
from agent.l3.gateways import Sight, choose, gateway_order, has_witness, peers_of, session_interval
from agent.l3.state import GatewayState, Peer

LOG = logging.getLogger(__name__)

CPATH_DOWN: Final = ("cpath_down", "true")


Sessions: TypeAlias = Mapping[HostName, BfdSession | None]  # of all peers; None: there is none yet
# Seconds within which a new session comes up: until then it is sent once a second only (RFC 5880, section 6.8.3).
NEW: Final = 3.0
_NEVER: Final = BfdSession(up=True, forwarding=False)  # what stands for a session that was not there before


class Reason(StrEnum):
    """Why the gateways of this host are not to be used."""

    NONE = ""
    STARTING = "the host has not converged yet"
    DRAINED = "the host is drained"
    UPLINK = "the external uplink is lost"
    CUT_OFF = "none of the hosts that it watches is heard"
    UNHEARD = "none of the hosts that it watches has been heard yet"
    HELD = "it was unusable a moment ago"
    BEHIND = "another gateway is in use, and preemption is off"


_USABLE: Final = frozenset({Reason.NONE, Reason.UNHEARD})  # whoever hears this host may use its gateways
_BROKEN: Final = frozenset({Reason.STARTING, Reason.UPLINK, Reason.CUT_OFF})  # what comes all the same is lost


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """What the last decision was and what it was made from."""

    state: GatewayState = field(default_factory=GatewayState)
    reason: Reason = Reason.NONE
    detail: str = ""
    sessions: Sessions = field(default_factory=lambda: MappingProxyType({}))
    failovers: int = 0
    conflicts: int = 0

    @property
    def why_not(self) -> str:
        """Why gateways of this host are not to be used, "" if they are."""
        return f"{self.reason.value}: {self.detail}" if self.detail else self.reason.value


class Gateways:
    """Decides in each pass; used by the reconcile thread.

    *hold_down* in seconds, *clock* tells Unix seconds.  ``decide`` returns the same object
    while nothing changes.
    """

    def __init__(
        self,
        own: HostName,
        settings: LocalSettings,
        hold_down: float,
        *,
        preempt: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own = own
        self._settings = settings
        self._hold_down = hold_down
        self._preempt = preempt
        self._report = GatewayReport()
        self._ready_since: float | None = None
        self._handovers = Handovers(own)
        self._members: dict[NetworkId, tuple[Mapping[EndpointId, Endpoint], frozenset[HostName]]] = {}
        self._used: dict[RouterId, HostName] = {}  # the last host that was used, even if there is none now
        self._claims = itertools.count(1)
        self._due: float | None = None
        self._flows_lost = False
        self._heard = False  # somebody, since there has been anybody to hear
        self._awaited: dict[HostName, float] = {}  # whose new sessions have not come up yet, and until when they may
        self._clock = clock
        self._since: dict[RouterId | HostName, tuple[object, float]] = {}

    @property
    def report(self) -> GatewayReport:
        """What the last decision was made from; any thread."""
        return self._report

    def next_due(self) -> float | None:
        """Return the monotonic time at which to decide again although nothing has changed."""
        return self._due

    def seen(self, snapshot: HostSnapshot, lives_here: Collection[RouterId]) -> RoutersReport:
        """Return what operators see of the routers of *snapshot*; *lives_here* are those with a namespace here."""
        report = self._report
        routers = tuple(
            RouterStatus(
                id=id_,
                name=router.name,
                distributed=router.distributed,
                gateway_hosts=gateway_order(router),
                gateway_host=report.state.hosts.get(id_),
                active=id_ in report.state.active,
                lives_here=id_ in lives_here,
                floating_ips=len(snapshot.floating_ips.get(id_, ())),
                port_forwardings=len(snapshot.port_forwardings.get(id_, ())),
                since=self._since[id_][1] if id_ in self._since else 0.0,
            )
            for id_, router in snapshot.routers.items()
        )
        hosts = tuple(
            WatchedHost(host, _state_of(session), self._since[host][1] if host in self._since else 0.0)
            for host, session in report.sessions.items()
        )
        return RoutersReport(routers, hosts, report.why_not, report.failovers, report.conflicts)

    def adopt(self, items: Mapping[Key, Value]) -> None:
        """Go on where an earlier process ended: what it told the peers still holds (*items* of driver ``ovs``)."""
        ports = [item for item in items.values() if isinstance(item, OvsPort) and item.bfd]
        if ports and not any(CPATH_DOWN in port.bfd for port in ports):
            self._ready_since = float("-inf")

    def lose_flows(self) -> None:
        """Note that the switch was restarted: nothing here is to be used before a pass has written all flows anew."""
        self._ready_since = None
        self._flows_lost = True

    def decide(self, snapshot: HostSnapshot, view: SwitchView, now: float, *, converged: bool) -> GatewayState:
        """Return which gateways are in use; *converged* tells that a pass has ended, *now* is monotonic."""
        self._due = None
        if self._flows_lost:  # the pass that begins with this writes them
            self._flows_lost = converged = False
            self._wait_until(now)
        routers = {id_: router for id_, router in snapshot.routers.items() if router.admin_state_up}
        names = self._peers(routers.values(), snapshot)
        sessions = {name: view.sessions.get(naming.peer_port_name(name)) for name in sorted(names)}
        known = {name: session for name, session in sessions.items() if session is not None}
        awaited = self._await(sessions, view, now)
        heard = any(session.up for session in known.values())
        self._heard = bool(names) and (self._heard or heard)
        unheard = bool(names) and not heard and not awaited
        lonely = {id_ for id_, router in routers.items() if unheard and has_witness(self._own, router, names)}
        mine = {id_: router for id_, router in routers.items() if self._own in gateway_order(router)}
        cut_off = not lonely.isdisjoint(mine)
        reason, detail = self._why_not(mine.values(), snapshot, view, known, now, converged=converged, cut_off=cut_off)
        usable = reason in _USABLE
        expected = known | {
            name: BfdSession(up=True, forwarding=usable and not snapshot.hosts[name].drain) for name in awaited
        }
        interval = session_interval(len(names))
        stages: dict[RouterId, Stage] = {}
        self._handovers.begin(routers)
        for id_, router in routers.items():
            alone = id_ in lonely
            chosen = choose(router, Sight(self._own, expected, usable, alone))
            forwards = self._forwards(self._handovers.host(id_), reason, known, snapshot) and not alone
            stages[id_] = self._handovers.step(id_, chosen, now, interval / 1000, forwards=forwards, alone=alone)
        if self._handovers.due is not None:
            self._wait_until(self._handovers.due)
        claims = self._claimed([router for id_, router in mine.items() if stages[id_].speaking], sessions)
        state = GatewayState(
            {id_: stage.host for id_, stage in stages.items()},
            frozenset(id_ for id_, stage in stages.items() if stage.active),
            frozenset(id_ for id_, stage in stages.items() if stage.passing),
            frozenset(id_ for id_, stage in stages.items() if stage.passing and not stage.speaking),
            tuple(Peer(name, interval) for name in sessions),
            path_down=not usable,
            claims=claims,
        )
        last = self._report.state.hosts
        conflicts = self._healed([gateway_order(mine[id_]) for id_ in mine if last.get(id_) == self._own], sessions)
        state = self._publish(state, reason, detail, sessions, conflicts)
        self._note_times(
            {
                **{id_: (state.hosts.get(id_), id_ in state.active) for id_ in snapshot.routers},
                **{host: _state_of(session) for host, session in sessions.items()},
            }
        )
        return state

    def _publish(
        self, state: GatewayState, reason: Reason, detail: str, sessions: Sessions, conflicts: int
    ) -> GatewayState:
        last = self._report
        if state == last.state:
            state = last.state
        used = {id_: host for id_, host in state.hosts.items() if host is not None}
        moved = sum(self._used.get(id_, host) != host for id_, host in used.items())
        self._used = {id_: host for id_, host in (self._used | used).items() if id_ in state.hosts}
        for id_, host in state.hosts.items():
            if id_ in last.state.hosts and last.state.hosts[id_] != host:
                LOG.info("router %s: gateway %s instead of %s", id_, host or "nowhere", last.state.hosts[id_])
        if conflicts:
            LOG.warning("gateways could not see each other and were active twice: %d", conflicts)
        failovers = last.failovers + moved
        self._report = GatewayReport(state, reason, detail, sessions, failovers, last.conflicts + conflicts)
        return state

    def _note_times(self, values: Mapping[RouterId | HostName, object]) -> None:
        now, before = self._clock(), self._since
        self._since = {
            key: before[key] if key in before and before[key][0] == value else (value, now)
            for key, value in values.items()
        }

    def _await(self, sessions: Sessions, view: SwitchView, now: float) -> Collection[HostName]:
        """Return the hosts whose sessions are so new that their silence means nothing.

        A new router has its gateway at once, on the host that all prefer.  Of a host that is
        usable itself the same is expected of others: all that are not tell it once they are heard.
        """
        for host, session in sessions.items():
            is_made = naming.peer_port_name(host) in view.ofports
            if host not in self._report.sessions and session is None and not is_made:
                self._awaited[host] = now + NEW
        self._awaited = {
            host: until
            for host, until in self._awaited.items()
            if host in sessions and not _is_up(sessions[host]) and now < until
        }
        for until in self._awaited.values():
            self._wait_until(until)
        return self._awaited

    def _claimed(self, announced: Collection[Router], sessions: Sessions) -> dict[RouterId, int]:
        """Return the claims to the gateways that are *announced* here; those that have just come are new.

        So are those to which another host may have had a claim as well: one that was not
        heard and is again.  Switches outside may know the way there only.
        """
        last = self._report
        heard = {host for host, session in sessions.items() if _is_up(session) and not _is_up(last.sessions.get(host))}
        claims: dict[RouterId, int] = {}
        for router in announced:
            claim = last.state.claims.get(router.id)
            if claim is None or not heard.isdisjoint(gateway_order(router)):
                claim = next(self._claims)
            claims[router.id] = claim
        return claims

    def _healed(self, orders: Collection[tuple[HostName, ...]], sessions: Sessions) -> int:
        """Count preferred gateways that are back and never held back: they were active meanwhile, as was ours."""
        last = self._report
        back = {
            host
            for host, session in sessions.items()
            if session is not None and session.forwarding and not _is_up(last.sessions.get(host, _NEVER))
        }
        return sum(any(host in back for host in order[: order.index(self._own)]) for order in orders)

    def _forwards(
        self,
        host: HostName | None,
        reason: Reason,
        sessions: Mapping[HostName, BfdSession],
        snapshot: HostSnapshot,
    ) -> bool:
        """Tell whether a gateway on *host* works, as far as can be seen; *reason* is why not to use those here.

        A host that is drained says that its gateways are not to be used, as one does that has lost its uplink.
        """
        if host is None or host == self._own:
            return host is not None and reason not in _BROKEN
        known, session = snapshot.hosts.get(host), sessions.get(host)
        drained = known is not None and known.drain
        return session is not None and (session.forwarding or (drained and session.up))

    def _why_not(
        self,
        mine: Collection[Router],
        snapshot: HostSnapshot,
        view: SwitchView,
        sessions: Mapping[HostName, BfdSession],
        now: float,
        *,
        converged: bool,
        cut_off: bool,
    ) -> tuple[Reason, str]:
        """Return why the gateways here, of the routers *mine*, are not to be used, and what exactly."""
        host = snapshot.hosts.get(self._own)
        lost = self._lost_uplink(mine, snapshot, view)
        if self._ready_since is None and not converged:
            reason, detail = Reason.STARTING, ""
        elif host is not None and host.drain:
            reason, detail = Reason.DRAINED, ""
        elif lost:
            reason, detail = Reason.UPLINK, lost
        elif cut_off and (self._heard or self._ready_since is None):
            reason, detail = Reason.CUT_OFF, ""
        elif cut_off:  # these sessions have only been made
            return Reason.UNHEARD, ""
        else:
            return self._held_back(mine, sessions, now)
        self._ready_since = None
        return reason, detail

    def _held_back(
        self, mine: Collection[Router], sessions: Mapping[HostName, BfdSession], now: float
    ) -> tuple[Reason, str]:
        was_usable = self._report.reason in _USABLE and self._ready_since is not None
        if self._ready_since is None:
            self._ready_since = now
        until = self._ready_since + self._hold_down
        if not was_usable and self._is_behind_held(mine, sessions):
            until += self._hold_down
        if now < until:
            self._wait_until(until)
            return Reason.HELD, f"for {until - now:.1f} s more"
        if not self._preempt and not was_usable:
            rivals = (name for router in mine for name in gateway_order(router) if name in sessions)
            ahead = next((name for name in rivals if sessions[name].forwarding), None)
            if ahead is not None:
                return Reason.BEHIND, f"host {ahead}"
        return Reason.NONE, ""

    def _is_behind_held(self, mine: Collection[Router], sessions: Mapping[HostName, BfdSession]) -> bool:
        """Tell whether a preferred gateway lives and is not usable either.

        After a start of all hosts, or an outage of the underlay, it has the gateway and its
        hold-down ends at about the same time: with the later one nothing moves.
        """
        orders = (gateway_order(router) for router in mine)
        ahead = {name for order in orders for name in order[: order.index(self._own)]}
        return any(each.up and not each.forwarding for name, each in sessions.items() if name in ahead)

    def _lost_uplink(self, mine: Collection[Router], snapshot: HostSnapshot, view: SwitchView) -> str:
        """Return what external network this host cannot reach any more, "" if none."""
        for router in mine:
            network = snapshot.networks.get(router.gateway.network) if router.gateway is not None else None
            if network is None or network.physnet is None:
                continue
            bridge = self._settings.bridge_mappings.get(network.physnet)
            if bridge is None:
                return f"physical network {network.physnet} of router {router.name} is mapped to no bridge here"
            if bridge not in view.bridges or not view.uplinks.get(bridge, True):
                return f"bridge {bridge} of physical network {network.physnet}"
        return ""

    def _peers(self, routers: Collection[Router], snapshot: HostSnapshot) -> frozenset[HostName]:
        found: set[HostName] = set()
        for router in routers:
            if len(gateway_order(router)) > 1:
                members: set[HostName] = set()
                for interface in router.interfaces:
                    members |= self._hosts_on(interface.network, snapshot)
                found |= peers_of(self._own, router, members)
        return frozenset(name for name in found if name in snapshot.hosts and snapshot.hosts[name].tunnel_address)

    def _hosts_on(self, network: NetworkId, snapshot: HostSnapshot) -> frozenset[HostName]:
        endpoints = snapshot.endpoints.get(network, {})
        known = self._members.get(network)
        if known is None or known[0] is not endpoints:
            hosts = frozenset(endpoint.host for endpoint in endpoints.values() if endpoint.host)
            known = self._members[network] = (endpoints, hosts)
        return known[1]

    def _wait_until(self, moment: float) -> None:
        self._due = moment if self._due is None else min(self._due, moment)


def _state_of(session: BfdSession | None) -> SessionState:
    if session is None:
        return SessionState.NONE
    if session.forwarding:
        return SessionState.FORWARDING
    return SessionState.UP if session.up else SessionState.DOWN


def _is_up(session: BfdSession | None) -> bool:
    return session is not None and session.up
