# SPDX-License-Identifier: Apache-2.0
"""Routers: making, changing and deleting them inside a session, and with them their ports.

A router has one port on each network, with an address of each of its subnets there; ports
that a cloud has made otherwise stay as they are.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace

from agent.store import ipam, validate, validate_routers, writer_legs, writer_ports
from agent.store.document import UNSET, FixedIpRequest, PortFields, RouterFields, Unset, or_default
from agent.store.validate import Subject
from agent.store.writer_addresses import GATEWAY_OWNER, INTERFACE_OWNER, is_automatic, set_addresses
from agent.store.writer_session import Column, Session, given_columns, keep_our_ids
from agent.store.writer_view import Row, enumerate_names, label, name_of, optional


def create(session: Session, subject: Subject, name: str, fields: RouterFields, router_id: uuid.UUID) -> Row:
    """Insert a router and its ports."""
    hosts = validate_routers.gateway_hosts(subject, or_default(fields.gateway_hosts, ()))
    row = session.insert(
        "Router",
        router_id,
        name=name,
        name_claim=[],
        project=or_default(fields.project, ""),
        admin_state_up=or_default(fields.admin_state_up, True),
        distributed=or_default(fields.distributed, False),
        ha=or_default(fields.ha, True),
        enable_snat=or_default(fields.enable_snat, True),
        external_network=[],
        networks=[],
        gateway_hosts=dict(enumerate(hosts)),
        hosts=list(hosts),
        routes=validate_routers.routes(subject, or_default(fields.routes, ())),
        external_ids=validate.external_ids(subject, or_default(fields.external_ids, {})),
    )
    _put_gateway(session, subject, row, fields)
    _put_interfaces(session, subject, row, or_default(fields.interfaces, ()))
    session.touched_hosts.update(hosts)
    writer_legs.note(session, row)
    return row


def change(session: Session, subject: Subject, row: Row, fields: RouterFields) -> None:
    """Write the given fields; interfaces are those that are given, those that stay keep their ports."""
    columns: dict[str, Column] = {}
    if not isinstance(fields.gateway_hosts, Unset):
        hosts = validate_routers.gateway_hosts(subject, fields.gateway_hosts)
        columns |= {"gateway_hosts": dict(enumerate(hosts)), "hosts": list(hosts)}
        writer_legs.touch_hosts(session, row)  # also those that no longer are
        session.touched_hosts.update(hosts)
    if not isinstance(fields.routes, Unset):
        if row._data is not None:
            session.verify(row, "routes")
        columns["routes"] = validate_routers.routes(subject, fields.routes)
    if not isinstance(fields.external_ids, Unset):
        columns["external_ids"] = keep_our_ids(row, validate.external_ids(subject, fields.external_ids))
    if fields.distributed is True and not row.distributed:
        session.check_later(lambda: writer_legs.check_ways_out(session, subject, row))
    columns |= given_columns(
        admin_state_up=fields.admin_state_up,
        distributed=fields.distributed,
        ha=fields.ha,
        enable_snat=fields.enable_snat,
        project=fields.project,
    )
    session.update(row, **columns)
    writer_legs.touch(session, row)  # also networks that it leaves
    _put_gateway(session, subject, row, fields)
    if not isinstance(fields.interfaces, Unset):
        _put_interfaces(session, subject, row, fields.interfaces)
    writer_legs.note(session, row)


def delete(session: Session, subject: Subject, row: Row) -> None:
    """Delete a router that no floating IP and no port forwarding needs; its ports go with it."""
    writer_legs.touch(session, row)
    router_id = row.uuid
    for leg in writer_legs.legs(session, row):
        writer_ports.remove(session, leg)
    session.delete(row)
    session.check_later(lambda: _check_unused(session, subject, router_id))


def _check_unused(session: Session, subject: Subject, router_id: uuid.UUID) -> None:
    users = [f"floating ip {name_of(user)}" for user in session.referring("Floating_IP", "router", router_id)]
    forwardings = session.referring("Port_Forwarding", "router", router_id)
    users += [f"port forwarding {name_of(user)}" for user in forwardings]
    if users:
        raise subject.error(f"it is in use by {enumerate_names(users)}: delete these first")


def add_interfaces(session: Session, ref: str, wishes: Iterable[FixedIpRequest]) -> Row:
    """Give a router interfaces on more subnets; those that it has already stay."""
    row = session.find("router", ref)
    subject = Subject("router", label(row))
    writer_legs.touch(session, row)
    for wish in wishes:
        _add_interface(session, subject, row, _subnet_of(session, subject, wish), wish)
    writer_legs.note(session, row)
    return row


def remove_interfaces(session: Session, ref: str, subnets: Iterable[str]) -> Row:
    """Take interfaces on *subnets* (by name or id) from a router; each must be there."""
    row = session.find("router", ref)
    subject = Subject("router", label(row))
    writer_legs.touch(session, row)
    for subnet_ref in subnets:
        subnet = session.find("subnet", subnet_ref, subject)
        if subnet.uuid not in writer_legs.subnets(writer_legs.interfaces(session, row)):
            raise subject.error(f"interfaces: it has none on subnet {label(subnet)}")
        _remove_interface(session, row, subnet)
    writer_legs.note(session, row)
    return row


def _put_interfaces(session: Session, subject: Subject, router: Row, wishes: Iterable[FixedIpRequest]) -> None:
    """Give *router* exactly the interfaces that are wished for."""
    wanted: dict[uuid.UUID, tuple[Row, FixedIpRequest]] = {}
    for wish in wishes:
        subnet = _subnet_of(session, subject, wish)
        if subnet.uuid in wanted:
            raise subject.error(f"interfaces: subnet {label(subnet)} is given twice")
        wanted[subnet.uuid] = subnet, wish
    for subnet_id, subnet in writer_legs.subnets(writer_legs.interfaces(session, router)).items():
        if subnet_id not in wanted:
            _remove_interface(session, router, subnet)
    for subnet, wish in wanted.values():
        _add_interface(session, subject, router, subnet, wish)


def _subnet_of(session: Session, subject: Subject, wish: FixedIpRequest) -> Row:
    if wish.subnet is None:
        raise subject.error(f"interfaces: {wish.address} says no subnet")
    return session.find("subnet", wish.subnet, subject)


def _add_interface(session: Session, subject: Subject, router: Row, subnet: Row, wish: FixedIpRequest) -> None:
    """Give *router* an address on *subnet*: on the port that it has on the network, else on a new one."""
    where = replace(subject, name=f"{subject.name}, interface {label(subnet)}")
    network = subnet.network
    on_network = [leg for leg in writer_legs.interfaces(session, router) if leg.network == network]
    present = {address: leg for leg in on_network for address, other in leg.fixed_ips.items() if other == subnet}
    address = _interface_address(where, subnet, wish)
    if present and (wish.address is None or address in present):
        return
    if address is None:
        raise where.error(f"subnet {label(subnet)} has no gateway that could be its address: give an address")
    kept = FixedIpRequest(address, str(subnet.uuid))
    leg = next(iter(present.values()), on_network[0] if on_network else None)
    if leg is None:
        _make_port(session, where, router, network, INTERFACE_OWNER, (kept,))
        return
    others = [FixedIpRequest(text, str(other.uuid)) for text, other in leg.fixed_ips.items() if other != subnet]
    writer_ports.change(session, where, leg, PortFields(fixed_ips=(*others, kept)))


def _interface_address(subject: Subject, subnet: Row, wish: FixedIpRequest) -> str | None:
    """Return what is wished for, else the subnet's gateway; None if that is none of its addresses."""
    if wish.address is not None:
        return str(validate.address(subject, "address", wish.address))
    gateway = optional(subnet.gateway_ip)
    inside = gateway is not None and validate.address(subject, "gateway", gateway) in ipam.network(subnet.cidr)
    return gateway if inside else None


def _remove_interface(session: Session, router: Row, subnet: Row) -> None:
    for leg in writer_legs.interfaces(session, router):
        left = {address: other for address, other in leg.fixed_ips.items() if other != subnet}
        if len(left) == len(leg.fixed_ips):
            continue
        if left:
            set_addresses(session, Subject("port", label(leg)), leg, left)
        else:
            writer_ports.remove(session, leg)


def _put_gateway(session: Session, subject: Subject, router: Row, fields: RouterFields) -> None:
    """Give *router* the gateway that the fields say, or take it away."""
    where = replace(subject, name=f"{subject.name}, gateway")
    leg = writer_legs.gateway(session, router)
    if fields.external_network is None:
        if not isinstance(fields.external_fixed_ips, Unset) and fields.external_fixed_ips:
            raise where.error("fixed ips mean nothing without an external network")
        if leg is not None:
            writer_ports.remove(session, leg)
        return
    if not isinstance(fields.external_network, Unset):
        network = session.find("network", fields.external_network, where)
        if leg is not None and leg.network != network:
            writer_ports.remove(session, leg)
            leg = None
        if leg is None:
            _make_gateway(session, where, router, network, fields.external_fixed_ips)
            return
    if isinstance(fields.external_fixed_ips, Unset):
        return
    if leg is None:
        raise where.error("fixed ips need an external network")
    if not fields.external_fixed_ips:
        raise where.error("fixed ips: it needs an address at least")
    writer_ports.change(session, where, leg, PortFields(fixed_ips=fields.external_fixed_ips))


def _make_gateway(
    session: Session, subject: Subject, router: Row, network: Row, wishes: tuple[FixedIpRequest, ...] | Unset
) -> None:
    leg = _make_port(session, subject, router, network, GATEWAY_OWNER, wishes)
    if not isinstance(wishes, Unset) or any(":" in address for address in leg.fixed_ips):
        return
    # As Neutron does: the gateway takes part where all others' addresses are automatic, too.
    automatic = [subnet for subnet in session.subnets(network) if is_automatic(subnet)]
    addresses = {ipam.eui64_address(ipam.network(subnet.cidr), leg.mac_address): subnet for subnet in automatic[:1]}
    if addresses:
        set_addresses(session, subject, leg, {**leg.fixed_ips, **addresses})


def _make_port(
    session: Session,
    subject: Subject,
    router: Row,
    network: Row,
    owner: str,
    wishes: tuple[FixedIpRequest, ...] | Unset = UNSET,
) -> Row:
    fields = PortFields(
        network=str(network.uuid),
        fixed_ips=wishes,
        device_owner=owner,
        device_id=str(router.uuid),
        port_security=False,
        project=router.project,
    )
    return writer_ports.create(session, subject, "", fields, uuid.uuid4())
