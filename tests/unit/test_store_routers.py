# SPDX-License-Identifier: Apache-2.0
"""Routers in the store: their ports, what is derived from these, and what is refused with which words."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.errors import InputError
from agent.store.document import (
    FixedIpRequest,
    HostFields,
    HostRoute,
    NetworkFields,
    PortFields,
    RouterFields,
    SubnetFields,
)
from agent.store.writer import Writer
from tests.servers import StoreServer
from tests.store_rows import assert_consistent


def on(subnet: str, address: str | None = None) -> FixedIpRequest:
    return FixedIpRequest(address, subnet)


@contextmanager
def edge_store(folder: Path) -> Iterator[Writer]:
    """A store with an external network, two networks of tenants, and router edge between all of them."""
    with StoreServer(folder) as server, Writer.connect([server.address]) as writer:
        writer.create_network("public", NetworkFields(type="flat", physnet="external", external=True))
        writer.create_subnet("public4", SubnetFields(network="public", cidr="203.0.113.0/24", dhcp=False))
        writer.create_network("blue", NetworkFields(type="vxlan"))
        writer.create_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24"))
        writer.create_subnet("blue6", SubnetFields(network="blue", cidr="2001:db8:b::/64", ipv6_mode="slaac"))
        writer.create_network("red", NetworkFields(type="vxlan"))
        writer.create_subnet("red4", SubnetFields(network="red", cidr="10.1.0.0/24"))
        writer.create_router(
            "edge",
            RouterFields(
                external_network="public",
                gateway_hosts=("host2", "host1"),
                interfaces=(on("blue4"), on("blue6"), on("red4", "10.1.0.99")),
                routes=(HostRoute("10.9.0.0/16", "10.0.0.9"), HostRoute("10.9.0.0/16", "10.0.0.10")),
            ),
        )
        yield writer
        assert_consistent(writer)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with edge_store(tmp_path) as writer:
        yield writer


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    """The same store for all that is refused, and so changes nothing, with subnets that do not fit."""
    with edge_store(tmp_path_factory.mktemp("store")) as writer:
        writer.create_network("twin", NetworkFields(type="vxlan"))
        writer.create_subnet("twin4", SubnetFields(network="twin", cidr="10.0.0.128/25"))
        writer.create_subnet("bare4", SubnetFields(network="twin", cidr="10.5.0.0/24", gateway=None))
        writer.create_host("host1", HostFields())
        yield writer


def interfaces(writer: Writer, router: str = "edge") -> list[tuple[str, str]]:
    return [(i.subnet_name, i.address) for i in writer.get_router(router).interfaces]


def test_a_router_takes_the_gateway_of_each_subnet_on_one_port_a_network(writer: Writer) -> None:
    edge = writer.get_router("edge")
    assert interfaces(writer) == [("blue4", "10.0.0.1"), ("blue6", "2001:db8:b::1"), ("red4", "10.1.0.99")]
    assert len({i.port for i in edge.interfaces}) == 2
    assert [fixed_ip.address for fixed_ip in edge.external_fixed_ips] == ["203.0.113.2"]
    assert edge.gateway_hosts == ("host2", "host1")
    assert [(route.destination, route.nexthop) for route in edge.routes] == [
        ("10.9.0.0/16", "10.0.0.10"),
        ("10.9.0.0/16", "10.0.0.9"),
    ]
    port = writer.get_port(edge.interfaces[0].port)
    assert (port.device_owner, port.device_id, port.host) == ("network:router_interface", edge.id, "")
    assert not port.port_security
    assert port.security_groups is None
    gateway = writer.get_port(edge.gateway_port or "")
    assert (gateway.device_owner, gateway.network_name) == ("network:router_gateway", "public")


def test_interfaces_come_and_go_by_subnet(writer: Writer) -> None:
    first = writer.get_router("edge").interfaces[0]
    writer.remove_router_interfaces("edge", ["blue6", "red4"])
    assert interfaces(writer) == [("blue4", "10.0.0.1")]
    assert writer.get_router("edge").interfaces[0].port == first.port  # and its MAC address with it
    assert len([p for p in writer.list_ports() if p.network_name == "red"]) == 0
    assert not writer.add_router_interfaces("edge", [on("blue4")]).changed
    writer.add_router_interfaces("edge", [on("red4")])
    assert interfaces(writer) == [("blue4", "10.0.0.1"), ("red4", "10.1.0.1")]
    writer.set_router("edge", RouterFields(interfaces=(on("blue4"), on("red4", "10.1.0.7"))))
    assert interfaces(writer) == [("blue4", "10.0.0.1"), ("red4", "10.1.0.7")]
    writer.set_router("edge", RouterFields(interfaces=(), routes=()))
    assert interfaces(writer) == []
    assert writer.get_router("edge").external_network is not None


def test_the_gateway_takes_an_address_of_each_ip_version_or_those_that_are_wished(writer: Writer) -> None:
    writer.create_subnet("public6", SubnetFields(network="public", cidr="2001:db8:f::/64"))
    fields = RouterFields(external_network="public")
    second = writer.create_router("second", fields).result
    assert [fixed_ip.address for fixed_ip in second.external_fixed_ips] == ["203.0.113.3", "2001:db8:f::2"]
    wished = (FixedIpRequest("203.0.113.50"),)
    changed = writer.set_router("second", RouterFields(external_fixed_ips=wished)).result
    assert [fixed_ip.address for fixed_ip in changed.external_fixed_ips] == ["203.0.113.50"]
    assert changed.gateway_port == second.gateway_port
    without = writer.set_router("second", RouterFields(external_network=None)).result
    assert (without.external_network, without.external_fixed_ips) == (None, ())
    assert not writer.set_router("second", RouterFields(external_network=None)).changed


def test_the_gateway_takes_part_in_automatic_addresses(writer: Writer) -> None:
    writer.create_subnet("public6", SubnetFields(network="public", cidr="2001:db8:f::/64", ipv6_mode="slaac"))
    record = writer.create_router("second", RouterFields(external_network="public")).result
    assert [":" in fixed_ip.address for fixed_ip in record.external_fixed_ips] == [False, True]


def test_ports_that_a_cloud_made_for_a_router_are_its_interfaces(writer: Writer) -> None:
    writer.create_network("green", NetworkFields(type="vxlan"))
    writer.create_subnet("green4", SubnetFields(network="green", cidr="10.2.0.0/24"))
    router = writer.get_router("edge").id
    fields = PortFields(
        network="green",
        fixed_ips=(FixedIpRequest("10.2.0.1"),),
        device_owner="network:router_interface",
        device_id=router,
        port_security=False,
    )
    writer.create_port("", fields, port_id=str(uuid.uuid4()), claim_name=False)
    assert ("green4", "10.2.0.1") in interfaces(writer)
    writer.remove_router_interfaces("edge", ["green4"])
    assert ("green4", "10.2.0.1") not in interfaces(writer)


def test_a_router_goes_with_its_ports(writer: Writer) -> None:
    writer.delete_router("edge")
    assert writer.list_ports() == []
    writer.delete_subnet("public4")
    writer.delete_network("public")


def test_two_routers_may_have_the_same_prefixes(writer: Writer) -> None:
    writer.create_network("other", NetworkFields(type="vxlan"))
    writer.create_subnet("other4", SubnetFields(network="other", cidr="10.0.0.0/24"))
    writer.create_router("second", RouterFields(external_network="public", interfaces=(on("other4"),)))
    assert interfaces(writer, "second") == [("other4", "10.0.0.1")]


Call = Callable[[Writer], object]


def setting(**fields: object) -> Call:
    make: Callable[..., RouterFields] = RouterFields
    return lambda writer: writer.set_router("edge", make(**fields))


REFUSED: list[tuple[Call, str]] = [
    (
        setting(interfaces=(on("blue4"), on("twin4"))),
        "router edge: interfaces: subnets blue4 (10.0.0.0/24) and twin4 (10.0.0.128/25) overlap, "
        "so it could not tell them apart",
    ),
    (setting(interfaces=(on("blue4"), on("blue4"))), "router edge: interfaces: subnet blue4 is given twice"),
    (setting(interfaces=(on("nowhere4"),)), "router edge: there is no subnet nowhere4"),
    (
        setting(interfaces=(on("bare4"),)),
        "router edge, interface bare4: subnet bare4 has no gateway that could be its address: give an address",
    ),
    (
        setting(interfaces=(on("blue4", "10.7.0.1"),)),
        "router edge, interface blue4: fixed ip 10.7.0.1 is not in 10.0.0.0/24",
    ),
    (
        setting(external_fixed_ips=(FixedIpRequest("198.51.100.1"),)),
        "router edge, gateway: fixed ip 198.51.100.1 is in no subnet of network public (203.0.113.0/24)",
    ),
    (
        setting(external_network="blue", interfaces=()),
        "router edge: gateway network blue is not external (hostplane network set blue --external)",
    ),
    (setting(external_network=None, external_fixed_ips=(on("public4"),)), "router edge, gateway: fixed ips mean"),
    (setting(gateway_hosts=("host1", "host2", "host1")), "router edge: gateway hosts: host1 is given twice"),
    (setting(gateway_hosts=("host 1",)), "router edge: host 'host 1' is not a host name"),
    (
        setting(routes=(HostRoute("10.9.0.0/16", "10.8.0.9"),)),
        "router edge: routes: next hop 10.8.0.9 of 10.9.0.0/16 is in none of its subnets "
        "(10.0.0.0/24, 10.1.0.0/24, 2001:db8:b::/64, 203.0.113.0/24)",
    ),
    (
        setting(routes=(HostRoute("10.9.0.0/16", "10.0.0.1"),)),
        "router edge: routes: next hop 10.0.0.1 of 10.9.0.0/16 is an address of the router itself",
    ),
    (
        setting(routes=(HostRoute("10.9.0.0/16", "10.0.0.9"), HostRoute("10.9.0.0/16", "10.0.0.9"))),
        "router edge: routes: 10.9.0.0/16 by way of 10.0.0.9 is given twice",
    ),
    (setting(routes=(HostRoute("10.9.0.1/16", "10.0.0.9"),)), "router edge: routes: '10.9.0.1/16' is not a prefix"),
    (setting(routes=(HostRoute("10.0.0.0/24", "10.0.0.9"),)), "router edge: routes: 10.0.0.0/24 is a subnet of the"),
    (
        lambda writer: writer.remove_router_interfaces("edge", ["blue4"]),
        "router edge: routes: next hop 10.0.0.10 of 10.9.0.0/16 is in none of its subnets",
    ),
    (
        lambda writer: writer.remove_router_interfaces("edge", ["bare4"]),
        "router edge: interfaces: it has none on subnet bare4",
    ),
    (
        lambda writer: writer.create_router("second", RouterFields(interfaces=(on("blue4"),))),
        "is in use by router edge (interface) on network blue",
    ),
    (
        lambda writer: writer.delete_port(writer.get_router("edge").interfaces[0].port),
        "it is an interface of router edge: hostplane router remove-interface edge blue4 blue6",
    ),
    (
        lambda writer: writer.delete_port(writer.get_router("edge").gateway_port or ""),
        "it is the gateway of router edge: hostplane router set edge --no-external-network",
    ),
    (lambda writer: writer.delete_subnet("blue4"), "subnet blue4: it is in use by router edge (interface)"),
    (lambda writer: writer.delete_subnet("blue6"), "subnet blue6: it is in use by router edge (interface)"),
    (lambda writer: writer.delete_subnet("public4"), "subnet public4: it is in use by router edge (gateway)"),
    (lambda writer: writer.delete_network("public"), "router edge (gateway), subnet public4"),
    (
        lambda writer: writer.set_network("public", NetworkFields(external=False)),
        "network public: external: it is in use by router edge (gateway): delete these first",
    ),
    (
        lambda writer: writer.set_subnet("blue4", SubnetFields(gateway="10.0.0.254")),
        "subnet blue4: gateway 10.0.0.1 is an address of router edge (interface): take that away first",
    ),
    (lambda writer: writer.delete_host("host1"), "host host1: it is in use by router edge"),
]


@pytest.mark.parametrize(("call", "text"), REFUSED, ids=lambda value: value[:60] if isinstance(value, str) else "")
def test_what_makes_no_sense_is_refused_by_name(unchanged: Writer, call: Call, text: str) -> None:
    before = unchanged.revision()
    with pytest.raises(InputError, match=re.escape(text)):
        call(unchanged)
    assert unchanged.revision() == before


def test_a_write_names_the_hosts_that_have_to_act(writer: Writer) -> None:
    for host in ("host1", "host2", "host3"):
        writer.create_host(host, HostFields())
    writer.create_port("vm1", PortFields(network="red", host="host3"))
    written = writer.set_router("edge", RouterFields(enable_snat=False))
    red = writer.get_network("red").id
    assert written.hosts == {"host1", "host2"}
    assert red in written.networks  # and with it host3
    left = writer.set_router("edge", RouterFields(gateway_hosts=("host1",)))
    assert {"host1", "host2"} <= left.hosts
    gone = writer.remove_router_interfaces("edge", ["red4"])
    assert red in gone.networks


def test_a_host_that_is_to_be_drained_says_so_until_it_is_not(writer: Writer) -> None:
    writer.create_host("host1", HostFields(tunnel_address="192.0.2.1"))
    assert not writer.get_host("host1").drain
    assert writer.set_host("host1", HostFields(drain=True)).hosts == {"host1"}
    writer.set_host("host1", HostFields(tunnel_address="192.0.2.2"))
    assert writer.get_host("host1").drain
    writer.set_host("host1", HostFields(drain=False))
    assert not writer.get_host("host1").drain
