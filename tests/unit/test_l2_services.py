# SPDX-License-Identifier: Apache-2.0
"""Planning of what the responder answers: what is planned, what waits for what, and what a change costs."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from agent import preview
from agent.core.allocations import Claim
from agent.core.errors import Actor
from agent.core.items import Link, ResponderSocket, Served
from agent.core.memo import Memo
from agent.core.model import HostSnapshot, MetadataService, NetworkId, PortId, SwitchView
from agent.core.plan import Delta, Group, ItemRef
from agent.core.service_identity import identity_mac
from agent.l2.settings import MetadataLimits
from agent.planner import Planning
from tests.golden.l2_world import SERVING, SETTINGS, World, all_flows, mac, services_world

ORDER = (
    *("netns", "links", "routes", "ovs", "bridges", "ipset", "iptables", "members", "zones", "connects"),
    *("responder", "flows", "conntrack"),
)
ENTRY = "table=0,priority=100,in_port=1,vlan_tci=0x0000/0x1000"


def items(groups: Mapping[str, Group], driver: str) -> dict[str, object]:
    return {key: value for group in groups.values() for key, value in group.items.get(driver, {}).items()}


def test_a_host_without_services_has_nothing_of_them():
    world = services_world()
    world.settings = SETTINGS
    groups, _ = world.groups()
    assert not [name for name in groups if name.endswith((":dhcp", ":metadata", "/dhcp", "/metadata", "/services"))]
    assert not items(groups, "responder") | items(groups, "netns")
    assert "reg4" not in str(all_flows(groups))


def test_devices_and_sockets_are_there_before_the_first_port_is():
    groups, problems = World(settings=SERVING).groups()
    assert problems == []
    assert {"port/hp-dhcp", "port/hp-meta"} <= items(groups, "ovs").keys()
    sockets = {key: each for key, each in items(groups, "responder").items() if isinstance(each, ResponderSocket)}
    assert sockets.keys() == {"socket dhcp", "socket metadata4", "socket metadata6"}
    assert {each.namespace for each in sockets.values()} == {"hp-responder"}
    assert all(f"hp-responder/{each.device}" in items(groups, "links") for each in sockets.values())


def test_what_is_waited_for_is_planned_and_comes_before():
    groups, _ = services_world().groups()
    planned = {
        ItemRef(driver, key) for group in groups.values() for driver in group.items for key in group.items[driver]
    }
    for group in groups.values():
        for ref, required in group.requires.items():
            assert ref in planned
            assert required <= planned, (ref, required - planned)
            assert all(ORDER.index(each.driver) <= ORDER.index(ref.driver) for each in required if each != ref)


def test_ways_wait_until_the_responder_knows_who_uses_them():
    groups, _ = services_world().groups()
    for part, needed in (("dhcp", {"dhcp p1", "socket dhcp"}), ("metadata", {"metadata p1"})):
        group = groups[f"port:p1/{part}"]
        for key in group.items["flows"]:
            assert {each.key for each in group.requires[ItemRef("flows", key)] if each.driver == "responder"} >= needed


def test_a_port_forwards_whatever_becomes_of_the_responder():
    groups, _ = services_world().groups()
    own = groups["port:p1"]
    required = {each for key in own.items["flows"] for each in own.requires.get(ItemRef("flows", key), ())}
    assert {each.driver for each in required} == {"ovs"}  # numbers, which are written before they are used


def test_who_asks_is_said_by_the_flow_of_the_port_alone():
    world = services_world()
    flows = world.flows()
    number = world.allocations[Claim("responder", "p1")]
    assert f"set_field:{number:#x}->reg4" in flows[ENTRY]
    assert [key for key, actions in flows.items() if f"{number:#x}->reg4" in actions] == [ENTRY]
    assert any(f"dl_src={identity_mac(number)}" in key for key in flows)
    assert ItemRef("ovs", "allocation/responder/p1") in world.groups()[0]["port:p1"].requires[ItemRef("flows", ENTRY)]


def test_a_part_of_the_network_itself_is_not_served():
    groups, _ = services_world().groups()
    assert "port:p7/dhcp" not in groups
    assert "dhcp p7" not in items(groups, "responder")
    assert "reg4" not in str(groups["port:p7"].items["flows"])


@pytest.mark.parametrize("change", ["unplugged", "down", "devices without numbers"])
def test_a_port_that_cannot_ask_keeps_its_number(change):
    world = services_world()
    if change == "unplugged":
        del world.interfaces[PortId("p1")]
    elif change == "down":
        world.change_port(1, admin_state_up=False)
    else:
        world.ofports = {name: n for name, n in world.ofports.items() if name not in ("hp-dhcp", "hp-meta")}
    groups, problems = world.groups()
    assert problems == []
    assert "allocation/responder/p1" in groups["port:p1/dhcp"].items["ovs"]
    assert not {"port:p1/dhcp", "port:p1/metadata"} & {
        name for name, group in groups.items() if group.items.get("flows")
    }
    assert ("dhcp p1" in items(groups, "responder")) is (change != "down")  # all else is in place when it is plugged in


def test_a_port_on_a_network_without_subnets_is_told_nothing():
    groups, _ = services_world().groups()
    assert set(groups["port:p10/dhcp"].items) == {"ovs"}
    assert "port:p10/metadata" not in groups


@pytest.mark.parametrize(("mtus", "expected"), [((1450,), 1500), ((1450, 8950), 8950), ((70000,), 65535)])
def test_devices_take_the_packets_of_the_largest_network(mtus, expected):
    world = services_world()
    for network, mtu in zip(world.networks, mtus, strict=False):
        world.networks[network] = replace(world.networks[network], mtu=mtu)
    links = items(world.groups()[0], "links").values()
    assert [link.mtu for link in links if isinstance(link, Link)] == [expected] * 4


def test_limits_are_the_operators():
    world = World(settings=replace(SERVING, metadata_limits=MetadataLimits(rate=1.5, burst=2, connections=3)))
    service = items(world.groups()[0], "responder")["service"]
    assert isinstance(service, Served)
    assert '"rate":1.5' in service.data


def test_a_mistake_in_a_ports_options_is_a_problem_of_its_answers_alone():
    world = services_world()
    world.change_port(1, dhcp_options=(("nonsense", "1"),), metadata=(("nonsense", "1"),))
    groups, problems = world.groups()
    assert [problem.object_id for problem in problems] == ["port:p1/dhcp", "port:p1/metadata"]
    assert {"dhcp p1", "metadata p1"} <= items(groups, "responder").keys()
    assert groups["port:p1/dhcp"].items["flows"]


def with_user_data(sizes: Mapping[int, int]) -> World:
    world = services_world()
    for number, size in sizes.items():
        world.change_port(number, metadata=(("ssh_keys", "ssh-ed25519 A"), ("user_data", "x" * size)))
    return world


def test_there_is_more_user_data_than_room_and_who_has_most_is_told_without(monkeypatch):
    monkeypatch.setattr("agent.metadata.planner.ROOM", 30_000)
    world = with_user_data({1: 12_000, 2: 10_000, 3: 1_000})
    groups, problems = world.groups()
    told = {key: each.data for key, each in items(groups, "responder").items() if isinstance(each, Served)}

    assert [(problem.object_id, problem.actor) for problem in problems] == [("port:p1/metadata", Actor.CLOUD)]
    assert sum(len(data) for key, data in told.items() if key.startswith("metadata ")) < 30_000
    assert len(told["metadata p1"]) < 3_000
    assert "ssh-ed25519 A" in told["metadata p1"]
    assert len(told["metadata p2"]) > 10_000
    assert groups["port:p1/metadata"].items["flows"]

    world.change_port(2, metadata=())
    groups, problems = world.groups()
    assert problems == []
    whole = items(groups, "responder")["metadata p1"]
    assert isinstance(whole, Served)
    assert len(whole.data) > 12_000


def test_where_there_is_no_room_a_change_costs_no_more_than_elsewhere(monkeypatch):
    monkeypatch.setattr("agent.metadata.planner.ROOM", 15_000)
    world = with_user_data({1: 12_000, 2: 10_000, 3: 1_000})
    own = {"port:p3", "port:p3/dhcp", "port:p3/metadata"}
    assert changed(world, lambda world: world.change_port(3, hostname="web")) == own


# What a change costs, and that nothing is forgotten that it concerns.


def changed(world: World, change: Callable[[World], object]) -> set[str]:
    memo = Memo()
    before, _ = world.groups(memo)
    change(world)
    after, _ = world.groups(memo)
    return {name for name in before.keys() | after.keys() if before.get(name) is not after.get(name)}


def test_nothing_is_planned_anew_when_nothing_has_changed():
    assert changed(services_world(), lambda world: None) == set()


def test_a_port_that_is_told_something_else_costs_its_own_groups():
    own = {"port:p1", "port:p1/dhcp", "port:p1/metadata"}
    assert changed(services_world(), lambda world: world.change_port(1, hostname="web")) == own


def test_one_more_port_costs_its_own_groups_and_one_chunk_of_the_flood():
    new = {"port:p12", "port:p12/dhcp", "port:p12/metadata", "network:blue/flood/0"}
    assert changed(services_world(), lambda world: world.port(12, "blue", "10.0.0.12")) == new


def test_a_port_that_is_plugged_in_costs_its_own_groups():
    world = services_world()
    interface = world.interfaces.pop(PortId("p1"))
    own = {"port:p1", "port:p1/dhcp", "port:p1/metadata", "network:blue/flood/0"}
    assert changed(world, lambda world: world.interfaces.update({interface.port: interface})) == own


Change = Callable[[HostSnapshot, SwitchView], tuple[HostSnapshot, SwitchView]]


def with_subnets(snapshot: HostSnapshot) -> HostSnapshot:
    blue = NetworkId("blue")
    first, *rest = snapshot.subnets[blue]
    return replace(snapshot, subnets={**snapshot.subnets, blue: (replace(first, dhcp=False), *rest)})


def with_mtu(snapshot: HostSnapshot) -> HostSnapshot:
    networks = {n: replace(network, mtu=9000) for n, network in snapshot.networks.items()}
    return replace(snapshot, networks=networks)


def with_owner(snapshot: HostSnapshot) -> HostSnapshot:
    port = replace(snapshot.ports[PortId("p1")], device_owner="network:dhcp")
    return replace(snapshot, ports={**snapshot.ports, port.id: port})


CHANGES: dict[str, Change] = {
    "DHCP is switched off": lambda snapshot, switch: (with_subnets(snapshot), switch),
    "subnets are gone": lambda snapshot, switch: (replace(snapshot, subnets={}), switch),
    "networks take larger packets": lambda snapshot, switch: (with_mtu(snapshot), switch),
    "a port becomes part of the network": lambda snapshot, switch: (with_owner(snapshot), switch),
    "a port is gone": lambda snapshot, switch: (
        replace(snapshot, ports={i: p for i, p in snapshot.ports.items() if i != "p2"}),
        switch,
    ),
    "somebody else has the metadata": lambda snapshot, switch: (
        replace(snapshot, metadata_service=MetadataService("http://nova", "/secret")),
        switch,
    ),
    "a device has another number": lambda snapshot, switch: (
        snapshot,
        replace(switch, ofports={**switch.ofports, "hp-dhcp": 77}),
    ),
    "a device has no number": lambda snapshot, switch: (
        snapshot,
        replace(switch, ofports={**switch.ofports, "hp-meta": 0}),
    ),
    "all is unplugged": lambda snapshot, switch: (snapshot, replace(switch, interfaces={})),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_after_a_change_all_is_as_if_it_was_planned_from_scratch(change):
    world = services_world()
    planning = Planning(SERVING)
    planning.adopt_numbers({})
    snapshot, switch = world.snapshot(), world.switch()
    planning.make(snapshot, switch)
    for later in (change(snapshot, switch), (snapshot, switch)):
        plan, problems = planning.make(*later)
        fresh, same_problems = planning.afresh(*later)
        assert {name: group.items for name, group in plan.groups.items()} == {
            name: group.items for name, group in fresh.groups.items()
        }
        assert problems == same_problems


def test_requests_of_equal_addresses_are_told_apart():
    flows = services_world().flows()
    ways = [actions for key, actions in flows.items() if "nw_src=10.0.0.1,nw_dst=169.254.169.254" in key]
    assert len(set(ways)) == 2
    assert mac(1) not in str(ways)


def test_what_is_told_to_instances_is_shown_to_nobody_else():
    world = services_world()
    world.change_port(1, metadata=(("user_data", "password: hunter2"),))
    groups, _ = world.groups()
    creates = {key: each for key, each in items(groups, "responder").items() if isinstance(each, Served)}
    secret = b64encode(b"password: hunter2").decode()
    assert any(secret in each.data for each in creates.values())
    shown = preview.as_json(world.snapshot(), {"responder": Delta(creates=creates)}, (), None)
    assert secret not in json.dumps(shown) + repr(creates)
