# SPDX-License-Identifier: Apache-2.0
"""Planning of filters: who has one, what waits for it, what is reported, and what a change costs."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.allocations import Claim
from agent.core.errors import Actor
from agent.core.items import GroupRules, HybridBridge, ZoneFilter
from agent.core.memo import Memo
from agent.core.model import Direction, PluggedInterface, PortId, SecurityGroupId
from agent.core.naming import group_chain, is_list_chain, policy_chain
from agent.core.plan import ItemRef
from agent.drivers.ipset_netlink import canonical
from agent.drivers.iptables_rule import rebuild
from agent.l2 import policies
from agent.l2.address_sets import set_elements
from agent.l2.planner import wanted_claims
from tests.golden.l2_world import SETTINGS, World, filters_world, rule

WEB = SecurityGroupId("web")


def policy_id(groups):
    """Return the object id of the policy of ports with these groups."""
    return str(policies.policy_id([SecurityGroupId(group) for group in groups]))


def items_of(world, driver):
    """Return all items of one driver; no two groups may have the same."""
    found: dict[str, Any] = {}
    for group in world.groups()[0].values():
        own = group.items.get(driver, {})
        assert not found.keys() & own.keys(), group.object_id
        found.update(own)
    return found


def entry(number):
    return f"table=0,priority=100,in_port={number},vlan_tci=0x0000/0x1000"


def deliveries(number):
    return {f"table=90,priority=100,{p},reg1={number:#x},vlan_tci=0x0000/0x1000" for p in ("arp", "ip", "ipv6")}


def policy_text(world, groups, family, ingress):
    name = policy_chain(policy_id(groups), ingress)
    return items_of(world, "iptables")[f"{family} filter {name}"].split("\n")


# What is planned.


def test_nothing_is_required_that_nobody_plans():
    groups, problems = filters_world().groups()
    assert problems == []
    planned = {
        ItemRef(driver, key) for group in groups.values() for driver, items in group.items.items() for key in items
    }
    for group in groups.values():
        for ref, needed in group.requires.items():
            assert ref in planned, group.object_id
            assert needed <= planned, (ref, needed - planned)


def test_every_rule_is_written_as_it_is_read_back():
    for key, value in items_of(filters_world(), "iptables").items():
        _, _, chain, *line = key.split(" ", 3)
        assert bool(line) == ((is_list_chain(chain) and value != "*") or value == "first")
        for text in line or (value.split("\n") if value != "*" else []):
            assert rebuild(text) == text


def test_every_element_is_written_as_it_is_read_back():
    members = items_of(filters_world(), "members")
    assert all(canonical(key.partition(" ")[2]) == key.partition(" ")[2] for key in members)
    assert {key.split(" ")[0] for key in members} == set(items_of(filters_world(), "ipset"))


@pytest.mark.parametrize(
    ("address", "elements"),
    [
        ("10.0.0.1", ("10.0.0.1",)),
        ("10.0.0.1/32", ("10.0.0.1",)),
        ("10.0.0.0/8", ("10.0.0.0/8",)),
        ("0.0.0.0/0", ("0.0.0.0/1", "128.0.0.0/1")),
        ("::/0", ("::/1", "8000::/1")),
        ("2001:db8::1/128", ("2001:db8::1",)),
        ("2001:db8::/32", ("2001:db8::/32",)),
    ],
)
def test_elements_of_an_address(address, elements):
    assert set_elements(address) == elements


def test_filtered_port_has_bridge_zone_and_judge():
    groups, _ = filters_world().groups()
    items = groups["port:p1"].items
    assert items["bridges"] == {"qbrp1": HybridBridge("qbrp1", "tapp1", "qvbp1", filtered=True)}
    (zone,) = map(str, items["zones"].values())
    assert items["ovs"] == {"allocation/zone/p1": zone}
    addresses = ("10.0.0.1", "2001:db8::1", "fe80::f816:3eff:fe00:1")
    assert items["conntrack"] == {f"zone {zone}": ZoneFilter(int(zone), "p1", addresses, ("web",))}
    assert len(items["iptables"]) == 4


def test_every_hybrid_port_has_a_zone_of_its_own():
    world = filters_world()
    zones = {Claim("zone", f"p{number}") for number in range(1, 7)}
    assert {claim for claim in wanted_claims(world.snapshot(), world.switch()) if claim.kind == "zone"} == zones
    values = [value.split(" ")[0] for key, value in items_of(world, "zones").items() if key != "base"]
    assert len(set(values)) == len(values) == 6


def test_ports_with_the_same_groups_share_their_chains():
    world = filters_world()
    before = items_of(world, "iptables")
    world.port(8, "blue", "10.0.0.8", groups=("web", "db"))
    more = items_of(world, "iptables").keys() - before.keys()
    assert {key.split(" ")[2] for key in more} == {"hp-t-p", "hp-t-p8"}
    assert all("qbrp8" in key for key in more if key.count(" ") > 2)


def test_stateless_groups_track_nothing():
    world = filters_world()
    zones = items_of(world, "zones")
    assert [bridge for bridge, zone in zones.items() if zone.endswith(" notrack")] == ["qbrp4", "qbrp6"]
    for family in (4, 6):
        for ingress in (False, True):
            assert not any(
                "conntrack" in line or "CONNMARK" in line for line in policy_text(world, ("quick",), family, ingress)
            )
            assert "CONNMARK" in policy_text(world, ("web",), family, ingress)[1]


@pytest.mark.parametrize("groups", [(), ("web",), ("db", "web"), ("heard",), ("quick",)])
def test_policy_ends_with_a_drop_and_accepts_nothing_by_itself_but_what_every_instance_needs(groups):
    world = filters_world()
    for family in (4, 6):
        for ingress in (False, True):
            *lines, last = policy_text(world, groups, family, ingress)
            assert last == "-j DROP"
            accepting = [line for line in lines if line.endswith("-j hp-accept")]
            assert all(
                re.search(r"--sport (67|68|546|547) |--icmpv6-type 13\d |--icmpv6-type 143 ", line)
                for line in accepting
            )
            jumps = [line for line in lines if line.startswith("-j hp-g-")]
            assert jumps == [f"-j {group_chain(group, ingress)}" for group in groups]


def test_instance_is_no_server_and_no_router_whatever_its_groups_allow():
    """What it must not say is dropped before any group is asked."""
    world = filters_world()
    for family, forbidden in ((4, ("--sport 67 --dport 68",)), (6, ("--icmpv6-type 134", "--sport 547 --dport 546"))):
        lines = policy_text(world, ("web",), family, ingress=False)
        asked = next(number for number, line in enumerate(lines) if line.startswith("-j hp-g-"))
        for what in forbidden:
            assert [line.endswith("-j DROP") for line in lines[:asked] if what in line] == [True]


def test_unfiltered_port_in_a_bridge_lets_everything_pass():
    world = filters_world()
    iptables = items_of(world, "iptables")
    for family in (4, 6):
        for ingress in (False, True):
            chain = policy_chain("policy:open", ingress)
            assert iptables[f"{family} filter {chain}"] == "-j hp-accept"
            assert any(
                "qbrp6" in key and key.endswith(f"-g {chain}") for key in iptables if key.startswith(f"{family} ")
            )
    (judge,) = world.groups()[0]["port:p6"].items["conntrack"].values()
    assert isinstance(judge, ZoneFilter)
    assert judge.open


def test_groups_that_nobody_here_uses_are_not_planned():
    world = filters_world()
    for number in (1, 2, 3):
        world.interfaces.pop(PortId(f"p{number}"))
    groups, _ = world.groups()
    assert {group.partition(":")[2] for group in groups if group.startswith("security_group:")} == {"quick"}
    assert items_of(world, "ipset") == {}


def test_what_a_rule_refers_to_is_there_even_if_it_is_empty():
    world = filters_world()
    world.address_chunks.clear()
    assert len(items_of(world, "ipset")) == 4
    assert items_of(world, "members") == {}


# What waits for what.


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_port_is_shut_until_every_part_of_its_filter_is_in_place(number):
    world = filters_world()
    groups, _ = world.groups()
    port = groups[f"port:p{number}"]
    gate = {
        ref
        for refs in (groups["filters"], groups["filters/t-p"], groups[f"filters/t-p{number}"], port)
        for driver in ("iptables", "bridges", "zones")
        for ref in _refs(refs, driver)
    }
    names = world.ports[PortId(f"p{number}")].security_groups
    for name in names:
        gate |= {
            ref
            for ref in _refs(groups[f"security_group:{name}"], "iptables")
            if ref.key.count(" ") == 2 and "hp-g-" in ref.key
        }
    policy = "policy:open" if number == 6 else policy_id(names)
    gate |= _refs(groups[policy], "iptables")
    opening = {ItemRef("flows", key) for key in (entry(number), *deliveries(number))}
    assert {ref for ref in port.requires if ref.driver == "flows"} == opening
    allocation = ItemRef("ovs", "allocation/network/blue")
    assert all(port.requires[ref] - {allocation} == gate for ref in opening)


def _refs(group, driver):
    return {ItemRef(driver, key) for key in group.items.get(driver, {})}


def test_nothing_else_delivers_to_a_filtered_port():
    flows = filters_world().flows()
    assert {key for key in flows if key.startswith("table=90,") and "reg1=0x1," in key} == deliveries(1)
    assert [key for key in flows if flows[key] == "output:1"] == sorted(deliveries(1))


# What is reported, and who else is hurt (nobody).


def plug_directly(world):
    world.interfaces[PortId("p1")] = PluggedInterface("tapp1", PortId("p1"), 1)


def plug_into_another(world):
    world.interfaces[PortId("p1")] = PluggedInterface("qvop9", PortId("p1"), 1)


def mix_states(world):
    world.change_port(1, security_groups=("quick", "web"))


def switch_off(world):
    world.settings = replace(SETTINGS, filters=False)


PROBLEMS = [
    ("plugged directly", plug_directly, "security_groups", Actor.OPERATOR, "hybrid plug (qvop1)"),
    ("in another's plug", plug_into_another, "interface", Actor.OPERATOR, "qvop9"),
    ("stateful and stateless", mix_states, "security_groups", Actor.CLOUD, "quick (stateless), web (stateful)"),
    ("no filters here", switch_off, "security_groups", Actor.OPERATOR, "[filters] enabled"),
]


@pytest.mark.parametrize(
    ("change", "field", "actor", "text"), [pytest.param(*case[1:], id=case[0]) for case in PROBLEMS]
)
def test_port_that_cannot_be_filtered_stays_shut_and_says_why(change, field, actor, text):
    world = filters_world()
    others = {key: group.items for key, group in world.groups()[0].items() if key in ("port:p6", "port:p7")}
    change(world)
    groups, problems = world.groups()
    found = [problem for problem in problems if problem.object_id == "port:p1"]
    assert [(p.field, p.actor) for p in found] == [(field, actor)]
    assert text in found[0].text
    assert "port:p1" not in groups
    flows = world.flows()
    assert entry(1) not in flows
    assert not any("reg1=0x1," in key or "0x1->reg1" in actions for key, actions in flows.items())
    assert others["port:p7"] == groups["port:p7"].items
    if change is not switch_off:
        assert others["port:p6"] == groups["port:p6"].items


def test_host_without_filters_plans_nothing_of_theirs():
    world = filters_world()
    switch_off(world)
    for driver in ("iptables", "ipset", "members", "zones", "bridges", "conntrack"):
        assert items_of(world, driver) == {}
    assert entry(6) in world.flows()
    assert entry(7) in world.flows()


def test_port_without_a_zone_number_waits():
    world = filters_world()
    full = {Claim("zone", f"other{number}"): number for number in range(1, 65536)}
    world.allocations = full
    groups, problems = world.groups(problems_of_numbers=True)
    assert "port:p1" not in groups
    assert "port:p7" in groups
    assert {problem.object_id for problem in problems} == {f"zone:p{number}" for number in range(1, 7)}


def test_rule_that_cannot_be_said_is_named_and_allows_nothing():
    world = filters_world()
    before = items_of(world, "iptables")
    web = world.security_groups[WEB]
    odd = rule("web-odd", protocol=6, ports=(90, 80))
    world.security_groups[WEB] = replace(web, rules=(*web.rules, odd))
    groups, problems = world.groups()
    assert [(p.object_id, p.field, p.actor) for p in problems] == [("security_group:web", "rules", Actor.CLOUD)]
    assert "security group web, rule web-odd: 90 to 80" in problems[0].text
    assert items_of(world, "iptables") == before
    assert groups["security_group:web"].items["conntrack"] == {"group web": GroupRules(web.rules)}


def test_group_that_is_not_in_the_store_allows_nothing():
    world = filters_world()
    world.change_port(1, security_groups=("nowhere", "web"))
    lines = policy_text(world, ("nowhere", "web"), 4, ingress=True)
    assert [line for line in lines if "hp-g-" in line] == [f"-j {group_chain('web', ingress=True)}"]


# Cost follows the change.


def changed(world, change):
    """Return the object ids whose groups are new, other or gone after *change*."""
    memo = Memo()
    before, _ = world.groups(memo)
    change()
    after, _ = world.groups(memo)
    return {key for key in before.keys() | after.keys() if before.get(key) is not after.get(key)}


def add_rule(world, name, *rules):
    group = world.security_groups[SecurityGroupId(name)]
    world.security_groups[group.id] = replace(group, rules=(*group.rules, *rules))


def test_nothing_changed_means_the_same_groups():
    assert changed(filters_world(), lambda: None) == set()


def test_rule_more_changes_its_group_only():
    world = filters_world()
    assert changed(world, lambda: add_rule(world, "web", rule("new", protocol=6))) == {"security_group:web"}


def test_rule_that_refers_to_others_brings_their_addresses():
    world = filters_world()
    world.members("vpn", "10.5.0.0/16")
    found = changed(world, lambda: add_rule(world, "web", rule("new", owner="vpn")))
    assert found == {"security_group:web", "members:vpn", "members:vpn/0"}


def test_address_more_changes_its_chunk_only():
    world = filters_world()
    world.members("office", "10.1.0.1", chunk="1")
    assert changed(world, lambda: world.members("office", "10.1.0.1", "10.1.0.2", chunk="1")) == {"members:office/1"}


def test_port_more_changes_itself_its_leaf_and_the_flood():
    world = filters_world()
    found = changed(world, lambda: world.port(8, "blue", "10.0.0.8", groups=("web",)))
    assert found == {"port:p8", "filters/t-p8", "network:blue/flood/0"}


def test_port_with_other_groups_changes_itself_and_its_policy():
    world = filters_world()
    found = changed(world, lambda: world.change_port(1, security_groups=("db",)))
    assert found == {"port:p1", policy_id(("db",)), policy_id(("web",))}


def test_other_logging_changes_no_port():
    world = filters_world()

    def log():
        world.security_groups[WEB] = replace(world.security_groups[WEB], log_dropped=True, log_accepted=True)

    policies = {policy_id(("web",)), policy_id(("db", "web"))}
    assert changed(world, log) == {"security_group:web", *policies}


# Same state, same text.

CHANGES = [
    plug_directly,
    mix_states,
    switch_off,
    lambda w: w.change_port(1, security_groups=()),
    lambda w: w.change_port(2, filtered=False, security_groups=()),
    lambda w: w.change_port(3, admin_state_up=False),
    lambda w: w.interfaces.pop(PortId("p4"), None),
    lambda w: add_rule(w, "web", rule("new", Direction.EGRESS, protocol=6, owner="db")),
    lambda w: w.group("web", rule("web-http", protocol=17), log_accepted=True),
    lambda w: w.group("web", rule("web-http", protocol=17), stateful=False),
    lambda w: w.group("quick", stateful=True, log_dropped=True, log_rate=3),
    lambda w: w.security_groups.pop(WEB, None),
    lambda w: w.members("office", "10.1.0.1", "10.1.0.2"),
    lambda w: w.members("db", "10.1.0.1", chunk="7"),
    lambda w: w.address_chunks.pop("office", None),
    lambda w: w.port(8, "blue", "10.0.0.8", groups=("db",)),
]


@given(st.lists(st.sampled_from(CHANGES), max_size=5))
def test_memo_changes_what_it_costs_and_never_what_it_is(changes):
    world, memo = filters_world(), Memo()
    world.groups(memo)
    for change in changes:
        change(world)
        remembered, problems = world.groups(memo)
        fresh, fresh_problems = world.groups()
        assert problems == fresh_problems
        assert {key: g.items for key, g in remembered.items()} == {key: g.items for key, g in fresh.items()}
        assert all(remembered[key].requires == fresh[key].requires for key in fresh)


def test_hosts_without_filters_have_their_guard_all_the_same():
    """The catch-all drop is there before the first bridge is."""
    world = World()
    for family in (4, 6):
        chain = items_of(world, "iptables")[f"{family} filter hp-forward"].split("\n")
        assert chain[-2:] == ["-i qbr+ -j DROP", "-o qbr+ -j DROP"]
    assert items_of(world, "zones") == {"base": "present"}
