# SPDX-License-Identifier: Apache-2.0
"""Send frames on behalf of ports, through the pipeline, as if the instances had sent them.

Used to tell the neighbours of a port that has just appeared here where it is now
(gratuitous ARP, unsolicited ND).  A courtesy and no state: nothing is read back, and
a failure is logged and forgotten.  A thread of its own waits for the switch, which
takes its time for broadcasts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from agent.command import Runner
from agent.core.errors import CommandError
from agent.core.openflow import ANNOUNCED, OPENFLOW_VERSION, output, set_register

LOG = logging.getLogger(__name__)

SPEAK = f"{set_register(ANNOUNCED, 1)},resubmit(,0)"
TIMEOUT = 3.0  # seconds; not worth waiting for longer


class Announcer:
    """Sends into the bridge whose management socket is *target*."""

    def __init__(self, run: Runner, target: str) -> None:
        self._run = run
        self._target = target
        self._thread = ThreadPoolExecutor(1, "announce")

    def announce(self, frames: Iterable[tuple[int, bytes]]) -> Future[float]:
        """Let each (OpenFlow port number, Ethernet frame) enter the pipeline, in one process.

        Does not wait for it; the result are the seconds that it took.  The port's own
        flows judge the frame: what the instance may not send does not pass.  Never
        fails for what the switch does.
        """
        lines = [f"packet-out in_port={ofport},packet={frame.hex()},actions={SPEAK}\n" for ofport, frame in frames]
        return self._thread.submit(self._send, lines)

    def send_out(self, frames: Iterable[tuple[int, bytes]]) -> Future[float]:
        """Let each (OpenFlow port number, Ethernet frame) leave by the port, past all flows; else like ``announce``."""
        lines = [
            f"packet-out in_port=CONTROLLER,packet={frame.hex()},actions={output(ofport)}\n" for ofport, frame in frames
        ]
        return self._thread.submit(self._send, lines)

    def _send(self, lines: list[str]) -> float:
        if not lines:
            return 0.0
        begun = time.monotonic()
        argv = ("ovs-ofctl", "-O", OPENFLOW_VERSION, "--no-names", "bundle", self._target, "-")
        try:
            self._run(argv, stdin="".join(lines), timeout=TIMEOUT)
        except CommandError as err:
            LOG.warning("%d announcements of ports were not sent: %s", len(lines), err)
        return time.monotonic() - begun
