# SPDX-License-Identifier: Apache-2.0
"""The ports of a router, as Neutron has them: interfaces, and one gateway.

A port is a router's by ``device_owner`` and ``device_id``, whoever made it.  What the router's row
says of its networks is derived from its ports at the end of each call that touches one, and all
that must hold between them is checked then: a file may give one interface what it takes
from another.
"""

from __future__ import annotations

import ipaddress
import itertools
import uuid

from agent.store import ipam
from agent.store.validate import Subject, is_uuid
from agent.store.writer_addresses import GATEWAY_OWNER, INTERFACE_OWNER
from agent.store.writer_session import Session
from agent.store.writer_view import Row, View, label, name_of, optional, scalar

_OWNERS = (INTERFACE_OWNER, GATEWAY_OWNER)


def router_of(view: View, port: Row) -> Row | None:
    """Return the router whose port this is, None if it is none's."""
    if scalar(port, "device_owner") not in _OWNERS:
        return None
    device = scalar(port, "device_id")
    return view.row("Router", device) if is_uuid(device) else None


def legs(view: View, router: Row) -> list[Row]:
    """Return all ports of *router*."""
    ports = view.referring("Port", "device_id", str(router.uuid))
    return sorted(port for port in ports if scalar(port, "device_owner") in _OWNERS)


def interfaces(view: View, router: Row) -> list[Row]:
    """Return the interfaces of *router*."""
    return [leg for leg in legs(view, router) if scalar(leg, "device_owner") == INTERFACE_OWNER]


def gateway(view: View, router: Row) -> Row | None:
    """Return the gateway port of *router*, None if it has none."""
    return next((leg for leg in legs(view, router) if scalar(leg, "device_owner") == GATEWAY_OWNER), None)


def subnets(ports: list[Row]) -> dict[uuid.UUID, Row]:
    """Return the subnets from which *ports* have addresses."""
    return {subnet.uuid: subnet for port in ports for subnet in port.fixed_ips.values()}


def verify(session: Session, router: Row) -> None:
    """Let the transaction fail if another writer changes what *router* is connected to."""
    for leg in legs(session, router):
        if leg._data is not None:
            session.verify(leg, "fixed_ips")
    session.guard_users("Port", "device_id", router)


def note(session: Session, router: Row) -> None:
    """Derive and check what follows from the ports of *router* when all is written."""
    noted: dict[uuid.UUID, Row] = session.once("routers", lambda: _start(session))
    noted[router.uuid] = router


def touch(session: Session, router: Row) -> None:
    """Note the hosts that *router* concerns: its gateway hosts, and those with ports on its networks."""
    for leg in legs(session, router):
        session.touch(leg.network)
    touch_hosts(session, router)


def touch_hosts(session: Session, router: Row) -> None:
    """Note *router*, and its gateway hosts as far as they have ever reported."""
    session.touched_routers.add(str(router.uuid))
    session.touched_hosts.update(host for host in router.hosts if session.named("host", host))


def touch_user(session: Session, user: Row) -> None:
    """Note whom a floating IP or port forwarding concerns: its router's gateway hosts, and its port."""
    router_id, port_id = scalar(user, "router"), scalar(user, "port")
    router = None if router_id is None else session.row("Router", router_id)
    if router is not None:  # else deleted in this call
        touch_hosts(session, router)
    if port_id is not None:
        session.touched_ports.add(str(port_id))


def check_one_way_out(session: Session, subject: Subject, user: Row, router: Row, port: Row) -> None:
    """Raise InputError if *user*, a floating IP or port forwarding, leads to an address of *port* where the other does.

    Of a distributed router: answers then leave from the port's own host under the floating IP,
    whichever of the two they are for.  Neutron refuses it by port and of all routers, when a port
    forwarding is made; here an address may have both where the gateway host translates all.
    """
    if router._data is not None:
        session.verify(router, "distributed")
    if not router.distributed:
        return
    for table, column in (("Floating_IP", "fixed_ip_address"), ("Port_Forwarding", "internal_ip_address")):
        for row in session.referring(table, "port", port.uuid):
            if row._data is not None:
                session.verify(row, column, "router")
        session.guard_users(table, "port", port)
    for forwarding, floating_ip in session.once(("two ways out", router.uuid), lambda: _two_ways_out(session, router)):
        if user.uuid in (forwarding.uuid, floating_ip.uuid):
            raise subject.error(_two_ways_text(forwarding, floating_ip, router))


def check_ways_out(session: Session, subject: Subject, router: Row) -> None:
    """Raise InputError if a *router* that becomes distributed has what ``check_one_way_out`` refuses."""
    for forwarding, floating_ip in _two_ways_out(session, router):
        raise subject.error(f"distributed: {_two_ways_text(forwarding, floating_ip, router)}")


def _two_ways_out(session: Session, router: Row) -> list[tuple[Row, Row]]:
    """Return the port forwardings of *router* that lead where a floating IP of it does, with that."""
    floating = session.referring("Floating_IP", "router", router.uuid)
    at = {(scalar(row, "port"), optional(row.fixed_ip_address)): row for row in floating if row.port}
    forwardings = session.referring("Port_Forwarding", "router", router.uuid)
    places = ((row, (scalar(row, "port"), row.internal_ip_address)) for row in forwardings)
    return [(row, at[place]) for row, place in places if place in at]


def _two_ways_text(forwarding: Row, floating_ip: Row, router: Row) -> str:
    whose = f"port {label(forwarding.port)} with fixed ip {forwarding.internal_ip_address}"
    both = f"floating ip {name_of(floating_ip)} and port forwarding {name_of(forwarding)}"
    return f"{whose} would have {both}: of a distributed router ({label(router)}) it can have one of these"


def _start(session: Session) -> dict[uuid.UUID, Row]:
    noted: dict[uuid.UUID, Row] = {}
    session.write_last(lambda: _derive(session, noted))
    session.check_later(lambda: _check_all(session, noted))
    return noted


def _derive(session: Session, noted: dict[uuid.UUID, Row]) -> None:
    for router in noted.values():
        if router._changes is None:
            continue  # deleted
        ports, outside = legs(session, router), gateway(session, router)
        session.update(
            router,
            networks=sorted({port.network for port in ports}),
            external_network=[] if outside is None else [outside.network],
        )
        touch(session, router)


def _check_all(session: Session, noted: dict[uuid.UUID, Row]) -> None:
    for router in noted.values():
        if router._changes is not None:
            _check(session, Subject("router", label(router)), router)


def _check(session: Session, subject: Subject, router: Row) -> None:
    verify(session, router)
    if router._data is not None:
        session.verify(router, "routes")
    _check_gateway(session, subject, router)
    _check_overlaps(session, subject, router)
    _check_routes(session, subject, router)
    _check_floating_ips(session, subject, router)
    _check_forwardings(session, subject, router)


def _check_gateway(session: Session, subject: Subject, router: Row) -> None:
    outside = [leg for leg in legs(session, router) if leg.device_owner == GATEWAY_OWNER]
    if len(outside) > 1:
        raise subject.error(f"gateway: it has {len(outside)} ports {GATEWAY_OWNER}, and can have one")
    for leg in outside:
        network = label(leg.network)
        if not leg.network.external:
            hint = f"hostplane network set {network} --external"
            raise subject.error(f"gateway network {network} is not external ({hint})")
        session.verify(leg.network, "external")
        if not leg.fixed_ips:
            raise subject.error(f"gateway network {network} has no subnet to give the gateway an address")


def _check_overlaps(session: Session, subject: Subject, router: Row) -> None:
    ports = legs(session, router)
    found = [(ipam.network(subnet.cidr), subnet, leg) for leg in ports for subnet in subnets([leg]).values()]
    for (one, first, leg), (other, second, other_leg) in itertools.combinations(found, 2):
        if first == second:
            raise subject.error(f"interfaces: it has two on subnet {label(first)} ({leg.uuid}, {other_leg.uuid})")
        if one.version == other.version and one.overlaps(other):
            pair = sorted((f"{label(first)} ({one})", f"{label(second)} ({other})"))
            raise subject.error(f"interfaces: subnets {' and '.join(pair)} overlap, so it could not tell them apart")


def _check_routes(session: Session, subject: Subject, router: Row) -> None:
    ports = legs(session, router)
    own = {address for leg in ports for address in leg.fixed_ips}
    around = [ipam.network(subnet.cidr) for subnet in subnets(ports).values()]
    for route in sorted(router.routes):
        destination, _, nexthop = route.partition(" ")
        if any(destination == str(prefix) for prefix in around):
            raise subject.error(f"routes: {destination} is a subnet of the router itself")
        if nexthop in own:
            raise subject.error(f"routes: next hop {nexthop} of {destination} is an address of the router itself")
        if not any(ipaddress.ip_address(nexthop) in prefix for prefix in around):
            known = ", ".join(sorted(map(str, around))) or "it has none"
            raise subject.error(f"routes: next hop {nexthop} of {destination} is in none of its subnets ({known})")


def _check_floating_ips(session: Session, subject: Subject, router: Row) -> None:
    """Raise InputError if the router would no longer lead from a floating IP to its port."""
    inside, outside = subnets(interfaces(session, router)), gateway(session, router)
    for row in session.referring("Floating_IP", "router", router.uuid):
        if row._data is not None:
            session.verify(row, "port", "fixed_ip_address")
        if outside is None or outside.network != row.floating_network:
            where = label(row.floating_network)
            raise subject.error(f"gateway: floating ip {name_of(row)} needs it on network {where}: delete that first")
        for port in row.port:
            address = row.fixed_ip_address[0]
            subnet = port.fixed_ips.get(address)
            if subnet is not None and subnet.uuid not in inside:
                hint = "disassociate or delete that first"
                raise subject.error(
                    f"interfaces: floating ip {name_of(row)} of port {label(port)} needs one "
                    f"on subnet {label(subnet)}: {hint}"
                )
    session.guard_users("Floating_IP", "router", router)


def _check_forwardings(session: Session, subject: Subject, router: Row) -> None:
    """Raise InputError if the router would no longer have what a port forwarding leads from and to."""
    inside, outside = subnets(interfaces(session, router)), gateway(session, router)
    for row in session.referring("Port_Forwarding", "router", router.uuid):
        if row._data is not None:
            session.verify(row, "port", "internal_ip_address")
        if not row.floating_ip and (outside is None or row.external_ip_address not in outside.fixed_ips):
            address = row.external_ip_address
            raise subject.error(f"gateway: port forwarding {name_of(row)} needs {address}: delete that first")
        subnet = row.port.fixed_ips.get(row.internal_ip_address)
        if subnet is not None and subnet.uuid not in inside:
            raise subject.error(
                f"interfaces: port forwarding {name_of(row)} to port {label(row.port)} needs one "
                f"on subnet {label(subnet)}: delete that first"
            )
    session.guard_users("Port_Forwarding", "router", router)
