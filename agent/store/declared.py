# SPDX-License-Identifier: Apache-2.0
"""The declarative file: make the store hold what a document says, all in one transaction.

What is in the document is created, or changed in the fields that it gives; the rest
stays as it is.  Applying the same document again changes nothing.  Objects are found
by name.  With a set's name they are marked as made by it, and only such objects are
pruned when a later document of that set no longer has them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from agent.core.errors import InputError
from agent.store import (
    declared_groups,
    declared_routers,
    writer_floating_ips,
    writer_forwardings,
    writer_kinds,
    writer_metadata,
)
from agent.store.declared_changes import differences, mark, only, said
from agent.store.document import (
    UNSET,
    Document,
    Entry,
    F,
    FloatingIpFields,
    MetadataServiceFields,
    NetworkFields,
    PortFields,
    Unset,
)
from agent.store.records import Change
from agent.store.validate import Subject
from agent.store.writer_addresses import reserve
from agent.store.writer_kinds import (
    ADDRESS_GROUP,
    ADDRESS_SCOPE,
    FLOATING_IP,
    HOST,
    NETWORK,
    PORT,
    PORT_FORWARDING,
    ROUTER,
    SECURITY_GROUP,
    SUBNET,
    SUBNET_POOL,
    Kind,
)
from agent.store.writer_records import Record, metadata_service_record
from agent.store.writer_session import IMPLICIT_KEY, SET_KEY, Session
from agent.store.writer_view import Row, label, name_of

R = TypeVar("R", bound=Record)

# Users before what they use.
_DELETE_ORDER: tuple[Kind[Any, Any], ...] = (
    PORT_FORWARDING,
    FLOATING_IP,
    ROUTER,
    PORT,
    SUBNET,
    SUBNET_POOL,
    ADDRESS_SCOPE,
    NETWORK,
    HOST,
    SECURITY_GROUP,
    ADDRESS_GROUP,
)
_HAVE_ADDRESSES = (PORT_FORWARDING, FLOATING_IP, ROUTER, PORT)


def apply(session: Session, document: Document, set_name: str | None, prune: bool) -> tuple[Change, ...]:
    """Make the rows say what *document* does; return what that changed, in a fitting order.

    Raises InputError that names object and line.
    """
    if prune and not set_name:
        raise InputError("prune needs the name of a set: it removes only what an earlier apply of that set made")
    document = declared_routers.canonical(document)
    _refuse_doubles(document)
    doomed = _doomed(session, document, set_name) if prune and set_name else []
    removed = []
    for kind, row in doomed:
        if kind is FLOATING_IP and writer_floating_ips.forsake(session, row):
            continue
        removed.append(Change(kind.name, label(row), "delete"))
        session.hide(row)
        if kind in _HAVE_ADDRESSES:  # first, so that addresses and subnets are free for what comes
            writer_kinds.delete(session, kind, row)
    changes: list[Change] = []
    for host in document.hosts:
        changes += _declare(session, HOST, host, set_name)
    changes += declared_groups.address_groups(session, document.address_groups, set_name)
    changes += declared_groups.security_groups(session, document.security_groups, set_name)
    for network in sorted(document.networks, key=_leaves_segment_open):
        changes += _declare(session, NETWORK, network, set_name)
    for scope in document.address_scopes:
        changes += _declare(session, ADDRESS_SCOPE, scope, set_name)
    for pool in document.subnet_pools:
        changes += _declare(session, SUBNET_POOL, pool, set_name)
    _reserve_addresses(session, document.ports)  # before subnets choose what they answer DHCP from
    declared_routers.reserve_addresses(session, document)
    for subnet in document.subnets:
        changes += _declare(session, SUBNET, subnet, set_name)
    changes += _metadata_service(session, document.metadata_service, set_name, prune)
    for router in document.routers:
        changes += _declare(session, ROUTER, router, set_name)
    ports = [change for port in document.ports for change in _declare(session, PORT, port, set_name)]
    for floating_ip in document.floating_ips:
        ports += _declare(session, FLOATING_IP, floating_ip, set_name)
    for forwarding in document.port_forwardings:
        ports += _declare(session, PORT_FORWARDING, forwarding, set_name)
    writer_forwardings.settle(session)
    for kind, row in doomed:
        if kind not in _HAVE_ADDRESSES:
            writer_kinds.delete(session, kind, row)
    return (*removed, *changes, *session.made_besides, *ports)


def _metadata_service(
    session: Session, entry: Entry[MetadataServiceFields] | None, set_name: str | None, prune: bool
) -> Iterator[Change]:
    """Name the metadata service, or none any more if it was this set that named it."""
    kind, before = writer_metadata.SUBJECT.kind, writer_metadata.present(session)
    if entry is None:
        if prune and before is not None and before.external_ids.get(SET_KEY) == set_name:
            writer_metadata.remove(session)
            yield Change(kind, "", "delete")
        return
    row = writer_metadata.put(session, Subject(kind, "", entry.line), entry.fields)
    if before is None:
        mark(session, row, set_name)
        yield Change(kind, "", "create", said(entry.fields))
    elif changed := differences(before, metadata_service_record(row)):
        yield Change(kind, "", "change", changed)


def _refuse_doubles(document: Document) -> None:
    for kind, entries in _sections(document).items():
        seen: set[str] = set()
        for entry in entries:
            if entry.name in seen:
                raise Subject(kind, entry.name, entry.line).error("it is in the document twice")
            seen.add(entry.name)


def _sections(document: Document) -> Mapping[str, tuple[Entry[Any], ...]]:
    return {
        "network": document.networks,
        "subnet": document.subnets,
        "port": document.ports,
        "host": document.hosts,
        "security_group": document.security_groups,
        "address_group": document.address_groups,
        "address_scope": document.address_scopes,
        "subnet_pool": document.subnet_pools,
        "router": document.routers,
        "floating_ip": document.floating_ips,
        "port_forwarding": document.port_forwardings,
    }


def _doomed(session: Session, document: Document, set_name: str) -> list[tuple[Kind[Any, Any], Row]]:
    """Return what an earlier apply of the set made and the document does not have, users first."""
    doomed = []
    for kind in _DELETE_ORDER:
        kept = {entry.name for entry in _sections(document)[kind.name]}
        rows = [row for row in session.rows(kind.table) if row.external_ids.get(SET_KEY) == set_name]
        if kind is SECURITY_GROUP:  # a project keeps its default group
            rows = [row for row in rows if not row.default_claim]
        doomed += [(kind, row) for row in sorted(rows, key=label) if name_of(row) not in kept]
    return doomed


def _leaves_segment_open(entry: Entry[NetworkFields]) -> bool:
    """Sort networks that say which segment they want before those that take any."""
    return isinstance(entry.fields.segmentation_id, Unset) or entry.fields.segmentation_id is None


def _reserve_addresses(session: Session, ports: tuple[Entry[PortFields], ...]) -> None:
    """Let no port of the document take by chance what one further on wishes."""
    for entry in ports:
        if isinstance(entry.fields.fixed_ips, Unset):
            continue
        subject = Subject("port", entry.name, entry.line)
        present = session.named("port", entry.name)
        if present:
            network = present[0].network
        elif not isinstance(entry.fields.network, Unset):
            network = session.find("network", entry.fields.network, subject)
        else:
            continue  # refused when its turn comes
        reserve(session, subject, network, entry.fields.fixed_ips)


def _declare(session: Session, kind: Kind[F, R], entry: Entry[F], set_name: str | None) -> Iterator[Change]:
    rows = session.named(kind.name, entry.name)
    if isinstance(entry.fields, FloatingIpFields):
        rows = declared_routers.of_network(session, entry, rows)
    row = only(rows, Subject(kind.name, entry.name, entry.line))
    if row is not None:
        before, implicit = kind.record(session, row), IMPLICIT_KEY in row.external_ids
        writer_kinds.change(session, kind, row, entry.fields, UNSET, entry.line)
        if implicit:  # what was only there for others is now the file's
            mark(session, row, set_name)
        changed = differences(before, kind.record(session, row))
        if changed:
            yield Change(kind.name, entry.name, "change", changed)
        return
    row = writer_kinds.create(session, kind, entry.name, entry.fields, uuid.uuid4(), claim_name=True, line=entry.line)
    mark(session, row, set_name)
    yield Change(kind.name, entry.name, "create", said(entry.fields))
