# SPDX-License-Identifier: Apache-2.0
"""When ports and addresses of routers that have appeared here are announced, and how often.

Each announcement is a broadcast, which costs the switch as much as the network has
ports: 15 ms with 400, during which it takes no flows.  So few are sent at a time, two at
first and more while the switch is done with them at once, with rests of twice what sending
took, and nobody waits for them; physical
networks first, where switches outside have to learn the new place.  There
an announcement is repeated, as hypervisors do after a migration: one frame may be
lost, or undone by a last frame from the old place.  On other networks nobody learns
places, and one is enough.  A gateway that has moved comes before everything else, and
with more at a time: its traffic waits.  Floating IPs that moved with it under its own MAC
address do not hold up others.  What a new daemon finds in place has been announced.

A gateway is repeated for longer.  Two may have been active at once, of which one hears the
other (BFD, once a second while it is down, RFC 5880 section 6.8.3) and falls silent only
after the first has spoken; and an Open vSwitch bridge learns from what it has forwarded
with a delay of 0.5 s, so that an old place overwrites one that it has heard of since.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from agent.core.model import HostSnapshot, PortId, SwitchView
from agent.core.plan import ObjectId, Voice, Voices
from agent.l2.announce import address_frames, announcements

AT_ONCE, MOST_AT_ONCE = 2, 32  # ports or addresses in one step
QUICK = 0.03  # seconds that a step may take if the next is to be larger: without any frame it takes about 10 ms
URGENT_AT_ONCE = 16  # gateways in one step
PACE = 0.02  # seconds between two steps, at least
REST = 2.0  # times the seconds that the last step took, at least
REPEATS = (0.15, 0.5, 2.0)  # seconds after the first, on physical networks
URGENT_REPEATS = (*REPEATS, 1.0, 3.0, 5.0)  # seconds after the first, of a gateway
_URGENT, _PHYSICAL, _OTHER = 0, 1, 2


class Sender(Protocol):
    """Sends (OpenFlow port number, Ethernet frame); never fails for what the switch does."""

    def announce(self, frames: Iterable[tuple[int, bytes]]) -> Future[float]:
        """Send *frames* without waiting for it; the result are the seconds that it took."""


class _Spoken(NamedTuple):
    """Something of a router that speaks here."""

    router: ObjectId
    what: ObjectId


class Announcements:
    """What is to be announced; used by the reconcile thread.

    *on_sent* is called after each step, on another thread: it must only wake somebody.
    """

    def __init__(self, sender: Sender, monotonic: Callable[[], float], on_sent: Callable[[], None]) -> None:
        self._sender = sender
        self._monotonic = monotonic
        self._on_sent = on_sent
        self._sending: Future[float] | None = None
        self._queue: list[tuple[float, int, int, PortId | _Spoken]] = []  # due, urgency, order, what
        self._voices: Voices = {}
        self._order = itertools.count()
        self._not_before = 0.0
        self._at_once = AT_ONCE

    def add(self, ports: Iterable[PortId], snapshot: HostSnapshot) -> None:
        """Announce *ports* of *snapshot*, the first time as soon as it is their turn."""
        now = self._monotonic()
        for port_id in ports:
            port = snapshot.ports.get(port_id)
            network = None if port is None else snapshot.networks.get(port.network)
            physical = network is not None and network.type.is_physical
            for delay in (0.0, *REPEATS) if physical else (0.0,):
                urgency = _PHYSICAL if physical else _OTHER
                heapq.heappush(self._queue, (now + delay, urgency, next(self._order), port_id))

    def hear(
        self, voices: Voices, held: Collection[ObjectId] = (), *, adopted: Callable[[ObjectId], bool] | None = None
    ) -> None:
        """Announce what of *voices* was not there at the last call, or was there otherwise.

        What is *held*, because its flows are not in place yet, and what is behind a leg that
        is, counts as not there; what is *adopted*, because an earlier daemon has left it so, as there.
        """
        now = self._monotonic()
        heard: dict[ObjectId, Mapping[ObjectId, Voice]] = {}
        for router, spoken in voices.items():
            before = self._voices.get(router, {})
            heard[router] = spoken = _without(spoken, held, ObjectId(f"{router}/gateway")) if held else spoken
            if spoken is before:
                continue
            for what, voice in spoken.items():
                if before.get(what) == voice or (adopted is not None and adopted(what)):
                    continue
                urgency = _URGENT if voice.urgent else _PHYSICAL if voice.repeated else _OTHER
                # What is urgent is due before all that waits already.
                first = 0.0 if voice.urgent else now
                heapq.heappush(self._queue, (first, urgency, next(self._order), _Spoken(router, what)))
                repeats = URGENT_REPEATS if voice.urgent else REPEATS
                for delay in repeats if voice.repeated else ():
                    entry = (now + delay, _PHYSICAL, next(self._order), _Spoken(router, what))
                    heapq.heappush(self._queue, entry)
        self._voices = heard

    def next_due(self) -> float | None:
        """Return the monotonic time of the next step, None if nothing is waiting or one is under way."""
        if not self._queue or (self._sending is not None and not self._sending.done()):
            return None
        return max(self._queue[0][0], self._not_before)

    def postpone(self, seconds: float) -> None:
        """Send nothing for so long: the switch is not there."""
        self._not_before = self._monotonic() + seconds

    def step(self, snapshot: HostSnapshot, switch: SwitchView) -> None:
        """Begin to send what is due, at most a few; ports that are gone meanwhile are passed over."""
        now = self._monotonic()
        if self._sending is not None and self._sending.done():
            self._rest(now, self._sending.result())
            self._sending = None
        frames: list[tuple[int, bytes]] = []
        ordinary = urgent = 0
        while ordinary < self._at_once and urgent < URGENT_AT_ONCE:
            due = self.next_due()
            if due is None or due > now:
                break
            _, urgency, _, what = heapq.heappop(self._queue)
            urgent, ordinary = (urgent + 1, ordinary) if urgency == _URGENT else (urgent, ordinary + 1)
            frames += self._spoken(what, switch) if isinstance(what, _Spoken) else _port(what, snapshot, switch)
        if frames:
            self._sending = self._sender.announce(frames)
            self._sending.add_done_callback(lambda _: self._on_sent())

    def _rest(self, now: float, took: float) -> None:
        """Note how long a step took: the next comes after a rest, with more or less in it."""
        self._not_before = max(self._not_before, now + max(PACE, REST * took))
        at_once = self._at_once * 2 if took < QUICK else self._at_once // 2
        self._at_once = min(max(at_once, AT_ONCE), MOST_AT_ONCE)

    def _spoken(self, what: _Spoken, switch: SwitchView) -> list[tuple[int, bytes]]:
        """Return the frames of what a router says, none if it has fallen silent meanwhile."""
        voice = self._voices.get(what.router, {}).get(what.what)
        ofport = 0 if voice is None else switch.ofports.get(voice.device, 0)
        if voice is None or ofport < 1:
            return []
        return [(ofport, frame) for frame in address_frames(voice.mac, voice.addresses, router=True)]


def _without(spoken: Mapping[ObjectId, Voice], held: Collection[ObjectId], leg: ObjectId) -> Mapping[ObjectId, Voice]:
    if leg in held:
        return {}
    return {what: voice for what, voice in spoken.items() if what not in held}


def _port(port_id: PortId, snapshot: HostSnapshot, switch: SwitchView) -> list[tuple[int, bytes]]:
    port, interface = snapshot.ports.get(port_id), switch.interfaces.get(port_id)
    if port is None or interface is None or interface.ofport is None:
        return []
    return [(interface.ofport, frame) for frame in announcements(port)]
