# SPDX-License-Identifier: Apache-2.0
"""Planning of layer 2: what is planned, what is reported, and what a change costs."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.allocations import Claim
from agent.core.errors import Actor
from agent.core.items import OvsBridge, OvsPort
from agent.core.memo import Memo
from agent.core.model import HostName, NetworkType, PluggedInterface, PortId
from agent.core.naming import tap_name
from agent.core.plan import ItemRef
from agent.l2.networks import chunk_count, cut_chunks
from agent.l2.planner import wanted_claims
from agent.l2.settings import LocalSettings
from tests.golden.l2_world import BOTH, SETTINGS, World, all_flows, example_world, mac, underlay

BLUE_MULTICAST = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"


def small_world() -> World:
    world = World()
    world.host("there", underlay(2))
    world.network("blue", "vxlan", 5000)
    world.port(1, "blue", "10.0.0.1")
    world.port(2, "blue", "10.0.0.2")
    world.endpoint(21, "blue", "there", "10.0.0.21")
    return world


def changed(world, change):
    """Return the object ids whose groups are new, other or gone after *change*."""
    memo = Memo()
    before, _ = world.groups(memo)
    change()
    after, _ = world.groups(memo)
    return {key for key in before.keys() | after.keys() if before.get(key) is not after.get(key)}


# What the switch itself must have.


def test_own_bridge_tunnels_and_patches_are_planned():
    items = World().groups()[0]["host"].items["ovs"]
    tunnel_options = (("key", "flow"), ("local_ip", underlay(1)), ("remote_ip", "flow"))
    assert items == {
        "bridge/br-int": OvsBridge("br-int", "dummy", "secure"),
        "port/hp-vxlan": OvsPort("hp-vxlan", "br-int", "vxlan", tunnel_options),
        "port/hp-geneve": OvsPort("hp-geneve", "br-int", "geneve", tunnel_options),
        "port/hp-i-physnet1": OvsPort("hp-i-physnet1", "br-int", "patch", (("peer", "hp-p-physnet1"),)),
        "port/hp-p-physnet1": OvsPort("hp-p-physnet1", "br-phy", "patch", (("peer", "hp-i-physnet1"),)),
    }


def test_host_without_tunnel_address_has_no_tunnel_ports():
    items = World(settings=LocalSettings(None, BOTH)).groups()[0]["host"].items["ovs"]
    assert set(items) == {"bridge/br-int"}


def test_one_number_is_claimed_for_each_network_with_a_local_port():
    world = example_world()
    networks = {"blue", "green", "lan", "wire", "alone", "down"}
    assert wanted_claims(world.snapshot(), world.switch()) == {Claim("network", name) for name in networks}


def test_numbers_are_items_and_gate_what_uses_them():
    world = small_world()
    groups, _ = world.groups()
    assert groups["network:blue"].items["ovs"] == {"allocation/network/blue": "1"}
    allocation = frozenset({ItemRef("ovs", "allocation/network/blue")})
    entries = {"table=0,priority=100,in_port=1,vlan_tci=0x0000/0x1000"}
    assert groups["port:p1"].requires == {ItemRef("flows", key): allocation for key in entries}
    assert set(groups["network:blue"].requires.values()) == {allocation}


@pytest.mark.parametrize("change", ["unplugged", "no number", "negative number", "down", "network down"])
def test_port_that_cannot_be_served_has_no_flow_and_keeps_its_network_number(change):
    world = small_world()
    if change == "unplugged":
        world.interfaces.clear()
    elif change == "no number":
        world.interfaces[PortId("p1")] = PluggedInterface("tap1", PortId("p1"), None)
    elif change == "negative number":
        world.interfaces[PortId("p1")] = PluggedInterface("tap1", PortId("p1"), -1)
    elif change == "down":
        world.change_port(1, admin_state_up=False)
    else:
        blue = next(iter(world.networks))
        world.networks[blue] = replace(world.networks[blue], admin_state_up=False)
    groups, problems = world.groups()
    assert "port:p1" not in groups
    assert problems == []
    assert "allocation/network/blue" in groups["network:blue"].items["ovs"]
    assert not any("in_port=1," in key or f"dl_dst={mac(1)}" in key for key in all_flows(groups))


# Problems: who must act, and who else is hurt (nobody).


def forget_network(world):
    del world.networks[next(iter(world.networks))]


def lose_encapsulation(world):
    world.settings = replace(SETTINGS, encapsulations=frozenset({NetworkType.GENEVE}))


def lose_address(world):
    world.settings = replace(SETTINGS, tunnel_address=None)


def shared_number(world):
    world.interfaces[PortId("p2")] = PluggedInterface("tap2", PortId("p2"), 1)


def broken_interface(world):
    world.interfaces[PortId("p1")] = PluggedInterface("tap1", PortId("p1"), 1, "could not open network device tap1")


PROBLEMS = [
    ("network missing", forget_network, "port:p1", "network", Actor.CLOUD),
    ("encapsulation not offered", lose_encapsulation, "network:blue", "encapsulations", Actor.OPERATOR),
    ("no tunnel address", lose_address, "network:blue", "tunnel_address", Actor.OPERATOR),
    ("tunnel port missing", lambda w: w.ofports.pop("hp-vxlan"), "network:blue", "uplink", Actor.NOBODY),
    ("no segmentation id", lambda w: w.network("blue", "vxlan", None), "network:blue", "segmentation_id", Actor.CLOUD),
    ("no VLAN id", lambda w: w.network("blue", "vlan", None), "network:blue", "segmentation_id", Actor.CLOUD),
    ("no physical network", lambda w: w.network("blue", "flat", physnet=""), "network:blue", "physnet", Actor.CLOUD),
    (
        "physical network not mapped",
        lambda w: w.network("blue", "flat", physnet="other"),
        "network:blue",
        "physnet",
        Actor.OPERATOR,
    ),
    ("bridge missing", lambda w: w.bridges.remove("br-phy"), "host", "bridge_mappings", Actor.OPERATOR),
    ("far host without address", lambda w: w.host("there", None), "host:there", "tunnel_address", Actor.OPERATOR),
    (
        "far host with our address",
        lambda w: w.host("there", underlay(1)),
        "host:there",
        "tunnel_address",
        Actor.OPERATOR,
    ),
    (
        "far host of another family",
        lambda w: w.host("there", "fd00::2"),
        "host:there",
        "tunnel_address",
        Actor.OPERATOR,
    ),
    (
        "far host without encapsulation",
        lambda w: w.host("there", underlay(2), frozenset({NetworkType.GENEVE})),
        "host:there",
        "encapsulations",
        Actor.OPERATOR,
    ),
    ("far host unknown", lambda w: w.hosts.pop("there"), "host:there", "name", Actor.OPERATOR),
    ("number used twice", shared_number, "port:p1", "ofport", Actor.NOBODY),
    ("interface broken", broken_interface, "port:p1", "interface", Actor.OPERATOR),
]


@pytest.mark.parametrize(
    ("change", "object_id", "field", "actor"), [pytest.param(*case[1:], id=case[0]) for case in PROBLEMS]
)
def test_problem_names_object_field_and_who_must_act(change, object_id, field, actor):
    world = small_world()
    world.network("other", "geneve", 7)
    world.port(3, "other", "10.0.0.3")
    assert world.problems() == []
    untouched = world.groups()[0]["port:p3"].items
    change(world)
    groups, problems = world.groups()
    assert (object_id, field, actor) in {(p.object_id, p.field, p.actor) for p in problems}
    assert groups["port:p3"].items == untouched


def test_hosts_that_share_an_address_are_told_apart_by_name():
    world = small_world()
    world.host("thief", underlay(2))
    groups, problems = world.groups()
    assert [p.object_id for p in problems] == []  # nobody has ports there: nobody is hurt
    assert "host:there" in groups
    assert "host:thief" not in groups
    world.endpoint(22, "blue", "thief", "10.0.0.22")
    groups, problems = world.groups()
    assert [(p.object_id, "there" in p.text) for p in problems] == [("host:thief", True)]
    assert "endpoint:e22" not in groups
    assert "endpoint:e21" in groups


def test_network_with_a_problem_still_serves_its_ports_on_this_host():
    world = small_world()
    lose_address(world)
    groups, _ = world.groups()
    assert {"port:p1", "port:p2", "network:blue/flood/0"} <= groups.keys()
    assert "endpoint:e21" not in groups
    assert "network:blue/hosts/0" not in groups


@pytest.mark.parametrize(("datapath", "told"), [("netdev", True), ("", False)])
def test_more_hosts_than_the_userspace_datapath_can_flood_to_are_a_problem(datapath, told):
    world = small_world()
    world.settings = replace(SETTINGS, datapath_type=datapath)
    for number in range(100, 900):
        world.host(f"host{number}", underlay(number))
        world.endpoint(number, "blue", f"host{number}")
    assert [(p.object_id, p.field) for p in world.problems()] == [("network:blue", "hosts")] * told


# Cost follows the change.


def test_nothing_changed_means_the_same_groups():
    assert changed(example_world(), lambda: None) == set()


def test_changed_port_changes_its_own_group_only():
    world = example_world()
    assert changed(world, lambda: world.change_port(1, port_security=False)) == {"port:p1"}


def test_changed_endpoint_changes_its_own_group_only():
    world = example_world()
    assert changed(world, lambda: world.endpoint(21, "blue", "there", "10.0.0.121")) == {"endpoint:e21"}


def test_new_port_changes_its_own_group_and_one_chunk():
    world = small_world()
    for number in range(100, 180):
        world.port(number, "blue")
    groups = changed(world, lambda: world.port(200, "blue", "10.0.0.200"))
    assert len(groups) == 2
    assert "port:p200" in groups
    assert any(group.startswith("network:blue/flood/") for group in groups)


def test_moved_port_changes_its_groups_and_the_floods():
    world = small_world()

    def move():
        port_id = PortId("p2")
        del world.ports[port_id]
        world.endpoint(2, "blue", "there", "10.0.0.2")

    assert changed(world, move) == {"port:p2", "endpoint:e2", "network:blue/flood/0"}


def test_port_that_moves_between_other_hosts_changes_only_its_endpoint_and_the_hosts():
    world = small_world()
    world.host("beyond", underlay(3))
    world.endpoint(22, "blue", "there", "10.0.0.22")
    assert changed(world, lambda: world.endpoint(22, "blue", "beyond", "10.0.0.22")) == {
        "endpoint:e22",
        "network:blue/hosts/0",
    }


def test_new_host_changes_nothing_but_what_is_taken_from_it():
    world = small_world()
    assert changed(world, lambda: world.host("beyond", underlay(3))) == {"host:beyond"}


def test_host_that_changes_its_address_changes_what_leads_there():
    world = small_world()
    assert changed(world, lambda: world.host("there", underlay(9))) == {
        "host:there",
        "endpoint:e21",
        "network:blue/hosts/0",
    }


def test_chunks_hold_everybody_and_stay_small():
    for count in (0, 1, 31, 32, 33, 100, 1000):
        members = [(f"host{n}", n) for n in range(count)]
        chunks = cut_chunks(members, chunk_count(count))
        assert sorted(n for chunk in chunks for n in chunk) == list(range(count))
        assert max(map(len, chunks)) <= 52
        assert len(chunks) <= 32


# Same state, same text.


@given(st.randoms(use_true_random=False))
def test_text_does_not_depend_on_the_order_of_the_store(random):
    world = example_world()
    expected, problems = world.groups()
    mappings: list[dict[Any, Any]] = [world.networks, world.ports, world.hosts, world.interfaces]
    for mapping in (*mappings, *world.endpoints.values()):
        entries = list(mapping.items())
        random.shuffle(entries)
        mapping.clear()
        mapping.update(entries)
    groups, other_problems = world.groups()
    assert other_problems == problems
    assert {key: group.items for key, group in groups.items()} == {key: group.items for key, group in expected.items()}


CHANGES = [
    lambda w: w.change_port(1, admin_state_up=False),
    lambda w: w.change_port(9, allowed_address_pairs=()),
    lambda w: w.interfaces.pop(PortId("p2"), None),
    lambda w: w.endpoint(22, "blue", "there", "10.0.0.22"),
    lambda w: w.endpoint(22, "blue", "", "10.0.0.22"),
    lambda w: w.host("beyond", None),
    lambda w: w.host("beyond", underlay(9)),
    lambda w: w.hosts.pop(HostName("there"), None),
    lambda w: w.network("lan", "vlan", 101),
    lambda w: w.network("down", "vxlan", 5001),
    lambda w: w.ofports.pop("hp-vxlan", None),
    lambda w: w.bridges.discard("br-phy"),
    lambda w: setattr(w, "settings", replace(SETTINGS, tunnel_address=underlay(8))),
]


@given(st.lists(st.sampled_from(CHANGES), max_size=6))
def test_memo_changes_what_it_costs_and_never_what_it_is(changes):
    world, memo = example_world(), Memo()
    world.groups(memo)
    for change in changes:
        change(world)
        remembered, problems = world.groups(memo)
        fresh, fresh_problems = world.groups()
        assert problems == fresh_problems
        assert {key: g.items for key, g in remembered.items()} == {key: g.items for key, g in fresh.items()}
        assert all(remembered[key].requires == fresh[key].requires for key in fresh)


def test_names_of_taps_are_no_concern_of_the_planner():
    """Flows speak of OpenFlow numbers: any name the interface has is right."""
    world = small_world()
    flows = world.flows()
    world.interfaces[PortId("p1")] = PluggedInterface(tap_name("p1"), PortId("p1"), 1)
    assert world.flows() == flows
