# SPDX-License-Identifier: Apache-2.0
"""The members of groups always are the addresses of their ports, whoever changes what in which order."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agent.core.errors import InputError
from agent.store import chunks
from agent.store.document import (
    UNSET,
    AddressGroupFields,
    Document,
    Entry,
    FixedIpRequest,
    NetworkFields,
    PortFields,
    SecurityGroupFields,
    SubnetFields,
    Unset,
)
from agent.store.writer import Writer
from tests.servers import StoreServer
from tests.store_rows import assert_consistent

Step = Callable[[Writer], object]

GROUPS = ("web", "db")
PORTS = [f"{network}-{number}" for network in ("blue", "red") for number in range(3)]
PAIRS = ("10.0.0.3", "10.9.0.0/16", "10.9.0.0/16 fa:16:3e:00:00:01", "2001:db8::5")
NETWORKS = tuple(Entry(name, NetworkFields(type="vxlan")) for name in ("blue", "red"))
# The same prefix twice: an address may be in a group on behalf of two ports.
SUBNETS = tuple(Entry(f"{name}4", SubnetFields(network=name, cidr="10.0.0.0/28")) for name in ("blue", "red"))

group_lists = st.one_of(st.none(), st.lists(st.sampled_from(GROUPS), unique=True).map(tuple))


@st.composite
def port_fields(draw: st.DrawFn, name: str, new: bool) -> PortFields:
    groups = draw(group_lists) if new else draw(st.one_of(st.just(UNSET), group_lists))
    wishes: tuple[tuple[FixedIpRequest, ...] | Unset, ...] = (
        UNSET,
        (),
        (FixedIpRequest("10.0.0.3"),),
        (FixedIpRequest("10.0.0.4"),),
    )
    return PortFields(
        network=name.split("-")[0] if new else UNSET,
        fixed_ips=draw(st.sampled_from(wishes)),
        security_groups=groups,
        allowed_address_pairs=draw(st.one_of(st.just(UNSET), st.sets(st.sampled_from(PAIRS)).map(tuple))),
    )


def create(name: str, fields: PortFields) -> Step:
    return lambda writer: writer.create_port(name, fields)


def change(name: str, fields: PortFields) -> Step:
    return lambda writer: writer.set_port(name, fields)


def delete(name: str) -> Step:
    return lambda writer: writer.delete_port(name)


def delete_group(name: str) -> Step:
    return lambda writer: writer.delete_security_group(name)


def create_group(name: str) -> Step:
    return lambda writer: writer.create_security_group(name, SecurityGroupFields())


def automatic(there: bool) -> Step:
    fields = SubnetFields(network="blue", cidr="2001:db8::/64", ipv6_mode="slaac")
    return lambda writer: writer.create_subnet("blue6", fields) if there else writer.delete_subnet("blue6")


def apply(document: Document) -> Step:
    return lambda writer: writer.apply(document, set_name="one", prune=True)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    names = draw(st.lists(st.sampled_from(PORTS), unique=True))
    wished: set[tuple[str, object]] = set()
    ports = []
    for name in names:
        fields = draw(port_fields(name, True))
        wish = (name.split("-")[0], fields.fixed_ips)
        if wish not in wished:
            ports.append(Entry(name, fields))
        wished.add(wish)
    groups = tuple(Entry(name, SecurityGroupFields()) for name in GROUPS)
    return Document(NETWORKS, SUBNETS, tuple(ports), security_groups=groups)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    name = draw(st.sampled_from(PORTS))
    group = draw(st.sampled_from(GROUPS))
    made = (
        lambda: create(name, draw(port_fields(name, True))),
        lambda: change(name, draw(port_fields(name, False))),
        lambda: change(name, draw(port_fields(name, False))),
        lambda: delete(name),
        lambda: delete_group(group),
        lambda: create_group(group),
        lambda: automatic(draw(st.booleans())),
        lambda: apply(draw(documents())),
    )
    return draw(st.sampled_from(made))()


def run(writer: Writer, made: list[Step]) -> None:
    for step in made:
        try:
            step(writer)
        except InputError:
            continue  # it makes no sense now: the other writer was first, or there is nothing to change


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Writer, Writer]]:
    with (
        StoreServer(tmp_path_factory.mktemp("store")) as server,
        Writer.connect([server.address], timeout=60) as one,
        Writer.connect([server.address], timeout=60) as two,
    ):
        yield one, two


# What two threads do cannot be repeated, so there is nothing to shrink.
@settings(
    max_examples=25,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(first=st.lists(steps(), max_size=8), second=st.lists(steps(), max_size=8), start=documents())
def test_counts_are_what_the_ports_say_while_two_write(
    writers: tuple[Writer, Writer], first: list[Step], second: list[Step], start: Document
) -> None:
    clear(writers[0])
    writers[0].apply(start, set_name="one", prune=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, writers, (first, second)))
    for writer in writers:
        catch_up(writer)
        assert_consistent(writer)


def catch_up(writer: Writer) -> None:
    """Make a replica as new as the store: an answer to a write comes after all that was before."""
    vni = writer.options().get("vni_ranges")
    writer.set_options({"vni_ranges": "1:1000" if vni == "1:2000" else "1:2000"})


def clear(writer: Writer) -> None:
    catch_up(writer)
    for port in writer.list_ports():
        writer.delete_port(port.id)
    for network in writer.list_networks():
        for subnet in network.subnets:
            writer.delete_subnet(subnet)
        writer.delete_network(network.id)
    for group in writer.list_security_groups():
        writer.delete_security_group(group.id)
    assert writer.read(lambda view: view.rows("Address_Chunk")) == []


sizes = st.integers(0, 1500)


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(history=st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4))
def test_chunks_grow_and_shrink_with_what_is_in_them(
    writers: tuple[Writer, Writer], history: list[tuple[int, int]]
) -> None:
    writer = writers[0]
    writer.create_address_group("office", AddressGroupFields())
    try:
        for first, size in history:
            addresses = tuple(str(ipaddress.ip_address(0x0A000000 + number)) for number in range(first, first + size))
            made = writer.set_address_group("office", AddressGroupFields(addresses=addresses))
            assert made.result.addresses == addresses
            assert_consistent(writer)
            rows = len(writer.read(lambda view: view.rows("Address_Chunk")))
            assert rows <= 1 + size // (chunks.JOINED // 4)
    finally:
        writer.delete_address_group("office")
