# SPDX-License-Identifier: Apache-2.0
"""The addresses of security groups and address groups, kept in ``Address_Chunk`` rows.

Members of a security group are the fixed addresses and allowed address pairs of its
ports.  They are derived in the transaction that changes the ports, so that no host ever
reads foreign ports to know them.  Counts tell how many ports have an address, because
networks may overlap: an address goes with its last port.

Everything that was read to compute the change is verified: of two writers that
touch the same port, or the same chunk, one builds its call again.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping

from agent.store import chunks
from agent.store.chunks import Counts
from agent.store.writer_session import Session
from agent.store.writer_view import Row, View, atoms, scalar

_Membership = tuple[frozenset[uuid.UUID], frozenset[str]]  # groups, addresses
_NOBODY: _Membership = (frozenset(), frozenset())


def note(session: Session, port: Row) -> None:
    """Note what *port* is a member of and with which addresses, before a change; what differs is written at the end."""
    notes: dict[uuid.UUID, tuple[Row, _Membership]] = session.once("memberships", lambda: _start(session))
    if port.uuid in notes:
        return
    if port._data is None:
        notes[port.uuid] = (port, _NOBODY)
    else:
        notes[port.uuid] = (port, membership(port))
        session.verify(port, "fixed_ips", "allowed_address_pairs", "security_groups")


def membership(port: Row) -> _Membership:
    """Return the groups of *port* and the addresses that it brings into each."""
    groups = frozenset(atoms(port, "security_groups"))
    if not groups:
        return _NOBODY
    return groups, frozenset(atoms(port, "fixed_ips")) | {_single(p) for p in atoms(port, "allowed_address_pairs")}


def _single(pair: str) -> str:
    """Return the prefix of an allowed address pair, a single address without its length."""
    cidr = pair.partition(" ")[0]
    address, _, length = cidr.partition("/")
    return address if length == ("128" if ":" in address else "32") else cidr


def _start(session: Session) -> dict[uuid.UUID, tuple[Row, _Membership]]:
    notes: dict[uuid.UUID, tuple[Row, _Membership]] = {}
    session.write_last(lambda: _write(session, notes))
    return notes


def _write(session: Session, notes: Mapping[uuid.UUID, tuple[Row, _Membership]]) -> None:
    deltas: dict[uuid.UUID, Counter[str]] = defaultdict(Counter)
    for port, before in notes.values():
        after = _NOBODY if port._changes is None else membership(port)  # None: deleted
        if before == after:
            continue
        for sign, (groups, addresses) in ((-1, before), (1, after)):
            for group in groups:
                for address in addresses:
                    deltas[group][address] += sign
    for group_id, counter in deltas.items():
        owner = session.row("Security_Group", group_id)
        if owner is not None and any(counter.values()):  # else deleted here, its chunks with it
            change(session, owner, counter)
            touch_users(session, "remote_group", owner)


def touch_users(session: Session, column: str, owner: Row) -> None:
    """Note the groups with rules that refer to the addresses of *owner* in *column*."""
    rules = session.referring("Security_Group_Rule", column, owner.uuid)
    session.touched_groups.update(str(scalar(rule, "group")) for rule in rules)


def addresses(view: View, owner: Row) -> Counts:
    """Return all addresses of a group and how many have each."""
    return {address: count for chunk in _chunks(view, owner).values() for address, count in chunk.addresses.items()}


def verify_all(session: Session, owner: Row) -> None:
    """Let the transaction fail if another writer changes any address of *owner*."""
    session.verify(owner, "addresses")
    for chunk in _chunks(session, owner).values():
        session.verify(chunk, "addresses")


def _chunks(view: View, owner: Row) -> dict[str, Row]:
    rows = (view.row("Address_Chunk", chunk.uuid) for chunk in owner.addresses)
    return {scalar(row, "chunk"): row for row in rows if row is not None}


def change(session: Session, owner: Row, deltas: Mapping[str, int]) -> None:
    """Add *deltas* to the counts of the addresses of *owner*; once for each owner in a session."""
    present = _chunks(session, owner)
    touched = _Touched(session, present)
    for bits, part in chunks.spread({a: delta for a, delta in deltas.items() if delta}, present).items():
        wanted = chunks.added(touched.take(bits), part)
        for divided, counts in chunks.divided(bits, wanted).items():
            touched.put(divided, counts)
    touched.join()
    touched.write(owner)


class _Touched:
    """The chunks of one owner that a change concerns, as they will be."""

    def __init__(self, session: Session, present: Mapping[str, Row]) -> None:
        self._session = session
        self._present = present
        self._taken: set[str] = set()
        self._wanted: dict[str, Counts] = {}

    def take(self, bits: str) -> Counts:
        """Return what is in a chunk, which will hold what is ``put`` only."""
        if bits in self._wanted:
            return self._wanted.pop(bits)
        row = self._present.get(bits)
        if row is None:
            return {}
        self._taken.add(bits)
        self._session.verify(row, "addresses")
        counts: Counts = row.addresses
        return counts

    def put(self, bits: str, counts: Counts) -> None:
        """Let a chunk hold *counts*."""
        self._wanted[bits] = counts

    def join(self) -> None:
        """Make one chunk of two that have become small."""
        for bits in sorted(self._wanted, key=len, reverse=True):
            while bits and bits in self._wanted:
                other = chunks.sibling(bits)
                size = self._size(other)
                if size is None or len(self._wanted[bits]) + size > chunks.JOINED:
                    break
                joined = self.take(bits) | self.take(other)
                bits = bits[:-1]  # its parent may now be small, too
                self.put(bits, joined)

    def _size(self, bits: str) -> int | None:
        """Return how many addresses a chunk has; None if it is no chunk, but divided."""
        if bits in self._wanted:
            return len(self._wanted[bits])
        if bits in self._taken or bits not in self._present:
            return None
        return len(atoms(self._present[bits], "addresses"))

    def write(self, owner: Row) -> None:
        """Write the chunks that differ."""
        self._wanted = {bits: counts for bits, counts in self._wanted.items() if bits or counts}
        gone = [self._present[bits] for bits in self._taken - self._wanted.keys()]
        new = [self._insert(owner, bits) for bits in sorted(self._wanted.keys() - self._present.keys())]
        for bits in self._wanted.keys() & self._present.keys():
            self._session.update(self._present[bits], addresses=self._wanted[bits])
        self._session.refer(owner, "addresses", new, gone)

    def _insert(self, owner: Row, bits: str) -> Row:
        return self._session.insert("Address_Chunk", owner=owner.uuid, chunk=bits, addresses=self._wanted[bits])
