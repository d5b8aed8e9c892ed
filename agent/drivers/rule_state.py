# SPDX-License-Identifier: Apache-2.0
"""How far the packet filter of a namespace has got: what tells cheaply that nothing has changed since.

nf_tables counts each committed change of a namespace (``NFTA_GEN_ID``), whoever made it;
iptables with its nft backend is one of those.  So rules that were read need not be read
again while the count is the same, in the same namespace (``SO_NETNS_COOKIE``, Linux 5.14,
tells it from a later one of that name).  Reading the count takes 0.1 ms, reading the
rules a process of 2 to 5 ms.

The legacy tables count nothing.  They are named in ``/proc/net/ip_tables_names`` once
somebody has used them (Documentation of ip_tables: the file lists what is registered), so
where one is there the count is no proof.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.core.errors import ApplyError
from agent.drivers.bridges_netlink import read_attributes
from agent.drivers.conntrack_table import open_netfilter
from agent.drivers.kernel_socket import HEADER, RECEIVE_SIZE, messages
from agent.drivers.refusal import RefusedError

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES, linux/netfilter/nfnetlink.h
_GET_TABLE, _NEW_GENERATION, _GET_GENERATION = (_SUBSYSTEM << 8 | number for number in (1, 15, 16))  # NFT_MSG_*
_GENERATION_ID = 1  # NFTA_GEN_ID
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _DUMP = 0x1, 0x300  # NLM_F_*
_NFGENMSG = struct.Struct("!BBH")  # family, version, resource
_ERROR = struct.Struct("=i")
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h
_LACKING = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT)  # a kernel without nf_tables
_LEGACY: Final = {4: Path("/proc/thread-self/net/ip_tables_names"), 6: Path("/proc/thread-self/net/ip6_tables_names")}
_FAMILIES: Final = {socket.AF_INET: 4, socket.AF_INET6: 6}  # as nf_tables numbers them, too


@dataclass(frozen=True, slots=True)
class RuleState:
    """What the thread's namespace says of its rules.

    ``namespace`` is its cookie; ``generation`` None where changes are not counted.
    ``families`` (4 and 6) are those that have tables.
    """

    namespace: int
    generation: int | None
    families: frozenset[int]


def read_state() -> RuleState:
    """Return the state of the namespace that the calling thread is in.  Raises ApplyError."""
    legacy = {family for family, path in _LEGACY.items() if _names_something(path)}
    with open_netfilter() as kernel:
        cookie = _cookie(kernel)
        try:
            generation = _generation(kernel)
            families = _families(kernel)
        except RefusedError as err:
            if err.code not in _LACKING:
                raise
            generation, families = None, set()
    counted = cookie and not legacy
    return RuleState(cookie, generation if counted else None, frozenset(legacy | families))


def _names_something(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # nobody on this host has used the legacy tables
        try:
            return bool(path.read_bytes())
        except OSError as err:
            raise ApplyError(f"{path}: {err.strerror or err}") from err
    return False


def _cookie(kernel: socket.socket) -> int:
    """Return the number of the socket's namespace, 0 if the kernel does not tell."""
    try:
        return int.from_bytes(kernel.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
    except OSError:
        return 0


def _generation(kernel: socket.socket) -> int:
    _send(kernel, _GET_GENERATION, 0, 1)
    while True:
        for kind, _, number, data in _receive(kernel):
            if kind == _NLMSG_ERROR:
                _check(data)
            elif kind == _NEW_GENERATION and number == 1:
                found = dict(read_attributes(data, _NFGENMSG.size))
                return int.from_bytes(found.get(_GENERATION_ID, b""))


def _families(kernel: socket.socket) -> set[int]:
    """Return the families that have a table."""
    _send(kernel, _GET_TABLE, _DUMP, 2)
    found: set[int] = set()
    while True:
        for kind, _, number, data in _receive(kernel):
            if number != 2:
                continue
            if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                _check(data)
                return found
            family = _FAMILIES.get(_NFGENMSG.unpack_from(data)[0])
            if family is not None:
                found.add(family)


def _send(kernel: socket.socket, kind: int, flags: int, number: int) -> None:
    about = _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)
    try:
        kernel.send(HEADER.pack(HEADER.size + len(about), kind, flags | _REQUEST, number, 0) + about)
    except OSError as err:
        raise ApplyError(f"nf_tables cannot be asked: {err.strerror or err}") from err


def _receive(kernel: socket.socket) -> list[tuple[int, int, int, bytes]]:
    try:
        return list(messages(kernel.recv(RECEIVE_SIZE)))
    except OSError as err:
        raise ApplyError(f"nf_tables does not answer: {err.strerror or err}") from err


def _check(data: bytes) -> None:
    code = -_ERROR.unpack_from(data)[0]
    if code:
        raise RefusedError(code, "nf_tables: tables of a namespace")
