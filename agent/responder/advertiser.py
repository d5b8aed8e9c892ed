# SPDX-License-Identifier: Apache-2.0
"""Periodic router advertisements: one heap for all ports, and never many at once."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable, Mapping

from agent.dhcp.ra_answers import INITIAL_COUNT, SHORTEST_INTERVAL, next_time
from agent.responder.counters import Counters
from agent.responder.knowledge import FramePort

FIRST_DELAY = 1.0  # seconds: flows to a port come after what it is told
AT_ONCE = 8  # advertisements, then a rest: 400 ports take half a second
REST = 0.01  # seconds
IDLE = 60.0
_OUTDATED = 64  # entries of ports that have gone or changed, that may always be there

_Due = tuple[float, int, FramePort, int]


class Advertiser:
    """Knows which port is to be sent an advertisement when, and sends it.

    *ports* are those that are known now: what has gone or changed gets no more of its
    old.  *send* takes a frame, and tells whether it went out.  ``on_add`` is called when
    there may be something to send earlier than `send_due` has said.
    """

    def __init__(
        self,
        ports: Mapping[bytes, FramePort],
        send: Callable[[bytes], bool],
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._ports = ports
        self._send = send
        self._counters = counters
        self._clock = clock
        self._jitter = jitter
        self._heap: list[_Due] = []
        self._order = itertools.count()
        self.on_add: Callable[[], None] = _nothing

    def add(self, port: FramePort, *, known_before: bool = False) -> None:
        """Advertise to *port* from now on.

        A port that is new, or whose data has changed, is told soon and three times; of a
        router that has gone as well.
        *known_before*: an earlier process has done that; it is only reminded.
        """
        now, jitter = self._clock(), self._jitter()
        if port.answers.advertisement() is None and not port.departed:
            return
        if known_before:
            self._push(now + jitter * SHORTEST_INTERVAL, port, INITIAL_COUNT)
        else:
            self._push(next_time(0, now, jitter) + FIRST_DELAY * (1 + jitter), port, 0)
        self.on_add()

    def send_due(self) -> float:
        """Send some of what is due; return the seconds until more is."""
        for _ in range(AT_ONCE):
            now = self._clock()
            while self._heap and self._ports.get(self._heap[0][2].identity) is not self._heap[0][2]:
                heapq.heappop(self._heap)
            if not self._heap:
                return IDLE
            if self._heap[0][0] > now:
                return self._heap[0][0] - now
            _, _, port, sent = heapq.heappop(self._heap)
            if port.departed and sent < INITIAL_COUNT:
                self._send(port.answers.farewell(port.departed))
            self._advertise(port)
            self._push(next_time(sent + 1, now, self._jitter()), port, sent + 1)
        return REST

    def _push(self, due: float, port: FramePort, sent: int) -> None:
        if len(self._heap) > 2 * len(self._ports) + _OUTDATED:
            self._heap = [entry for entry in self._heap if self._ports.get(entry[2].identity) is entry[2]]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (due, next(self._order), port, sent))

    def _advertise(self, port: FramePort) -> None:
        frame = port.answers.advertisement()
        if frame is not None and self._send(frame):
            self._counters.add("ra_sent", "kind=periodic")
            port.record.advertised_at = time.time()


def _nothing() -> None:
    """Nobody waits."""
