# SPDX-License-Identifier: Apache-2.0
"""Floating IPs and port forwardings in the store: which router they find, what they follow, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.errors import InputError
from agent.store.document import (
    UNSET,
    FixedIpRequest,
    FloatingIpFields,
    HostFields,
    NetworkFields,
    PortFields,
    PortForwardingFields,
    RouterFields,
    SubnetFields,
    Unset,
)
from agent.store.records_routers import PortForwardingRecord
from agent.store.writer import Writer
from tests.servers import StoreServer
from tests.store_rows import assert_consistent


@contextmanager
def routed_store(folder: Path) -> Iterator[Writer]:
    """A store with router edge between network blue (vm1 on host1, vm2 on host2) and the outside; red has no router."""
    with StoreServer(folder) as server, Writer.connect([server.address]) as writer:
        writer.create_network("public", NetworkFields(type="flat", physnet="external", external=True))
        writer.create_subnet("public4", SubnetFields(network="public", cidr="203.0.113.0/24", dhcp=False))
        for name, cidr in (("blue", "10.0.0.0/24"), ("red", "10.0.0.0/24")):
            writer.create_network(name, NetworkFields(type="vxlan"))
            writer.create_subnet(f"{name}4", SubnetFields(network=name, cidr=cidr, gateway="10.0.0.1"))
        interfaces = (FixedIpRequest(subnet="blue4"),)
        fields = RouterFields(external_network="public", gateway_hosts=("gw1",), interfaces=interfaces)
        writer.create_router("edge", fields)
        for host in ("host1", "host2", "gw1"):
            writer.create_host(host, HostFields())
        writer.create_port("vm1", PortFields(network="blue", host="host1", fixed_ips=(FixedIpRequest("10.0.0.11"),)))
        writer.create_port("vm2", PortFields(network="blue", host="host2", fixed_ips=(FixedIpRequest("10.0.0.12"),)))
        writer.create_port("vm3", PortFields(network="red", host="host1"))
        yield writer
        assert_consistent(writer)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with routed_store(tmp_path) as writer:
        yield writer


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    """The same for all that is refused, with a floating IP and a port forwarding."""
    with routed_store(tmp_path_factory.mktemp("store")) as writer:
        writer.create_floating_ip("203.0.113.10", to("vm1"))
        writer.create_port_forwarding("203.0.113.11:2222", forward("vm2:22"))
        writer.create_port_forwarding("203.0.113.2:8000-8009", forward("vm2:9000-9009", "udp"))
        several = (FixedIpRequest("10.0.0.21"), FixedIpRequest("10.0.0.22"))
        writer.create_port("many", PortFields(network="blue", fixed_ips=several))
        writer.create_port("none", PortFields(network="blue", fixed_ips=()))
        writer.create_router("red", RouterFields(interfaces=(FixedIpRequest(subnet="red4"),)))
        yield writer


def to(port: str | None, fixed_ip: str | Unset = UNSET) -> FloatingIpFields:
    return FloatingIpFields(port=port, fixed_ip=fixed_ip)


def forward(internal: str, protocol: str | int = "tcp") -> PortForwardingFields:
    return PortForwardingFields(protocol=protocol, internal=internal)


def test_a_floating_ip_finds_its_network_and_router_and_knows_where_its_port_is(writer: Writer) -> None:
    written = writer.create_floating_ip("203.0.113.10", to("vm1"))
    record = written.result
    assert (record.network_name, record.router_name, record.port_name) == ("public", "edge", "vm1")
    assert (record.fixed_ip, record.host) == ("10.0.0.11", "host1")
    assert record.mac_address.startswith("fa:16:3e")
    assert {"host1", "gw1"} <= written.hosts
    assert written.networks == {record.network}  # its neighbors outside learn the address


def test_a_floating_ip_follows_its_port(writer: Writer) -> None:
    writer.create_floating_ip("203.0.113.10", to("vm1"))
    assert "gw1" in writer.set_port("vm1", PortFields(host="host2")).hosts
    assert writer.get_floating_ip("203.0.113.10").host == "host2"
    moved = writer.set_floating_ip("203.0.113.10", to("vm2"))
    assert moved.result.fixed_ip == "10.0.0.12"
    assert {"host2", "gw1"} <= moved.hosts
    assert not writer.set_floating_ip("203.0.113.10", to("vm2")).changed
    free = writer.set_floating_ip("203.0.113.10", to(None)).result
    assert (free.port, free.router, free.fixed_ip, free.host) == (None, None, None, "")


def test_deleting_a_port_leaves_its_floating_ip_without_one(writer: Writer) -> None:
    writer.create_floating_ip("203.0.113.10", to("vm1"))
    assert "gw1" in writer.delete_port("vm1").hosts
    record = writer.get_floating_ip("203.0.113.10")
    assert (record.port, record.router, record.fixed_ip) == (None, None, None)
    writer.delete_floating_ip("203.0.113.10")
    writer.delete_router("edge")


def test_a_floating_ip_without_a_wish_takes_the_first_free_address(writer: Writer) -> None:
    record = writer.create_floating_ip("", FloatingIpFields(network="public")).result
    assert record.floating_ip_address == "203.0.113.3"  # .1 is the subnet's gateway, .2 the router's


def test_the_router_that_is_the_subnets_gateway_comes_first(writer: Writer) -> None:
    other = (FixedIpRequest("10.0.0.200", "blue4"),)
    writer.create_router("another", RouterFields(external_network="public", interfaces=other))
    assert writer.create_floating_ip("203.0.113.10", to("vm1")).result.router_name == "edge"


def test_a_port_forwarding_takes_ports_of_the_gateway_or_of_a_free_address(writer: Writer) -> None:
    gateway = writer.create_port_forwarding("203.0.113.2:80", forward("vm1:8080")).result
    assert gateway.floating_ip is None
    assert (gateway.router_name, gateway.fixed_ip, gateway.internal_port_min) == ("edge", "10.0.0.11", 8080)
    written = writer.create_port_forwarding("203.0.113.11:2222-2224", forward("vm2:22-24", "17"))
    record: PortForwardingRecord = written.result
    assert (record.name, record.internal) == ("203.0.113.11:2222-2224/udp", "vm2:22-24")
    assert written.hosts == {"gw1"}
    address = writer.get_floating_ip("203.0.113.11")
    assert (address.id, address.port, address.router_name) == (record.floating_ip, None, "edge")
    writer.create_port_forwarding("203.0.113.11:2222", forward("vm1:22", "tcp"))
    moved = writer.set_port_forwarding("203.0.113.11:2222/tcp", PortForwardingFields(internal="vm2:23")).result
    assert (moved.port_name, moved.fixed_ip, moved.internal_port_min) == ("vm2", "10.0.0.12", 23)
    writer.delete_port_forwarding("203.0.113.11:2222/tcp")
    assert writer.list_floating_ips() == [address]
    writer.delete_port_forwarding(record.id)
    assert writer.list_floating_ips() == []  # it was there for these only


def test_a_floating_ip_that_somebody_wants_outlives_its_port_forwardings(writer: Writer) -> None:
    writer.create_port_forwarding("203.0.113.11:2222", forward("vm2:22"))
    writer.set_floating_ip("203.0.113.11", FloatingIpFields(project="alice"))
    writer.delete_port("vm2")
    assert writer.list_port_forwardings() == []
    record = writer.get_floating_ip("203.0.113.11")
    assert (record.router, record.project) == (None, "alice")


Call = Callable[[Writer], object]


def floating(address: str, fields: FloatingIpFields) -> Call:
    return lambda writer: writer.create_floating_ip(address, fields)


def forwarding(external: str, fields: PortForwardingFields) -> Call:
    return lambda writer: writer.create_port_forwarding(external, fields)


REFUSED: list[tuple[Call, str]] = [
    (floating("203.0.113.10", FloatingIpFields()), "floating ip 203.0.113.10: address 203.0.113.10 is in use by a"),
    (floating("203.0.113.2", FloatingIpFields()), "address 203.0.113.2 is in use by router edge (gateway)"),
    (floating("203.0.113.1", FloatingIpFields()), "address 203.0.113.1 is the gateway of subnet public4"),
    (floating("203.0.113.255", FloatingIpFields()), "address 203.0.113.255 is the broadcast address"),
    (floating("198.51.100.1", FloatingIpFields()), "there is no external network with a subnet around 198.51.100.1"),
    (floating("10.0.0.77", FloatingIpFields(network="blue")), "floating ip 10.0.0.77: network blue is not external"),
    (
        floating("198.51.100.1", FloatingIpFields(network="public")),
        "address 198.51.100.1 is in no subnet of network public (203.0.113.0/24)",
    ),
    (floating("2001:db8::1", FloatingIpFields()), "only IPv4 is translated, IPv6 is routed"),
    (floating("", FloatingIpFields()), "network is required"),
    (
        floating("203.0.113.20", to("vm3")),
        "floating ip 203.0.113.20: router red has an interface on subnet red4, but no gateway on public",
    ),
    (
        floating("203.0.113.20", to("vm1")),
        "floating ip 203.0.113.20: port vm1 with fixed ip 10.0.0.11 has floating ip 203.0.113.10 of network public",
    ),
    (floating("203.0.113.20", to("many")), "port many has 2 IPv4 addresses (10.0.0.21, 10.0.0.22): say which"),
    (floating("203.0.113.20", to("none")), "port none has no IPv4 address"),
    (
        floating("203.0.113.20", to("many", fixed_ip="10.0.0.23")),
        "fixed_ip 10.0.0.23 is no address of port many (10.0.0.21, 10.0.0.22)",
    ),
    (floating("203.0.113.20", FloatingIpFields(fixed_ip="10.0.0.11")), "fixed_ip needs a port"),
    (
        lambda writer: writer.set_floating_ip("203.0.113.11", to("vm1")),
        "floating ip 203.0.113.11: port: it is in use by port forwarding 203.0.113.11:2222/tcp, so it can have none",
    ),
    (
        lambda writer: writer.delete_floating_ip("203.0.113.11"),
        "floating ip 203.0.113.11: it is in use by port forwarding 203.0.113.11:2222/tcp: delete these first",
    ),
    (
        lambda writer: writer.set_floating_ip("203.0.113.10", to(writer.get_router("edge").interfaces[0].port)),
        "is a router's own",
    ),
    (
        lambda writer: writer.set_port("vm1", PortFields(fixed_ips=(FixedIpRequest("10.0.0.99"),))),
        "port vm1: fixed ip 10.0.0.11 is what floating ip 203.0.113.10 stands for",
    ),
    (
        lambda writer: writer.set_port("vm2", PortFields(fixed_ips=(FixedIpRequest("10.0.0.99"),))),
        "port vm2: fixed ip 10.0.0.12 is where port forwarding 203.0.113.",
    ),
    (
        lambda writer: writer.set_router("edge", RouterFields(external_network=None)),
        "router edge: gateway: floating ip 203.0.113.1",
    ),
    (
        lambda writer: writer.set_router("edge", RouterFields(external_fixed_ips=(FixedIpRequest("203.0.113.9"),))),
        "router edge: gateway: port forwarding 203.0.113.2:8000-8009/udp needs 203.0.113.2: delete that first",
    ),
    (
        lambda writer: writer.remove_router_interfaces("edge", ["blue4"]),
        "router edge: interfaces: floating ip 203.0.113.10 of port vm1 needs one on subnet blue4",
    ),
    (
        lambda writer: writer.delete_router("edge"),
        "router edge: it is in use by floating ip 203.0.113.10, floating ip 203.0.113.11, "
        "port forwarding 203.0.113.11:2222/tcp, port forwarding 203.0.113.2:8000-8009/udp: delete these first",
    ),
    (
        lambda writer: writer.create_port("vm9", PortFields(network="public", fixed_ips=(FixedIpRequest(FIRST),))),
        "port vm9: fixed ip 203.0.113.10 is in use by a floating ip on network public",
    ),
    (
        forwarding("203.0.113.11:2222", forward("vm1:22")),
        "external: port forwarding 203.0.113.11:2222/tcp of router edge takes some of these ports already",
    ),
    (
        forwarding("203.0.113.2:8009-8010", forward("vm1:1-2", "udp")),
        "port forwarding 203.0.113.2:8009-8010: external: port forwarding 203.0.113.2:8000-8009/udp of router edge "
        "takes some of these ports already",
    ),
    (
        forwarding("203.0.113.10:22", forward("vm2:22")),
        "floating ip 203.0.113.10 stands for all of port vm1: disassociate that first",
    ),
    (forwarding("203.0.113.2:1-3", forward("vm2:1-2")), "internal ports 1-2: 2 of them, but 3 external ones"),
    (forwarding("203.0.113.2:0", forward("vm2:1")), "external ports 0 are no range in 1..65535"),
    (forwarding("203.0.113.2", forward("vm2:1")), "external '203.0.113.2' is not ADDRESS:PORT"),
    (forwarding("203.0.113.2:1", forward("vm2")), "internal 'vm2' is not PORT:NUMBER or PORT:FIRST-LAST"),
    (forwarding("203.0.113.2:1", forward("vm9:1")), "there is no port vm9"),
    (forwarding("203.0.113.2:1", forward("vm2:1", "icmp")), "protocol 'icmp' is not one of dccp, sctp, tcp, udp"),
    (forwarding("203.0.113.2:1", PortForwardingFields(internal="vm2:1")), "protocol is required"),
    (forwarding("203.0.113.2:1", PortForwardingFields(protocol="tcp")), "internal is required"),
    (forwarding("203.0.113.2:1", forward("vm3:1")), "router red has an interface on subnet red4, but no gateway on"),
    (
        lambda writer: writer.set_port_forwarding("203.0.113.11:2222/tcp", PortForwardingFields(protocol="udp")),
        "protocol is 6 and cannot be changed",
    ),
]
FIRST = "203.0.113.10"


@pytest.mark.parametrize(("call", "text"), REFUSED, ids=lambda value: value[:60] if isinstance(value, str) else "")
def test_what_makes_no_sense_is_refused_by_name(unchanged: Writer, call: Call, text: str) -> None:
    before = unchanged.revision()
    with pytest.raises(InputError, match=re.escape(text)):
        call(unchanged)
    assert unchanged.revision() == before
