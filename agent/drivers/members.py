# SPDX-License-Identifier: Apache-2.0
"""Driver ``members``: the elements of our IP sets, each an item.

Keys are ``<set> <element>``, an address or a network as ``ipset save`` prints it.
An element that somebody made an exception (``nomatch``) reads as such.  Elements of a
set of another type than ``hash:net`` are not looked at: driver ``ipset`` replaces it.

One element more costs a process (2 ms) and is verified alone, however many there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from agent.command import Runner
from agent.core import naming
from agent.core.errors import ApplyError
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.ipset_netlink import SetReader, SetSocket, canonical, parse
from agent.drivers.ipset_restore import Command, restore

_TYPE = "hash:net"
_FEW = 8  # elements that are looked for one by one; of more the whole set is read (10,000: 10 ms)


class MembersDriver:
    """The elements of sets of the namespace in which it is first used."""

    name = "members"

    def __init__(self, run: Runner, sets: SetReader | None = None) -> None:
        self._run = run
        self._sets = sets if sets is not None else SetSocket()

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read the elements of all sets of ours, or those of *keys* that are in."""
        if keys is not None:
            return self._look_for(keys)
        return {
            f"{name} {element}": flag
            for name, header in self._sets.headers().items()
            if naming.is_our_set(name) and header.type == _TYPE
            for element, flag in (self._sets.elements(name) or {}).items()
        }

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta* element by element, deletes first, in one batch."""
        failed: dict[Key, Exception] = {}
        commands = [
            command
            for keys, deletes in ((delta.deletes, True), ((*delta.creates, *delta.updates), False))
            for key in keys
            if (command := _command(key, failed, deletes=deletes)) is not None
        ]
        return {**failed, **restore(self._run, commands)}

    def _look_for(self, keys: Iterable[Key]) -> dict[Key, Value]:
        wanted: dict[str, dict[str, Key]] = defaultdict(dict)
        for key in keys:
            name, _, element = key.partition(" ")
            if naming.is_our_set(name) and _is_element(element):
                wanted[name][element] = key
        headers = self._sets.headers(wanted)
        found: dict[Key, Value] = {}
        for name, elements in wanted.items():
            if name in headers and headers[name].type == _TYPE:
                present = self._few(name, elements) if len(elements) <= _FEW else self._many(name, elements)
                found.update((elements[element], flag) for element, flag in present.items())
        return found

    def _few(self, name: str, elements: Collection[str]) -> dict[str, str]:
        return dict.fromkeys(self._sets.contained(name, elements), "")

    def _many(self, name: str, elements: Collection[str]) -> dict[str, str]:
        listed = self._sets.elements(name) or {}
        return {element: listed[text] for element in elements if (text := canonical(element)) in listed}


def _is_element(text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _command(key: Key, failed: dict[Key, Exception], *, deletes: bool) -> Command | None:
    """Return what writes *key*, None if it is not an element, which *failed* then says.

    ipset would take a text that is no address for the name of a host and look it up.
    """
    name, _, element = key.partition(" ")
    try:
        if not naming.is_our_set(name):
            raise ValueError(f"{name!r} is not a set of hostplane")
        parse(element)
    except ValueError as err:
        failed[key] = ApplyError(f"IP set {name}: {err}")
        return None
    return Command(key, name, (f"{'del' if deletes else 'add'} {name} {element}",), deletes)
