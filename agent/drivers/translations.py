# SPDX-License-Identifier: Apache-2.0
"""Driver ``translations``: ends the connections that a router translates as nobody wants it any more.

The rules of driver ``nat`` see the first packet of a connection; all others follow the
entry that it made, in the router's namespace.  So when a floating IP or port forwarding
goes, or stands for somebody else, the entries that it made are looked for and ended, after
the rules are gone.  When one comes, those end that it would have made otherwise: what was
sent to the address while that was elsewhere would go on to nobody, and what came from it
would keep the ports of a session whose other end has just moved here.  Those of others are
not touched.

The same with prefixes behind a router's interfaces, on subnets or by routes: what was
sent there would else leave the router as it is when they go, untranslated, and go on under
another address when they come.

The items are not in the kernel: they are what was wanted when connections were looked at
last, kept in memory.  A fresh process does not know what was wanted before, so it looks
once at each router's connections and ends those that none of today's translations, and no
address of the router, accounts for; until then such a namespace has an item of its own
that nobody wants.  What rules of others translate in our namespaces is ended then, too,
once.

To list a router's connections takes the kernel 10 ms and more, as all namespaces have one
table.  That is once for each router and pass, after everything else, and where none are,
none are listed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.core import naming
from agent.core.errors import ApplyError
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.conntrack_nat import TranslatedTable
from agent.drivers.namespaces import Namespace, names, open_ours, told
from agent.drivers.routes_netlink import RouteTable
from agent.drivers.routes_text import Address
from agent.drivers.translations_judge import Change, Explanation
from agent.drivers.translations_text import Inside, Translation, parse
from agent.namespace import FOLDER, inside

LOG = logging.getLogger(__name__)

UNJUDGED: Final = "unjudged"  # word and value of the item of a namespace whose connections were not looked at yet


@dataclass(slots=True)
class _Work:
    """What a delta says of one namespace: the keys, what each is now, and what that changes."""

    wishes: dict[Key, Value | None] = field(default_factory=dict)
    change: Change = field(default_factory=Change)


class TranslationsDriver:
    """Connections in the routers' namespaces that have a name in *folder*.  Used by the reconcile thread only."""

    name = "translations"

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._wanted: dict[str, dict[Key, Translation | Inside]] = {}  # by namespace: as of now
        self._done: dict[Key, Value] = {}  # as of when connections were looked at
        self._judged: set[str] = set()  # namespaces in which this process has looked at all of them
        self.ended = 0  # connections, since the process began

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Return what connections have been looked at for so far.  Raises ApplyError."""
        if keys is not None:
            found = {key: self._done[key] for key in keys if key in self._done}
            spaces = [key.partition(" ")[0] for key in keys if key.endswith(f" {UNJUDGED}")]
        else:
            found = dict(self._done)
            spaces = list(filter(naming.is_router_namespace, names(self._folder)))
            self._judged.intersection_update(spaces)
        for space in spaces:
            if space not in self._judged and (opened := open_ours(space, self._folder)) is not None:
                opened.close()
                found[_unjudged(space)] = UNJUDGED
        return found

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """End the connections that *delta* takes the ground from.

        What could not be looked at keeps its former value, so that it is tried again.
        """
        failed: dict[Key, Exception] = {}
        for space, work in self._take_over(delta, failed).items():
            try:
                if work.change or space not in self._judged:
                    self._end(space, work.change)
            except (OSError, ApplyError) as err:
                failed.update(dict.fromkeys(work.wishes, told(space, err)))
                continue
            for key, value in work.wishes.items():
                if value is None:
                    self._done.pop(key, None)
                else:
                    self._done[key] = value
        return failed

    def _take_over(self, delta: Delta, failed: dict[Key, Exception]) -> dict[str, _Work]:
        """Remember what is wanted now; return what that means for each namespace."""
        found: dict[str, _Work] = {}
        for key, new in _wishes(delta):
            space = key.partition(" ")[0]
            old, now = self._done.get(key), None
            try:
                now = parse(key, str(new))[1] if new is not None else None
            except ApplyError as err:
                failed[key] = err
                continue
            wanted = self._wanted.setdefault(space, {})
            if now is None:
                wanted.pop(key, None)
            else:
                wanted[key] = now
            work = found.setdefault(space, _Work())
            work.wishes[key] = new
            if old != new:
                work.change.add(parse(key, str(old))[1] if old is not None else None, now)
            if not wanted:
                del self._wanted[space]
        return found

    def _end(self, space: str, change: Change) -> None:
        """End what *change* takes the ground from, or all that nothing accounts for.  Raises OSError, ApplyError."""
        namespace = open_ours(space, self._folder)
        if namespace is None:
            return  # its connections went with it
        with namespace, inside(namespace.descriptor), TranslatedTable() as table:
            if table.count():
                own = _own_addresses(namespace) - change.addresses()  # even if the router still has them
                now = Explanation(self._wanted.get(space, {}).values(), own)
                everything = space not in self._judged
                doomed = [
                    one
                    for one in table.dump(now.asked if everything else change.asked)
                    if change.ends(one, now) or ((everything or change.concerns(one)) and not now.holds(one))
                ]
                ended = table.end(doomed) if doomed else 0
                self.ended += ended
                if doomed:
                    LOG.info("namespace %s: ended %d connections that are translated otherwise now", space, ended)
        self._judged.add(space)


def _unjudged(space: str) -> Key:
    return f"{space} {UNJUDGED}"


def _wishes(delta: Delta) -> Iterator[tuple[Key, Value | None]]:
    yield from delta.creates.items()
    yield from ((key, new) for key, (_, new) in delta.updates.items())
    yield from dict.fromkeys(delta.deletes).items()


def _own_addresses(namespace: Namespace) -> set[bytes]:
    """Return the addresses that a router has, whoever gave them to it."""
    return {thing.packed for thing in RouteTable(namespace.kernel).addresses() if isinstance(thing, Address)}
