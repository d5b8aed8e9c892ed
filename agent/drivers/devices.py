# SPDX-License-Identifier: Apache-2.0
"""Network devices as the kernel has them, and what driver ``links`` asks of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from agent.core import naming
from agent.core.errors import ApplyError

NAMESPACE_ALIAS: Final = f"{naming.ALIAS_PREFIX}netns:"  # of lo: marks the namespace, which driver netns makes
_MADE_BY_OTHERS: Final = (f"{naming.ALIAS_PREFIX}plug:", NAMESPACE_ALIAS)  # the first by the command

# Groups (ip-link(8)), given to a device as it is made, which an alias cannot be.  The
# second tells that the address was chosen and is not the kernel's own.
GROUP: Final = naming.COOKIE_OWNER
GROUP_ADDRESSED: Final = GROUP + 1


@dataclass(frozen=True, slots=True)
class Device:
    """A network device; ``peer`` and ``master`` are indexes, ``mtu`` is in bytes.

    ``peer`` is a veth's other end; with ``is_peer_elsewhere`` the index is one of
    another namespace.  ``address`` is the MAC address, if it is one that was chosen.
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
    is_peer_elsewhere: bool = False
    address: str | None = None
    group: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """An end of a pair that is to be made, shut; ``address`` None: the kernel chooses one."""

    index: int
    name: str
    alias: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class MakeVeth:
    """Make a pair, shut; ``peer_namespace`` is a descriptor, None for the one that is asked.

    Both ends get their alias in the same step, but a peer elsewhere only its group.
    """

    end: End
    peer: End
    mtu: int
    peer_namespace: int | None = None


@dataclass(frozen=True, slots=True)
class MakeBridge:
    """Make a bridge, shut, with its alias; it floods multicast, as neighbour discovery needs it."""

    end: End
    mtu: int


@dataclass(frozen=True, slots=True)
class Silence:
    """Have the kernel give a device no IPv6 address of its own, so that it says nothing when it comes up."""

    index: int


@dataclass(frozen=True, slots=True)
class Configure:
    """Set what can be changed of a device, as far as *wanted* differs from *present*."""

    present: Device
    wanted: Device


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a device; that it is gone (a veth goes with its peer) is no error."""

    index: int


Request: TypeAlias = MakeVeth | MakeBridge | Silence | Configure | Delete


def is_ours(device: Device) -> bool:
    """Tell whether driver ``links`` made *device*; a process that died may not have come to its alias."""
    if device.alias:
        return naming.is_our_alias(device.alias) and not device.alias.startswith(_MADE_BY_OTHERS)
    return device.group in (GROUP, GROUP_ADDRESSED)


class DeviceTable(Protocol):
    """The devices of one network namespace.

    All raise ApplyError when the kernel does not talk to us at all.
    """

    @property
    def descriptor(self) -> int:
        """What the kernel is told when a device is to be in this namespace."""

    def close(self) -> None:
        """End the visit."""

    def ours(self, wanted: Callable[[str], bool] | None = None) -> list[Device]:
        """List the devices that ``is_ours``, only those whose names are *wanted* if that is given."""

    def find(self, *, names: Collection[str] = (), indexes: Collection[int] = ()) -> list[Device]:
        """Return those of the named and numbered devices that exist."""

    def write(self, requests: Sequence[Request]) -> list[ApplyError | None]:
        """Carry out *requests* in few steps, in their order; return for each what went wrong, or None."""

    def close_host_side(self, name: str) -> None:
        """Keep the host's own IPv6 out of a device of the thread's namespace.  Raises ApplyError."""

    def switch_tx_checksum(self, name: str, enabled: bool) -> None:
        """Leave a veth's transmit checksums to its peer, or compute them.  Raises ApplyError."""


class DeviceSpaces(Protocol):
    """The namespaces of a host; the empty name is the host's own."""

    def names(self) -> Collection[str]:
        """Return the names of all namespaces, whoever made them, but the host's own.  Raises ApplyError."""

    def open(self, name: str) -> DeviceTable | None:
        """Open one of ours, or the host's own; None if it is not there, or not ours.  Raises ApplyError."""
