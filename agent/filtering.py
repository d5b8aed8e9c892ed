# SPDX-License-Identifier: Apache-2.0
"""The filters' part of the daemon: their drivers, who watches what they made, and what follows from drift."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from agent.command import CommandRunner
from agent.core import naming
from agent.core.errors import Actor, AgentError, CommandError, Problem
from agent.core.filter_report import FilterCounts, RuleCounters
from agent.core.model import HostName, HostSnapshot
from agent.core.plan import Driver, ItemRef, WriteOrder
from agent.core.reconciler import Reconciler
from agent.core.report import PassReport
from agent.drivers.bridges import BridgesDriver, bridge_of
from agent.drivers.conntrack import ConntrackDriver
from agent.drivers.conntrack_table import ConntrackTable
from agent.drivers.ipset import IpsetDriver
from agent.drivers.iptables import IptablesDriver
from agent.drivers.link_watch import LinkWatch
from agent.drivers.members import MembersDriver
from agent.drivers.nft_watch import LegacyWatch, NftWatch, is_own_thread
from agent.drivers.packet_log import PacketLog
from agent.drivers.rule_counters import read_rule_counters
from agent.drivers.zones import ZonesDriver

# What wakes the loop, and which drivers are read back then.
DEVICES_CHANGED, RULES_CHANGED = "devices", "rules"
_READ_BACK: Final[Mapping[str, tuple[str, ...]]] = {
    RULES_CHANGED: ("iptables", "zones"),
}
ORDERS: Final[Mapping[str, WriteOrder]] = {
    "iptables": WriteOrder.AT_ONCE,
    "members": WriteOrder.CLOSING,
    "conntrack": WriteOrder.LAST,
}
# While one of these was not as it should be, connections may have begun that must not.  Not bridges: what passes one
# without its flags is not tracked, and dropped by the guard.
_GATEKEEPERS: Final = ("iptables", "members", "zones")
LEFTOVERS_EVERY = 60.0  # seconds between two looks for chains of ours in the other iptables


class Rejudging:
    """Has connections judged anew after a filter was found open.  Used by the reconcile thread."""

    def __init__(self, conntrack: ConntrackDriver) -> None:
        self._conntrack = conntrack
        self._hopeless: frozenset[ItemRef] = frozenset()

    def after_pass(self, report: PassReport, reconciler: Reconciler) -> bool:
        """Tell whether another pass is due because connections may have begun that nothing allows."""
        self._conntrack.end_of_pass()
        hopeless = reconciler.hopeless()
        opened = bool(self._hopeless - hopeless)  # what was judged although this still allowed it is judged again
        opened |= any(done.drifted for name, done in report.operations.items() if name in _GATEKEEPERS)
        self._hopeless = hopeless
        if opened:
            self._conntrack.judge_all()
            reconciler.need_resync([self._conntrack.name], lost=True)
        return opened


class Filtering:
    """Made once; used by the reconcile thread, except where another is named.

    *backend* is "", nft or legacy; *packet_log* where logged packets go, None for the
    daemon's log; *wake* is called with a reason from any thread.
    """

    def __init__(
        self, host: HostName, run: CommandRunner, backend: str, packet_log: Path | None, wake: Callable[[str], None]
    ) -> None:
        self._run = run
        self._programs = tuple(f"{program}{backend and '-' + backend}-save" for program in ("iptables", "ip6tables"))
        self._packet_log = PacketLog(host, packet_log)
        self._iptables = IptablesDriver(run, backend)
        self._conntrack = ConntrackDriver(ConntrackTable())
        self._zones = ZonesDriver(run, self._conntrack.flush, backend)
        self._bridges = BridgesDriver()
        self.before_flows: tuple[Driver, ...] = (
            self._bridges,
            IpsetDriver(run),
            self._iptables,
            MembersDriver(run),
            self._zones,
        )
        self.after_flows: tuple[Driver, ...] = (self._conntrack,)
        self._wake = wake
        self._changed: queue.SimpleQueue[frozenset[str] | None] = queue.SimpleQueue()  # devices; None: not known which
        rules_changed = partial(wake, RULES_CHANGED)
        self._watches: list[LinkWatch | NftWatch | LegacyWatch] = [
            LinkWatch(self._devices_changed),
            NftWatch(rules_changed, lambda pid, _: run.started(pid) or is_own_thread(pid)),
        ]
        self._legacy = LegacyWatch(rules_changed)
        self._rejudging = Rejudging(self._conntrack)
        self._leftovers: tuple[Problem, ...] = ()
        self._looked_at: float | None = None

    def start(self) -> None:
        """Begin to watch; on the main thread."""
        if self._iptables.used_backend() == "legacy":  # only then: to look at these tables is to make them
            self._watches.append(self._legacy)
        for watch in self._watches:
            watch.start()

    def stop(self) -> None:
        """End watching and logging; on the main thread, after the reconcile thread has ended."""
        for watch in self._watches:
            watch.stop()
        self._packet_log.stop()

    def has_left_something(self) -> bool:
        """Tell whether chains or zones of ours are in place, at most a look: False where their programs are missing."""
        for program in self._programs:
            with contextlib.suppress(CommandError):
                # Without "-t filter", which would make the legacy backend set up that table.
                if f":{naming.CHAIN_PREFIX}" in self._run((program,)):
                    return True
        with contextlib.suppress(AgentError):
            return bool(self._zones.observe())
        return False

    def counts(self) -> FilterCounts:
        """Return what has been counted so far; any thread."""
        packets = self._packet_log.counts()
        return FilterCounts(self._conntrack.ended, packets.logged, packets.lost)

    def rule_counters(self) -> RuleCounters:
        """Read what the rules have counted; any thread.  Raises CommandError."""
        return read_rule_counters(self._run, [(program, "-c", "-t", "filter") for program in self._programs])

    def follow(self, snapshot: HostSnapshot) -> None:
        """Log the packets that the groups of *snapshot* want logged."""
        self._packet_log.follow(snapshot)

    def read_back(self, reconciler: Reconciler, reasons: Collection[str]) -> None:
        """Read back what others have changed, so that the pass that follows puts it right."""
        names = {name for reason in reasons for name in _READ_BACK.get(reason, ())}
        if not self._changed.empty():
            names.add(self._bridges.name)
        unfinished = reconciler.unfinished()
        missing = {ref.driver for ref in unfinished}
        for driver in self.before_flows:
            if driver.name not in names:
                continue
            bridges = self._take_changed() if driver is self._bridges else None
            if bridges is not None and not any(ItemRef(driver.name, bridge) in unfinished for bridge in bridges):
                reconciler.read_back_items(driver, bridges)
            elif driver.name in missing:
                reconciler.need_resync([driver.name])  # what failed may be possible now: a device has come
            else:
                reconciler.read_back(driver, 0, 1)

    def _devices_changed(self, devices: frozenset[str] | None) -> None:
        """On the watch's thread."""
        self._changed.put(devices)
        self._wake(DEVICES_CHANGED)

    def _take_changed(self) -> frozenset[str] | None:
        """Return the bridges whose devices have changed, None if it is not known which."""
        bridges: set[str] = set()
        known = True
        while not self._changed.empty():
            devices = self._changed.get()
            known &= devices is not None
            bridges.update(map(bridge_of, devices or ()))
        return frozenset(bridges) if known else None

    def after_pass(self, report: PassReport, reconciler: Reconciler) -> bool:
        """Have connections judged anew if a filter was found open; tell whether another pass is due."""
        if self._legacy in self._watches and "iptables" in report.operations:
            self._legacy.note()
        return self._rejudging.after_pass(report, reconciler)

    def problems(self) -> tuple[Problem, ...]:
        """Return what operators should know of this host's filters."""
        limits = tuple(Problem("host", "filters", text, Actor.OPERATOR) for text in self._zones.limits())
        return (*limits, *self._packet_log.problems(), *self._find_leftovers())

    def _find_leftovers(self) -> tuple[Problem, ...]:
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at > LEFTOVERS_EVERY:
            self._looked_at = now
            self._leftovers = self._iptables.foreign_backend_leftovers()
        return self._leftovers
