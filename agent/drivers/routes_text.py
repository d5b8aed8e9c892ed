# SPDX-License-Identifier: Apache-2.0
"""Keys and values of driver ``routes``, taken apart; ``agent.core.items`` says what they look like.

An address or prefix is written as inet_ntop(3) writes it, a prefix always with its
length (``0.0.0.0/0``, ``::/0``).
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, TypeAlias

from agent.core.errors import ApplyError

NO_PREFIX_ROUTE: Final = "noprefixroute"  # value of an address that brings no route to its network
_SETTINGS: Final = "/proc/sys"
_NEXT: Final = "nexthop "  # before each of several ways
_DOTS_AND_SLASHES = str.maketrans("./", "/.")


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a device; *packed* in network order."""

    device: str
    packed: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Prefix:
    """Where a route leads to."""

    packed: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A neighbour of a device."""

    device: str
    packed: bytes


@dataclass(frozen=True, slots=True)
class Setting:
    """A file under ``/proc/sys``."""

    path: str


@dataclass(frozen=True, slots=True)
class Hop:
    """A way that a route takes: ``via`` a neighbour, or (empty) directly on the device.

    ``weight`` is its share among several; ours all have the same.
    """

    device: str
    via: bytes = b""
    onlink: bool = False
    weight: int = 1


Thing: TypeAlias = Address | Prefix | Neighbor | Setting


def parse_key(key: str) -> tuple[str, Thing]:
    """Return the namespace and the thing in it; raise ApplyError for what is no key."""
    try:
        match key.split(" "):
            case [namespace, "address", device, address]:
                return namespace, Address(device, *_prefix(address))
            case [namespace, "route", prefix]:
                return namespace, Prefix(*_prefix(prefix))
            case [namespace, "neighbor", device, address]:
                return namespace, Neighbor(device, _packed(address))
            case [namespace, "sysctl", name]:
                return namespace, Setting(_path(name))
    except ValueError:
        pass
    raise ApplyError(f"{key!r} is no address, route, neighbor or sysctl")


def parse_hops(value: str) -> tuple[Hop, ...]:
    """Return the ways that a route takes, from its value; raise ApplyError for what is none."""
    try:
        if not value.startswith(_NEXT):
            return (_hop(value),)
        hops = tuple(_hop(text) for text in value.removeprefix(_NEXT).split(f" {_NEXT}"))
        if len(set(hops)) == len(hops) > 1 and all(hop.via for hop in hops):
            return hops
    except ValueError:
        pass
    raise ApplyError(f"a route cannot lead {value!r}")


def hops_text(hops: Collection[Hop]) -> str:
    """Return the value of a route that takes these ways."""
    texts = sorted(map(_hop_text, hops))
    return texts[0] if len(texts) == 1 else " ".join(_NEXT + text for text in texts)


def _hop(text: str) -> Hop:
    match text.split(" "):
        case ["via", address, "dev", device]:
            return Hop(device, _packed(address))
        case ["via", address, "dev", device, "onlink"]:
            return Hop(device, _packed(address), onlink=True)
        case ["dev", device]:
            return Hop(device)
    raise ValueError(text)


def _hop_text(hop: Hop) -> str:
    via = f"via {address_text(hop.via)} " if hop.via else ""
    weight = f" weight {hop.weight}" if hop.weight != 1 else ""
    return f"{via}dev {hop.device}{' onlink' if hop.onlink else ''}{weight}"


def address_text(packed: bytes) -> str:
    """Return an address as text."""
    return socket.inet_ntop(_family(packed), packed)


def _family(packed: bytes) -> int:
    return socket.AF_INET if len(packed) == 4 else socket.AF_INET6


def _packed(address: str) -> bytes:
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except OSError as err:
        raise ValueError(address) from err


def _prefix(text: str) -> tuple[bytes, int]:
    address, _, length = text.partition("/")
    return _packed(address), int(length)


def _path(name: str) -> str:
    """Return the file of a setting: as sysctl(8) has it, a slash stands for a dot within a name."""
    parts = name.translate(_DOTS_AND_SLASHES).split("/")
    if parts[0] != "net" or any(part in ("", ".", "..") for part in parts):
        raise ValueError(name)
    return "/".join([_SETTINGS, *parts])
