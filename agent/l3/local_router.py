# SPDX-License-Identifier: Apache-2.0
"""A router as this host has it: what all its groups are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from agent.core import naming
from agent.core.model import Host, HostName, NetworkType, Router, RouterInterface, Subnet
from agent.core.plan import ItemRef, ObjectId
from agent.l2.segments import Segment
from agent.l3.places import Place

SCOPES = 255  # address scopes that one router can tell apart


@dataclass(frozen=True, slots=True)
class LegAddress:
    """An address of a leg and the subnet that it is of."""

    address: str
    subnet: Subnet

    @property
    def is_ipv6(self) -> bool:
        """Whether it is an IPv6 address."""
        return ":" in self.address

    @property
    def with_length(self) -> str:
        """The address with the length of its subnet's prefix."""
        return f"{self.address}/{self.subnet.cidr.partition('/')[2]}"


@dataclass(frozen=True, slots=True, eq=False)
class Leg:
    """A port of a router on a network that this host carries.

    ``ofport`` is None while the switch's end has no OpenFlow number, and always where the
    router itself is not.
    """

    interface: RouterInterface
    segment: Segment
    is_gateway: bool
    ofport: int | None
    addresses: tuple[LegAddress, ...]

    @property
    def mac(self) -> str:
        """The router's MAC address on the network, the same on all hosts."""
        return self.interface.mac

    @property
    def outer(self) -> str:
        """The device that is a port of the integration bridge."""
        return naming.router_link_names(self.interface.port, self.is_gateway)[0]

    @property
    def device(self) -> str:
        """The device in the router's namespace."""
        return naming.router_link_names(self.interface.port, self.is_gateway)[1]

    def has_family(self, *, ipv6: bool) -> bool:
        """Tell whether it has addresses of a family."""
        return any(address.is_ipv6 is ipv6 for address in self.addresses)

    def scope(self, *, ipv6: bool) -> str:
        """Return the address scope of its subnets of a family: Neutron has them agree, "" is none."""
        return next((a.subnet.address_scope for a in self.addresses if a.is_ipv6 is ipv6), "")


@dataclass(frozen=True, slots=True)
class Away:
    """The host where the active gateway of a router is; ``host`` is None if no tunnel leads there."""

    name: HostName
    host: Host | None


@dataclass(frozen=True, slots=True, eq=False)
class LocalRouter:
    """A router on this host; ``place`` says what of it is here.

    ``legs`` are its interfaces on networks that are carried here, ``gateway`` its port on
    the external network, None where there is none here.  ``own`` is this host.
    ``active``: what leaves the router leaves from here.  ``away`` is where it leaves from
    if others have it; None if there is no such host.  ``passing``: it moves here or away, and
    sends under another MAC address.  ``speaking``: the addresses that go with it are announced here.
    """

    place: Place
    own: HostName
    legs: tuple[Leg, ...]
    gateway: Leg | None
    active: bool
    away: Away | None
    passing: bool
    speaking: bool

    @property
    def router(self) -> Router:
        """The router as the store has it."""
        return self.place.router

    @property
    def object_id(self) -> ObjectId:
        """The id of the router's own group; those of its parts begin with it."""
        return ObjectId(f"router:{self.router.id}")

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return naming.router_namespace(self.router.id)

    @property
    def serves(self) -> bool:
        """Whether its interfaces speak here: those of a distributed router do on every host that has it."""
        return self.place.resident and (self.active or self.place.everywhere)

    @property
    def has_addresses(self) -> bool:
        """Whether the gateway's addresses are here, those that are with it, and the rules that translate them.

        A standby of a distributed router has none of them: it takes what other hosts send
        from them to its own instances' floating IPs, and answers (RFC 1812, section 5.3.7:
        nobody takes packets from its own addresses).
        """
        return self.place.gateway_host and (self.active or not self.place.everywhere)

    def passing_mac(self, leg: Leg) -> str | None:
        """Return what a leg sends under while the router's MAC address is for others, None if it may use that.

        Only on physical networks, where switches learn places.  Nobody learns an address
        from it: ARP and neighbor discovery go on naming the router's.
        """
        shared = leg.is_gateway or not self.place.everywhere
        if not self.passing or not shared or not leg.segment.network.type.is_physical:
            return None
        return naming.host_mac(self.own, leg.interface.port)

    def is_for_others(self, leg: Leg) -> bool:
        """Tell whether a leg that works here is only for what other hosts send: instances here use another host's."""
        local_only = leg.segment.network.type is NetworkType.LOCAL
        return self.active and self.away is not None and not self.place.everywhere and not local_only

    @property
    def passes_back(self) -> HostName | None:
        """The host that still gets the IPv4 that comes from outside: it knows the connections."""
        return self.away.name if self.away is not None and self.speaking else None

    def translates_like(self, other: LocalRouter) -> bool:
        """Tell whether floating IPs and port forwardings are planned alike for both: it is the same router here.

        A gateway that is handed over changes three times what it does with its own MAC address.
        """
        same = self.place is other.place and self.legs == other.legs and self.gateway is other.gateway
        own_mac = self.place.everywhere
        return same and self.active is other.active and (not own_mac or self.passing is other.passing)

    @property
    def outside_leg(self) -> Leg | None:
        """The gateway's leg, None where the router has none in its namespace here."""
        return self.gateway if self.place.outside else None

    @property
    def netns(self) -> ItemRef:
        """Its namespace as something to require."""
        return ItemRef("netns", self.namespace)

    def item(self, what: str, *words: str) -> str:
        """Return a key of driver ``routes`` in its namespace."""
        return " ".join((self.namespace, what, *words))

    def device_ref(self, leg: Leg) -> ItemRef:
        """Return a leg's inner device as something to require."""
        return ItemRef("links", f"{self.namespace}/{leg.device}")

    def prefixes(self, *, ipv6: bool) -> tuple[str, ...]:
        """Return the prefixes of its interfaces' subnets."""
        found = {a.subnet.cidr for leg in self.legs for a in leg.addresses if a.is_ipv6 is ipv6}
        return tuple(sorted(found))

    def scopes(self, *, ipv6: bool) -> Mapping[str, int]:
        """Return a number for each address scope of a family, empty if all its legs are of one.

        Legs without a scope are together in one of their own.
        """
        legs = [*self.legs, *((self.gateway,) if self.gateway is not None else ())]
        names = sorted({leg.scope(ipv6=ipv6) for leg in legs if leg.has_family(ipv6=ipv6)})
        return {name: number for number, name in enumerate(names, 1)} if names not in ([], [""]) else {}


def leg_addresses(interface: RouterInterface, subnets: Iterable[Subnet]) -> tuple[LegAddress, ...]:
    """Return the addresses of an interface that are of one of *subnets*, sorted."""
    known = {subnet.id: subnet for subnet in subnets}
    found = (LegAddress(ip.address, known[ip.subnet]) for ip in interface.fixed_ips if ip.subnet in known)
    return tuple(sorted(found, key=lambda address: (address.is_ipv6, address.address)))


def leg_towards(legs: tuple[Leg, ...], address: str) -> Leg | None:
    """Return the leg on whose subnets *address* is, None if it is on none of them."""
    target = ip_address(address)
    for leg in legs:
        for own in leg.addresses:
            if own.is_ipv6 is (target.version == 6) and target in ip_network(own.subnet.cidr):
                return leg
    return None
