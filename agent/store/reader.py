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
from typing import Any, TypeVar

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
from agent.store.frozen import Fault, FrozenRows
from agent.store.gathered import ByOwner, Groups
from agent.store.gathered_routers import Routers
from agent.store.gathered_translations import Translations
from agent.store.kinds import COLUMNS
from agent.store.router_rows import RouterPort

_Key = TypeVar("_Key")
_Noun = TypeVar("_Noun")


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
        self._rows = FrozenRows(self._idl, host, self._file)
        self._subnets: dict[NetworkId, tuple[Subnet, ...]] = {}
        self._endpoints: ByOwner[NetworkId, EndpointId, Endpoint] = ByOwner()
        self._groups = Groups()
        self._chunks: ByOwner[OwnerId, str, AddressChunk] = ByOwner()
        self._routers = Routers(host)
        self._translations = Translations()
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
        self._rows.freeze(self._idl.take_noted())
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

    def _file(self, kind: str, before: Any, after: Any) -> None:
        """Keep what is put together from several rows."""
        if kind == "Endpoint":
            if before is not None:
                self._endpoints.remove(before.network, before.id, before)
            if after is not None:
                self._endpoints.put(after.network, after.id, after)
        elif kind == "Floating_IP":
            self._translations.file(before, after)
        elif kind == "Port_Forwarding":
            self._translations.file_forwarding(before, after)
        elif kind == "Subnet":
            for network in {subnet.network for subnet in (before, after) if subnet is not None}:
                members = [s for s in self._rows["Subnet"].values() if s.network == network]
                self._subnets[network] = tuple(sorted(members, key=lambda s: s.id))
                if not members:
                    del self._subnets[network]
                self._routers.note_subnets(network)
                self._translations.note_subnets(network, self._subnets.get(network, ()))
        elif kind == "Address_Chunk":
            if before is not None:
                self._chunks.remove(before.chunk.owner, before.chunk.chunk, before.chunk)
            if after is not None:
                self._chunks.put(after.chunk.owner, after.chunk.chunk, after.chunk)
        elif kind == "Address_Group":
            if after is not None:
                self._groups.file_owner(after)
            else:
                self._groups.drop_owner(before.id)
        elif kind == "Router_Port":
            ports = [port if isinstance(port, RouterPort) else None for port in (before, after)]
            self._routers.file_port(*ports)
        else:
            self._needs_stale = True
            if kind == "Security_Group":
                self._groups.file(before, after)
            elif kind == "Security_Group_Rule":
                self._groups.file_rule(before, after)
            elif kind == "Router":
                self._routers.file(before, after)

    def _needed(self) -> Needs:
        """Return what the ports and routers need, as far as the rows that have come tell."""
        if self._needs_stale:
            self._needs_stale = False
            self._groups.settle()
            ports = self._rows["Port"].values()
            groups = frozenset(group for port in ports for group in port.security_groups)
            own = frozenset(port.network for port in ports)
            physical = frozenset(net.id for net in self._rows["Network"].values() if net.type.is_physical)
            self._needs = Needs(own, groups, self._groups.owners(groups), self._routers.needs(own, physical))
        return self._needs

    def _publish(self, needs: Needs) -> bool:
        """Publish a new snapshot; return False when it would be the one published already."""
        last = self._snapshot
        generation, revision = self._revision()
        changed = self._rows.take_changed()
        if last.in_sync and not changed and (generation, revision) == (last.generation, last.revision):
            return False
        whole = needs.routers.whole
        self._translations.settle(self._routers.settle(needs.routers, self._subnets), whole)
        wanted = needs.networks
        networks = self._rows["Network"].values()
        problems = tuple(sorted(self._problems(), key=str)) if changed else last.problems
        self._snapshot = HostSnapshot(
            host=self._host,
            generation=generation,
            revision=revision,
            in_sync=True,
            networks=_same({n.id: n for n in networks if n.id in wanted}, last.networks),
            subnets=_same({n: s for n, s in self._subnets.items() if n in wanted}, last.subnets),
            ports={port.id: port for port in self._rows["Port"].values()} if "Port" in changed else last.ports,
            endpoints=_same(self._endpoints.publish(wanted), last.endpoints),
            hosts={host.name: host for host in self._rows["Host"].values()} if "Host" in changed else last.hosts,
            security_groups=_same(self._groups.chosen(needs.groups), last.security_groups),
            address_chunks=_same(self._chunks.publish(needs.owners), last.address_chunks),
            owners=_same(self._groups.called(needs.owners), last.owners),
            routers=_same(self._routers.chosen(), last.routers),
            floating_ips=_same(self._translations.floating_ips(), last.floating_ips),
            port_forwardings=_same(self._translations.port_forwardings(), last.port_forwardings),
            metadata_service=next(iter(self._rows["Metadata_Service"].values()), None),
            problems=problems if problems != last.problems else last.problems,
        )
        return True

    def _problems(self) -> Iterator[Problem]:
        for kind, uuid, fault in self._rows.faults():
            yield self._problem(kind, str(uuid), fault)
        for kind, uuid, doubts in self._rows.doubts():
            name = getattr(self._rows[kind].get(uuid), "name", "")
            yield from service_rows.problems(kind.lower(), str(uuid), name, doubts)
        for subnets in (self._subnets.get(network, ()) for network in self._needs.own):
            yield from service_rows.lacking_servers(subnets)
        for row in self._rows["Address_Chunk"].values():
            if row.not_addresses:
                yield self._strange_addresses(row)
        ports: Mapping[Any, Port] = self._rows["Port"]
        for port in ports.values():
            for group in port.security_groups:
                if group not in self._groups:
                    text = f"security group {group} is not there, or cannot be read; it allows nothing"
                    yield Problem(f"port:{port.id}", "security_groups", f"port {port.name}: {text}", Actor.CLOUD)
        yield from self._routers.problems()
        yield from self._translations.problems()

    def _problem(self, kind: str, uuid: str, fault: Fault) -> Problem:
        noun = kind.lower()
        object_id, name, left_out = f"{noun}:{uuid}", f"{noun.replace('_', ' ')} {fault.name or uuid}", ""
        _, _, owner = fault.whose.partition(":")
        if kind == "Security_Group_Rule" and owner:
            object_id, left_out = fault.whose, "; the rule is left out"
            name = f"{self._groups.text(owner)}, rule {uuid}"
        elif kind == "Router_Port":
            object_id, left_out = fault.whose, "; left out"
            name = f"{self._routers.text(owner)}: port {fault.name or uuid}"
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


def _same(new: dict[_Key, _Noun], old: Mapping[_Key, _Noun]) -> Mapping[_Key, _Noun]:
    """Return *old* when it holds the very objects of *new*, so that nobody has to look further."""
    if len(new) == len(old) and all(old.get(key) is value for key, value in new.items()):
        return old
    return new
