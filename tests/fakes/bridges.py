# SPDX-License-Identifier: Apache-2.0
"""Linux bridges and their ports in memory: the interface of ``BridgeSocket``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from agent.core.errors import ApplyError
from agent.drivers.bridges_netlink import Device
from tests.fakes.drivers import Fuse


@dataclass(frozen=True)
class Plug:
    """The devices of a hybrid plug: whether the instance's is there, and whether iptables sees the bridge."""

    instance: bool = True
    filtered: bool = False


class FakeBridges:
    """Hybrid plugs by what their devices' names end in; ``changes`` counts bridges whose flags were set.

    Of ``dead`` ones the instance's device is not there, whatever was plugged.
    """

    def __init__(self) -> None:
        self.plugs: dict[str, Plug] = {}
        self.dead: set[str] = set()
        self.fuse: Fuse | None = None
        self.changes = 0
        self._indexes: dict[str, int] = {}

    def plug(self, suffixes: Collection[str]) -> None:
        """Let exactly these plugs be there: others go, and new ones come with their flags off."""
        for gone in self.plugs.keys() - set(suffixes):
            del self.plugs[gone]
        for suffix in suffixes:
            self.plugs.setdefault(suffix, Plug())

    def alter(self, suffix: str, *, instance: bool = True, filtered: bool = True) -> None:
        """Change a plug by hand."""
        self.plugs[suffix] = Plug(instance, filtered)

    def has_instance(self, suffix: str) -> bool:
        """Tell whether the instance's device is in its bridge."""
        return suffix in self.plugs and self.plugs[suffix].instance and suffix not in self.dead

    def bridges(self) -> list[Device]:
        return [device for device in self._devices().values() if device.filtered is not None]

    def ports(self) -> list[Device]:
        return [device for device in self._devices().values() if device.master]

    def find(self, names: Collection[str]) -> dict[str, Device]:
        devices = self._devices()
        return {name: devices[name] for name in names if name in devices}

    def set_filtered(self, bridges: Collection[Device]) -> dict[str, ApplyError]:
        for device in bridges:
            if self.fuse is not None:
                self.fuse.burn()
            suffix = device.name.removeprefix("qbr")
            self.plugs[suffix] = replace(self.plugs[suffix], filtered=True)
            self.changes += 1
        return {}

    def _devices(self) -> Mapping[str, Device]:
        found: dict[str, Device] = {}
        for suffix, plug in self.plugs.items():
            bridge = Device(self._index(f"qbr{suffix}"), f"qbr{suffix}", 0, plug.filtered)
            ports = [f"qvb{suffix}", *([f"tap{suffix}"] if self.has_instance(suffix) else [])]
            found[bridge.name] = bridge
            found.update((name, Device(self._index(name), name, bridge.index)) for name in ports)
        return found

    def _index(self, name: str) -> int:
        return self._indexes.setdefault(name, len(self._indexes) + 10)
