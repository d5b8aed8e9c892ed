# SPDX-License-Identifier: Apache-2.0
"""Build snapshots and switch views for tests of layer 2, in a few words each.

Names stand for ids; the MAC address of port number N of a world is fa:16:3e:00:00:N.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from agent.core.allocations import Allocations, allocate
from agent.core.errors import Problem
from agent.core.memo import Memo
from agent.core.model import (
    AddressPair,
    Endpoint,
    EndpointId,
    FixedIp,
    Host,
    HostName,
    HostSnapshot,
    Network,
    NetworkId,
    NetworkType,
    PluggedInterface,
    Port,
    PortId,
    SubnetId,
    SwitchView,
)
from agent.core.plan import Group
from agent.l2.planner import plan_l2, wanted_claims
from agent.l2.settings import LocalSettings

BOTH = frozenset({NetworkType.VXLAN, NetworkType.GENEVE})
OFPORTS = {"hp-vxlan": 1001, "hp-geneve": 1002, "hp-i-physnet1": 1003}


def underlay(number: int) -> str:
    """Return the tunnel address of host *number* (this host is 1): from a range that no machine really uses."""
    return f"198.18.{number >> 8}.{number & 0xFF}"


def mac(number: int) -> str:
    """Return the MAC address of port *number*."""
    return f"fa:16:3e:00:{number >> 8:02x}:{number & 0xFF:02x}"


SETTINGS = LocalSettings(underlay(1), BOTH, {"physnet1": "br-phy"}, "dummy")


@dataclass
class World:
    """What the store and the switch say; ``plan`` gives what the planner makes of it."""

    settings: LocalSettings = SETTINGS
    ofports: dict[str, int] = field(default_factory=lambda: dict(OFPORTS))
    bridges: set[str] = field(default_factory=lambda: {"br-int", "br-phy"})
    networks: dict[NetworkId, Network] = field(default_factory=dict)
    ports: dict[PortId, Port] = field(default_factory=dict)
    endpoints: dict[NetworkId, dict[EndpointId, Endpoint]] = field(default_factory=dict)
    hosts: dict[HostName, Host] = field(default_factory=dict)
    interfaces: dict[PortId, PluggedInterface] = field(default_factory=dict)
    allocations: Allocations = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.host("here", underlay(1))

    def host(self, name: str, address: str | None, kinds: frozenset[NetworkType] = BOTH) -> None:
        """Add a host."""
        self.hosts[HostName(name)] = Host(HostName(name), address, kinds)

    def network(
        self, name: str, kind: str = "vxlan", segment: int | None = None, physnet: str | None = None, up: bool = True
    ) -> None:
        """Add a network; a physical one is on physnet1 unless *physnet* says otherwise."""
        type_ = NetworkType(kind)
        if type_.is_physical and physnet is None:
            physnet = "physnet1"
        network_id = NetworkId(name)
        self.networks[network_id] = Network(network_id, name, type_, segment, physnet, 1450, up)
        self.endpoints.setdefault(network_id, {})

    def port(
        self,
        number: int,
        network: str,
        *addresses: str,
        pairs: tuple[tuple[str, str], ...] = (),
        secure: bool = True,
        up: bool = True,
        plugged: bool = True,
    ) -> None:
        """Add port *number* of this host, its endpoint, and its interface with that OpenFlow number."""
        port_id = PortId(f"p{number}")
        fixed = tuple(FixedIp(address, SubnetId("any")) for address in addresses)
        allowed = tuple(AddressPair(cidr, pair_mac) for cidr, pair_mac in pairs)
        self.ports[port_id] = Port(
            port_id, port_id, NetworkId(network), mac(number), fixed, up, secure, allowed, "compute:nova"
        )
        self.endpoint(number, network, "here", *addresses)
        if plugged:
            self.interfaces[port_id] = PluggedInterface(f"tap{number}", port_id, number)

    def endpoint(self, number: int, network: str, host: str, *addresses: str) -> None:
        """Add what is known of port *number* of another host."""
        endpoint_id = EndpointId(f"e{number}")
        network_id = NetworkId(network)
        self.endpoints.setdefault(network_id, {})[endpoint_id] = Endpoint(
            endpoint_id, network_id, mac(number), addresses, HostName(host)
        )

    def change_port(self, number: int, **changes: object) -> None:
        """Replace columns of a port."""
        port_id = PortId(f"p{number}")
        self.ports[port_id] = replace(self.ports[port_id], **changes)  # type: ignore[arg-type]

    def snapshot(self) -> HostSnapshot:
        """Return the store's side."""
        return HostSnapshot(
            host=HostName("here"),
            generation="g",
            revision=1,
            in_sync=True,
            networks=dict(self.networks),
            ports=dict(self.ports),
            endpoints={network: dict(known) for network, known in self.endpoints.items()},
            hosts=dict(self.hosts),
        )

    def switch(self) -> SwitchView:
        """Return the switch's side."""
        return SwitchView(True, frozenset(self.bridges), dict(self.interfaces), dict(self.ofports))

    def groups(self, memo: Memo | None = None) -> tuple[dict[str, Group], list[Problem]]:
        """Plan it all."""
        memo = memo or Memo()
        snapshot = self.snapshot()
        self.allocations, problems = allocate(self.allocations, wanted_claims(snapshot))
        assert not problems
        memo.begin()
        groups, problems = plan_l2(snapshot, self.allocations, self.switch(), memo, self.settings)
        memo.end()
        return {str(object_id): group for object_id, group in groups.items()}, problems

    def flows(self) -> dict[str, str]:
        """Return all flows; no two groups may have the same."""
        return all_flows(self.groups()[0])

    def problems(self) -> list[Problem]:
        """Return what could not be planned."""
        return self.groups()[1]


def all_flows(groups: dict[str, Group]) -> dict[str, str]:
    """Return the flows of all groups together; no two groups may have the same."""
    flows: dict[str, str] = {}
    for group in groups.values():
        own = group.items.get("flows", {})
        assert not flows.keys() & own.keys(), group.object_id
        flows.update((key, str(value)) for key, value in own.items())
    return flows


def example_world() -> World:
    """Return a host with one of everything that the planners can say something about."""
    world = World()
    world.host("there", underlay(2))
    world.host("beyond", underlay(3))
    world.network("blue", "vxlan", 5000)
    world.network("green", "geneve", 6000)
    world.network("lan", "vlan", 100)
    world.network("wire", "flat")
    world.network("alone", "local")
    world.network("down", "vxlan", 5001, up=False)
    world.port(1, "blue", "10.0.0.1", "2001:db8::1")
    world.port(2, "blue", "10.0.0.2", "2001:db8::2")
    world.port(3, "green", "10.0.0.1", "2001:db8::1")
    world.port(4, "lan", "10.1.0.4", "2001:db8:1::4")
    world.port(5, "wire", "10.2.0.5", "2001:db8:2::5")
    world.port(6, "alone", "10.3.0.6", "fd00::6")
    world.port(7, "blue", secure=False)
    world.port(8, "blue")
    vrrp = "00:00:5e:00:01:05"
    pairs = (
        ("10.0.0.200/32", mac(9)),
        ("10.0.0.201/32", vrrp),
        ("10.9.0.0/16", mac(9)),
        ("2001:db8::200/128", mac(9)),
        ("2001:db8:9::/64", vrrp),
    )
    world.port(9, "blue", "10.0.0.9", pairs=pairs)
    world.port(10, "blue", "10.0.0.10", up=False)
    world.port(11, "down", "10.4.0.11")
    world.port(12, "blue", "10.0.0.12", plugged=False)
    world.port(13, "lan", "10.1.0.13", pairs=(("0.0.0.0/0", mac(13)), ("::/0", mac(13))))
    world.port(14, "lan", "10.1.0.14", "::ffff:a00:1", secure=False)
    odd = ("::/1", "::ffff:0:0/96", "::1:2/128", "128.0.0.0/1", "::ffff:a00:2/128")
    world.port(15, "alone", "10.3.0.15", "::2:3", pairs=tuple((cidr, mac(15)) for cidr in odd))
    world.endpoint(21, "blue", "there", "10.0.0.21", "2001:db8::21")
    world.endpoint(22, "blue", "beyond", "10.0.0.22", "2001:db8:0:1:1:1:1:1")
    world.endpoint(23, "blue", "", "10.0.0.23")
    world.endpoint(24, "lan", "there", "10.1.0.24", "2001:db8:1::24")
    world.endpoint(25, "green", "there", "10.0.0.25")
    return world
