# SPDX-License-Identifier: Apache-2.0
"""Floating IPs and port forwardings by router: those that can be served, and why the others cannot.

An external address leads to one place only, and an instance's address has one floating IP
(Neutron refuses a second one).  Two that want the same contend: the gateway comes before
floating IPs, these before port forwardings, else the lower id has it.  What contends is
found by address, so that one more costs what it did when it was the first.

Of a distributed router answers leave from the instance's own host, under its floating IP if it
has one: no ports are forwarded to such an address.

Only addresses of the external network's subnets are served, and not that of their own
gateway: whatever a row says, nobody is led away from those outside whom all routers need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from agent.core.errors import Actor, Problem
from agent.core.model import (
    FloatingIp,
    FloatingIpId,
    NetworkId,
    PortForwarding,
    PortForwardingId,
    Router,
    RouterId,
    Subnet,
)
from agent.store.gathered import ByOwner, Index
from agent.store.gathered_routers import Place, Prefix
from agent.store.router_rows import FloatingIpRow

Changes: TypeAlias = Mapping[RouterId, tuple[Router | None, Router | None]]

_Key = TypeVar("_Key")
_Noun = TypeVar("_Noun", FloatingIp, PortForwarding)


class _Fixed(NamedTuple):
    """An address inside of a router."""

    router: RouterId
    address: str


class _Kind(Generic[_Key, _Noun]):
    """What the rows of one kind say, and what of it is served: the same mapping for a router while nothing changed."""

    def __init__(self) -> None:
        self.said: dict[_Key, _Noun] = {}
        self.of: Index[RouterId, _Key] = Index()
        self.changed: set[_Key] = set()  # to be judged anew
        self._served: dict[_Key, _Noun] = {}
        self._members: ByOwner[RouterId, _Key, _Noun] = ByOwner()

    def file(self, key: _Key, noun: _Noun | None) -> None:
        """Take over what a row says, None if there is none."""
        before = self.said.pop(key, None)
        if before is not None:
            self.of.discard(before.router, key)
        if noun is not None:
            self.said[key] = noun
            self.of.add(noun.router, key)
        self.changed.add(key)

    def serve(self, key: _Key, noun: _Noun | None) -> None:
        """Have *key* be served as *noun*, None for not at all."""
        before = self._served.pop(key, None)
        if noun is not before:
            if before is not None:
                self._members.remove(before.router, key, before)
            if noun is not None:
                self._members.put(noun.router, key, noun)
        if noun is not None:
            self._served[key] = noun

    def published(self, routers: frozenset[RouterId]) -> dict[RouterId, Mapping[_Key, _Noun]]:
        """Return what is served of *routers*, and end the round."""
        return self._members.publish(routers)


class Translations:
    """All floating IPs with a port, and all port forwardings, of the replica."""

    def __init__(self) -> None:
        self._routers: dict[RouterId, Router] = {}
        self._whole: frozenset[RouterId] = frozenset()
        self._gateways: Index[Place, RouterId] = Index()
        self._floating: _Kind[FloatingIpId, FloatingIp] = _Kind()
        self._places: dict[FloatingIpId, Place] = {}
        self._floating_at: Index[Place, FloatingIpId] = Index()
        self._floating_for: Index[_Fixed, FloatingIpId] = Index()
        self._forwardings: _Kind[PortForwardingId, PortForwarding] = _Kind()
        self._forwardings_at: Index[str, PortForwardingId] = Index()
        self._forwardings_to: Index[_Fixed, PortForwardingId] = Index()
        self._problems: dict[str, Problem] = {}
        self._subnets: dict[NetworkId, tuple[tuple[Prefix, Subnet], ...]] = {}

    def note_subnets(self, network: NetworkId, subnets: Sequence[Subnet]) -> None:
        """Take over which subnets *network* has."""
        self._subnets.pop(network, None)
        if subnets:
            self._subnets[network] = tuple((ip_network(subnet.cidr), subnet) for subnet in subnets)
        for key, router in self._routers.items():
            if router.gateway is not None and router.gateway.network == network:
                self._note_members(key)

    def file(self, before: FloatingIpRow | None, after: FloatingIpRow | None) -> None:
        """Take over what a floating IP's row says."""
        for row in (before, after):
            place = None if row is None else self._places.pop(row.id, None)
            if row is not None and place is not None:
                self._floating_at.discard(place, row.id)
                self._contend(place)
            known = None if row is None else self._floating.said.get(row.id)
            if row is not None and known is not None:
                self._floating_for.discard(_fixed(known), row.id)
                self._floating.changed |= self._floating_for.get(_fixed(known))
                self._forwardings.changed |= self._forwardings_to.get(_fixed(known))
            if row is not None:
                self._floating.file(row.id, None)
        if after is not None and after.floating is not None:
            place = Place(after.network, after.floating.address)
            self._floating.file(after.id, after.floating)
            self._places[after.id] = place
            self._floating_at.add(place, after.id)
            self._floating_for.add(_fixed(after.floating), after.id)
            self._contend(place)

    def file_forwarding(self, before: PortForwarding | None, after: PortForwarding | None) -> None:
        """Take over what a port forwarding's row says."""
        for forwarding in (before, after):
            if forwarding is not None:
                self._forwardings_at.discard(forwarding.external_address, forwarding.id)
                self._forwardings_to.discard(_target(forwarding), forwarding.id)
                self._forwardings.file(forwarding.id, None)
                rivals = self._forwardings_at.get(forwarding.external_address)
                said = self._forwardings.said
                self._forwardings.changed |= {key for key in rivals if _overlap(said[key], forwarding)}
        if after is not None:
            self._forwardings_at.add(after.external_address, after.id)
            self._forwardings_to.add(_target(after), after.id)
            self._forwardings.file(after.id, after)

    def settle(self, routers: Changes, whole: frozenset[RouterId]) -> None:
        """Judge anew what has changed, and what depends on *routers*, which have; *whole* are those that are served."""
        for key, (before, after) in routers.items():
            self._note_router(key, before, after)
        for key in whole ^ self._whole:
            self._note_members(key)
        self._whole = whole
        changed = [self._floating.said[key] for key in self._floating.changed if key in self._floating.said]
        for floating in changed:  # whoever gets its address or not may take an instance's from another
            self._floating.changed |= self._floating_for.get(_fixed(floating))
            self._forwardings.changed |= self._forwardings_to.get(_fixed(floating))
        for floating_id in self._floating.changed:
            said = self._floating.said.get(floating_id)
            wrong = self._wrong_floating(said) if said is not None and said.router in whole else None
            name = f"floating IP {said.address}" if said is not None else ""
            served = self._verdict(f"floating_ip:{floating_id}", name, said, wrong)
            self._floating.serve(floating_id, said if served else None)
        for forwarding_id in self._forwardings.changed:
            forwarding = self._forwardings.said.get(forwarding_id)
            wrong = (
                self._wrong_forwarding(forwarding) if forwarding is not None and forwarding.router in whole else None
            )
            name = f"port forwarding {forwarding_id}"
            served = self._verdict(f"port_forwarding:{forwarding_id}", name, forwarding, wrong)
            self._forwardings.serve(forwarding_id, forwarding if served else None)
        self._floating.changed.clear()
        self._forwardings.changed.clear()

    def floating_ips(self) -> dict[RouterId, Mapping[FloatingIpId, FloatingIp]]:
        """Return the floating IPs that are served, as of the last ``settle``; once after each."""
        return self._floating.published(self._whole)

    def port_forwardings(self) -> dict[RouterId, Mapping[PortForwardingId, PortForwarding]]:
        """Return the port forwardings that are served, as of the last ``settle``; once after each."""
        return self._forwardings.published(self._whole)

    def problems(self) -> Iterable[Problem]:
        """Return why some are not served, as of the last ``settle``."""
        return self._problems.values()

    def _contend(self, place: Place) -> None:
        """Have all that want the address of *place* judged anew."""
        self._floating.changed |= self._floating_at.get(place)
        self._contend_ports(place.address)

    def _contend_ports(self, address: str) -> None:
        self._forwardings.changed |= self._forwardings_at.get(address)

    def _note_router(self, key: RouterId, before: Router | None, after: Router | None) -> None:
        self._routers.pop(key, None)
        if after is not None:
            self._routers[key] = after
        old, new = _gateway_places(before), _gateway_places(after)
        if old == new and before is not None and after is not None and _told(before) == _told(after):
            return
        for place in old:
            self._gateways.discard(place, key)
        for place in new:
            self._gateways.add(place, key)
        for place in (*old, *new):
            self._contend(place)
        self._note_members(key)

    def _note_members(self, key: RouterId) -> None:
        """Have all of one router judged anew, and what contends with it."""
        self._floating.changed |= self._floating.of.get(key)
        self._forwardings.changed |= self._forwardings.of.get(key)
        for floating_id in self._floating.of.get(key):
            self._contend(self._places[floating_id])
        for forwarding_id in self._forwardings.of.get(key):
            self._contend_ports(self._forwardings.said[forwarding_id].external_address)

    def _verdict(
        self, object_id: str, name: str, noun: FloatingIp | PortForwarding | None, wrong: tuple[str, str] | None
    ) -> bool:
        """Tell whether *noun* is served, and note why not."""
        self._problems.pop(object_id, None)
        if wrong is not None:
            column, text = wrong
            self._problems[object_id] = Problem(object_id, column, f"{name}: {text}; left out", Actor.CLOUD)
        return noun is not None and noun.router in self._whole and wrong is None

    def _wrong_floating(self, floating: FloatingIp) -> tuple[str, str] | None:
        """Return column and reason if a floating IP cannot be served."""
        wrong = self._unplaced(floating)
        if wrong is not None:
            return wrong
        said = self._floating.said
        rivals = self._floating_for.get(_fixed(floating))
        first = min(key for key in rivals if self._unplaced(said[key]) is None)
        if first != floating.id:
            text = f"{floating.fixed_address} has floating IP {said[first].address} ({first}) already"
            return "fixed_ip_address", text
        return None

    def _unplaced(self, floating: FloatingIp) -> tuple[str, str] | None:
        """Return column and reason if a floating IP cannot have its address."""
        place, gateway = self._places[floating.id], self._routers[floating.router].gateway
        if gateway is None:
            return "router", f"{self._called(floating.router)} has no gateway"
        if gateway.network != place.network:
            text = f"{self._called(floating.router)} has its gateway on network {gateway.network}"
            return "floating_network", f"{text}, not on {place.network}"
        wrong = self._outside(place)
        if wrong:
            return "floating_ip_address", wrong
        if floating.mac == gateway.mac:
            text = f"{floating.mac} is that of the gateway of {self._called(floating.router)}"
            return "mac_address", text
        routers = self._gateways.get(place)
        if routers:
            return "floating_ip_address", f"{place.address} is the gateway address of {self._called(min(routers))}"
        first = self._first_floating(place)
        if first != floating.id:
            return "floating_ip_address", f"{place.address} is held by floating IP {first} already"
        return None

    def _outside(self, place: Place) -> str:
        """Return why a router cannot have an address outside, "" if it can."""
        address = ip_address(place.address)
        subnet = next((subnet for prefix, subnet in self._subnets.get(place.network, ()) if address in prefix), None)
        if subnet is None:
            return f"{place.address} is in no subnet of network {place.network}"
        if subnet.gateway == place.address:
            return f"{place.address} is the gateway of subnet {subnet.name or subnet.id} itself"
        return ""

    def _first_floating(self, place: Place) -> FloatingIpId | None:
        """Return the floating IP that has an address before all others; not of routers that only linger here."""
        said = self._floating.said
        return min((key for key in self._floating_at.get(place) if said[key].router in self._whole), default=None)

    def _wrong_forwarding(self, forwarding: PortForwarding) -> tuple[str, str] | None:
        """Return column and reason if a port forwarding cannot be served."""
        gateway = self._routers[forwarding.router].gateway
        if gateway is None:
            return "router", f"{self._called(forwarding.router)} has no gateway"
        place = Place(gateway.network, forwarding.external_address)
        wrong = self._outside(place)
        if wrong:
            return "external_ip_address", wrong
        floating = self._first_floating(place)
        if floating is not None:
            return "external_ip_address", f"{place.address} is floating IP {floating}, which stands for a whole address"
        if self._routers[forwarding.router].distributed:
            said = self._floating.said
            own = [said[key] for key in self._floating_for.get(_target(forwarding))]
            addresses = sorted(floating.address for floating in own if self._unplaced(floating) is None)
            if addresses:
                text = (
                    f"{forwarding.internal_address} has floating IP {addresses[0]}, under which all its answers leave"
                )
                return "internal_ip_address", f"{text}, because {self._called(forwarding.router)} is distributed"
        at = (self._forwardings.said[key] for key in self._forwardings_at.get(place.address))
        rivals = (other for other in at if _overlap(forwarding, other) and self._is_on(other, place.network))
        first = min(rivals, key=lambda other: other.id)
        if first is not forwarding:
            ports = f"{first.external_min}-{first.external_max} of {place.address}"
            return "external_port_min", f"ports {ports} are held by port forwarding {first.id} already"
        return None

    def _is_on(self, forwarding: PortForwarding, network: NetworkId) -> bool:
        """Tell whether a port forwarding's address is on *network*."""
        gateway = self._routers[forwarding.router].gateway if forwarding.router in self._whole else None
        return gateway is not None and gateway.network == network

    def _called(self, router: RouterId) -> str:
        return f"router {self._routers[router].name or router}"


def _told(router: Router) -> tuple[str, bool]:
    """Return what is told of a router, and what it is judged by."""
    return router.name, router.distributed


def _fixed(floating: FloatingIp) -> _Fixed:
    return _Fixed(floating.router, floating.fixed_address)


def _target(forwarding: PortForwarding) -> _Fixed:
    return _Fixed(forwarding.router, forwarding.internal_address)


def _gateway_places(router: Router | None) -> frozenset[Place]:
    if router is None or router.gateway is None:
        return frozenset()
    gateway = router.gateway
    return frozenset(Place(gateway.network, fixed.address) for fixed in gateway.fixed_ips)


def _overlap(one: PortForwarding, other: PortForwarding) -> bool:
    return (
        one.protocol == other.protocol
        and one.external_min <= other.external_max
        and other.external_min <= one.external_max
    )
