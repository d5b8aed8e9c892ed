# SPDX-License-Identifier: Apache-2.0
"""Telling systemd how the daemon is (sd_notify(3)), and the heartbeat of the loop.

The watchdog is fed by the reconcile loop itself, after each driver step and each
idle wake-up, and by nobody else: a daemon whose loop hangs while its other threads
run is dead and is to be restarted.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping

LOG = logging.getLogger(__name__)

DEFAULT_LIMIT = 30.0  # seconds without progress after which the loop counts as stuck, without a watchdog
WINDOW = 60.0  # seconds; the longest gap is that of this and the last window
FEEDS_PER_LIMIT = 4  # a lost or late message must not cost the daemon its life


class Notifier:
    """Sends state to the service manager; does nothing if there is none.

    *address* is the value of ``NOTIFY_SOCKET``: a path, or a name that starts with
    ``@`` for the abstract namespace.  Never raises and never blocks: what systemd
    thinks of us must not disturb the dataplane.
    """

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address = address
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Notifier:
        """Make the notifier that *environ* describes, and remove its variables.

        They are removed so that no command that the daemon starts can speak in its name.
        """
        address = environ.pop("NOTIFY_SOCKET", None)
        usec = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        meant = not pid or pid == str(os.getpid())
        return cls(address, int(usec) / 1e6 if usec.isdigit() and int(usec) and meant else None)

    def ready(self, status: str) -> None:
        """Starting or reloading is over."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again; ``ready`` must follow."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """The daemon is going down on purpose."""
        self._send("STOPPING=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send(f"STATUS={text}")

    def feed_watchdog(self) -> None:
        """Say that the loop has advanced."""
        self._send("WATCHDOG=1")

    def _send(self, *fields: str) -> None:
        if self._socket is None or not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        message = "\n".join(field.replace("\n", " ") for field in fields)
        try:
            self._socket.sendto(message.encode(), address)
        except OSError as err:
            LOG.debug("cannot tell the service manager %r: %s", message, err)


class Heartbeat:
    """Knows when the reconcile loop last advanced, and feeds the watchdog from that.

    ``advanced`` and ``resting`` are called by the loop; the rest may be asked by any
    thread.  *clock* gives monotonic seconds.
    """

    def __init__(self, notifier: Notifier, clock: Callable[[], float] = time.monotonic) -> None:
        self._notifier = notifier
        self._clock = clock
        self._last = clock()
        self._fed: float | None = None
        self._rests = False
        self._window_start = self._last
        self._longest = 0.0
        self._longest_before = 0.0

    @property
    def limit(self) -> float:
        """Seconds without progress after which the loop counts as stuck."""
        return self._notifier.watchdog_seconds or DEFAULT_LIMIT

    @property
    def longest_rest(self) -> float:
        """Seconds that the loop may wait for work at a time, so that the watchdog is fed."""
        return self.limit / FEEDS_PER_LIMIT

    def advanced(self) -> None:
        """Note that a step has ended, or that the loop woke up."""
        now = self._clock()
        if not self._rests:
            self._note_gap(now)
        self._rests = False
        self._last = now
        if self._fed is None or now - self._fed >= self.longest_rest / 2:
            self._fed = now
            self._notifier.feed_watchdog()

    def resting(self) -> None:
        """Note that the loop is about to wait for work: that time is no blocking."""
        self.advanced()
        self._rests = True

    def age(self) -> float:
        """Return the seconds since the loop last advanced."""
        return self._clock() - self._last

    def live(self) -> tuple[bool, str]:
        """Tell whether the loop advances, and in words."""
        age = self.age()
        if age < self.limit:
            return True, f"the reconcile loop advanced {age:.1f} s ago"
        return False, f"the reconcile loop has not advanced for {age:.0f} s (limit {self.limit:g} s)"

    def blocked_seconds_max(self) -> float:
        """Return the longest time between two steps within the last one to two minutes."""
        elapsed = self._clock() - self._window_start
        if elapsed >= 2 * WINDOW:
            return 0.0
        return max(self._longest, self._longest_before if elapsed < WINDOW else 0.0)

    def _note_gap(self, now: float) -> None:
        if now - self._window_start >= WINDOW:
            self._longest_before = self._longest if now - self._window_start < 2 * WINDOW else 0.0
            self._longest = 0.0
            self._window_start = now
        self._longest = max(self._longest, now - self._last)
