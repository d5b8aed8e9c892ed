# SPDX-License-Identifier: Apache-2.0
"""What metadata requests of a port are answered from, and its form as JSON values.

This is all that the responder knows.  The agent has validated it.  JSON travels over
the hand-over socket and lies in the responder's file; fields of a later version are
ignored, fields that an earlier one did not write get their default.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TypeAlias, TypeVar

from agent.core.errors import InputError

Json: TypeAlias = dict[str, object]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ContentData:
    """What the store says of an instance; served as it is, without Nova.

    ``user_data`` are octets; ``vendor_data`` is JSON text or empty; ``meta`` are (key,
    value).  ``network_data`` is OpenStack's ``network_data.json`` as JSON text.
    """

    hostname: str = ""
    fqdn: str = ""
    ssh_keys: tuple[str, ...] = ()
    user_data: bytes = b""
    vendor_data: str = ""
    availability_zone: str = ""
    instance_type: str = ""
    meta: tuple[tuple[str, str], ...] = ()
    network_data: str = ""


@dataclass(frozen=True, slots=True)
class MetadataData:
    """What is known of a port.

    ``aliases`` are (alias, address): requests that come from the alias are the
    port's, sent from its address.  ``mac`` and ``addresses`` (fixed ones, in the port's
    order) are its own.  ``content`` None means that Nova is asked.
    """

    port: str
    name: str
    network: str
    mac: str
    instance_id: str
    project: str
    aliases: tuple[tuple[str, str], ...]
    addresses: tuple[str, ...] = ()
    content: ContentData | None = None


@dataclass(frozen=True, slots=True)
class NovaData:
    """How to ask Nova.

    ``ca``, ``certificate`` and ``key`` are PEM text; ``ca`` empty means the system's
    authorities.  ``timeout`` in seconds, for connecting and for each answer.
    """

    url: str
    secret: str = field(default="", repr=False)
    ca: str = ""
    certificate: str = ""
    key: str = field(default="", repr=False)
    insecure: bool = False
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one port may ask, for IPv4 and for IPv6 each.

    ``rate`` requests a second (0: any number) after the first ``burst``; ``connections``
    at once; ``body`` octets of a request; ``patience`` seconds for a whole request to
    come in, and for a client to take what is sent to it.
    """

    rate: float = 50.0
    burst: int = 200
    connections: int = 64
    body: int = 1 << 16
    patience: float = 10.0

    @property
    def connects(self) -> Limits:
        """How fast connections may come: faster than requests, so that who asks too much is told so by HTTP."""
        return Limits(rate=self.rate * 4, burst=self.burst * 4)


@dataclass(frozen=True, slots=True)
class ServiceData:
    """What is the same for all ports; ``nova`` None where the store names none."""

    nova: NovaData | None = None
    limits: Limits = Limits()


def encode_metadata(data: MetadataData) -> Json:
    """Return *data* as JSON values; octets as base64."""
    return _encode_fields(data)


def decode_metadata(value: object) -> MetadataData:
    """Return what `encode_metadata` was given; raise InputError if *value* is something else."""
    return _decode(MetadataData, value)


def encode_service(data: ServiceData) -> Json:
    """Return *data* as JSON values, secrets included."""
    return _encode_fields(data)


def decode_service(value: object) -> ServiceData:
    """Return what `encode_service` was given; raise InputError if *value* is something else."""
    return _decode(ServiceData, value)


_Data: TypeAlias = ContentData | MetadataData | NovaData | Limits | ServiceData
_Reader: TypeAlias = Callable[[object], object]
_NAMES: Mapping[type[_Data], tuple[str, ...]] = {
    cls: tuple(each.name for each in fields(cls)) for cls in (ContentData, MetadataData, NovaData, Limits, ServiceData)
}


def _encode_fields(value: _Data) -> Json:
    return {name: _encode(getattr(value, name)) for name in _NAMES[type(value)]}


def _encode(value: object) -> object:
    if isinstance(value, str):  # most are
        return value
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return _encode_fields(value) if isinstance(value, _Data) else value


def _decode(cls: Callable[..., _T], value: object) -> _T:
    try:
        return _build(cls, value)
    except (TypeError, ValueError) as err:
        raise InputError(f"metadata: {err}") from None


def _build(cls: Callable[..., _T], value: object) -> _T:
    if not isinstance(value, dict):
        raise TypeError("is not an object")
    found: dict[str, object] = {}
    for name, reader in _READERS[cls].items():
        if name not in value:
            continue
        try:
            found[name] = reader(value[name])
        except (TypeError, ValueError) as err:
            raise ValueError(f"{name}: {err}") from None
    missing = _REQUIRED[cls] - found.keys()
    if missing:
        raise ValueError(f"{', '.join(sorted(missing))} is missing")
    return cls(**found)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("is not text")
    value.encode()  # half of a surrogate pair could not be sent
    return value


def _octets(value: object) -> bytes:
    try:
        return base64.b64decode(_text(value), validate=True)
    except binascii.Error:
        raise ValueError("is not base64") from None


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("is neither true nor false")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("is not a whole number")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError("is not a number")
    if not math.isfinite(value):
        raise ValueError("is not a number")
    return float(value)


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("is not a list")
    return value


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(_text, _items(value)))


def _pairs(value: object) -> tuple[tuple[str, ...], ...]:
    pairs = tuple(map(_texts, _items(value)))
    if any(len(pair) != 2 for pair in pairs):
        raise TypeError("is not a list of pairs")
    return pairs


def _or_none(cls: Callable[..., object]) -> _Reader:
    return lambda value: None if value is None else _build(cls, value)


_READERS: Mapping[Callable[..., object], Mapping[str, _Reader]] = {
    ContentData: {
        "hostname": _text,
        "fqdn": _text,
        "ssh_keys": _texts,
        "user_data": _octets,
        "vendor_data": _text,
        "availability_zone": _text,
        "instance_type": _text,
        "meta": _pairs,
        "network_data": _text,
    },
    MetadataData: {
        **dict.fromkeys(("port", "name", "network", "mac", "instance_id", "project"), _text),
        "aliases": _pairs,
        "addresses": _texts,
        "content": _or_none(ContentData),
    },
    NovaData: {
        **dict.fromkeys(("url", "secret", "ca", "certificate", "key"), _text),
        "insecure": _flag,
        "timeout": _number,
    },
    Limits: {
        "rate": _number,
        "burst": _whole,
        "connections": _whole,
        "body": _whole,
        "patience": _number,
    },
    ServiceData: {"nova": _or_none(NovaData), "limits": lambda value: _build(Limits, value)},
}
_REQUIRED: Mapping[Callable[..., object], frozenset[str]] = {
    cls: frozenset(each.name for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING)
    for cls in (ContentData, MetadataData, NovaData, Limits, ServiceData)
}
