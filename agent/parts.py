# SPDX-License-Identifier: Apache-2.0
"""What the reconcile loop works with."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.inputs import SnapshotChooser
from agent.core.plan import Driver
from agent.core.reconciler import Reconciler
from agent.drivers.announcer import Announcer
from agent.drivers.flows import FlowsDriver
from agent.drivers.switch import LocalSwitch
from agent.filtering import Filtering
from agent.gateways import Gateways
from agent.responding import Responding
from agent.router_repair import RouterRepair
from agent.router_views import Look
from agent.status.sdnotify import Heartbeat
from agent.store.reader import SnapshotReader
from agent.store.status_writer import StatusWriter
from agent.wake import Wake


@dataclass(frozen=True, slots=True)
class Parts:
    """Made by ``agent.__main__``, once."""

    reader: SnapshotReader
    status_writer: StatusWriter
    switch: LocalSwitch
    drivers: tuple[Driver, ...]
    flows: FlowsDriver
    announcer: Announcer
    chooser: SnapshotChooser
    heartbeat: Heartbeat
    reconciler: Reconciler
    wake: Wake
    filtering: Filtering | None
    responding: Responding | None
    gateways: Gateways
    look: Look
    repair: RouterRepair
