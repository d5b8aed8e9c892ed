# SPDX-License-Identifier: Apache-2.0
"""As much of rtnetlink(7) as network devices need: one dump, and batches of requests.

The kernel works through all messages of one ``sendmsg`` before it returns, so a
device and the alias that says whose it is are made in one step: a process that is
killed leaves both or neither.  New devices get an index that the caller has chosen, so
that the alias cannot hit a foreign device which took the name meanwhile.  pyroute2
sends one request at a time, and costs the daemon 15 MB for three message types.

Numbers are those of linux/rtnetlink.h, linux/if_link.h and linux/veth.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.core.errors import ApplyError

NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
NLM_F_DUMP_INTR, NLM_F_ACK_TLVS = 0x10, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
IFF_UP = 0x1

IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 3, 4, 5, 10
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 18, 20, 29, 37
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER, IFLA_BR_MCAST_SNOOPING = 1, 2, 1, 23
RTEXT_FILTER_SKIP_STATS = 1 << 3
NLMSGERR_ATTR_MSG = 1
_TYPE_MASK = 0x3FFF

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 4 << 20
_RECEIVE_SIZE = 1 << 16
_BATCH = 256  # messages in one sendmsg: their answers fit into the receive buffer
_DUMP_TRIES = 10

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, device type, index, flags, change mask
_ATTRIBUTE = struct.Struct("=HH")
_ERROR_CODE = struct.Struct("=i")
_U32 = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Device:
    """A network device as the kernel lists it; ``link`` is the index of a veth's other end."""

    index: int
    name: str
    kind: str
    mtu: int
    up: bool
    alias: str | None
    master: int | None
    link: int | None  # None as well if the other end is in another namespace


def new_veth(index: int, name: str, peer_index: int, peer: str, mtu: int) -> bytes:
    """Return the request that makes a veth pair with unused indexes."""
    other = _LINK.pack(0, 0, peer_index, 0, 0) + _text(IFLA_IFNAME, peer) + _number(IFLA_MTU, mtu)
    data = _attribute(VETH_INFO_PEER, other)
    return _new(index, name, mtu, _text(IFLA_INFO_KIND, "veth") + _attribute(IFLA_INFO_DATA, data))


def new_bridge(index: int, name: str, mtu: int) -> bytes:
    """Return the request that makes a bridge which floods multicast, as neighbour discovery needs it."""
    data = _attribute(IFLA_BR_MCAST_SNOOPING, b"\0")
    return _new(index, name, mtu, _text(IFLA_INFO_KIND, "bridge") + _attribute(IFLA_INFO_DATA, data))


def set_alias(index: int, alias: str) -> bytes:
    """Return the request that sets the alias of a device."""
    return _request(RTM_NEWLINK, NLM_F_ACK, _LINK.pack(0, 0, index, 0, 0) + _attribute(IFLA_IFALIAS, alias.encode()))


def set_device(index: int, *, mtu: int, master: int) -> bytes:
    """Return the request that sets mtu (bytes) and master (0 for none) of a device and brings it up."""
    body = _LINK.pack(0, 0, index, IFF_UP, IFF_UP) + _number(IFLA_MTU, mtu) + _number(IFLA_MASTER, master)
    return _request(RTM_NEWLINK, NLM_F_ACK, body)


def delete_device(index: int) -> bytes:
    """Return the request that deletes a device."""
    return _request(RTM_DELLINK, NLM_F_ACK, _LINK.pack(0, 0, index, 0, 0))


class RtNetlink:
    """A netlink socket of the namespace in which it is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.settimeout(10.0)  # the kernel answers at once; never hang the watchdog
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def devices(self) -> dict[str, Device]:
        """Return all devices by name; raises ApplyError when the kernel cannot list them."""
        for _ in range(_DUMP_TRIES):
            found = self._dump()
            if found is not None:
                return found
        raise ApplyError("the list of network devices kept changing while it was read")

    def send(self, requests: Sequence[bytes]) -> list[str | None]:
        """Send *requests* in as few steps as possible; return for each what went wrong, or None."""
        results: list[str | None] = []
        for start in range(0, len(requests), _BATCH):
            results += self._send_batch(requests[start : start + _BATCH])
        return results

    def _send_batch(self, requests: Sequence[bytes]) -> list[str | None]:
        first = self._sequence + 1
        self._sequence += len(requests)
        batch = b"".join(_numbered(request, first + offset) for offset, request in enumerate(requests))
        self._socket.sendall(batch)
        results: dict[int, str | None] = {}
        while len(results) < len(requests):
            for kind, flags, sequence, body in self._receive():
                if kind == NLMSG_ERROR and first <= sequence <= self._sequence:
                    results[sequence] = _error_text(body, flags)
        return [results[first + offset] for offset in range(len(requests))]

    def _dump(self) -> dict[str, Device] | None:
        """Return all devices by name, or None if they changed in between."""
        self._sequence += 1
        body = _LINK.pack(0, 0, 0, 0, 0) + _number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        self._socket.sendall(_numbered(_request(RTM_GETLINK, NLM_F_DUMP, body), self._sequence))
        found: dict[str, Device] = {}
        interrupted = False
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if kind == RTM_NEWLINK:
                    device = _parse_device(body)
                    found[device.name] = device
                elif kind == NLMSG_ERROR:
                    raise ApplyError(f"network devices cannot be listed: {_error_text(body, flags)}")
                elif kind == NLMSG_DONE:
                    return None if interrupted else found

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield type, flags, sequence number and body of each message of one datagram."""
        data = self._socket.recv(_RECEIVE_SIZE)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
            offset += _aligned(length)


def _parse_device(body: bytes) -> Device:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    attributes = dict(_attributes(body, _LINK.size))
    info = dict(_attributes(attributes.get(IFLA_LINKINFO, b""), 0))
    alias = attributes.get(IFLA_IFALIAS)
    return Device(
        index=index,
        name=_string(attributes[IFLA_IFNAME]),
        kind=_string(info.get(IFLA_INFO_KIND, b"")),
        mtu=_integer(attributes.get(IFLA_MTU)) or 0,
        up=bool(flags & IFF_UP),
        alias=None if alias is None else _string(alias),
        master=_integer(attributes.get(IFLA_MASTER)),
        link=None if IFLA_LINK_NETNSID in attributes else _integer(attributes.get(IFLA_LINK)),
    )


def _error_text(body: bytes, flags: int) -> str | None:
    """Return what an acknowledgement complains of; None if the request was done."""
    code = -_ERROR_CODE.unpack_from(body)[0]
    if code == 0:
        return None
    # With NETLINK_CAP_ACK only the header of the request is repeated before the attributes.
    details = dict(_attributes(body, _ERROR_CODE.size + _HEADER.size)) if flags & NLM_F_ACK_TLVS else {}
    message = _string(details.get(NLMSGERR_ATTR_MSG, b""))
    return f"{os.strerror(code)} ({message})" if message else os.strerror(code)


def _new(index: int, name: str, mtu: int, info: bytes) -> bytes:
    body = _LINK.pack(0, 0, index, 0, 0) + _text(IFLA_IFNAME, name) + _number(IFLA_MTU, mtu)
    return _request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body + _attribute(IFLA_LINKINFO, info))


def _request(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, 0, 0) + body


def _numbered(request: bytes, sequence: int) -> bytes:
    return request[:8] + _U32.pack(sequence) + request[12:]


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _attribute(kind: int, payload: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(_aligned(length) - length)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(kind: int, number: int) -> bytes:
    return _attribute(kind, _U32.pack(number))


def _attributes(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)


def _string(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def _integer(payload: bytes | None) -> int | None:
    return None if payload is None else int(_U32.unpack(payload)[0])
