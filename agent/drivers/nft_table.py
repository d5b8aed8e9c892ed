# SPDX-License-Identifier: Apache-2.0
"""A table ``hostplane`` of nf_tables: written by ``nft``, read over netlink, in the namespace that the thread is in.

A script is one transaction of the kernel: all of it is done or nothing (nft(8), -f).  To
read a table takes 0.3 ms over netlink (``linux/netfilter/nf_tables.h``) and 5 ms by
``nft``: a host has a hundred routers.  Rules are recognized by a comment.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

from agent.command import Runner
from agent.core.errors import ApplyError
from agent.drivers.bridges_netlink import read_attributes
from agent.drivers.kernel_socket import HEADER, KernelSocket
from agent.drivers.netlink import attribute
from agent.drivers.refusal import RefusedError

NAME: Final = "hostplane"

_NETLINK_NETFILTER = 12
_NFGENMSG: Final = struct.Struct("!BBH")  # family, version, resource
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _DUMP, _DUMP_INTERRUPTED = 0x1, 0x300, 0x10  # NLM_F_*
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_GET_CHAIN, _GET_RULE, _GET_ELEMENT = (_SUBSYSTEM << 8 | number for number in (4, 7, 13))  # NFT_MSG_*
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY = 1, 3, 4, 5  # NFTA_CHAIN_*
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2  # NFTA_HOOK_*
_DROP = bytes(4)  # NF_DROP
_RULE_TABLE, _RULE_CHAIN, _RULE_USERDATA, _COMMENT = 1, 2, 7, 0  # NFTA_RULE_*, NFTNL_UDATA_RULE_COMMENT of libnftnl
_ELEMENTS_TABLE, _ELEMENTS_SET, _ELEMENTS, _KEY, _DATA, _VALUE = 1, 2, 3, 1, 2, 1  # NFTA_SET_ELEM_*, NFTA_DATA_VALUE
_HOOKS: Final = ("prerouting", "input", "forward", "output", "postrouting")  # NF_INET_*
_ERROR = struct.Struct("=i")
_PRIORITY = struct.Struct("!i")
_TRIES = 10


class Family(Enum):
    """What packets a table sees: how nft says it, and the kernel's number (NFPROTO_*)."""

    INET = ("inet", 1)
    IPV4 = ("ip", 2)


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; ``hook`` is what of the kernel it hangs on, "" for one that does not.

    ``accepts``: what reaches its end goes on.
    """

    name: str
    hook: str
    priority: int
    accepts: bool = True


@dataclass(frozen=True, slots=True)
class Content:
    """What a table has: chains, and of each chain the comments of its rules, in order."""

    chains: frozenset[Chain]
    comments: dict[str, tuple[str, ...]]


def without_table(family: Family) -> str:
    """Return the beginning of a script after which there is no table, whether there was one or not."""
    return f"add table {family.value[0]} {NAME}\ndelete table {family.value[0]} {NAME}\n"


def write(run: Runner, script: str) -> None:
    """Do all that *script* says, or nothing.  Raises CommandError."""
    run(("nft", "-f", "-"), stdin=script)


class TableReader:
    """Reads our table of *family*, in the namespace in which it is first used; a context manager.

    All methods raise ApplyError.
    """

    def __init__(self, family: Family) -> None:
        self._number = family.value[1]
        self._kernel = KernelSocket(_NETLINK_NETFILTER, "nf_tables")
        self._asked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kernel.close()

    def content(self) -> Content | None:
        """Return chains and rules, None if there is no table that has any."""
        chains = frozenset(_chains(self._dump(_GET_CHAIN, b"")))
        if not chains:
            return None
        comments: dict[str, list[str]] = {}
        for message in self._dump(_GET_RULE, attribute(_RULE_TABLE, _text(NAME))):
            parts = dict(read_attributes(message, _NFGENMSG.size))
            comments.setdefault(_string(parts[_RULE_CHAIN]), []).append(_comment(parts.get(_RULE_USERDATA, b"")))
        return Content(chains, {chain: tuple(found) for chain, found in comments.items()})

    def elements(self, name: str) -> dict[bytes, bytes]:
        """Return the elements of map *name*; nothing if there is none."""
        about = attribute(_ELEMENTS_TABLE, _text(NAME)) + attribute(_ELEMENTS_SET, _text(name))
        return dict(pair for message in self._dump(_GET_ELEMENT, about) for pair in _elements(message))

    def _dump(self, kind: int, about: bytes) -> list[bytes]:
        """Return the messages of a dump; nothing of what does not exist."""
        about = _NFGENMSG.pack(self._number, 0, 0) + about
        for _ in range(_TRIES):
            self._asked += 1
            found: list[bytes] = []
            self._kernel.send(HEADER.pack(HEADER.size + len(about), kind, _REQUEST | _DUMP, self._asked, 0) + about)
            if self._collect(found):
                return found
        raise ApplyError("nf_tables: a table kept changing while it was read")

    def _collect(self, found: list[bytes]) -> bool:
        """Add what is listed to *found*; return False if it changed meanwhile."""
        interrupted = False
        while True:
            for kind, flags, number, data in self._kernel.receive():
                if number != self._asked:
                    continue  # of a dump that was given up
                interrupted |= bool(flags & _DUMP_INTERRUPTED)
                if kind not in (_NLMSG_ERROR, _NLMSG_DONE):
                    found.append(data)
                    continue
                code = -_ERROR.unpack_from(data)[0]
                if code not in (0, errno.ENOENT):
                    raise RefusedError(code, "nf_tables: a table of a namespace")
                return not interrupted


def _chains(found: list[bytes]) -> Iterator[Chain]:
    for message in found:
        parts = dict(read_attributes(message, _NFGENMSG.size))
        if _string(parts[_CHAIN_TABLE]) != NAME:
            continue
        hook = dict(read_attributes(parts.get(_CHAIN_HOOK, b"")))
        where = _HOOKS[int.from_bytes(hook[_HOOK_NUMBER])] if _HOOK_NUMBER in hook else ""
        priority = _PRIORITY.unpack(hook[_HOOK_PRIORITY])[0] if _HOOK_PRIORITY in hook else 0
        yield Chain(_string(parts[_CHAIN_NAME]), where, priority, parts.get(_CHAIN_POLICY) != _DROP)


def _comment(userdata: bytes) -> str:
    """Return the comment among a rule's private data: type and length, an octet each, and the text."""
    while len(userdata) >= 2:
        kind, length = userdata[0], userdata[1]
        if kind == _COMMENT:
            return _string(userdata[2 : 2 + length])
        userdata = userdata[2 + length :]
    return ""


def _elements(message: bytes) -> Iterator[tuple[bytes, bytes]]:
    for kind, elements in read_attributes(message, _NFGENMSG.size):
        for _, element in read_attributes(elements) if kind == _ELEMENTS else ():
            parts = dict(read_attributes(element))
            yield _value(parts.get(_KEY, b"")), _value(parts.get(_DATA, b""))


def _value(data: bytes) -> bytes:
    return dict(read_attributes(data)).get(_VALUE, b"")


def _text(name: str) -> bytes:
    return name.encode() + b"\0"


def _string(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
