# SPDX-License-Identifier: Apache-2.0
"""Routers put together from their own rows, those of their ports, and the subnets that these are of.

Only a router of which something changed is put together anew.  What does not fit (an
address outside its subnet, two interfaces on overlapping subnets, a next hop that nothing
leads to) is left out and told as a problem of the router; the rest of it works.  Of routers
that want one address on a network, the one with the lower id has it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from agent.core.errors import Actor, Problem
from agent.core.model import FixedIp, HostName, NetworkId, PortId, Router, RouterId, RouterInterface, Subnet, SubnetId
from agent.store.gathered import Index
from agent.store.router_rows import RouterPort, RouterRow

Subnets: TypeAlias = Mapping[NetworkId, tuple[Subnet, ...]]
Prefix: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Place(NamedTuple):
    """An address on a network."""

    network: NetworkId
    address: str


class RouterNeeds(NamedTuple):
    """Which routers a host must know: ``whole`` with everything, the others to send to their gateways.

    ``networks`` are those of the interfaces and gateways of ``whole``; ``inner`` of the interfaces only.
    """

    known: frozenset[RouterId] = frozenset()
    whole: frozenset[RouterId] = frozenset()
    networks: frozenset[NetworkId] = frozenset()
    inner: frozenset[NetworkId] = frozenset()


class Routers:
    """All routers of the replica.  ``settle`` puts together what has changed."""

    def __init__(self, host: HostName) -> None:
        self._host = host
        self._rows: dict[RouterId, RouterRow] = {}
        self._ports: dict[RouterId, dict[PortId, RouterPort]] = {}
        self._on: dict[NetworkId, set[RouterId]] = {}  # networks of interfaces and gateways
        self._at: Index[Place, RouterPort] = Index()
        self._changed: set[RouterId] = set()
        self._whole: frozenset[RouterId] = frozenset()
        self._routers: dict[RouterId, Router] = {}
        self._problems: dict[RouterId, tuple[Problem, ...]] = {}

    def file(self, before: RouterRow | None, after: RouterRow | None) -> None:
        """Take over what a router's row says."""
        for row in (before, after):
            if row is not None:
                self._rows.pop(row.id, None)
                self._changed.add(row.id)
        for network in _networks(before) - _networks(after):
            self._on[network].discard(before.id if before is not None else RouterId(""))
            if not self._on[network]:
                del self._on[network]
        if after is not None:
            self._rows[after.id] = after
            for network in _networks(after):
                self._on.setdefault(network, set()).add(after.id)
        for row in (before, after):
            if row is not None:
                self._contend(self._ports.get(row.id, {}).values())

    def file_port(self, before: RouterPort | None, after: RouterPort | None) -> None:
        """Take over what the row of a router's port says."""
        if before is not None:
            ports = self._ports[before.router]
            del ports[before.interface.port]
            if not ports:
                del self._ports[before.router]
            self._changed.add(before.router)
            self._contend((before,))
            for place in _places(before):
                self._at.discard(place, before)
        if after is not None:
            self._ports.setdefault(after.router, {})[after.interface.port] = after
            self._changed.add(after.router)
            for place in _places(after):
                self._at.add(place, after)
            self._contend((after,))

    def _contend(self, ports: Iterable[RouterPort]) -> None:
        """Have all routers put together anew that want an address of one of *ports*."""
        for port in ports:
            for place in _places(port):
                self._changed |= {other.router for other in self._at.get(place)}

    def _holder(self, place: Place) -> RouterRow | None:
        """Return the router that has an address, of those that are here as a whole."""
        wanting = (port for port in self._at.get(place) if port.admin_state_up and port.router in self._whole)
        ids = {port.router for port in wanting if place.network in _networks(self._rows.get(port.router))}
        return self._rows[min(ids)] if ids else None

    def note_subnets(self, network: NetworkId) -> None:
        """Note that the subnets of *network* are others."""
        self._changed |= self._on.get(network, set())

    def needs(self, own: frozenset[NetworkId], physical: frozenset[NetworkId]) -> RouterNeeds:
        """Return what a host with ports on the networks *own*, of which some are *physical*, must know.

        A router that only leads out into a physical network is found there without help.  A
        router that a whole one shares a network with may be the next hop of a route.
        """
        near = {router for network in own for router in self._on.get(network, ())}
        near = {router for router in near if own & self._reached(self._rows[router], physical)}
        whole = {row.id for row in self._rows.values() if self._host in row.head.gateway_hosts}
        whole |= {router for router in near if self._lives_with_ports(self._rows[router], own)}
        rows = [self._rows[router] for router in whole]
        inner = frozenset(network for row in rows for network in row.networks)
        beside = {router for network in inner for router in self._on[network] if network in self._rows[router].networks}
        return RouterNeeds(
            known=frozenset(near | whole | beside),
            whole=frozenset(whole),
            networks=inner.union(row.external_network for row in rows if row.external_network is not None),
            inner=inner,
        )

    @staticmethod
    def _reached(row: RouterRow, physical: frozenset[NetworkId]) -> frozenset[NetworkId]:
        """Return the networks from which frames to the router have to be told their way."""
        outer = row.external_network
        return row.networks if outer is None or outer in physical else row.networks | {outer}

    @staticmethod
    def _lives_with_ports(row: RouterRow, own: frozenset[NetworkId]) -> bool:
        """Tell whether the router may live on a host because of the host's ports on the networks *own*."""
        return bool(own & row.networks) and (row.head.distributed or not row.head.gateway_hosts)

    def settle(self, needs: RouterNeeds, subnets: Subnets) -> dict[RouterId, tuple[Router | None, Router | None]]:
        """Put together what has changed; return those that are other objects now, each with what it was and is."""
        for router in needs.whole ^ self._whole:
            self._contend(self._ports.get(router, {}).values())
        changed = {router for router in self._changed if router in needs.known or router in self._routers}
        changed |= (needs.whole ^ self._whole) | (needs.known ^ self._routers.keys())
        self._changed.clear()
        self._whole = needs.whole
        differing = {}
        for key in changed:
            before, after = self._routers.pop(key, None), None
            self._problems.pop(key, None)
            row = self._rows.get(key)
            if row is not None and key in needs.known:
                made = _Making(row, self._ports.get(key, {}), subnets if key in needs.whole else None, self._holder)
                after = _kept(made.router(), before)
                self._routers[key] = after
                if made.problems:
                    self._problems[key] = tuple(made.problems)
            if after is not before:
                differing[key] = (before, after)
        return differing

    def chosen(self) -> dict[RouterId, Router]:
        """Return the routers that are needed, as of the last ``settle``, by id."""
        return dict(self._routers)

    def problems(self) -> Iterator[Problem]:
        """Yield what was left out, as of the last ``settle``."""
        for problems in self._problems.values():
            yield from problems

    def text(self, router: str) -> str:
        """Return how people call a router."""
        row = self._rows.get(RouterId(router))
        return f"router {router if row is None else row.name or router}"


def _networks(row: RouterRow | None) -> frozenset[NetworkId]:
    if row is None:
        return frozenset()
    return row.networks if row.external_network is None else row.networks | {row.external_network}


def _kept(new: Router, old: Router | None) -> Router:
    """Return *old*, or its interfaces, where they say the same."""
    if old is None or new == old:
        return old or new
    before = {interface.port: interface for interface in old.interfaces}
    interfaces = (before[i.port] if before.get(i.port) == i else i for i in new.interfaces)
    return replace(
        new, gateway=old.gateway if new.gateway == old.gateway else new.gateway, interfaces=tuple(interfaces)
    )


def _places(port: RouterPort) -> list[Place]:
    return [Place(port.interface.network, fixed.address) for fixed in port.interface.fixed_ips]


class _Taken(NamedTuple):
    """A subnet that a port of the router is on."""

    prefix: Prefix
    port: PortId
    subnet: Subnet


@dataclass(slots=True)
class _Making:
    """One router on its way; *holder* tells which router has an address.

    *subnets* is None if the host does not know them all: then nothing is compared with them.
    """

    row: RouterRow
    ports: Mapping[PortId, RouterPort]
    subnets: Subnets | None
    holder: Callable[[Place], RouterRow | None]
    problems: list[Problem] = field(default_factory=list)
    taken: list[_Taken] = field(default_factory=list)
    addresses: set[str] = field(default_factory=set)

    def router(self) -> Router:
        """Return the router, and note what is left out of it."""
        gateway = self._gateway()  # first: what leads out of the router serves all of its networks
        inner = sorted((port for port in self.ports.values() if not port.is_gateway), key=lambda p: p.interface.port)
        found = (self._interface(port, "interfaces") for port in inner if port.admin_state_up)
        interfaces = tuple(interface for interface in found if interface is not None)
        routes = tuple(route for route in self.row.head.routes if self._leads_somewhere(*route))
        return replace(self.row.head, gateway=gateway, interfaces=interfaces, routes=routes)

    def _gateway(self) -> RouterInterface | None:
        wanted = self.row.external_network
        ports = sorted((port for port in self.ports.values() if port.is_gateway), key=lambda p: p.interface.port)
        fitting = [port for port in ports if port.interface.network == wanted]
        for port in ports:
            if port.interface.network != wanted:
                where = "without an external network" if wanted is None else f"whose external network is {wanted}"
                text = f"gateway {_called(port)} is on network {port.interface.network} of a router {where}; left out"
                self._problem("external_network", text)
        for port in fitting[1:]:
            self._problem("external_network", f"gateway {_called(port)} is a second one; left out")
        if wanted is not None and not fitting:
            self._problem("external_network", f"has no gateway port on its external network {wanted}")
        if not fitting or not fitting[0].admin_state_up:
            return None
        return self._interface(fitting[0], "external_fixed_ips")

    def _interface(self, port: RouterPort, column: str) -> RouterInterface | None:
        """Return a port with those of its addresses that make sense; None if none does."""
        interface, what = port.interface, "gateway" if port.is_gateway else "interface"
        if not port.is_gateway and interface.network not in self.row.networks:
            text = f"{what} {_called(port)} is on network {interface.network}, which is not among its networks"
            self._problem("networks", f"{text}; left out")
            return None
        if not interface.fixed_ips:
            self._problem(column, f"{what} {_called(port)} has no address; left out")
        kept = []
        for fixed in interface.fixed_ips:
            wrong = self._wrong(interface, fixed, is_gateway=port.is_gateway)
            if wrong:
                self._problem(column, f"{what} {_called(port)}: {wrong}; left out")
            else:
                kept.append(fixed)
                self.addresses.add(fixed.address)
        if not kept:
            return None
        return interface if len(kept) == len(interface.fixed_ips) else replace(interface, fixed_ips=tuple(kept))

    def _wrong(self, interface: RouterInterface, fixed: FixedIp, *, is_gateway: bool) -> str:
        """Return why the router cannot have an address, "" if it can; and take its subnet."""
        if self.subnets is None:
            return ""
        subnet = _find(self.subnets.get(interface.network, ()), fixed.subnet)
        if subnet is None:
            return f"subnet {fixed.subnet} of {fixed.address} is not there, or cannot be read"
        prefix = ipaddress.ip_network(subnet.cidr)
        if ipaddress.ip_address(fixed.address) not in prefix:
            return f"{fixed.address} is not in subnet {_subnet(subnet)}"
        if is_gateway and fixed.address == subnet.gateway:
            return f"{fixed.address} is the gateway of subnet {_subnet(subnet)} itself"
        holder = self.holder(Place(interface.network, fixed.address))
        if holder is not None and holder.id != self.row.id:
            return f"{fixed.address} is an address of router {holder.name or holder.id} already"
        for taken in self.taken:
            same = taken.port == interface.port and taken.subnet is subnet
            if not same and taken.prefix.overlaps(prefix):
                return f"{fixed.address} in subnet {_subnet(subnet)} overlaps with subnet {_subnet(taken.subnet)}"
        self.taken.append(_Taken(prefix, interface.port, subnet))
        return ""

    def _leads_somewhere(self, destination: str, nexthop: str) -> bool:
        if self.subnets is None:
            return True
        hop = ipaddress.ip_address(nexthop)
        if any(destination == str(taken.prefix) for taken in self.taken):
            wrong = "that is a subnet of the router"
        elif nexthop in self.addresses:
            wrong = f"next hop {nexthop} is the router's own address"
        elif not any(hop in taken.prefix for taken in self.taken):
            wrong = f"next hop {nexthop} is in no subnet of the router"
        else:
            return True
        self._problem("routes", f"route to {destination}: {wrong}; left out")
        return False

    def _problem(self, column: str, text: str) -> None:
        name = f"router {self.row.name or self.row.id}"
        self.problems.append(Problem(f"router:{self.row.id}", column, f"{name}: {text}", Actor.CLOUD))


def _called(port: RouterPort) -> str:
    return port.name or port.interface.port


def _subnet(subnet: Subnet) -> str:
    return f"{subnet.name or subnet.id} ({subnet.cidr})"


def _find(subnets: Iterable[Subnet], wanted: SubnetId) -> Subnet | None:
    return next((subnet for subnet in subnets if subnet.id == wanted), None)
