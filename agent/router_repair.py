# SPDX-License-Identifier: Apache-2.0
"""What others change in routers' namespaces is read back at once, so that the pass that follows puts it right.

What the kernel tells may be the consequence of what we have just written; that is looked
at anyway (``agent.verification``) and forgotten here.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection
from typing import Final

from agent.core import naming
from agent.core.plan import Driver
from agent.core.reconciler import Reconciler
from agent.drivers.space_watch import Changed, SpaceWatch
from agent.read_back import ReadBack, desired_links, other_ends

SPACES_CHANGED: Final = "spaces"  # what wakes the loop
_DEVICES: Final = ("netns", "links", "routes")
_RULES: Final = ("nat", "fallback")
_NOTHING: Final = Changed(frozenset(), frozenset())


class RouterRepair:
    """Used by the reconcile thread, except where another is named.

    *started* tells whether a process is one of our commands; *wake* is called with a
    reason from any thread.
    """

    def __init__(
        self, drivers: Collection[Driver], started: Callable[[int], bool], wake: Callable[[str], None]
    ) -> None:
        self._drivers = {driver.name: driver for driver in drivers if driver.name in (*_DEVICES, *_RULES)}
        self._wake = wake
        self._heard: queue.SimpleQueue[Changed] = queue.SimpleQueue()
        self._watch = SpaceWatch(self.hear, started, naming.is_router_namespace)

    def start(self) -> None:
        """Begin to watch; on the main thread."""
        self._watch.start()

    def stop(self) -> None:
        """End watching; on the main thread, after the reconcile thread has ended."""
        self._watch.stop()

    def hear(self, changed: Changed) -> None:
        """Take note of what was changed; any thread."""
        self._heard.put(changed)
        self._wake(SPACES_CHANGED)

    def read_back(self, reconciler: Reconciler, everything: ReadBack) -> bool:
        """Read back where something was changed; tell whether something was."""
        changed = self._take()
        for name, driver in self._drivers.items():
            spaces = changed.devices if name in _DEVICES else changed.rules
            if spaces:
                self._read(reconciler, everything, driver, spaces)
        return any(changed)

    def after_pass(self, reconciler: Reconciler) -> None:
        """Forget what was heard of namespaces that the pass has written in."""
        changed = self._take()
        left = Changed(changed.devices - _written(reconciler, _DEVICES), changed.rules - _written(reconciler, _RULES))
        if any(left):
            self.hear(left)

    def _read(self, reconciler: Reconciler, everything: ReadBack, driver: Driver, spaces: Collection[str]) -> None:
        if driver.name == "netns":
            reconciler.read_back_items(driver, spaces)
            return
        keys = everything.keys_in(reconciler, driver, spaces)
        if driver.name == "links":  # with the ends on the host, which go with those in the namespace
            ends = other_ends(desired_links(reconciler, keys or ()))
            reconciler.read_back_items(driver, ends.union(keys or ()))
            return
        everything.read_places(reconciler, driver, spaces)

    def _take(self) -> Changed:
        found = _NOTHING
        while not self._heard.empty():
            more = self._heard.get()
            found = Changed(found.devices | more.devices, found.rules | more.rules)
        return found


def _written(reconciler: Reconciler, drivers: Collection[str]) -> frozenset[str]:
    """Return the namespaces in which items were written that were not read back yet."""
    keys = (key for name in drivers for key in reconciler.written(name))
    return frozenset(key.partition(" ")[0].partition("/")[0] for key in keys)
