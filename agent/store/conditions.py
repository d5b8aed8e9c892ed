# SPDX-License-Identifier: Apache-2.0
"""Which rows a host asks the store for, and whether it has what it needs.

Own ports are selected by host; their networks decide the rest.  Conditions grow at
once and shrink only after a while, so that a port that leaves and comes back does
not make the server send everything again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from ovs.db import idl as ovs_idl

from agent.core.model import HostName, NetworkId

Condition: TypeAlias = list[Any]

LINGER = 60.0  # seconds that a condition stays after the last port of its network went

BY_NETWORK = {"Network": "_uuid", "Subnet": "network", "Endpoint": "network"}
BY_HOST = {"Port": "host", "Port_Status": "host", "Host_Status": "host"}


class Conditions:
    """The conditions of one host's replica.  Used on the IDL thread only."""

    def __init__(self, idl: ovs_idl.Idl, host: HostName) -> None:
        self._idl = idl
        self._unneeded: dict[NetworkId, float] = {}
        self._asked: frozenset[NetworkId] = frozenset()
        for table, column in BY_HOST.items():
            idl.cond_change(table, [[column, "==", host]])
        self._ask(frozenset())

    def need(self, networks: frozenset[NetworkId], now: float) -> None:
        """Ask for the rows of *networks*; *now* is in monotonic seconds."""
        for network in self._asked - networks:
            self._unneeded.setdefault(network, now)
        for network in networks:
            self._unneeded.pop(network, None)
        kept = {network for network, since in self._unneeded.items() if now - since < LINGER}
        self._unneeded = {network: since for network, since in self._unneeded.items() if network in kept}
        wanted = networks | kept
        if wanted != self._asked:
            self._ask(wanted)

    def in_force(self, networks: frozenset[NetworkId]) -> bool:
        """Tell whether the replica holds all rows of *networks*, and nothing is under way."""
        if self._idl.state != ovs_idl.Idl.IDL_S_MONITORING or not self._idl.has_ever_connected():
            return False
        for table in self._idl.tables.values():
            if table.condition_state.new is not None or table.condition_state.requested is not None:
                return False
        return networks <= self._asked and all(
            self._idl.tables[table].condition_state.acked == _clauses(column, self._asked)
            for table, column in BY_NETWORK.items()
        )

    def _ask(self, networks: frozenset[NetworkId]) -> None:
        self._asked = networks
        for table, column in BY_NETWORK.items():
            self._idl.cond_change(table, _clauses(column, networks))


def _clauses(column: str, networks: Iterable[NetworkId]) -> Condition:
    """Return the condition that selects rows by *networks*, in one order always."""
    return [[column, "==", ["uuid", network]] for network in sorted(networks)] or [False]
