# SPDX-License-Identifier: Apache-2.0
"""Looking at what passes wrote, and at what hangs on it, while nothing more urgent is to be done.

A pass that is due comes first: an instance waits for that, and for this nobody.  What
passes wrote meanwhile is looked at together.  While passes never end, each is followed by
one part, once something has waited for ``PATIENCE``.

With a namespace that was made anew all that it held has gone, with a device its addresses,
routes and sockets, and its other end.  That is read back, too,
unless it was written itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.core.plan import Driver, Key
from agent.core.reconciler import Reconciler
from agent.read_back import ReadBack, desired_links, other_ends

PATIENCE = 1.0  # seconds that passes may come first
AT_ONCE = 100  # items that are read back in one part
# Whose items go with the namespaces and devices that they are in.
_HANGING = ("links", "routes", "ovs", "nat", "fallback", "connects", "responder")


class Verification:
    """What is still to be looked at; used by the reconcile thread."""

    def __init__(self, drivers: Sequence[Driver], read_back: ReadBack, monotonic: Callable[[], float]) -> None:
        self._drivers = {driver.name: driver for driver in drivers}
        self._read_back = read_back
        self._monotonic = monotonic
        self._since: float | None = None
        self._hanging: dict[str, frozenset[Key] | None] = {}  # by driver; None: all of it

    def after_pass(self, reconciler: Reconciler) -> None:
        """Take up what has been written and not looked at."""
        if reconciler.is_verified():
            return
        if self._since is None:
            self._since = self._monotonic()
        spaces, peers = _made_anew(reconciler)
        if not spaces and not peers:
            return
        for name in _HANGING:
            driver = self._drivers.get(name)
            if driver is None:
                continue
            keys = self._read_back.keys_in(reconciler, driver, spaces)
            if keys is None:
                self._hanging[name] = None
                continue
            found = peers.union(keys) if name == "links" else frozenset(keys)
            left = found.difference(reconciler.written(name), self._hanging.get(name) or ())
            if left:
                self._hanging[name] = left.union(self._hanging.get(name) or ())

    def is_pending(self) -> bool:
        """Tell whether something is still to be looked at."""
        return self._since is not None

    def is_late(self) -> bool:
        """Tell whether something has waited so long that passes come first no more."""
        return self._since is not None and self._monotonic() >= self._since + PATIENCE

    def step(self, reconciler: Reconciler) -> None:
        """Look at one part.  What is not as desired is open from then on, and due."""
        if not reconciler.is_verified():
            reconciler.verify_some()
        elif self._hanging:
            self._read_hanging(reconciler)
        if reconciler.is_verified() and not self._hanging:
            self._since = None

    def _read_hanging(self, reconciler: Reconciler) -> None:
        name = next(iter(self._hanging))
        keys = self._hanging.pop(name)
        if keys is None:
            reconciler.read_back(self._drivers[name], 0, 1)
            return
        ordered = sorted(keys)
        reconciler.read_back_items(self._drivers[name], ordered[:AT_ONCE])
        if len(ordered) > AT_ONCE:
            self._hanging[name] = frozenset(ordered[AT_ONCE:])


def _made_anew(reconciler: Reconciler) -> tuple[frozenset[str], frozenset[Key]]:
    """Return in which namespaces something was made, and the other ends of the devices that were."""
    links = desired_links(reconciler, reconciler.written("links"))
    peers = other_ends(links)
    spaces = frozenset(end.rpartition("/")[0] for end in (*links, *peers)) - {""}
    return spaces.union(reconciler.written("netns")), peers
