# SPDX-License-Identifier: Apache-2.0
"""Floating IPs: making, changing and deleting them inside a session.

The router that translates one is found, as in Neutron: it has an interface on the subnet of the
port's address and its gateway on the floating IP's network.  Host and network of the port
stand in the floating IP's row, kept by whoever writes the port, because hosts select rows by
columns of these only.
"""

from __future__ import annotations

import ipaddress
import uuid

from agent.store import ipam, validate, validate_routers, writer_legs
from agent.store.document import FloatingIpFields, Unset, or_default
from agent.store.validate import Subject
from agent.store.writer_addresses import INTERFACE_OWNER, any_of, check_owner, is_automatic
from agent.store.writer_session import IMPLICIT_KEY, Session, given_columns, keep_our_ids, refuse_changes
from agent.store.writer_view import Row, enumerate_names, label, name_of, optional, scalar


def create(session: Session, subject: Subject, name: str, fields: FloatingIpFields, row_id: uuid.UUID) -> Row:
    """Insert a floating IP called by its address; without a name one is chosen from the network's pools."""
    address = validate_routers.ipv4_address(subject, "address", name) if name else None
    network = _network(session, subject, address, fields)
    if network._data is not None:
        session.verify(network, "external")
    if address is None:
        address = _chosen(session, subject, network)
    else:
        _check_subnet(session, subject, network, address)
        session.want_address(network, address)
    mac = session.new_mac()
    if not isinstance(fields.mac_address, Unset):
        mac = validate.mac(subject, fields.mac_address)
    row = session.insert(
        "Floating_IP",
        row_id,
        project=or_default(fields.project, ""),
        external_ids=validate.external_ids(subject, or_default(fields.external_ids, {})),
        floating_ip_address=address,
        floating_network=network,
        mac_address=mac,
        ip_allocation=[session.insert("IP_Allocation", network=network, address=address)],
        endpoint=[session.insert("Endpoint", network=network, mac=mac, addresses=[address], host="")],
        router=[],
        port=[],
        fixed_ip_address=[],
        port_network=[],
        host="",
    )
    if session.is_contested(network, address):
        session.check_later(lambda: check_owner(session, subject, row, "address", [address]))
    session.touch(network)
    if not isinstance(fields.port, Unset) and fields.port is not None:
        _associate(session, subject, row, fields.port, fields.fixed_ip)
    elif not isinstance(fields.fixed_ip, Unset):
        raise subject.error("fixed_ip needs a port")
    return row


def _network(session: Session, subject: Subject, address: str | None, fields: FloatingIpFields) -> Row:
    if not isinstance(fields.network, Unset):
        network = session.find("network", fields.network, subject)
        if not network.external:
            hint = f"hostplane network set {label(network)} --external"
            raise subject.error(f"network {label(network)} is not external ({hint})")
        return network
    if address is None:
        raise subject.error("network is required: there is no address to tell it by")
    found = external_networks_around(session, address)
    if len(found) == 1:
        return found[0]
    if found:
        names = enumerate_names(map(label, found))
        raise subject.error(f"networks {names} have subnets around {address}: say which")
    raise subject.error(f"there is no external network with a subnet around {address}")


def external_networks_around(session: Session, address: str) -> list[Row]:
    """Return the external networks with a subnet around *address*."""
    value = ipaddress.ip_address(address)
    outside = (network for network in session.rows("Network") if scalar(network, "external"))
    found = (n for n in outside if any(value in ipam.network(subnet.cidr) for subnet in session.subnets(n)))
    return sorted(found, key=label)


def _chosen(session: Session, subject: Subject, network: Row) -> str:
    subnets = [s for s in session.subnets(network) if ":" not in s.cidr and not is_automatic(s)]
    if not subnets:
        raise subject.error(f"network {label(network)} has no IPv4 subnet to choose an address from")
    return any_of(session, subject, subnets)[0]


def _check_subnet(session: Session, subject: Subject, network: Row, address: str) -> None:
    value = ipaddress.ip_address(address)
    for subnet in session.subnets(network):
        cidr = ipam.network(subnet.cidr)
        if value in cidr:
            validate.host_address(subject, "address", value, cidr)
            if subnet.gateway_ip == [address]:
                raise subject.error(f"address {address} is the gateway of subnet {label(subnet)}")
            return
    known = ", ".join(subnet.cidr for subnet in session.subnets(network)) or "it has none"
    raise subject.error(f"address {address} is in no subnet of network {label(network)} ({known})")


def change(session: Session, subject: Subject, row: Row, fields: FloatingIpFields) -> None:
    """Write the given fields; a port (or None) associates it (or disassociates it)."""
    if not isinstance(fields.network, Unset):
        network = session.find("network", fields.network, subject)
        if network != row.floating_network:
            refuse_changes(subject, {"network": (label(network), label(row.floating_network))})
    if not isinstance(fields.mac_address, Unset):
        refuse_changes(subject, {"mac_address": (validate.mac(subject, fields.mac_address), row.mac_address)})
    if row.external_ids.get(IMPLICIT_KEY):  # now somebody wants it for itself
        row.verify("external_ids")
        rest = {key: value for key, value in row.external_ids.items() if key != IMPLICIT_KEY}
        session.update(row, external_ids=rest)
    if not isinstance(fields.external_ids, Unset):
        ids = keep_our_ids(row, validate.external_ids(subject, fields.external_ids))
        session.update(row, external_ids=ids)
    session.update(row, **given_columns(project=fields.project))
    if fields.port is None:
        if not isinstance(fields.fixed_ip, Unset):
            raise subject.error("fixed_ip needs a port")
        disassociate(session, row)
    elif not isinstance(fields.port, Unset):
        _associate(session, subject, row, fields.port, fields.fixed_ip)
    elif not isinstance(fields.fixed_ip, Unset):
        if not row.port:
            raise subject.error("fixed_ip needs a port")
        _associate(session, subject, row, str(row.port[0].uuid), fields.fixed_ip)
    _touch(session, row)


def delete(session: Session, subject: Subject, row: Row) -> None:
    """Delete a floating IP from which no port forwarding leads."""
    users = session.referring("Port_Forwarding", "floating_ip", row.uuid)
    if users:
        named = enumerate_names(f"port forwarding {name_of(user)}" for user in users)
        raise subject.error(f"it is in use by {named}: delete these first")
    remove(session, row)


def forsake(session: Session, row: Row) -> bool:
    """Leave a floating IP that nobody wants for itself any more to its port forwardings; False if it has none."""
    if not session.referring("Port_Forwarding", "floating_ip", row.uuid):
        return False
    row.verify("external_ids")
    session.update(row, external_ids={IMPLICIT_KEY: "port_forwarding"})
    return True


def remove(session: Session, row: Row) -> None:
    """Delete a floating IP."""
    _touch(session, row)
    session.touch(row.floating_network)
    session.delete(row, *row.endpoint, *row.ip_allocation)


def _touch(session: Session, row: Row) -> None:
    writer_legs.touch_user(session, row)
    if row.host and session.named("host", row.host):
        session.touched_hosts.add(row.host)


def _associate(session: Session, subject: Subject, row: Row, port_ref: str, fixed_ip: str | Unset) -> None:
    users = session.referring("Port_Forwarding", "floating_ip", row.uuid)
    if users:
        named = enumerate_names(f"port forwarding {name_of(user)}" for user in users)
        raise subject.error(f"port: it is in use by {named}, so it can have none")
    session.guard_users("Port_Forwarding", "floating_ip", row)
    _touch(session, row)
    port = session.find("port", port_ref, subject)
    address = inner_address(session, subject, port, fixed_ip, optional(row.fixed_ip_address))
    router = leading_router(session, subject, row.floating_network, port.fixed_ips[address])
    writer_legs.verify(session, router)
    if row._data is not None:
        session.verify(row, "port", "fixed_ip_address", "router")
    session.update(
        row,
        router=[router],
        port=[port],
        fixed_ip_address=[address],
        port_network=[port.network.uuid],
        host=port.host,
    )
    session.guard_users("Floating_IP", "port", port)
    session.check_later(lambda: _check_alone(session, subject, row, port, address))
    session.check_later(lambda: writer_legs.check_one_way_out(session, subject, row, router, port))
    _touch(session, row)


def inner_address(session: Session, subject: Subject, port: Row, wish: str | Unset, present: str | None) -> str:
    """Return the IPv4 address of *port* that is wished for, or *present*, or its only one."""
    if writer_legs.router_of(session, port) is not None:
        raise subject.error(f"port {label(port)} is a router's own")
    if port._data is not None:
        session.verify(port, "fixed_ips", "host")
    addresses = sorted(address for address in port.fixed_ips if ":" not in address)
    if not isinstance(wish, Unset):
        address = validate_routers.ipv4_address(subject, "fixed_ip", wish)
        if address not in addresses:
            known = ", ".join(addresses) or "it has none"
            raise subject.error(f"fixed_ip {address} is no address of port {label(port)} ({known})")
        return address
    if present in addresses:
        return str(present)
    if len(addresses) != 1:
        what = (
            f"{len(addresses)} IPv4 addresses ({', '.join(addresses)}): say which" if addresses else "no IPv4 address"
        )
        raise subject.error(f"fixed_ip: port {label(port)} has {what}")
    return addresses[0]


def leading_router(session: Session, subject: Subject, outside: Row, subnet: Row) -> Row:
    """Return the router between *subnet* and the external network *outside*; as in Neutron its gateway comes first."""
    found = []
    near = []
    for leg in session.ports(subnet.network):
        if scalar(leg, "device_owner") != INTERFACE_OWNER or subnet not in leg.fixed_ips.values():
            continue
        router = writer_legs.router_of(session, leg)
        if router is None:
            continue
        gateway = writer_legs.gateway(session, router)
        if gateway is not None and gateway.network == outside:
            found.append((optional(subnet.gateway_ip) not in leg.fixed_ips, label(router), router))
        else:
            near.append(f"router {label(router)}")
    if found:
        return min(found)[2]
    if near:
        whose = enumerate_names(near)
        raise subject.error(f"{whose} has an interface on subnet {label(subnet)}, but no gateway on {label(outside)}")
    where = f"an interface on subnet {label(subnet)} and its gateway on network {label(outside)}"
    raise subject.error(f"no router has {where}")


def _check_alone(session: Session, subject: Subject, row: Row, port: Row, address: str) -> None:
    for other in session.referring("Floating_IP", "port", port.uuid):
        same = optional(other.fixed_ip_address) == address and other.floating_network == row.floating_network
        if same and other.uuid != row.uuid:
            whose = f"port {label(port)} with fixed ip {address}"
            raise subject.error(f"{whose} has floating ip {name_of(other)} of network {label(row.floating_network)}")


def disassociate(session: Session, row: Row) -> None:
    """Let a floating IP stand for no port."""
    _touch(session, row)
    if row._data is not None:
        session.verify(row, "port", "router")
    if row.port or row.fixed_ip_address:  # else a router is that of its port forwardings
        session.update(row, router=[], port=[], fixed_ip_address=[], port_network=[], host="")


def release(session: Session, port: Row) -> None:
    """Disassociate the floating IPs of a port that is going to be deleted."""
    for row in session.referring("Floating_IP", "port", port.uuid):
        disassociate(session, row)
    session.guard_users("Floating_IP", "port", port)


def follow(session: Session, port: Row) -> None:
    """Let the floating IPs of *port* know the host that it has now, and its addresses still be there at the end."""
    for row in session.referring("Floating_IP", "port", port.uuid):
        _touch(session, row)
        session.update(row, host=port.host)
    session.guard_users("Floating_IP", "port", port)
    session.check_later(lambda: _check_addresses(session, port))


def _check_addresses(session: Session, port: Row) -> None:
    if port._changes is None:
        return
    subject = Subject("port", label(port))
    for row in session.referring("Floating_IP", "port", port.uuid):
        address = optional(row.fixed_ip_address)
        if address not in port.fixed_ips:
            hint = "associate that with another address first"
            raise subject.error(f"fixed ip {address} is what floating ip {name_of(row)} stands for: {hint}")
