# SPDX-License-Identifier: Apache-2.0
"""Driver ``bridges``: the Linux bridges between instances and the switch, and their way through iptables.

Bridge and ports belong to who plugged (Nova's os-vif, ``hostplane plug``): they are
never made or deleted.  What we set are the bridge's own ``nf_call_iptables`` and
``nf_call_ip6tables``, which hold whatever becomes of the settings for all bridges.
They are also the mark by which a fresh process knows a bridge that one before it
has served.  Taking such an item away means to forget it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from agent.core.errors import ApplyError
from agent.core.items import HybridBridge
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.bridges_netlink import BridgeSocket, Device

_BRIDGE, _INSTANCE, _SWITCH = "qbr", "tap", "qvb"  # as os-vif calls them, each followed by the same characters
_FEW = 16  # bridges that are asked for by name; of more the kernel's lists are read (400: 15 ms)
_NO_NETFILTER = "frames on bridges do not pass iptables; load the module: modprobe br_netfilter"


class Bridges(Protocol):
    """What the driver needs of ``BridgeSocket``."""

    def bridges(self) -> list[Device]:
        """List all bridges."""

    def ports(self) -> list[Device]:
        """List all ports of bridges."""

    def find(self, names: Collection[str]) -> dict[str, Device]:
        """Return those of the named devices that exist."""

    def set_filtered(self, bridges: Collection[Device]) -> dict[str, ApplyError]:
        """Have iptables of both families see what bridges forward; return those that were refused."""


class BridgesDriver:
    """Bridges of the namespace in which it is first used; *netfilter* is there if br_netfilter is loaded."""

    name = "bridges"

    def __init__(self, netfilter: Path = Path("/proc/sys/net/bridge"), kernel: Bridges | None = None) -> None:
        self._netfilter = netfilter
        self._kernel = kernel if kernel is not None else BridgeSocket()
        self._served: set[Key] | None = None  # None: nobody has asked yet which there are

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read all bridges that are served, or those of *keys* among them.

        A fresh process takes for served what is complete and filtered.  Later ones are
        those that it was asked to write: whoever plugs may set the flags as well, and
        a bridge that is not planned yet is nobody's drift.  One that it was told to
        forget is not there any more, whatever becomes of the devices.
        """
        if self._served is None:
            self._served = {name for name, bridge in self._read_all().items() if _is_complete(bridge)}
        names = self._served if keys is None else self._served.intersection(keys)
        found = self._freeze(self._by_name(names), names) if len(names) <= _FEW else self._read_all()
        return {name: bridge for name, bridge in found.items() if name in names}

    def _read_all(self) -> dict[Key, HybridBridge]:
        bridges = {device.name: device for device in self._kernel.bridges() if device.name.startswith(_BRIDGE)}
        ports = {device.name: device for device in self._kernel.ports()}
        return self._freeze({**ports, **bridges}, bridges)

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Set the flags of bridges; a bridge or port that is not there is an error, and comes with the next plug."""
        wanted = {**delta.creates, **{key: new for key, (_, new) in delta.updates.items()}}
        items = {key: value for key, value in wanted.items() if isinstance(value, HybridBridge)}
        devices = self._by_name(items)
        failed: dict[Key, Exception] = {key: error for key, item in items.items() if (error := _error(item, devices))}
        if not self._netfilter.exists():
            failed.update((key, ApplyError(f"bridge {key}: {_NO_NETFILTER}")) for key in items)
        # What is there is filtered even if something else is missing.
        unfiltered = [devices[key] for key in items if key in devices and devices[key].filtered is False]
        for key, error in self._kernel.set_filtered(unfiltered).items():
            failed.setdefault(key, error)
        self._served = ((self._served or set()) | items.keys()) - delta.deletes.keys()
        return failed

    def _by_name(self, bridges: Collection[Key]) -> dict[str, Device]:
        names = [prefix + bridge[len(_BRIDGE) :] for bridge in bridges for prefix in (_BRIDGE, _INSTANCE, _SWITCH)]
        return self._kernel.find(names)

    def _freeze(self, devices: Mapping[str, Device], names: Collection[Key]) -> dict[Key, HybridBridge]:
        netfilter = self._netfilter.exists()
        found = {}
        for name in names:
            bridge = devices.get(name)
            if bridge is not None and bridge.filtered is not None:
                instance, switch = (
                    _port(prefix + name[len(_BRIDGE) :], bridge, devices) for prefix in (_INSTANCE, _SWITCH)
                )
                found[name] = HybridBridge(name, instance, switch, bridge.filtered and netfilter)
        return found


def bridge_of(device: str) -> Key:
    """Return the bridge that a device called as os-vif calls them belongs to; of a bridge itself."""
    return _BRIDGE + device[len(_BRIDGE) :]


def _port(name: str, bridge: Device, devices: Mapping[str, Device]) -> str:
    """Return *name* if that device is a port of *bridge*, else ""."""
    device = devices.get(name)
    return name if device is not None and device.master == bridge.index else ""


def _is_complete(bridge: HybridBridge) -> bool:
    return bridge.filtered and bool(bridge.instance) and bool(bridge.switch)


def _error(item: HybridBridge, devices: Mapping[str, Device]) -> ApplyError | None:
    """Return what is missing, and what to do about it."""
    bridge = devices.get(item.name)
    if bridge is None or bridge.filtered is None:
        what = "does not exist" if bridge is None else "is not a Linux bridge"
        return ApplyError(f"bridge {item.name} {what}; plug the port again")
    for name in (item.instance, item.switch):
        if _port(name, bridge, devices) != name:
            there = f"is not in bridge {item.name}" if name in devices else "does not exist"
            return ApplyError(f"bridge {item.name}: device {name} {there}; start the instance, or plug the port again")
    return None
