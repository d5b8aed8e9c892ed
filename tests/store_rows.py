# SPDX-License-Identifier: Apache-2.0
"""What must hold in a store after any write, whoever wrote."""

from __future__ import annotations

import ipaddress
from collections import Counter
from itertools import combinations

from agent.store.chunks import LARGEST, address_bits
from agent.store.ipam import IPNetwork
from agent.store.writer import Writer
from agent.store.writer_view import Row, View


def assert_consistent(writer: Writer) -> None:
    """Assert that derived rows and claims say exactly what the objects say."""
    writer.read(_check)


def _check(view: View) -> None:
    ports, networks = view.rows("Port"), view.rows("Network")
    floating_ips = view.rows("Floating_IP")
    told = Counter((e.network.uuid, e.mac, tuple(sorted(e.addresses)), e.host) for e in view.rows("Endpoint"))
    wanted = Counter((p.network.uuid, p.mac_address, tuple(sorted(p.fixed_ips)), p.host) for p in ports)
    for row in floating_ips:
        assert (row.endpoint[0].addresses, row.ip_allocation[0].address) == (
            [row.floating_ip_address],
            row.floating_ip_address,
        )
        wanted[row.floating_network.uuid, row.mac_address, (row.floating_ip_address,), ""] += 1
    assert told == wanted
    claimed = Counter((claim.network.uuid, claim.address) for claim in view.rows("IP_Allocation"))
    subnets = view.rows("Subnet")
    held = Counter((p.network.uuid, address) for p in ports for address in p.fixed_ips)
    held += Counter((s.network.uuid, address) for s in subnets for address in s.server_address)
    held += Counter((row.floating_network.uuid, row.floating_ip_address) for row in floating_ips)
    assert claimed == held
    for subnet in subnets:
        _check_server(subnet)
    assert not [address for address, times in claimed.items() if times > 1]
    segments = Counter((s.type, s.physnet, s.id) for s in view.rows("Segment_Allocation"))
    have_segments = [n for n in networks if n.type != "local"]
    assert segments == Counter((n.type, *(n.physnet or [""]), *(n.segmentation_id or [0])) for n in have_segments)
    for port in ports:
        assert all(subnet is not None and subnet.network == port.network for subnet in port.fixed_ips.values())
    groups = view.rows("Security_Group")
    names = Counter((name.kind, name.name) for name in view.rows("Name"))
    named = [("network", networks), ("subnet", view.rows("Subnet")), ("port", ports)]
    named += [("router", view.rows("Router")), ("subnet_pool", view.rows("Subnet_Pool"))]
    named += [("address_scope", view.rows("Address_Scope"))]
    named += [("security_group", groups), ("address_group", view.rows("Address_Group"))]
    claims = Counter((kind, row.name) for kind, rows in named for row in rows if row.name_claim)
    claims += Counter(("default_security_group", group.project) for group in groups if group.default_claim)
    assert names == claims
    _check_members(view)
    for router in view.rows("Router"):
        _check_router(view, router)
    for row in floating_ips:
        _check_floating_ip(view, row)
    _check_forwardings(view)
    for subnet in subnets:
        pool = subnet.subnet_pool
        assert subnet.address_scope == (pool[0].address_scope if pool else [])


def _check_router(view: View, router: Row) -> None:
    """Assert that a router's row says of its networks what its ports say."""
    ports = [p for p in view.rows("Port") if p.device_id == str(router.uuid) and p.device_owner.startswith("network:r")]
    outside = [p.network for p in ports if p.device_owner == "network:router_gateway"]
    assert router.external_network == outside
    assert set(router.networks) == {port.network for port in ports}
    assert sorted(router.gateway_hosts) == list(range(len(router.gateway_hosts)))
    assert sorted(router.hosts) == sorted(router.gateway_hosts.values())
    prefixes = [ipaddress.ip_network(subnet.cidr) for port in ports for subnet in set(port.fixed_ips.values())]
    assert not [pair for pair in combinations(prefixes, 2) if pair[0].version == pair[1].version and overlap(*pair)]


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.network_address in other or other.network_address in one


def _check_floating_ip(view: View, row: Row) -> None:
    """Assert that a floating IP knows its port's host and network, and a router that leads from one to the other."""
    forwarded = [f for f in view.rows("Port_Forwarding") if f.floating_ip == [row]]
    if not row.port:
        assert (row.fixed_ip_address, row.port_network, row.host) == ([], [], "")
        assert row.router == [f.router for f in forwarded][:1]
        return
    assert not forwarded
    port, router = row.port[0], row.router[0]
    assert (row.port_network, row.host) == ([port.network.uuid], port.host)
    assert router.external_network == [row.floating_network]
    _check_reached(view, router, port, row.fixed_ip_address[0])


def _check_reached(view: View, router: Row, port: Row, address: str) -> None:
    subnet = port.fixed_ips[address]
    legs = [p for p in view.rows("Port") if p.device_id == str(router.uuid) and p.network == port.network]
    assert any(subnet in leg.fixed_ips.values() for leg in legs)


def _check_forwardings(view: View) -> None:
    """Assert that each port of an external address is forwarded to one place, through a router that has both ends."""
    taken: Counter[tuple[object, ...]] = Counter()
    for row in view.rows("Port_Forwarding"):
        address = row.external_ip_address
        outside = {a for p in view.rows("Port") if p.device_owner == "network:router_gateway" for a in p.fixed_ips}
        assert ([f.floating_ip_address for f in row.floating_ip] == [address]) or address in outside
        ports = range(row.external_port_min, row.external_port_max + 1)
        assert len(ports) == row.internal_port_max - row.internal_port_min + 1
        taken.update((row.router.uuid, row.protocol, address, port) for port in ports)
        _check_reached(view, row.router, row.port, row.internal_ip_address)
    assert not [key for key, times in taken.items() if times > 1]


def _check_server(subnet: Row) -> None:
    """Assert that a subnet answers DHCP from an address of its own, or from none if it does not answer."""
    assert [claim.address for claim in subnet.server_allocation] == subnet.server_address
    for address in subnet.server_address:
        assert subnet.enable_dhcp
        assert ":" not in subnet.cidr or subnet.ipv6_address_mode or subnet.ipv6_ra_mode
        assert ipaddress.ip_address(address) in ipaddress.ip_network(subnet.cidr)
        assert [address] != subnet.gateway_ip


def _check_members(view: View) -> None:
    """Assert that the chunks of each group hold what its ports say, each address where its hash belongs."""
    members: dict[object, Counter[str]] = {group.uuid: Counter() for group in view.rows("Security_Group")}
    for port in view.rows("Port"):
        assert port.filtered or not port.security_groups
        pairs = (ipaddress.ip_network(pair.split()[0]) for pair in port.allowed_address_pairs)
        addresses = {str(pair[0] if pair.num_addresses == 1 else pair) for pair in pairs} | set(port.fixed_ips)
        for group in port.security_groups:
            members[group.uuid].update(addresses)
    told: dict[object, Counter[str]] = {owner: Counter() for owner in members}
    for group in (*view.rows("Security_Group"), *view.rows("Address_Group")):
        bits = [chunk.chunk for chunk in group.addresses]
        assert not bits or sum(2.0 ** -len(chunk) for chunk in bits) == 1, bits  # all hashes, each once
        for chunk in group.addresses:
            assert chunk.owner == group.uuid
            assert len(chunk.addresses) <= LARGEST
            assert all(address_bits(address).startswith(chunk.chunk) for address in chunk.addresses)
            if group.uuid in told:
                told[group.uuid].update(chunk.addresses)
            else:
                assert set(chunk.addresses.values()) <= {1}
    assert told == members
    owned = sum(len(group.addresses) for table in ("Security_Group", "Address_Group") for group in view.rows(table))
    assert owned == len(view.rows("Address_Chunk"))
