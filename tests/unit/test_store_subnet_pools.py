# SPDX-License-Identifier: Apache-2.0
"""Subnet pools and address scopes: what is taken, and that no address is in a scope twice."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import InputError
from agent.store import ipam
from agent.store.document import AddressScopeFields, NetworkFields, SubnetFields, SubnetPoolFields
from agent.store.writer import Writer
from tests.servers import StoreServer
from tests.store_rows import assert_consistent

INSIDE = st.builds(
    lambda number, bits: ipaddress.ip_network((int(ipaddress.ip_address("10.0.0.0")) + number, bits), strict=False),
    st.integers(0, 255),
    st.integers(26, 32),
)


@given(st.lists(INSIDE, max_size=12), st.integers(24, 32))
def test_the_first_free_prefix_is_what_trying_all_of_them_finds(taken, length: int) -> None:
    outer = ipaddress.ip_network("10.0.0.0/24")
    used = [n for i, n in enumerate(taken) if not any(n.overlaps(other) for other in taken[:i])]
    expected = next((n for n in outer.subnets(new_prefix=length) if not any(n.overlaps(u) for u in used)), None)
    assert ipam.free_prefix([outer], length, used) == expected


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    """A store with networks blue and red, and pool ten in scope inside."""
    with StoreServer(tmp_path) as server, Writer.connect([server.address]) as writer:
        for name in ("blue", "red"):
            writer.create_network(name, NetworkFields(type="vxlan"))
        writer.create_address_scope("inside", AddressScopeFields(ip_version=4))
        fields = SubnetPoolFields(
            prefixes=("10.0.0.0/24", "10.0.1.0/24"), default_prefixlen=26, min_prefixlen=24, address_scope="inside"
        )
        writer.create_subnet_pool("ten", fields)
        yield writer
        assert_consistent(writer)


def test_subnets_take_the_first_prefix_that_is_free(writer: Writer) -> None:
    pool = writer.get_subnet_pool("ten")
    assert (pool.prefixes, pool.ip_version, pool.max_prefixlen) == (("10.0.0.0/23",), 4, 32)
    writer.create_subnet("blue4", SubnetFields(network="blue", subnet_pool="ten"))
    writer.create_subnet("red4", SubnetFields(network="red", subnet_pool="ten", prefixlen=25))
    writer.create_subnet("red5", SubnetFields(network="red", subnet_pool="ten", cidr="10.0.1.128/25"))
    found = {subnet.name: (subnet.cidr, subnet.gateway, subnet.address_scope) for subnet in writer.list_subnets()}
    assert found == {
        "blue4": ("10.0.0.0/26", "10.0.0.1", "inside"),
        "red4": ("10.0.0.128/25", "10.0.0.129", "inside"),
        "red5": ("10.0.1.128/25", "10.0.1.129", "inside"),
    }
    writer.delete_subnet("blue4")
    again = writer.create_subnet("blue4", SubnetFields(network="blue", subnet_pool="ten")).result
    assert again.cidr == "10.0.0.0/26"
    assert not writer.set_subnet("blue4", SubnetFields(subnet_pool="ten", prefixlen=26)).changed


def test_subnets_go_with_their_pool_into_another_scope(writer: Writer) -> None:
    writer.create_subnet("blue4", SubnetFields(network="blue", subnet_pool="ten"))
    written = writer.set_subnet_pool("ten", SubnetPoolFields(address_scope=None))
    assert writer.get_subnet("blue4").address_scope is None
    assert written.networks == {writer.get_network("blue").id}
    writer.delete_address_scope("inside")


def test_ipv6_pools_give_prefixes_for_automatic_addresses(writer: Writer) -> None:
    writer.create_subnet_pool("six", SubnetPoolFields(prefixes=("2001:db8::/48",)))
    for name, expected in (("blue6", "2001:db8::/64"), ("red6", "2001:db8:0:1::/64")):
        fields = SubnetFields(network=name[:-1], subnet_pool="six", ipv6_mode="slaac")
        assert writer.create_subnet(name, fields).result.cidr == expected


Call = Callable[[Writer], object]


def subnet(**fields: object) -> Call:
    make: Callable[..., SubnetFields] = SubnetFields
    return lambda writer: writer.create_subnet("new", make(network="red", **fields))


def pool(**fields: object) -> Call:
    make: Callable[..., SubnetPoolFields] = SubnetPoolFields
    return lambda writer: writer.create_subnet_pool("new", make(**fields))


REFUSED: list[tuple[Call, str]] = [
    (subnet(), "subnet new: cidr is required, or a subnet_pool to take one from"),
    (subnet(subnet_pool="ten", prefixlen=23), "prefixlen 23 is outside 24..32, what subnet pool ten gives"),
    (subnet(subnet_pool="ten", cidr="10.0.2.0/24"), "cidr 10.0.2.0/24 is not in subnet pool ten (10.0.0.0/23)"),
    (subnet(subnet_pool="ten", cidr="2001:db8::/32"), "cidr 2001:db8::/32 is not in subnet pool ten"),
    (
        subnet(subnet_pool="ten", cidr="10.0.0.0/25"),
        "cidr 10.0.0.0/25 overlaps subnet blue4 (10.0.0.0/24) of the same subnet pool",
    ),
    (subnet(subnet_pool="ten", cidr="10.0.1.0/25", prefixlen=26), "prefixlen 26 contradicts cidr 10.0.1.0/25"),
    (subnet(cidr="10.5.0.0/24", prefixlen=26), "prefixlen 26 contradicts cidr 10.5.0.0/24"),
    (
        lambda writer: writer.create_subnet("new", SubnetFields(network="blue", cidr="10.5.0.0/24")),
        "subnet new: it is in no address scope and subnet blue4 of the same network in address scope inside",
    ),
    (pool(), "subnet pool new: prefixes are required"),
    (pool(prefixes=("10.8.0.0/16", "2001:db8::/32")), "prefixes: those of a pool are all of IPv4 or all of IPv6"),
    (pool(prefixes=("10.8.0.0/16",), default_prefixlen=33), "default_prefixlen 33 is outside 1..32"),
    (pool(prefixes=("10.8.0.0/16",), default_prefixlen=24, min_prefixlen=26), "default_prefixlen 24 is outside 26..32"),
    (
        pool(prefixes=("10.0.0.0/8",), address_scope="inside"),
        "subnet pool new: prefixes: they overlap 10.0.0.0/23 of subnet pool ten, which is in address scope inside too",
    ),
    (pool(prefixes=("2001:db8::/32",), address_scope="inside"), "address scope inside is of IPv4"),
    (
        lambda writer: writer.set_subnet_pool("ten", SubnetPoolFields(prefixes=("10.0.1.0/24",))),
        "subnet pool ten: prefixes: subnet blue4 has 10.0.0.0/24 from it, which they leave out",
    ),
    (
        lambda writer: writer.set_subnet("blue4", SubnetFields(subnet_pool="other")),
        "subnet blue4: subnet_pool is ten and cannot be changed",
    ),
    (lambda writer: writer.delete_subnet_pool("ten"), "subnet pool ten: it is in use by subnet blue4"),
    (lambda writer: writer.delete_address_scope("inside"), "address scope inside: it is in use by subnet pool ten"),
    (
        lambda writer: writer.create_address_scope("x", AddressScopeFields(ip_version=5)),
        "address scope x: ip_version 5 is neither 4 nor 6",
    ),
    (
        lambda writer: writer.set_address_scope("inside", AddressScopeFields(ip_version=6)),
        "address scope inside: ip_version is 4 and cannot be changed",
    ),
]


def test_what_makes_no_sense_is_refused_by_name(writer: Writer) -> None:
    writer.create_subnet("blue4", SubnetFields(network="blue", subnet_pool="ten", prefixlen=24))
    writer.create_subnet_pool("other", SubnetPoolFields(prefixes=("10.0.0.0/8",)))
    before = writer.revision()
    for call, text in REFUSED:
        with pytest.raises(InputError, match=re.escape(text)):
            call(writer)
    assert writer.revision() == before


def test_a_pool_that_is_used_up_says_so(writer: Writer) -> None:
    writer.create_subnet("blue4", SubnetFields(network="blue", subnet_pool="ten", prefixlen=24))
    writer.create_subnet("red4", SubnetFields(network="red", subnet_pool="ten", prefixlen=24))
    with pytest.raises(InputError, match=r"subnet new: subnet pool ten has no /32 left \(10.0.0.0/23\)"):
        writer.create_subnet("new", SubnetFields(network="red", subnet_pool="ten", prefixlen=32))
