# SPDX-License-Identifier: Apache-2.0
"""One namespace's part of a delta of driver ``routes``: written in one batch, and what was in the way looked at.

Nothing is looked up before it is written.  What is new is written so that the kernel
refuses it where something is there already; only then it is read what that is: ours
from an earlier try is left or replaced, as are a neighbour that was merely learned and an
address that the kernel gave to itself; what others made stays and is an error.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.core.errors import ApplyError
from agent.core.plan import Key
from agent.drivers.namespaces import ForeignError
from agent.drivers.routes_netlink import Entries, Entry, RouteTable, is_ipv6
from agent.drivers.routes_text import (
    NO_PREFIX_ROUTE,
    Address,
    Hop,
    Neighbor,
    Prefix,
    hops_text,
    parse_hops,
)

_GONE = (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one item: *old* is what was believed to be there, *new* None deletes it."""

    key: Key
    thing: Address | Prefix | Neighbor
    old: str | None
    new: str | None


def value_of(thing: Address | Prefix | Neighbor, entry: Entry) -> str:
    """Return the value of an item that the kernel has."""
    match thing:
        case Address():
            return "" if entry.has_prefix_route else NO_PREFIX_ROUTE
        case Prefix():
            return ", ".join(map(hops_text, entry.routes))
        case Neighbor():
            return entry.address


def write(table: RouteTable, changes: Iterable[Change]) -> dict[Key, Exception]:
    """Write *changes* in one batch, in an order in which each finds what it needs; return what failed, and why.

    Raises OSError and ApplyError if the kernel does not talk to us.
    """
    failed: dict[Key, Exception] = {}
    clashes: list[Change] = []
    steps = _steps(table, sorted(changes, key=_order), failed)
    for change, refusal in zip((c for c, _ in steps), table.kernel.write([s for _, s in steps]), strict=True):
        if refusal is None or (change.new is None and refusal.code in _GONE):
            continue
        if refusal.code == errno.EEXIST or (change.old is not None and refusal.code in _GONE):
            clashes.append(change)
        else:
            failed[change.key] = _told(change, str(refusal))
    if clashes:
        _settle(table, clashes, failed)
    return failed


def _steps(
    table: RouteTable, changes: Sequence[Change], failed: dict[Key, Exception]
) -> list[tuple[Change, list[bytes]]]:
    steps = []
    for change in changes:
        try:
            steps.append((change, _messages(table, change)))
        except KeyError as err:
            if change.new is not None:  # what is to be deleted has gone with its device
                failed[change.key] = _told(change, f"there is no device {err.args[0]}")
        except (ApplyError, ValueError) as err:
            failed[change.key] = _told(change, str(err))
    return steps


def _order(change: Change) -> tuple[bool, int]:
    """Creates before deletes; addresses, neighbours, routes to networks, routes over neighbours, and back."""
    rank = {Address: 0, Neighbor: 1, Prefix: 2}[type(change.thing)]
    if change.new is None:
        return True, -rank
    return False, rank + (isinstance(change.thing, Prefix) and "via " in change.new)


def _messages(table: RouteTable, change: Change) -> list[bytes]:
    """Return what makes a change if the kernel has what is believed."""
    thing, old, new = change.thing, change.old, change.new
    if new is None:
        return [_delete(table, thing)]
    if old is None:
        return [_add(table, thing, new)]
    match thing:
        case Address():
            return [table.delete_address(thing), _add(table, thing, new)]
        case Neighbor():
            return [table.set_neighbor(thing, new, replace=True)]
        case Prefix():
            hops, before = parse_hops(new), _known_hops(table, old)
            if not before:
                return [table.delete_route(thing), _add(table, thing, new)]
            # Both are there for a moment, so that no packet finds none.
            if not is_ipv6(thing.packed):
                return [table.add_route(thing, hops, beside=True), table.delete_route(thing, before)]
            # Here one prefix has one route, to which ways are added, and from which they are taken.
            added = [table.add_route(thing, [hop], beside=True) for hop in hops if hop not in before]
            return [*added, *(table.delete_route(thing, [hop]) for hop in before if hop not in hops)]


def _known_hops(table: RouteTable, text: str) -> tuple[Hop, ...]:
    """Return the ways that a route took; none if that was not one of ours, or a device has gone."""
    try:
        hops = parse_hops(text)
        for hop in hops:
            table.index(hop.device)
    except (ApplyError, KeyError):
        return ()
    return hops


def _settle(table: RouteTable, clashes: Sequence[Change], failed: dict[Key, Exception]) -> None:
    """Make changes by what is there, and not by what was believed."""
    present: Entries = {}
    if any(isinstance(change.thing, Address) for change in clashes):
        present |= table.addresses()
    if any(isinstance(change.thing, Prefix) for change in clashes):
        present |= table.routes()
    present |= table.neighbors([change.thing for change in clashes if isinstance(change.thing, Neighbor)])
    steps: list[tuple[Change, list[bytes]]] = []
    for change in clashes:
        entry = present.get(change.thing)
        if entry is not None and entry.ours and value_of(change.thing, entry) == change.new:
            continue
        if entry is not None and not entry.ours and entry.permanent:
            failed[change.key] = _in_the_way(change)
            continue
        try:
            steps.append((change, _instead(table, change, present)))
        except KeyError as err:
            failed[change.key] = _told(change, f"there is no device {err.args[0]}")
    for (change, _), refusal in zip(steps, table.kernel.write([s for _, s in steps]), strict=True):
        if refusal is not None and refusal.code == errno.EEXIST:
            failed[change.key] = _in_the_way(change)
        elif refusal is not None:
            failed[change.key] = _told(change, str(refusal))


def _instead(table: RouteTable, change: Change, present: Entries) -> list[bytes]:
    """Return what replaces that which is there, if it is ours, or was only learned."""
    thing, new = change.thing, change.new or ""
    if isinstance(thing, Neighbor):
        return [table.set_neighbor(thing, new, replace=True)]
    entry = present.get(thing)
    doomed: list[bytes] = []
    if isinstance(thing, Prefix):
        doomed = [table.delete_route(thing) for _ in entry.routes] if entry is not None else []
    else:
        # An IPv6 address is there once, whatever its length.
        same = [
            other
            for other, found in present.items()
            if isinstance(other, Address)
            and (found.ours or not found.permanent)
            and (other.device, other.packed) == (thing.device, thing.packed)
        ]
        doomed = [table.delete_address(other) for other in same if other == thing or len(thing.packed) > 4]
    return [*doomed, _add(table, thing, new)]


def _add(table: RouteTable, thing: Address | Prefix | Neighbor, value: str) -> bytes:
    match thing:
        case Address():
            if value not in ("", NO_PREFIX_ROUTE):
                raise ApplyError(f"an address cannot be {value!r}")
            return table.add_address(thing, prefix_route=not value)
        case Prefix():
            return table.add_route(thing, parse_hops(value))
        case Neighbor():
            return table.set_neighbor(thing, value, replace=False)


def _delete(table: RouteTable, thing: Address | Prefix | Neighbor) -> bytes:
    match thing:
        case Address():
            return table.delete_address(thing)
        case Prefix():
            return table.delete_route(thing)
        case Neighbor():
            return table.delete_neighbor(thing)


def _in_the_way(change: Change) -> ForeignError:
    namespace, _, what = change.key.partition(" ")
    return ForeignError(f"namespace {namespace}: {what} exists and was not made by hostplane")


def _told(change: Change, text: str) -> ApplyError:
    namespace, _, what = change.key.partition(" ")
    return ApplyError(f"namespace {namespace}: {what}: {text}")
