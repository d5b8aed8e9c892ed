# SPDX-License-Identifier: Apache-2.0
"""Reading the rows of a replica: by id, by name, and by what they refer to."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from ovs.db import idl as ovs_idl

from agent.core.errors import InputError
from agent.store.validate import Subject, is_uuid, words
from agent.store.validate_rules import protocol_name

Row: TypeAlias = ovs_idl.Row

TABLES: Mapping[str, str] = {
    "network": "Network",
    "subnet": "Subnet",
    "port": "Port",
    "host": "Host",
    "security_group": "Security_Group",
    "address_group": "Address_Group",
    "router": "Router",
    "floating_ip": "Floating_IP",
    "port_forwarding": "Port_Forwarding",
    "subnet_pool": "Subnet_Pool",
    "address_scope": "Address_Scope",
}
# Columns of at most one value by which rows are searched.
_REFERENCES: Mapping[str, tuple[str, ...]] = {
    "Subnet": ("network", "subnet_pool", "address_scope"),
    "Port": ("network", "device_id"),
    "Security_Group_Rule": ("group", "remote_group", "remote_address_group"),
    "Floating_IP": ("floating_network", "router", "port"),
    "Port_Forwarding": ("router", "floating_ip", "port"),
    "Subnet_Pool": ("address_scope",),
}
_FORWARDING_NAME = ("external_ip_address", "external_port_min", "external_port_max", "protocol")
DEFAULT_GROUP = "default"  # the name of the security group that each project has
_NAMES_SHOWN = 10


def optional(values: list[Any]) -> Any:
    """Return what an optional column holds, None if it is empty."""
    return values[0] if values else None


def atoms(row: Row, column: str) -> list[Any]:
    """Return the values of a set column, references as the ids of their rows; for searches through whole tables.

    The attribute does the same in ten times the time, because it looks references up.
    Not for columns that are changed by adding and removing single values.
    """
    datum = row._changes.get(column)
    if datum is None:
        datum = row._data[column]
    return [atom.value for atom in datum.values]


def scalar(row: Row, column: str) -> Any:
    """Return a column of at most one value, None if it is empty; else as ``atoms``."""
    datum = row._changes.get(column)
    if datum is None:
        datum = row._data[column]
    for atom in datum.values:
        return atom.value
    return None


def enumerate_names(names: Iterable[str]) -> str:
    """Return *names* for an error message: sorted, and not all of them if they are many."""
    ordered = sorted(names)
    more = len(ordered) - _NAMES_SHOWN
    return ", ".join(ordered[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def name_of(row: Row) -> str:
    """Return what an object is called: a floating IP by its address, a port forwarding by what it takes of one."""
    table = row._table.name
    if table == "Floating_IP":
        return str(scalar(row, "floating_ip_address"))
    if table == "Port_Forwarding":
        return forwarding_name(*(scalar(row, column) for column in _FORWARDING_NAME))
    return str(scalar(row, "name"))


def forwarding_name(address: str, first: int, last: int, protocol: int) -> str:
    """Return ``ADDRESS:PORT/PROTOCOL`` or ``ADDRESS:FIRST-LAST/PROTOCOL``, what a port forwarding is called."""
    ports = str(first) if first == last else f"{first}-{last}"
    return f"{address}:{ports}/{protocol_name(protocol)}"


def label(row: Row) -> str:
    """Return how people call an object: its name, or its id if it has none."""
    return name_of(row) or str(row.uuid)


class View:
    """Read the rows of a replica; what takes a search is searched once and remembered."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self.tables = tables
        self._names: dict[str, dict[str, dict[uuid.UUID, Row]]] = {}
        self._referring: dict[tuple[str, str], dict[uuid.UUID | str, dict[uuid.UUID, Row]]] = {}
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
        return list(self._by_name(kind).get(name, {}).values())

    def _by_name(self, kind: str) -> dict[str, dict[uuid.UUID, Row]]:
        if kind not in self._names:
            found: dict[str, dict[uuid.UUID, Row]] = defaultdict(dict)
            has_name = "name" in self.tables[TABLES[kind]].columns  # all but a few: there may be many
            for row in self._visible(TABLES[kind]):
                found[scalar(row, "name") if has_name else name_of(row)][row.uuid] = row
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
            text = f"{len(rows)} {words(kind)}s are called {ref}: say which one by its id ({ids})"
        else:
            text = f"there is no {words(kind)} {ref}" if ref else f"which {words(kind)}? An empty name was given"
        raise subject.error(text) if subject is not None else InputError(text)

    def find_group(self, ref: str, project: str, subject: Subject | None = None) -> Row:
        """Return a security group; of several with that name the one of *project* is meant, as each has a default."""
        rows = [row for row in self.named("security_group", ref) if row.project == project]
        if len(rows) == 1 and not is_uuid(ref):
            return rows[0]
        return self.find("security_group", ref, subject)

    def find_rule(self, rule_id: str) -> Row:
        """Return the security group rule with this id; raises InputError when there is none."""
        row = self.row("Security_Group_Rule", rule_id) if is_uuid(rule_id) else None
        if row is None:
            raise InputError(f"there is no security group rule {rule_id} (rules are called by their id)")
        return row

    def default_group(self, project: str) -> Row | None:
        """Return the default security group of *project*, None if it has none yet."""
        rows = self.named("security_group", DEFAULT_GROUP)
        return next((row for row in rows if row.default_claim and row.project == project), None)

    def subnets(self, network: Row) -> list[Row]:
        """Return the subnets of *network*, IPv4 first, then by name and prefix."""
        found = self.referring("Subnet", "network", network.uuid)
        return sorted(found, key=lambda row: (":" in row.cidr, row.name, row.cidr))

    def ports(self, network: Row) -> list[Row]:
        """Return the ports of *network*."""
        return self.referring("Port", "network", network.uuid)

    def rules(self, group: Row) -> list[Row]:
        """Return the rules of a security group."""
        return self.referring("Security_Group_Rule", "group", group.uuid)

    def referring(self, table: str, column: str, target: uuid.UUID | str) -> list[Row]:
        """Return the rows of *table* whose *column* refers to *target* (an id, or a text)."""
        key = (table, column)
        if key not in self._referring:
            found: dict[uuid.UUID | str, dict[uuid.UUID, Row]] = defaultdict(dict)
            for row in self._visible(table):
                target_id = scalar(row, column)
                if target_id is not None:
                    found[target_id][row.uuid] = row
            self._referring[key] = found
        return list(self._referring[key].get(target, {}).values())

    def router_status(self, router_id: str) -> list[Row]:
        """Return what hosts say of a router."""
        return [row for row in self.rows("Router_Status") if scalar(row, "router") == router_id]

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

    @staticmethod
    def _is_searched(table: str, columns: Iterable[str]) -> bool:
        """Tell whether rows of *table* are searched by any of *columns*."""
        return not {"name", *_REFERENCES.get(table, ())}.isdisjoint(columns)

    def _remember(self, row: Row, gone: bool) -> None:
        """Keep the searches that were made true after a row came or went."""
        table = row._table.name
        kind = next((kind for kind, name in TABLES.items() if name == table), None)
        searches: list[tuple[dict[Any, dict[uuid.UUID, Row]] | None, Any]] = []
        if kind is not None:
            searches.append((self._names.get(kind), name_of(row)))
        columns = _REFERENCES.get(table, ())
        searches += [(self._referring.get((table, column)), scalar(row, column)) for column in columns]
        for found, key in searches:
            if found is None or key is None:
                continue
            if gone:
                del found[key][row.uuid]
            else:
                found[key][row.uuid] = row
