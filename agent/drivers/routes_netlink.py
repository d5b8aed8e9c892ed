# SPDX-License-Identifier: Apache-2.0
"""Addresses, routes and neighbours of a namespace over rtnetlink(7), as far as they are ours.

Ours are marked with protocol 72: ``IFA_PROTO`` of an address (Linux 5.18), the protocol
of a route, ``NDA_PROTOCOL`` of a permanent neighbour (Linux 5.2).  Routes are those of
the main table.  ``linux/if_addr.h``, ``linux/rtnetlink.h`` and ``linux/neighbour.h``
have the numbers.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from agent.drivers.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    RouteSocket,
    attribute,
    message,
    read_attributes,
)
from agent.drivers.refusal import RefusedError
from agent.drivers.routes_text import Address, Hop, Neighbor, Prefix

PROTOCOL: Final = 72

_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWNEIGH, _RTM_DELNEIGH, _RTM_GETNEIGH = 28, 29, 30
_IFADDRMSG = struct.Struct("=BBBBI")  # family, length, flags, scope, index
_RTMSG = struct.Struct("=8BI")  # family, two lengths, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_PROTO = 1, 2, 8, 11
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH = 1, 4, 5, 9
_NDA_DST, _NDA_LLADDR, _NDA_PROTOCOL = 1, 2, 12
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200
_IFAPROT_KERNEL = (1, 2, 3)  # of loopback devices, router advertisements, link-local
_MAIN, _UNICAST, _ONLINK = 254, 1, 4
_SCOPE_GLOBAL, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_NUD_PERMANENT = 0x80
_RTNEXTHOP = struct.Struct("=HBBi")
_U32 = struct.Struct("=I")
_FEW = 64  # neighbours that are asked for one by one; more of them are listed


@dataclass(frozen=True, slots=True)
class Entry:
    """What the kernel has under a key; ``address`` of a neighbour.

    ``routes`` to one prefix have one or several ways each; only the first of them is used.
    What is not ``permanent`` nobody has made: the kernel has learned it, or given it to itself.
    """

    ours: bool
    has_prefix_route: bool = True
    routes: tuple[tuple[Hop, ...], ...] = ()
    address: str = ""
    permanent: bool = True


Entries: TypeAlias = dict[Address | Prefix | Neighbor, Entry]


@dataclass(slots=True)
class RouteTable:
    """What a namespace has, and the messages that change it; *kernel* is a socket in it.

    Messages raise KeyError for a device that is not there.
    """

    kernel: RouteSocket
    _indexes: dict[str, int] = field(default_factory=dict)
    _names: dict[int, str | None] = field(default_factory=dict)

    def index(self, device: str) -> int:
        """Return the index of a device; raise KeyError if it is not there."""
        if device not in self._indexes:
            found = self.kernel.index_of(device)
            if found is None:
                raise KeyError(device)
            self._indexes[device] = found
        return self._indexes[device]

    # Reading.  All raise RefusedError, OSError and ApplyError.

    def addresses(self) -> Entries:
        """Return all addresses."""
        body = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        return dict(self.kernel.dump(_RTM_GETADDR, body, self._read_address))

    def routes(self) -> Entries:
        """Return the routes of ours."""
        found: Entries = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            # Only what is like this is listed (NETLINK_GET_STRICT_CHK).
            body = _RTMSG.pack(family, 0, 0, 0, _MAIN, PROTOCOL, 0, 0, 0)
            for prefix, entry in self.kernel.dump(_RTM_GETROUTE, body, self._read_route):
                before = found.get(prefix)
                found[prefix] = entry if before is None else Entry(True, routes=before.routes + entry.routes)
        return found

    def neighbors(self, wanted: Collection[Neighbor] | None = None) -> Entries:
        """Return all neighbours that have an entry, or those of *wanted*."""
        if wanted is None or len(wanted) > _FEW:
            body = _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
            return dict(self.kernel.dump(_RTM_GETNEIGH, body, self._read_neighbor))
        requests = []
        for neighbor in wanted:
            index = self.kernel.index_of(neighbor.device)
            if index is not None:
                head = _NDMSG.pack(_family(neighbor.packed), index, 0, 0, 0)
                requests.append(message(_RTM_GETNEIGH, 0, head + attribute(_NDA_DST, neighbor.packed)))
        found: Entries = {}
        for answer in self.kernel.ask(requests, self._read_neighbor):
            if isinstance(answer, RefusedError):
                if answer.code not in (errno.ENOENT, errno.ENODEV):
                    raise answer
            elif answer is not None:
                found.update([answer])
        return found

    # Writing.

    def add_address(self, address: Address, *, prefix_route: bool) -> bytes:
        """Return what adds an address, without a test whether somebody else has it (RFC 4862)."""
        flags = _IFA_F_NODAD if _family(address.packed) == socket.AF_INET6 else 0
        flags |= 0 if prefix_route else _IFA_F_NOPREFIXROUTE
        more = attribute(_IFA_FLAGS, _U32.pack(flags)) + attribute(_IFA_PROTO, bytes([PROTOCOL]))
        return message(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, self._address(address) + more)

    def delete_address(self, address: Address) -> bytes:
        """Return what deletes an address."""
        return message(_RTM_DELADDR, 0, self._address(address))

    def add_route(self, prefix: Prefix, hops: Sequence[Hop], *, beside: bool = False) -> bytes:
        """Return what adds a route, if *beside* next to one that is there."""
        scope = _SCOPE_GLOBAL if hops[0].via or is_ipv6(prefix.packed) else _SCOPE_LINK
        how = NLM_F_CREATE | (NLM_F_APPEND if beside else NLM_F_EXCL)
        return message(_RTM_NEWROUTE, how, self._route(prefix, scope, _UNICAST, hops))

    def delete_route(self, prefix: Prefix, hops: Sequence[Hop] = ()) -> bytes:
        """Return what deletes the route of ours that takes these ways, or (none) the first with all of its ways."""
        return message(_RTM_DELROUTE, 0, self._route(prefix, _SCOPE_NOWHERE, 0, hops))

    def set_neighbor(self, neighbor: Neighbor, address: str, *, replace: bool) -> bytes:
        """Return what makes a neighbour's entry, if *replace* instead of one that is there."""
        how = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
        mac = attribute(_NDA_LLADDR, bytes.fromhex(address.replace(":", "")))
        more = mac + attribute(_NDA_PROTOCOL, bytes([PROTOCOL]))
        return message(_RTM_NEWNEIGH, how, self._neighbor(neighbor, _NUD_PERMANENT) + more)

    def delete_neighbor(self, neighbor: Neighbor) -> bytes:
        """Return what deletes a neighbour's entry."""
        return message(_RTM_DELNEIGH, 0, self._neighbor(neighbor, 0))

    def _address(self, address: Address) -> bytes:
        head = _IFADDRMSG.pack(_family(address.packed), address.length, 0, _SCOPE_GLOBAL, self.index(address.device))
        return head + attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)

    def _route(self, prefix: Prefix, scope: int, kind: int, hops: Sequence[Hop]) -> bytes:
        flags = _ONLINK if len(hops) == 1 and hops[0].onlink else 0
        head = _RTMSG.pack(_family(prefix.packed), prefix.length, 0, 0, _MAIN, PROTOCOL, scope, kind, flags)
        parts = [head, attribute(_RTA_DST, prefix.packed)]
        if len(hops) > 1:
            parts.append(attribute(_RTA_MULTIPATH, b"".join(map(self._next_hop, hops))))
        for hop in hops if len(hops) == 1 else ():
            parts.append(attribute(_RTA_OIF, _U32.pack(self.index(hop.device))))
            parts += [attribute(_RTA_GATEWAY, hop.via)] if hop.via else []
        return b"".join(parts)

    def _next_hop(self, hop: Hop) -> bytes:
        """Return one of several ways (struct rtnexthop); the weight is kept less one."""
        gateway = attribute(_RTA_GATEWAY, hop.via)
        flags, length = _ONLINK if hop.onlink else 0, _RTNEXTHOP.size + len(gateway)
        return _RTNEXTHOP.pack(length, flags, hop.weight - 1, self.index(hop.device)) + gateway

    def _neighbor(self, neighbor: Neighbor, state: int) -> bytes:
        head = _NDMSG.pack(_family(neighbor.packed), self.index(neighbor.device), state, 0, 0)
        return head + attribute(_NDA_DST, neighbor.packed)

    def _name(self, index: int) -> str | None:
        if index not in self._names:
            self._names[index] = self.kernel.name_of(index)
        return self._names[index]

    def _read_address(self, data: bytes) -> tuple[Address, Entry] | None:
        _, length, _, _, index = _IFADDRMSG.unpack_from(data)
        values, device = read_attributes(data, _IFADDRMSG.size), self._name(index)
        packed = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        if device is None or packed is None:
            return None
        flags = _U32.unpack(values.get(_IFA_FLAGS, bytes(4)))[0]
        protocol = values.get(_IFA_PROTO, bytes(1))[0]
        entry = Entry(
            protocol == PROTOCOL,
            has_prefix_route=not flags & _IFA_F_NOPREFIXROUTE,
            permanent=protocol not in _IFAPROT_KERNEL,
        )
        return Address(device, packed, length), entry

    def _read_route(self, data: bytes) -> tuple[Prefix, Entry] | None:
        family, length, _, _, table, protocol, _, _, flags = _RTMSG.unpack_from(data)
        if (table, protocol) != (_MAIN, PROTOCOL) or family not in _SIZES:
            return None
        values = read_attributes(data, _RTMSG.size)
        prefix = Prefix(values.get(_RTA_DST, bytes(_SIZES[family])), length)
        if _RTA_MULTIPATH in values:
            return prefix, Entry(True, routes=(tuple(self._read_hops(values[_RTA_MULTIPATH])),))
        index = _U32.unpack(values.get(_RTA_OIF, bytes(4)))[0]
        return prefix, Entry(True, routes=((self._hop(index, values, flags),),))

    def _read_hops(self, data: bytes) -> Iterator[Hop]:
        offset = 0
        while offset + _RTNEXTHOP.size <= len(data):
            length, flags, more, index = _RTNEXTHOP.unpack_from(data, offset)
            if length < _RTNEXTHOP.size:
                return
            yield self._hop(index, read_attributes(data[offset : offset + length], _RTNEXTHOP.size), flags, more + 1)
            offset += (length + 3) & ~3

    def _hop(self, index: int, values: dict[int, bytes], flags: int, weight: int = 1) -> Hop:
        return Hop(self._name(index) or "", values.get(_RTA_GATEWAY, b""), bool(flags & _ONLINK), weight)

    def _read_neighbor(self, data: bytes) -> tuple[Neighbor, Entry] | None:
        family, index, state, _, _ = _NDMSG.unpack_from(data)
        if family not in _SIZES:
            return None  # of a bridge
        values, device = read_attributes(data, _NDMSG.size), self._name(index)
        if device is None or _NDA_DST not in values:
            return None
        permanent = bool(state & _NUD_PERMANENT)
        ours = permanent and values.get(_NDA_PROTOCOL) == bytes([PROTOCOL])
        address = values.get(_NDA_LLADDR, b"").hex(":")
        return Neighbor(device, values[_NDA_DST]), Entry(ours, address=address, permanent=permanent)


def is_ipv6(packed: bytes) -> bool:
    """Tell of which family an address is."""
    return len(packed) == _SIZES[socket.AF_INET6]


def _family(packed: bytes) -> int:
    return socket.AF_INET if len(packed) == _SIZES[socket.AF_INET] else socket.AF_INET6


_SIZES: Final[dict[int, int]] = {socket.AF_INET: 4, socket.AF_INET6: 16}
