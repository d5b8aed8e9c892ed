# SPDX-License-Identifier: Apache-2.0
"""Driver ``links``: network devices of the host's namespace.

A device is ours if its alias says so (``hostplane:<kind>:<uuid>``); it is made and
marked in one step, so none can be left behind unmarked.  What ``hostplane plug``
made carries an alias too, but is that command's: it goes with ``unplug``.

Devices here carry instances' frames, so the host must not take part: IPv6 is
switched off on them before they come up.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import secrets
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from agent.core import naming
from agent.core.errors import ApplyError
from agent.core.items import Link
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers import rtnetlink
from agent.drivers.rtnetlink import Device, RtNetlink

PLUGGED_BY_COMMAND = f"{naming.ALIAS_PREFIX}plug:"
DOWN = " (down)"  # appended to the kind of a device that somebody has shut: it differs from what is wanted
_SIOCETHTOOL = 0x8946
_ETHTOOL_GTXCSUM, _ETHTOOL_STXCSUM = 0x16, 0x17
_INDEXES = range(1 << 20, 1 << 24)
_IFREQ = struct.Struct("=16sQ16x")
_GONE = os.strerror(errno.ENODEV)


class LinksDriver:
    """Devices of the namespace in which it is first used.

    *sysctl* is the folder with one folder of IPv6 settings per device.
    """

    name = "links"

    def __init__(self, sysctl: Path = Path("/proc/sys/net/ipv6/conf")) -> None:
        self._sysctl = sysctl
        self._netlink: RtNetlink | None = None

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read all devices of ours, or those of *keys* among them, in one dump."""
        devices = self._route().devices()
        names = {device.index: name for name, device in devices.items()}
        with _control() as control:
            return {
                name: _freeze(device, names, control)
                for name, device in devices.items()
                if is_ours(device) and (keys is None or name in keys)
            }

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta* in two batches: what is made and marked, then what depends on indexes."""
        wanted = {key: new for key, new in _writes(delta) if isinstance(new, Link)}
        failed: dict[Key, Exception] = {}
        self._make(wanted, failed)
        devices = self._route().devices()
        ready = {key: link for key, link in wanted.items() if key not in failed}
        self._configure(ready, devices, failed)
        doomed = [devices[key] for key in delta.deletes if key in devices and is_ours(devices[key])]
        self._send([(device.name, rtnetlink.delete_device(device.index)) for device in doomed], failed)
        return failed

    def _make(self, wanted: Mapping[Key, Link], failed: dict[Key, Exception]) -> None:
        """Make what is missing or of another kind; mark it."""
        devices = self._route().devices()
        names = {device.index: name for name, device in devices.items()}
        missing: dict[Key, Link] = {}
        stale: set[str] = set()
        for key, link in wanted.items():
            present = devices.get(key)
            if present is not None and (present.kind, names.get(present.link or 0)) == (link.kind, link.peer):
                if not is_ours(present):
                    failed[key] = _foreign(key)
                continue
            ends = {key} if link.peer is None else {key, link.peer}
            occupied = {end: devices[end] for end in ends if end in devices}
            foreign = next((end for end, device in sorted(occupied.items()) if not is_ours(device)), None)
            if foreign is not None:
                failed[key] = _foreign(foreign)
                continue
            missing[key] = link
            stale.update(occupied)
        requests = [(name, rtnetlink.delete_device(devices[name].index)) for name in sorted(stale)]
        requests += _creations(missing, wanted, names)
        self._send(requests, failed)
        for key, link in missing.items():
            if key not in failed and link.peer in failed:
                failed[key] = failed[link.peer]  # the pair was to be made by the other end's request

    def _configure(
        self, wanted: Mapping[Key, Link], devices: Mapping[str, Device], failed: dict[Key, Exception]
    ) -> None:
        """Set what a device can be told when all of them exist."""
        requests: list[tuple[Key, bytes]] = []
        with _control() as control:
            for key, link in wanted.items():
                device = devices.get(key)
                master = None if link.master is None else devices.get(link.master)
                if device is None or (link.master is not None and master is None):
                    failed[key] = ApplyError(f"device {key}: {key if device is None else link.master} does not exist")
                    continue
                if device.alias != naming.ALIAS_PREFIX + link.owner:
                    requests.append((key, rtnetlink.set_alias(device.index, naming.ALIAS_PREFIX + link.owner)))
                index = 0 if master is None else master.index
                try:
                    self._disable_ipv6(key)
                    _set_tx_checksum(control, link)
                except OSError as err:
                    failed[key] = ApplyError(f"device {key}: {err.strerror}")
                requests.append((key, rtnetlink.set_device(device.index, mtu=link.mtu, master=index)))
        self._send(requests, failed)

    def _send(self, requests: Iterable[tuple[Key, bytes]], failed: dict[Key, Exception]) -> None:
        pairs = list(requests)
        results = self._route().send([request for _, request in pairs])
        for (key, request), error in zip(pairs, results, strict=True):
            # Of a veth pair the second end is gone with the first.
            gone = error is not None and error.startswith(_GONE) and _is_delete(request)
            if error is not None and not gone:
                failed.setdefault(key, ApplyError(f"device {key}: {error}"))

    def _disable_ipv6(self, name: str) -> None:
        setting = self._sysctl / name / "disable_ipv6"
        if setting.exists():  # not there if the kernel does without IPv6
            setting.write_text("1")

    def _route(self) -> RtNetlink:
        if self._netlink is None:
            self._netlink = RtNetlink()
        return self._netlink


def is_ours(device: Device) -> bool:
    """Tell whether this driver made *device*."""
    return naming.is_our_alias(device.alias) and not (device.alias or "").startswith(PLUGGED_BY_COMMAND)


def _writes(delta: Delta) -> Iterable[tuple[Key, Value]]:
    yield from delta.creates.items()
    for key, (_, new) in delta.updates.items():
        yield key, new


def _foreign(name: str) -> ApplyError:
    return ApplyError(f"device {name} exists and was not made by hostplane")


def _creations(
    missing: Mapping[Key, Link], wanted: Mapping[Key, Link], names: Mapping[int, str]
) -> list[tuple[Key, bytes]]:
    """Return the requests that make and mark *missing*, a veth pair by one request."""
    requests: list[tuple[Key, bytes]] = []
    indexes = _unused_indexes(names)
    made: set[Key] = set()
    for key, link in missing.items():
        if key in made:
            continue
        index = next(indexes)
        made.add(key)
        if link.peer is None:
            requests.append((key, rtnetlink.new_bridge(index, key, link.mtu)))
        else:
            peer_index = next(indexes)
            peer_owner = wanted[link.peer].owner if link.peer in wanted else link.owner
            requests.append((key, rtnetlink.new_veth(index, key, peer_index, link.peer, link.mtu)))
            requests.append((key, rtnetlink.set_alias(peer_index, naming.ALIAS_PREFIX + peer_owner)))
            made.add(link.peer)
        requests.append((key, rtnetlink.set_alias(index, naming.ALIAS_PREFIX + link.owner)))
    return requests


def _unused_indexes(used: Mapping[int, str]) -> Iterator[int]:
    """Yield indexes far above those that the kernel gives out by itself."""
    start = secrets.choice(_INDEXES)
    for offset in range(len(_INDEXES)):
        index = _INDEXES[(start + offset) % len(_INDEXES)]
        if index not in used:
            yield index


def _is_delete(request: bytes) -> bool:
    return int.from_bytes(request[4:6], "little") == rtnetlink.RTM_DELLINK


def _freeze(device: Device, names: Mapping[int, str], control: socket.socket) -> Link:
    return Link(
        name=device.name,
        kind=device.kind + ("" if device.up else DOWN),
        owner=(device.alias or "").removeprefix(naming.ALIAS_PREFIX),
        mtu=device.mtu,
        peer=names.get(device.link or 0),
        master=names.get(device.master or 0),
        # What a bridge can do follows from its ports, so only veths are asked.
        tx_checksum=device.kind != "veth" or _tx_checksum(control, device.name),
    )


def _control() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _tx_checksum(control: socket.socket, name: str) -> bool:
    try:
        return bool(_ethtool(control, name, _ETHTOOL_GTXCSUM, 0))
    except OSError:
        return True  # gone since it was listed, and noticed at the next reading


def _set_tx_checksum(control: socket.socket, link: Link) -> None:
    if link.kind == "veth" and _tx_checksum(control, link.name) != link.tx_checksum:
        _ethtool(control, link.name, _ETHTOOL_STXCSUM, int(link.tx_checksum))


def _ethtool(control: socket.socket, name: str, command: int, value: int) -> int:
    """Run one of ethtool's commands of a single number; return the number afterwards."""
    words = array.array("I", [command, value])
    fcntl.ioctl(control, _SIOCETHTOOL, _IFREQ.pack(name.encode(), words.buffer_info()[0]))
    return words[1]
