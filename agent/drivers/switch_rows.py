# SPDX-License-Identifier: Apache-2.0
"""Rows of Open vSwitch's own database as frozen values.

Only the columns that we need are named here, so the schema is ours and not read
from the server: the daemon can start before Open vSwitch does, and any version of
it will do that has these columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from uuid import UUID

from ovs.db import idl as ovs_idl

from agent.core import naming

IFACE_ID = "iface-id"
DEVICE_ID = f"{naming.EXTERNAL_ID}-device"  # of a port of ours: the index of the device that it was made for
RESTORE_WAIT, RESTORE_WAIT_MARK = "flow-restore-wait", "hostplane-flow-restore-wait"

_STRING = {"type": "string"}
_INTEGER = {"type": "integer"}
_MAP = {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}}
_OPTIONAL_STRING = {"type": {"key": "string", "min": 0, "max": 1}}
_OPTIONAL_INTEGER = {"type": {"key": "integer", "min": 0, "max": 1}}
_STRINGS = {"type": {"key": "string", "min": 0, "max": "unlimited"}}


def _references(table: str, least: int) -> dict[str, object]:
    return {"type": {"key": {"type": "uuid", "refTable": table}, "min": least, "max": "unlimited"}}


SCHEMA: Mapping[str, object] = {
    "name": "Open_vSwitch",
    "version": "8.0.0",
    "tables": {
        "Open_vSwitch": {
            "isRoot": True,
            "columns": {
                "bridges": _references("Bridge", 0),
                "next_cfg": _INTEGER,
                "cur_cfg": _INTEGER,
                "other_config": _MAP,
                "external_ids": _MAP,
            },
        },
        "Bridge": {
            "columns": {
                "name": _STRING,
                "ports": _references("Port", 0),
                "datapath_type": _STRING,
                "fail_mode": _OPTIONAL_STRING,
                "protocols": _STRINGS,
                "external_ids": _MAP,
            }
        },
        "Port": {"columns": {"name": _STRING, "interfaces": _references("Interface", 1), "external_ids": _MAP}},
        "Interface": {
            "columns": {
                "name": _STRING,
                "type": _STRING,
                "options": _MAP,
                "ofport": _OPTIONAL_INTEGER,
                "error": _OPTIONAL_STRING,
                "link_state": _OPTIONAL_STRING,
                "bfd": _MAP,
                "bfd_status": _MAP,
                "external_ids": _MAP,
            }
        },
    },
}


@dataclass(frozen=True, slots=True)
class BridgeRow:
    """A row of table Bridge; ``mark`` is what makes it ours (``external_ids:hostplane``)."""

    name: str
    ports: frozenset[UUID]
    datapath_type: str
    fail_mode: str
    protocols: frozenset[str]
    external_ids: Mapping[str, str]

    @property
    def mark(self) -> str | None:
        """What makes this row ours, None if it is not."""
        return self.external_ids.get(naming.EXTERNAL_ID)


@dataclass(frozen=True, slots=True)
class PortRow:
    """A row of table Port; ``device`` is the index of the device that it was made for, "" if that is not known."""

    name: str
    interfaces: tuple[UUID, ...]
    mark: str | None
    device: str = ""


@dataclass(frozen=True, slots=True)
class InterfaceRow:
    """A row of table Interface; ``ofport`` is None without one, -1 if it could not be made.

    ``is_link_up`` and ``bfd_status`` are what the switch observes, all else is what it was told or has made.
    """

    name: str
    type: str
    options: Mapping[str, str]
    ofport: int | None
    error: str | None
    iface_id: str | None
    bfd: Mapping[str, str] = field(default_factory=dict)
    is_link_up: bool = False
    bfd_status: Mapping[str, str] = field(default_factory=dict)

    def differs_in_state_only(self, other: InterfaceRow) -> bool:
        """Tell whether the difference is in what the switch observes, if there is any."""
        return replace(self, is_link_up=other.is_link_up, bfd_status=other.bfd_status) == other


AnyRow: TypeAlias = BridgeRow | PortRow | InterfaceRow


@dataclass(frozen=True, slots=True)
class SwitchRows:
    """All rows at one moment, by their uuid."""

    bridges: Mapping[UUID, BridgeRow] = field(default_factory=dict)
    ports: Mapping[UUID, PortRow] = field(default_factory=dict)
    interfaces: Mapping[UUID, InterfaceRow] = field(default_factory=dict)

    def bridge(self, name: str) -> tuple[UUID, BridgeRow] | None:
        """Return the bridge called *name*."""
        return next(((uuid, row) for uuid, row in self.bridges.items() if row.name == name), None)

    def interfaces_of(self, bridge: BridgeRow) -> Iterator[tuple[UUID, InterfaceRow]]:
        """Yield all interfaces of *bridge*."""
        for port_uuid in bridge.ports:
            port = self.ports.get(port_uuid)
            for uuid in port.interfaces if port is not None else ():
                interface = self.interfaces.get(uuid)
                if interface is not None:
                    yield uuid, interface


def restore_wait_is_ours(row: Any) -> bool:
    """Tell whether the switch waits with forwarding for flows (``flow-restore-wait``), and because of us.

    The drop-in for ``ovs-vswitchd.service`` sets it with this mark before a start.
    """
    return RESTORE_WAIT in _map(row._data["other_config"]) and RESTORE_WAIT_MARK in _map(row._data["external_ids"])


def schema_helper() -> ovs_idl.SchemaHelper:
    """Return the IDL's view of ``SCHEMA``."""
    helper = ovs_idl.SchemaHelper(schema_json=SCHEMA)
    helper.register_all()
    return helper


# The IDL's own accessors build row objects for each reference and copies of each set
# (20 us a column); a bridge with 400 ports is read on each change, so the replica's
# values are read directly.


def freeze_bridge(row: Any) -> BridgeRow:
    """Copy a row of table Bridge."""
    columns = row._data
    return BridgeRow(
        name=_one(columns["name"]) or "",
        ports=frozenset(atom.value for atom in columns["ports"].values),
        datapath_type=_one(columns["datapath_type"]) or "",
        fail_mode=_one(columns["fail_mode"]) or "",
        protocols=frozenset(atom.value for atom in columns["protocols"].values),
        external_ids=_map(columns["external_ids"]),
    )


def freeze_port(row: Any) -> PortRow:
    """Copy a row of table Port."""
    columns = row._data
    ids = _map(columns["external_ids"])
    return PortRow(
        name=_one(columns["name"]) or "",
        interfaces=tuple(sorted(atom.value for atom in columns["interfaces"].values)),
        mark=ids.get(naming.EXTERNAL_ID),
        device=ids.get(DEVICE_ID, ""),
    )


def freeze_interface(row: Any) -> InterfaceRow:
    """Copy a row of table Interface."""
    columns = row._data
    return InterfaceRow(
        name=_one(columns["name"]) or "",
        type=_one(columns["type"]) or "",
        options=_map(columns["options"]),
        ofport=next((atom.value for atom in columns["ofport"].values), None),
        error=_one(columns["error"]),
        iface_id=_map(columns["external_ids"]).get(IFACE_ID),
        bfd=_map(columns["bfd"]),
        is_link_up=_one(columns["link_state"]) == "up",
        bfd_status=_map(columns["bfd_status"]),
    )


FREEZERS: Mapping[str, Callable[[Any], AnyRow]] = {
    "Bridge": freeze_bridge,
    "Port": freeze_port,
    "Interface": freeze_interface,
}


def _one(datum: Any) -> str | None:
    return next((atom.value for atom in datum.values), None)


def _map(datum: Any) -> dict[str, str]:
    return {key.value: value.value for key, value in datum.values.items()}
