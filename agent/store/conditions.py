# SPDX-License-Identifier: Apache-2.0
"""Which rows a host asks the store for, and whether it has what it needs.

Own ports are selected by host; what they name decides the rest: their networks, their
security groups, and the lists of addresses that the rules of these refer to.  Routers are
selected by their gateway hosts and by the networks that they join; of those that live here
all networks and translations are needed, of the others only the ports.  Conditions grow at
once and shrink only after a while, so that a port that leaves and comes back does not make
the server send everything again.  Each table carries the column that it is selected by, so
that everything is there after three questions at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from ovs.db import idl as ovs_idl

from agent.core.model import HostName, NetworkId, OwnerId, SecurityGroupId
from agent.store.gathered_routers import RouterNeeds

Condition: TypeAlias = list[Any]
Clause: TypeAlias = list[Any]

LINGER = 60.0  # seconds that a condition stays after the last that needed it went


def _is(column: str) -> Callable[[str], Clause]:
    return lambda wanted: [column, "==", ["uuid", wanted]]


def _says(column: str) -> Callable[[str], Clause]:
    return lambda wanted: [column, "==", wanted]


def _has(column: str) -> Callable[[str], Clause]:
    return lambda wanted: [column, "includes", ["uuid", wanted]]


# How the tables are asked for one of the ids that they are selected by.
BY_NETWORK = {"Network": _is("_uuid"), "Subnet": _is("network"), "Endpoint": _is("network")}
BY_GROUP = {"Security_Group_Rule": _is("group")}
BY_OWNER = {"Address_Chunk": _is("owner"), "Address_Group": _is("_uuid")}
BY_EITHER = {"Security_Group": _is("_uuid")}
BY_NETWORKS = {"Router": _has("networks")}
BY_DEVICE = {"Port": _says("device_id")}
BY_ROUTER = {"Floating_IP": _is("router"), "Port_Forwarding": _is("router")}
# And for what is this host's, whatever else is needed.
ALWAYS: Mapping[str, Callable[[HostName], Clause]] = {
    "Port": lambda host: ["host", "==", host],
    "Router": lambda host: ["hosts", "includes", host],
    "Port_Status": lambda host: ["host", "==", host],
    "Router_Status": lambda host: ["host", "==", host],
    "Host_Status": lambda host: ["host", "==", host],
}


class Needs(NamedTuple):
    """What a host must know because of its ports and routers: the ids by which the other tables are selected.

    ``own`` are the networks that it has ports on.
    """

    own: frozenset[NetworkId] = frozenset()
    groups: frozenset[SecurityGroupId] = frozenset()
    owners: frozenset[OwnerId] = frozenset()
    routers: RouterNeeds = RouterNeeds()

    @property
    def networks(self) -> frozenset[NetworkId]:
        """The networks to know with all that is on them."""
        return self.own | self.routers.networks

    @property
    def joined(self) -> frozenset[NetworkId]:
        """The networks on which the host, or a router of its, may send to a router."""
        return self.own | self.routers.inner

    @property
    def named(self) -> frozenset[str]:
        """The security groups to know by name: a rule's remote group is one whose rules are none of our business."""
        return frozenset((*self.groups, *self.owners))


class Conditions:
    """The conditions of one host's replica.  Used on the IDL thread only."""

    def __init__(self, idl: ovs_idl.Idl, host: HostName) -> None:
        self._idl = idl
        always = {table: [clause(host)] for table, clause in ALWAYS.items()}
        selected = (BY_NETWORK, BY_GROUP, BY_OWNER, BY_EITHER, BY_NETWORKS, BY_DEVICE, BY_ROUTER)  # as in _wanted()
        self._selections = [_Selection(idl, tables, always) for tables in selected]
        for table in always.keys() - {table for tables in selected for table in tables}:
            idl.cond_change(table, always[table])

    def need(self, needs: Needs, now: float) -> None:
        """Ask for the rows of *needs*; *now* is in monotonic seconds."""
        for selection, ids in zip(self._selections, _wanted(needs), strict=True):
            selection.need(ids, now)

    def in_force(self, needs: Needs) -> bool:
        """Tell whether the replica holds all rows of *needs*, and nothing is under way."""
        if self._idl.state != ovs_idl.Idl.IDL_S_MONITORING or not self._idl.has_ever_connected():
            return False
        for table in self._idl.tables.values():
            if table.condition_state.new is not None or table.condition_state.requested is not None:
                return False
        return all(selection.in_force(ids) for selection, ids in zip(self._selections, _wanted(needs), strict=True))


def _wanted(needs: Needs) -> tuple[frozenset[str], ...]:
    routers = needs.routers
    return needs.networks, needs.groups, needs.owners, needs.named, needs.joined, routers.known, routers.whole


class _Selection:
    """Tables that are selected by the same ids, and the ids that were asked for."""

    def __init__(
        self, idl: ovs_idl.Idl, tables: Mapping[str, Callable[[str], Clause]], always: Mapping[str, list[Clause]]
    ) -> None:
        self._idl = idl
        self._tables = tables
        self._always = always
        self._unneeded: dict[str, float] = {}
        self._asked: frozenset[str] = frozenset()
        self._clauses: dict[str, Condition] = {}
        self._ask(frozenset())

    def need(self, ids: frozenset[str], now: float) -> None:
        """Ask for the rows of *ids* and of those that were needed a short while ago."""
        if ids is self._asked and not self._unneeded:
            return
        for unneeded in self._asked - ids:
            self._unneeded.setdefault(unneeded, now)
        for needed in ids & self._unneeded.keys():
            del self._unneeded[needed]
        self._unneeded = {old: since for old, since in self._unneeded.items() if now - since < LINGER}
        wanted = ids | self._unneeded.keys()
        if wanted != self._asked:
            self._ask(wanted)

    def in_force(self, ids: frozenset[str]) -> bool:
        """Tell whether what was asked for has been granted and covers *ids*."""
        return ids <= self._asked and all(
            self._idl.tables[table].condition_state.acked == clauses for table, clauses in self._clauses.items()
        )

    def _ask(self, ids: frozenset[str]) -> None:
        self._asked = ids
        for table, clause in self._tables.items():
            self._clauses[table] = [*self._always.get(table, ()), *map(clause, sorted(ids))] or [False]
            self._idl.cond_change(table, self._clauses[table])
