# SPDX-License-Identifier: Apache-2.0
"""What the responder is told of a port, and what a mistake in the store takes from it."""

import json
from dataclasses import replace

import pytest

from agent.core.errors import Actor
from agent.core.model import FixedIp, Network, NetworkId, NetworkType, Port, PortId, Subnet, SubnetId
from agent.core.service_identity import identity_mac
from agent.dhcp.data import PortData, SubnetData, decode_port
from agent.dhcp.planner import Protocols, plan_port, protocols

NETWORK = Network(NetworkId("n"), "blue", NetworkType.VXLAN, 5, None, 1450, dns_domain="example.org.")
SUBNET4 = Subnet(
    SubnetId("s4"),
    "four",
    NETWORK.id,
    "10.0.0.0/24",
    "10.0.0.1",
    server_address="10.0.0.254",
    dns_servers=("192.0.2.2", "192.0.2.1"),
    host_routes=(("192.0.2.0/24", "10.0.0.9"),),
)
SUBNET6 = Subnet(SubnetId("s6"), "six", NETWORK.id, "2001:db8::/64", None, "slaac", "slaac")
SUBNETS = (SUBNET4, SUBNET6)
ADDRESSES = (FixedIp("2001:db8::5", SUBNET6.id), FixedIp("10.0.0.5", SUBNET4.id))
PORT = Port(PortId("p"), "vm1", NETWORK.id, "fa:16:3e:00:00:01", ADDRESSES)


def told(port=PORT, network=NETWORK, subnets=SUBNETS) -> PortData:
    """Return what the responder gets, as it reads it."""
    plan = plan_port(port, network, subnets, 300)
    assert plan.served is not None
    assert plan.problems == ()
    value = json.loads(plan.served.data)
    assert value["identity"] == identity_mac(300) == "02:48:50:01:01:2c"
    return decode_port(value["port"])


def test_what_the_store_knows_is_told():
    data = told()
    assert (data.port, data.mac, data.mtu) == ("p", PORT.mac, 1450)
    assert data.addresses == (("2001:db8::5", 1), ("10.0.0.5", 0))
    assert data.subnets[0] == SubnetData(
        "10.0.0.0/24",
        "10.0.0.1",
        "10.0.0.254",
        dns=("192.0.2.2", "192.0.2.1"),
        routes=(("192.0.2.0/24", "10.0.0.9"),),
    )
    assert (data.subnets[1].address_mode, data.subnets[1].ra_mode) == ("slaac", "slaac")


@pytest.mark.parametrize(
    ("changes", "name", "domain"),
    [
        ({}, "host-10-0-0-5", "example.org"),
        ({"hostname": "web"}, "web", "example.org"),
        ({"hostname": "web.example.net."}, "web", "example.net"),
        ({"fixed_ips": ADDRESSES[:1]}, "host-2001-db8--5", "example.org"),
        ({"fixed_ips": ()}, "", "example.org"),
    ],
)
def test_how_an_instance_is_called(changes, name, domain):
    data = told(replace(PORT, **changes))
    assert (data.hostname, data.domain) == (name, domain)


def test_options_of_both_families_and_of_boot_loaders_are_told():
    options = (
        ("option6:dns-server", "2001:db8::53"),
        ("tag:efi-x86_64,bootfile-name", "grub.efi"),
        ("tag:ipxe,option6:bootfile-url", "http://boot"),
        ("ntp-server", "192.0.2.3"),
    )
    data = told(replace(PORT, dhcp_options=options))
    assert data.options4 == ((42, bytes((192, 0, 2, 3))),)
    assert [code for code, _ in data.options6] == [23]
    assert [(b.ipxe, b.architectures, b.options4, b.options6) for b in data.boot] == [
        (None, (7, 9), ((67, b"grub.efi"),), ()),
        (True, (), (), ((59, b"http://boot"),)),
    ]


def test_a_mistake_in_an_option_takes_only_that_option():
    options = (("dns-server", "192.0.2.3"), ("mtu", "many"), ("option6:nonsense", "1"))
    plan = plan_port(replace(PORT, dhcp_options=options), NETWORK, SUBNETS, 300)
    assert plan.served is not None
    data = decode_port(json.loads(plan.served.data)["port"])
    assert (data.options4, data.options6) == (((6, bytes((192, 0, 2, 3))),), ())
    assert {problem.object_id for problem in plan.problems} == {"port:p/dhcp"}
    assert ["mtu" in problem.text or "nonsense" in problem.text for problem in plan.problems] == [True, True]


def test_a_name_that_no_packet_can_hold_takes_only_the_name():
    plan = plan_port(replace(PORT, hostname="x" * 64), NETWORK, SUBNETS, 300)
    assert plan.served is not None
    assert decode_port(json.loads(plan.served.data)["port"]).addresses == told().addresses
    assert [(p.object_id, p.field) for p in plan.problems] == [("port:p/dhcp", "hostname")]


def test_a_domain_that_no_packet_can_hold_is_left_out():
    plan = plan_port(PORT, replace(NETWORK, dns_domain="a..b"), SUBNETS, 300)
    assert plan.served is not None
    assert len(plan.problems) == 1


def test_a_network_without_subnets_has_nothing_to_tell():
    assert plan_port(PORT, NETWORK, (), 300).served is None


def test_an_address_of_a_subnet_that_is_gone_is_left_out():
    assert told(subnets=(SUBNET6,)).addresses == (("2001:db8::5", 0),)


def test_the_digest_tells_what_is_different():
    first, same = (plan_port(PORT, NETWORK, SUBNETS, 300).served for _ in range(2))
    other = plan_port(PORT, NETWORK, SUBNETS, 301).served
    assert first == same
    assert first != other


STATEFUL = replace(SUBNET6, ipv6_address_mode="dhcpv6-stateful", ipv6_ra_mode=None, server_address="2001:db8::ff")


@pytest.mark.parametrize(
    ("subnets", "expected"),
    [
        ((), Protocols(False, False, False, ())),
        ((SUBNET4,), Protocols(True, False, False, ("10.0.0.254",))),
        ((replace(SUBNET4, dhcp=False),), Protocols(False, False, False, ())),
        ((replace(SUBNET4, server_address=None),), Protocols(False, False, False, ())),
        ((SUBNET6,), Protocols(False, False, True, ())),
        ((STATEFUL,), Protocols(False, True, False, ("2001:db8::ff",))),
        ((replace(SUBNET6, ipv6_ra_mode="dhcpv6-stateless", ipv6_address_mode="dhcpv6-stateless"),),
         Protocols(False, True, True, ())),
        ((SUBNET4, STATEFUL), Protocols(True, True, False, ("10.0.0.254", "2001:db8::ff"))),
    ],
)  # fmt: skip
def test_what_is_spoken_on_a_network(subnets, expected):
    assert protocols(subnets) == expected


def test_an_address_that_dhcp_is_answered_from_as_well_is_named():
    taken = replace(SUBNET4, server_address="10.0.0.5")
    plan = plan_port(PORT, NETWORK, (taken, SUBNET6), 7)
    (problem,) = plan.problems
    assert (problem.object_id, problem.field, problem.actor) == ("port:p/dhcp", "fixed_ips", Actor.CLOUD)
    assert problem.text.startswith("port vm1: 10.0.0.5 is also the server address of subnet four")
    assert plan.served is not None, "its other address is still told"
