# SPDX-License-Identifier: Apache-2.0
"""The devices of the thread's namespace: rtnetlink, and what that cannot do (offloads, IPv6 settings).

A device and the alias that says whose it is are made in one step.  The kernel takes
an alias for an existing device only, so new ones get an index that the caller has
chosen: the alias cannot hit a foreign device that took the name meanwhile.

This module loads pyroute2 (0.2 s, 10 MB); the driver imports it when it first needs it.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg

from agent.core.errors import ApplyError
from agent.drivers.devices import Configure, Delete, Device, MakeBridge, MakeVeth, Request
from agent.drivers.netlink import Message, RouteSocket
from agent.drivers.refusal import RefusedError
from agent.offload import TxChecksum

_RTEXT_FILTER_SKIP_STATS = 1 << 3  # linux/rtnetlink.h
_NO_STATISTICS = ("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)
_VETH = "veth"

_Attribute: TypeAlias = tuple[str, object]
_Result = TypeVar("_Result")


class LinkTable:
    """Devices of the namespace in which it is first used.  See ``DeviceTable``.

    *sysctl* is the folder with one folder of IPv6 settings per device.
    """

    def __init__(self, sysctl: Path) -> None:
        self._sysctl = sysctl
        self._netlink: RouteSocket | None = None

    def close(self) -> None:
        """Close the socket; the next use opens another one."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def marked(self, mark: str, but_not: str) -> list[Device]:
        """List the devices whose alias begins with *mark* but not with *but_not*."""
        wanted, unwanted = mark.encode(), but_not.encode()

        def concerns(data: bytes) -> bool:
            return wanted in data and unwanted not in data

        request = _message(RTM_GETLINK, 0, attributes=[_NO_STATISTICS])
        devices = self._read(lambda netlink, freeze: netlink.dump(request, concerns, freeze))
        return [device for device in devices if device.alias.startswith(mark)]

    def find(self, *, names: Collection[str] = (), indexes: Collection[int] = ()) -> list[Device]:
        """Return those of the named and numbered devices that exist."""
        by_name = (_message(RTM_GETLINK, 0, attributes=[("IFLA_IFNAME", name), _NO_STATISTICS]) for name in names)
        by_index = (_message(RTM_GETLINK, index, attributes=[_NO_STATISTICS]) for index in indexes)
        requests = itertools.chain(by_name, by_index)
        return self._read(lambda netlink, freeze: _existing(netlink.ask(requests, freeze)))

    def write(self, requests: Sequence[Request]) -> list[ApplyError | None]:
        """Carry out *requests* in few steps; return for each what went wrong, or None."""
        steps = (_messages(request) for request in requests)
        results = self._talk(lambda netlink: netlink.write(steps))
        return [
            None if isinstance(request, Delete) and result is not None and result.code == errno.ENODEV else result
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
            with TxChecksum() as checksum:
                checksum.switch(name, enabled)
        except OSError as err:
            raise ApplyError(f"checksum offload: {err.strerror}") from err

    def _read(self, ask: Callable[[RouteSocket, Callable[[Message], Device]], list[Device]]) -> list[Device]:
        with TxChecksum() as checksum:
            return self._talk(lambda netlink: ask(netlink, lambda message: _freeze(message, checksum)))

    def _talk(self, how: Callable[[RouteSocket], _Result]) -> _Result:
        try:
            if self._netlink is None:
                self._netlink = RouteSocket()
            return how(self._netlink)
        except OSError as err:
            self.close()  # late answers must not be taken for those of the next request
            raise ApplyError(f"the kernel's list of network devices: {err.strerror or err}") from err


def _existing(answers: Sequence[Device | RefusedError]) -> list[Device]:
    found = []
    for answer in answers:
        if not isinstance(answer, RefusedError):
            found.append(answer)
        elif answer.code not in (errno.ENODEV, errno.ERANGE, errno.EINVAL):  # the last two: no device can have the name
            raise answer
    return found


def _messages(request: Request) -> list[Message]:
    """Return what says *request* to the kernel."""
    create = NLM_F_CREATE | NLM_F_EXCL
    match request:
        case MakeVeth():
            peer = {"index": request.peer_index, "attrs": _named(request.peer, request.mtu)}
            info = _info(_VETH, ("VETH_INFO_PEER", peer))
            return [
                _message(RTM_NEWLINK, request.index, create, [*_named(request.name, request.mtu), info]),
                _message(RTM_NEWLINK, request.peer_index, attributes=[("IFLA_IFALIAS", request.peer_alias)]),
                _message(RTM_NEWLINK, request.index, attributes=[("IFLA_IFALIAS", request.alias)]),
            ]
        case MakeBridge():
            info = _info("bridge", ("IFLA_BR_MCAST_SNOOPING", 0))
            return [
                _message(RTM_NEWLINK, request.index, create, [*_named(request.name, request.mtu), info]),
                _message(RTM_NEWLINK, request.index, attributes=[("IFLA_IFALIAS", request.alias)]),
            ]
        case Configure():
            return [_changes(request.present, request.wanted)]
        case Delete():
            return [_message(RTM_DELLINK, request.index)]


def _changes(present: Device, wanted: Device) -> Message:
    attributes: list[_Attribute] = []
    if wanted.alias != present.alias:
        attributes.append(("IFLA_IFALIAS", wanted.alias))
    if wanted.mtu != present.mtu:
        attributes.append(("IFLA_MTU", wanted.mtu))
    if wanted.master != present.master:
        attributes.append(("IFLA_MASTER", wanted.master or 0))
    message = _message(RTM_NEWLINK, present.index, attributes=attributes)
    if wanted.up != present.up:
        message["flags"], message["change"] = IFF_UP if wanted.up else 0, IFF_UP
    return message


def _named(name: str, mtu: int) -> list[_Attribute]:
    return [("IFLA_IFNAME", name), ("IFLA_MTU", mtu)]


def _info(kind: str, data: _Attribute) -> _Attribute:
    return "IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": [data]})]}


def _message(kind: int, index: int, flags: int = 0, attributes: Sequence[_Attribute] = ()) -> Message:
    message = ifinfmsg()
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST | flags
    message["index"] = index
    message["attrs"] = list(attributes)
    return message


def _freeze(message: Message, checksum: TxChecksum) -> Device:
    attributes = {slot[0]: slot for slot in message["attrs"]}  # each is decoded when its value is asked for

    def value(name: str) -> Message:
        return attributes[name][1] if name in attributes else None

    info = value("IFLA_LINKINFO")
    kind = "" if info is None else info.get_attr("IFLA_INFO_KIND") or ""
    name = value("IFLA_IFNAME")
    return Device(
        index=message["index"],
        name=name,
        kind=kind,
        mtu=value("IFLA_MTU") or 0,
        up=bool(message["flags"] & IFF_UP),
        alias=value("IFLA_IFALIAS") or "",
        peer=None if "IFLA_LINK_NETNSID" in attributes else value("IFLA_LINK"),
        master=value("IFLA_MASTER"),
        # What a bridge can do follows from its ports, so only veths are asked.
        tx_checksum=kind != _VETH or _enabled(checksum, name),
    )


def _enabled(checksum: TxChecksum, name: str) -> bool:
    try:
        return checksum.enabled(name)
    except OSError:
        return True  # gone since it was listed, and noticed at the next reading
