# SPDX-License-Identifier: Apache-2.0
"""Which gateway is used, as several hosts see it, while sessions come and go."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pytest

from agent.core import naming
from agent.core.items import OvsPort
from agent.core.model import (
    BfdSession,
    Endpoint,
    EndpointId,
    FixedIp,
    Host,
    HostName,
    HostSnapshot,
    Network,
    NetworkId,
    NetworkType,
    PortId,
    Router,
    RouterId,
    RouterInterface,
    SubnetId,
    SwitchView,
)
from agent.gateways import NEW, Gateways, Reason
from agent.handover import ANNOUNCE, ARRIVE, LINGER, SETTLE
from agent.l2.settings import LocalSettings
from agent.l3.gateways import FAST
from agent.l3.state import GatewayState

HOLD = 5.0
HEARD = FAST / 1000  # seconds until others have heard
ANNOUNCED, SETTLED, ARRIVED = ANNOUNCE + HEARD, SETTLE + HEARD, ARRIVE + HEARD
EDGE = RouterId("edge")
ONE, NONE = frozenset({EDGE}), frozenset[RouterId]()
BLUE, PUBLIC = NetworkId("blue"), NetworkId("public")
G1, G2, A = HostName("g1"), HostName("g2"), HostName("a")
FORWARDING, UP, DOWN = BfdSession(True, True), BfdSession(True, False), BfdSession(False, False)
SETTINGS = LocalSettings(bridge_mappings={"external": "br-ex"})


def router(order: tuple[HostName, ...] = (G1, G2), *, ha: bool = True) -> Router:
    gateway = RouterInterface(PortId("gw"), PUBLIC, "fa:16:3e:00:00:fe", (FixedIp("203.0.113.10", SubnetId("p4")),))
    inside = RouterInterface(PortId("in"), BLUE, "fa:16:3e:00:00:01", (FixedIp("10.0.0.1", SubnetId("b4")),))
    return Router(EDGE, "edge", gateway_hosts=order, gateway=gateway, interfaces=(inside,), ha=ha)


def snapshot(own: HostName, edge: Router, members: Collection[HostName] = (A,), drained: str = "") -> HostSnapshot:
    hosts = {name: Host(name, f"192.0.2.{n}", drain=name == drained) for n, name in enumerate((G1, G2, A), 1)}
    endpoints = {
        EndpointId(f"e-{name}"): Endpoint(EndpointId(f"e-{name}"), BLUE, f"fa:16:3e:00:01:0{n}", ("10.0.0.9",), name)
        for n, name in enumerate(sorted(members))
    }
    networks = {PUBLIC: Network(PUBLIC, "public", NetworkType.FLAT, None, "external", 1500)}
    return HostSnapshot(
        own, in_sync=True, hosts=hosts, endpoints={BLUE: endpoints}, networks=networks, routers={EDGE: edge}
    )


def view(sessions: Mapping[HostName, BfdSession], *, uplink: bool = True) -> SwitchView:
    named = {naming.peer_port_name(host): session for host, session in sessions.items()}
    return SwitchView(connected=True, bridges=frozenset({"br-ex"}), sessions=named, uplinks={"br-ex": uplink})


@dataclass
class Seen:
    """One host, and the time."""

    own: HostName
    edge: Router = field(default_factory=router)
    members: tuple[HostName, ...] = (A,)
    preempt: bool = True
    now: float = 100.0

    def __post_init__(self) -> None:
        self.gateways = Gateways(self.own, SETTINGS, HOLD, preempt=self.preempt)

    def at(
        self,
        later: float,
        sessions: Mapping[HostName, BfdSession],
        *,
        uplink: bool = True,
        drained: str = "",
        converged: bool = True,
    ) -> GatewayState:
        self.now += later
        shot = snapshot(self.own, self.edge, self.members, drained)
        return self.gateways.decide(shot, view(sessions, uplink=uplink), self.now, converged=converged)

    def settled(self, sessions: Mapping[HostName, BfdSession]) -> GatewayState:
        self.at(0, sessions)
        self.at(HOLD, sessions)
        return self.at(ARRIVED, sessions)


def test_a_host_uses_the_first_gateway_that_forwards() -> None:
    seen = Seen(A)
    assert seen.at(0, {G1: FORWARDING, G2: FORWARDING}).hosts == {EDGE: G1}
    assert seen.at(1, {G1: DOWN, G2: FORWARDING}).hosts == {EDGE: G2}
    assert seen.at(1, {G1: UP, G2: FORWARDING}).hosts == {EDGE: G2}
    assert seen.at(1, {G1: FORWARDING, G2: FORWARDING}).hosts == {EDGE: G2}
    assert seen.gateways.next_due() == seen.now + SETTLED
    assert seen.at(SETTLED, {G1: FORWARDING, G2: FORWARDING}).hosts == {EDGE: G1}
    assert seen.gateways.report.failovers == 2
    assert not seen.at(1, {G1: FORWARDING}).active


@pytest.mark.parametrize("sessions", [{}, {G1: DOWN, G2: DOWN}])
def test_who_hears_no_gateway_sends_to_the_preferred_one(sessions: Mapping[HostName, BfdSession]) -> None:
    assert Seen(A).at(0, sessions).hosts == {EDGE: G1}


def test_while_all_gateways_are_drained_the_first_that_lives_goes_on() -> None:
    assert Seen(A).at(0, {G1: UP, G2: UP}).hosts == {EDGE: G1}
    assert Seen(A).at(0, {G1: DOWN, G2: UP}).hosts == {EDGE: G2}
    first, second = Seen(G1), Seen(G2)
    assert first.at(0, {G2: UP, A: UP}, drained=G1).active == {EDGE}
    assert not second.at(0, {G1: UP, A: UP}, drained=G2).active


def test_everybody_watches_the_gateways_and_gateways_watch_everybody() -> None:
    assert [peer.host for peer in Seen(A).at(0, {}).peers] == [G1, G2]
    assert [peer.host for peer in Seen(G1).at(0, {}).peers] == [A, G2]
    assert [peer.host for peer in Seen(G2).at(0, {}).peers] == [A, G1]
    assert not Seen(A, members=(G1,)).at(0, {}).peers


@pytest.mark.parametrize("edge", [router((G1,)), router((G1, G2), ha=False)])
def test_nobody_is_watched_where_there_is_nothing_to_choose(edge: Router) -> None:
    first, second = Seen(G1, edge).at(0, {}, uplink=False), Seen(G2, edge).at(0, {})
    assert (first.peers, first.active) == ((), frozenset({EDGE}))
    assert (second.peers, second.active, second.hosts) == ((), frozenset(), {EDGE: G1})


def test_a_gateway_takes_over_when_none_before_it_forwards() -> None:
    seen = Seen(G2)
    assert not seen.settled({G1: FORWARDING, A: FORWARDING}).active
    assert seen.at(1, {G1: DOWN, A: FORWARDING}).active == {EDGE}


def test_a_gateway_that_hears_nobody_is_silent_at_once() -> None:
    seen = Seen(G1)
    assert seen.settled({G2: FORWARDING, A: FORWARDING}).active == {EDGE}
    state = seen.at(1, {G2: DOWN, A: DOWN})
    assert (state.active, state.hosts) == (frozenset(), {EDGE: None})
    assert seen.gateways.report.why_not == "none of the hosts that it watches is heard"


def test_a_gateway_that_was_cut_off_is_held_back_from_when_it_hears_somebody_again() -> None:
    seen = Seen(G1)
    seen.settled({G2: FORWARDING, A: FORWARDING})
    for later in (1, HOLD):
        assert seen.at(later, {G2: DOWN, A: DOWN}).path_down
        assert seen.gateways.report.reason is Reason.CUT_OFF
    state = seen.at(1, {G2: DOWN, A: FORWARDING})
    assert (state.path_down, state.active, seen.gateways.report.reason) == (True, frozenset({EDGE}), Reason.HELD)
    state = seen.at(1, {G2: FORWARDING, A: FORWARDING})
    assert (state.path_down, state.hosts) == (True, {EDGE: G1})  # who sends to it moves first
    state = seen.at(SETTLED, {G2: FORWARDING, A: FORWARDING})
    assert (state.path_down, state.hosts) == (True, {EDGE: G2})
    state = seen.at(HOLD - 1 - SETTLED, {G2: FORWARDING, A: FORWARDING})
    assert (state.path_down, state.active) == (False, ONE)
    assert seen.at(ARRIVED, {G2: FORWARDING, A: FORWARDING}).hosts == {EDGE: G1}


def with_first_router(own: HostName, sessions: Mapping[HostName, BfdSession]) -> tuple[Seen, GatewayState]:
    """Return a host that has been usable for long when a router first needs sessions."""
    seen = Seen(own, members=())
    seen.edge = router((G1,))
    seen.settled({})
    seen.edge, seen.members = router(), (A,)
    return seen, seen.at(1, sessions)


def test_a_new_router_has_its_gateway_at_once_on_the_host_that_all_prefer() -> None:
    seen, state = with_first_router(G1, {})
    assert (state.path_down, state.active) == (False, ONE)
    assert seen.gateways.next_due() == seen.now + NEW
    for sessions in ({G2: DOWN, A: DOWN}, {G2: FORWARDING, A: DOWN}, {G2: FORWARDING, A: FORWARDING}):
        assert seen.at(0.5, sessions).active == ONE
    other, state = with_first_router(G2, {})
    assert (state.hosts, state.active) == ({EDGE: G1}, NONE)
    state = other.at(1, {G1: DOWN, A: FORWARDING})
    assert (state.hosts, state.active) == ({EDGE: G1}, NONE)
    assert Seen(A).at(0, {}).hosts == {EDGE: G1}


def test_a_gateway_that_nobody_has_ever_heard_is_replaced() -> None:
    seen, _ = with_first_router(G2, {})
    assert seen.at(NEW, {G1: DOWN, A: FORWARDING}).active == ONE
    # From when it was made on: one that existed before has been heard, or never will be.
    second = Seen(G2)
    second.settled({G1: FORWARDING, A: FORWARDING})
    assert second.at(1, {G1: DOWN, A: FORWARDING}).active == ONE


def test_a_gateway_that_never_hears_anybody_falls_silent_and_is_not_held_back() -> None:
    seen, _ = with_first_router(G1, {})
    state = seen.at(NEW, {G2: DOWN, A: DOWN})
    assert (state.path_down, state.active) == (False, NONE)
    assert seen.gateways.report.why_not == "none of the hosts that it watches has been heard yet"
    assert seen.at(1, {G2: DOWN, A: FORWARDING}).active == ONE
    assert not seen.gateways.report.why_not


def test_hosts_that_start_together_expect_the_gateway_where_they_all_prefer_it() -> None:
    """Nobody is usable yet, and nobody has been heard."""
    assert Seen(G1).at(0, {}).active == ONE
    assert (Seen(G2).at(0, {}).hosts, Seen(G2).at(0, {}).active) == ({EDGE: G1}, NONE)


def test_after_a_start_of_all_hosts_the_gateway_does_not_move_when_they_are_held_back_no_longer() -> None:
    """The first one has it all the time, though it is the last whose hold-down ends."""
    seen = Seen(G2)
    assert seen.at(0, {G1: DOWN, A: DOWN}, converged=False).path_down
    assert seen.at(1, {G1: DOWN, A: DOWN}).path_down
    assert seen.at(1, {G1: UP, A: FORWARDING}).hosts == {EDGE: G1}
    state = seen.at(HOLD, {G1: UP, A: FORWARDING})
    assert (state.path_down, state.hosts, seen.gateways.report.reason) == (True, {EDGE: G1}, Reason.HELD)
    state = seen.at(0.1, {G1: FORWARDING, A: FORWARDING})
    assert (state.path_down, state.hosts, seen.gateways.report.failovers) == (False, {EDGE: G1}, 0)


def test_a_drained_host_is_not_waited_for_longer_than_a_second_hold_down() -> None:
    seen = Seen(G2)
    seen.at(0, {G1: UP, A: FORWARDING}, converged=False)
    seen.at(1, {G1: UP, A: FORWARDING})
    assert seen.at(HOLD, {G1: UP, A: FORWARDING}).path_down
    state = seen.at(HOLD, {G1: UP, A: FORWARDING})
    assert (state.path_down, state.hosts) == (False, {EDGE: G2})
    assert not seen.at(1, {G1: UP, A: FORWARDING}).path_down


def test_of_two_hosts_alone_the_one_that_is_left_takes_over() -> None:
    """Nobody else could tell it that it is cut off."""
    seen = Seen(G2, members=(G1, G2))
    seen.settled({G1: FORWARDING})
    assert seen.at(1, {G1: DOWN}).active == {EDGE}
    assert not seen.gateways.report.why_not


def test_who_comes_back_is_believed_after_the_hold_down() -> None:
    seen = Seen(G1)
    peers = {G2: FORWARDING, A: FORWARDING}
    assert seen.at(0, peers, converged=False).path_down
    assert seen.gateways.report.reason is Reason.STARTING
    state = seen.at(1, peers)
    assert (state.path_down, state.active, seen.gateways.report.reason) == (True, frozenset(), Reason.HELD)
    assert seen.gateways.next_due() == seen.now + HOLD
    state = seen.at(HOLD, peers)
    assert (state.path_down, state.active) == (False, frozenset({EDGE}))


def test_a_lost_uplink_is_told_at_once_and_forgotten_slowly() -> None:
    seen = Seen(G1)
    peers = {G2: FORWARDING, A: FORWARDING}
    assert not seen.settled(peers).path_down
    assert seen.at(1, peers, uplink=False).path_down
    assert (seen.gateways.report.reason, seen.gateways.report.detail) == (
        Reason.UPLINK,
        "bridge br-ex of physical network external",
    )
    assert seen.at(1, peers).path_down
    assert not seen.at(HOLD, peers).path_down


def test_a_drained_gateway_forwards_until_the_next_has_taken_over() -> None:
    seen = Seen(G1)
    seen.settled({G2: FORWARDING, A: FORWARDING})
    state = seen.at(1, {G2: FORWARDING, A: FORWARDING}, drained=G1)
    assert (state.path_down, state.hosts[EDGE], state.active) == (True, G1, frozenset({EDGE}))
    assert seen.gateways.next_due() == seen.now + SETTLED
    state = seen.at(SETTLED, {G2: FORWARDING, A: FORWARDING}, drained=G1)
    assert (state.hosts[EDGE], state.active) == (G2, frozenset({EDGE}))
    assert seen.gateways.next_due() == seen.now + LINGER
    assert not seen.at(LINGER, {G2: FORWARDING, A: FORWARDING}, drained=G1).active


def test_a_gateway_that_comes_back_opens_in_silence_and_announces_itself_before_it_is_used() -> None:
    seen, peers = Seen(G1), {G2: FORWARDING, A: FORWARDING}
    seen.at(0, peers)
    seen.at(1, peers)
    opened = seen.at(HOLD - 1, peers)
    assert (opened.hosts, opened.active, opened.passing, opened.silent) == ({EDGE: G2}, ONE, ONE, ONE)
    announced = seen.at(ANNOUNCED, peers)
    assert (announced.hosts, announced.passing, announced.silent) == ({EDGE: G2}, ONE, NONE)
    arrived = seen.at(ARRIVED - ANNOUNCED, peers)
    assert (arrived.hosts, arrived.active, arrived.passing) == ({EDGE: G1}, ONE, NONE)
    assert announced.claims == arrived.claims


@pytest.mark.parametrize("drained", [True, False])
def test_others_leave_a_gateway_at_once_unless_it_is_drained(drained: bool) -> None:
    """One that lives and is not to be used for another reason does not forward: it has lost its uplink."""
    seen = Seen(A)
    seen.at(0, {G1: FORWARDING, G2: FORWARDING})
    assert seen.at(1, {G1: UP, G2: FORWARDING}, drained=G1 if drained else "").hosts == {EDGE: G1 if drained else G2}
    assert seen.at(SETTLED, {G1: UP, G2: FORWARDING}, drained=G1 if drained else "").hosts == {EDGE: G2}


def test_a_gateway_does_not_wait_for_one_that_has_lost_its_uplink() -> None:
    seen = Seen(G2)
    seen.settled({G1: FORWARDING, A: FORWARDING})
    state = seen.at(1, {G1: UP, A: FORWARDING})
    assert (state.hosts, state.active, state.passing) == ({EDGE: G2}, ONE, NONE)
    lost = Seen(G1)
    lost.settled({G2: FORWARDING, A: FORWARDING})
    assert lost.at(1, {G2: FORWARDING, A: FORWARDING}, uplink=False).hosts == {EDGE: G2}


def test_a_restarted_daemon_goes_on_where_the_last_one_ended() -> None:
    port = OvsPort("hpb-1", "br-int", "vxlan", (), (("enable", "true"),))
    seen = Seen(G1)
    seen.gateways.adopt({"port/hpb-1": port})
    state = seen.at(0, {G2: FORWARDING, A: FORWARDING}, converged=False)
    assert (state.path_down, state.active) == (False, frozenset({EDGE}))
    told = Seen(G1)
    told.gateways.adopt({"port/hpb-1": OvsPort("hpb-1", "br-int", "vxlan", (), (("cpath_down", "true"),))})
    assert told.at(0, {G2: FORWARDING, A: FORWARDING}, converged=False).path_down


def test_a_gateway_whose_switch_was_restarted_is_held_back_until_its_flows_are_there() -> None:
    seen = Seen(G1)
    seen.at(0, {G2: FORWARDING, A: FORWARDING})
    assert not seen.at(HOLD, {G2: FORWARDING, A: FORWARDING}).path_down
    seen.gateways.lose_flows()
    reasons: list[Reason] = []
    for later in (1, 0.1):
        assert seen.at(later, {G2: FORWARDING, A: FORWARDING}).path_down
        assert reasons or seen.gateways.next_due() == seen.now  # again once the flows are written
        reasons.append(seen.gateways.report.reason)
    assert reasons == [Reason.STARTING, Reason.HELD]
    assert not seen.at(HOLD, {G2: FORWARDING, A: FORWARDING}).path_down


def test_without_preemption_who_comes_back_stays_behind_while_another_forwards() -> None:
    seen = Seen(G1, preempt=False)
    state = seen.settled({G2: FORWARDING, A: FORWARDING})
    assert (state.path_down, state.hosts) == (True, {EDGE: G2})
    assert seen.gateways.report.reason is Reason.BEHIND
    assert seen.at(1, {G2: DOWN, A: FORWARDING}).active == {EDGE}
    assert seen.at(1, {G2: FORWARDING, A: FORWARDING}).active == {EDGE}


def test_two_that_were_active_at_once_are_counted_when_they_meet_again() -> None:
    seen = Seen(G2)
    seen.settled({G1: FORWARDING, A: FORWARDING})
    assert seen.at(1, {G1: DOWN, A: FORWARDING}).active == {EDGE}
    seen.at(1, {G1: FORWARDING, A: FORWARDING})
    assert seen.gateways.report.conflicts == 1
    seen.at(SETTLED, {G1: FORWARDING, A: FORWARDING})
    assert not seen.at(LINGER, {G1: FORWARDING, A: FORWARDING}).active


def test_who_was_dead_and_held_back_is_no_conflict() -> None:
    seen = Seen(G2)
    seen.settled({G1: FORWARDING, A: FORWARDING})
    for session in (DOWN, UP, FORWARDING, FORWARDING):
        seen.at(1, {G1: session, A: FORWARDING})
    assert (seen.gateways.report.conflicts, seen.gateways.report.failovers) == (0, 2)


def test_a_failover_counts_even_if_there_was_no_gateway_in_between() -> None:
    seen = Seen(G1)
    seen.settled({G2: FORWARDING, A: FORWARDING})
    before = seen.gateways.report.failovers
    assert seen.at(1, {G2: DOWN, A: DOWN}).hosts == {EDGE: None}
    assert seen.gateways.report.failovers == before
    assert seen.at(1, {G2: FORWARDING, A: FORWARDING}).hosts == {EDGE: G2}
    assert seen.gateways.report.failovers == before + 1


def test_a_gateway_is_claimed_anew_when_it_comes_and_when_another_may_have_had_it() -> None:
    """Another that was not heard may have announced itself to switches outside, and is silent from now on."""
    seen = Seen(G1)
    claims = [seen.settled({G2: FORWARDING, A: FORWARDING}).claims[EDGE]]
    for sessions in ({G2: DOWN, A: FORWARDING}, {G2: FORWARDING, A: DOWN}, {G2: FORWARDING, A: FORWARDING}):
        claims.append(seen.at(1, sessions).claims[EDGE])
    assert claims == [1, 1, 2, 2]
    seen.at(1, {G2: FORWARDING, A: FORWARDING}, drained=G1)
    assert not seen.at(SETTLED, {G2: FORWARDING, A: FORWARDING}, drained=G1).claims  # it only forwards what still comes
    seen.at(LINGER / 4, {G2: FORWARDING, A: FORWARDING})
    state = seen.at(LINGER / 4, {G2: DOWN, A: FORWARDING})
    assert (state.active, state.claims) == (frozenset({EDGE}), {EDGE: 3})


def test_what_has_not_changed_is_the_same_object() -> None:
    seen = Seen(A)
    first = seen.at(0, {G1: FORWARDING, G2: FORWARDING})
    assert seen.at(1, {G1: FORWARDING, G2: BfdSession(True, True, flaps=3)}) is first
