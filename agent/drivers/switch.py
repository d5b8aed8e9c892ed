# SPDX-License-Identifier: Apache-2.0
"""The local Open vSwitch as the planners see it: which interfaces are plugged, and their numbers.

A replica of the switch's database lives on a thread of its own.  After each batch
of updates only the rows that it reported are frozen again, so one more interface
among 400 costs one.  ``view`` is what planners get, ``rows`` what the driver ``ovs``
reads and compares.

After a restart of ``ovs-vswitchd`` the OpenFlow numbers in the database are those
of the process that died until the new one has written its own.  Whoever has asked
the new process itself (``agent.drivers.switch_watch``) says so by
``overlay_ofports``: its numbers count until the database has caught up.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from ovs.db import idl as ovs_idl

from agent.core import naming
from agent.core.errors import Actor, Problem
from agent.core.model import BfdSession, PluggedInterface, PortId, SwitchView
from agent.drivers.switch_rows import (
    FREEZERS,
    RESTORE_WAIT,
    RESTORE_WAIT_MARK,
    AnyRow,
    InterfaceRow,
    SwitchRows,
    restore_wait_is_ours,
    schema_helper,
)
from agent.ovsdb import PROBE_INTERVAL_MS, IdlThread

OVERLAY_SECONDS = 10.0  # after that long the database is right
OPENFLOW_NAME_CHARS = 15  # longer port names are cut in OpenFlow messages
_NOT_PHYSICAL = ("patch", "internal")  # types of interfaces that tell nothing of a bridge's way out

Tables = Mapping[str, Any]


class _SwitchIdl(ovs_idl.Idl):
    """A replica that remembers which rows were reported."""

    def __init__(self, remote: str) -> None:
        super().__init__(remote, schema_helper(), probe_interval=PROBE_INTERVAL_MS)
        self.reported: dict[str, set[UUID]] = {name: set() for name in FREEZERS}

    def notify(self, event: str, row: Any, updates: Any = None) -> None:  # noqa: ARG002 - the IDL's signature
        """Only remember the row: it is live and may change again before it is read."""
        if row._table.name in self.reported:
            self.reported[row._table.name].add(row.uuid)


@dataclass(slots=True)
class _Overlay:
    """Port numbers that the switch itself has told, for the interfaces in *pending*."""

    numbers: Mapping[str, int] = field(default_factory=dict)
    pending: set[UUID] = field(default_factory=set)
    until: float = 0.0


class LocalSwitch:
    """The switch of this host.

    *on_view* is called, on one of several threads, whenever ``view`` has become a
    different one; it must not block.
    """

    def __init__(
        self, remote: str, on_view: Callable[[], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._idl = _SwitchIdl(remote)
        self._on_view = on_view
        self._monotonic = monotonic
        self._thread = IdlThread("switch", self._idl, self._refresh)
        self._waits = False
        self._frozen: dict[str, dict[UUID, AnyRow]] = {name: {} for name in FREEZERS}  # the IDL's thread only
        self._lock = threading.Lock()  # guards everything below
        self._refreshed = threading.Condition(self._lock)
        self._configured = 0
        self._rows = SwitchRows()
        self._overlay = _Overlay()
        self._plugged: dict[UUID, PluggedInterface] = {}
        self._view = SwitchView()

    def start(self) -> None:
        """Connect; returns at once, and reconnects by itself from then on."""
        self._thread.start()

    def stop(self) -> None:
        """Close the connection and end the thread."""
        self._thread.stop()

    def is_connected(self) -> bool:
        """Tell whether the database is there now (a view may well be older)."""
        return self._thread.is_connected()

    def view(self) -> SwitchView:
        """Return what planners need to know; the same object until something has changed."""
        with self._lock:
            expired = bool(self._overlay.pending) and self._monotonic() >= self._overlay.until
            if expired:
                self._overlay = _Overlay()
            changed = expired and self._rebuild()
            view = self._view
        if changed:
            self._on_view()  # whoever asked may not be who has to act on it
        return view

    def rows(self) -> SwitchRows:
        """Return all rows as last seen."""
        with self._lock:
            return self._rows

    def transact(self, build: Callable[[ovs_idl.Transaction, Tables, SwitchRows], None], timeout: float) -> None:
        """Commit what *build* makes of the rows, see ``IdlThread.transact``.

        *build* gets the IDL's tables and the frozen form of the very same rows.
        """
        self._thread.transact(lambda txn: build(txn, self._idl.tables, self._rows), timeout)

    def transact_counted(self, build: Callable[[ovs_idl.Transaction, Tables, SwitchRows], None], timeout: float) -> int:
        """Commit as ``transact`` does; return the number of this state of the database, for ``wait_configured``."""
        made: list[ovs_idl.Transaction] = []

        def counted(txn: ovs_idl.Transaction) -> None:
            made.append(txn)
            build(txn, self._idl.tables, self._rows)
            for row in self._idl.tables["Open_vSwitch"].rows.values():
                row.increment("next_cfg")

        self._thread.transact(counted, timeout)
        return int(made[-1].get_increment_new_value() or 0)

    def wait_configured(self, number: int, timeout: float) -> bool:
        """Wait until ``ovs-vswitchd`` has done what the database said at *number*; False if that takes longer."""
        with self._refreshed:
            return self._refreshed.wait_for(lambda: self._configured >= number, timeout)

    def is_waiting_for_flows(self) -> bool:
        """Tell whether the switch forwards nothing until ``release_restore_wait`` is called."""
        return self._waits

    def release_restore_wait(self) -> None:
        """Let the switch forward again after its flows are in; only if it waits because of us.  Does not wait.

        An outcome that stays unknown is no harm: it is asked again after the next pass,
        and the drop-in releases by itself after 10 s.
        """

        def build(_: ovs_idl.Transaction) -> None:
            for row in self._idl.tables["Open_vSwitch"].rows.values():
                if restore_wait_is_ours(row):
                    row.delkey("other_config", RESTORE_WAIT)
                    row.delkey("external_ids", RESTORE_WAIT_MARK)

        self._thread.submit(build)

    def overlay_ofports(self, numbers: Mapping[str, int]) -> None:
        """Use *numbers* (interface name -> OpenFlow port number) until the database says them too.

        An interface that is not among them has no number.
        """
        with self._lock:
            self._overlay = _Overlay(numbers, set(self._rows.interfaces), self._monotonic() + OVERLAY_SECONDS)
            changed = self._rebuild()
        if changed:
            self._on_view()

    def _refresh(self) -> None:
        """Freeze what was reported.  Runs on the IDL's thread."""
        if not self._idl.has_ever_connected():
            return
        changed_interfaces: set[UUID] = set()
        for name, freeze in FREEZERS.items():
            live, frozen, reported = self._idl.tables[name].rows, self._frozen[name], self._idl.reported[name]
            self._idl.reported[name] = set()
            for uuid in reported:
                before, now = frozen.pop(uuid, None), freeze(live[uuid]) if uuid in live else None
                if now is not None:
                    frozen[uuid] = now
                if name == "Interface" and not _is_same(before, now):
                    changed_interfaces.add(uuid)
            if len(frozen) != len(live):  # a reconnected replica is emptied without a report
                self._frozen[name] = {uuid: row for uuid, row in frozen.items() if uuid in live}
        self._waits = any(restore_wait_is_ours(row) for row in self._idl.tables["Open_vSwitch"].rows.values())
        configured = max((row.cur_cfg for row in self._idl.tables["Open_vSwitch"].rows.values()), default=0)
        rows = SwitchRows(*(dict(self._frozen[name]) for name in ("Bridge", "Port", "Interface")))  # type: ignore[arg-type]
        with self._lock:
            self._rows = rows
            self._configured = configured
            self._refreshed.notify_all()
            self._overlay.pending -= changed_interfaces
            changed = self._rebuild()
        if changed:
            self._on_view()

    def _rebuild(self) -> bool:
        """Make the view anew from the rows; return whether it differs.  The lock is held."""
        found = self._rows.bridge(naming.INTEGRATION_BRIDGE)
        candidates: dict[PortId, list[PluggedInterface]] = defaultdict(list)
        others: dict[str, int] = {}
        plugged: dict[UUID, PluggedInterface] = {}
        integration = dict(self._rows.interfaces_of(found[1])) if found is not None else {}
        for uuid, row in integration.items():
            number = self._number(uuid, row)
            if row.iface_id is not None:
                plugged[uuid] = _same_or(self._plugged.get(uuid), _plugged(row, number))
                candidates[plugged[uuid].port].append(plugged[uuid])
            elif number is not None and row.name != naming.INTEGRATION_BRIDGE:
                others[row.name] = number
        self._plugged = plugged
        view = SwitchView(
            connected=self._idl.has_ever_connected(),
            bridges=frozenset(row.name for row in self._rows.bridges.values()),
            interfaces={port: max(each, key=_preference) for port, each in candidates.items()},
            ofports=others,
            sessions=_sessions(integration),
            uplinks=dict(self._uplinks()),
            problems=tuple(_twice(port, each) for port, each in sorted(candidates.items()) if len(each) > 1),
        )
        if view == self._view:
            return False
        self._view = view
        return True

    def _uplinks(self) -> Iterator[tuple[str, bool]]:
        """Yield each bridge that has physical ports, and whether one of them has a carrier.  The lock is held."""
        for bridge in self._rows.bridges.values():
            if bridge.name == naming.INTEGRATION_BRIDGE:
                continue
            interfaces = [row for _, row in self._rows.interfaces_of(bridge) if row.type not in _NOT_PHYSICAL]
            if interfaces:
                yield bridge.name, any(row.is_link_up for row in interfaces)

    def _number(self, uuid: UUID, row: InterfaceRow) -> int | None:
        number = row.ofport if row.ofport is not None and row.ofport > 0 else None
        if uuid not in self._overlay.pending or len(row.name) > OPENFLOW_NAME_CHARS:
            return number
        told = self._overlay.numbers.get(row.name)
        if told == number:
            self._overlay.pending.discard(uuid)
        return told


def _is_same(before: AnyRow | None, now: AnyRow | None) -> bool:
    """Tell whether an interface's row says the same as before, but for what comes and goes by itself."""
    if not isinstance(before, InterfaceRow) or not isinstance(now, InterfaceRow):
        return False
    return before.differs_in_state_only(now)


def _sessions(interfaces: Mapping[UUID, InterfaceRow]) -> dict[str, BfdSession]:
    """Return the sessions of the ports on which peers are watched; one that has not begun yet is not there."""
    return {
        row.name: BfdSession(
            up=row.bfd_status.get("state") == "up",
            forwarding=row.bfd_status.get("forwarding") == "true",
            flaps=int(row.bfd_status.get("flap_count", "0")),
        )
        for row in interfaces.values()
        if row.bfd_status and row.name.startswith(naming.PEER_PORT_PREFIX)
    }


def _plugged(row: InterfaceRow, number: int | None) -> PluggedInterface:
    error = row.error
    if error is None and row.ofport is not None and row.ofport < 0:
        error = "Open vSwitch could not open the device"
    return PluggedInterface(row.name, PortId(row.iface_id or ""), number, error)


def _same_or(old: PluggedInterface | None, new: PluggedInterface) -> PluggedInterface:
    """Return *old* if it says the same: planners look at the identity."""
    return old if old == new else new


def _preference(interface: PluggedInterface) -> tuple[bool, int, str]:
    """Order interfaces that claim the same port: one that works, then the one plugged last.

    Open vSwitch gives out rising numbers, so the highest is the newest until they wrap.
    """
    return interface.error is None, interface.ofport or 0, interface.name


def _twice(port: PortId, interfaces: list[PluggedInterface]) -> Problem:
    used = max(interfaces, key=_preference).name
    rest = ", ".join(sorted(interface.name for interface in interfaces if interface.name != used))
    text = f"interface {used} is used; {rest} of {naming.INTEGRATION_BRIDGE} claims the same port and stays shut"
    return Problem(f"port:{port}", "external_ids:iface-id", text, Actor.OPERATOR)
