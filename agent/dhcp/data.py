# SPDX-License-Identifier: Apache-2.0
"""What the answers to one port are made of, and its form as JSON values.

This is all that the responder knows of a port.  The agent has validated it: addresses
are canonical text, MAC addresses lower case with colons, names ASCII.  JSON travels
over the hand-over socket and lies in the responder's file; fields of a later version
are ignored, fields that an earlier one did not write get their default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import TypeAlias, TypeVar

from agent.core.errors import InputError

INFINITE = -1  # as Neutron's dhcp_lease_duration
DAY = 86400

Options: TypeAlias = tuple[tuple[int, bytes], ...]  # (code, payload)
Json: TypeAlias = dict[str, object]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SubnetData:
    """A subnet of the port's network.

    ``server`` is the address in it that we answer from, None where we serve nothing.
    ``dns`` empty means none; ``routes`` are (destination CIDR, next hop).  The modes
    are Neutron's ``slaac``, ``dhcpv6-stateful``, ``dhcpv6-stateless`` or None.
    ``routed`` tells that a router of ours has the gateway address.
    """

    cidr: str
    gateway: str | None = None
    server: str | None = None
    dns: tuple[str, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()
    dhcp: bool = True
    address_mode: str | None = None
    ra_mode: str | None = None
    routed: bool = False


@dataclass(frozen=True, slots=True)
class BootData:
    """Options for some of a port's boot loaders only.

    It applies to iPXE (True), to all others (False) or to both (None), and to the client
    system ``architectures`` (RFC 4578 section 2.1), empty meaning all.  ``next_server``
    is the IPv4 address to load from (``siaddr``), "" for none.
    """

    ipxe: bool | None = None
    architectures: tuple[int, ...] = ()
    next_server: str = ""
    options4: Options = ()
    options6: Options = ()

    def applies(self, *, ipxe: bool, architectures: tuple[int, ...]) -> bool:
        """Tell whether a client gets this: what it says of itself decides."""
        if self.ipxe is not None and self.ipxe is not ipxe:
            return False
        return not self.architectures or not set(architectures).isdisjoint(self.architectures)


@dataclass(frozen=True, slots=True)
class PortData:
    """What we know of a port.

    ``mac`` is the instance's, ``server_mac`` what it sees us answer from.  ``mtu`` is in
    octets.  ``addresses`` are (address, index of its subnet).  ``options4`` and
    ``options6`` are the port's own and override ours; an empty payload takes an option
    away.  Of ``boot`` later entries override earlier ones.  ``lease_seconds`` may be
    INFINITE.  ``router_mac`` is that of a router of ours that routes for the network's
    IPv6 subnets, "" without: router advertisements then come from its link-local address.
    """

    port: str
    mac: str
    server_mac: str
    hostname: str = ""
    domain: str = ""
    search: tuple[str, ...] = ()
    mtu: int = 1500
    addresses: tuple[tuple[str, int], ...] = ()
    subnets: tuple[SubnetData, ...] = ()
    options4: Options = ()
    options6: Options = ()
    boot: tuple[BootData, ...] = ()
    ntp4: tuple[str, ...] = ()
    ntp6: tuple[str, ...] = ()
    lease_seconds: int = DAY
    router_mac: str = ""


def encode_port(data: PortData) -> Json:
    """Return *data* as JSON values; bytes as hexadecimal digits."""
    return _encode_fields(data)


def decode_port(value: object) -> PortData:
    """Return what `encode_port` was given; raise InputError if *value* is something else."""
    data = _build(PortData, value, _PORT)
    last = len(data.subnets) - 1
    for address, index in data.addresses:
        if not 0 <= index <= last:
            raise InputError(f"port data: addresses: {address} is of subnet {index}, the last is {last}")
    return data


_NAMES: Mapping[type[PortData | SubnetData | BootData], tuple[str, ...]] = {
    cls: tuple(each.name for each in fields(cls)) for cls in (PortData, SubnetData, BootData)
}


def _encode_fields(value: PortData | SubnetData | BootData) -> Json:
    return {name: _encode(getattr(value, name)) for name in _NAMES[type(value)]}


def _encode(value: object) -> object:
    if isinstance(value, str):  # most are
        return value
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return _encode_fields(value) if isinstance(value, (SubnetData, BootData)) else value


def _build(cls: Callable[..., _T], value: object, readers: Mapping[str, Callable[[object], object]]) -> _T:
    if not isinstance(value, dict):
        raise InputError(f"port data: {value!r:.40} is not an object")
    found: dict[str, object] = {}
    for name, reader in readers.items():
        if name not in value:
            continue
        try:
            found[name] = reader(value[name])
        except (TypeError, ValueError) as err:
            raise InputError(f"port data: {name}: {err}") from None
    missing = _REQUIRED[cls] - found.keys()
    if missing:
        raise InputError(f"port data: {', '.join(sorted(missing))} is missing")
    return cls(**found)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is not a number")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is neither true nor false")
    return value


def _payload(value: object) -> bytes:
    return bytes.fromhex(_text(value))


def _or_none(reader: Callable[[object], _T]) -> Callable[[object], _T | None]:
    return lambda value: None if value is None else reader(value)


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is not a list")
    return value


def _many(reader: Callable[[object], _T]) -> Callable[[object], tuple[_T, ...]]:
    return lambda value: tuple(reader(item) for item in _items(value))


def _pairs(first: Callable[[object], object], second: Callable[[object], object]) -> Callable[[object], object]:
    def read(value: object) -> tuple[object, object]:
        pair = _items(value)
        if len(pair) != 2:
            raise TypeError(f"{value!r:.40} is not a pair")
        return first(pair[0]), second(pair[1])

    return _many(read)


_OPTIONS = _pairs(_number, _payload)
_SUBNET: Mapping[str, Callable[[object], object]] = {
    "cidr": _text,
    "gateway": _or_none(_text),
    "server": _or_none(_text),
    "dns": _many(_text),
    "routes": _pairs(_text, _text),
    "dhcp": _flag,
    "address_mode": _or_none(_text),
    "ra_mode": _or_none(_text),
    "routed": _flag,
}
_BOOT: Mapping[str, Callable[[object], object]] = {
    "ipxe": _or_none(_flag),
    "architectures": _many(_number),
    "next_server": _text,
    "options4": _OPTIONS,
    "options6": _OPTIONS,
}
_PORT: Mapping[str, Callable[[object], object]] = {
    "port": _text,
    "mac": _text,
    "server_mac": _text,
    "hostname": _text,
    "domain": _text,
    "search": _many(_text),
    "mtu": _number,
    "addresses": _pairs(_text, _number),
    "subnets": _many(lambda value: _build(SubnetData, value, _SUBNET)),
    "options4": _OPTIONS,
    "options6": _OPTIONS,
    "boot": _many(lambda value: _build(BootData, value, _BOOT)),
    "ntp4": _many(_text),
    "ntp6": _many(_text),
    "lease_seconds": _number,
    "router_mac": _text,
}


def _has_default(field: Field[object]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


_REQUIRED: Mapping[Callable[..., object], frozenset[str]] = {
    cls: frozenset(field.name for field in fields(cls) if not _has_default(field))
    for cls in (PortData, SubnetData, BootData)
}
