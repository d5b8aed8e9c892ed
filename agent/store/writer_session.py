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

from agent.core.errors import InputError
from agent.store import ipam
from agent.store.document import UNSET, Unset
from agent.store.validate import Subject, is_uuid

Row: TypeAlias = ovs_idl.Row
Column: TypeAlias = str | int | bool | uuid.UUID | Row | list[Any] | dict[str, Any]
R = TypeVar("R")

TABLES: Mapping[str, str] = {"network": "Network", "subnet": "Subnet", "port": "Port", "host": "Host"}
SET_KEY = "hostplane-set"  # external_ids: which set of a declarative file made the object
_NAMES_SHOWN = 10


def optional(values: list[Any]) -> Any:
    """Return what an optional column holds, None if it is empty."""
    return values[0] if values else None


def scalar(row: Row, column: str) -> Any:
    """Return a column of exactly one value, a reference as the id of its row; for searches through whole tables.

    The attribute does the same in ten times the time, because it looks references up.
    """
    datum = row._changes.get(column)
    if datum is None:
        datum = row._data[column]
    return next(iter(datum.values)).value


def enumerate_names(names: Iterable[str]) -> str:
    """Return *names* for an error message: sorted, and not all of them if they are many."""
    ordered = sorted(names)
    more = len(ordered) - _NAMES_SHOWN
    return ", ".join(ordered[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def label(row: Row) -> str:
    """Return how people call an object: its name, or its id if it has none."""
    return row.name or str(row.uuid)


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


class View:
    """Read the rows of a replica; what takes a search is searched once and remembered."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self.tables = tables
        self._names: dict[str, dict[str, list[Row]]] = {}
        self._members: dict[str, dict[uuid.UUID, list[Row]]] = {}
        self._port_status: dict[tuple[str, str], Row] | None = None

    def rows(self, table: str) -> list[Row]:
        """Return all rows of *table*."""
        return list(self.tables[table].rows.values())

    def _visible(self, table: str) -> Iterable[Row]:
        """Return the rows that searches may find."""
        return self.rows(table)

    def row(self, table: str, row_id: uuid.UUID | str) -> Row | None:
        """Return the row with this id, None if there is none."""
        key = row_id if isinstance(row_id, uuid.UUID) else uuid.UUID(row_id)
        return self.tables[table].rows.get(key)

    def named(self, kind: str, name: str) -> list[Row]:
        """Return the objects of *kind* that are called *name*."""
        return list(self._by_name(kind).get(name, ()))

    def _by_name(self, kind: str) -> dict[str, list[Row]]:
        if kind not in self._names:
            found: dict[str, list[Row]] = defaultdict(list)
            for row in self._visible(TABLES[kind]):
                found[scalar(row, "name")].append(row)
            self._names[kind] = found
        return self._names[kind]

    def find(self, kind: str, ref: str, subject: Subject | None = None) -> Row:
        """Return the object of *kind* with this id or name.

        Raises InputError (about *subject*, which refers to it) when there is none, or
        when several have the name: it lists their ids then.
        """
        if is_uuid(ref):
            row = self.row(TABLES[kind], ref)
            if row is not None:
                return row
        rows = self.named(kind, ref)
        if len(rows) == 1:
            return rows[0]
        if rows:
            ids = ", ".join(sorted(str(row.uuid) for row in rows))
            text = f"{len(rows)} {kind}s are called {ref}: say which one by its id ({ids})"
        else:
            text = f"there is no {kind} {ref}" if ref else f"which {kind}? An empty name was given"
        raise subject.error(text) if subject is not None else InputError(text)

    def subnets(self, network: Row) -> list[Row]:
        """Return the subnets of *network*, IPv4 first, then by name and prefix."""
        return sorted(
            self._of_network("Subnet").get(network.uuid, ()), key=lambda row: (":" in row.cidr, row.name, row.cidr)
        )

    def ports(self, network: Row) -> list[Row]:
        """Return the ports of *network*."""
        return list(self._of_network("Port").get(network.uuid, ()))

    def _of_network(self, table: str) -> dict[uuid.UUID, list[Row]]:
        if table not in self._members:
            found: dict[uuid.UUID, list[Row]] = defaultdict(list)
            for row in self._visible(table):
                found[scalar(row, "network")].append(row)
            self._members[table] = found
        return self._members[table]

    def port_status(self, port_id: str, host: str) -> Row | None:
        """Return what *host* says of the port; a status of another host than the port's does not count."""
        if self._port_status is None:
            reports = self.rows("Port_Status")
            self._port_status = {(scalar(row, "port"), scalar(row, "host")): row for row in reports}
        return self._port_status.get((port_id, host))

    def host_status(self, name: str) -> Row | None:
        """Return what the agent of host *name* reports, None before its first report."""
        return next((row for row in self.rows("Host_Status") if row.host == name), None)

    @property
    def global_row(self) -> Row | None:
        """The one row of ``Global``, None before the first write."""
        return next(iter(self.tables["Global"].rows.values()), None)

    @property
    def options(self) -> Mapping[str, str]:
        """The settings of the whole store."""
        row = self.global_row
        return {} if row is None else row.options

    def _remember(self, row: Row, gone: bool) -> None:
        """Keep the searches that were made true after a row came or went."""
        table = row._table.name
        kind = next((kind for kind, name in TABLES.items() if name == table), None)
        searches: list[tuple[dict[Any, list[Row]] | None, Any]] = []
        if kind is not None:
            searches.append((self._names.get(kind), row.name))
        if table in ("Subnet", "Port"):
            searches.append((self._members.get(table), row.network.uuid))
        for found, key in searches:
            if found is not None and gone:
                found[key].remove(row)
            elif found is not None:
                found[key].append(row)


class Session(View):
    """A view in a transaction.

    ``attempt`` counts the earlier builds of this call that the server refused, so
    that a lost race is not lost again with the same candidate.  The ``touched`` sets
    collect what the call concerns: ids of networks and ports, names of hosts.
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
        self._hidden: set[uuid.UUID] = set()
        self._used: dict[uuid.UUID, set[str]] | None = None
        self._reserved: set[tuple[uuid.UUID, str]] = set()
        self._given_macs: set[str] = set()
        self._contested: set[tuple[uuid.UUID, str]] = set()
        self._made: dict[Hashable, Any] = {}
        self._pools: dict[uuid.UUID, ipam.AddressPool] = {}
        self._guarded: set[tuple[str, uuid.UUID]] = set()
        self._checks: list[Callable[[], None]] = []

    def new_mac(self) -> str:
        """Return a random MAC address that this transaction has not given out yet.

        Against those that are there already, and other writers, the endpoint's index
        holds: a clash is built again.  Among thousands in one transaction there is
        nearly always one, so these must not clash with each other.
        """
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
        different = {column: value for column, value in columns.items() if _differs(getattr(row, column), value)}
        if "name" in different:
            self._remember(row, gone=True)
        for column, value in different.items():
            setattr(row, column, value)
        if "name" in different:
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

    def touch(self, network: Row) -> None:
        """Note that *network* is concerned."""
        self.touched_networks.add(str(network.uuid))

    def claim(self, kind: str, row: Row, name: str, subject: Subject) -> None:
        """Claim *name* for *row* against all others of its kind; raise InputError if it is taken.

        Between writers the index of ``Name`` decides; here the message is made.
        """
        others = [other for other in self.named(kind, name) if other.uuid != row.uuid and other.name_claim]
        if others:
            raise subject.error(f"there is a {kind} with this name already ({others[0].uuid})")
        self.update(row, name_claim=[self.insert("Name", kind=kind, name=name)])

    def guard(self, table: str, network: Row) -> None:
        """Let the transaction fail unless *network* has exactly the rows of *table* that this session knows.

        For what no index can hold, as that prefixes must not overlap: another writer
        may add a row before we commit, and then this call is built again.
        """
        if network._data is not None:  # else it is made in this transaction: nobody else knows it
            self._guarded.add((table, network.uuid))

    def _add_guards(self) -> None:
        for table, network_id in sorted(self._guarded):
            members = self._of_network(table).get(network_id, ())
            # Raw operations run at the end of the transaction, on what it has made of the rows.
            self.txn.add_op(
                {
                    "op": "wait",
                    "timeout": 0,
                    "table": table,
                    "where": [["network", "==", ["uuid", str(network_id)]]],
                    "columns": ["_uuid"],
                    "until": "==",
                    "rows": [{"_uuid": ["uuid", str(row.uuid)]} for row in members],
                }
            )

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

    def finish(self) -> None:
        """Run the late checks and end the transaction with the step of the revision, if anything changed."""
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


def _differs(old: Any, new: Any) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        return sorted(old) != sorted(new)
    return bool(old != new)
