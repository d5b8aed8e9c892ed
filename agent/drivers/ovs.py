# SPDX-License-Identifier: Apache-2.0
"""Driver ``ovs``: bridges and ports in Open vSwitch's database, and allocated numbers.

Keys are ``bridge/<name>``, ``port/<name>`` and ``allocation/<kind>/<object>``.  A
row is ours if its ``external_ids`` have the key ``hostplane``.  An integration
bridge that somebody else made (the operator, Nova, os-vif) is adopted: marked,
made secure, used, and never deleted.  Ports that say which port of the cloud they
are (``iface-id``) belong to whoever plugged them, whatever their marks.

One transaction per pass.  It waits for the database's commit and not for
``ovs-vswitchd``: an OpenFlow number appears in the switch's view when there is one.

One thing needs more.  The userspace datapath reads a device through a packet socket,
which it keeps when the device is deleted; the one that is made anew under the same name
it never opens, not even when the port's row is replaced in one transaction.  So a port of
ours knows the index of the device that it was made for, and when the device is another
one the port is taken away, and added only after ``ovs-vswitchd`` has closed the old one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from ovs.db import idl as ovs_idl

from agent.core import naming
from agent.core.errors import Actor, ApplyError
from agent.core.items import OvsBridge, OvsPort
from agent.core.openflow import OPENFLOW_VERSION
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.switch import LocalSwitch, Tables
from agent.drivers.switch_rows import DEVICE_ID, BridgeRow, PortRow, SwitchRows

COMMIT_SECONDS = 10.0  # for the database to answer; a third of the unit's WatchdogSec
CLOSE_SECONDS = 1.0  # for ovs-vswitchd to close a device, before others have their turn
MADE, ADOPTED = "made", "adopted"  # marks of bridges
_BRIDGE, _PORT, _ALLOCATION = "bridge/", "port/", "allocation/"
_ANOTHER_DEVICE: Final = (("device", "was made anew since"),)  # what is found in place of the options


class OperatorError(ApplyError):
    """Something on the host is not as the operator has to provide it."""

    actor = Actor.OPERATOR


class OvsDriver:
    """The database of the local switch.

    *datapath_type* is that of the configuration; empty means that any will do, so
    that of an adopted bridge is then reported as empty too.
    """

    name = "ovs"

    def __init__(self, switch: LocalSwitch, datapath_type: str = "") -> None:
        self._switch = switch
        self._datapath_type = datapath_type
        self._closing: dict[Key, int] = {}  # ports whose devices ovs-vswitchd still has, until it is at that number

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read what is ours from the replica, which holds at least all that we have committed.

        Raises ApplyError while the database has not been read yet.
        """
        if not self._switch.view().connected:
            raise ApplyError("Open vSwitch's database has not answered yet")
        found = observe_rows(self._switch.rows(), self._datapath_type)
        return found if keys is None else {key: found[key] for key in keys if key in found}

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta* as one transaction; a key that cannot be written is left out of it.

        Raises AgentError when the database is away, refuses or does not answer.
        """
        if not self._switch.is_connected():
            raise ApplyError("Open vSwitch's database is away")  # without waiting for it
        open_still = self._close_devices(delta)
        failed: dict[Key, Exception] = {}

        def build(txn: ovs_idl.Transaction, tables: Tables, rows: SwitchRows) -> None:
            failed.clear()  # the server may have asked to try again
            failed.update(_Writer(txn, tables, rows).write(delta, open_still))

        self._switch.transact(build, COMMIT_SECONDS)
        return failed

    def _close_devices(self, delta: Delta) -> dict[Key, Exception]:
        """Have devices closed that were made anew since; return the ports of *delta* for which that is not done yet."""
        rows = self._switch.rows()
        written = {*delta.creates, *delta.updates}
        stale = {
            _PORT + port.name
            for port in rows.ports.values()
            if _PORT + port.name in written and _is_ours(rows, port) and _is_of_another_device(port, device_index)
        }
        if stale:

            def build(txn: ovs_idl.Transaction, tables: Tables, rows: SwitchRows) -> None:
                _Writer(txn, tables, rows).write(Delta(deletes=dict.fromkeys(stale, "")), {})

            number = self._switch.transact_counted(build, COMMIT_SECONDS)
            self._closing.update(dict.fromkeys(stale, number))
        waits = {key: number for key, number in self._closing.items() if key in written}
        if waits and not self._switch.wait_configured(max(waits.values()), CLOSE_SECONDS):
            return {key: ApplyError(f"{key}: ovs-vswitchd still has the device that was deleted") for key in waits}
        for key in waits:
            del self._closing[key]
        return {}


def device_index(name: str) -> str:
    """Return the index of a device of this host, "" if there is none."""
    try:
        return str(socket.if_nametoindex(name))
    except OSError:
        return ""


def observe_rows(
    rows: SwitchRows, datapath_type: str, index_of: Callable[[str], str] = device_index
) -> dict[Key, Value]:
    """Return what is ours in *rows*."""
    items: dict[Key, Value] = {}
    owners: dict[UUID, str] = {}  # port -> name of its bridge
    for bridge in rows.bridges.values():
        owners.update(dict.fromkeys(bridge.ports, bridge.name))
        if bridge.mark is not None:
            shown = bridge.datapath_type if datapath_type else ""
            speaks = not bridge.protocols or OPENFLOW_VERSION in bridge.protocols
            items[_BRIDGE + bridge.name] = OvsBridge(bridge.name, shown, bridge.fail_mode, speaks)
        if bridge.name == naming.INTEGRATION_BRIDGE:
            items.update(_allocations(bridge))
    for uuid, port in rows.ports.items():
        if _is_ours(rows, port):
            interface = rows.interfaces[port.interfaces[0]]
            options = tuple(sorted(interface.options.items()))
            if _is_of_another_device(port, index_of):
                options = _ANOTHER_DEVICE
            bfd = tuple(sorted(interface.bfd.items()))
            items[_PORT + port.name] = OvsPort(port.name, owners.get(uuid, ""), interface.type, options, bfd)
    return items


def _is_ours(rows: SwitchRows, port: PortRow) -> bool:
    """Tell whether this driver made *port*: marked, one interface, and nobody's plug."""
    interfaces = [rows.interfaces.get(uuid) for uuid in port.interfaces] if port.mark is not None else []
    return len(interfaces) == 1 and interfaces[0] is not None and interfaces[0].iface_id is None


def _is_of_another_device(port: PortRow, index_of: Callable[[str], str]) -> bool:
    """Tell whether the device of *port* is not the one that it was made for; one that is not there will come."""
    return bool(port.device) and index_of(port.name) not in ("", port.device)


def _allocations(bridge: BridgeRow) -> Iterable[tuple[Key, Value]]:
    for name, number in bridge.external_ids.items():
        owner, _, claim = name.partition(":")
        kind, found, object_id = claim.partition(":")
        if owner == naming.EXTERNAL_ID and found:
            yield naming.allocation_key(kind, object_id), number


class _Writer:
    """Fill in one transaction.  Lives for one attempt, on the IDL's thread."""

    def __init__(self, txn: ovs_idl.Transaction, tables: Tables, rows: SwitchRows) -> None:
        self._txn = txn
        self._tables = tables
        self._rows = rows
        self._bridges = {row.name: tables["Bridge"].rows[uuid] for uuid, row in rows.bridges.items()}
        self._old_bridges = {row.name: row for row in rows.bridges.values()}
        self._old_ports = {row.name: (uuid, row) for uuid, row in rows.ports.items()}
        self._bridge_of = {port: row.name for row in rows.bridges.values() for port in row.ports}
        self._new_ids: dict[str, dict[str, str]] = {}  # external_ids of bridges that this transaction makes

    def write(self, delta: Delta, kept_back: Mapping[Key, Exception]) -> dict[Key, Exception]:
        """Write all of *delta* that can be written; return the rest, *kept_back* included."""
        failed = dict(kept_back)
        writes = {**delta.creates, **{key: new for key, (_, new) in delta.updates.items()}}
        for key in kept_back:
            del writes[key]
        # Bridges first: ports and numbers of the same transaction go onto them.
        for key in sorted(writes, key=lambda key: not key.startswith(_BRIDGE)):
            try:
                self._write_one(key, writes[key], delta.owners[key])
            except ApplyError as err:
                failed[key] = err
        for key in sorted(delta.deletes, key=lambda key: key.startswith(_BRIDGE)):
            self._delete_one(key)
        for name, ids in self._new_ids.items():
            self._bridges[name].external_ids = ids
        return failed

    def _write_one(self, key: Key, value: Value, owner: ObjectId) -> None:
        match value:
            case OvsBridge():
                self._write_bridge(value)
            case OvsPort():
                self._write_port(value, owner)
            case str():
                self._set_id(naming.INTEGRATION_BRIDGE, _id_of(key), value)
            case _:
                raise AssertionError(f"driver ovs cannot hold {key}")

    def _write_bridge(self, want: OvsBridge) -> None:
        old = self._old_bridges.get(want.name)
        if old is None:
            self._make_bridge(want)
            return
        if old.mark is None and want.name != naming.INTEGRATION_BRIDGE:
            raise OperatorError(f"bridge {want.name} exists and was not made by hostplane")
        bridge = self._bridges[want.name]
        if old.mark is None:
            bridge.setkey("external_ids", naming.EXTERNAL_ID, ADOPTED)
        if old.fail_mode != want.fail_mode:
            bridge.fail_mode = [want.fail_mode]
        if want.datapath_type and old.datapath_type != want.datapath_type:
            bridge.datapath_type = want.datapath_type
        if old.protocols and OPENFLOW_VERSION not in old.protocols:
            bridge.addvalue("protocols", OPENFLOW_VERSION)

    def _make_bridge(self, want: OvsBridge) -> None:
        roots = list(self._tables["Open_vSwitch"].rows.values())
        if not roots:
            raise OperatorError("Open vSwitch's database is not initialised (ovs-vsctl init)")
        bridge = self._txn.insert(self._tables["Bridge"])
        bridge.name = want.name
        bridge.fail_mode = [want.fail_mode]
        bridge.datapath_type = want.datapath_type
        bridge.ports = [self._insert_port(OvsPort(want.name, want.name, "internal"), {})]
        roots[0].addvalue("bridges", bridge)
        self._bridges[want.name] = bridge
        self._new_ids[want.name] = {naming.EXTERNAL_ID: MADE}

    def _write_port(self, want: OvsPort, owner: ObjectId) -> None:
        bridge = self._bridges.get(want.bridge)
        if bridge is None:
            raise OperatorError(f"port {want.name}: bridge {want.bridge} does not exist")
        options = dict(want.options)
        if want.name in self._old_ports:
            uuid, old = self._old_ports[want.name]
            if not _is_ours(self._rows, old):
                raise OperatorError(f"port {want.name} exists and was not made by hostplane")
            interface = self._rows.interfaces[old.interfaces[0]]
            if (self._bridge_of.get(uuid), interface.type) == (want.bridge, want.type):
                row = self._tables["Interface"].rows[old.interfaces[0]]
                if interface.options != options:
                    row.options = options
                if interface.bfd != dict(want.bfd):
                    row.bfd = dict(want.bfd)
                return
            self._remove_port(uuid)
        ids = {naming.EXTERNAL_ID: str(owner)}
        if not want.type and (device := device_index(want.name)):
            ids[DEVICE_ID] = device
        bridge.addvalue("ports", self._insert_port(want, ids))

    def _insert_port(self, want: OvsPort, ids: Mapping[str, str]) -> Any:
        interface = self._txn.insert(self._tables["Interface"])
        interface.name = want.name
        interface.type = want.type
        interface.options = dict(want.options)
        interface.bfd = dict(want.bfd)
        port = self._txn.insert(self._tables["Port"])
        port.name = want.name
        port.interfaces = [interface]
        port.external_ids = dict(ids)
        return port

    def _remove_port(self, uuid: UUID) -> None:
        """Take a port off its bridge; the server then deletes what nobody refers to."""
        bridge = self._bridges.get(self._bridge_of.get(uuid, ""))
        if bridge is not None:
            bridge.delvalue("ports", self._tables["Port"].rows[uuid])

    def _set_id(self, bridge: str, name: str, value: str) -> None:
        if bridge in self._new_ids:
            self._new_ids[bridge][name] = value
        elif bridge in self._bridges:
            self._bridges[bridge].setkey("external_ids", name, value)
        else:
            raise ApplyError(f"bridge {bridge}, which keeps the number, does not exist")

    def _delete_one(self, key: Key) -> None:
        """Delete what is there and ours; what is gone already is no error."""
        if key.startswith(_PORT):
            name = key.removeprefix(_PORT)
            if name in self._old_ports and _is_ours(self._rows, self._old_ports[name][1]):
                self._remove_port(self._old_ports[name][0])
        elif key.startswith(_ALLOCATION):
            if naming.INTEGRATION_BRIDGE in self._old_bridges:
                self._bridges[naming.INTEGRATION_BRIDGE].delkey("external_ids", _id_of(key))
        else:
            self._delete_bridge(key.removeprefix(_BRIDGE))

    def _delete_bridge(self, name: str) -> None:
        old = self._old_bridges.get(name)
        if old is None or old.mark is None:
            return
        if old.mark == MADE:
            root = next(iter(self._tables["Open_vSwitch"].rows.values()))
            root.delvalue("bridges", self._bridges[name])
        else:
            self._bridges[name].delkey("external_ids", naming.EXTERNAL_ID)


def _id_of(key: Key) -> str:
    """Return the name in ``external_ids`` of an allocation's key."""
    kind, _, object_id = key.removeprefix(_ALLOCATION).partition("/")
    return f"{naming.EXTERNAL_ID}:{kind}:{object_id}"
