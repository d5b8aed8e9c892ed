# SPDX-License-Identifier: Apache-2.0
"""What instances are told, as the writer keeps it: server addresses, names, options, metadata, and what it refuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.errors import InputError
from agent.core.service_identity import METADATA_MAC, ROUTER_MAC, SERVER_MAC, identity_mac
from agent.store import ipam
from agent.store.document import (
    Document,
    Entry,
    FixedIpRequest,
    HostFields,
    HostRoute,
    MetadataServiceFields,
    NetworkFields,
    PortFields,
    SubnetFields,
)
from agent.store.writer import Writer
from tests.servers import StoreServer
from tests.store_rows import assert_consistent


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as server:
        yield server


@pytest.fixture
def writer(server: StoreServer) -> Iterator[Writer]:
    """A writer on a store with network blue."""
    with Writer.connect([server.address]) as writer:
        writer.create_network("blue", NetworkFields(type="vxlan"))
        yield writer
        assert_consistent(writer)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    """A writer on a store with network blue, for what is refused and writes nothing."""
    with StoreServer(tmp_path_factory.mktemp("store")) as server, Writer.connect([server.address]) as writer:
        revision = writer.create_network("blue", NetworkFields(type="vxlan")).revision
        yield writer
        assert writer.revision()[1] == revision


def subnet(**fields) -> SubnetFields:
    return SubnetFields(network="blue", **{"cidr": "10.0.0.0/24", **fields})


def served(writer: Writer, name: str = "blue4") -> str | None:
    return writer.get_subnet(name).server_address


# Server addresses


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({}, "10.0.0.254"),
        ({"gateway": "10.0.0.254"}, "10.0.0.253"),
        ({"gateway": None}, "10.0.0.254"),
        ({"allocation_pools": ("10.0.0.10-10.0.0.20", "10.0.0.50-10.0.0.60")}, "10.0.0.60"),
        ({"dhcp": False}, None),
        ({"server_address": "10.0.0.99"}, "10.0.0.99"),
        ({"cidr": "10.0.0.0/30"}, None),  # there is one address, and a port is worth more
        ({"cidr": "10.0.0.0/30", "gateway": None}, "10.0.0.2"),
        ({"cidr": "10.0.0.0/32"}, None),
        ({"cidr": "10.0.0.0/24", "allocation_pools": ()}, None),
        ({"cidr": "2001:db8::/64"}, None),  # without a mode somebody else takes care
        ({"cidr": "2001:db8::/64", "ipv6_mode": "dhcpv6-stateful"}, "2001:db8::ffff:ffff:ffff:ffff"),
        ({"cidr": "2001:db8::/64", "ipv6_mode": "dhcpv6-stateless"}, "2001:db8::48:50ff:fe00:1"),
        ({"cidr": "2001:db8::/64", "ipv6_mode": "slaac"}, "2001:db8::48:50ff:fe00:1"),
        ({"cidr": "2001:db8::/64", "ipv6_mode": "slaac", "server_address": "2001:db8::2"}, "2001:db8::2"),
    ],
)
def test_a_subnet_that_answers_dhcp_has_an_address_for_it(writer: Writer, fields, address: str | None) -> None:
    assert writer.create_subnet("s", subnet(**fields)).result.server_address == address
    assert served(writer, "s") == address


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"server_address": "10.0.1.9"}, "subnet s: server_address 10.0.1.9 is not in 10.0.0.0/24"),
        ({"server_address": "10.0.0.255"}, "subnet s: server_address 10.0.0.255 is the broadcast address"),
        ({"server_address": "10.0.0.1"}, "subnet s: server_address 10.0.0.1 is the gateway"),
        ({"server_address": "dns"}, "subnet s: server_address 'dns' is not an IP address"),
        (
            {"server_address": "10.0.0.9", "dhcp": False},
            "subnet s: server_address 10.0.0.9 is of no use without dhcp: leave it out",
        ),
        (
            {"server_address": "2001:db8::9", "cidr": "2001:db8::/64"},
            "subnet s: server_address 2001:db8::9 is of no use without an IPv6 mode",
        ),
    ],
)
def test_a_wrong_server_address_is_refused(refusing: Writer, fields, message: str) -> None:
    with pytest.raises(InputError) as caught:
        refusing.create_subnet("s", subnet(**fields))
    assert str(caught.value).startswith(message)


def test_a_port_cannot_have_a_server_address_nor_a_server_a_ports(writer: Writer) -> None:
    writer.create_subnet("blue4", subnet())
    wish = PortFields(network="blue", fixed_ips=(FixedIpRequest("10.0.0.254"),))
    taken = "fixed ip 10.0.0.254 is in use by the DHCP server of subnet blue4 on network blue"
    with pytest.raises(InputError, match=f"port vm1: {taken}"):
        writer.create_port("vm1", wish)
    writer.create_port("vm1", PortFields(network="blue"))
    with pytest.raises(InputError, match=taken):
        writer.set_port("vm1", PortFields(fixed_ips=wish.fixed_ips))
    with pytest.raises(
        InputError, match=r"subnet blue4: server_address 10\.0\.0\.2 is in use by port vm1 on network blue"
    ):
        writer.set_subnet("blue4", SubnetFields(server_address="10.0.0.2"))
    writer.set_subnet("blue4", SubnetFields(server_address="10.0.0.3"))
    assert writer.create_port("vm2", wish).result.fixed_ips[0].address == "10.0.0.254"
    assert writer.create_port("vm3", PortFields(network="blue")).result.fixed_ips[0].address == "10.0.0.4"


def test_switching_dhcp_off_gives_the_address_back_and_on_takes_one_again(writer: Writer) -> None:
    writer.create_subnet("blue4", subnet(allocation_pools=("10.0.0.2-10.0.0.4",)))
    assert served(writer) == "10.0.0.4"
    assert writer.set_subnet("blue4", SubnetFields(dhcp=False)).result.server_address is None
    for name in ("vm1", "vm2"):
        writer.create_port(name, PortFields(network="blue"))
    # Two are taken; the last one stays a port's.
    assert writer.set_subnet("blue4", SubnetFields(dhcp=True)).result.server_address is None
    assert writer.create_port("vm3", PortFields(network="blue")).result.fixed_ips[0].address == "10.0.0.4"
    assert writer.set_subnet("blue4", SubnetFields(server_address="10.0.0.200")).changed
    assert served(writer) == "10.0.0.200"


def test_the_address_stays_whatever_changes_unless_the_gateway_takes_it(writer: Writer) -> None:
    writer.create_subnet("blue4", subnet())
    writer.set_subnet("blue4", SubnetFields(allocation_pools=("10.0.0.10-10.0.0.20",), dns=("10.0.0.5",)))
    assert served(writer) == "10.0.0.254"
    assert not writer.set_subnet("blue4", SubnetFields(dhcp=True)).changed
    writer.set_subnet("blue4", SubnetFields(gateway="10.0.0.254"))
    assert served(writer) == "10.0.0.20"


def test_a_subnet_goes_with_its_address_and_its_network_in_one_document(writer: Writer) -> None:
    document = Document(
        networks=(Entry("red", NetworkFields(type="vxlan")),),
        subnets=(Entry("red4", SubnetFields(network="red", cidr="10.0.0.0/24")),),
    )
    writer.apply(document, set_name="lab")
    deleted = writer.apply(Document(), set_name="lab", prune=True)
    assert [(change.kind, change.verb) for change in deleted.result] == [("subnet", "delete"), ("network", "delete")]


def test_ports_of_a_document_come_before_the_choice_of_servers(writer: Writer) -> None:
    document = Document(
        subnets=(Entry("blue4", subnet()),),
        ports=(Entry("vm1", PortFields(network="blue", fixed_ips=(FixedIpRequest("10.0.0.254"),))),),
    )
    writer.apply(document)
    assert served(writer) == "10.0.0.253"
    assert not writer.apply(document).changed


def test_a_document_may_give_a_port_what_it_takes_from_a_server(writer: Writer) -> None:
    writer.create_subnet("blue4", subnet())
    document = Document(
        subnets=(Entry("blue4", subnet(server_address="10.0.0.3")),),
        ports=(Entry("vm1", PortFields(network="blue", fixed_ips=(FixedIpRequest("10.0.0.254"),))),),
    )
    writer.apply(document)
    assert served(writer) == "10.0.0.3"
    back = Document(subnets=(Entry("blue4", subnet(dhcp=False)),), ports=document.ports)
    writer.apply(back)
    assert served(writer) is None


def test_a_document_that_wants_an_address_twice_is_refused(writer: Writer) -> None:
    document = Document(
        subnets=(Entry("blue4", subnet(server_address="10.0.0.9"), line=3),),
        ports=(Entry("vm1", PortFields(network="blue", fixed_ips=(FixedIpRequest("10.0.0.9"),)), line=5),),
    )
    with pytest.raises(InputError, match=r"line 3: subnet blue4: server_address 10.0.0.9 is in use by port vm1"):
        writer.apply(document)


def transact(server: StoreServer, *operations: object) -> None:
    request = json.dumps(["Hostplane", *operations])
    reply = subprocess.run(
        ["ovsdb-client", "transact", server.address, request], check=True, capture_output=True, text=True
    ).stdout
    assert "error" not in reply, reply


def test_a_subnet_of_an_older_writer_gets_an_address_with_its_next_write(server: StoreServer, writer: Writer) -> None:
    made = writer.create_subnet("blue4", subnet()).result
    nothing = {"server_address": ["set", []], "server_allocation": ["set", []]}
    transact(server, {"op": "update", "table": "Subnet", "where": [["_uuid", "==", ["uuid", made.id]]], "row": nothing})
    with Writer.connect([server.address]) as later:
        assert served(later) is None
        written = later.set_subnet("blue4", SubnetFields(project="red"))
        assert written.result.server_address == "10.0.0.254"
        assert written.networks  # its hosts are waited for


def test_ports_cannot_have_the_addresses_that_the_responder_answers_from(writer: Writer) -> None:
    for mac in (SERVER_MAC, METADATA_MAC, ROUTER_MAC, identity_mac(7), identity_mac(65535)):
        with pytest.raises(InputError, match=f"port vm1: mac_address {mac} is one of those that Hostplane itself"):
            writer.create_port("vm1", PortFields(network="blue", mac_address=mac))


def test_the_highest_free_address_is_found_across_pools() -> None:
    network = ipam.network("10.0.0.0/24")
    pools = ("10.0.0.10-10.0.0.12", "10.0.0.2-10.0.0.3")
    used: set[str] = set()
    found = []
    while (address := ipam.highest_free(network, pools, used, 0, None)) is not None:  # type: ignore[arg-type]
        used.add(address)
        found.append(address)
    assert found == ["10.0.0.12", "10.0.0.11", "10.0.0.10", "10.0.0.3"]


# What is told besides


def test_name_servers_keep_their_order_and_routes_are_canonical(writer: Writer) -> None:
    routes = (HostRoute("10.9.0.0/16", "10.0.0.9"), HostRoute("0.0.0.0/0", "10.0.0.8"))
    fields = subnet(dns=("192.0.2.9", "10.0.0.2", "2001:DB8::1"), host_routes=routes)
    record = writer.create_subnet("blue4", fields).result
    assert record.dns == ("192.0.2.9", "10.0.0.2", "2001:db8::1")
    assert [(route.destination, route.nexthop) for route in record.host_routes] == [
        ("0.0.0.0/0", "10.0.0.8"),
        ("10.9.0.0/16", "10.0.0.9"),
    ]
    assert not writer.set_subnet("blue4", SubnetFields(dns=fields.dns, host_routes=routes)).changed
    changed = writer.set_subnet("blue4", SubnetFields(dns=("10.0.0.2", "192.0.2.9"), host_routes=()))
    assert (changed.result.dns, changed.result.host_routes) == (("10.0.0.2", "192.0.2.9"), ())
    assert changed.networks


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dns": ("dns.example",)}, "dns 'dns.example' is not an IP address"),
        ({"dns": ("10.0.0.2", "10.0.0.2")}, "dns 10.0.0.2 is given twice"),
        ({"dns": ("224.0.0.1",)}, "dns 224.0.0.1 is not an address that instances can ask"),
        ({"dns": ("fe80::1%eth0",)}, "dns 'fe80::1%eth0' has a zone"),
        ({"host_routes": (HostRoute("10.9.0.1/16", "10.0.0.9"),)}, "host route '10.9.0.1/16' is not a prefix"),
        ({"host_routes": (HostRoute("10.9.0.0/16", "2001:db8::1"),)}, "host route 10.9.0.0/16 by way of 2001:db8::1"),
        ({"host_routes": (HostRoute("10.9.0.0/16", "gw"),)}, "host route 'gw' is not an IP address"),
        ({"host_routes": (HostRoute("10.9.0.0/16", "10.0.0.9"),) * 2}, "host route 10.9.0.0/16 10.0.0.9 is given"),
    ],
)
def test_what_makes_no_sense_for_a_subnet_is_refused_by_name(refusing: Writer, fields, message: str) -> None:
    with pytest.raises(InputError) as caught:
        refusing.create_subnet("s", subnet(**fields))
    assert str(caught.value).startswith(f"subnet s: {message}")


def test_a_port_says_its_name_options_and_metadata(writer: Writer) -> None:
    fields = PortFields(
        network="blue",
        host="host1",
        hostname="web.blue.example.",
        dhcp_options={"mtu": "1400", "option6:59": "http://a/", "tag:ipxe,67": "a", "tag:!ipxe,67": "b", "router": ""},
        metadata={"user_data": "#cloud-config", "meta:role": "web", "ssh_keys": "ssh-rsa A\nssh-rsa B"},
    )
    record = writer.create_port("vm1", fields).result
    assert record.hostname == "web.blue.example"
    assert record.dhcp_options == fields.dhcp_options
    assert record.metadata == fields.metadata
    assert record.to_dict()["metadata"] == {
        "user_data": "#cloud-config",
        "ssh_keys": ["ssh-rsa A", "ssh-rsa B"],
        "meta": {"role": "web"},
    }
    assert not writer.set_port("vm1", PortFields(metadata=fields.metadata)).changed
    written = writer.set_port("vm1", PortFields(hostname="", dhcp_options={}, metadata={}))
    assert written.hosts == {"host1"}
    assert not written.networks  # nobody else is told
    assert (written.result.hostname, written.result.dhcp_options, written.result.metadata) == ("", {}, {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hostname": "web_1"}, "hostname 'web_1' is not a host name"),
        ({"hostname": "-web"}, "hostname '-web' is not a host name"),
        ({"hostname": "a" * 64}, "hostname 'aaaa"),
        ({"hostname": "10.0.0.5"}, "hostname '10.0.0.5' is an address"),
        ({"hostname": "web\n"}, "hostname 'web\\n' is not a host name"),
        ({"dhcp_options": {"mtuu": "1"}}, "dhcp option mtuu: neither a name that dnsmasq knows nor a number"),
        ({"dhcp_options": {"mtu": "big"}}, "dhcp option mtu: 'big' is not a number of 0..65535"),
        ({"dhcp_options": {"53": "5"}}, "dhcp option 53: it cannot be set"),
        ({"dhcp_options": {"mtu": "1400", "option:26": "1300"}}, "dhcp option option:26: mtu is the same option"),
        ({"dhcp_options": {"option6:mtu": "1"}}, "dhcp option option6:mtu: neither a DHCPv6 option that we know"),
        ({"dhcp_options": {"option6:59": "a", "option6:bootfile-url": "b"}}, "dhcp option option6:bootfile-url: "),
        ({"dhcp_options": {"67": "a\0b"}}, "dhcp option 67: a value cannot hold the character 0"),
        ({"metadata": {"userdata": "x"}}, "metadata: userdata: not one of availability_zone"),
        (
            {"metadata": {"user_data": "x", "user_data_base64": "eA=="}},
            "metadata: user_data: user_data_base64 is given",
        ),
        ({"metadata": {"user_data_base64": "%"}}, "metadata: user_data_base64: is not base64"),
        ({"metadata": {"vendor_data": "{"}}, "metadata: vendor_data: is not JSON"),
        ({"metadata": {"instance_id": "../.."}}, "metadata: instance_id: must be"),
        ({"metadata": {"meta:a": "\0"}}, "metadata: meta:a: text cannot hold the character 0"),
        ({"metadata": {"user_data": "x" * (1 << 20) + "x"}}, "metadata: user_data: 1048577 octets"),
    ],
)
def test_what_makes_no_sense_for_a_port_is_refused_by_name(refusing: Writer, fields, message: str) -> None:
    with pytest.raises(InputError) as caught:
        refusing.create_port("vm1", PortFields(network="blue", **fields))
    assert str(caught.value).startswith(f"port vm1: {message}")


def test_the_domain_of_a_network_is_a_domain(writer: Writer) -> None:
    writer.set_network("blue", NetworkFields(dns_domain="blue.example."))
    assert writer.get_network("blue").dns_domain == "blue.example."
    with pytest.raises(InputError, match="network blue: dns_domain 'a b' is not a domain name"):
        writer.set_network("blue", NetworkFields(dns_domain="a b"))
    writer.set_network("blue", NetworkFields(dns_domain=""))


# The metadata service

NOVA = MetadataServiceFields(url="https://nova.example:8775/", secret_file="/etc/hostplane/secret")


def test_the_metadata_service_is_one_for_all_hosts(writer: Writer) -> None:
    for host in ("host1", "host2"):
        writer.create_host(host, HostFields())
    assert writer.get_metadata_service() is None
    asks = writer.create_port("asks", PortFields(network="blue")).result.id
    writer.create_port("told", PortFields(network="blue", metadata={"user_data": "x"}))
    named = writer.set_metadata_service(NOVA)
    assert named.ports == {asks}, "the other one is served from the store"
    assert (named.result.url, named.result.timeout) == ("https://nova.example:8775", 60.0)
    assert named.hosts == {"host1", "host2"}
    same = writer.set_metadata_service(NOVA)
    assert (same.changed, same.hosts) == (False, frozenset())
    changed = writer.set_metadata_service(
        MetadataServiceFields(ca_file="/ca.pem", client_cert_file="/c.pem", client_key_file="/k.pem", timeout=5)
    )
    assert (changed.result.url, changed.result.client_key_file, changed.result.timeout) == (
        "https://nova.example:8775",
        "/k.pem",
        5.0,
    )
    assert writer.set_metadata_service(MetadataServiceFields(ca_file=None)).result.ca_file is None
    gone = writer.unset_metadata_service()
    assert gone.hosts == {"host1", "host2"}
    assert writer.get_metadata_service() is None
    assert not writer.unset_metadata_service().changed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "nova:8775"}, "url 'nova:8775' is not http://HOST[:PORT] or https://HOST[:PORT]"),
        ({"url": "ftp://nova"}, "url 'ftp://nova' is not http"),
        ({"url": "https://nova/metadata"}, "url 'https://nova/metadata' is not"),
        ({"url": "https://nova?a"}, "url 'https://nova?a' is not"),
        ({"url": "https://a:b@nova"}, "url 'https://a:b@nova' is not"),
        ({"url": "https://nova:99999"}, "url 'https://nova:99999' is not"),
        ({"url": "https://no va"}, "url 'https://no va' is not"),
        ({"url": "https://[fe80::1%25eth0]"}, "url "),
        ({"url": ""}, "url is required"),
        ({"secret_file": ""}, "secret_file is required"),
        ({"secret_file": "secret"}, "secret_file 'secret' is not the absolute path of a file"),
        ({"client_cert_file": "/c.pem"}, "client_key_file is missing"),
        ({"client_key_file": "/k.pem"}, "client_cert_file is missing"),
        ({"url": "http://nova", "ca_file": "/ca.pem"}, "ca_file goes with https only, the url is http://nova"),
        ({"url": "http://nova", "insecure": True}, "insecure goes with https only"),
        ({"timeout": 0}, "timeout 0 is not a number of seconds above 0 and up to 600"),
        ({"timeout": float("nan")}, "timeout nan is not a number of seconds"),
    ],
)
def test_a_wrong_metadata_service_is_refused(refusing: Writer, fields, message: str) -> None:
    given = {"url": NOVA.url, "secret_file": NOVA.secret_file, **fields}
    with pytest.raises(InputError) as caught:
        refusing.set_metadata_service(MetadataServiceFields(**given))
    assert str(caught.value).startswith(f"metadata service: {message}")


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://192.0.2.1:8775", "http://192.0.2.1:8775"),
        ("HTTPS://Nova.Example/", "https://nova.example"),
        ("http://[2001:db8::1]:80", "http://[2001:db8::1]:80"),
    ],
)
def test_urls_are_kept_as_scheme_host_and_port(writer: Writer, url: str, kept: str) -> None:
    fields = MetadataServiceFields(url=url, secret_file="/s")
    assert writer.set_metadata_service(fields).result.url == kept
