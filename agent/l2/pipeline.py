# SPDX-License-Identifier: Apache-2.0
"""The tables of ``br-int`` as data: names, numbers, and which may follow which.

``docs/pipeline.md`` draws the picture.  Nothing is learned and ``NORMAL`` is never
used.  A packet carries along:

- ``metadata``: the number of its network on this host (allocated, never on the wire);
- ``reg0``: 1 if it came from another host or a physical network, 0 from a local port;
- ``reg1``: the OpenFlow number of the local port that it shall be delivered to;
- ``reg2``: the next chunk of a flood;
- ``reg4``: who asks, for the responder: the number that stands for the local port;
- ``reg5``: 1 if the daemon itself sends it in the name of a port (``openflow.ANNOUNCED``).

Every table ends with an explicit drop, so that what no flow speaks of goes nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from agent.core import openflow

OUTSIDE = 0  # register: the packet came from outside of this host
PORT = 1  # register: local port to deliver to
CHUNK = 2  # register: next chunk of a flood
SCRATCH = 3  # register: within one action list only
IDENTITY = 4  # register: number of the local port for the responder, 0 if it answers it nothing


class Table(IntEnum):
    """A table's number.  The gaps are for what is not layer 2.

    20-29 policies of what instances send, 80-89 policies of what
    instances receive.
    """

    CLASSIFY = 0  # which kind of port is it from, and of which network
    TUNNEL_IN = 5  # from other hosts: virtual network identifier -> network
    PHYSICAL_IN = 6  # from physical networks: VLAN -> network
    FROM_SERVICES = 7  # answers of the responder: whose they are
    FROM_ROUTER = 8  # from legs of routers: may this leave, and under which MAC address
    PORT_SECURITY = 10  # may the instance use these source addresses
    ND_SECURITY = 12  # may it say this about its neighbours, is it a server
    NEIGHBOR = 30  # who-has of local ports
    NEIGHBOR_REPLY = 32  # turns an ARP request into its answer
    NEIGHBOR_IN = 35  # who-has from outside
    SERVICES = 40  # what the responder answers, of local ports
    ROUTER = 50  # what local ports send to a distributed router: which host routes it
    LOCAL = 60  # destinations on this host
    FLOOD_LOCAL = 62  # copies to all local ports of the network
    REMOTE = 70  # destinations elsewhere, for what local ports send
    FLOOD_REMOTE = 72  # copies to all hosts with ports on the network
    DELIVER = 90  # out of a local port


NEXT: Mapping[Table, frozenset[Table]] = {
    Table.CLASSIFY: frozenset(
        {Table.TUNNEL_IN, Table.PHYSICAL_IN, Table.FROM_SERVICES, Table.FROM_ROUTER, Table.PORT_SECURITY}
    ),
    Table.TUNNEL_IN: frozenset({Table.NEIGHBOR_IN}),
    Table.PHYSICAL_IN: frozenset({Table.NEIGHBOR_IN}),
    Table.FROM_SERVICES: frozenset({Table.DELIVER}),
    Table.FROM_ROUTER: frozenset({Table.NEIGHBOR}),
    Table.PORT_SECURITY: frozenset({Table.ND_SECURITY, Table.NEIGHBOR}),
    Table.ND_SECURITY: frozenset({Table.NEIGHBOR}),
    Table.NEIGHBOR: frozenset({Table.NEIGHBOR_REPLY, Table.SERVICES, Table.LOCAL}),
    Table.NEIGHBOR_REPLY: frozenset(),
    Table.SERVICES: frozenset({Table.ROUTER}),
    Table.ROUTER: frozenset({Table.LOCAL, Table.FLOOD_REMOTE}),
    Table.NEIGHBOR_IN: frozenset({Table.LOCAL, Table.DELIVER}),
    Table.LOCAL: frozenset({Table.FLOOD_LOCAL, Table.REMOTE, Table.DELIVER}),
    Table.FLOOD_LOCAL: frozenset({Table.FLOOD_LOCAL, Table.DELIVER}),
    Table.REMOTE: frozenset({Table.FLOOD_REMOTE}),
    Table.FLOOD_REMOTE: frozenset({Table.FLOOD_REMOTE}),
    Table.DELIVER: frozenset(),
}


class IllegalJumpError(ValueError):
    """A flow leads to a table that may not follow its own: a bug in a planner."""


@dataclass(frozen=True, slots=True, eq=False)
class Goto:
    """Instruction: go on in a later table (``goto_table`` only leads forward: OpenFlow 1.4, 5.9)."""

    table: Table

    def text(self, source: Table) -> str:
        """Return the instruction as text; raises IllegalJumpError if *source* may not lead there."""
        if self.table not in NEXT[source] or self.table <= source:
            raise IllegalJumpError(f"no goto from table {source.name.lower()} to {self.table.name.lower()}")
        return _GOTO[self.table]


@dataclass(frozen=True, slots=True, eq=False)
class Resubmit:
    """Action: look the packet up in another table, or in the same one, then go on here."""

    table: Table

    def text(self, source: Table) -> str:
        """Return the action as text; raises IllegalJumpError if *source* may not lead there."""
        if self.table not in NEXT[source]:
            raise IllegalJumpError(f"no resubmit from table {source.name.lower()} to {self.table.name.lower()}")
        return _RESUBMIT[self.table]


Action = str | Goto | Resubmit

# Rendered once: thousands of flows share these strings.
_GOTO = {table: f"goto_table:{table.value}" for table in Table}
_RESUBMIT = {table: f"resubmit(,{table.value})" for table in Table}


def add(flows: dict[str, str], table: Table, priority: int, match: str, *actions: Action) -> str:
    """Add a flow to *flows* and return its key; no action means drop.

    Raises IllegalJumpError if an action leads where ``NEXT`` does not allow it.
    """
    key = openflow.flow_key(table, priority, match)
    parts = [action if isinstance(action, str) else action.text(table) for action in actions]
    flows[key] = ",".join(parts) if parts else openflow.DROP
    return key
