# SPDX-License-Identifier: Apache-2.0
"""Driver ``conntrack``: ends the connections that the filters of today would not let begin.

Chains judge the first packet of a connection; what follows passes because it belongs
to it.  So when a rule, a member or a group goes away, the connections that it had let
in are looked for and ended, after everything else is in place.  What only allows more
looks for nothing.

Of TCP an entry that is gone comes back with the next packet of whoever may send it, and
answers belong to it: a session that a client began would go on because the server may
send.  So such an entry stays and is marked as ended (``mark_ended``), until what it was
for is allowed again, or the kernel forgets it.

The items are not in the kernel: they are what connections were judged by, kept in
memory.  A fresh process remembers nothing, so it judges every zone once: rules may
have changed while nobody was there.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agent.core.errors import AgentError
from agent.core.items import GroupRules, ZoneFilter
from agent.core.model import AddressChunk
from agent.core.naming import CONNMARK_MASK, EGRESS_CONNMARK, ENDED_CONNMARK, INGRESS_CONNMARK
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.conntrack_book import Book, zone_number
from agent.drivers.conntrack_judge import loses_rules, narrows
from agent.drivers.conntrack_table import Connection

LOG = logging.getLogger(__name__)

_TCP = 6

UNJUDGED = "unjudged"  # observed value of a zone whose connections have to be judged again


class Table(Protocol):
    """What the driver needs of ``ConntrackTable``."""

    def dump(self, zones: Collection[int] | None = None) -> Iterator[Connection]:
        """Yield the connections of *zones*."""

    def end(self, connections: Iterable[Connection]) -> int:
        """End *connections*; return how many of them there still were."""

    def mark_ended(self, connections: Iterable[Connection]) -> int:
        """Have filters drop what belongs to *connections*; return how many of them there still were."""

    def flush(self, zones: Collection[int]) -> None:
        """End all connections of *zones*."""


@dataclass(slots=True)
class _Work:
    """The zones that a delta concerns, and the keys because of which."""

    judge: set[int] = field(default_factory=set)
    flush: set[int] = field(default_factory=set)
    keys: list[Key] = field(default_factory=list)


class ConntrackDriver:
    """Used by the reconcile thread only."""

    name = "conntrack"

    def __init__(self, table: Table) -> None:
        self._table = table
        self._book = Book()
        self._judged: dict[Key, Value] = {}
        self._empty: set[int] = set()  # zones that had no connections when their filters were in place already
        self._dead: set[int] = set()  # zones with connections that are marked as ended
        self.ended = 0  # connections, since the process began

    def flush(self, zones: Collection[int]) -> None:
        """End all connections of *zones*, which nobody uses yet: those that begin in this pass need not be judged.

        Raises ApplyError.
        """
        self._table.flush(zones)
        self._empty.update(zones)
        self._dead.difference_update(zones)

    def end_of_pass(self) -> None:
        """From here on connections of flushed zones may be older than the rules."""
        self._empty.clear()

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Return by what connections have been judged so far."""
        if keys is None:
            return dict(self._judged)
        return {key: self._judged[key] for key in keys if key in self._judged}

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Judge the connections that *delta* may have taken the permission from.

        What could not be judged keeps its former value, so that it is tried again.
        """
        wanted: dict[Key, Value | None] = {**delta.creates, **dict.fromkeys(delta.deletes)}
        wanted.update((key, new) for key, (_, new) in delta.updates.items())
        for key, new in wanted.items():
            self._book.write(key, new)
        work = self._work(wanted)
        failed: dict[Key, Exception] = {}
        if work.keys:
            try:
                self._judge(work)
            except AgentError as err:
                failed = dict.fromkeys(work.keys, err)
        for key, new in wanted.items():
            if key in failed:
                continue
            if new is None:
                self._judged.pop(key, None)
            else:
                self._judged[key] = new
        return failed

    def judge_all(self) -> None:
        """Forget that any zone was judged: somebody has opened a filter by hand meanwhile.

        The zones read as ``unjudged`` from then on; the next pass that reads this
        driver back judges them.
        """
        for key in self._judged:
            if zone_number(key) is not None:
                self._judged[key] = UNJUDGED

    def _work(self, wanted: Mapping[Key, Value | None]) -> _Work:
        work = _Work()
        for key, new in wanted.items():
            old = self._judged.get(key)
            zone = zone_number(key)
            if zone is None:
                concerned = self._zones_that_lose(key, old, new) | (self._zones_of(key, old, new) & self._dead)
                work.judge |= concerned
            else:
                concerned = frozenset([zone])
                if old is None and zone in self._empty:
                    self._empty.discard(zone)
                    continue
                if new is None or _is_another_port(old, new):
                    work.flush.add(zone)
                elif (
                    not isinstance(old, ZoneFilter)
                    or not isinstance(new, ZoneFilter)
                    or narrows(old, new)
                    or zone in self._dead
                ):
                    work.judge.add(zone)
                else:
                    continue
            if concerned:
                work.keys.append(key)
        work.judge -= work.flush
        return work

    def _zones_that_lose(self, key: Key, old: Value | None, new: Value | None) -> frozenset[int]:
        """Return the zones in which less may be allowed because *key* was *old* and is *new*."""
        if isinstance(old, GroupRules) and loses_rules(old, new if isinstance(new, GroupRules) else None):
            return self._book.zones_of_group(key)
        if isinstance(old, AddressChunk):
            kept = new.addresses if isinstance(new, AddressChunk) and new.owner == old.owner else frozenset()
            if not old.addresses <= kept:
                return self._book.zones_of_owner(old.owner)
        return frozenset()

    def _zones_of(self, key: Key, old: Value | None, new: Value | None) -> frozenset[int]:
        """Return the zones whose connections *key*, no zone's, has a say in."""
        owners = {value.owner for value in (old, new) if isinstance(value, AddressChunk)}
        return self._book.zones_of_group(key).union(*map(self._book.zones_of_owner, owners))

    def _judge(self, work: _Work) -> None:
        """End what is not allowed any more.  Raises ApplyError."""
        judge = self._book.judge()
        delete: list[Connection] = []
        mark: list[Connection] = []
        back: list[Connection] = []  # were ended, and would be allowed now
        dead: set[int] = set()
        for one in self._table.dump(work.judge | work.flush):
            if one.zone in work.flush:
                delete.append(one)
            elif judge.allows(one):
                back += [one] if one.mark & ENDED_CONNMARK else []
            elif _would_come_back(one):
                dead.add(one.zone)
                mark += [] if one.mark & ENDED_CONNMARK else [one]
            else:
                delete.append(one)
        if back:
            self._table.end(back)  # their next packets begin anew
        ended = (self._table.end(delete) if delete else 0) + (self._table.mark_ended(mark) if mark else 0)
        self._dead = self._dead - work.judge - work.flush | dead
        self.ended += ended
        if delete or mark:
            zones = {one.zone for one in (*delete, *mark)}
            LOG.info("ended %d connections in %d zones that nothing allows any more", ended, len(zones))


def _would_come_back(connection: Connection) -> bool:
    """Tell whether deleting *connection* would not end it.  Only where its direction is sure: a mark is for good."""
    direction = connection.mark & CONNMARK_MASK
    return connection.protocol == _TCP and direction in (EGRESS_CONNMARK, INGRESS_CONNMARK)


def _is_another_port(old: Value | None, new: Value) -> bool:
    """Tell whether a zone has gone from one port to another: nothing that the first one had is the other's."""
    return isinstance(old, ZoneFilter) and isinstance(new, ZoneFilter) and old.port != new.port
