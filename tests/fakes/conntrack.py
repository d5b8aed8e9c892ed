# SPDX-License-Identifier: Apache-2.0
"""A connection table in memory: the interface of ``ConntrackTable``, faults on demand."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator

from agent.core.errors import ApplyError
from agent.core.naming import ENDED_CONNMARK
from agent.drivers.conntrack_table import Connection
from tests.fakes.drivers import Fuse


def connection(
    zone: int,
    protocol: int,
    source: str,
    destination: str,
    service: int | None = None,
    source_port: int | None = None,
    mark: int = 0,
) -> Connection:
    """Return a connection, its key made of all the rest."""
    sent, received = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    told = (zone, sent.version, protocol, sent.packed, received.packed, source_port, service, mark)
    return Connection(*told, key=repr(told).encode())


class FakeTable:
    """Connections of all zones; ``dumps`` are the zones that each reading asked for.

    ``dead`` are those that are marked as ended: listed, but no longer among ``connections``.
    """

    def __init__(self, connections: Iterable[Connection] = ()) -> None:
        self.connections = set(connections)
        self.dead: set[Connection] = set()
        self.dumps: list[frozenset[int] | None] = []
        self.failures = 0  # the next so many readings and endings fail
        self.fuse: Fuse | None = None

    def _fail(self) -> None:
        if self.fuse is not None:
            self.fuse.burn()
        if self.failures:
            self.failures -= 1
            raise ApplyError("the table cannot be used")

    def dump(self, zones: Collection[int] | None = None) -> Iterator[Connection]:
        """Yield the connections of *zones*."""
        self._fail()
        self.dumps.append(None if zones is None else frozenset(zones))
        yield from [one for one in self.connections | self.dead if zones is None or one.zone in zones]

    def flush(self, zones: Collection[int]) -> None:
        """End all connections of *zones*."""
        self._fail()
        if 0 in zones:
            raise ValueError("the host's own")
        self.connections -= {one for one in self.connections if one.zone in zones}
        self.dead -= {one for one in self.dead if one.zone in zones}

    def end(self, connections: Iterable[Connection]) -> int:
        """End *connections*."""
        self._fail()
        ending = set(connections)
        if any(one.zone == 0 for one in ending):
            raise ValueError("the host's own")
        there = ending & (self.connections | self.dead)
        self.connections -= ending
        self.dead -= ending
        return len(there)

    def mark_ended(self, connections: Iterable[Connection]) -> int:
        """Mark *connections* as ended."""
        self._fail()
        there = set(connections) & self.connections
        self.connections -= there
        self.dead |= {one._replace(mark=one.mark | ENDED_CONNMARK) for one in there}
        return len(there)
