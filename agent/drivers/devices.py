# SPDX-License-Identifier: Apache-2.0
"""Network devices as the kernel has them, and what driver ``links`` asks of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from agent.core.errors import ApplyError


@dataclass(frozen=True, slots=True)
class Device:
    """A network device; ``peer`` and ``master`` are indexes, ``mtu`` is in bytes.

    ``peer`` is a veth's other end, None as well if that is in another namespace.
    """

    index: int
    name: str
    kind: str
    mtu: int
    up: bool
    alias: str = ""
    peer: int | None = None
    master: int | None = None
    tx_checksum: bool = True


@dataclass(frozen=True, slots=True)
class MakeVeth:
    """Make a pair, shut, both ends with their alias."""

    index: int
    name: str
    alias: str
    peer_index: int
    peer: str
    peer_alias: str
    mtu: int


@dataclass(frozen=True, slots=True)
class MakeBridge:
    """Make a bridge, shut, with its alias; it floods multicast, as neighbour discovery needs it."""

    index: int
    name: str
    alias: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Configure:
    """Set alias, mtu, master and administrative state of a device, as far as *wanted* differs from *present*."""

    present: Device
    wanted: Device


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a device; that it is gone (a veth goes with its peer) is no error."""

    index: int


Request: TypeAlias = MakeVeth | MakeBridge | Configure | Delete


class DeviceTable(Protocol):
    """The devices of one network namespace.

    All raise ApplyError when the kernel does not talk to us at all.
    """

    def marked(self, mark: str, but_not: str) -> list[Device]:
        """List the devices whose alias begins with *mark* but not with *but_not*."""

    def find(self, *, names: Collection[str] = (), indexes: Collection[int] = ()) -> list[Device]:
        """Return those of the named and numbered devices that exist."""

    def write(self, requests: Sequence[Request]) -> list[ApplyError | None]:
        """Carry out *requests* in few steps, in their order; return for each what went wrong, or None."""

    def close_host_side(self, name: str) -> None:
        """Keep the host's own IPv6 out of a device.  Raises ApplyError."""

    def switch_tx_checksum(self, name: str, enabled: bool) -> None:
        """Leave a veth's transmit checksums to its peer, or compute them.  Raises ApplyError."""
