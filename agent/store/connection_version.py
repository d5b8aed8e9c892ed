# SPDX-License-Identifier: Apache-2.0
"""Versions of the schema: changes within a major version only add."""

from __future__ import annotations

from agent.core.errors import StoreError
from agent.store.remotes import schema_version


def is_older(address: str, found: str) -> bool:
    """Tell whether a store with schema version *found* lacks something of ours, which a conversion adds.

    Raises StoreError when it has another major version: no conversion helps there.
    """
    ours = tuple(int(part) for part in schema_version().split("."))
    try:
        theirs = tuple(int(part) for part in found.split("."))
    except ValueError:
        raise StoreError(f"store {address}: its schema has no version that we understand: {found!r}") from None
    if theirs[:1] != ours[:1]:
        raise StoreError(f"store {address}: {_difference(found)}: use a program of the same generation")
    return theirs < ours


def check_version(address: str, found: str) -> None:
    """Raise StoreError unless a store with schema version *found* can serve us as it is."""
    if is_older(address, found):
        raise StoreError(f"store {address}: {_difference(found)}: convert it (ovsdb-client convert)")


def _difference(found: str) -> str:
    ours = schema_version()
    return f"its schema has version {found}, this program needs {ours} or a newer {ours.partition('.')[0]}.x"
