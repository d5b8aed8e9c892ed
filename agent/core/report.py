# SPDX-License-Identifier: Apache-2.0
"""What the daemon tells about itself: immutable values, published after each pass.

The reconcile thread builds them and replaces one reference; status and metrics
threads read that reference and never touch live state.  Times named ``at`` or
``since`` are Unix seconds, durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.core.errors import Actor, Problem
from agent.core.model import HostName, NetworkId, PortId, RouterId
from agent.core.plan import ItemRef


class ItemState(StrEnum):
    """Where an item stands."""

    PENDING = "pending"
    DONE = "done"
    ERROR = "error"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """An item that is not done: why, since when, how often it was tried, and when it is next.

    One that is blocked ``waits_for`` another, if it is one alone.  Of one that has failed
    ``actor`` is who must act before it can succeed.
    """

    state: ItemState
    message: str
    since: float
    attempts: int = 0
    next_try_at: float | None = None
    waits_for: ItemRef | None = None
    actor: Actor = Actor.NOBODY


def cause_of(ref: ItemRef, unfinished: Mapping[ItemRef, ObjectStatus]) -> ItemRef:
    """Return what *ref*, one of *unfinished*, waits for in the end: itself, or the last of those that wait before."""
    seen = {ref}
    while (required := unfinished[ref].waits_for) is not None and required in unfinished and required not in seen:
        seen.add(required)
        ref = required
    return ref


@dataclass(frozen=True, slots=True)
class Operations:
    """What one driver did in one pass, in items.

    ``failures`` counts the failed items by reason, one short word each (a metric's
    label): ``timeout``, ``command``, ``refused``, ``verify`` ...  ``seconds`` is the
    time of writing, ``read_seconds`` that of reading back before.
    """

    created: int = 0
    updated: int = 0
    deleted: int = 0
    failed: int = 0
    drifted: int = 0
    seconds: float = 0.0
    failures: Mapping[str, int] = field(default_factory=dict)
    read_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PassReport:
    """One pass: why it ran, what it did, and what is not done after it.

    ``resync`` tells that everything was read back first; ``groups_changed`` counts
    the groups that were planned anew; ``unfinished`` are the items not done.
    """

    revision: int
    started_at: float
    seconds: float
    reasons: tuple[str, ...] = ()
    resync: bool = False
    groups: int = 0
    groups_changed: int = 0
    plan_seconds: float = 0.0
    operations: Mapping[str, Operations] = field(default_factory=dict)
    unfinished: Mapping[ItemRef, ObjectStatus] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PortState:
    """A port of this host: up, or why not, and since when (Unix seconds).

    One that is up has a ``reason`` if its security groups let less pass than they should.
    """

    id: PortId
    name: str
    network: NetworkId
    up: bool
    reason: str
    since: float
    interface: str | None = None
    ofport: int | None = None


@dataclass(frozen=True, slots=True)
class RouterState:
    """A router that this host needs: whether its gateway works here, and whether all of it that should be here is.

    One that is not ready has the ``reason``.  Else that says what is left out of it, or of a
    gateway host who is active instead.  ``since`` is in Unix seconds.
    """

    id: RouterId
    active: bool
    ready: bool
    reason: str
    since: float


@dataclass(frozen=True, slots=True)
class HoldState:
    """A new desired state that is held because it would take away too many ports or routers at once."""

    since: float
    revision: int
    ports_before: int
    ports_removed: int
    text: str


@dataclass(frozen=True, slots=True)
class AgentState:
    """Everything that status and metrics show."""

    host: HostName
    version: str
    started_at: float
    store_address: str = ""
    store_connected: bool = False
    store_in_sync: bool = False
    store_last_sync_at: float | None = None
    switch_connected: bool = False
    generation: str = ""
    desired_revision: int = 0
    applied_revision: int = 0
    applied_at: float | None = None
    stale: bool = False
    hold: HoldState | None = None
    ports: Mapping[PortId, PortState] = field(default_factory=dict)
    network_names: Mapping[NetworkId, str] = field(default_factory=dict)
    objects: Mapping[str, int] = field(default_factory=dict)  # counts by noun: networks, endpoints, hosts ...
    items: Mapping[str, int] = field(default_factory=dict)  # desired items by driver
    problems: tuple[Problem, ...] = ()
    last_pass: PassReport | None = None

    @property
    def converged(self) -> bool:
        """True when everything that the store wants is in place, or is a named failure."""
        return self.store_in_sync and self.applied_revision == self.desired_revision and self.hold is None
