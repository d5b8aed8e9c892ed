# SPDX-License-Identifier: Apache-2.0
"""The devices of one namespace: rtnetlink, and what that cannot do (offloads, IPv6 settings).

A device and what says whose it is are made in one step.  The kernel takes an alias for
an existing device only, so new ones get an index that the caller has chosen: the alias
cannot hit a foreign device that took the name meanwhile.  The end of a pair that is
made in another namespace gets a group of ours at once, and its alias there.

Numbers are those of ``linux/if_link.h`` and ``linux/veth.h``.
"""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from agent.core import naming
from agent.core.errors import ApplyError
from agent.drivers.devices import (
    GROUP,
    GROUP_ADDRESSED,
    Configure,
    Delete,
    Device,
    DeviceTable,
    End,
    MakeBridge,
    MakeVeth,
    Request,
    Silence,
    is_ours,
)
from agent.drivers.namespaces import (
    IFINFOMSG,
    IFLA_IFALIAS,
    NO_STATISTICS,
    RTM_GETLINK,
    RTM_NEWLINK,
    Namespace,
    names,
    open_ours,
    told,
)
from agent.drivers.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    RouteSocket,
    attribute,
    message,
    nested,
    read_attributes,
)
from agent.drivers.refusal import RefusedError
from agent.namespace import FOLDER
from agent.offload import TxChecksum

_RTM_DELLINK = 17
_IFF_UP = 1
_ADDRESS, _NAME, _MTU, _LINK, _MASTER, _INFO, _AF_SPEC, _GROUP, _NETNS_FD, _LINK_NETNSID = (
    *(1, 3, 4, 5, 10, 18, 26, 27, 28, 37),
)
_INFO_KIND, _INFO_DATA, _VETH_PEER, _BRIDGE_SNOOPING = 1, 2, 1, 23
_AF_INET6, _INET6_ADDR_GEN_MODE, _GENERATE_NONE = 10, 8, 1
_VETH = "veth"
_U32 = struct.Struct("=I")
_ATTRIBUTE = struct.Struct("=HH")  # length, type

_Result = TypeVar("_Result")


class LinkTable:
    """Devices of an open namespace, which is closed with it.  See ``DeviceTable``.

    *sysctl* is the folder with one folder of IPv6 settings per device.
    """

    def __init__(self, namespace: Namespace, sysctl: Path = Path("/proc/sys/net/ipv6/conf")) -> None:
        self._namespace = namespace
        self._sysctl = sysctl
        self._checksum = TxChecksum(namespace.kernel.fileno())

    @property
    def descriptor(self) -> int:
        """What the kernel is told when a device is to be in this namespace."""
        return self._namespace.descriptor

    def close(self) -> None:
        """End the visit."""
        self._namespace.close()

    def ours(self, wanted: Callable[[str], bool] | None = None) -> list[Device]:
        """List the devices that ``is_ours``, only those whose names are *wanted* if that is given."""
        request = IFINFOMSG.pack(0, 0, 0, 0, 0) + NO_STATISTICS

        def freeze(link: bytes) -> Device | None:
            return self._freeze_ours(link) if wanted is None or wanted(_name_of(link)) else None

        return self._talk(lambda kernel: kernel.dump(RTM_GETLINK, request, freeze))

    def find(self, *, names: Collection[str] = (), indexes: Collection[int] = ()) -> list[Device]:
        """Return those of the named and numbered devices that exist."""
        by_name = (_request(RTM_GETLINK, 0, 0, _name(name), NO_STATISTICS) for name in names)
        by_index = (_request(RTM_GETLINK, index, 0, NO_STATISTICS) for index in indexes)
        requests = itertools.chain(by_name, by_index)
        return _existing(self._talk(lambda kernel: kernel.ask(requests, self._freeze)))

    def write(self, requests: Sequence[Request]) -> list[ApplyError | None]:
        """Carry out *requests* in few steps; return for each what went wrong, or None."""
        results = self._talk(lambda kernel: kernel.write(_messages(request) for request in requests))
        return [
            None if result is None or result.code == _harmless(request) else result
            for request, result in zip(requests, results, strict=True)
        ]

    def close_host_side(self, name: str) -> None:
        """Keep the host's own IPv6 out of a device.  Raises ApplyError."""
        setting = self._sysctl / name / "disable_ipv6"
        try:
            if setting.exists():  # not there if the kernel does without IPv6
                setting.write_text("1")
        except OSError as err:
            raise ApplyError(f"{setting}: {err.strerror}") from err

    def switch_tx_checksum(self, name: str, enabled: bool) -> None:
        """Leave a veth's transmit checksums to its peer, or compute them.  Raises ApplyError."""
        try:
            self._checksum.switch(name, enabled)
        except OSError as err:
            raise ApplyError(f"checksum offload: {err.strerror}") from err

    def _talk(self, how: Callable[[RouteSocket], _Result]) -> _Result:
        try:
            return how(self._namespace.kernel)
        except OSError as err:
            raise told(self._namespace.name, err) from err

    def _freeze_ours(self, link: bytes) -> Device | None:
        if _MARK not in link and not any(group in link for group in _GROUPS):
            return None  # without taking it apart: a host has thousands
        device = self._freeze(link)
        return device if is_ours(device) else None

    def _freeze(self, link: bytes) -> Device:
        _, _, index, flags, _ = IFINFOMSG.unpack_from(link)
        values = read_attributes(link, IFINFOMSG.size)
        kind = _text(read_attributes(values.get(_INFO, b"")).get(_INFO_KIND, b""))
        name, group = _text(values.get(_NAME, b"")), _number(values.get(_GROUP)) or 0
        address = values.get(_ADDRESS, b"").hex(":") if group == GROUP_ADDRESSED else None
        return Device(
            index=index,
            name=name,
            kind=kind,
            mtu=_number(values.get(_MTU)) or 0,
            up=bool(flags & _IFF_UP),
            alias=_text(values.get(IFLA_IFALIAS, b"")),
            peer=_number(values.get(_LINK)),
            master=_number(values.get(_MASTER)),
            # What a bridge can do follows from its ports, so only veths are asked.
            tx_checksum=kind != _VETH or self._leaves_checksums(name),
            is_peer_elsewhere=_LINK_NETNSID in values,
            address=address,
            group=group,
        )

    def _leaves_checksums(self, name: str) -> bool:
        try:
            return self._checksum.enabled(name)
        except OSError:
            return True  # gone since it was listed, and noticed at the next reading


class KernelSpaces:
    """The host's namespaces as the kernel has them, by their names in *folder*.  See ``DeviceSpaces``."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    def names(self) -> Collection[str]:
        """Return the names of all namespaces, whoever made them, but the host's own.  Raises ApplyError."""
        return names(self._folder)

    def open(self, name: str) -> DeviceTable | None:
        """Open one of ours, or the host's own; None if it is not there, or not ours.  Raises ApplyError."""
        namespace = open_ours(name, self._folder)
        return None if namespace is None else LinkTable(namespace)


def _existing(answers: Sequence[Device | RefusedError]) -> list[Device]:
    found = []
    for answer in answers:
        if not isinstance(answer, RefusedError):
            found.append(answer)
        elif answer.code not in (errno.ENODEV, errno.ERANGE, errno.EINVAL):  # the last two: no device can have the name
            raise answer
    return found


def _harmless(request: Request) -> int | None:
    """Return the refusal that means that there is nothing to be done."""
    if isinstance(request, Delete):
        return errno.ENODEV
    return errno.EAFNOSUPPORT if isinstance(request, Silence) else None  # the device does without IPv6


def _messages(request: Request) -> list[bytes]:
    """Return what says *request* to the kernel."""
    match request:
        case MakeVeth():
            return _veth(request)
        case MakeBridge(end, mtu):
            info = _info("bridge", attribute(_BRIDGE_SNOOPING, b"\0"))
            return [
                _request(RTM_NEWLINK, end.index, NLM_F_CREATE | NLM_F_EXCL, *_fresh(end, mtu), info),
                _request(RTM_NEWLINK, end.index, 0, _alias(end.alias)),
            ]
        case Silence(index):
            inet6 = nested(_AF_INET6, attribute(_INET6_ADDR_GEN_MODE, bytes([_GENERATE_NONE])))
            return [_request(RTM_NEWLINK, index, 0, nested(_AF_SPEC, inet6))]
        case Configure(present, wanted):
            return [_changes(present, wanted)]
        case Delete(index):
            return [_request(_RTM_DELLINK, index, 0)]


def _veth(request: MakeVeth) -> list[bytes]:
    end, peer, mtu, namespace = request.end, request.peer, request.mtu, request.peer_namespace
    elsewhere = [] if namespace is None else [attribute(_NETNS_FD, _U32.pack(namespace))]
    create = NLM_F_CREATE | NLM_F_EXCL
    messages = [
        _request(RTM_NEWLINK, end.index, create, *_fresh(end, mtu), _pair(peer, mtu, *elsewhere)),
        _request(RTM_NEWLINK, end.index, 0, _alias(end.alias)),
    ]
    if namespace is None:
        messages.append(_request(RTM_NEWLINK, peer.index, 0, _alias(peer.alias)))
    return messages


def _changes(present: Device, wanted: Device) -> bytes:
    attributes: list[bytes] = []
    if wanted.alias != present.alias:
        attributes.append(_alias(wanted.alias))
    if wanted.mtu != present.mtu:
        attributes.append(attribute(_MTU, _U32.pack(wanted.mtu)))
    if wanted.master != present.master:
        attributes.append(attribute(_MASTER, _U32.pack(wanted.master or 0)))
    if wanted.address is not None and wanted.address != present.address:
        attributes.append(_address(wanted.address))
    if wanted.group != present.group:
        attributes.append(attribute(_GROUP, _U32.pack(wanted.group)))
    up, change = (_IFF_UP if wanted.up else 0, _IFF_UP) if wanted.up != present.up else (0, 0)
    return message(RTM_NEWLINK, 0, IFINFOMSG.pack(0, 0, present.index, up, change) + b"".join(attributes))


def _fresh(end: End, mtu: int) -> list[bytes]:
    """Return what a device is made with."""
    group = GROUP if end.address is None else GROUP_ADDRESSED
    attributes = [_name(end.name), attribute(_MTU, _U32.pack(mtu)), attribute(_GROUP, _U32.pack(group))]
    return attributes if end.address is None else [*attributes, _address(end.address)]


def _pair(peer: End, mtu: int, *more: bytes) -> bytes:
    header = IFINFOMSG.pack(0, 0, peer.index, 0, 0)
    return _info(_VETH, attribute(_VETH_PEER, header + b"".join([*_fresh(peer, mtu), *more])))


def _info(kind: str, data: bytes) -> bytes:
    return nested(_INFO, attribute(_INFO_KIND, kind.encode() + b"\0"), nested(_INFO_DATA, data))


def _request(kind: int, index: int, flags: int, *attributes: bytes) -> bytes:
    return message(kind, flags, IFINFOMSG.pack(0, 0, index, 0, 0) + b"".join(attributes))


def _alias(alias: str) -> bytes:
    return attribute(IFLA_IFALIAS, alias.encode())


def _name(name: str) -> bytes:
    return attribute(_NAME, name.encode() + b"\0")


def _address(address: str) -> bytes:
    return attribute(_ADDRESS, bytes.fromhex(address.replace(":", "")))


def _name_of(link: bytes) -> str:
    """Return the name of a device without taking all of the message apart: the kernel puts it first."""
    length, kind = _ATTRIBUTE.unpack_from(link, IFINFOMSG.size)
    begin = IFINFOMSG.size + _ATTRIBUTE.size
    if kind != _NAME:
        return _text(read_attributes(link, IFINFOMSG.size).get(_NAME, b""))
    return _text(link[begin : begin + length - _ATTRIBUTE.size])


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes | None) -> int | None:
    return None if value is None else _U32.unpack(value)[0]


_MARK = naming.ALIAS_PREFIX.encode()
_GROUPS = tuple(attribute(_GROUP, _U32.pack(group)) for group in (GROUP, GROUP_ADDRESSED))
