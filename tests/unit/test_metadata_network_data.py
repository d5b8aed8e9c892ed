# SPDX-License-Identifier: Apache-2.0
"""``network_data.json``: what an instance's interface is to be, by subnet and mode."""

from __future__ import annotations

import json

import pytest

from agent.core.model import FixedIp, Network, NetworkId, NetworkType, Port, PortId, Subnet, SubnetId
from agent.metadata.network_data import network_data

NETWORK = Network(NetworkId("net"), "blue", NetworkType.VXLAN, 7, None, 1450)
LINK = "tapf1d1e6d2-00"


def subnet(name: str, cidr: str, gateway: str | None, **fields) -> Subnet:
    return Subnet(SubnetId(name), name, NETWORK.id, cidr, gateway, **fields)


def told(*subnets: Subnet, addresses: tuple[tuple[str, str], ...]) -> dict:
    port = Port(
        PortId("f1d1e6d2-0000-4000-8000-000000000001"),
        "web",
        NETWORK.id,
        "fa:16:3e:00:00:01",
        tuple(FixedIp(address, SubnetId(name)) for address, name in addresses),
    )
    return json.loads(network_data(port, NETWORK, subnets))


V4 = subnet(
    "v4", "10.0.0.0/24", "10.0.0.1", dns_servers=("9.9.9.9", "1.1.1.1"), host_routes=(("10.9.0.0/16", "10.0.0.9"),)
)


def v6(**fields) -> Subnet:
    return subnet("v6", "fd00::/64", "fd00::1", dns_servers=("fd00::53",), **fields)


def test_what_dhcp_says_is_not_said_again():
    assert told(V4, addresses=(("10.0.0.5", "v4"), ("10.0.0.6", "v4"))) == {
        "links": [
            {
                "id": LINK,
                "vif_id": "f1d1e6d2-0000-4000-8000-000000000001",
                "type": "ovs",
                "mtu": 1450,
                "ethernet_mac_address": "fa:16:3e:00:00:01",
            }
        ],
        "networks": [{"id": "network0", "type": "ipv4_dhcp", "link": LINK, "network_id": "net"}],
        "services": [{"type": "dns", "address": "9.9.9.9"}, {"type": "dns", "address": "1.1.1.1"}],
    }


def test_without_dhcp_all_of_it_is_said():
    static = subnet("s", "10.0.0.0/24", "10.0.0.1", dhcp=False, dns_servers=("9.9.9.9",), host_routes=V4.host_routes)
    assert told(static, addresses=(("10.0.0.5", "s"),))["networks"] == [
        {
            "id": "network0",
            "type": "ipv4",
            "link": LINK,
            "network_id": "net",
            "ip_address": "10.0.0.5",
            "netmask": "255.255.255.0",
            "routes": [
                {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1"},
                {"network": "10.9.0.0", "netmask": "255.255.0.0", "gateway": "10.0.0.9"},
            ],
            "services": [{"type": "dns", "address": "9.9.9.9"}],
        }
    ]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"ipv6_address_mode": "slaac", "ipv6_ra_mode": "slaac"}, "ipv6_slaac"),
        ({"ipv6_address_mode": "dhcpv6-stateful"}, "ipv6_dhcpv6-stateful"),
        ({"ipv6_address_mode": "dhcpv6-stateless"}, "ipv6_dhcpv6-stateless"),
        ({}, "ipv6_dhcp"),
        ({"dhcp": False}, "ipv6"),
        ({"dhcp": False, "ipv6_address_mode": "slaac"}, "ipv6"),
        ({"ipv6_ra_mode": "slaac"}, "ipv6"),
    ],
)
def test_the_type_of_ipv6_follows_from_the_mode(fields, kind):
    found = told(v6(**fields), addresses=(("fd00::5", "v6"),))["networks"][0]

    assert found["type"] == kind
    if kind != "ipv6_dhcp":
        assert (found["ip_address"], found["netmask"]) == ("fd00::5", "ffff:ffff:ffff:ffff::")
        assert found["routes"] == [{"network": "::", "netmask": "::", "gateway": "fd00::1"}]


def test_two_families_and_two_addresses():
    static = subnet("s", "10.1.0.0/16", None, dhcp=False)
    found = told(
        V4,
        static,
        v6(ipv6_address_mode="slaac"),
        addresses=(("10.0.0.5", "v4"), ("10.1.0.7", "s"), ("10.1.0.8", "s"), ("fd00::5", "v6")),
    )

    assert [(entry["id"], entry["type"], entry.get("ip_address")) for entry in found["networks"]] == [
        ("network0", "ipv4_dhcp", None),
        ("network1", "ipv4", "10.1.0.7"),
        ("network2", "ipv4", "10.1.0.8"),
        ("network3", "ipv6_slaac", "fd00::5"),
    ]
    assert [server["address"] for server in found["services"]] == ["9.9.9.9", "1.1.1.1", "fd00::53"]


def test_subnets_that_the_port_has_no_address_of_are_not_named():
    assert told(V4, v6(), addresses=())["networks"] == []
    assert told(V4, v6(), addresses=(("10.0.0.5", "v4"),))["services"] == [
        {"type": "dns", "address": "9.9.9.9"},
        {"type": "dns", "address": "1.1.1.1"},
    ]
