# SPDX-License-Identifier: Apache-2.0
"""Subnets: making, changing and deleting them inside a session."""

from __future__ import annotations

import ipaddress
import uuid

from agent.store import ipam, validate, validate_services, writer_pools, writer_servers
from agent.store.document import SubnetFields, Unset, or_default
from agent.store.ipam import IPAddress, IPNetwork
from agent.store.validate import Subject
from agent.store.writer_addresses import INTERFACE_OWNER, is_automatic, port_text, set_addresses
from agent.store.writer_session import Column, Session, given_columns, keep_our_ids, refuse_changes
from agent.store.writer_view import Row, enumerate_names, label, optional


def create(session: Session, subject: Subject, name: str, fields: SubnetFields, subnet_id: uuid.UUID) -> Row:
    """Insert a subnet: network and cidr are required.

    As in Neutron, a subnet with automatic addresses gives one at once to each port
    of its network that has addresses.
    """
    if isinstance(fields.network, Unset):
        raise subject.error("network is required")
    network = session.find("network", fields.network, subject)
    pool, cidr = _prefix(session, subject, fields)
    _refuse_overlap(session, subject, network, cidr)
    if cidr.version == 6 and network.mtu < validate.MIN_IPV6_MTU:
        raise subject.error(f"network {label(network)} has mtu {network.mtu}, IPv6 needs {validate.MIN_IPV6_MTU}")
    gateway = _gateway(subject, fields, cidr, None)
    address_mode, ra_mode = _modes(subject, fields, cidr, None)
    pools = ipam.default_pools(cidr, gateway)
    if not isinstance(fields.allocation_pools, Unset):
        pools = validate.pools(subject, fields.allocation_pools, cidr, gateway)
    row = session.insert(
        "Subnet",
        subnet_id,
        name=name,
        name_claim=[],
        network=network,
        cidr=str(cidr),
        gateway_ip=[] if gateway is None else [str(gateway)],
        enable_dhcp=_dhcp(subject, or_default(fields.dhcp, True), address_mode or ra_mode),
        allocation_pools=list(pools),
        ipv6_address_mode=[] if address_mode is None else [address_mode],
        ipv6_ra_mode=[] if ra_mode is None else [ra_mode],
        server_address=[],
        server_allocation=[],
        subnet_pool=[] if pool is None else [pool],
        address_scope=[] if pool is None else list(pool.address_scope),
        dns_nameservers=validate_services.dns_servers(subject, or_default(fields.dns, ())),
        host_routes=validate_services.host_routes(subject, or_default(fields.host_routes, ()), cidr.version),
        project=or_default(fields.project, ""),
        external_ids=validate.external_ids(subject, or_default(fields.external_ids, {})),
    )
    session.guard("Subnet", network)
    session.check_later(lambda: writer_pools.check_alike(session, subject, row))
    session.touch(network)
    if is_automatic(row):
        _give_to_ports(session, network, row, cidr)
    writer_servers.settle(session, subject, row, fields.server_address)
    return row


def _prefix(session: Session, subject: Subject, fields: SubnetFields) -> tuple[Row | None, IPNetwork]:
    """Return the pool that a new subnet is taken from, if any, and its prefix."""
    cidr = None if isinstance(fields.cidr, Unset) else validate.cidr(subject, fields.cidr)
    if not isinstance(fields.subnet_pool, Unset):
        pool = session.find("subnet_pool", fields.subnet_pool, subject)
        return pool, writer_pools.take(session, subject, pool, cidr, fields.prefixlen)
    if cidr is None:
        raise subject.error("cidr is required, or a subnet_pool to take one from")
    if not isinstance(fields.prefixlen, Unset) and fields.prefixlen != cidr.prefixlen:
        raise subject.error(f"prefixlen {fields.prefixlen} contradicts cidr {cidr}")
    return None, cidr


def _refuse_overlap(session: Session, subject: Subject, network: Row, cidr: IPNetwork) -> None:
    for other in session.subnets(network):
        present = ipam.network(other.cidr)
        if present.version == cidr.version and present.overlaps(cidr):
            raise subject.error(f"cidr {cidr} overlaps subnet {label(other)} ({present}) of network {label(network)}")


def _gateway(subject: Subject, fields: SubnetFields, cidr: IPNetwork, row: Row | None) -> IPAddress | None:
    if not isinstance(fields.gateway, Unset):
        return None if fields.gateway is None else validate.gateway(subject, fields.gateway, cidr)
    if row is None:
        return ipam.default_gateway(cidr)
    present = optional(row.gateway_ip)
    return None if present is None else validate.address(subject, "gateway", present)


def _modes(subject: Subject, fields: SubnetFields, cidr: IPNetwork, row: Row | None) -> tuple[str | None, str | None]:
    present = (None, None) if row is None else (optional(row.ipv6_address_mode), optional(row.ipv6_ra_mode))
    if isinstance(fields.ipv6_mode, Unset):
        address_mode = or_default(fields.ipv6_address_mode, present[0])
        ra_mode = or_default(fields.ipv6_ra_mode, present[1])
    else:
        address_mode = ra_mode = fields.ipv6_mode
        for field in (fields.ipv6_address_mode, fields.ipv6_ra_mode):
            if not isinstance(field, Unset) and field != fields.ipv6_mode:
                raise subject.error(f"ipv6_mode {fields.ipv6_mode} contradicts {field}: give one of them")
    return validate.ipv6_modes(subject, cidr, address_mode, ra_mode)


def _dhcp(subject: Subject, enabled: bool, mode: str | None) -> bool:
    if not enabled and mode is not None:
        raise subject.error(f"dhcp cannot be off with the IPv6 mode {mode}: the host's responder announces it")
    return enabled


def _give_to_ports(session: Session, network: Row, subnet: Row, cidr: IPNetwork) -> None:
    # No port may come between: it would be left without an address of this subnet.
    session.guard("Port", network)
    for port in session.ports(network):
        if port.fixed_ips and not port.device_owner.startswith("network:router"):
            address = ipam.eui64_address(cidr, port.mac_address)
            set_addresses(session, Subject("port", label(port)), port, {**port.fixed_ips, address: subnet})


def change(session: Session, subject: Subject, row: Row, fields: SubnetFields) -> None:
    """Write the given fields; network, prefix and address mode are fixed when a subnet is made.

    Pools that are the default for the old gateway become the default for the new one.
    A subnet of the time before server addresses gets one, whatever it is that changes.
    """
    cidr = ipam.network(row.cidr)
    if not isinstance(fields.network, Unset) and session.find("network", fields.network, subject) != row.network:
        refuse_changes(subject, {"network": (fields.network, label(row.network))})
    if not isinstance(fields.cidr, Unset):
        refuse_changes(subject, {"cidr": (str(validate.cidr(subject, fields.cidr)), row.cidr)})
    if not isinstance(fields.subnet_pool, Unset):
        pool, present = session.find("subnet_pool", fields.subnet_pool, subject), optional(row.subnet_pool)
        if pool != present:
            refuse_changes(subject, {"subnet_pool": (label(pool), None if present is None else label(present))})
    refuse_changes(subject, {"prefixlen": (fields.prefixlen, cidr.prefixlen)})
    address_mode, ra_mode = _modes(subject, fields, cidr, row)
    refuse_changes(
        subject,
        {
            "ipv6_address_mode": (address_mode, optional(row.ipv6_address_mode)),
            "ipv6_ra_mode": (ra_mode, optional(row.ipv6_ra_mode)),
        },
    )
    old = _gateway(subject, SubnetFields(), cidr, row)
    gateway = _gateway(subject, fields, cidr, row)
    if gateway != old:
        _refuse_routers_gateway(session, subject, row, old)
    pools: tuple[str, ...] = tuple(row.allocation_pools)
    if not isinstance(fields.allocation_pools, Unset):
        pools = fields.allocation_pools
    elif gateway != old and sorted(pools) == sorted(ipam.default_pools(cidr, old)):
        pools = ipam.default_pools(cidr, gateway)
    columns: dict[str, Column] = {
        "gateway_ip": [] if gateway is None else [str(gateway)],
        "allocation_pools": list(validate.pools(subject, pools, cidr, gateway)),
        "enable_dhcp": _dhcp(subject, or_default(fields.dhcp, row.enable_dhcp), address_mode or ra_mode),
    }
    if not isinstance(fields.dns, Unset):
        columns["dns_nameservers"] = validate_services.dns_servers(subject, fields.dns)
    if not isinstance(fields.host_routes, Unset):
        columns["host_routes"] = validate_services.host_routes(subject, fields.host_routes, cidr.version)
    if not isinstance(fields.external_ids, Unset):
        columns["external_ids"] = keep_our_ids(row, validate.external_ids(subject, fields.external_ids))
    if row._data is not None:
        # Pools must fit the gateway, and the server address all of these: each stands on what the others were.
        session.verify(row, "gateway_ip", "allocation_pools", "enable_dhcp", "server_address")
    changed = session.update(row, **columns, **given_columns(project=fields.project))
    if writer_servers.settle(session, subject, row, fields.server_address) or changed:
        session.touch(row.network)


def _refuse_routers_gateway(session: Session, subject: Subject, row: Row, gateway: IPAddress | None) -> None:
    """Raise InputError if the gateway that is to be another one is a router's address, as in Neutron."""
    for port in session.ports(row.network):
        if str(gateway) in port.fixed_ips and port.device_owner == INTERFACE_OWNER:
            raise subject.error(f"gateway {gateway} is an address of {port_text(session, port)}: take that away first")


def delete(session: Session, subject: Subject, row: Row) -> None:
    """Delete a subnet from which no port has a chosen address; automatic ones are taken from their ports."""
    users = [port for port in session.ports(row.network) if row in port.fixed_ips.values()]
    routers = [port for port in users if port.device_owner.startswith("network:router")]
    held = routers if is_automatic(row) else users
    if held:
        raise subject.error(
            f"it is in use by {enumerate_names(port_text(session, port) for port in held)}: "
            "delete these or give them other addresses first"
        )
    for port in users:
        left = {address: subnet for address, subnet in port.fixed_ips.items() if subnet != row}
        set_addresses(session, Subject("port", label(port)), port, left)
    outer = row.network.external and [
        floating_ip
        for floating_ip in session.referring("Floating_IP", "floating_network", row.network.uuid)
        if ipaddress.ip_address(floating_ip.floating_ip_address) in ipam.network(row.cidr)
    ]
    if outer:
        named = enumerate_names(f"floating ip {label(floating_ip)}" for floating_ip in outer)
        raise subject.error(f"it is in use by {named}: delete these first")
    session.touch(row.network)
    session.delete(row, *row.server_allocation)
