# SPDX-License-Identifier: Apache-2.0
"""Rows of the store to ``HostSnapshot``: this host's part, frozen, at one revision.

The replica lives on an ``IdlThread``.  Notifications only collect row ids; after
each batch the rows that they named are frozen again, everything else stays the
same object.  A snapshot is published when the first data has come, no condition is
new or under way, and those in force cover what this host's ports need; until then
the last in-sync snapshot stays.  A row that cannot be understood is a problem of
that object alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ovs.db import idl as ovs_idl

from agent.core.errors import Problem
from agent.core.model import (
    Endpoint,
    EndpointId,
    HostName,
    HostSnapshot,
    NetworkId,
    Subnet,
)
from agent.ovsdb import PROBE_INTERVAL_MS, IdlThread
from agent.store import rows
from agent.store.conditions import Conditions

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Global": ("generation", "revision"),
    "Network": ("name", "type", "segmentation_id", "physnet", "mtu", "admin_state_up"),
    "Subnet": (
        "name", "network", "cidr", "gateway_ip", "enable_dhcp", "ipv6_address_mode", "ipv6_ra_mode",
    ),
    "Port": (
        "name", "network", "mac_address", "fixed_ips", "host", "device_owner", "admin_state_up",
        "port_security_enabled", "allowed_address_pairs",
    ),
    "Endpoint": ("network", "mac", "addresses", "host"),
    "Host": ("name", "tunnel_address", "encapsulations", "bridge_mappings"),
    "Host_Status": ("host", "version", "generation", "applied_revision", "heartbeat"),
    "Port_Status": ("port", "host", "up", "reason", "since"),
}  # fmt: skip

_FREEZE: Mapping[str, Callable[[Any], Any]] = {
    "Network": rows.network,
    "Subnet": rows.subnet,
    "Port": rows.port,
    "Endpoint": rows.endpoint,
    "Host": rows.host,
}

_Key = TypeVar("_Key")
_Noun = TypeVar("_Noun")


class NotingIdl(ovs_idl.Idl):
    """An IDL whose notifications only note which rows changed."""

    def __init__(self, remote: str, schema: ovs_idl.SchemaHelper) -> None:
        self.noted: dict[str, set[Any]] = {}
        super().__init__(remote, schema, probe_interval=PROBE_INTERVAL_MS, leader_only=False)

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        """Note *row*; called by the IDL while it runs."""
        del event, updates
        self.noted.setdefault(row._table.name, set()).add(row.uuid)

    def take_noted(self) -> dict[str, set[Any]]:
        """Return what was noted since the last call."""
        noted, self.noted = self.noted, {}
        return noted


class SnapshotReader:
    """Follows the store for one host.

    *remote* is as for the IDL: addresses joined by commas.  *schema* is the text
    of the schema that we know.  *on_snapshot* is called on the IDL thread after
    a new snapshot was published or the connection changed; it must only wake somebody.
    """

    def __init__(self, remote: str, schema: str, host: HostName, on_snapshot: Callable[[], None]) -> None:
        helper = ovs_idl.SchemaHelper(schema_json=json.loads(schema))
        for table, columns in COLUMNS.items():
            helper.register_columns(table, list(columns))
        self._host = host
        self._on_snapshot = on_snapshot
        self._idl = NotingIdl(remote, helper)
        self._conditions = Conditions(self._idl, host)
        self._frozen: dict[str, dict[Any, Any]] = {table: {} for table in _FREEZE}
        self._problems: dict[str, dict[Any, Problem]] = {table: {} for table in _FREEZE}
        self._subnets: dict[NetworkId, tuple[Subnet, ...]] = {}
        self._endpoints: dict[NetworkId, dict[EndpointId, Endpoint]] = {}
        self._changed: set[str] = set(_FREEZE)
        self._unpublished: set[NetworkId] = set()  # networks whose endpoints changed since the last snapshot
        self._snapshot = HostSnapshot(host)
        self._connected = False
        self.last_sync_at: float | None = None
        self.thread = IdlThread("store", self._idl, self._read)

    @property
    def idl(self) -> ovs_idl.Idl:
        """The replica; for transactions, which are built on the IDL thread."""
        return self._idl

    def snapshot(self) -> HostSnapshot:
        """Return the last in-sync snapshot (any thread); before the first, an empty one not in sync."""
        return self._snapshot

    def connected(self) -> bool:
        """Tell whether the store is there now (any thread)."""
        return self._connected

    # On the IDL thread.

    def _read(self) -> None:
        for table, uuids in self._idl.take_noted().items():
            if table in _FREEZE:
                self._freeze(table, uuids)
        for table in _FREEZE:
            self._drop_lost(table)
        needed = frozenset(port.network for port in self._frozen["Port"].values())
        self._conditions.need(needed, time.monotonic())
        connected = self.thread.is_connected()
        published = self._conditions.in_force(needed) and self._publish(needed)
        if published or connected != self._connected:
            if self._snapshot.in_sync:
                self.last_sync_at = time.time()  # until now it was; while connected it still is
            self._connected = connected
            self._on_snapshot()

    def _freeze(self, table: str, uuids: set[Any]) -> None:
        """Freeze rows anew; a row that is as before keeps its object."""
        live, frozen = self._idl.tables[table].rows, self._frozen[table]
        for uuid in uuids:
            row = live.get(uuid)
            if row is None:
                self._drop(table, uuid)
                continue
            try:
                noun = _FREEZE[table](row)
            except (rows.RowError, ValueError, TypeError, StopIteration) as unknown:
                # A later version of the schema may hold values that we cannot even name.
                err = (
                    unknown
                    if isinstance(unknown, rows.RowError)
                    else rows.RowError("row", f"not understood: {unknown!r}")
                )
                self._drop(table, uuid)
                name = rows.one(row, "name") if "name" in row._data else str(uuid)
                text = f"{table.lower()} {name}: {err}"
                self._problems[table][uuid] = Problem(f"{table.lower()}:{uuid}", err.column, text, err.actor)
                self._changed.add(table)
                continue
            self._problems[table].pop(uuid, None)
            before = frozen.get(uuid)
            if before == noun:
                continue
            frozen[uuid] = noun
            self._changed.add(table)
            self._file(table, before, noun)

    def _drop(self, table: str, uuid: Any) -> None:
        before = self._frozen[table].pop(uuid, None)
        if self._problems[table].pop(uuid, None) is not None or before is not None:
            self._changed.add(table)
        if before is not None:
            self._file(table, before, None)

    def _drop_lost(self, table: str) -> None:
        """Drop what a reconnected replica has no more (it is cleared without notifications)."""
        live, known = self._idl.tables[table].rows, [*self._frozen[table], *self._problems[table]]
        if len(known) > len(live):
            for uuid in known:
                if uuid not in live:
                    self._drop(table, uuid)

    def _file(self, table: str, before: Any, after: Any) -> None:
        """Keep the collections by network; those handed out in snapshots are never changed in place."""
        if table == "Endpoint":
            if before is not None:
                self._members(before.network).pop(before.id, None)
            if after is not None:
                self._members(after.network)[after.id] = after
        elif table == "Subnet":
            for network in {subnet.network for subnet in (before, after) if subnet is not None}:
                members = [s for s in self._frozen["Subnet"].values() if s.network == network]
                self._subnets[network] = tuple(sorted(members, key=lambda s: s.id))
                if not members:
                    del self._subnets[network]

    def _members(self, network: NetworkId) -> dict[EndpointId, Endpoint]:
        """Return the endpoints of *network* to be changed: copied once since the last snapshot."""
        if network not in self._unpublished:
            self._unpublished.add(network)
            self._endpoints[network] = dict(self._endpoints.get(network, {}))
        return self._endpoints[network]

    def _publish(self, needed: frozenset[NetworkId]) -> bool:
        """Publish a new snapshot; return False when it would be the one published already."""
        last = self._snapshot
        generation, revision = self._revision()
        changed, self._changed = self._changed, set()
        if last.in_sync and not changed and (generation, revision) == (last.generation, last.revision):
            return False
        for network in self._unpublished:
            if not self._endpoints[network]:
                del self._endpoints[network]
        self._unpublished.clear()
        self._snapshot = HostSnapshot(
            host=self._host,
            generation=generation,
            revision=revision,
            in_sync=True,
            networks=_same({n.id: n for n in self._frozen["Network"].values() if n.id in needed}, last.networks),
            subnets=_same({n: s for n, s in self._subnets.items() if n in needed}, last.subnets),
            ports={port.id: port for port in self._frozen["Port"].values()} if "Port" in changed else last.ports,
            endpoints=_same({n: e for n, e in self._endpoints.items() if n in needed}, last.endpoints),
            hosts={host.name: host for host in self._frozen["Host"].values()} if "Host" in changed else last.hosts,
            problems=self._all_problems() if changed else last.problems,
        )
        return True

    def _all_problems(self) -> tuple[Problem, ...]:
        return tuple(sorted((p for table in self._problems.values() for p in table.values()), key=str))

    def _revision(self) -> tuple[str, int]:
        for row in self._idl.tables["Global"].rows.values():
            return str(rows.one(row, "generation")), rows.one(row, "revision")
        return "", 0


def _same(new: dict[_Key, _Noun], old: Mapping[_Key, _Noun]) -> Mapping[_Key, _Noun]:
    """Return *old* when it holds the very objects of *new*, so that nobody has to look further."""
    if len(new) == len(old) and all(old.get(key) is value for key, value in new.items()):
        return old
    return new
