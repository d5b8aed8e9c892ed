# SPDX-License-Identifier: Apache-2.0
"""What an agent writes into the store: its ``Host`` row, ``Host_Status``, ``Port_Status`` and ``Router_Status``.

Written is only what differs from the rows that are there, one transaction a call.
Nothing here touches desired tables or the revision.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ovs.db import idl as ovs_idl

from agent import __version__
from agent.core.model import Host, HostName, PortId, RouterId
from agent.core.report import PortState, RouterState
from agent.store import rows
from agent.store.reader import SnapshotReader


@dataclass(frozen=True, slots=True)
class StoredStatus:
    """A ``Port_Status`` row; ``since`` in Unix seconds."""

    up: bool
    reason: str
    since: float


class StatusWriter:
    """Writes the status of one host through the reader's connection."""

    def __init__(self, reader: SnapshotReader, host: HostName) -> None:
        self._reader = reader
        self._host = host

    def stored(self) -> Future[dict[PortId, StoredStatus]]:
        """Read the rows that an earlier process of this host has left."""
        answer: Future[dict[PortId, StoredStatus]] = Future()

        def build(txn: ovs_idl.Transaction) -> None:
            del txn
            answer.set_result({port: status for port, (_, status) in self._port_rows().items()})

        self._reader.thread.submit(build)
        return answer

    def announce(self, host: Host) -> Future[None]:
        """Make this host's ``Host`` row say *host*; an address set by hand stays when we know none.

        What the row asks of the host (``drain``) is not the host's to say, and stays.
        """

        def build(txn: ovs_idl.Transaction) -> None:
            live = self._reader.idl.tables["Host"].rows.values()
            row = next((row for row in live if rows.one(row, "name") == host.name), None)
            if row is None:
                row = txn.insert(self._reader.idl.tables["Host"])
                row.name = host.name
            elif _same_host(row, host):
                return
            if host.tunnel_address is not None:
                row.tunnel_address = host.tunnel_address
            row.encapsulations = sorted(host.encapsulations)
            row.bridge_mappings = dict(host.bridge_mappings)

        return self._reader.thread.submit(build)

    def report(
        self,
        ports: Mapping[PortId, PortState],
        generation: str,
        applied_revision: int,
        now: float,
        routers: Mapping[RouterId, RouterState] = MappingProxyType({}),
    ) -> Future[None]:
        """Write the state of *ports* and *routers* (all of this host), and what has been applied.

        The heartbeat is *now* (Unix seconds, stored in milliseconds).
        """

        def build(txn: ovs_idl.Transaction) -> None:
            self._build_ports(txn, ports)
            self._build_routers(txn, routers)
            live = self._reader.idl.tables["Host_Status"].rows.values()
            row = next(iter(live), None)  # the condition selects our own row
            if row is None:
                row = txn.insert(self._reader.idl.tables["Host_Status"])
                row.host = self._host
            row.version = __version__
            if generation:
                row.generation = uuid.UUID(generation)
            row.applied_revision = applied_revision
            row.heartbeat = int(now * 1000)

        return self._reader.thread.submit(build)

    def _port_rows(self) -> dict[PortId, tuple[Any, StoredStatus]]:
        found = {}
        for row in self._reader.idl.tables["Port_Status"].rows.values():
            status = StoredStatus(rows.one(row, "up"), rows.one(row, "reason"), rows.one(row, "since") / 1000)
            found[PortId(rows.one(row, "port"))] = (row, status)
        return found

    def _build_ports(self, txn: ovs_idl.Transaction, ports: Mapping[PortId, PortState]) -> None:
        present = self._port_rows()
        for port, state in ports.items():
            row, stored = present.pop(port, (None, None))
            if row is None:
                row = txn.insert(self._reader.idl.tables["Port_Status"])
                row.port, row.host = port, self._host
            elif stored is not None and (stored.up, stored.reason) == (state.up, state.reason):
                continue
            row.up, row.reason, row.since = state.up, state.reason, int(state.since * 1000)
        for row, _ in present.values():
            row.delete()

    def _build_routers(self, txn: ovs_idl.Transaction, routers: Mapping[RouterId, RouterState]) -> None:
        table = self._reader.idl.tables["Router_Status"]
        present = {rows.one(row, "router"): row for row in table.rows.values()}  # the condition selects our own
        for router, state in routers.items():
            row = present.pop(router, None)
            if row is None:
                row = txn.insert(table)
                row.router, row.host = router, self._host
            elif _said(row) == (state.active, state.ready, state.reason):
                continue
            row.active, row.ready, row.reason = state.active, [state.ready], state.reason
            row.since = int(state.since * 1000)
        for row in present.values():
            row.delete()


def _said(row: Any) -> tuple[object, ...]:
    """Return what a Router_Status row says; if something else is to be said, that is news."""
    return rows.one(row, "active"), rows.optional(row, "ready"), rows.one(row, "reason")


def _same_host(row: Any, host: Host) -> bool:
    return (
        (host.tunnel_address is None or rows.optional(row, "tunnel_address") == host.tunnel_address)
        and set(rows.many(row, "encapsulations")) == {str(kind) for kind in host.encapsulations}
        and rows.mapping(row, "bridge_mappings") == dict(host.bridge_mappings)
    )
