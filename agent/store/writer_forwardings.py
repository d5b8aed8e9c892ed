# SPDX-License-Identifier: Apache-2.0
"""Port forwardings: making, changing and deleting them inside a session.

What is forwarded belongs to a router's gateway address or to a floating IP without a port,
which is made with the first forwarding from a free address and goes with the last.
"""

from __future__ import annotations

import itertools
import uuid

from agent.store import validate, validate_routers, writer_floating_ips, writer_legs
from agent.store.document import FloatingIpFields, PortForwardingFields, Unset, or_default
from agent.store.records import Change
from agent.store.validate import Subject
from agent.store.validate_routers import PortRange
from agent.store.writer_floating_ips import external_networks_around, inner_address, leading_router
from agent.store.writer_session import IMPLICIT_KEY, Session, keep_our_ids, refuse_changes
from agent.store.writer_view import Row, forwarding_name, label, name_of, optional


def canonical_name(subject: Subject, name: str, fields: PortForwardingFields) -> str:
    """Return what a port forwarding is called of which *name* may leave the protocol to the fields."""
    text, slash, protocol = name.partition("/")
    number = validate_routers.forwarded_protocol(subject, protocol if slash else fields.protocol)
    address, ports = validate_routers.external_ports(subject, text)
    return forwarding_name(address, ports.first, ports.last, number)


def create(session: Session, subject: Subject, name: str, fields: PortForwardingFields, row_id: uuid.UUID) -> Row:
    """Insert a port forwarding from *name*, ``ADDRESS:PORTS`` with or without ``/PROTOCOL``."""
    text, slash, protocol = name.partition("/")
    if slash and not isinstance(fields.protocol, Unset) and str(fields.protocol).lower() != protocol.lower():
        raise subject.error(f"protocol {fields.protocol} contradicts its name")
    number = validate_routers.forwarded_protocol(subject, protocol if slash else fields.protocol)
    address, ports = validate_routers.external_ports(subject, text)
    if isinstance(fields.internal, Unset):
        raise subject.error("internal is required (PORT:NUMBER or PORT:FIRST-LAST)")
    port, inner = _internal(session, subject, fields.internal, ports)
    fixed = inner_address(session, subject, port, fields.fixed_ip, None)
    router, floating_ip = _source(session, subject, address, port.fixed_ips[fixed])
    row = session.insert(
        "Port_Forwarding",
        row_id,
        external_ids=validate.external_ids(subject, or_default(fields.external_ids, {})),
        router=router,
        floating_ip=[] if floating_ip is None else [floating_ip],
        protocol=number,
        external_ip_address=address,
        external_port_min=ports.first,
        external_port_max=ports.last,
        port=port,
        internal_ip_address=fixed,
        internal_port_min=inner.first,
        internal_port_max=inner.last,
    )
    writer_legs.verify(session, router)
    session.guard_users("Port_Forwarding", "router", router)
    session.check_later(lambda: _check_overlap(session, subject, row))
    session.check_later(lambda: writer_legs.check_one_way_out(session, subject, row, router, port))
    writer_legs.touch_user(session, row)
    return row


def _internal(session: Session, subject: Subject, text: str, outer: PortRange) -> tuple[Row, PortRange]:
    """Return port and numbers of ``PORT:NUMBER`` or ``PORT:FIRST-LAST``."""
    ref, colon, numbers = text.rpartition(":")
    if not colon or not ref:
        raise subject.error(f"internal {text!r} is not PORT:NUMBER or PORT:FIRST-LAST")
    inner = validate_routers.port_range(subject, "internal", numbers)
    if inner.width != outer.width:
        raise subject.error(f"internal ports {numbers}: {inner.width} of them, but {outer.width} external ones")
    return session.find("port", ref, subject), inner


def _source(session: Session, subject: Subject, address: str, subnet: Row) -> tuple[Row, Row | None]:
    """Return the router that has *address* and leads to *subnet*, and the floating IP of that address."""
    networks = external_networks_around(session, address)
    if not networks:
        raise subject.error(f"there is no external network with a subnet around {address}")
    router = _router(session, subject, networks, subnet)
    gateway = writer_legs.gateway(session, router)
    if gateway is not None and address in gateway.fixed_ips:
        return router, None
    network = next(network for network in networks if gateway is not None and network == gateway.network)
    present = session.named("floating_ip", address)
    floating_ip = next((row for row in present if row.floating_network == network), None)
    if floating_ip is None:
        floating_ip = _made_besides(session, subject, address, network)
    if floating_ip.port:
        whose = f"port {label(floating_ip.port[0])}"
        raise subject.error(f"floating ip {address} stands for all of {whose}: disassociate that first")
    session.check_later(lambda: _check_one_router(session, subject, floating_ip, router))
    if floating_ip._data is not None:
        session.verify(floating_ip, "port", "router")
    session.update(floating_ip, router=[router])
    return router, floating_ip


def _check_one_router(session: Session, subject: Subject, floating_ip: Row, router: Row) -> None:
    """Raise InputError if forwardings of one floating IP are of several routers when all is written."""
    for other in session.referring("Port_Forwarding", "floating_ip", floating_ip.uuid):
        if other.router != router:
            theirs = f"port forwarding {name_of(other)} is of router {label(other.router)}, this of {label(router)}"
            raise subject.error(f"floating ip {name_of(floating_ip)}: {theirs}")


def _router(session: Session, subject: Subject, networks: list[Row], subnet: Row) -> Row:
    """Return the router from one of *networks* to *subnet*."""
    for network in networks[:-1]:
        for leg in session.ports(subnet.network):
            router = writer_legs.router_of(session, leg)
            gateway = None if router is None else writer_legs.gateway(session, router)
            if gateway is not None and gateway.network == network:
                return leading_router(session, subject, network, subnet)
    return leading_router(session, subject, networks[-1], subnet)


def _made_besides(session: Session, subject: Subject, address: str, network: Row) -> Row:
    fields = FloatingIpFields(network=str(network.uuid))
    row = writer_floating_ips.create(session, subject, address, fields, uuid.uuid4())
    session.update(row, external_ids={IMPLICIT_KEY: "port_forwarding"})
    session.made_besides.append(Change("floating_ip", address, "create"))
    return row


def _check_overlap(session: Session, subject: Subject, row: Row) -> None:
    """Raise InputError if another forwarding takes some of the same ports when all is written."""
    key = ("forwardings", row.router.uuid)
    ordered = session.once(key, lambda: _ordered(session, row.router))
    for first, second in ordered:
        if row.uuid in (first.uuid, second.uuid):
            other = second if row.uuid == first.uuid else first
            whose = f"port forwarding {name_of(other)} of router {label(other.router)}"
            raise subject.error(f"external: {whose} takes some of these ports already")


def _ordered(session: Session, router: Row) -> list[tuple[Row, Row]]:
    """Return the pairs of a router's forwardings that overlap."""
    rows = session.referring("Port_Forwarding", "router", router.uuid)
    rows.sort(key=lambda row: (row.external_ip_address, row.protocol, row.external_port_min))
    return [
        (one, other)
        for one, other in itertools.pairwise(rows)
        if (one.external_ip_address, one.protocol) == (other.external_ip_address, other.protocol)
        and other.external_port_min <= one.external_port_max
    ]


def change(session: Session, subject: Subject, row: Row, fields: PortForwardingFields) -> None:
    """Write where it leads; what it takes of which address is fixed when it is made."""
    if not isinstance(fields.protocol, Unset):
        number = validate_routers.forwarded_protocol(subject, fields.protocol)
        refuse_changes(subject, {"protocol": (number, row.protocol)})
    if not isinstance(fields.external_ids, Unset):
        ids = keep_our_ids(row, validate.external_ids(subject, fields.external_ids))
        session.update(row, external_ids=ids)
    if isinstance(fields.internal, Unset) and isinstance(fields.fixed_ip, Unset):
        return
    writer_legs.touch_user(session, row)
    port, inner = row.port, PortRange(row.internal_port_min, row.internal_port_max)
    if not isinstance(fields.internal, Unset):
        outer = PortRange(row.external_port_min, row.external_port_max)
        port, inner = _internal(session, subject, fields.internal, outer)
    fixed = inner_address(session, subject, port, fields.fixed_ip, row.internal_ip_address)
    router, floating_ip = _source(session, subject, row.external_ip_address, port.fixed_ips[fixed])
    if row._data is not None:
        session.verify(row, "port", "internal_ip_address", "router")
    writer_legs.verify(session, router)
    session.update(
        row,
        router=router,
        floating_ip=[] if floating_ip is None else [floating_ip],
        port=port,
        internal_ip_address=fixed,
        internal_port_min=inner.first,
        internal_port_max=inner.last,
    )
    session.guard_users("Port_Forwarding", "router", router)
    session.check_later(lambda: _check_overlap(session, subject, row))
    session.check_later(lambda: writer_legs.check_one_way_out(session, subject, row, router, port))
    writer_legs.touch_user(session, row)


def delete(session: Session, _: Subject, row: Row) -> None:
    """Delete a port forwarding; a floating IP that was made for it goes with the last one."""
    writer_legs.touch_user(session, row)
    floating_ip = optional(row.floating_ip)
    session.delete(row)
    if floating_ip is not None:
        _left(session).append(floating_ip)


def _left(session: Session) -> list[Row]:
    """Return the floating IPs that may have lost their last forwarding; another may come further on in a file."""

    def start() -> list[Row]:
        session.write_last(lambda: settle(session))
        return []

    return session.once("left floating ips", start)


def settle(session: Session) -> None:
    """Delete floating IPs that were there for forwardings only, when all of these are written."""
    left = _left(session)
    while left:
        _leave(session, left.pop())


def _leave(session: Session, floating_ip: Row) -> None:
    """Let go of a floating IP from which no forwarding leads any more, now that all are written."""
    if floating_ip._changes is None or session.referring("Port_Forwarding", "floating_ip", floating_ip.uuid):
        return
    session.guard_users("Port_Forwarding", "floating_ip", floating_ip)
    if floating_ip.external_ids.get(IMPLICIT_KEY):
        writer_floating_ips.remove(session, floating_ip)
    elif not floating_ip.port:
        session.update(floating_ip, router=[])


def release(session: Session, port: Row) -> None:
    """Delete the port forwardings to a port that is going to be deleted."""
    for row in session.referring("Port_Forwarding", "port", port.uuid):
        delete(session, Subject("port_forwarding", name_of(row)), row)


def follow(session: Session, port: Row) -> None:
    """Let the addresses that port forwardings lead to still be those of *port* at the end."""
    for row in session.referring("Port_Forwarding", "port", port.uuid):
        writer_legs.touch_user(session, row)
    session.guard_users("Port_Forwarding", "port", port)
    session.check_later(lambda: _check_addresses(session, port))


def _check_addresses(session: Session, port: Row) -> None:
    if port._changes is None:
        return
    for row in session.referring("Port_Forwarding", "port", port.uuid):
        if row.internal_ip_address not in port.fixed_ips:
            text = f"fixed ip {row.internal_ip_address} is where port forwarding {name_of(row)} leads"
            raise Subject("port", label(port)).error(f"{text}: delete that or let it lead elsewhere first")
