# SPDX-License-Identifier: Apache-2.0
"""Subnet pools: making, changing and deleting them inside a session.

As in Neutron no two subnets of a pool overlap, and no two pools of an address scope do: so no address is
in a scope twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from agent.store import ipam, validate, validate_routers
from agent.store.document import SubnetPoolFields, Unset, or_default
from agent.store.ipam import IPNetwork
from agent.store.validate import Subject
from agent.store.writer_session import Column, Session, given_columns, keep_our_ids
from agent.store.writer_view import Row, enumerate_names, label, optional

# What Neutron takes if nothing is said; its default length is the shortest one, which would empty a pool at once.
_SHORTEST = {4: 8, 6: 64}
_DEFAULT = {4: 24, 6: 64}


def create(session: Session, subject: Subject, name: str, fields: SubnetPoolFields, row_id: uuid.UUID) -> Row:
    """Insert a subnet pool: prefixes are required."""
    prefixes = validate_routers.prefixes(subject, or_default(fields.prefixes, ()))
    version = ipam.network(prefixes[0]).version
    least = or_default(fields.min_prefixlen, _SHORTEST[version])
    most = or_default(fields.max_prefixlen, 32 if version == 4 else 128)
    default = or_default(fields.default_prefixlen, min(max(_DEFAULT[version], least), most))
    default, least, most = validate_routers.prefix_lengths(subject, version, default, least, most)
    row = session.insert(
        "Subnet_Pool",
        row_id,
        name=name,
        name_claim=[],
        prefixes=prefixes,
        default_prefixlen=default,
        min_prefixlen=least,
        max_prefixlen=most,
        address_scope=[],
        project=or_default(fields.project, ""),
        external_ids=validate.external_ids(subject, or_default(fields.external_ids, {})),
    )
    _put_scope(session, subject, row, fields)
    return row


def change(session: Session, subject: Subject, row: Row, fields: SubnetPoolFields) -> None:
    """Write the given fields; subnets of the pool go with it into another address scope."""
    columns: dict[str, Column] = given_columns(project=fields.project)
    version = _version(row)
    if row._data is not None:
        session.verify(row, "prefixes", "default_prefixlen", "min_prefixlen", "max_prefixlen")
    if not isinstance(fields.prefixes, Unset):
        prefixes = validate_routers.prefixes(subject, fields.prefixes)
        if ipam.network(prefixes[0]).version != version:
            raise subject.error(f"prefixes: it is a pool of IPv{version}")
        columns["prefixes"] = prefixes
        session.check_later(lambda: _check_subnets(session, subject, row))
        session.guard_users("Subnet", "subnet_pool", row)
    default, least, most = validate_routers.prefix_lengths(
        subject,
        version,
        or_default(fields.default_prefixlen, row.default_prefixlen),
        or_default(fields.min_prefixlen, row.min_prefixlen),
        or_default(fields.max_prefixlen, row.max_prefixlen),
    )
    columns |= {"default_prefixlen": default, "min_prefixlen": least, "max_prefixlen": most}
    if not isinstance(fields.external_ids, Unset):
        columns["external_ids"] = keep_our_ids(row, validate.external_ids(subject, fields.external_ids))
    session.update(row, **columns)
    _put_scope(session, subject, row, fields)


def _version(pool: Row) -> int:
    return 6 if any(":" in prefix for prefix in pool.prefixes) else 4


def _put_scope(session: Session, subject: Subject, row: Row, fields: SubnetPoolFields) -> None:
    if not isinstance(fields.address_scope, Unset):
        scopes = [] if fields.address_scope is None else [session.find("address_scope", fields.address_scope, subject)]
        for scope in scopes:
            if scope.ip_version != _version(row):
                raise subject.error(f"address scope {label(scope)} is of IPv{scope.ip_version}, this is another one")
        if session.update(row, address_scope=scopes):
            _move_subnets(session, row, scopes)
    for scope in row.address_scope:
        session.guard_users("Subnet_Pool", "address_scope", scope)
    session.check_later(lambda: _check_scope(session, subject, row))


def _move_subnets(session: Session, pool: Row, scopes: list[Row]) -> None:
    session.guard_users("Subnet", "subnet_pool", pool)
    for subnet in session.referring("Subnet", "subnet_pool", pool.uuid):
        session.update(subnet, address_scope=scopes)
        session.touch(subnet.network)
        subject = Subject("subnet", label(subnet))
        session.check_later(lambda subject=subject, subnet=subnet: check_alike(session, subject, subnet))  # type: ignore[misc]


def _check_scope(session: Session, subject: Subject, row: Row) -> None:
    """Raise InputError if another pool of the same scope has some of the prefixes when all is written."""
    scope = optional(row.address_scope)
    if scope is None:
        return
    own = [ipam.network(prefix) for prefix in row.prefixes]
    for other in session.referring("Subnet_Pool", "address_scope", scope.uuid):
        if other.uuid == row.uuid:
            continue
        if other._data is not None:
            session.verify(other, "prefixes")
        for prefix in map(ipam.network, other.prefixes):
            if any(prefix.overlaps(mine) for mine in own):
                theirs = f"{prefix} of subnet pool {label(other)}"
                raise subject.error(f"prefixes: they overlap {theirs}, which is in address scope {label(scope)} too")


def _check_subnets(session: Session, subject: Subject, row: Row) -> None:
    own = [ipam.network(prefix) for prefix in row.prefixes]
    for subnet in session.referring("Subnet", "subnet_pool", row.uuid):
        if not _is_within(ipam.network(subnet.cidr), own):
            raise subject.error(f"prefixes: subnet {label(subnet)} has {subnet.cidr} from it, which they leave out")


def _is_within(cidr: IPNetwork, prefixes: Iterable[IPNetwork]) -> bool:
    first, last = int(cidr.network_address), int(cidr.broadcast_address)
    return any(int(p.network_address) <= first and last <= int(p.broadcast_address) for p in prefixes)


def delete(session: Session, subject: Subject, row: Row) -> None:
    """Delete a subnet pool without subnets."""
    users = [f"subnet {label(subnet)}" for subnet in session.referring("Subnet", "subnet_pool", row.uuid)]
    if users:
        raise subject.error(f"it is in use by {enumerate_names(users)}: delete these first")
    session.delete(row)


def take(session: Session, subject: Subject, pool: Row, wish: IPNetwork | None, prefixlen: int | Unset) -> IPNetwork:
    """Return a prefix of *pool* that no subnet has: *wish*, or the first one of *prefixlen* bits."""
    if pool._data is not None:
        session.verify(pool, "prefixes", "default_prefixlen", "min_prefixlen", "max_prefixlen", "address_scope")
    session.guard_users("Subnet", "subnet_pool", pool)
    prefixes = [ipam.network(prefix) for prefix in pool.prefixes]
    length = or_default(prefixlen, pool.default_prefixlen if wish is None else wish.prefixlen)
    if isinstance(length, bool) or not pool.min_prefixlen <= length <= pool.max_prefixlen:
        limits = f"{pool.min_prefixlen}..{pool.max_prefixlen}"
        raise subject.error(f"prefixlen {length} is outside {limits}, what subnet pool {label(pool)} gives")
    subnets = session.referring("Subnet", "subnet_pool", pool.uuid)
    if wish is None:
        found = ipam.free_prefix(prefixes, length, [ipam.network(subnet.cidr) for subnet in subnets])
        if found is None:
            raise subject.error(f"subnet pool {label(pool)} has no /{length} left ({enumerate_names(pool.prefixes)})")
        return found
    if length != wish.prefixlen:
        raise subject.error(f"prefixlen {length} contradicts cidr {wish}")
    if not _is_within(wish, [prefix for prefix in prefixes if prefix.version == wish.version]):
        raise subject.error(f"cidr {wish} is not in subnet pool {label(pool)} ({enumerate_names(pool.prefixes)})")
    for subnet in subnets:
        if ipam.network(subnet.cidr).overlaps(wish):
            raise subject.error(f"cidr {wish} overlaps subnet {label(subnet)} ({subnet.cidr}) of the same subnet pool")
    return wish


def check_alike(session: Session, subject: Subject, subnet: Row) -> None:
    """Raise InputError if subnets of one network and IP version are of several address scopes.

    Packets are told apart by the network that they come from.
    """
    if subnet._changes is None:
        return
    for other in session.subnets(subnet.network):
        same_version = (":" in other.cidr) is (":" in subnet.cidr)
        if same_version and optional(other.address_scope) != optional(subnet.address_scope):
            names = (_scope_text(subnet), f"subnet {label(other)} of the same network {_scope_text(other)}")
            raise subject.error(f"it is {' and '.join(names)}: give both a pool of one scope, or of none")


def _scope_text(subnet: Row) -> str:
    scope = optional(subnet.address_scope)
    return "in no address scope" if scope is None else f"in address scope {label(scope)}"
