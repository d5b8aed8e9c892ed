# SPDX-License-Identifier: Apache-2.0
"""What is there against what is desired: pure functions over one driver's keys and values."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from agent.core.desired import Desired, Former
from agent.core.naming import owner_hash
from agent.core.plan import Delta, ItemRef, Key, ObjectId, Value


def differences(
    name: str, desired: Desired, actual: Mapping[Key, Value], index: int = 0, of: int = 1
) -> dict[Key, Value | None]:
    """Return key -> actual value (None: absent) for each key that is not as desired.

    With *of* > 1, *actual* is one slice: only what belongs into that slice can be
    missing from it, and an item that is wanted but lies in the wrong slice (its mark
    is wrong) differs.
    """
    owners = desired.owners(name)
    expected = owners.keys() if of == 1 else _slice_keys(name, desired, index, of)
    differing = differences_among(name, desired, actual, expected)
    if of > 1:
        for key, value in actual.items():
            owner = owners.get(key)
            if owner is not None and owner_hash(owner) % of != index:
                differing[key] = value
    return differing


def differences_among(
    name: str, desired: Desired, actual: Mapping[Key, Value], expected: Collection[Key]
) -> dict[Key, Value | None]:
    """Return key -> actual value (None: absent) of what is there and not as desired, and of *expected* that is not."""
    owners = desired.owners(name)
    groups = desired.groups
    differing: dict[Key, Value | None] = {}
    for key, value in actual.items():
        owner = owners.get(key)
        wanted = None if owner is None else groups[owner].items[name][key]
        if wanted != value:
            differing[key] = value
    differing.update(dict.fromkeys(key for key in expected if key not in actual))
    return differing


def _slice_keys(name: str, desired: Desired, index: int, of: int) -> set[Key]:
    """Return the keys whose owner lies in the slice."""
    owners = desired.owners(name)
    keys: set[Key] = set()
    for oid, group in desired.groups.items():
        if owner_hash(oid) % of == index:
            keys.update(key for key in group.items.get(name, ()) if owners[key] == oid)
    return keys


def make_delta(name: str, desired: Desired, differing: Mapping[Key, Value | None], *, sweep: bool) -> Delta:
    """Return what makes the *differing* keys (key -> present value) as desired."""
    creates: dict[Key, Value] = {}
    updates: dict[Key, tuple[Value, Value]] = {}
    deletes: dict[Key, Value] = {}
    owners: dict[Key, ObjectId] = {}
    for key, present in differing.items():
        ref = ItemRef(name, key)
        wanted = desired.value(ref)
        if wanted is None:
            if present is not None and sweep:
                deletes[key] = present
            continue
        owner = desired.owner(ref)
        assert owner is not None  # noqa: S101 - a value has an owner
        owners[key] = owner
        if present is None:
            creates[key] = wanted
        else:
            updates[key] = (present, wanted)
    return Delta(creates, updates, deletes, owners)


def owners_of(delta: Delta, touched: Mapping[Key, Former]) -> dict[Key, ObjectId]:
    """Return key -> owner of all that *delta* wrote; for deletes the object that had it, as far as known."""
    owners = {key: touched[key].owner if key in touched else ObjectId("") for key in delta.deletes}
    return {**owners, **{key: delta.owners[key] for key in (*delta.creates, *delta.updates)}}
