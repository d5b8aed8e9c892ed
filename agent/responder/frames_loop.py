# SPDX-License-Identifier: Apache-2.0
"""Frames of ports in, answers out, over a packet socket (packet(7)).

Which port a frame is of is said by its destination, which flows have written, and by
nothing else in it.  Checksums that a sender has left to hardware need no
``PACKET_AUXDATA``: ``agent.dhcp.frames`` takes the sum of the pseudo-header for right.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import time
from collections.abc import Mapping

from agent.dhcp.port_answers import DHCPV4, DHCPV6, NEIGHBORS, ROUTER_DISCOVERY, Answered
from agent.responder import green
from agent.responder.counters import Counters, TokenBucket
from agent.responder.flood_filter import IDENTITY, FloodFilter
from agent.responder.knowledge import FramePort, Knowledge

LOG = logging.getLogger(__name__)

RATE, BURST = 20.0, 60  # frames a second of one port; a boot takes less than ten
BATCH = 64  # frames after which others have their turn
LONGEST = 16384  # octets; what is longer is cut, and then malformed
REST = 0.5  # seconds after an error of the device

_OUTGOING = 4  # PACKET_OUTGOING
_SOL_PACKET, _STATISTICS = 263, 6
_COUNTS = struct.Struct("II")
_FAMILY = {DHCPV4: 4, DHCPV6: 6}


class Allowances:
    """A token bucket for each identity that has sent something; *flood* hears of what is refused."""

    def __init__(self, flood: FloodFilter) -> None:
        self._flood = flood
        self._buckets: dict[bytes, TokenBucket] = {}

    def take(self, identity: bytes, now: float) -> bool:
        """Tell whether a frame of the port may be looked at."""
        bucket = self._buckets.get(identity)
        if bucket is None:
            bucket = self._buckets[identity] = TokenBucket(RATE, BURST, now)
        if bucket.take(now):
            return True
        self._flood.note(identity[2:], now)
        return False

    def forget(self, known: Mapping[bytes, FramePort]) -> None:
        """Keep only those of identities that are *known*."""
        self._buckets = {identity: bucket for identity, bucket in self._buckets.items() if identity in known}


class FramesLoop:
    """Reads one packet socket; `run` is a green thread's."""

    def __init__(self, link: socket.socket, knowledge: Knowledge, counters: Counters) -> None:
        self._link = link
        self._knowledge = knowledge
        self._counters = counters
        self._filter = FloodFilter(link, IDENTITY)
        self._allowances = Allowances(self._filter)
        self._buffer = bytearray(LONGEST)

    def run(self) -> None:
        """Answer until the thread is ended."""
        self._filter.clear()
        try:
            while True:
                self._turn()
        finally:
            self._filter.clear()

    def send(self, frame: bytes) -> bool:
        """Send a frame; what the device does not take at once is lost, as on any link."""
        try:
            self._link.send(frame)
        except OSError as err:
            reason = "device-full" if err.errno in (errno.EAGAIN, errno.ENOBUFS) else "not-sent"
            self._counters.add("dropped_frames", f"reason={reason}")
            return False
        return True

    def read_lost(self) -> None:
        """Count what the kernel has dropped because we were too slow."""
        counts = self._link.getsockopt(_SOL_PACKET, _STATISTICS, _COUNTS.size)
        if lost := _COUNTS.unpack(counts)[1]:
            self._counters.add("dropped_frames", "reason=overrun", lost)
        self._allowances.forget(self._knowledge.ports)

    def _turn(self) -> None:
        """Answer some frames, or wait for one."""
        self._filter.expire(time.monotonic())
        try:
            if self._read_batch() == BATCH:
                green.sleep()
            else:
                self._wait()
        except OSError as err:
            # The device is down or gone; of a new one we are told by the agent.
            LOG.warning("DHCP's device: %s", err.strerror)
            green.sleep(REST)

    def _wait(self) -> None:
        until = self._filter.next_end
        try:
            green.wait_readable(self._link, None if until is None else until - time.monotonic())
        except TimeoutError:
            return  # somebody may speak again

    def _read_batch(self) -> int:
        """Answer what there is, at most BATCH frames; return how many it was."""
        view = memoryview(self._buffer)
        for number in range(BATCH):
            try:
                size, source = self._link.recvfrom_into(view)
            except BlockingIOError:
                return number
            if source[2] != _OUTGOING:
                self._take(bytes(view[:size]))
        return BATCH

    def _take(self, frame: bytes) -> None:
        identity = frame[:6]
        port = self._knowledge.ports.get(identity)
        if port is None:
            self._counters.add("dropped_frames", "reason=unknown-port")
            return
        if not self._allowances.take(identity, time.monotonic()):
            port.record.rate_limited += 1
            self._counters.add("rate_limited", f"what=frames,family={_family(frame)}")
            return
        try:
            answered = port.answers.answer(frame)
        except Exception:
            # One port's data or packet must not cost the others their answers.
            LOG.exception("%s: a bug; frame %s", port.key, frame[:256].hex())
            answered = Answered("", "", "bug")
        if answered.frame is not None:
            self.send(answered.frame)
        self._note(port, answered)

    def _note(self, port: FramePort, answered: Answered) -> None:
        if answered.protocol in _FAMILY:
            labels = f"type={answered.message},family={_FAMILY[answered.protocol]},result={answered.result}"
            self._counters.add("dhcp_messages", labels)
        elif answered.protocol == NEIGHBORS:
            self._counters.add("nd_messages", f"result={answered.result}")
            return  # comes all the time and tells nobody anything
        elif answered.protocol == ROUTER_DISCOVERY:
            if answered.frame is not None:
                self._counters.add("ra_sent", "kind=solicited")
                port.record.advertised_at = time.time()
        else:
            self._counters.add("dropped_frames", f"reason={answered.result}")
            return
        port.record.note(answered.protocol, answered.message, time.time(), answered.result)


def _family(frame: bytes) -> int:
    return 6 if frame[12:14] == b"\x86\xdd" else 4
