# SPDX-License-Identifier: Apache-2.0
"""What must hold in a store after any write, whoever wrote."""

from __future__ import annotations

import ipaddress
from collections import Counter

from agent.store.chunks import LARGEST, address_bits
from agent.store.writer import Writer
from agent.store.writer_view import Row, View


def assert_consistent(writer: Writer) -> None:
    """Assert that derived rows and claims say exactly what the objects say."""
    writer.read(_check)


def _check(view: View) -> None:
    ports, networks = view.rows("Port"), view.rows("Network")
    told = Counter((e.network.uuid, e.mac, tuple(sorted(e.addresses)), e.host) for e in view.rows("Endpoint"))
    assert told == Counter((p.network.uuid, p.mac_address, tuple(sorted(p.fixed_ips)), p.host) for p in ports)
    claimed = Counter((claim.network.uuid, claim.address) for claim in view.rows("IP_Allocation"))
    subnets = view.rows("Subnet")
    held = Counter((p.network.uuid, address) for p in ports for address in p.fixed_ips)
    held += Counter((s.network.uuid, address) for s in subnets for address in s.server_address)
    assert claimed == held
    for subnet in subnets:
        _check_server(subnet)
    assert not [address for address, times in claimed.items() if times > 1]
    segments = Counter((s.type, s.physnet, s.id) for s in view.rows("Segment_Allocation"))
    wanted = [n for n in networks if n.type != "local"]
    assert segments == Counter((n.type, *(n.physnet or [""]), *(n.segmentation_id or [0])) for n in wanted)
    for port in ports:
        assert all(subnet is not None and subnet.network == port.network for subnet in port.fixed_ips.values())
    groups = view.rows("Security_Group")
    names = Counter((name.kind, name.name) for name in view.rows("Name"))
    named = [("network", networks), ("subnet", view.rows("Subnet")), ("port", ports)]
    named += [("security_group", groups), ("address_group", view.rows("Address_Group"))]
    claims = Counter((kind, row.name) for kind, rows in named for row in rows if row.name_claim)
    claims += Counter(("default_security_group", group.project) for group in groups if group.default_claim)
    assert names == claims
    _check_members(view)


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
