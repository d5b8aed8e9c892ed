# SPDX-License-Identifier: Apache-2.0
"""Snapshots as JSON values, and what changed between two of them.

A *block* holds the objects that are new or different and the ids of those that
went, by noun, with generation and revision.  The first block of a file is the
difference to the empty snapshot.  Of what may have thousands of members (the endpoints
of a network, the rules of a group, the chunks of an owner, the floating IPs of a router) a
block holds only those that differ; the id of one that went is ``<owner>/<member>``.
Unknown fields and nouns of a later version are ignored, so that an older daemon can
still start from them; what it needs and does not find is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from agent.core.model import (
    AddressChunk,
    AddressOwner,
    AddressPair,
    Direction,
    Endpoint,
    FixedIp,
    FloatingIp,
    Host,
    HostSnapshot,
    MetadataService,
    Network,
    NetworkType,
    OwnerKind,
    Port,
    PortForwarding,
    Router,
    RouterInterface,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
)

Json: TypeAlias = dict[str, Any]

_THE_ONE = "store"  # the key of what a store has at most one of


def difference(old: HostSnapshot, new: HostSnapshot) -> Json:
    """Return the block that leads from *old* to *new*; objects are compared by identity."""
    put: Json = {}
    gone: dict[str, list[str]] = {}
    tables = _tables(old)
    for noun, table in _tables(new).items():
        changed, removed = _changed(tables[noun], table)
        if noun in _MEMBERS:
            before = {key: _MEMBERS[noun](tables[noun].get(key)) for key in changed}
            members = {key: _changed(before[key], _MEMBERS[noun](value)) for key, value in changed.items()}
            removed += [f"{key}/{member}" for key, (_, went) in members.items() for member in went]
            encoded = {key: _encode_members(noun, changed[key], differing) for key, (differing, _) in members.items()}
        else:
            encoded = {key: _encode(value) for key, value in changed.items()}
        if encoded:
            put[noun] = encoded
        if removed:
            gone[noun] = removed
    return {"generation": new.generation, "revision": new.revision, "put": put, "gone": gone}


def apply(snapshot: HostSnapshot, block: Json) -> HostSnapshot:
    """Return *snapshot* after *block*.  Raises KeyError, TypeError or ValueError if it makes no sense."""
    tables: dict[str, dict[Any, Any]] = {noun: dict(table) for noun, table in _tables(snapshot).items()}
    for noun, removed in block["gone"].items():
        members: dict[str, set[str]] = {}
        for key in removed:
            owner, is_member, member = key.partition("/")
            if is_member and noun in _MEMBERS:
                members.setdefault(owner, set()).add(member)
            else:
                tables.get(noun, {}).pop(key, None)
        for owner, went in members.items():
            tables[noun][owner] = _without(noun, tables[noun][owner], went)
    for noun, objects in block["put"].items():
        for key, value in objects.items() if noun in tables else ():
            tables[noun][key] = _DECODERS[noun](value, tables[noun].get(key))
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
        security_groups=tables["security_groups"],
        address_chunks=tables["address_chunks"],
        owners=tables["owners"],
        metadata_service=tables["metadata_service"].get(_THE_ONE),
        routers=tables["routers"],
        floating_ips=tables["floating_ips"],
        port_forwardings=tables["port_forwardings"],
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
        "security_groups": snapshot.security_groups,
        "address_chunks": snapshot.address_chunks,
        "owners": snapshot.owners,
        "metadata_service": {} if snapshot.metadata_service is None else {_THE_ONE: snapshot.metadata_service},
        "routers": snapshot.routers,
        "floating_ips": snapshot.floating_ips,
        "port_forwardings": snapshot.port_forwardings,
    }


def _mapped(members: Mapping[Any, Any] | None) -> Mapping[Any, Any]:
    return members or {}


def _rules(group: SecurityGroup | None) -> Mapping[str, SecurityGroupRule]:
    return {rule.id: rule for rule in group.rules} if group is not None else {}


# How to get at the members of those that are written member by member.
_MEMBERS: Mapping[str, Callable[[Any], Mapping[Any, Any]]] = {
    "endpoints": _mapped,
    "address_chunks": _mapped,
    "security_groups": _rules,
    "floating_ips": _mapped,
    "port_forwardings": _mapped,
}


def _encode_members(noun: str, owner: Any, members: Mapping[Any, Any]) -> Json:
    encoded = {key: _encode(member) for key, member in members.items()}
    return {**_encode(replace(owner, rules=())), "rules": encoded} if noun == "security_groups" else encoded


def _without(noun: str, owner: Any, went: set[str]) -> Any:
    if noun == "security_groups":
        return replace(owner, rules=tuple(rule for rule in owner.rules if rule.id not in went))
    return {key: member for key, member in owner.items() if key not in went}


def _encode(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return {field.name: _encode(getattr(value, field.name)) for field in fields(value)}


def _known(cls: type[Any], data: Json) -> Json:
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in data.items() if name in names}


# Decoders get what is there already, too: members are added to it.


def _network(data: Json, _: object) -> Network:
    return Network(**{**_known(Network, data), "type": NetworkType(data["type"])})


def _subnets(data: list[Json], _: object) -> tuple[Subnet, ...]:
    return tuple(_subnet(item) for item in data)


def _subnet(data: Json) -> Subnet:
    nested = {"dns_servers": tuple(data.get("dns_servers", ())), "host_routes": _pairs(data.get("host_routes", ()))}
    return Subnet(**{**_known(Subnet, data), **nested})


def _pairs(data: Iterable[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((first, second) for first, second in data)


def _fixed_ips(data: Json) -> tuple[FixedIp, ...]:
    return tuple(FixedIp(**_known(FixedIp, item)) for item in data["fixed_ips"])


def _port(data: Json, _: object) -> Port:
    nested = {
        "fixed_ips": _fixed_ips(data),
        "allowed_address_pairs": tuple(
            AddressPair(**_known(AddressPair, item)) for item in data["allowed_address_pairs"]
        ),
        "security_groups": tuple(data.get("security_groups", ())),
        "dhcp_options": _pairs(data.get("dhcp_options", ())),
        "metadata": _pairs(data.get("metadata", ())),
    }
    return Port(**{**_known(Port, data), **nested})


def _endpoints(data: Json, before: Mapping[str, Endpoint] | None) -> dict[str, Endpoint]:
    members = {
        key: Endpoint(**{**_known(Endpoint, item), "addresses": tuple(item["addresses"])}) for key, item in data.items()
    }
    return {**(before or {}), **members}


def _host(data: Json, _: object) -> Host:
    nested = {
        "encapsulations": frozenset(NetworkType(item) for item in data["encapsulations"]),
        "bridge_mappings": MappingProxyType(dict(data["bridge_mappings"])),
    }
    return Host(**{**_known(Host, data), **nested})


def _security_group(data: Json, before: SecurityGroup | None) -> SecurityGroup:
    changed = {
        key: SecurityGroupRule(**{**_known(SecurityGroupRule, item), "direction": Direction(item["direction"])})
        for key, item in data["rules"].items()
    }
    rules = {**_rules(before), **changed}
    return SecurityGroup(**{**_known(SecurityGroup, data), "rules": tuple(rules[key] for key in sorted(rules))})


def _address_chunks(data: Json, before: Mapping[str, AddressChunk] | None) -> dict[str, AddressChunk]:
    members = {
        key: AddressChunk(**{**_known(AddressChunk, item), "addresses": frozenset(item["addresses"])})
        for key, item in data.items()
    }
    return {**(before or {}), **members}


def _owner(data: Json, _: object) -> AddressOwner:
    return AddressOwner(**{**_known(AddressOwner, data), "kind": OwnerKind(data["kind"])})


def _interface(data: Json) -> RouterInterface:
    return RouterInterface(**{**_known(RouterInterface, data), "fixed_ips": _fixed_ips(data)})


def _router(data: Json, _: object) -> Router:
    nested = {
        "gateway_hosts": tuple(data["gateway_hosts"]),
        "gateway": None if data["gateway"] is None else _interface(data["gateway"]),
        "interfaces": tuple(map(_interface, data["interfaces"])),
        "routes": _pairs(data["routes"]),
    }
    return Router(**{**_known(Router, data), **nested})


def _floating_ips(data: Json, before: Mapping[str, FloatingIp] | None) -> dict[str, FloatingIp]:
    return {**(before or {}), **{key: FloatingIp(**_known(FloatingIp, item)) for key, item in data.items()}}


def _port_forwardings(data: Json, before: Mapping[str, PortForwarding] | None) -> dict[str, PortForwarding]:
    return {**(before or {}), **{key: PortForwarding(**_known(PortForwarding, item)) for key, item in data.items()}}


def _metadata_service(data: Json, _: object) -> MetadataService:
    return MetadataService(**_known(MetadataService, data))


_DECODERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "networks": _network,
    "subnets": _subnets,
    "ports": _port,
    "endpoints": _endpoints,
    "hosts": _host,
    "security_groups": _security_group,
    "address_chunks": _address_chunks,
    "owners": _owner,
    "metadata_service": _metadata_service,
    "routers": _router,
    "floating_ips": _floating_ips,
    "port_forwardings": _port_forwardings,
}
