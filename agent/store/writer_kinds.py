# SPDX-License-Identifier: Apache-2.0
"""What networks, subnets, ports and hosts have in common when they are written: ids, names, claims."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from agent.store import (
    validate,
    writer_address_groups,
    writer_floating_ips,
    writer_forwardings,
    writer_groups,
    writer_hosts,
    writer_networks,
    writer_options,
    writer_pools,
    writer_ports,
    writer_routers,
    writer_scopes,
    writer_subnets,
)
from agent.store.document import (
    AddressGroupFields,
    AddressScopeFields,
    F,
    FloatingIpFields,
    HostFields,
    NetworkFields,
    PortFields,
    PortForwardingFields,
    RouterFields,
    SecurityGroupFields,
    SubnetFields,
    SubnetPoolFields,
    Unset,
)
from agent.store.records import (
    AddressGroupRecord,
    HostRecord,
    NetworkRecord,
    PortRecord,
    SecurityGroupRecord,
    SubnetRecord,
)
from agent.store.records_routers import (
    AddressScopeRecord,
    FloatingIpRecord,
    PortForwardingRecord,
    RouterRecord,
    SubnetPoolRecord,
)
from agent.store.validate import NAME_LIMIT, Subject
from agent.store.writer_records import (
    address_group_record,
    host_record,
    network_record,
    port_record,
    security_group_record,
    subnet_record,
)
from agent.store.writer_records_routers import (
    address_scope_record,
    floating_ip_record,
    port_forwarding_record,
    router_record,
    subnet_pool_record,
)
from agent.store.writer_session import Session
from agent.store.writer_view import TABLES, Row, View, label

F_contra = TypeVar("F_contra", contravariant=True)
R = TypeVar("R")


class Writes(Protocol[F_contra]):
    """What a module has that writes objects of one kind inside a session."""

    def create(self, session: Session, subject: Subject, name: str, fields: F_contra, row_id: uuid.UUID, /) -> Row:
        """Insert an object; return its row."""

    def change(self, session: Session, subject: Subject, row: Row, fields: F_contra, /) -> None:
        """Write the given fields."""

    def delete(self, session: Session, subject: Subject, row: Row, /) -> None:
        """Delete an object that nothing uses."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[F, R]):
    """How objects of one kind are written and read."""

    name: str
    writes: Writes[F]
    record: Callable[[View, Row], R]

    @property
    def table(self) -> str:
        """The table of the store."""
        return TABLES[self.name]


NETWORK: Kind[NetworkFields, NetworkRecord] = Kind("network", writer_networks, network_record)
SUBNET: Kind[SubnetFields, SubnetRecord] = Kind("subnet", writer_subnets, subnet_record)
PORT: Kind[PortFields, PortRecord] = Kind("port", writer_ports, port_record)
HOST: Kind[HostFields, HostRecord] = Kind("host", writer_hosts, host_record)
SECURITY_GROUP: Kind[SecurityGroupFields, SecurityGroupRecord] = Kind(
    "security_group", writer_groups, security_group_record
)
ADDRESS_GROUP: Kind[AddressGroupFields, AddressGroupRecord] = Kind(
    "address_group", writer_address_groups, address_group_record
)
ROUTER: Kind[RouterFields, RouterRecord] = Kind("router", writer_routers, router_record)
FLOATING_IP: Kind[FloatingIpFields, FloatingIpRecord] = Kind("floating_ip", writer_floating_ips, floating_ip_record)
PORT_FORWARDING: Kind[PortForwardingFields, PortForwardingRecord] = Kind(
    "port_forwarding", writer_forwardings, port_forwarding_record
)
SUBNET_POOL: Kind[SubnetPoolFields, SubnetPoolRecord] = Kind("subnet_pool", writer_pools, subnet_pool_record)
ADDRESS_SCOPE: Kind[AddressScopeFields, AddressScopeRecord] = Kind("address_scope", writer_scopes, address_scope_record)
_CALLED_BY_ADDRESS = ("floating_ip", "port_forwarding")  # which nobody else can have


def create(
    session: Session,
    kind: Kind[F, R],
    name: str,
    fields: F,
    object_id: str | uuid.UUID,
    claim_name: bool,
    line: int | None = None,
) -> Row:
    """Insert an object; with *claim_name* nobody else can claim its name.  *line* is for errors."""
    subject = Subject(kind.name, name or str(object_id), line)
    if isinstance(object_id, str):
        object_id = validate.object_id(subject, object_id)
    if session.row(kind.table, object_id) is not None:
        raise subject.error(f"there is {validate.a(kind.name)} with the id {object_id} already")
    if kind.name == "host":  # its name is its identity: the table has an index for it
        if session.named("host", name):
            raise subject.error("there is a host with this name already")
    elif claim_name and kind.name not in _CALLED_BY_ADDRESS:
        validate.name(kind.name, name, line)
    elif len(name) > NAME_LIMIT:
        raise subject.error(f"a name has at most {NAME_LIMIT} characters")
    row = kind.writes.create(session, subject, name, fields, object_id)
    if claim_name and _has_claim(kind, row):
        session.claim(kind.name, row, name, subject)
    return row


def _has_claim(kind: Kind[F, R], row: Row) -> bool:
    """Tell whether a name may be claimed: each project's default group is called the same, and a host is its name."""
    if kind.name == "security_group":
        return not row.default_claim
    return kind.name != "host" and kind.name not in _CALLED_BY_ADDRESS


def change(session: Session, kind: Kind[F, R], row: Row, fields: F, name: str | Unset, line: int | None = None) -> None:
    """Write the given fields and the name; an object whose name was claimed claims the new one."""
    subject = Subject(kind.name, label(row), line)
    if not isinstance(name, Unset) and name != row.name:
        if kind.name == "security_group":
            writer_groups.check_rename(subject, row, name)
        if row.name_claim:
            validate.name(kind.name, name, line)
            session.claim(kind.name, row, name, subject)
        elif len(name) > NAME_LIMIT:
            raise subject.error(f"a name has at most {NAME_LIMIT} characters")
        session.update(row, name=name)
    kind.writes.change(session, subject, row, fields)


def delete(session: Session, kind: Kind[F, R], row: Row, line: int | None = None) -> None:
    """Delete an object that nothing uses."""
    kind.writes.delete(session, Subject(kind.name, label(row), line), row)


def set_options(session: Session, options: Mapping[str, str | None]) -> dict[str, str]:
    """Change settings of the whole store; None takes one away."""
    wanted = {key: value for key, value in {**session.options, **options}.items() if value is not None}
    wanted = writer_options.checked(wanted)
    row = session.make_global()
    row.verify("options")
    session.update(row, options=wanted)
    return wanted
