# SPDX-License-Identifier: Apache-2.0
"""Driver ``links``: network devices of the host's namespace and of namespaces of ours.

A device is ours if its alias says so (``hostplane:<kind>:<uuid>``).  It is made and
marked in one step; of a pair in two namespaces one end is marked by its group at first
(``agent.drivers.devices``).  So none can be left behind unmarked.  What ``hostplane
plug`` made carries an alias too, but is that command's: it goes with ``unplug``.

Devices on the host carry instances' frames, so the host must not take part: IPv6 is
switched off on them before they come up.  Devices in namespaces come up without an
address of the kernel's choice (``addr_gen_mode none``), and therefore ask for no router
and probe for no address: what they have is what driver ``routes`` gives them, next.

A pair one of whose ends has lost its namespace's name (somebody keeps the namespace
alive without it) is made anew.  Only what a delta names, and what that is connected
to, is looked up before it is written: one more device costs the same on a host with a
thousand.
"""

from __future__ import annotations

import itertools
import secrets
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from agent.core import naming
from agent.core.errors import ApplyError
from agent.core.items import Link
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.device_visit import DeviceVisit, are_ends, device_key, split_key
from agent.drivers.devices import (
    GROUP,
    GROUP_ADDRESSED,
    Configure,
    Delete,
    Device,
    DeviceSpaces,
    End,
    MakeBridge,
    MakeVeth,
    Request,
    Silence,
    is_ours,
)
from agent.drivers.namespaces import ForeignError

_INDEXES = range(1 << 20, 1 << 24)  # far above those that the kernel gives out by itself
_INDEX_TRIES = 10
# Parts of the host's devices that are read back one by one; no namespace has such a name.
_HOST_PARTS = tuple(f"/{number}" for number in range(64))


def kernel_spaces() -> DeviceSpaces:
    """Return the namespaces that the kernel and ``/run/netns`` know."""
    from agent.drivers.link_table import KernelSpaces

    return KernelSpaces()


class LinksDriver:
    """Devices of the thread's namespace and of those that *open_spaces* knows; it is called once, at first use."""

    name = "links"

    def __init__(self, open_spaces: Callable[[], DeviceSpaces] = kernel_spaces) -> None:
        self._open = open_spaces
        self._spaces: DeviceSpaces | None = None
        self._met: dict[Key, str] = {}

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read all devices of ours, or those of *keys* among them."""
        with self._visit() as visit:
            return _connected(visit, visit.all_of_ours() if keys is None else visit.find(keys))

    def places(self) -> Collection[str]:
        """Return the namespaces, and the parts in which the host's own devices are read.  Raises ApplyError."""
        return [*_HOST_PARTS, *self._known_spaces().names()]

    def place_of(self, key: Key) -> str:
        """Return where a device is."""
        space, name = split_key(key)
        return space or _host_part(name)

    def observe_place(self, place: str) -> dict[Key, Value]:
        """Read the devices of ours in one place.  Raises ApplyError."""
        with self._visit() as visit:
            if place in _HOST_PARTS:
                return _connected(visit, visit.ours_in("", lambda name: _host_part(name) == place))
            return _connected(visit, visit.ours_in(place))

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta* in two batches a namespace: what is made and marked, then what depends on it.

        What goes comes last.
        """
        for key in delta.deletes:
            self._met.pop(key, None)
        wanted = {key: new for key, new in _writes(delta) if isinstance(new, Link)}
        ends = {end for key, link in wanted.items() for end in (link.peer, _master_key(key, link)) if end}
        with self._visit() as visit:
            present = visit.find({*wanted, *ends, *delta.deletes})
            step = _Step(visit, wanted, present)
            step.make()
            step.configure()
            doomed = [key for key in delta.deletes if key in present and is_ours(present[key])]
            step.write([(key, key, Delete(present[key].index)) for key in doomed])
            return step.failed

    def _visit(self) -> DeviceVisit:
        return DeviceVisit(self._known_spaces(), self._met)

    def _known_spaces(self) -> DeviceSpaces:
        if self._spaces is None:
            self._spaces = self._open()
        return self._spaces


class _Step:
    """What one delta has come to: ``present`` is kept true, ``failed`` says what could not be done."""

    def __init__(self, visit: DeviceVisit, wanted: Mapping[Key, Link], present: dict[Key, Device]) -> None:
        self._visit = visit
        self._wanted = wanted
        self._present = present
        self.failed: dict[Key, Exception] = {}

    def make(self) -> None:
        """Make what is missing or of another kind, and mark it."""
        missing: dict[Key, Link] = {}
        stale: dict[Key, Key] = {}
        for key, link in self._wanted.items():
            # Where the device is as wanted, the other end is another item's concern.
            right = self._is_made(key, link)
            ends = [key] if right or link.peer is None else sorted((key, link.peer))
            occupied = [end for end in ends if end in self._present]
            foreign = next((end for end in occupied if not is_ours(self._present[end])), None)
            absent = next((space for end in ends if not self._visit.has(space := split_key(end)[0])), None)
            if foreign is not None:
                self.failed[key] = ForeignError(f"device {foreign} exists and was not made by hostplane")
            elif absent is not None:
                self.failed[key] = ApplyError(f"device {key}: there is no namespace {absent} of hostplane's")
            elif not right:
                missing[key] = link
                stale.update(dict.fromkeys(occupied, key))
        deletions = [(key, end, Delete(self._present.pop(end).index)) for end, key in sorted(stale.items())]
        self.write(deletions)
        creations = self._creations({key: link for key, link in missing.items() if key not in self.failed})
        self.write(creations)
        for key, _, request in creations:
            if key not in self.failed:
                self._present.update(_made(request, key, self._wanted[key].peer))
        for key, link in missing.items():
            if key not in self.failed and link.peer in self.failed:
                self.failed[key] = self.failed[link.peer]  # the pair was to be made by the other end's request

    def configure(self) -> None:
        """Set what a device can be told when all of them exist."""
        requests: list[tuple[Key, Key, Request]] = []
        for key, link in self._wanted.items():
            if key in self.failed:
                continue
            absent = next((end for end in (key, _master_key(key, link)) if end and end not in self._present), None)
            if absent is not None:
                self.failed[key] = ApplyError(f"device {key}: {absent} does not exist")
                continue
            device = self._present[key]
            try:
                self._prepare(key, link, device)
            except ApplyError as err:
                self.failed[key] = ApplyError(f"device {key}: {err}")
            right = self._right(key, link, device)
            if device == right:
                continue
            if split_key(key)[0] and link.up and not device.up:
                requests.append((key, key, Silence(device.index)))
            requests.append((key, key, Configure(device, right)))
        self.write(requests)

    def write(self, requests: Sequence[tuple[Key, Key, Request]]) -> None:
        """Carry out requests, in their order within a namespace: each for an item, in the namespace of a device."""
        spaces = dict.fromkeys(split_key(place)[0] for _, place, _ in requests)
        for space in spaces:
            own = [(key, request) for key, place, request in requests if split_key(place)[0] == space]
            results = self._visit.table(space).write([request for _, request in own])
            for (key, _), error in zip(own, results, strict=True):
                if error is not None:
                    self.failed.setdefault(key, ApplyError(f"device {key}: {error}"))

    def _is_made(self, key: Key, link: Link) -> bool:
        """Tell whether the device is there, of the right kind and with the right other end."""
        device = self._present.get(key)
        if device is None or device.kind != link.kind:
            return False
        if link.peer is None:
            return device.peer is None
        peer = self._present.get(link.peer)
        return peer is not None and are_ends(key, device, link.peer, peer)

    def _creations(self, missing: Mapping[Key, Link]) -> list[tuple[Key, Key, MakeVeth | MakeBridge]]:
        """Return the requests that make and mark *missing*, a veth pair by one request."""
        requests: list[tuple[Key, Key, MakeVeth | MakeBridge]] = []
        indexes = self._unused_indexes({end for key, link in missing.items() for end in (key, link.peer or key)})
        made: set[Key] = set()
        for key, link in missing.items():
            if key in made:
                continue
            made.add(key)
            end = _end(key, link, indexes[key])
            if link.peer is None:
                requests.append((key, key, MakeBridge(end, link.mtu)))
                continue
            made.add(link.peer)
            other = self._wanted.get(link.peer)
            peer = _end(link.peer, other or replace(link, address=None), indexes[link.peer])
            here, there = split_key(key)[0], split_key(link.peer)[0]
            descriptor = None if here == there else self._visit.table(there).descriptor
            requests.append((key, key, MakeVeth(end, peer, link.mtu, descriptor)))
        return requests

    def _unused_indexes(self, ends: Collection[Key]) -> dict[Key, int]:
        """Return for each of *ends* a number that no device of its namespace has.

        The range is so large that the second try finds them.
        """
        for _ in range(_INDEX_TRIES):
            indexes = dict(zip(ends, itertools.count(secrets.choice(_INDEXES[: -len(ends) - 1]))))
            by_space: dict[str, list[int]] = {}
            for end, index in indexes.items():
                by_space.setdefault(split_key(end)[0], []).append(index)
            if not any(self._visit.table(space).find(indexes=numbers) for space, numbers in by_space.items()):
                return indexes
        raise ApplyError("no numbers for new network devices were found")

    def _prepare(self, key: Key, link: Link, device: Device) -> None:
        """Set what is not set over netlink.  Raises ApplyError."""
        space, name = split_key(key)
        table = self._visit.table(space)
        if not space:
            table.close_host_side(name)
        if link.kind == "veth" and device.tx_checksum != link.tx_checksum:
            table.switch_tx_checksum(name, link.tx_checksum)

    def _right(self, key: Key, link: Link, device: Device) -> Device:
        master = _master_key(key, link)
        return replace(
            device,
            alias=_alias(link),
            mtu=link.mtu,
            master=None if master is None else self._present[master].index,
            up=link.up,
            address=link.address,
            group=_group(link, device),
        )


def _host_part(name: str) -> str:
    return _HOST_PARTS[zlib.crc32(name.encode()) % len(_HOST_PARTS)]


def _connected(visit: DeviceVisit, found: Mapping[Key, Device]) -> dict[Key, Value]:
    """Return the items of those of *found* that are ours, with what they are connected to."""
    ours = {key: device for key, device in found.items() if is_ours(device)}
    peers = visit.peer_keys(ours)
    masters = visit.master_names(ours)
    return {key: _freeze(key, device, peers.get(key), masters.get(key)) for key, device in ours.items()}


def _writes(delta: Delta) -> Iterable[tuple[Key, Value]]:
    yield from delta.creates.items()
    for key, (_, new) in delta.updates.items():
        yield key, new


def _alias(link: Link) -> str:
    return naming.ALIAS_PREFIX + link.owner


def _group(link: Link, device: Device) -> int:
    if link.address is not None:
        return GROUP_ADDRESSED
    return GROUP if device.group == GROUP_ADDRESSED else device.group


def _master_key(key: Key, link: Link) -> Key | None:
    """Return the key of the bridge, which is in the device's own namespace."""
    return None if link.master is None else device_key(split_key(key)[0], link.master)


def _end(key: Key, link: Link, index: int) -> End:
    return End(index, split_key(key)[1], _alias(link), link.address)


def _made(request: MakeVeth | MakeBridge, key: Key, peer_key: Key | None) -> Iterator[tuple[Key, Device]]:
    """Yield the devices that *request* has made, as the kernel makes them."""
    end = request.end
    device = Device(end.index, end.name, "bridge", request.mtu, up=False, alias=end.alias, address=end.address)
    device = replace(device, group=GROUP if end.address is None else GROUP_ADDRESSED)
    if isinstance(request, MakeBridge) or peer_key is None:
        yield key, device
        return
    elsewhere, peer = request.peer_namespace is not None, request.peer
    device = replace(device, kind="veth", is_peer_elsewhere=elsewhere)
    yield key, replace(device, peer=peer.index)
    yield (
        peer_key,
        replace(
            device,
            index=peer.index,
            name=peer.name,
            alias="" if elsewhere else peer.alias,
            peer=end.index,
            address=peer.address,
            group=GROUP if peer.address is None else GROUP_ADDRESSED,
        ),
    )


def _freeze(key: Key, device: Device, peer: Key | None, master: str | None) -> Link:
    return Link(
        name=device.name,
        kind=device.kind,
        owner=device.alias.removeprefix(naming.ALIAS_PREFIX),
        mtu=device.mtu,
        peer=peer,
        master=master,
        tx_checksum=device.tx_checksum,
        up=device.up,
        namespace=split_key(key)[0],
        address=device.address,
    )
