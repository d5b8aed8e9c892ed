# SPDX-License-Identifier: Apache-2.0
"""Worlds with routers: what the store says of them, in a few words each.

The port of a router on a network is called ``<router>-<network>``; number N of a world's
ports of routers has the MAC address fa:16:3e:ff:00:N and, while plugged, OpenFlow number 2000 + N.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

from agent.core import naming
from agent.core.allocations import allocate
from agent.core.memo import Memo
from agent.core.model import (
    FixedIp,
    FloatingIp,
    FloatingIpId,
    HostName,
    HostSnapshot,
    NetworkId,
    PortForwarding,
    PortForwardingId,
    PortId,
    Router,
    RouterId,
    RouterInterface,
    SubnetId,
)
from agent.core.plan import Group, Plan
from agent.l3.state import GatewayState
from agent.planner import build_plan, wanted_claims
from tests.golden.l2_world import SETTINGS, World, mac, underlay

EXTERNAL_PATCH = 1010
HERE = HostName("here")


def leg_mac(number: int) -> str:
    """Return the MAC address of port number *number* of routers."""
    return f"fa:16:3e:ff:00:{number:02x}"


@dataclass
class RouterWorld(World):
    """A world whose external network is flat, on ``physnet2``."""

    routers: dict[RouterId, Router] = field(default_factory=dict)
    floating_ips: dict[RouterId, dict[FloatingIpId, FloatingIp]] = field(default_factory=dict)
    port_forwardings: dict[RouterId, dict[PortForwardingId, PortForwarding]] = field(default_factory=dict)
    gateways: GatewayState = field(default_factory=GatewayState)
    memo: Memo = field(default_factory=Memo)
    legs: int = 0

    def __post_init__(self) -> None:
        """Carry the external network here."""
        World.__post_init__(self)
        self.settings = replace(SETTINGS, bridge_mappings={"physnet1": "br-phy", "physnet2": "br-ex"})
        self.bridges.add("br-ex")
        self.ofports["hp-i-physnet2"] = EXTERNAL_PATCH

    def other_host(self, number: int, name: str, *physnets: str) -> None:
        """Add another host that has these physical networks."""
        self.host(name, underlay(number))
        mappings = {physnet: f"br-{physnet}" for physnet in physnets}
        self.hosts[HostName(name)] = replace(self.hosts[HostName(name)], bridge_mappings=mappings)

    def leg(self, router: str, network: str, *addresses: str, gateway: bool = False, plugged: bool = True) -> None:
        """Give a router an interface, or its gateway, plugged into the switch here or not."""
        self.legs += 1
        port = PortId(f"{router}-{network}")
        fixed = tuple(FixedIp(address, self._subnet(network, address)) for address in addresses)
        interface = RouterInterface(port, NetworkId(network), leg_mac(self.legs), fixed)
        if plugged:
            self.ofports[naming.router_link_names(port, gateway)[0]] = 2000 + self.legs
        known = self.routers[RouterId(router)]
        if gateway:
            self.routers[known.id] = replace(known, gateway=interface)
        else:
            self.routers[known.id] = replace(known, interfaces=(*known.interfaces, interface))

    def _subnet(self, network: str, address: str) -> SubnetId:
        subnets = self.subnets[NetworkId(network)]
        return next(subnet.id for subnet in subnets if ip_address(address) in ip_network(subnet.cidr))

    def router(self, name: str, *hosts: str, **columns: object) -> None:
        """Add a router; *hosts* may have its gateway, in this order."""
        made = Router(RouterId(name), name, gateway_hosts=tuple(map(HostName, hosts)), **columns)  # type: ignore[arg-type]
        self.routers[made.id] = made

    def change_router(self, name: str, **columns: object) -> None:
        """Replace columns of a router."""
        self.routers[RouterId(name)] = replace(self.routers[RouterId(name)], **columns)  # type: ignore[arg-type]

    def floating(self, router: str, number: int, address: str, fixed: str, network: str, host: str = "here") -> None:
        """Add floating IP *number*, for an instance of *host*; its own MAC address is fa:16:3e:ff:ff:<number>."""
        floating_id = FloatingIpId(f"f{number}")
        made = FloatingIp(
            floating_id,
            RouterId(router),
            address,
            f"fa:16:3e:ff:ff:{number:02x}",
            PortId(f"p{number}"),
            fixed,
            NetworkId(network),
            HostName(host),
        )
        self.floating_ips.setdefault(RouterId(router), {})[floating_id] = made

    def forwarding(self, router: str, number: int, external: str, internal: str, protocol: int = 6) -> None:
        """Add a port forwarding; both ends as ``ADDRESS:PORT`` or ``ADDRESS:FIRST-LAST``."""
        outer, inner = _ports(external), _ports(internal)
        forwarding_id = PortForwardingId(f"w{number}")
        made = PortForwarding(forwarding_id, RouterId(router), protocol, *outer, PortId(f"p{number}"), *inner)
        self.port_forwardings.setdefault(RouterId(router), {})[forwarding_id] = made

    def use(self, router: str, host: str | None) -> None:
        """Have the gateway of a router be on *host*, as seen from here."""
        router_id, name = RouterId(router), None if host is None else HostName(host)
        active = self.gateways.active - {router_id} | (frozenset((router_id,)) if name == HERE else frozenset())
        self.gateways = GatewayState({**self.gateways.hosts, router_id: name}, active)

    def hand_over(self, router: str, host: str, *, announced: bool = True) -> None:
        """Have the gateway of a router be passing here, while *host* is still or already to be used."""
        router_id = RouterId(router)
        one, none = frozenset((router_id,)), frozenset[RouterId]()
        hosts = {**self.gateways.hosts, router_id: HostName(host)}
        active = self.gateways.active | one
        self.gateways = GatewayState(hosts, active, passing=one, silent=none if announced else one)

    def snapshot(self) -> HostSnapshot:
        """Return the store's side."""
        return replace(
            World.snapshot(self),
            routers=dict(self.routers),
            floating_ips={router: dict(known) for router, known in self.floating_ips.items()},
            port_forwardings={router: dict(known) for router, known in self.port_forwardings.items()},
        )

    def plan(self, memo: Memo | None = None) -> Plan:
        """Plan it all."""
        return self.plan_of(self.snapshot(), memo)

    def plan_of(self, snapshot: HostSnapshot, memo: Memo | None = None) -> Plan:
        """Plan *snapshot*, with the switch and the gateways of this world."""
        claims = wanted_claims(snapshot, self.switch(), services=self.settings.services)
        self.allocations, refused = allocate(self.allocations, claims)
        assert not refused
        return build_plan(snapshot, self.allocations, self.switch(), memo or Memo(), self.settings, self.gateways)

    def group(self, object_id: str) -> Group:  # type: ignore[override]
        """Return one group of a plan."""
        return {str(key): group for key, group in self.plan().groups.items()}[object_id]

    def items(self, driver: str) -> dict[str, object]:
        """Return all items of a driver; no two groups may have the same."""
        found: dict[str, object] = {}
        for group in self.plan().groups.values():
            for key, value in group.items.get(driver, {}).items():
                assert key not in found, f"{key} of {group.object_id}"
                found[key] = value
        return found

    def flows(self) -> dict[str, str]:
        """Return all flows."""
        return {key: str(actions) for key, actions in self.items("flows").items()}


def _ports(text: str) -> tuple[str, int, int]:
    address, _, ports = text.partition(":")
    first, _, last = ports.partition("-")
    return address, int(first), int(last or first)


def edge_world(*, distributed: bool, active: str | None = "here") -> RouterWorld:
    """Return two routed networks and a gateway that *active* has; instances 1 (blue) and 2 (red) are here.

    Instances 11 (blue) and 12 (red) are on host there, which has the external network, 13 (blue) on
    beyond, which has not.  The gateway may be here or on there.  Instance 3 is on blue, too, with a
    floating IP as 1, 11 and 13 have one.
    """
    world = RouterWorld()
    world.other_host(2, "there", "physnet2")
    world.other_host(3, "beyond")
    world.network("blue", "vxlan", 5000)
    world.network("red", "vxlan", 5001)
    world.network("public", "flat", None, "physnet2")
    world.subnet("blue", "10.0.0.0/24", "10.0.0.1")
    world.subnet("blue", "fd00:1::/64", "fd00:1::1")
    world.subnet("red", "10.1.0.0/24", "10.1.0.1")
    world.subnet("public", "203.0.113.0/24", "203.0.113.1")
    world.subnet("public", "2001:db8:ff::/64", "2001:db8:ff::1")
    world.port(1, "blue", "10.0.0.11", "fd00:1::11")
    world.port(2, "red", "10.1.0.12")
    world.port(3, "blue", "10.0.0.13")
    world.endpoint(11, "blue", "there", "10.0.0.21")
    world.endpoint(12, "red", "there", "10.1.0.22")
    world.endpoint(13, "blue", "beyond", "10.0.0.23")
    world.endpoint(14, "blue", "", "10.0.0.50")
    world.router("edge", "here", "there", distributed=distributed)
    world.leg("edge", "blue", "10.0.0.1", "fd00:1::1")
    world.leg("edge", "red", "10.1.0.1")
    world.leg("edge", "public", "203.0.113.10", "2001:db8:ff::10", gateway=True)
    world.floating("edge", 1, "203.0.113.21", "10.0.0.11", "blue")
    world.floating("edge", 3, "203.0.113.23", "10.0.0.13", "blue")
    world.floating("edge", 11, "203.0.113.31", "10.0.0.21", "blue", "there")
    world.floating("edge", 13, "203.0.113.33", "10.0.0.23", "blue", "beyond")
    world.forwarding("edge", 2, "203.0.113.10:2222", "10.1.0.12:22")
    world.forwarding("edge", 12, "203.0.113.40:8000-8009", "10.1.0.22:80-89", 17)
    world.use("edge", active)
    return world


__all__ = ["RouterWorld", "edge_world", "leg_mac", "mac"]
