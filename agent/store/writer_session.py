# SPDX-License-Identifier: Apache-2.0
"""One writing call at work: the rows as they are, plus what the call has changed so far.

A ``View`` reads a replica (hold its lock); a ``Session`` is a view inside a
transaction.  The IDL shows changed and inserted rows at once, so a later step of
the same call sees what an earlier one did.  A session is thrown away when the server
refuses, and the call is built again from the rows as they are then.
"""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from ovs.db import idl as ovs_idl

from agent.store import ipam
from agent.store.document import UNSET, Unset
from agent.store.records import Change
from agent.store.validate import Subject, a
from agent.store.writer_view import Row, View, atoms, scalar

Column: TypeAlias = str | int | float | bool | uuid.UUID | Row | list[Any] | dict[str, Any]
R = TypeVar("R")

_MANY_MACS = 64  # new ones in one transaction, for which looking at all others is worth the while
SET_KEY = "hostplane-set"  # external_ids: which set of a declarative file made the object
IMPLICIT_KEY = "hostplane-implicit"  # external_ids: what needs the object made it, and takes it away again


def keep_our_ids(row: Row, ids: Mapping[str, str]) -> dict[str, str]:
    """Return *ids* as the new ``external_ids`` of *row*, with those that are ours left in."""
    row.verify("external_ids")
    return {**ids, **{key: value for key, value in row.external_ids.items() if key.startswith("hostplane-")}}


def given_columns(**values: Column | Unset) -> dict[str, Column]:
    """Return the values that are given."""
    return {column: value for column, value in values.items() if not isinstance(value, Unset)}


def refuse_changes(subject: Subject, columns: Mapping[str, tuple[object, object]]) -> None:
    """Raise InputError if one of *columns*, name to (given value, present value), would change."""
    for column, (wanted, present) in columns.items():
        if wanted is not UNSET and wanted != present:
            shown = "none" if present is None else present
            raise subject.error(f"{column} is {shown} and cannot be changed: delete it and make another one")


class Session(View):
    """A view in a transaction.

    ``attempt`` counts the earlier builds of this call that the server refused, so
    that a lost race is not lost again with the same candidate.  The ``touched`` sets
    collect what the call concerns: ids of networks, ports, security groups and routers,
    names of hosts.  ``made_besides`` are objects that nobody asked for by name.
    """

    def __init__(self, tables: Mapping[str, Any], txn: ovs_idl.Transaction, attempt: int, rng: random.Random) -> None:
        super().__init__(tables)
        self.txn = txn
        self.attempt = attempt
        self.rng = rng
        self.changed = False
        self.touched_networks: set[str] = set()
        self.touched_ports: set[str] = set()
        self.touched_hosts: set[str] = set()
        self.touched_groups: set[str] = set()
        self.touched_routers: set[str] = set()
        self.made_besides: list[Change] = []
        self._hidden: set[uuid.UUID] = set()
        self._used: dict[uuid.UUID, set[str]] | None = None
        self._reserved: set[tuple[uuid.UUID, str]] = set()
        self._given_macs: set[str] = set()
        self._contested: set[tuple[uuid.UUID, str]] = set()
        self._made: dict[Hashable, Any] = {}
        self._pools: dict[uuid.UUID, ipam.AddressPool] = {}
        self._guarded: set[tuple[str, str, uuid.UUID | str]] = set()
        self._checks: list[Callable[[], None]] = []
        self._last_writes: list[Callable[[], None]] = []

    def new_mac(self) -> str:
        """Return a random MAC address that this transaction has not given out yet.

        Against those that are there already, and other writers, the endpoint's index
        holds: a clash is built again.  Among thousands in one transaction there is
        nearly always one, so these clash neither with each other nor with those there.
        """
        if self.attempt or len(self._given_macs) >= _MANY_MACS:
            self.once("macs in use", lambda: self._given_macs.update(scalar(e, "mac") for e in self.rows("Endpoint")))
        while (mac := ipam.random_mac(self.rng)) in self._given_macs:
            pass
        self._given_macs.add(mac)
        return mac

    def insert(self, table: str, row_id: uuid.UUID | None = None, **columns: Column) -> Row:
        """Insert a row; its id is final, and is a new one if none is given."""
        row = self.txn.insert(self.tables[table], new_uuid=row_id or uuid.uuid4(), persist_uuid=True)
        for column, value in columns.items():
            setattr(row, column, value)
        self.changed = True
        self._remember(row, gone=False)
        return row

    def update(self, row: Row, **columns: Column) -> bool:
        """Write the columns that differ; tell whether any did."""
        different = {column: value for column, value in columns.items() if _differs(row, column, value)}
        searched = row.uuid not in self._hidden and self._is_searched(row._table.name, different)
        if searched:
            self._remember(row, gone=True)
        for column, value in different.items():
            setattr(row, column, value)
        if searched:
            self._remember(row, gone=False)
        self.changed = self.changed or bool(different)
        return bool(different)

    def _visible(self, table: str) -> Iterable[Row]:
        return (row for row in self.rows(table) if row.uuid not in self._hidden)

    def hide(self, row: Row) -> None:
        """Let searches no longer find *row*, which is going to be deleted in this session."""
        self._remember(row, gone=True)
        self._hidden.add(row.uuid)

    def delete(self, row: Row, *owned: Row) -> None:
        """Delete a root row; what only it refers to goes with it.

        The server collects unreferenced rows only after it has checked that nothing
        refers to a deleted one.  So *owned* rows that refer to what may be deleted in
        this transaction too have to be deleted by name.
        """
        if row.uuid not in self._hidden:
            self._remember(row, gone=True)
        for part in owned:
            where = [["_uuid", "==", ["uuid", str(part.uuid)]]]
            self.txn.add_op({"op": "delete", "table": part._table.name, "where": where})
        row.delete()
        self.changed = True

    def refer(self, row: Row, column: str, new: Iterable[Row], gone: Iterable[Row]) -> None:
        """Add references to a set and take others away, whatever other writers add at the same time.

        Rows of *gone* that nothing else refers to are deleted with that.
        """
        if row._data is None:  # made in this transaction
            left = set(gone)
            self.update(row, **{column: [*(r for r in getattr(row, column) if r not in left), *new]})
            return
        for added in new:
            row.addvalue(column, added.uuid)
            self.changed = True
        for removed in gone:
            row.delvalue(column, removed.uuid)
            removed.delete()
            self.changed = True

    def touch(self, network: Row) -> None:
        """Note that *network* is concerned."""
        self.touched_networks.add(str(network.uuid))

    def claim(self, kind: str, row: Row, name: str, subject: Subject) -> None:
        """Claim *name* for *row* against all others of its kind; raise InputError if it is taken.

        Between writers the index of ``Name`` decides; here the message is made.
        """
        others = [other for other in self.named(kind, name) if other.uuid != row.uuid and other.name_claim]
        if others:
            raise subject.error(f"there is {a(kind)} with this name already ({others[0].uuid})")
        self.update(row, name_claim=[self.insert("Name", kind=kind, name=name)])

    def guard(self, table: str, network: Row) -> None:
        """Let the transaction fail unless *network* has exactly the rows of *table* that this session knows.

        For what no index can hold, as that prefixes must not overlap: another writer
        may add a row before we commit, and then this call is built again.
        """
        self.guard_users(table, "network", network)

    def guard_users(self, table: str, column: str, row: Row) -> None:
        """Let the transaction fail unless *column* of exactly those rows of *table* refers to *row* that we know."""
        if row._data is not None:  # else it is made in this transaction: nobody else knows it
            # That of a device, which may be a thing outside of the store, is a text.
            self._guarded.add((table, column, str(row.uuid) if column == "device_id" else row.uuid))

    def _add_guards(self) -> None:
        for table, column, target in sorted(self._guarded, key=str):
            value = target if isinstance(target, str) else ["uuid", str(target)]
            self._wait_for(table, [column, "includes", value], self.referring(table, column, target))

    def guard_unused(self, table: str, column: str, row: Row) -> None:
        """Let the transaction fail if another writer has made a row of *table* refer to *row* in a set column."""
        self._wait_for(table, [column, "includes", ["uuid", str(row.uuid)]], ())

    def _wait_for(self, table: str, condition: list[Any], rows: Iterable[Row]) -> None:
        # Raw operations run at the end of the transaction, on what it has made of the rows.
        self.txn.add_op(
            {
                "op": "wait",
                "timeout": 0,
                "table": table,
                "where": [condition],
                "columns": ["_uuid"],
                "until": "==",
                "rows": [{"_uuid": ["uuid", str(row.uuid)]} for row in rows],
            }
        )

    def verify(self, row: Row, *columns: str) -> None:
        """Let the transaction fail if another writer has changed *columns* or deleted *row*, written to here or not."""
        for column in columns:
            row.verify(column)
        if row._prereqs:
            self.txn._txn_rows[row.uuid] = row  # of the others the IDL forgets what is to be verified

    def used_addresses(self, network: Row) -> set[str]:
        """Return the addresses that are in use on *network*, this session's own included; grows with ``pool``."""
        if self._used is None:
            self._used = defaultdict(set)
            for row in self.rows("IP_Allocation"):
                self._used[scalar(row, "network")].add(scalar(row, "address"))
        return self._used[network.uuid]

    def want_address(self, network: Row, address: str, *, reserving: bool = False) -> None:
        """Note that one certain address is wished for: nobody else gets it by chance.

        *reserving* tells that the port which wishes it comes later in this call.
        """
        used, key = self.used_addresses(network), (network.uuid, address)
        if address in used and (reserving or key not in self._reserved):
            self._contested.add(key)
        used.add(address)
        if reserving:
            self._reserved.add(key)

    def is_contested(self, network: Row, address: str) -> bool:
        """Tell whether a wished address was in use already: it may be free when all is written, or not."""
        return (network.uuid, address) in self._contested

    def once(self, key: Hashable, make: Callable[[], R]) -> R:
        """Return what *make* returned when it was first asked for under *key* in this session."""
        if key not in self._made:
            self._made[key] = make()
        made: R = self._made[key]
        return made

    def pool(self, subnet: Row) -> ipam.AddressPool:
        """Return the free addresses of *subnet*."""
        if subnet.uuid not in self._pools:
            used = self.used_addresses(subnet.network)
            self._pools[subnet.uuid] = ipam.AddressPool(
                ipam.network(subnet.cidr), subnet.allocation_pools, used, self.attempt, self.rng
            )
        return self._pools[subnet.uuid]

    def check_later(self, check: Callable[[], None]) -> None:
        """Run *check* when everything is written: a file may give one port what it takes from another.

        Checks may keep indexes with ``once``, because nothing changes any more.
        """
        self._checks.append(check)

    def write_last(self, write: Callable[[], None]) -> None:
        """Run *write* when all else is written: it derives rows from what the others say then."""
        self._last_writes.append(write)

    def finish(self) -> None:
        """Run the last writes and the late checks and end the transaction with the step of the revision.

        The revision stays if nothing changed.
        """
        for write in self._last_writes:
            write()
        for check in self._checks:
            check()
        if not self.changed:
            return
        self._add_guards()
        self.make_global().increment("revision")

    def make_global(self) -> Row:
        """Return the row of ``Global``, made now if this is the first write.

        Of two first writers one fails, because the table has room for one row.
        """
        return self.global_row or self.insert("Global", generation=uuid.uuid4(), revision=0, options={})


def _differs(row: Row, column: str, new: Any) -> bool:
    if isinstance(new, list) and (row._data is not None or column in row._changes):
        # By id: the attribute leaves out what is deleted in this session, and a reference to it must not stay.
        wanted: list[Any] = [getattr(value, "uuid", value) for value in new]
        return sorted(atoms(row, column)) != sorted(wanted)
    return bool(getattr(row, column) != new)
