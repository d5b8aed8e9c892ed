# SPDX-License-Identifier: Apache-2.0
"""Linux bridges and their ports, read over rtnetlink(7) with few and small messages.

A list of all links takes 15 us and 1.5 kB a link, four links a port; here only bridges
are listed in full, and ports as the bridge family has them, or single devices by name.
``linux/if_link.h`` has the numbers.

A socket belongs to the namespace in which it was made and to one thread at a time.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from agent.core.errors import ApplyError
from agent.drivers.kernel_socket import HEADER, KernelSocket

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x01, 0x04, 0x10, 0x300
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_AF_BRIDGE = 7
_IFNAME, _MASTER, _LINKINFO, _EXT_MASK = 3, 10, 18, 29  # IFLA_*
_INFO_KIND, _INFO_DATA = 1, 2
_BR_NF_CALL_IPTABLES, _BR_NF_CALL_IP6TABLES = 36, 37
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF
_SKIP_STATISTICS = 1 << 3

_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ATTRIBUTE = struct.Struct("=HH")
_INDEX = struct.Struct("=i")
_BATCH = 48  # requests in one sendmsg: each is answered by a whole link, and a receive buffer must hold them all
_DUMP_TRIES = 10


@dataclass(frozen=True, slots=True)
class Device:
    """A network device; ``master`` is the index of its bridge (0: none).

    ``filtered`` tells that a bridge's own settings send its packets through iptables,
    of both families; None if the device is no bridge.
    """

    index: int
    name: str
    master: int = 0
    filtered: bool | None = None


class BridgeSocket:
    """Bridges of the namespace in which it is first used.  All methods raise ApplyError when the kernel is silent."""

    def __init__(self) -> None:
        self._kernel = KernelSocket(socket.NETLINK_ROUTE, "the kernel's list of network devices")
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; the next use opens another one."""
        self._kernel.close()

    def bridges(self) -> list[Device]:
        """List all bridges."""
        return self._dump(socket.AF_UNSPEC, _mask() + _attribute(_LINKINFO | _NESTED, _KIND_BRIDGE))

    def ports(self) -> list[Device]:
        """List all ports of bridges."""
        return self._dump(_AF_BRIDGE, _mask())

    def find(self, names: Collection[str]) -> dict[str, Device]:
        """Return those of the named devices that exist."""
        requests = [
            _message(_RTM_GETLINK, 0, 0, _mask() + _attribute(_IFNAME, name.encode() + b"\0")) for name in names
        ]
        found: dict[str, Device] = {}
        for answer in self._ask(requests):
            if isinstance(answer, Device):
                found[answer.name] = answer
            elif answer not in (errno.ENODEV, errno.ERANGE, errno.EINVAL):  # the last two: no device can be called so
                raise ApplyError(f"the kernel's list of network devices: {os.strerror(answer)}")
        return found

    def set_filtered(self, bridges: Collection[Device]) -> dict[str, ApplyError]:
        """Have iptables of both families see what bridges forward; return those that were refused."""
        attributes = _attribute(_LINKINFO | _NESTED, _KIND_BRIDGE + _attribute(_INFO_DATA | _NESTED, _BOTH_SET))
        order = list(bridges)
        answers = self._ask([_message(_RTM_NEWLINK, _NLM_F_ACK, device.index, attributes) for device in order])
        return {
            device.name: ApplyError(f"bridge {device.name}: {os.strerror(code)}")
            for device, code in zip(order, answers, strict=True)
            if isinstance(code, int) and code
        }

    def _ask(self, requests: Sequence[bytes]) -> list[Device | int]:
        """Return what answers each request: a device, or an errno (0: done)."""
        answers: list[Device | int] = []
        for start in range(0, len(requests), _BATCH):
            batch = requests[start : start + _BATCH]
            first = self._send(batch)
            found: dict[int, Device | int] = {}
            while len(found) < len(batch):
                for kind, _, number, data in self._kernel.receive():
                    found[number] = -_INDEX.unpack_from(data)[0] if kind == _NLMSG_ERROR else parse_device(data)
            answers += [found[first + place] for place in range(len(batch))]
        return answers

    def _dump(self, family: int, attributes: bytes) -> list[Device]:
        for _ in range(_DUMP_TRIES):
            number = self._send([_message(_RTM_GETLINK, _NLM_F_DUMP, 0, attributes, family)])
            found, interrupted = self._collect(number)
            if not interrupted:
                return found
        raise ApplyError("the kernel's list of network devices kept changing while it was read")

    def _collect(self, sequence: int) -> tuple[list[Device], bool]:
        found: list[Device] = []
        interrupted = False
        while True:
            for kind, flags, number, data in self._kernel.receive():
                if number != sequence:
                    continue  # of a dump that was given up
                interrupted |= bool(flags & _NLM_F_DUMP_INTR)
                code = -_INDEX.unpack_from(data)[0] if kind == _NLMSG_ERROR else 0
                if code:
                    raise ApplyError(f"the kernel's list of network devices: {os.strerror(code)}")
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return found, interrupted
                found.append(parse_device(data))

    def _send(self, messages: Sequence[bytes]) -> int:
        """Send *messages* in one step, numbered; return the number of the first."""
        first = self._sequence + 1
        self._sequence += len(messages)
        numbered = (_with_number(message, number) for number, message in enumerate(messages, first))
        self._kernel.send(b"".join(numbered))
        return first


def read_attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each netlink attribute from *offset* on."""
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def parse_device(link: bytes) -> Device:
    """Return a device from ``struct ifinfomsg`` and what follows it."""
    index, name, master, filtered = _LINK.unpack_from(link)[2], "", 0, None
    offset, end = _LINK.size, len(link) - _ATTRIBUTE.size
    while offset <= end and filtered is None:  # a bridge is in no bridge: of one there is nothing more to read
        length, kind = _ATTRIBUTE.unpack_from(link, offset)  # not read_attributes: this is done for each of them
        if length < _ATTRIBUTE.size:
            break
        if kind == _IFNAME:
            name = link[offset + _ATTRIBUTE.size : offset + length - 1].decode(errors="replace")
        elif kind == _MASTER:
            master = _INDEX.unpack_from(link, offset + _ATTRIBUTE.size)[0]
        elif kind & _TYPE_MASK == _LINKINFO:
            filtered = _is_filtered(link[offset + _ATTRIBUTE.size : offset + length])
        offset += (length + 3) & ~3
    return Device(index, name, master, filtered)


def _is_filtered(info: bytes) -> bool | None:
    """Read a bridge's settings from ``IFLA_LINKINFO``; None if it is another kind of device."""
    if not info.startswith(_KIND_BRIDGE):
        return None
    if _BOTH_SET in info:  # of some sixty settings, read one by one in 80 us
        return True
    found = dict(read_attributes(info))
    data = dict(read_attributes(found.get(_INFO_DATA, b"")))
    return data.get(_BR_NF_CALL_IPTABLES) == data.get(_BR_NF_CALL_IP6TABLES) == b"\1"


def _mask() -> bytes:
    return _attribute(_EXT_MASK, struct.pack("=I", _SKIP_STATISTICS))


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


_KIND_BRIDGE = _attribute(_INFO_KIND, b"bridge\0")
_BOTH_SET = _attribute(_BR_NF_CALL_IPTABLES, b"\1") + _attribute(_BR_NF_CALL_IP6TABLES, b"\1")  # as the kernel has them


def _message(kind: int, flags: int, index: int, attributes: bytes, family: int = socket.AF_UNSPEC) -> bytes:
    """Return a request whose number is still to be set."""
    body = _LINK.pack(family, 0, index, 0, 0) + attributes
    return HEADER.pack(HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 0, 0) + body


def _with_number(message: bytes, number: int) -> bytes:
    return message[:8] + struct.pack("=I", number) + message[12:]
