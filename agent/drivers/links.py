# SPDX-License-Identifier: Apache-2.0
"""Driver ``links``: network devices of the host's namespace.

A device is ours if its alias says so (``hostplane:<kind>:<uuid>``); it is made and
marked in one step, so none can be left behind unmarked.  What ``hostplane plug``
made carries an alias too, but is that command's: it goes with ``unplug``.

Devices here carry instances' frames, so the host must not take part: IPv6 is
switched off on them before they come up.

Only what a delta names, and what that is connected to, is looked up before it is
written: one more device costs the same on a host with a thousand.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agent.core import naming
from agent.core.errors import ApplyError
from agent.core.items import Link
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.devices import Configure, Delete, Device, DeviceTable, MakeBridge, MakeVeth, Request
from agent.drivers.link_scan import LazyTable

PLUGGED_BY_COMMAND = f"{naming.ALIAS_PREFIX}plug:"
_INDEXES = range(1 << 20, 1 << 24)  # far above those that the kernel gives out by itself
_INDEX_TRIES = 10


def open_table(sysctl: Path = Path("/proc/sys/net/ipv6/conf")) -> DeviceTable:
    """Return the devices of the thread's namespace; the library that reads them is loaded when there is one."""

    def load() -> DeviceTable:
        from agent.drivers.link_table import LinkTable  # loads a large library

        return LinkTable(sysctl)

    return LazyTable(load)


class LinksDriver:
    """Devices of the namespace in which it is first used; *open_devices* is asked for them then."""

    name = "links"

    def __init__(self, open_devices: Callable[[], DeviceTable] = open_table) -> None:
        self._open = open_devices
        self._table: DeviceTable | None = None

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read all devices of ours, or those of *keys* among them."""
        table = self._devices()
        if keys is None:
            found = table.marked(naming.ALIAS_PREFIX, but_not=PLUGGED_BY_COMMAND)
        else:
            found = table.find(names=keys)
        ours = [device for device in found if is_ours(device)]
        names = {device.index: device.name for device in found}
        ends = {index for device in ours for index in (device.peer, device.master) if index}
        others = ends - names.keys()
        names.update((device.index, device.name) for device in (table.find(indexes=others) if others else ()))
        return {device.name: _freeze(device, names) for device in ours}

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta* in two batches: what is made and marked, then what depends on it; what goes comes last."""
        wanted = {key: new for key, new in _writes(delta) if isinstance(new, Link)}
        ends = {name for link in wanted.values() for name in (link.peer, link.master) if name}
        present = {device.name: device for device in self._devices().find(names={*wanted, *ends, *delta.deletes})}
        failed: dict[Key, Exception] = {}
        self._make(wanted, present, failed)
        self._configure({key: link for key, link in wanted.items() if key not in failed}, present, failed)
        doomed = [present[key] for key in delta.deletes if key in present and is_ours(present[key])]
        self._write([(device.name, Delete(device.index)) for device in doomed], failed)
        return failed

    def _make(self, wanted: Mapping[Key, Link], present: dict[str, Device], failed: dict[Key, Exception]) -> None:
        """Make what is missing or of another kind, and mark it; *present* is kept true."""
        missing: dict[Key, Link] = {}
        stale: dict[str, Key] = {}
        for key, link in wanted.items():
            # Where the device is as wanted, the other end is another item's concern.
            right = _is_made(link, present)
            ends = [key] if right or link.peer is None else sorted((key, link.peer))
            occupied = [end for end in ends if end in present]
            foreign = next((end for end in occupied if not is_ours(present[end])), None)
            if foreign is not None:
                failed[key] = ApplyError(f"device {foreign} exists and was not made by hostplane")
            elif not right:
                missing[key] = link
                stale.update(dict.fromkeys(occupied, key))
        deletions = [(key, Delete(present.pop(name).index)) for name, key in sorted(stale.items())]
        creations = self._creations(missing, wanted)
        self._write([*deletions, *creations], failed)
        for key, request in creations:
            if key not in failed:
                present.update((device.name, device) for device in _made(request))
        for key, link in missing.items():
            if key not in failed and link.peer in failed:
                failed[key] = failed[link.peer]  # the pair was to be made by the other end's request

    def _creations(
        self, missing: Mapping[Key, Link], wanted: Mapping[Key, Link]
    ) -> list[tuple[Key, MakeVeth | MakeBridge]]:
        """Return the requests that make and mark *missing*, a veth pair by one request."""
        requests: list[tuple[Key, MakeVeth | MakeBridge]] = []
        indexes = self._unused_indexes(2 * len(missing)) if missing else iter(())
        made: set[Key] = set()
        for key, link in missing.items():
            if key in made:
                continue
            made.add(key)
            alias = _alias(link)
            if link.peer is None:
                requests.append((key, MakeBridge(next(indexes), key, alias, link.mtu)))
                continue
            made.add(link.peer)
            peer_alias = _alias(wanted.get(link.peer, link))
            requests.append((key, MakeVeth(next(indexes), key, alias, next(indexes), link.peer, peer_alias, link.mtu)))
        return requests

    def _unused_indexes(self, count: int) -> Iterator[int]:
        """Return *count* numbers that no device has; the range is so large that the second try finds them."""
        for _ in range(_INDEX_TRIES):
            start = secrets.choice(_INDEXES[:-count])
            indexes = range(start, start + count)
            if not self._devices().find(indexes=indexes):
                return iter(indexes)
        raise ApplyError("no numbers for new network devices were found")

    def _configure(
        self, wanted: Mapping[Key, Link], present: Mapping[str, Device], failed: dict[Key, Exception]
    ) -> None:
        """Set what a device can be told when all of them exist."""
        table = self._devices()
        requests: list[tuple[Key, Request]] = []
        for key, link in wanted.items():
            absent = next((name for name in (key, link.master) if name is not None and name not in present), None)
            if absent is not None:
                failed[key] = ApplyError(f"device {key}: {absent} does not exist")
                continue
            device = present[key]
            master = None if link.master is None else present[link.master].index
            try:
                table.close_host_side(key)
                if link.kind == "veth" and device.tx_checksum != link.tx_checksum:
                    table.switch_tx_checksum(key, link.tx_checksum)
            except ApplyError as err:
                failed[key] = ApplyError(f"device {key}: {err}")
            right = replace(device, alias=_alias(link), mtu=link.mtu, master=master, up=link.up)
            if device != right:
                requests.append((key, Configure(device, right)))
        self._write(requests, failed)

    def _write(self, requests: Sequence[tuple[Key, Request]], failed: dict[Key, Exception]) -> None:
        if not requests:
            return
        results = self._devices().write([request for _, request in requests])
        for (key, _), error in zip(requests, results, strict=True):
            if error is not None:
                failed.setdefault(key, ApplyError(f"device {key}: {error}"))

    def _devices(self) -> DeviceTable:
        if self._table is None:
            self._table = self._open()
        return self._table


def is_ours(device: Device) -> bool:
    """Tell whether this driver made *device*."""
    return naming.is_our_alias(device.alias) and not device.alias.startswith(PLUGGED_BY_COMMAND)


def _writes(delta: Delta) -> Iterable[tuple[Key, Value]]:
    yield from delta.creates.items()
    for key, (_, new) in delta.updates.items():
        yield key, new


def _alias(link: Link) -> str:
    return naming.ALIAS_PREFIX + link.owner


def _is_made(link: Link, present: Mapping[str, Device]) -> bool:
    """Tell whether the device is there, of the right kind and with the right other end."""
    device = present.get(link.name)
    if device is None or device.kind != link.kind:
        return False
    peer = None if link.peer is None else present.get(link.peer)
    return device.peer == (None if peer is None else peer.index) and (link.peer is None or peer is not None)


def _made(request: MakeVeth | MakeBridge) -> Iterator[Device]:
    """Yield the devices that *request* has made, as the kernel makes them."""
    if isinstance(request, MakeBridge):
        yield Device(request.index, request.name, "bridge", request.mtu, up=False, alias=request.alias)
        return
    ends = (request.index, request.name, request.alias), (request.peer_index, request.peer, request.peer_alias)
    for (index, name, alias), (other, _, _) in (ends, ends[::-1]):
        yield Device(index, name, "veth", request.mtu, up=False, alias=alias, peer=other)


def _freeze(device: Device, names: Mapping[int, str]) -> Link:
    return Link(
        name=device.name,
        kind=device.kind,
        owner=device.alias.removeprefix(naming.ALIAS_PREFIX),
        mtu=device.mtu,
        peer=names.get(device.peer or 0),
        master=names.get(device.master or 0),
        tx_checksum=device.tx_checksum,
        up=device.up,
    )
