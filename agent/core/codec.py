# SPDX-License-Identifier: Apache-2.0
"""Snapshots as JSON values, and what changed between two of them.

A *block* holds the objects that are new or different and the ids of those that
went, by noun, with generation and revision.  The first block of a file is the
difference to the empty snapshot.  Unknown fields and nouns of a later version are
ignored, so that an older daemon can still start from them; what it needs and does
not find is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from agent.core.model import (
    AddressPair,
    Endpoint,
    EndpointId,
    FixedIp,
    Host,
    HostSnapshot,
    Network,
    NetworkType,
    Port,
    Subnet,
)

Json: TypeAlias = dict[str, Any]


def difference(old: HostSnapshot, new: HostSnapshot) -> Json:
    """Return the block that leads from *old* to *new*; objects are compared by identity."""
    put: Json = {}
    gone: dict[str, list[str]] = {}
    for noun, table in _tables(new).items():
        before = _tables(old)[noun]
        changed, removed = _changed(before, table)
        if noun == "endpoints":  # a network may have thousands: only those that differ
            changed = {network: _changed(before.get(network, {}), table[network])[0] for network in changed}
            removed += [
                f"{network}/{endpoint}"
                for network in changed
                for endpoint in _changed(before.get(network, {}), table[network])[1]
            ]
        if changed:
            put[noun] = {key: _encode(value) for key, value in changed.items()}
        if removed:
            gone[noun] = removed
    return {"generation": new.generation, "revision": new.revision, "put": put, "gone": gone}


def apply(snapshot: HostSnapshot, block: Json) -> HostSnapshot:
    """Return *snapshot* after *block*.  Raises KeyError, TypeError or ValueError if it makes no sense."""
    tables: dict[str, dict[Any, Any]] = {noun: dict(table) for noun, table in _tables(snapshot).items()}
    for noun, removed in block["gone"].items():
        for key in removed:
            network, _, endpoint = key.partition("/")
            if endpoint and noun == "endpoints":
                tables[noun][network] = {k: v for k, v in tables[noun][network].items() if k != endpoint}
            else:
                tables.get(noun, {}).pop(key, None)
    for noun, objects in block["put"].items():
        for key, value in objects.items() if noun in tables else ():
            decoded = _DECODERS[noun](value)
            tables[noun][key] = {**tables[noun].get(key, {}), **decoded} if noun == "endpoints" else decoded
    return replace(
        snapshot,
        generation=str(block["generation"]),
        revision=int(block["revision"]),
        in_sync=True,
        networks=tables["networks"],
        subnets=tables["subnets"],
        ports=tables["ports"],
        endpoints=tables["endpoints"],
        hosts=tables["hosts"],
    )


def _changed(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> tuple[dict[Any, Any], list[Any]]:
    """Return what is new or another object in *after*, and the keys that it lacks."""
    if after is before:
        return {}, []
    changed = {key: value for key, value in after.items() if before.get(key) is not value}
    return changed, [key for key in before if key not in after]


def _tables(snapshot: HostSnapshot) -> dict[str, Mapping[Any, Any]]:
    return {
        "networks": snapshot.networks,
        "subnets": snapshot.subnets,
        "ports": snapshot.ports,
        "endpoints": snapshot.endpoints,
        "hosts": snapshot.hosts,
    }


def _encode(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    return {field.name: _encode(getattr(value, field.name)) for field in fields(value)}


def _known(cls: type[Any], data: Json) -> Json:
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in data.items() if name in names}


def _network(data: Json) -> Network:
    return Network(**{**_known(Network, data), "type": NetworkType(data["type"])})


def _subnets(data: list[Json]) -> tuple[Subnet, ...]:
    return tuple(Subnet(**_known(Subnet, item)) for item in data)


def _port(data: Json) -> Port:
    nested = {
        "fixed_ips": tuple(FixedIp(**_known(FixedIp, item)) for item in data["fixed_ips"]),
        "allowed_address_pairs": tuple(
            AddressPair(**_known(AddressPair, item)) for item in data["allowed_address_pairs"]
        ),
    }
    return Port(**{**_known(Port, data), **nested})


def _endpoints(data: Json) -> dict[EndpointId, Endpoint]:
    return {
        EndpointId(key): Endpoint(**{**_known(Endpoint, item), "addresses": tuple(item["addresses"])})
        for key, item in data.items()
    }


def _host(data: Json) -> Host:
    nested = {
        "encapsulations": frozenset(NetworkType(item) for item in data["encapsulations"]),
        "bridge_mappings": MappingProxyType(dict(data["bridge_mappings"])),
    }
    return Host(**{**_known(Host, data), **nested})


_DECODERS: Mapping[str, Callable[[Any], Any]] = {
    "networks": _network,
    "subnets": _subnets,
    "ports": _port,
    "endpoints": _endpoints,
    "hosts": _host,
}
