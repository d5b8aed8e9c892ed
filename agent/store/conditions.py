# SPDX-License-Identifier: Apache-2.0
"""Which rows a host asks the store for, and whether it has what it needs.

Own ports are selected by host; what they name decides the rest: their networks, their
security groups, and the lists of addresses that the rules of these refer to.  Conditions
grow at once and shrink only after a while, so that a port that leaves and comes back
does not make the server send everything again.  Each table carries the column that
it is selected by, so that everything is there after three questions at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from ovs.db import idl as ovs_idl

from agent.core.model import HostName, NetworkId, OwnerId, SecurityGroupId

Condition: TypeAlias = list[Any]

LINGER = 60.0  # seconds that a condition stays after the last that needed it went

BY_NETWORK = {"Network": "_uuid", "Subnet": "network", "Endpoint": "network"}
BY_GROUP = {"Security_Group_Rule": "group"}
BY_OWNER = {"Address_Chunk": "owner", "Address_Group": "_uuid"}
BY_EITHER = {"Security_Group": "_uuid"}
BY_HOST = {"Port": "host", "Port_Status": "host", "Host_Status": "host"}


class Needs(NamedTuple):
    """What a host must know because of its ports: the ids by which the other tables are selected."""

    networks: frozenset[NetworkId] = frozenset()
    groups: frozenset[SecurityGroupId] = frozenset()
    owners: frozenset[OwnerId] = frozenset()

    @property
    def named(self) -> frozenset[str]:
        """The security groups to know by name: a rule's remote group is one whose rules are none of our business."""
        return frozenset((*self.groups, *self.owners))


class Conditions:
    """The conditions of one host's replica.  Used on the IDL thread only."""

    def __init__(self, idl: ovs_idl.Idl, host: HostName) -> None:
        self._idl = idl
        # As in _wanted().
        self._selections = [_Selection(idl, columns) for columns in (BY_NETWORK, BY_GROUP, BY_OWNER, BY_EITHER)]
        for table, column in BY_HOST.items():
            idl.cond_change(table, [[column, "==", host]])

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
    return needs.networks, needs.groups, needs.owners, needs.named


class _Selection:
    """Tables that are selected by the same ids, and the ids that were asked for."""

    def __init__(self, idl: ovs_idl.Idl, columns: Mapping[str, str]) -> None:
        self._idl = idl
        self._columns = columns
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
        for table, column in self._columns.items():
            self._clauses[table] = _clauses(column, ids)
            self._idl.cond_change(table, self._clauses[table])


def _clauses(column: str, ids: Iterable[str]) -> Condition:
    """Return the condition that selects rows by *ids*, in one order always."""
    return [[column, "==", ["uuid", wanted]] for wanted in sorted(ids)] or [False]
