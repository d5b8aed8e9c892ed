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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from ovs.db import idl as ovs_idl

from agent.core.errors import Actor, Problem
from agent.core.model import (
    AddressChunk,
    Endpoint,
    EndpointId,
    HostName,
    HostSnapshot,
    NetworkId,
    OwnerId,
    Port,
    Subnet,
)
from agent.ovsdb import PROBE_INTERVAL_MS, IdlThread
from agent.refusable_idl import RefusableIdl
from agent.store import filter_rows, rows, service_rows
from agent.store.conditions import Conditions, Needs
from agent.store.gathered import ByOwner, Groups
from agent.store.service_rows import Doubts

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Global": ("generation", "revision"),
    "Network": ("name", "type", "segmentation_id", "physnet", "mtu", "admin_state_up", "dns_domain"),
    "Subnet": (
        "name", "network", "cidr", "gateway_ip", "enable_dhcp", "ipv6_address_mode", "ipv6_ra_mode",
        "server_address", "dns_nameservers", "host_routes",
    ),
    "Port": (
        "name", "network", "mac_address", "fixed_ips", "host", "device_owner", "device_id", "project",
        "admin_state_up", "port_security_enabled", "allowed_address_pairs", "filtered", "security_groups",
        "hostname", "dhcp_options", "metadata",
    ),
    "Metadata_Service": (
        "url", "secret_file", "ca_file", "client_cert_file", "client_key_file", "insecure", "timeout",
    ),
    "Security_Group": ("name", "stateful", "log", "log_rate", "log_burst"),
    "Security_Group_Rule": (
        "group", "direction", "ethertype", "protocol", "port_range_min", "port_range_max", "remote_ip_prefix",
        "remote_group", "remote_address_group",
    ),
    "Address_Group": ("name",),
    "Address_Chunk": ("owner", "chunk", "addresses"),
    "Endpoint": ("network", "mac", "addresses", "host"),
    "Host": ("name", "tunnel_address", "encapsulations", "bridge_mappings"),
    "Host_Status": ("host", "version", "generation", "applied_revision", "heartbeat"),
    "Port_Status": ("port", "host", "up", "reason", "since"),
}  # fmt: skip

# Of a row, what it was frozen to before, and a list that takes what of it is left out.
_FREEZE: Mapping[str, Callable[[Any, Any, Doubts], Any]] = {
    "Network": lambda row, _, doubts: service_rows.network(row, doubts),
    "Subnet": lambda row, _, doubts: service_rows.subnet(row, doubts),
    "Port": lambda row, _, doubts: service_rows.port(row, doubts),
    "Metadata_Service": lambda row, _, doubts: service_rows.metadata_service(row, doubts),
    "Endpoint": lambda row, *_: rows.endpoint(row),
    "Host": lambda row, *_: rows.host(row),
    "Security_Group": lambda row, *_: filter_rows.security_group(row),
    "Security_Group_Rule": lambda row, *_: filter_rows.rule(row),
    "Address_Group": lambda row, *_: filter_rows.address_group(row),
    "Address_Chunk": lambda row, before, _: filter_rows.address_chunk(row, before),
}

_Key = TypeVar("_Key")
_Noun = TypeVar("_Noun")


class _Fault(NamedTuple):
    """A row that makes no sense; ``name`` and ``group`` as far as it has them."""

    error: rows.RowError
    name: str
    group: str


class NotingIdl(RefusableIdl):
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
        self._faults: dict[str, dict[Any, _Fault]] = {table: {} for table in _FREEZE}
        self._doubts: dict[str, dict[Any, Doubts]] = {table: {} for table in _FREEZE}
        self._subnets: dict[NetworkId, tuple[Subnet, ...]] = {}
        self._endpoints: ByOwner[NetworkId, EndpointId, Endpoint] = ByOwner()
        self._groups = Groups()
        self._chunks: ByOwner[OwnerId, str, AddressChunk] = ByOwner()
        self._changed: set[str] = set(_FREEZE)  # tables, since the last snapshot
        self._needs = Needs()
        self._needs_stale = True
        self._snapshot = HostSnapshot(host)
        self._connected = False
        self._refusal = ""
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

    def troubles(self) -> tuple[Problem, ...]:
        """Return why the store cannot be followed although it is there (any thread)."""
        refusal = self.thread.refusal()
        if not refusal:
            return ()
        help_text = "if its schema is of an older version, convert it (ovsdb-client convert)"
        return (
            Problem("host", "store", f"the store cannot be followed, retried: {refusal}; {help_text}", Actor.OPERATOR),
        )

    # On the IDL thread.

    def _read(self) -> None:
        noted = self._idl.take_noted()
        for table in _FREEZE:
            self._freeze(table, noted.get(table, set()))
            self._drop_lost(table)
        needs = self._needed()
        self._conditions.need(needs, time.monotonic())
        connected = self.thread.is_connected()
        published = self._conditions.in_force(needs) and self._publish(needs)
        refusal, self._refusal = self._refusal, self.thread.refusal()
        if published or connected != self._connected or refusal != self._refusal:
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
            before, doubts = frozen.get(uuid), Doubts()
            try:
                noun = _FREEZE[table](row, before, doubts)
            except (rows.RowError, ValueError, TypeError, StopIteration) as unknown:
                # A later version of the schema may hold values that we cannot even name.
                err = (
                    unknown
                    if isinstance(unknown, rows.RowError)
                    else rows.RowError("row", f"not understood: {unknown!r}")
                )
                self._drop(table, uuid)
                self._faults[table][uuid] = _Fault(err, _value(row, "name"), _value(row, "group"))
                self._changed.add(table)
                continue
            if self._faults[table].pop(uuid, None) is not None or doubts != self._doubts[table].get(uuid, []):
                self._changed.add(table)
            self._doubt(table, uuid, doubts)
            if before == noun:
                continue
            frozen[uuid] = noun
            self._changed.add(table)
            self._file(table, before, noun)

    def _doubt(self, table: str, uuid: Any, doubts: Doubts) -> None:
        if doubts:
            self._doubts[table][uuid] = doubts
        else:
            self._doubts[table].pop(uuid, None)

    def _drop(self, table: str, uuid: Any) -> None:
        self._doubts[table].pop(uuid, None)
        before = self._frozen[table].pop(uuid, None)
        if self._faults[table].pop(uuid, None) is not None or before is not None:
            self._changed.add(table)
        if before is not None:
            self._file(table, before, None)

    def _drop_lost(self, table: str) -> None:
        """Drop what a reconnected replica has no more (it is cleared without notifications)."""
        live, frozen, faults = self._idl.tables[table].rows, self._frozen[table], self._faults[table]
        if len(frozen) + len(faults) > len(live):
            for uuid in [*frozen, *faults]:
                if uuid not in live:
                    self._drop(table, uuid)

    def _file(self, table: str, before: Any, after: Any) -> None:
        """Keep what is put together from several rows."""
        if table == "Endpoint":
            if before is not None:
                self._endpoints.remove(before.network, before.id, before)
            if after is not None:
                self._endpoints.put(after.network, after.id, after)
        elif table == "Subnet":
            for network in {subnet.network for subnet in (before, after) if subnet is not None}:
                members = [s for s in self._frozen["Subnet"].values() if s.network == network]
                self._subnets[network] = tuple(sorted(members, key=lambda s: s.id))
                if not members:
                    del self._subnets[network]
        elif table == "Address_Chunk":
            if before is not None:
                self._chunks.remove(before.chunk.owner, before.chunk.chunk, before.chunk)
            if after is not None:
                self._chunks.put(after.chunk.owner, after.chunk.chunk, after.chunk)
        elif table == "Address_Group":
            if after is not None:
                self._groups.file_owner(after)
            else:
                self._groups.drop_owner(before.id)
        else:
            self._needs_stale = True
            if table == "Security_Group":
                self._groups.file(before, after)
            elif table == "Security_Group_Rule":
                self._groups.file_rule(before, after)

    def _needed(self) -> Needs:
        """Return what the ports need, as far as the rows that have come tell."""
        if self._needs_stale:
            self._needs_stale = False
            self._groups.settle()
            ports = self._frozen["Port"].values()
            groups = frozenset(group for port in ports for group in port.security_groups)
            self._needs = Needs(frozenset(port.network for port in ports), groups, self._groups.owners(groups))
        return self._needs

    def _publish(self, needs: Needs) -> bool:
        """Publish a new snapshot; return False when it would be the one published already."""
        last = self._snapshot
        generation, revision = self._revision()
        changed, self._changed = self._changed, set()
        if last.in_sync and not changed and (generation, revision) == (last.generation, last.revision):
            return False
        networks = self._frozen["Network"].values()
        problems = tuple(sorted(self._problems(), key=str)) if changed else last.problems
        self._snapshot = HostSnapshot(
            host=self._host,
            generation=generation,
            revision=revision,
            in_sync=True,
            networks=_same({n.id: n for n in networks if n.id in needs.networks}, last.networks),
            subnets=_same({n: s for n, s in self._subnets.items() if n in needs.networks}, last.subnets),
            ports={port.id: port for port in self._frozen["Port"].values()} if "Port" in changed else last.ports,
            endpoints=_same(self._endpoints.publish(needs.networks), last.endpoints),
            hosts={host.name: host for host in self._frozen["Host"].values()} if "Host" in changed else last.hosts,
            security_groups=_same(self._groups.chosen(needs.groups), last.security_groups),
            address_chunks=_same(self._chunks.publish(needs.owners), last.address_chunks),
            owners=_same(self._groups.called(needs.owners), last.owners),
            metadata_service=next(iter(self._frozen["Metadata_Service"].values()), None),
            problems=problems if problems != last.problems else last.problems,
        )
        return True

    def _problems(self) -> Iterator[Problem]:
        for table, faults in self._faults.items():
            for uuid, fault in faults.items():
                yield self._problem(table, str(uuid), fault)
        for table, doubtful in self._doubts.items():
            for uuid, doubts in doubtful.items():
                name = getattr(self._frozen[table].get(uuid), "name", "")
                yield from service_rows.problems(table.lower(), str(uuid), name, doubts)
        for subnets in (self._subnets.get(network, ()) for network in self._needs.networks):
            yield from service_rows.lacking_servers(subnets)
        for row in self._frozen["Address_Chunk"].values():
            if row.not_addresses:
                yield self._strange_addresses(row)
        ports: dict[Any, Port] = self._frozen["Port"]
        for port in ports.values():
            for group in port.security_groups:
                if group not in self._groups:
                    text = f"security group {group} is not there, or cannot be read; it allows nothing"
                    yield Problem(f"port:{port.id}", "security_groups", f"port {port.name}: {text}", Actor.CLOUD)

    def _problem(self, table: str, uuid: str, fault: _Fault) -> Problem:
        noun = table.lower()
        object_id, name = f"{noun}:{uuid}", f"{noun.replace('_', ' ')} {fault.name or uuid}"
        if table == "Security_Group_Rule" and fault.group:
            object_id = f"security_group:{fault.group}"
            name = f"{self._groups.text(fault.group)}, rule {uuid}"
        left_out = "; the rule is left out" if table == "Security_Group_Rule" else ""
        return Problem(object_id, fault.error.column, f"{name}: {fault.error}{left_out}", fault.error.actor)

    def _strange_addresses(self, row: filter_rows.ChunkRow) -> Problem:
        owner, strange = row.chunk.owner, row.not_addresses
        wrong = f" and {len(strange) - 1} more are no addresses" if len(strange) > 1 else " is no address"
        text = f"{self._groups.text(owner)}: {strange[0]!r}{wrong}; left out"
        return Problem(f"members:{owner}", "addresses", text, Actor.CLOUD)

    def _revision(self) -> tuple[str, int]:
        for row in self._idl.tables["Global"].rows.values():
            return str(rows.one(row, "generation")), rows.one(row, "revision")
        return "", 0


def _value(row: Any, column: str) -> str:
    """Return a column as text, "" if the table has none like it or it is empty."""
    return str(rows.optional(row, column) or "") if column in row._data else ""


def _same(new: dict[_Key, _Noun], old: Mapping[_Key, _Noun]) -> Mapping[_Key, _Noun]:
    """Return *old* when it holds the very objects of *new*, so that nobody has to look further."""
    if len(new) == len(old) and all(old.get(key) is value for key, value in new.items()):
        return old
    return new
