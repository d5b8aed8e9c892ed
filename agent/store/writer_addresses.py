# SPDX-License-Identifier: Apache-2.0
"""The addresses of a port: which ones it gets, and the rows that keep them unique.

Rules as in Neutron: without a wish a port gets one IPv4 address, one IPv6 address
from a subnet with pools, and one from each subnet with automatic addresses (EUI-64).
With wishes it gets those and the automatic ones.  An empty list of wishes makes it
unaddressed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.store import ipam, validate, writer_members
from agent.store.document import FixedIpRequest
from agent.store.validate import AUTOMATIC_MODES, Subject, is_uuid
from agent.store.writer_session import Session
from agent.store.writer_view import Row, label, optional, scalar

Addresses = dict[str, Row]  # canonical address -> subnet

_ROUTER_OWNER = "network:router"
INTERFACE_OWNER = "network:router_interface"
GATEWAY_OWNER = "network:router_gateway"


def is_automatic(subnet: Row) -> bool:
    """Tell whether addresses of *subnet* follow from the MAC address (SLAAC, stateless DHCPv6)."""
    return optional(subnet.ipv6_address_mode) in AUTOMATIC_MODES or optional(subnet.ipv6_ra_mode) in AUTOMATIC_MODES


def default_addresses(session: Session, subject: Subject, network: Row, mac: str, owner: str) -> Addresses:
    """Return the addresses of a port that wishes none in particular."""
    chosen = [subnet for subnet in session.subnets(network) if not is_automatic(subnet)]
    result: Addresses = {}
    for group in (
        [subnet for subnet in chosen if ":" not in subnet.cidr],
        [subnet for subnet in chosen if ":" in subnet.cidr],
    ):
        if group:
            address, subnet = any_of(session, subject, group)
            result[address] = subnet
    return result | _automatic(session, network, mac, owner)


def wished_addresses(
    session: Session,
    subject: Subject,
    network: Row,
    wishes: Iterable[FixedIpRequest],
    mac: str,
    owner: str,
    present: Mapping[str, Row],
) -> Addresses:
    """Return the addresses for *wishes*; one for a subnet alone stays what it is in *present*."""
    wishes = tuple(wishes)
    if not wishes:
        return {}
    result: Addresses = {}
    for wish in (wish for wish in wishes if wish.address is not None):
        address, subnet = _wished(session, subject, network, wish, mac, owner)
        if address in result:
            raise subject.error(f"fixed ip {address} is given twice")
        result[address] = subnet
    for wish in (wish for wish in wishes if wish.address is None):
        if wish.subnet is None:
            raise subject.error("a fixed ip needs an address or a subnet")
        subnet = _subnet_of(session, subject, network, wish.subnet)
        if is_automatic(subnet):
            result[ipam.eui64_address(ipam.network(subnet.cidr), mac)] = subnet
            continue
        kept = (a for a in sorted(present) if present[a] == subnet and a not in result)
        address = next(kept, None) or any_of(session, subject, [subnet])[0]
        result[address] = subnet
    return result | _automatic(session, network, mac, owner)


def moved_addresses(present: Mapping[str, Row], old_mac: str, new_mac: str) -> Addresses:
    """Return the addresses after a change of the MAC address: automatic ones follow it."""
    result: Addresses = {}
    for address, subnet in present.items():
        cidr = ipam.network(subnet.cidr)
        follows = is_automatic(subnet) and address == ipam.eui64_address(cidr, old_mac)
        result[ipam.eui64_address(cidr, new_mac) if follows else address] = subnet
    return result


def reserve(session: Session, subject: Subject, network: Row, wishes: Iterable[FixedIpRequest]) -> None:
    """Keep addresses that are wished for further on in a file from being given to others before."""
    for wish in wishes:
        if wish.address is not None:
            session.want_address(network, str(validate.address(subject, "fixed ip", wish.address)), reserving=True)


def _automatic(session: Session, network: Row, mac: str, owner: str) -> Addresses:
    if owner.startswith(_ROUTER_OWNER):
        return {}  # a router's own address is a chosen one, often the gateway
    automatic = (subnet for subnet in session.subnets(network) if is_automatic(subnet))
    return {ipam.eui64_address(ipam.network(subnet.cidr), mac): subnet for subnet in automatic}


def any_of(session: Session, subject: Subject, subnets: list[Row]) -> tuple[str, Row]:
    """Return a free address of one of *subnets*; raise InputError if there is none."""
    for subnet in subnets:
        address = session.pool(subnet).take()
        if address is not None:
            return address, subnet
    tried = ", ".join(f"{label(subnet)} ({subnet.cidr})" for subnet in subnets)
    raise subject.error(f"no free address in the allocation pools of {tried}")


def _wished(
    session: Session, subject: Subject, network: Row, wish: FixedIpRequest, mac: str, owner: str
) -> tuple[str, Row]:
    value = validate.address(subject, "fixed ip", wish.address or "")
    if wish.subnet is not None:
        subnet = _subnet_of(session, subject, network, wish.subnet)
    else:
        around = [s for s in session.subnets(network) if value in ipam.network(s.cidr)]
        if not around:
            known = ", ".join(s.cidr for s in session.subnets(network)) or "it has none"
            raise subject.error(f"fixed ip {value} is in no subnet of network {label(network)} ({known})")
        subnet = around[0]
    cidr = ipam.network(subnet.cidr)
    validate.host_address(subject, "fixed ip", value, cidr)
    if is_automatic(subnet) and not owner.startswith(_ROUTER_OWNER) and str(value) != ipam.eui64_address(cidr, mac):
        raise subject.error(f"fixed ip {value}: addresses of subnet {label(subnet)} follow from the MAC address")
    session.want_address(network, str(value))
    return str(value), subnet


def _subnet_of(session: Session, subject: Subject, network: Row, ref: str) -> Row:
    subnet = session.find("subnet", ref, subject)
    if subnet.network != network:
        raise subject.error(f"subnet {label(subnet)} is not of network {label(network)}")
    return subnet


def set_addresses(session: Session, subject: Subject, port: Row, addresses: Mapping[str, Row]) -> None:
    """Write the addresses of *port*: the map, its endpoint, and a claim for each that others cannot have too."""
    writer_members.note(session, port)
    present = {row.address: row for row in port.ip_allocations}
    # What is kept must still be ours when the transaction commits.
    port.verify("fixed_ips")
    claims = [
        present.get(address) or session.insert("IP_Allocation", network=port.network, address=address)
        for address in addresses
    ]
    changed = session.update(port, fixed_ips=dict(addresses), ip_allocations=claims)
    for endpoint in port.endpoint:
        session.update(endpoint, addresses=sorted(addresses))
    if changed:
        session.touch(port.network)
        session.touched_ports.add(str(port.uuid))
    doubtful = [a for a in addresses if a not in present and session.is_contested(port.network, a)]
    if doubtful:
        session.check_later(lambda: check_owner(session, subject, port, "fixed ip", doubtful))


def check_owner(session: Session, subject: Subject, owner: Row, field: str, addresses: Iterable[str]) -> None:
    """Raise InputError if another than *owner* has one of *addresses* when all is written."""
    network = owner.floating_network if owner._table.name == "Floating_IP" else owner.network
    held = session.once(("holders", network.uuid), lambda: holders(session, network))
    for address in addresses:
        for other in held.get(address, ()):
            if other.row.uuid != owner.uuid:
                raise subject.error(f"{field} {address} is in use by {other.text} on network {label(network)}")


class Holder(NamedTuple):
    """A port, subnet or floating IP that has an address of its own, and what to call it."""

    row: Row
    text: str


def port_text(session: Session, port: Row) -> str:
    """Return what to call *port*; that of a router is called by the router."""
    owner = scalar(port, "device_owner")
    if owner.startswith(_ROUTER_OWNER) and is_uuid(scalar(port, "device_id")):
        router = session.row("Router", scalar(port, "device_id"))
        if router is not None:
            return f"router {label(router)} ({'gateway' if owner == GATEWAY_OWNER else 'interface'})"
    return f"port {label(port)}"


def holders(session: Session, network: Row) -> dict[str, list[Holder]]:
    """Return who has which address of *network*."""
    found: dict[str, list[Holder]] = defaultdict(list)
    for port in session.ports(network):
        for address in port.fixed_ips:
            found[address].append(Holder(port, port_text(session, port)))
    for subnet in session.subnets(network):
        for address in subnet.server_address:
            found[address].append(Holder(subnet, f"the DHCP server of subnet {label(subnet)}"))
    for floating_ip in session.referring("Floating_IP", "floating_network", network.uuid):
        address = scalar(floating_ip, "floating_ip_address")
        found[address].append(Holder(floating_ip, "a floating ip"))
    return found
