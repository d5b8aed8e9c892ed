# SPDX-License-Identifier: Apache-2.0
"""What the responder is told of a port for DHCP, router advertisements and neighbor discovery.

Pure.  What is wrong with a port is left out and said, so that the rest is still
answered; what is handed over is something that the responder can make packets of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

from agent.core import service_identity
from agent.core.errors import Actor, InputError, Problem
from agent.core.host_names import instance_name
from agent.core.items import Served
from agent.core.model import Network, Port, RouterInterface, Subnet, SubnetId
from agent.core.served import served
from agent.dhcp import v4_options, v6_configuration, v6_options
from agent.dhcp.data import PortData, SubnetData, encode_port
from agent.dhcp.port_answers import PortAnswers

_OPTION6 = "option6:"
_LARGEST_MTU = 0xFFFF  # octets that DHCP can say (RFC 2132, section 5.1)
_ANY_MAC = service_identity.SERVER_MAC
_ANY_IDENTITY = bytes.fromhex(_ANY_MAC.replace(":", ""))
_T = TypeVar("_T")
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class DhcpPlan:
    """What the responder is told, None if nothing can be, and what is wrong with the port."""

    served: Served | None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Protocols:
    """What is spoken on a network; ``servers`` are the addresses that DHCP is answered from, of both families."""

    dhcpv4: bool
    dhcpv6: bool
    advertised: bool
    servers: tuple[str, ...]


def protocols(subnets: Iterable[Subnet]) -> Protocols:
    """Return what is spoken on the network with *subnets*."""
    data = [subnet_data(subnet) for subnet in subnets]
    served = [subnet for subnet in data if subnet.dhcp and subnet.server is not None]
    return Protocols(
        dhcpv4=any(":" not in subnet.cidr for subnet in served),
        dhcpv6=any(map(v6_configuration.is_served, data)),
        advertised=any(":" in subnet.cidr and bool(subnet.ra_mode) for subnet in data),
        servers=tuple(sorted(subnet.server for subnet in served if subnet.server is not None)),
    )


@dataclass(frozen=True, slots=True)
class Routed:
    """Which subnets of a network a router has an address of, and the MAC address of it that IPv6 hosts are told."""

    subnets: frozenset[SubnetId] = frozenset()
    mac: str = ""


NOT_ROUTED = Routed()


def find_routed(interfaces: Iterable[RouterInterface], subnets: Iterable[Subnet]) -> Routed:
    """Return what is routed on the network with *subnets*; *interfaces* are those of routers there, in any order.

    Of several routers that which has an IPv6 subnet's gateway address is told of.
    """
    known = {subnet.id: subnet for subnet in subnets}
    found: set[SubnetId] = set()
    candidates: list[tuple[bool, str]] = []
    for interface in interfaces:
        for ip in interface.fixed_ips:
            subnet = known.get(ip.subnet)
            if subnet is None:
                continue
            found.add(subnet.id)
            if ":" in ip.address:
                candidates.append((ip.address != subnet.gateway, interface.mac))
    return Routed(frozenset(found), min(candidates)[1] if candidates else "") if found else NOT_ROUTED


@lru_cache(maxsize=2048)
def subnet_data(subnet: Subnet, *, routed: bool = False) -> SubnetData:
    """Return what the responder is told of a subnet; all ports of a network ask.

    As in Neutron, routers advertise only subnets that have an RA mode.
    """
    ra_mode = subnet.ipv6_ra_mode if subnet.dhcp else None
    return SubnetData(
        cidr=subnet.cidr,
        gateway=subnet.gateway,
        server=subnet.server_address,
        dns=subnet.dns_servers,
        routes=subnet.host_routes,
        dhcp=subnet.dhcp,
        address_mode=subnet.ipv6_address_mode,
        ra_mode=ra_mode,
        routed=routed and (":" not in subnet.cidr or ra_mode is not None),
    )


def plan_port(
    port: Port, network: Network, subnets: tuple[Subnet, ...], number: int, routed: Routed = NOT_ROUTED
) -> DhcpPlan:
    """Plan what *port* is answered; *subnets* are all of its network, *number* is what stands for it.

    A network without subnets has nothing to tell.
    """
    if not subnets:
        return DhcpPlan(None)
    problems: list[Problem] = []

    def tell(field: str, error: InputError) -> None:
        text = f"port {port.name or port.id}: {error}"
        problems.append(Problem(f"port:{port.id}/dhcp", field, text, Actor.CLOUD))

    for ip in port.fixed_ips:
        for subnet in subnets:
            if subnet.server_address == ip.address:  # no writer of ours does that
                what = f"{ip.address} is also the server address of subnet {subnet.name or subnet.id}"
                tell("fixed_ips", InputError(f"{what}, which answers for it"))
    data = _port_data(port, network, subnets, routed)
    if port.dhcp_options:
        data = _with_options(data, port.dhcp_options, tell)
    identity = service_identity.identity_mac(number)
    usable: PortData | None = data
    if port.hostname or port.dhcp_options or not _is_speakable(data.domain):  # what people write is tried out
        usable = _first_usable(data, tell)
    if usable is None:
        return DhcpPlan(None, tuple(problems))
    return DhcpPlan(served({"identity": identity, "port": encode_port(usable)}), tuple(problems))


def _port_data(port: Port, network: Network, subnets: tuple[Subnet, ...], routed: Routed) -> PortData:
    places = {subnet.id: place for place, subnet in enumerate(subnets)}
    name = instance_name(port.hostname, (ip.address for ip in port.fixed_ips), network.dns_domain)
    return PortData(
        port=port.id,
        mac=port.mac,
        server_mac=service_identity.SERVER_MAC,
        hostname=name.host,
        domain=name.domain,
        mtu=min(network.mtu, _LARGEST_MTU),
        # An address whose subnet has just gone is about to go, too.
        addresses=tuple((ip.address, places[ip.subnet]) for ip in port.fixed_ips if ip.subnet in places),
        subnets=tuple(subnet_data(subnet, routed=subnet.id in routed.subnets) for subnet in subnets),
        router_mac=routed.mac,
    )


def _with_options(data: PortData, options: Pairs, tell: Callable[[str, InputError], None]) -> PortData:
    pairs6 = tuple(pair for pair in options if _is_option6(pair[0]))
    pairs4 = tuple(pair for pair in options if not _is_option6(pair[0]))
    own4 = _read(v4_options.read_options, pairs4, tell)
    own6 = _read(v6_options.read_options, pairs6, tell)
    return replace(data, options4=own4.options4, options6=own6.options6, boot=(*own4.boot, *own6.boot))


def _is_option6(name: str) -> bool:
    """Tell whether an option is for DHCPv6; tags may stand before and after what says so."""
    return any(part.strip().startswith(_OPTION6) for part in name.split(","))


def _read(read: Callable[[Pairs], _T], pairs: Pairs, tell: Callable[[str, InputError], None]) -> _T:
    """Return what *read* makes of those of *pairs* that make sense, and tell of the others."""
    try:
        return read(pairs)
    except InputError:
        good = []
        for pair in pairs:
            try:
                read((pair,))
            except InputError as err:
                tell("dhcp_options", err)
            else:
                good.append(pair)
        return read(tuple(good))


@lru_cache(maxsize=1024)
def _is_speakable(domain: str) -> bool:
    """Tell whether packets can hold a name in this domain, however long its first label is."""
    longest = PortData(port="", mac=_ANY_MAC, server_mac=_ANY_MAC, hostname="x" * 63, domain=domain)
    try:
        PortAnswers(longest, _ANY_IDENTITY)
    except InputError:
        return False
    return True


def _first_usable(data: PortData, tell: Callable[[str, InputError], None]) -> PortData | None:
    """Return *data* as far as packets can hold it, None if they cannot hold even the port's addresses."""
    plain = replace(data, options4=(), options6=(), boot=())
    tries = (
        ("", data),
        ("dhcp_options", plain),
        ("hostname", replace(plain, hostname="", domain="")),
    )
    error: InputError | None = None
    for field, candidate in tries:
        try:
            PortAnswers(candidate, _ANY_IDENTITY)
        except InputError as err:
            error = error or err
            continue
        if error is not None:
            tell(field, error)
        return candidate
    if error is not None:
        tell("fixed_ips", error)
    return None
