# SPDX-License-Identifier: Apache-2.0
"""Build snapshots and switch views for tests of layer 2, in a few words each.

Names stand for ids; the MAC address of port number N of a world is fa:16:3e:00:00:N.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

from agent.core import naming
from agent.core.allocations import Allocations, allocate
from agent.core.errors import Problem
from agent.core.memo import Memo
from agent.core.model import (
    AddressChunk,
    AddressPair,
    Direction,
    Endpoint,
    EndpointId,
    FixedIp,
    Host,
    HostName,
    HostSnapshot,
    MetadataService,
    Network,
    NetworkId,
    NetworkType,
    OwnerId,
    PluggedInterface,
    Port,
    PortId,
    SecurityGroup,
    SecurityGroupId,
    SecurityGroupRule,
    Subnet,
    SubnetId,
    SwitchView,
)
from agent.core.plan import Group
from agent.l2.planner import plan_l2
from agent.l2.settings import LocalSettings
from agent.planner import wanted_claims
from agent.service_planner import plan_services

BOTH = frozenset({NetworkType.VXLAN, NetworkType.GENEVE})
OFPORTS = {"hp-vxlan": 1001, "hp-geneve": 1002, "hp-i-physnet1": 1003}


def underlay(number: int) -> str:
    """Return the tunnel address of host *number* (this host is 1): from a range that no machine really uses."""
    return f"198.18.{number >> 8}.{number & 0xFF}"


def mac(number: int) -> str:
    """Return the MAC address of port *number*."""
    return f"fa:16:3e:00:{number >> 8:02x}:{number & 0xFF:02x}"


SETTINGS = LocalSettings(underlay(1), BOTH, {"physnet1": "br-phy"}, "dummy")
SERVING = replace(SETTINGS, services=True)
SERVICE_OFPORTS = {"hp-dhcp": 1004, "hp-meta": 1005}


@dataclass
class World:
    """What the store and the switch say; ``plan`` gives what the planner makes of it."""

    settings: LocalSettings = SETTINGS
    ofports: dict[str, int] = field(default_factory=lambda: dict(OFPORTS))
    bridges: set[str] = field(default_factory=lambda: {"br-int", "br-phy"})
    networks: dict[NetworkId, Network] = field(default_factory=dict)
    subnets: dict[NetworkId, tuple[Subnet, ...]] = field(default_factory=dict)
    ports: dict[PortId, Port] = field(default_factory=dict)
    endpoints: dict[NetworkId, dict[EndpointId, Endpoint]] = field(default_factory=dict)
    hosts: dict[HostName, Host] = field(default_factory=dict)
    interfaces: dict[PortId, PluggedInterface] = field(default_factory=dict)
    security_groups: dict[SecurityGroupId, SecurityGroup] = field(default_factory=dict)
    address_chunks: dict[OwnerId, dict[str, AddressChunk]] = field(default_factory=dict)
    metadata_service: MetadataService | None = None
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

    def subnet(self, network: str, cidr: str, gateway: str | None = None, **columns: object) -> None:
        """Add a subnet; its id is its prefix, and so the ports' addresses find it."""
        network_id = NetworkId(network)
        made = Subnet(SubnetId(cidr), cidr, network_id, cidr, gateway, **columns)  # type: ignore[arg-type]
        self.subnets[network_id] = (*self.subnets.get(network_id, ()), made)

    def port(
        self,
        number: int,
        network: str,
        *addresses: str,
        pairs: tuple[tuple[str, str], ...] = (),
        secure: bool = True,
        up: bool = True,
        plugged: bool = True,
        groups: tuple[str, ...] | None = None,
        hybrid: bool | None = None,
    ) -> None:
        """Add port *number* of this host, its endpoint, and its interface with that OpenFlow number.

        With *groups* it is filtered, and plugged hybrid unless *hybrid* says otherwise.
        """
        port_id = PortId(f"p{number}")
        fixed = tuple(FixedIp(address, self._subnet_of(network, address)) for address in addresses)
        allowed = tuple(AddressPair(cidr, pair_mac) for cidr, pair_mac in pairs)
        chosen = tuple(sorted(SecurityGroupId(group) for group in groups or ()))
        self.ports[port_id] = Port(
            port_id,
            port_id,
            NetworkId(network),
            mac(number),
            fixed,
            up,
            secure,
            allowed,
            "compute:nova",
            groups is not None,
            chosen,
        )
        self.endpoint(number, network, "here", *addresses)
        if plugged:
            in_bridge = groups is not None if hybrid is None else hybrid
            name = naming.hybrid_veth_names(port_id)[1] if in_bridge else f"tap{number}"
            self.interfaces[port_id] = PluggedInterface(name, port_id, number)

    def _subnet_of(self, network: str, address: str) -> SubnetId:
        """Return the subnet that an address is of; where a test does not care there is none."""
        for subnet in self.subnets.get(NetworkId(network), ()):
            if ip_address(address) in ip_network(subnet.cidr):
                return subnet.id
        return SubnetId("any")

    def group(self, name: str, *rules: SecurityGroupRule, **settings: bool | int) -> None:
        """Add a security group; *settings* are fields of ``SecurityGroup``."""
        group_id = SecurityGroupId(name)
        group = SecurityGroup(group_id, name, rules=tuple(sorted(rules, key=lambda rule: rule.id)))
        self.security_groups[group_id] = replace(group, **settings)  # type: ignore[arg-type]

    def members(self, owner: str, *addresses: str, chunk: str = "0") -> None:
        """Add a chunk of addresses."""
        owner_id = OwnerId(owner)
        self.address_chunks[owner_id] = {
            **self.address_chunks.get(owner_id, {}),
            chunk: AddressChunk(owner_id, chunk, frozenset(addresses)),
        }

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
            subnets=dict(self.subnets),
            ports=dict(self.ports),
            endpoints={network: dict(known) for network, known in self.endpoints.items()},
            hosts=dict(self.hosts),
            security_groups=dict(self.security_groups),
            address_chunks=dict(self.address_chunks),
            metadata_service=self.metadata_service,
        )

    def switch(self) -> SwitchView:
        """Return the switch's side."""
        return SwitchView(True, frozenset(self.bridges), dict(self.interfaces), dict(self.ofports))

    def groups(
        self, memo: Memo | None = None, *, problems_of_numbers: bool = False
    ) -> tuple[dict[str, Group], list[Problem]]:
        """Plan it all; with *problems_of_numbers* some may get no number."""
        memo = memo or Memo()
        snapshot = self.snapshot()
        claims = wanted_claims(snapshot, self.switch(), services=self.settings.services)
        self.allocations, refused = allocate(self.allocations, claims)
        assert problems_of_numbers or not refused
        memo.begin()
        answered = plan_services(snapshot, self.allocations, memo, self.settings)
        layer2 = plan_l2(snapshot, self.allocations, self.switch(), memo, self.settings, answered.services)
        memo.end()
        found = {str(object_id): group for object_id, group in layer2.groups.items()}
        return found, [*layer2.problems, *answered.problems, *refused]

    def flows(self) -> dict[str, str]:
        """Return all flows; no two groups may have the same."""
        return all_flows(self.groups()[0])

    def problems(self) -> list[Problem]:
        """Return what could not be planned."""
        return self.groups()[1]


def rule(
    name: str,
    direction: Direction = Direction.INGRESS,
    ip_version: int = 4,
    protocol: int | None = None,
    ports: tuple[int | None, int | None] = (None, None),
    prefix: str | None = None,
    owner: str | None = None,
) -> SecurityGroupRule:
    """Return a rule of a security group; *ports* are the first and the last, or ICMP type and code."""
    remote = None if owner is None else OwnerId(owner)
    return SecurityGroupRule(name, direction, ip_version, protocol, *ports, prefix, remote)


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


def filters_world() -> World:
    """Return a host with everything that can be said about filters."""
    egress = Direction.EGRESS
    world = World()
    world.network("blue", "vxlan", 5000)
    world.group(
        "web",
        rule("web-http", protocol=6, ports=(80, 80)),
        rule("web-ssh", protocol=6, ports=(22, 22), owner="office"),
        rule("web-ssh6", ip_version=6, protocol=6, ports=(22, 22), owner="office"),
        rule("web-peers", owner="web"),
        rule("web-out4", egress),
        rule("web-out6", egress, 6),
    )
    world.group("db", rule("db-sql", protocol=6, ports=(5432, 5440), owner="web"), log_dropped=True, log_rate=7)
    world.group(
        "heard",
        rule("heard-ping", protocol=1, ports=(8, 0), prefix="10.0.0.0/8"),
        rule("heard-sctp", protocol=132, ports=(7, 9)),
        rule("heard-udplite", egress, 6, 136, (7, 9), prefix="2001:db8::/32"),
        rule("heard-dccp", protocol=33, ports=(7, 7)),
        rule("heard-gre", protocol=47),
        rule("heard-ping6", ip_version=6, protocol=58, ports=(128, None), prefix="::ffff:a00:1/128"),
        log_accepted=True,
        log_rate=7000,
    )
    world.group("quick", rule("quick-dns", egress, protocol=17, ports=(53, 53)), stateful=False)
    world.members("web", "10.0.0.1", "2001:db8::1")
    world.members("office", "198.51.100.0/24", "2001:db8:f::/48", "0.0.0.0/0", "::/0", "::ffff:a00:1", "::1:2/127")
    world.port(1, "blue", "10.0.0.1", "2001:db8::1", groups=("web",))
    world.port(2, "blue", "10.0.0.2", groups=("db", "web"))
    world.port(3, "blue", "10.0.0.3", groups=("heard",), pairs=(("10.9.0.0/24", mac(9)),))
    world.port(4, "blue", "10.0.0.4", groups=("quick",))
    world.port(5, "blue", "10.0.0.5", groups=())
    world.port(6, "blue", "10.0.0.6", hybrid=True)
    world.port(7, "blue", "10.0.0.7")
    return world


SERVER6 = "2001:db8:1::ffff"


def services_world() -> World:
    """Return a host whose ports are answered: two networks with equal addresses, and all that is different.

    Ports 1, 2 of blue; 3 of green, as port 1; 4 has no port security, 5 no addresses, 6 any address, 7 is not
    served, 8 is on a network without IPv4, 9 on one without DHCP, 10 without subnets, 11 is filtered.
    """
    world = World(settings=SERVING, ofports={**OFPORTS, **SERVICE_OFPORTS})
    world.host("there", underlay(2))
    world.network("blue", "vxlan", 5000)
    world.network("green", "vlan", 100)
    world.network("six", "local")
    world.network("silent", "flat")
    world.network("bare", "local")
    for network in ("blue", "green"):
        world.subnet(network, "10.0.0.0/24", "10.0.0.254", server_address="10.0.0.253")
        modes = {"ipv6_address_mode": "dhcpv6-stateful", "ipv6_ra_mode": "dhcpv6-stateful"}
        world.subnet(network, "2001:db8:1::/64", server_address=SERVER6, **modes)
    world.subnet("six", "2001:db8:6::/64", ipv6_address_mode="slaac", ipv6_ra_mode="slaac")
    world.subnet("silent", "10.9.0.0/24", dhcp=False)
    world.group("web")
    world.port(1, "blue", "10.0.0.1", "2001:db8:1::1")
    world.port(2, "blue", "10.0.0.2", "2001:db8:1::2")
    world.port(3, "green", "10.0.0.1", "2001:db8:1::1")
    world.port(4, "blue", "10.0.0.4", "2001:db8:1::4", secure=False)
    world.port(5, "blue")
    world.port(6, "blue", "10.0.0.6", "2001:db8:1::6", pairs=(("0.0.0.0/0", mac(6)), ("::/0", mac(6))))
    world.port(7, "blue", "10.0.0.7", "2001:db8:1::7")
    world.change_port(7, device_owner="network:router_interface")
    world.port(8, "six", "2001:db8:6::8")
    world.port(9, "silent", "10.9.0.9")
    world.port(10, "bare")
    world.port(11, "blue", "10.0.0.11", "2001:db8:1::11", groups=("web",))
    world.endpoint(21, "blue", "there", "10.0.0.21", "2001:db8:1::21")
    return world
