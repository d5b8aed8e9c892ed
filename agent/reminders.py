# SPDX-License-Identifier: Apache-2.0
"""Keep switches of physical networks from forgetting instances of which they see nothing.

What an instance sends to a distributed router leaves under the MAC address of host and
interface; one that has only routed traffic never shows its own.  Switches forget it
(IEEE 802.1Q, 8.8.3: after 300 s, unless told otherwise) and flood what is for it from then
on.  So a frame under its address goes out to the physical network every ``PERIOD``.

Such a frame reminds switches and is for nobody: it goes to a group address that no host
listens to and every ``br-int`` drops, past the pipeline, so that it costs one copy however
many ports the network has.  A tenth of the ports has its turn every ten seconds, in one
packet-out bundle.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Final, Protocol

from agent.core import naming
from agent.core.model import HostSnapshot, Network, NetworkId, NetworkType, PortId, SwitchView
from agent.l2.announce import place_frame
from agent.l3.places import is_everywhere

PERIOD: Final = 100.0  # seconds from one frame of a port to the next: two may be lost
TURNS: Final = 10  # in a period


class Exit(Protocol):
    """Sends (OpenFlow port number, Ethernet frame) out of ports; never fails for what the switch does."""

    def send_out(self, frames: Iterable[tuple[int, bytes]]) -> Future[float]:
        """Send *frames* without waiting for it."""


class Reminders:
    """Whose turn it is; used by the reconcile thread.  Times are monotonic."""

    def __init__(self, way_out: Exit, monotonic: Callable[[], float]) -> None:
        self._exit = way_out
        self._monotonic = monotonic
        self._turn = 0
        self._due: float | None = None
        self._last: tuple[HostSnapshot, dict[NetworkId, Network]] | None = None

    def next_due(self) -> float | None:
        """Return when ``step`` is to be called, None while there is nobody to be reminded of."""
        return self._due

    def step(self, snapshot: HostSnapshot, switch: SwitchView) -> None:
        """Send what is due; to be called after each pass, too, when there may be somebody now."""
        now = self._monotonic()
        networks = self._networks(snapshot)
        if not networks:
            self._due = None
        elif self._due is None:
            self._due = now + PERIOD / TURNS
        elif now >= self._due:
            self._due = now + PERIOD / TURNS
            self._turn = (self._turn + 1) % TURNS
            frames = list(_frames(snapshot, switch, networks, self._turn))
            if frames:
                self._exit.send_out(frames)

    def _networks(self, snapshot: HostSnapshot) -> dict[NetworkId, Network]:
        last = self._last
        known = last is not None and last[0].routers is snapshot.routers and last[0].networks is snapshot.networks
        networks = last[1] if last is not None and known else _routed_networks(snapshot)
        self._last = (snapshot, networks)
        return networks


def turn_of(port: PortId) -> int:
    """Return the turn of a port."""
    return zlib.crc32(port.encode()) % TURNS


def _routed_networks(snapshot: HostSnapshot) -> dict[NetworkId, Network]:
    """Return the physical networks of distributed routers."""
    found: dict[NetworkId, Network] = {}
    for router in snapshot.routers.values():
        for interface in router.interfaces if is_everywhere(router) else ():
            network = snapshot.networks.get(interface.network)
            if network is not None and network.type.is_physical:
                found[network.id] = network
    return found


def _frames(
    snapshot: HostSnapshot, switch: SwitchView, networks: dict[NetworkId, Network], turn: int
) -> Iterator[tuple[int, bytes]]:
    for port in snapshot.ports.values():
        network = networks.get(port.network)
        if network is None or not port.admin_state_up or turn_of(port.id) != turn:
            continue
        interface = switch.interfaces.get(port.id)
        way_out = switch.ofports.get(naming.patch_port_names(network.physnet or "")[0], 0)
        if way_out > 0 and interface is not None and interface.ofport is not None:
            yield way_out, place_frame(port.mac, network.segmentation_id if network.type is NetworkType.VLAN else None)
