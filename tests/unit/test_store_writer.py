# SPDX-License-Identifier: Apache-2.0
"""The writer against a real ovsdb-server: what is written, what is chosen, and what is refused with which words."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.errors import InputError
from agent.store.document import FixedIpRequest, HostFields, NetworkFields, PortFields, SubnetFields
from agent.store.writer import Writer
from tests.servers import StoreServer
from tests.store_rows import assert_consistent


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with StoreServer(tmp_path) as server, Writer.connect([server.address]) as writer:
        yield writer
        assert_consistent(writer)


@pytest.fixture
def blue(writer: Writer) -> Writer:
    """A store with network blue and subnet blue4."""
    writer.create_network("blue", NetworkFields(type="vxlan"))
    writer.create_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24"))
    return writer


def ip(address: str | None = None, subnet: str | None = None) -> tuple[FixedIpRequest, ...]:
    return (FixedIpRequest(address, subnet),)


def addresses(writer: Writer, port: str) -> list[str]:
    return [fixed_ip.address for fixed_ip in writer.get_port(port).fixed_ips]


# Networks


@pytest.mark.parametrize(
    ("options", "kind", "mtu"),
    [
        ({}, "vxlan", 1450),
        ({}, "geneve", 1442),
        ({}, "vlan", 1500),
        ({}, "flat", 1500),
        ({}, "local", 1500),
        ({"underlay_mtu": "9000"}, "vxlan", 8950),
        ({"underlay_mtu": "9000", "underlay_ip_version": "6"}, "geneve", 8922),
        ({"physnet_mtu": "9000"}, "vlan", 9000),
    ],
)
def test_the_mtu_follows_from_type_and_underlay(
    writer: Writer, options: dict[str, str | None], kind: str, mtu: int
) -> None:
    writer.set_options(options)
    fields = NetworkFields(type=kind, physnet="physnet1") if kind in ("flat", "vlan") else NetworkFields(type=kind)
    assert writer.create_network("n", fields).result.mtu == mtu


def test_segments_are_chosen_from_the_lowest_free_one_for_each_type_and_physnet(writer: Writer) -> None:
    writer.set_options({"vlan_ranges": "physnet1:100:101,physnet2:7:7"})

    def chosen(name: str, kind: str, physnet: str | None = None) -> int | None:
        return writer.create_network(name, NetworkFields(type=kind, physnet=physnet)).result.segmentation_id

    assert [chosen("a", "vxlan"), chosen("b", "vxlan"), chosen("c", "geneve")] == [1, 2, 1]
    assert [chosen("d", "vlan", "physnet1"), chosen("e", "vlan", "physnet1")] == [100, 101]
    assert [chosen("f", "vlan", "physnet2"), chosen("g", "vlan", "physnet3")] == [7, 1]
    with pytest.raises(InputError, match=r"network h: all segmentation ids for vlan on physnet1 are in use \(100..101"):
        chosen("h", "vlan", "physnet1")
    writer.delete_network("d")
    assert chosen("h", "vlan", "physnet1") == 100


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (NetworkFields(), "network n: type is required"),
        (NetworkFields(type="vlam"), "network n: type 'vlam' is not one of local, flat, vlan, vxlan, geneve"),
        (NetworkFields(type="vlan"), "network n: physnet is required for type vlan"),
        (NetworkFields(type="vxlan", physnet="physnet1"), "network n: physnet physnet1 does not go with type vxlan"),
        (
            NetworkFields(type="vlan", physnet="p", segmentation_id=70000),
            r"network n: segmentation id 70000 is outside 1\.\.4094",
        ),
        (NetworkFields(type="vxlan", segmentation_id=0), r"network n: segmentation id 0 is outside 1\.\.16777215"),
        (NetworkFields(type="flat", physnet="p", segmentation_id=5), "segmentation id 5 does not go with type flat"),
        (NetworkFields(type="vxlan", mtu=1500), r"network n: mtu 1500 is more than the underlay can carry \(1450\)"),
        (NetworkFields(type="local", mtu=60), r"network n: mtu 60 is outside 68\.\.65535"),
        (NetworkFields(type="vxlan", segmentation_id=5), "network n: segmentation id 5 is in use by network taken"),
        (NetworkFields(type="flat", physnet="ext"), "network n: physnet ext carries the flat network outside already"),
        (NetworkFields(type="local", external_ids={"hostplane-set": "x"}), "keys that begin with hostplane- are"),
    ],
)
def test_a_wrong_network_is_refused_by_name_and_field(writer: Writer, fields: NetworkFields, words: str) -> None:
    writer.create_network("taken", NetworkFields(type="vxlan", segmentation_id=5))
    writer.create_network("outside", NetworkFields(type="flat", physnet="ext"))
    before = writer.revision()
    with pytest.raises(InputError, match=words):
        writer.create_network("n", fields)
    assert writer.revision() == before


@pytest.mark.parametrize("name", ["", " ", "a\nb", " a", "x" * 256, str(uuid.uuid4())])
def test_names_that_nobody_could_refer_to_are_refused(writer: Writer, name: str) -> None:
    with pytest.raises(InputError):
        writer.create_network(name, NetworkFields(type="local"))


def test_claimed_names_are_unique_for_each_kind(blue: Writer) -> None:
    with pytest.raises(InputError, match="network blue: there is a network with this name already"):
        blue.create_network("blue", NetworkFields(type="vxlan"))
    blue.create_port("blue", PortFields(network="blue"))
    blue.create_network("red", NetworkFields(type="vxlan"))
    with pytest.raises(InputError, match="there is a network with this name already"):
        blue.set_network("red", NetworkFields(), name="blue")
    blue.set_network("blue", NetworkFields(), name="green")
    blue.set_network("red", NetworkFields(), name="blue")
    assert [network.name for network in blue.list_networks()] == ["blue", "green"]


def test_a_cloud_brings_ids_and_repeats_names(writer: Writer) -> None:
    ids = [str(uuid.uuid4()), str(uuid.uuid4())]
    for network_id in ids:
        writer.create_network("private", NetworkFields(type="vxlan"), network_id=network_id, claim_name=False)
    assert {network.id for network in writer.list_networks()} == set(ids)
    with pytest.raises(InputError, match="2 networks are called private: say which one by its id") as caught:
        writer.get_network("private")
    assert all(network_id in str(caught.value) for network_id in ids)
    assert writer.get_network(ids[0]).segmentation_id == 1
    with pytest.raises(InputError, match="there is a network with the id"):
        writer.create_network("other", NetworkFields(type="vxlan"), network_id=ids[0])
    unnamed = writer.create_network("", NetworkFields(type="vxlan"), claim_name=False).result
    assert writer.get_network(unnamed.id).name == ""


def test_a_network_keeps_its_segment_and_changes_the_rest(blue: Writer) -> None:
    for fields in (
        NetworkFields(type="geneve"),
        NetworkFields(segmentation_id=9),
        NetworkFields(physnet="physnet1"),
    ):
        with pytest.raises(InputError, match="cannot be changed"):
            blue.set_network("blue", fields)
    written = blue.set_network(
        "blue", NetworkFields(type="vxlan", segmentation_id=1, mtu=1400, admin_state_up=False, dns_domain="example.")
    )
    assert written.changed
    assert (written.result.mtu, written.result.admin_state_up, written.result.dns_domain) == (1400, False, "example.")


def test_what_is_in_use_is_not_deleted_and_the_users_are_named(blue: Writer) -> None:
    blue.create_port("vm1", PortFields(network="blue"))
    with pytest.raises(InputError, match="network blue: it is in use by port vm1, subnet blue4: delete these first"):
        blue.delete_network("blue")
    with pytest.raises(InputError, match="subnet blue4: it is in use by port vm1"):
        blue.delete_subnet("blue4")
    for number in range(2, 15):
        blue.create_port(f"vm{number}", PortFields(network="blue"))
    with pytest.raises(InputError, match="and 5 more"):
        blue.delete_network("blue")
    for port in blue.list_ports():
        blue.delete_port(port.id)
    blue.delete_subnet("blue4")
    blue.delete_network("blue")
    assert blue.list_networks() == []


# Subnets


@pytest.mark.parametrize(
    ("cidr", "gateway", "pools"),
    [
        ("10.1.0.0/24", "10.1.0.1", ("10.1.0.2-10.1.0.254",)),
        ("10.1.0.0/30", "10.1.0.1", ("10.1.0.2-10.1.0.2",)),
        ("10.1.0.0/31", "10.1.0.0", ("10.1.0.1-10.1.0.1",)),
        ("10.1.0.0/32", None, ("10.1.0.0-10.1.0.0",)),
        ("2001:db8::/64", "2001:db8::1", ("2001:db8::2-2001:db8::ffff:ffff:ffff:ffff",)),
        ("2001:DB8:0::/126", "2001:db8::1", ("2001:db8::2-2001:db8::3",)),
    ],
)
def test_gateway_and_pools_follow_from_the_prefix(
    writer: Writer, cidr: str, gateway: str | None, pools: tuple[str, ...]
) -> None:
    writer.create_network("n", NetworkFields(type="vxlan"))
    subnet = writer.create_subnet("s", SubnetFields(network="n", cidr=cidr)).result
    assert (subnet.gateway, subnet.allocation_pools) == (gateway, pools)


def test_a_gateway_in_the_middle_parts_the_pool(writer: Writer) -> None:
    writer.create_network("n", NetworkFields(type="vxlan"))
    subnet = writer.create_subnet("s", SubnetFields(network="n", cidr="10.0.0.0/24", gateway="10.0.0.100")).result
    assert subnet.allocation_pools == ("10.0.0.1-10.0.0.99", "10.0.0.101-10.0.0.254")
    subnet = writer.set_subnet("s", SubnetFields(gateway=None)).result
    assert (subnet.gateway, subnet.allocation_pools) == (None, ("10.0.0.1-10.0.0.254",))
    writer.set_subnet("s", SubnetFields(allocation_pools=("10.0.0.10-10.0.0.20",)))
    with pytest.raises(InputError, match=r"subnet s: allocation pool .* contains the gateway 10.0.0.12"):
        writer.set_subnet("s", SubnetFields(gateway="10.0.0.12"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (SubnetFields(cidr="10.1.0.0/24"), "subnet s: network is required"),
        (SubnetFields(network="blue"), "subnet s: cidr is required"),
        (SubnetFields(network="bleu", cidr="10.1.0.0/24"), "subnet s: there is no network bleu"),
        (SubnetFields(network="blue", cidr="10.1.0.0"), "subnet s: cidr '10.1.0.0' has no prefix length"),
        (SubnetFields(network="blue", cidr="10.1.0.5/24"), r"host bits set: did you mean 10.1.0.0/24\?"),
        (SubnetFields(network="blue", cidr="300.0.0.0/24"), "cidr '300.0.0.0/24' is not an address with prefix"),
        (SubnetFields(network="blue", cidr="224.0.0.0/24"), "cannot be used for hosts"),
        (SubnetFields(network="blue", cidr="fe80::/64"), "link-local"),
        (SubnetFields(network="blue", cidr="10.0.0.128/25"), r"overlaps subnet blue4 \(10.0.0.0/24\) of network blue"),
        (SubnetFields(network="blue", cidr="10.1.0.0/24", gateway="10.2.0.1"), "gateway 10.2.0.1 is not in 10.1"),
        (SubnetFields(network="blue", cidr="10.1.0.0/24", gateway="10.1.0.0"), "is the network address of"),
        (SubnetFields(network="blue", cidr="10.1.0.0/24", gateway="10.1.0.255"), "is the broadcast address of"),
        (
            SubnetFields(network="blue", cidr="10.1.0.0/24", allocation_pools=("10.1.0.9-10.1.0.2",)),
            "allocation pool '10.1.0.9-10.1.0.2' is not a range",
        ),
        (
            SubnetFields(network="blue", cidr="10.1.0.0/24", allocation_pools=("10.1.0.2-10.1.0.9", "10.1.0.9")),
            "allocation pools overlap at 10.1.0.9",
        ),
        (
            SubnetFields(network="blue", cidr="10.1.0.0/24", allocation_pools=("10.2.0.2-10.2.0.9",)),
            "allocation pool address 10.2.0.2 is not in 10.1.0.0/24",
        ),
        (SubnetFields(network="blue", cidr="10.1.0.0/24", ipv6_mode="slaac"), "does not go with the IPv4 prefix"),
        (SubnetFields(network="blue", cidr="2001:db8::/65", ipv6_mode="slaac"), "slaac needs a /64"),
        (SubnetFields(network="blue", cidr="2001:db8::/64", ipv6_mode="auto"), "'auto' is not one of slaac"),
        (
            SubnetFields(
                network="blue", cidr="2001:db8::/64", ipv6_address_mode="slaac", ipv6_ra_mode="dhcpv6-stateful"
            ),
            "ipv6_address_mode slaac contradicts ipv6_ra_mode dhcpv6-stateful",
        ),
        (SubnetFields(network="blue", cidr="2001:db8::/64", ipv6_mode="slaac", dhcp=False), "dhcp cannot be off"),
        (SubnetFields(network="small", cidr="2001:db8::/64"), "network small has mtu 1000, IPv6 needs 1280"),
    ],
)
def test_a_wrong_subnet_is_refused(blue: Writer, fields: SubnetFields, words: str) -> None:
    blue.create_network("small", NetworkFields(type="local", mtu=1000))
    with pytest.raises(InputError, match=words):
        blue.create_subnet("s", fields)


def test_overlapping_prefixes_on_two_networks_are_fine(blue: Writer) -> None:
    blue.create_network("red", NetworkFields(type="vxlan"))
    blue.create_subnet("red4", SubnetFields(network="red", cidr="10.0.0.0/24"))
    for port, network in (("vm1", "blue"), ("vm2", "red")):
        blue.create_port(port, PortFields(network=network))
    assert addresses(blue, "vm1") == addresses(blue, "vm2") == ["10.0.0.2"]


def test_a_subnet_stays_what_it_is_but_for_gateway_pools_and_dhcp(blue: Writer) -> None:
    blue.create_network("red", NetworkFields(type="vxlan"))
    for fields, words in (
        (SubnetFields(cidr="10.9.0.0/24"), "cidr is 10.0.0.0/24 and cannot be changed"),
        (SubnetFields(network="red"), "network is blue and cannot be changed"),
        (SubnetFields(ipv6_mode="slaac"), "does not go with the IPv4 prefix"),
    ):
        with pytest.raises(InputError, match=words):
            blue.set_subnet("blue4", fields)
    written = blue.set_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24", dhcp=False))
    assert not written.result.dhcp


# Ports and their addresses


def test_a_port_gets_the_lowest_free_address_a_mac_and_an_endpoint(blue: Writer) -> None:
    first = blue.create_port("vm1", PortFields(network="blue", host="host1")).result
    second = blue.create_port("vm2", PortFields(network="blue", host="host2")).result
    assert [first.fixed_ips[0].address, second.fixed_ips[0].address] == ["10.0.0.2", "10.0.0.3"]
    assert first.mac_address.startswith("fa:16:3e:")
    assert first.mac_address != second.mac_address
    blue.delete_port("vm1")
    assert blue.create_port("vm3", PortFields(network="blue")).result.fixed_ips[0].address == "10.0.0.2"


def test_one_address_of_each_family_and_all_automatic_ones(blue: Writer) -> None:
    blue.create_subnet("blue4b", SubnetFields(network="blue", cidr="10.1.0.0/24"))
    blue.create_subnet("auto1", SubnetFields(network="blue", cidr="2001:db8:1::/64", ipv6_mode="slaac"))
    blue.create_subnet("auto2", SubnetFields(network="blue", cidr="2001:db8:2::/64", ipv6_mode="dhcpv6-stateless"))
    blue.create_subnet("pool6", SubnetFields(network="blue", cidr="2001:db8:3::/64", ipv6_mode="dhcpv6-stateful"))
    blue.create_port("vm1", PortFields(network="blue", mac_address="FA-16-3E-00-00-01"))
    assert addresses(blue, "vm1") == [
        "10.0.0.2",
        "2001:db8:1:0:f816:3eff:fe00:1",
        "2001:db8:2:0:f816:3eff:fe00:1",
        "2001:db8:3::2",
    ]


def test_automatic_addresses_follow_the_mac_and_the_subnet(blue: Writer) -> None:
    blue.create_port("vm1", PortFields(network="blue", mac_address="fa:16:3e:00:00:01"))
    blue.create_port("bare", PortFields(network="blue", fixed_ips=()))
    blue.create_subnet("blue6", SubnetFields(network="blue", cidr="2001:db8::/64", ipv6_mode="slaac"))
    assert addresses(blue, "vm1") == ["10.0.0.2", "2001:db8::f816:3eff:fe00:1"]
    assert addresses(blue, "bare") == []
    blue.set_port("vm1", PortFields(mac_address="fa:16:3e:00:00:02"))
    assert addresses(blue, "vm1") == ["10.0.0.2", "2001:db8::f816:3eff:fe00:2"]
    blue.delete_subnet("blue6")
    assert addresses(blue, "vm1") == ["10.0.0.2"]


def test_wished_addresses(blue: Writer) -> None:
    blue.create_subnet("blue4b", SubnetFields(network="blue", cidr="10.1.0.0/24"))
    blue.create_port("vm1", PortFields(network="blue", fixed_ips=ip("10.0.0.20")))
    blue.create_port("vm2", PortFields(network="blue", fixed_ips=ip(subnet="blue4b")))
    blue.create_port("vm3", PortFields(network="blue", fixed_ips=ip("10.1.0.9", "blue4b") + ip("10.0.0.9")))
    assert [addresses(blue, name) for name in ("vm1", "vm2", "vm3")] == [
        ["10.0.0.20"],
        ["10.1.0.2"],
        ["10.0.0.9", "10.1.0.9"],
    ]
    # The same wish again keeps what the port has.
    assert not blue.set_port("vm2", PortFields(fixed_ips=ip(subnet="blue4b"))).changed
    blue.set_port("vm1", PortFields(fixed_ips=ip("10.0.0.21")))
    assert addresses(blue, "vm1") == ["10.0.0.21"]
    blue.create_port("vm4", PortFields(network="blue", fixed_ips=ip("10.0.0.20")))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (PortFields(), "port p: network is required"),
        (PortFields(network="bleu"), "port p: there is no network bleu"),
        (PortFields(network="blue", host="host 1"), "port p: host 'host 1' is not a host name"),
        (PortFields(network="blue", mac_address="01:00:5e:00:00:01"), "is a multicast address"),
        (PortFields(network="blue", mac_address="fa:16:3e:00:00"), "is not a MAC address"),
        (PortFields(network="blue", mac_address="fa:16:3e:00:00:01"), "is in use on network blue by port vm1"),
        (PortFields(network="blue", fixed_ips=ip("10.9.0.1")), r"is in no subnet of network blue \(10.0.0.0/24"),
        (PortFields(network="blue", fixed_ips=ip("10.0.0.255")), "is the broadcast address of 10.0.0.0/24"),
        (PortFields(network="blue", fixed_ips=ip("10.0.0.2")), "10.0.0.2 is in use by port vm1 on network blue"),
        (PortFields(network="blue", fixed_ips=ip("nonsense")), "fixed ip 'nonsense' is not an IP address"),
        (PortFields(network="blue", fixed_ips=ip("10.0.0.5") * 2), "fixed ip 10.0.0.5 is given twice"),
        (PortFields(network="blue", fixed_ips=ip(subnet="red4")), "subnet red4 is not of network blue"),
        (PortFields(network="blue", fixed_ips=ip("2001:db8::5")), "follow from the MAC address"),
        (PortFields(network="blue", allowed_address_pairs=("10.0.0.5/24",)), r"did you mean 10.0.0.0/24\?"),
        (PortFields(network="blue", allowed_address_pairs=("10.0.0.0/24 x",)), "'x' is not a MAC address"),
        (
            PortFields(network="blue", port_security=False, allowed_address_pairs=("10.0.0.5",)),
            "mean nothing without port security",
        ),
    ],
)
def test_a_wrong_port_is_refused(blue: Writer, fields: PortFields, words: str) -> None:
    blue.create_network("red", NetworkFields(type="vxlan"))
    blue.create_subnet("red4", SubnetFields(network="red", cidr="10.0.0.0/24"))
    blue.create_subnet("blue6", SubnetFields(network="blue", cidr="2001:db8::/64", ipv6_mode="slaac"))
    blue.create_port("vm1", PortFields(network="blue", mac_address="fa:16:3e:00:00:01"))
    with pytest.raises(InputError, match=words):
        blue.create_port("p", fields)


def test_a_full_pool_says_so(writer: Writer) -> None:
    writer.create_network("n", NetworkFields(type="vxlan"))
    writer.create_subnet("s", SubnetFields(network="n", cidr="10.0.0.0/29", allocation_pools=("10.0.0.2-10.0.0.4",)))
    writer.create_port("a", PortFields(network="n"))
    writer.create_port("b", PortFields(network="n"))
    with pytest.raises(InputError, match=r"port c: no free address in the allocation pools of s \(10.0.0.0/29\)"):
        writer.create_port("c", PortFields(network="n"))
    # Outside the pool a wish is still fine.
    writer.create_port("c", PortFields(network="n", fixed_ips=ip("10.0.0.6")))


def test_a_second_subnet_helps_when_the_first_is_full(writer: Writer) -> None:
    writer.create_network("n", NetworkFields(type="vxlan"))
    writer.create_subnet("s1", SubnetFields(network="n", cidr="10.0.0.0/30"))
    writer.create_subnet("s2", SubnetFields(network="n", cidr="10.0.1.0/30"))
    for name in ("a", "b"):
        writer.create_port(name, PortFields(network="n"))
    assert addresses(writer, "b") == ["10.0.1.2"]


def test_a_move_changes_port_and_endpoint_and_concerns_both_hosts(blue: Writer) -> None:
    blue.create_host("host1", HostFields())
    blue.create_port("vm1", PortFields(network="blue", host="host1"))
    written = blue.set_port("vm1", PortFields(host="host2"))
    assert written.result.host == "host2"
    assert written.hosts == {"host1", "host2"}
    assert blue.read(lambda view: [row.host for row in view.rows("Endpoint")]) == ["host2"]
    assert blue.set_port("vm1", PortFields(host="")).result.host == ""


def test_port_settings_are_written_in_canonical_form(blue: Writer) -> None:
    blue.create_port("vm1", PortFields(network="blue"))
    port = blue.set_port(
        "vm1",
        PortFields(
            allowed_address_pairs=("10.0.0.200", "2001:DB8::/32 FA:16:3E:00:00:09"),
            admin_state_up=False,
            device_owner="compute:nova",
            device_id="instance-1",
            external_ids={"cloud": "a"},
        ),
        name="vm one",
    ).result
    assert port.allowed_address_pairs == ("10.0.0.200/32", "2001:db8::/32 fa:16:3e:00:00:09")
    assert (port.name, port.admin_state_up, port.device_owner) == ("vm one", False, "compute:nova")
    assert port.external_ids == {"cloud": "a"}
    with pytest.raises(InputError, match="mean nothing without port security"):
        blue.set_port("vm one", PortFields(port_security=False))
    port = blue.set_port("vm one", PortFields(port_security=False, allowed_address_pairs=())).result
    assert not port.port_security


def test_port_security_of_new_ports_is_that_of_the_network(writer: Writer) -> None:
    writer.create_network("open", NetworkFields(type="vxlan", port_security=False))
    assert not writer.create_port("a", PortFields(network="open")).result.port_security
    assert writer.create_port("b", PortFields(network="open", port_security=True)).result.port_security


def test_a_port_stays_on_its_network(blue: Writer) -> None:
    blue.create_port("vm1", PortFields(network="blue"))
    blue.create_network("red", NetworkFields(type="vxlan"))
    with pytest.raises(InputError, match="port vm1: network is blue and cannot be changed"):
        blue.set_port("vm1", PortFields(network="red"))


# Hosts


def test_hosts(blue: Writer) -> None:
    fields = HostFields(
        tunnel_address="192.0.2.1", encapsulations=("vxlan", "geneve"), bridge_mappings={"physnet1": "br-phy1"}
    )
    host = blue.create_host("host1", fields).result
    assert (host.tunnel_address, host.encapsulations) == ("192.0.2.1", ("geneve", "vxlan"))
    blue.create_port("vm1", PortFields(network="blue", host="host1"))
    with pytest.raises(InputError, match="host host1: it is in use by port vm1: move or delete these first"):
        blue.delete_host("host1")
    written = blue.set_host("host1", HostFields(tunnel_address="192.0.2.2"))
    assert written.networks == {blue.get_network("blue").id}
    blue.delete_port("vm1")
    blue.delete_host("host1")
    assert blue.list_hosts() == []


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("host1", HostFields(), "host host1: there is a host with this name already"),
        ("a b", HostFields(), "'a b' is not a host name"),
        ("h", HostFields(tunnel_address="224.0.0.1"), "is not an address that other hosts can send to"),
        ("h", HostFields(encapsulations=("gre",)), "encapsulation 'gre' is not one of geneve, vxlan"),
        ("h", HostFields(bridge_mappings={"p": "a-name-of-16-chr"}), "is not a device name"),
    ],
)
def test_a_wrong_host_is_refused(writer: Writer, name: str, fields: HostFields, words: str) -> None:
    writer.create_host("host1", HostFields())
    with pytest.raises(InputError, match=words):
        writer.create_host(name, fields)


# The revision


def test_each_write_is_one_revision_and_no_write_is_none(blue: Writer) -> None:
    generation, revision = blue.revision()
    assert revision == 2
    written = blue.create_port("vm1", PortFields(network="blue"))
    assert (written.generation, written.revision, written.changed) == (generation, 3, True)
    again = blue.set_port("vm1", PortFields(admin_state_up=True, fixed_ips=ip("10.0.0.2")))
    assert (again.revision, again.changed) == (3, False)
    refused: list[Callable[[], object]] = [
        lambda: blue.create_port("vm1", PortFields(network="blue")),
        lambda: blue.delete_network("blue"),
    ]
    for call in refused:
        with pytest.raises(InputError):
            call()
    assert blue.revision() == (generation, 3)


def test_options_are_checked_and_can_be_taken_away(writer: Writer) -> None:
    for options, words in (
        ({"underlay_mtu": "big"}, "underlay_mtu 'big' is not a number in 1280..65535"),
        ({"vni_ranges": "0:5"}, "vni_ranges 0:5 is outside"),
        ({"colour": "red"}, "colour is not one of"),
    ):
        with pytest.raises(InputError, match=words):
            writer.set_options(dict(options))
    writer.set_options({"underlay_mtu": "9000", "vni_ranges": "100:200"})
    assert writer.create_network("n", NetworkFields(type="geneve")).result.segmentation_id == 100
    writer.set_options({"vni_ranges": None})
    assert writer.options() == {"underlay_mtu": "9000"}
