# SPDX-License-Identifier: Apache-2.0
"""What the planners write is letter by letter what Open vSwitch shows afterwards."""

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.l2.pipeline import Table
from tests.golden.l2_world import SETTINGS, World, example_world, services_world, underlay
from tests.ovs.pipeline_lab import dump, load, running_switch


@pytest.fixture(scope="module")
def switch(tmp_path_factory):
    with running_switch(tmp_path_factory.mktemp("text"), ports=1) as running:
        yield running


@pytest.mark.parametrize("world", [example_world, services_world])
def test_planned_text_is_what_the_switch_shows(switch, world):
    flows = world().flows()
    load(switch, flows)
    assert dump(switch) == flows


def test_planned_text_over_ipv6_is_what_the_switch_shows(switch):
    world = example_world()
    world.settings = replace(SETTINGS, tunnel_address="fd00::1")
    for number, name in enumerate(("there", "beyond"), 2):
        world.host(name, f"fd00::{number}")
    flows = world.flows()
    assert any("tun_ipv6_src=fd00::2" in key for key in flows)
    assert any("set_field:fd00::3->tun_ipv6_dst" in actions for actions in flows.values())
    load(switch, flows)
    assert dump(switch) == flows


PREFIXES = st.one_of(
    st.tuples(st.ip_addresses(v=4).map(int), st.integers(0, 32)).map(lambda p: IPv4Network(p, strict=False)),
    st.tuples(st.ip_addresses(v=6).map(int), st.integers(0, 128)).map(lambda p: IPv6Network(p, strict=False)),
).map(str)
MACS = st.binary(min_size=5, max_size=5).map(lambda tail: "02:" + tail.hex(":"))
ADDRESSES = st.ip_addresses().map(str)


@settings(max_examples=60)
@given(
    addresses=st.lists(ADDRESSES, max_size=3, unique=True),
    pairs=st.lists(st.tuples(PREFIXES, MACS), max_size=4).map(tuple),
    far=st.lists(ADDRESSES, max_size=3, unique=True),
    vni=st.integers(1, (1 << 24) - 1),
)
def test_any_address_is_written_as_the_switch_shows_it(switch, addresses, pairs, far, vni):
    world = World()
    world.host("there", underlay(2))
    world.network("blue", "vxlan", vni)
    world.port(1, "blue", *addresses, pairs=pairs)
    world.endpoint(2, "blue", "there", *(address for address in far if address not in addresses))
    flows = world.flows()
    load(switch, flows)
    assert dump(switch) == flows


def test_every_table_drops_what_no_flow_speaks_of(switch):
    load(switch, example_world().flows())
    shown = dump(switch)
    goes_on = {Table.ND_SECURITY, Table.NEIGHBOR, Table.NEIGHBOR_IN, Table.SERVICES, Table.ROUTER, Table.LOCAL}
    for table in Table:
        ends = shown[f"table={table.value},priority=0"]
        assert (ends == "drop") != (table in goes_on), table
