# SPDX-License-Identifier: Apache-2.0
"""Real clients get what the store says: their own tenant's, by DHCPv4, DHCPv6 and router advertisements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.service_identity import METADATA4
from tests.functional import clients
from tests.functional.clients import forget
from tests.functional.filter_wire import namespace_of
from tests.functional.instance_sockets import get
from tests.functional.lab import Lab, eventually
from tests.functional.service_places import (
    ADDRESS4,
    ADDRESS6,
    BLUE,
    DOCUMENT,
    RED,
    ROUTE,
    Tenant,
    addresses,
    mtu,
    routes,
)

BOTH = pytest.mark.parametrize("tenant", [BLUE, RED], ids=["blue, direct", "red, filtered"])


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(1)
    lab.bring_up(DOCUMENT)
    return lab


@BOTH
def test_udhcpc_is_told_its_own_network(lab: Lab, tmp_path: Path, tenant: Tenant) -> None:
    forget(lab, tenant.port)
    told = clients.udhcpc(lab, tenant.port, tmp_path, "-O", "staticroutes", "-O", "mtu", "-O", "search")
    assert (told["ip"], told["mask"], told["router"]) == (ADDRESS4, "24", "10.0.0.1")
    assert (told["dns"], told["domain"], told["mtu"]) == (tenant.dns4, tenant.domain, str(tenant.mtu))
    assert told["hostname"] == tenant.hostname
    assert f"{METADATA4}/32" in told["staticroutes"]
    assert (f"{ROUTE[0]} {ROUTE[1]}" in told["staticroutes"]) is (tenant is BLUE)
    assert int(told["lease"]) >= 3600


@BOTH
def test_dhclient_configures_ipv4_and_then_metadata_answer(lab: Lab, tmp_path: Path, tenant: Tenant) -> None:
    forget(lab, tenant.port)
    with clients.dhclient(lab, tenant.port, tmp_path) as (told, resolver):
        assert tenant.dns4 in resolver
        assert tenant.domain in resolver
        eventually(lambda: any(METADATA4 in route for route in routes(lab, tenant.port)), "the routes are set")
        assert f"{ADDRESS4}/24" in addresses(lab, tenant.port)
        assert mtu(lab, tenant.port) == tenant.mtu
        assert "default via 10.0.0.1 dev eth0" in routes(lab, tenant.port)
        assert (f"{ROUTE[0]} via {ROUTE[1]} dev eth0" in routes(lab, tenant.port)) is (tenant is BLUE)
        assert told["new_host_name"] == tenant.hostname
        found = get(namespace_of(lab, tenant.port), "/latest/meta-data/local-hostname")
        assert found.text.split(".")[0] == tenant.hostname


@BOTH
def test_dhclient_gets_its_ipv6_address(lab: Lab, tmp_path: Path, tenant: Tenant) -> None:
    forget(lab, tenant.port)
    with clients.dhclient(lab, tenant.port, tmp_path, 6) as (told, resolver):
        assert told["new_ip6_address"] == ADDRESS6
        assert told["new_dhcp6_name_servers"] == tenant.dns6
        assert told["new_dhcp6_domain_search"].rstrip(".") == tenant.domain
        assert told["new_fqdn_fqdn"].rstrip(".") == f"{tenant.hostname}.{tenant.domain}"
        assert tenant.dns6 in resolver
        assert addresses(lab, tenant.port, 6) == [f"{ADDRESS6}/128"]


@BOTH
def test_dhcpcd_follows_the_advertisement_to_dhcpv6_with_rapid_commit(lab: Lab, tmp_path: Path, tenant: Tenant) -> None:
    forget(lab, tenant.port)
    with clients.dhcpcd(lab, tenant.port, tmp_path) as (told, resolver):
        assert told["new_dhcp6_ia_na1_ia_addr1"] == ADDRESS6
        assert "new_dhcp6_rapid_commit" in told
        assert tenant.dns6 in resolver
        assert addresses(lab, tenant.port, 6) == [f"{ADDRESS6}/128"]
        # Nobody routes on this network, so nobody may say that it does.
        assert not any(route.startswith("default") for route in routes(lab, tenant.port, 6))


@BOTH
def test_networkd_configures_both_families(lab: Lab, tmp_path: Path, tenant: Tenant) -> None:
    forget(lab, tenant.port)
    resolvers = [tenant.dns4, tenant.dns6]
    with clients.networkd(lab, tenant.port, tmp_path, wanted=[ADDRESS4, ADDRESS6], resolvers=resolvers) as known:
        assert set(known.link["DNS"].split()) == set(resolvers)
        assert (known.lease["HOSTNAME"], known.lease["DOMAINNAME"]) == (tenant.hostname, tenant.domain)
        assert f"{METADATA4}/32," in known.lease["CLASSLESS_ROUTES"]
        assert mtu(lab, tenant.port) == tenant.mtu
        assert [address.split("/")[0] for address in addresses(lab, tenant.port, 6)] == [ADDRESS6]
        for version in (4, 6):
            found = get(namespace_of(lab, tenant.port), "/latest/meta-data/local-hostname", version=version)
            assert found.text.split(".")[0] == tenant.hostname


def test_the_kernel_makes_its_address_from_the_advertisement(lab: Lab) -> None:
    expected = lab.address("green1", 6)
    forget(lab, "green1")
    for state in ("down", "up"):
        lab.output("green1", "ip", "link", "set", "eth0", state)
    eventually(lambda: addresses(lab, "green1", 6) == [f"{expected}/64"], "the kernel has its address")
    assert expected.rpartition("::")[0] == "2001:db8:2" or expected.startswith("2001:db8:2:")
    assert lab.output("green1", "cat", "/proc/sys/net/ipv6/conf/eth0/mtu").strip() == "1420"
    assert not any(route.startswith("default") for route in routes(lab, "green1", 6))


def test_networkd_takes_resolver_and_address_from_the_advertisement(lab: Lab, tmp_path: Path) -> None:
    expected = [lab.address("green1", 4), lab.address("green1", 6)]
    forget(lab, "green1")
    with clients.networkd(lab, "green1", tmp_path, wanted=expected, resolvers=["2001:db8:2::53"]):
        assert [address.split("/")[0] for address in addresses(lab, "green1", 6)] == expected[1:]


def test_stateless_dhcpv6_gives_the_resolver_and_the_advertisement_the_address(lab: Lab, tmp_path: Path) -> None:
    expected = lab.address("lean1", 6)
    forget(lab, "lean1")
    for state in ("down", "up"):
        lab.output("lean1", "ip", "link", "set", "eth0", state)
    eventually(lambda: addresses(lab, "lean1", 6) == [f"{expected}/64"], "the kernel has its address")
    with clients.dhclient(lab, "lean1", tmp_path, 6, event="RENEW6", options=["-S"]) as (told, resolver):
        assert told["new_dhcp6_name_servers"] == "2001:db8:3::53"
        assert told["new_dhcp6_domain_search"].rstrip(".") == "lean.example.org"
        assert "new_ip6_address" not in told
        assert "2001:db8:3::53" in resolver
