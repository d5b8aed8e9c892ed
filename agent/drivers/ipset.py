# SPDX-License-Identifier: Apache-2.0
"""Driver ``ipset``: the IP sets that rules refer to, without their elements.

A set is ours by its name.  One of another type or size is replaced: in place, with its
elements, where the kernel can (``swap`` wants the same kind of set), else it is
destroyed and made, which the kernel allows only while no rule refers to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.command import Runner
from agent.core import naming
from agent.core.errors import ApplyError
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.ipset_netlink import MAXELEM, SetReader, SetSocket
from agent.drivers.ipset_restore import Command, restore

_SPARE_PREFIX = "hp-x-"  # of a set on its way in; what is left of one is swept, as nobody wants it


class IpsetDriver:
    """The sets of the namespace in which it is first used."""

    name = "ipset"

    def __init__(self, run: Runner, sets: SetReader | None = None) -> None:
        self._run = run
        self._sets = sets if sets is not None else SetSocket()

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read how all sets of ours, or those of *keys* among them, were made."""
        found = self._sets.headers(None if keys is None else [key for key in keys if naming.is_our_set(key)])
        return {name: str(header) for name, header in found.items() if naming.is_our_set(name)}

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta* in one batch: first what is made, then what is destroyed."""
        failed: dict[Key, Exception] = {}
        wanted: dict[Key, str] = {}
        for key, value in (*delta.creates.items(), *((key, new) for key, (_, new) in delta.updates.items())):
            if isinstance(value, str) and naming.is_our_set(key):
                wanted[key] = value
            else:
                failed[key] = ApplyError(f"IP set {key}: not a set that hostplane can make")
        commands = [*self._makes(wanted), *(_destroys(key) for key in delta.deletes if naming.is_our_set(key))]
        return {**failed, **restore(self._run, commands)}

    def _makes(self, wanted: Mapping[Key, str]) -> Iterator[Command]:
        present = self._sets.headers(wanted)
        for name, how in wanted.items():
            there = present.get(name)
            if there is None:
                yield Command(name, name, (_create(name, how),))
            elif str(there) == how:
                continue
            elif how == f"{there.type} family {there.family}":  # swap compares just these two
                yield Command(name, name, tuple(self._replace(name, how)))
            else:
                yield Command(name, name, (f"destroy {name}", _create(name, how)))

    def _replace(self, name: str, how: str) -> Iterator[str]:
        """Yield what puts a new set in the place of the present one at one moment, its elements included."""
        spare = _SPARE_PREFIX + naming.short_hash(name)
        yield _create(spare, how)
        yield f"flush {spare}"
        for element, flag in (self._sets.elements(name) or {}).items():
            if not flag:
                yield f"add {spare} {element}"
        yield f"swap {name} {spare}"
        yield f"destroy {spare}"


def _create(name: str, how: str) -> str:
    return f"create {name} {how} maxelem {MAXELEM}"


def _destroys(name: str) -> Command:
    return Command(name, name, (f"destroy {name}",), deletes=True)
