# SPDX-License-Identifier: Apache-2.0
"""What a host holds for its routers, what must be in place before what, and what a change costs."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from agent.core.errors import Actor
from agent.core.model import HostName, NetworkId, PortId, RouterId
from agent.core.plan import ItemRef, ObjectId
from agent.core.service_identity import link_local
from tests.golden.l2_world import mac, underlay
from tests.golden.router_world import RouterWorld, edge_world, leg_mac

SPACE = "qrouter-edge"
BLUE, RED, PUBLIC = "qr-edge-blue", "qr-edge-red", "qg-edge-public"


EDGE = ObjectId("router:edge")
WITHOUT_CONNECTION = "-m mark --mark 0x2/0x2 -j RETURN"  # passes: driver fallback has translated it


def keys(world, driver, part):
    """Return what follows *part* in the keys of a driver in the router's namespace."""
    found = world.items(driver)
    return {key.partition(f"{part} ")[2] for key in found if key.startswith(f"{SPACE} ") and f" {part} " in key}


def rules(world, table, chain):
    """Return the rules of one of the router's IPv4 chains, in order if it has one."""
    found = world.items("nat")
    value = found.get(f"{SPACE} 4 {table} {chain}")
    if value != "*":
        return [] if value is None else str(value).splitlines()
    prefix = f"{SPACE} 4 {table} {chain} "
    return sorted(key.removeprefix(prefix) for key in found if key.startswith(prefix))


class TestWhoHasIt:
    def test_a_gateway_host_has_everything_active_or_not(self):
        held = [edge_world(distributed=False, active=active).items("nat") for active in ("here", "there", None)]
        assert held[0] == held[1] == held[2]
        addresses = keys(edge_world(distributed=False, active="there"), "routes", "address")
        assert {f"{PUBLIC} 203.0.113.10/24", f"{PUBLIC} 203.0.113.33/32", f"{BLUE} 10.0.0.1/24"} <= addresses

    def test_a_failover_changes_flows_and_nothing_else(self):
        world = edge_world(distributed=False, active="there")
        before = {
            driver: world.items(driver)
            for driver in ("netns", "links", "routes", "ovs", "nat", "fallback", "translations")
        }
        flows = world.flows()
        world.use("edge", "here")
        assert before == {driver: world.items(driver) for driver in before}
        assert flows != world.flows()

    def test_a_standby_of_a_distributed_router_takes_what_comes_from_its_addresses(self):
        """Its own instances' floating IPs are here, and others send to them from the gateway's address."""
        world = edge_world(distributed=True, active="there")
        external = {key for key in keys(world, "routes", "address") if key.startswith(PUBLIC)}
        assert external == {f"{PUBLIC} 203.0.113.21/32", f"{PUBLIC} 203.0.113.23/32"}
        ready = {driver: world.items(driver) for driver in ("netns", "links", "ovs")}
        rules = world.items("nat")
        assert not any("203.0.113.33" in key for key in rules)  # else it would be met here, too
        world.use("edge", "here")
        assert ready == {driver: world.items(driver) for driver in ready}
        assert rules.items() < world.items("nat").items()
        taken_over = {key for key in keys(world, "routes", "address") if key.startswith(PUBLIC)} - external
        addresses = {"203.0.113.10/24", "2001:db8:ff::10/64", "203.0.113.33/32", "203.0.113.40/32"}
        assert taken_over == {*(f"{PUBLIC} {each}" for each in addresses), f"{PUBLIC} {link_local(leg_mac(3))}/64"}

    def test_no_route_waits_for_a_leg_that_has_no_address(self):
        """The kernel takes routes away with the last address of a device, and nobody would notice."""
        world = edge_world(distributed=True, active="there")
        world.floating_ips.clear()
        world.change_router("edge", routes=(("192.0.2.0/24", "203.0.113.9"),))
        assert not any(PUBLIC in str(value) for key, value in world.items("routes").items() if " route " in key)
        world.use("edge", "here")
        assert f"{SPACE} route 192.0.2.0/24" in world.items("routes")

    def test_a_centralised_router_of_other_hosts_is_only_reached(self):
        world = edge_world(distributed=False, active="there")
        world.change_router("edge", gateway_hosts=(HostName("there"),))
        assert not world.items("netns")
        assert not world.items("nat")
        assert any(f"dl_dst={leg_mac(1)}" in key for key in world.flows())

    def test_a_distributed_router_is_where_its_networks_are(self):
        world = edge_world(distributed=True, active="there")
        world.change_router("edge", gateway_hosts=(HostName("there"),))
        assert world.items("netns") == {SPACE: "edge"}
        assert f"{PUBLIC} 203.0.113.10/24" not in keys(world, "routes", "address")
        for number in (1, 2, 3):
            del world.ports[PortId(f"p{number}")]
        assert not world.items("netns")

    def test_floating_ips_leave_from_their_own_host_if_that_has_the_uplink(self):
        world = edge_world(distributed=True, active="there")
        world.change_router("edge", gateway_hosts=(HostName("there"),))
        assert {a for a in keys(world, "routes", "address") if a.startswith(PUBLIC)} == {
            f"{PUBLIC} 203.0.113.21/32",
            f"{PUBLIC} 203.0.113.23/32",
        }
        world.settings = replace(world.settings, bridge_mappings={"physnet1": "br-phy"})
        assert not {a for a in keys(world, "routes", "address") if a.startswith(PUBLIC)}

    def test_only_the_first_gateway_host_counts_without_ha(self):
        world = edge_world(distributed=False, active="there")
        world.change_router("edge", gateway_hosts=(HostName("there"), HostName("here")), ha=False)
        assert not world.items("netns")

    def test_a_router_that_is_down_is_nowhere(self):
        world = edge_world(distributed=False)
        world.change_router("edge", admin_state_up=False)
        assert not world.items("netns")
        assert not any(leg_mac(1) in key + value for key, value in world.flows().items())

    def test_a_router_without_gateway_hosts_joins_its_networks_everywhere(self):
        world = edge_world(distributed=False, active=None)
        world.change_router("edge", gateway_hosts=(), gateway=None)
        assert world.items("netns") == {SPACE: "edge"}
        assert any(key.startswith("table=0,") and "in_port=2001," in key for key in world.flows())


class TestTranslation:
    def test_one_rule_each_way_for_a_floating_ip(self):
        world = edge_world(distributed=False)
        assert "-d 203.0.113.21/32 -j DNAT --to-destination 10.0.0.11" in rules(world, "nat", "hp-dnat")
        assert "-s 10.0.0.11/32 -j SNAT --to-source 203.0.113.21" in rules(world, "nat", "hp-floating")
        assert world.items("translations")[f"{SPACE} 203.0.113.21"] == "10.0.0.11"
        assert world.items("fallback")[f"{SPACE} 203.0.113.21"] == "10.0.0.11"

    def test_nothing_waits_for_what_translates_without_connections(self):
        groups = edge_world(distributed=True).plan().groups.values()
        required = {ref for group in groups for needs in group.requires.values() for ref in needs}
        assert not [ref for ref in required if ref.driver == "fallback"]

    def test_what_leaves_under_the_gateways_address_ends_with_snat_but_for_what_comes_back_inside(self):
        world = edge_world(distributed=False)
        gateway = f"{SPACE} 203.0.113.10"
        assert world.items("translations")[gateway] == "*"
        world.change_router("edge", enable_snat=False)
        assert world.items("translations")[gateway] == "hairpin"
        world.change_router("edge", gateway_hosts=(HostName("there"),))
        assert gateway not in world.items("translations")

    def test_and_with_the_address_where_a_distributed_router_is_active_no_more(self):
        world = edge_world(distributed=True)
        assert f"{SPACE} 203.0.113.10" in world.items("translations")
        world.use("edge", "there")
        assert f"{SPACE} 203.0.113.10" not in world.items("translations")

    @pytest.mark.parametrize(
        ("changes", "value"),
        [
            ({}, "translated"),
            ({"enable_snat": False}, "kept"),
            ({"gateway": None}, "kept"),
            ({"routes": (("10.9.0.0/16", "10.0.0.13"), ("0.0.0.0/0", "10.0.0.13"))}, "kept"),
        ],
    )
    def test_connections_end_with_the_prefixes_that_they_went_to(self, changes, value):
        world = edge_world(distributed=False)
        world.change_router("edge", **{"routes": (("10.9.0.0/16", "10.0.0.13"),), **changes})
        found = {key.partition(" ")[2]: text for key, text in world.items("translations").items() if "/" in key}
        assert found == dict.fromkeys(("10.0.0.0/24", "10.1.0.0/24", "10.9.0.0/16"), value)

    def test_of_a_distributed_router_nothing_inside_has_a_connection(self):
        assert not [key for key in edge_world(distributed=True).items("translations") if "/" in key]

    def test_floating_ips_first_then_what_leaves_and_what_comes_back_inside(self):
        assert rules(edge_world(distributed=False), "nat", "hp-snat") == [
            f"-o {PUBLIC} -j hp-floating",
            "-m mark ! --mark 0x1/0x1 -m conntrack --ctstate DNAT -j hp-floating",
            f"-o {PUBLIC} -j SNAT --to-source 203.0.113.10",
            "-m mark ! --mark 0x1/0x1 -m conntrack --ctstate DNAT -j SNAT --to-source 203.0.113.10",
        ]

    def test_without_snat_only_what_must_come_back_is_translated(self):
        world = edge_world(distributed=False)
        world.change_router("edge", enable_snat=False)
        assert f"-o {PUBLIC} -j SNAT --to-source 203.0.113.10" not in rules(world, "nat", "hp-snat")
        assert len(rules(world, "nat", "hp-snat")) == 3

    def test_the_gateways_address_is_nobodys_source_on_other_hosts(self):
        world = edge_world(distributed=True, active="there")
        world.change_router("edge", gateway_hosts=(HostName("there"),))
        assert not any("SNAT" in rule for rule in rules(world, "nat", "hp-snat"))

    def test_port_forwardings_keep_the_order_of_a_range(self):
        assert [rule for rule in rules(edge_world(distributed=False), "nat", "hp-dnat") if "--dport" in rule] == [
            "-d 203.0.113.10/32 -p tcp -m tcp --dport 2222 -j DNAT --to-destination 10.1.0.12:22",
            "-d 203.0.113.40/32 -p udp -m udp --dport 8000:8009 -j DNAT --to-destination 10.1.0.22:80-89/8000",
        ]

    def test_equal_ports_stay_as_they_are(self):
        world = edge_world(distributed=False)
        world.forwarding("edge", 12, "203.0.113.40:8000-8009", "10.1.0.22:8000-8009", 17)
        assert "-d 203.0.113.40/32 -p udp -m udp --dport 8000:8009 -j DNAT --to-destination 10.1.0.22" in rules(
            world, "nat", "hp-dnat"
        )

    def test_a_protocol_that_cannot_be_forwarded_is_said(self):
        world = edge_world(distributed=False)
        world.forwarding("edge", 2, "203.0.113.10:2222", "10.1.0.12:22", 136)
        (problem,) = [p for p in world.plan().problems if p.object_id == "port_forwarding:w2"]
        assert (problem.field, problem.actor) == ("protocol", Actor.CLOUD)

    def test_what_stays_inside_has_no_state_where_each_host_sees_half_of_it(self):
        assert rules(edge_world(distributed=True), "raw", "hp-notrack") == [
            "-d 10.0.0.0/24 -i qr-+ -j CT --notrack",
            "-d 10.1.0.0/24 -i qr-+ -j CT --notrack",
        ]
        assert not rules(edge_world(distributed=False), "raw", "hp-notrack")

    def test_what_leaves_is_tracked_although_a_shorter_route_stays_inside(self):
        """Without state it would leave untranslated."""
        ways = (("10.9.0.0/16", "10.0.0.9"), ("10.9.128.0/17", "203.0.113.1"), ("203.0.0.0/16", "10.0.0.9"))
        world = edge_world(distributed=True)
        world.change_router("edge", routes=ways)
        untracked = {rule.split()[1] for rule in rules(world, "raw", "hp-notrack")}
        assert {"10.0.0.0/24", "10.1.0.0/24", "10.9.0.0/17", "203.0.0.0/18"} <= untracked
        assert not any(ip_network(each).overlaps(ip_network("10.9.128.0/17")) for each in untracked)
        assert not any(ip_network(each).overlaps(ip_network("203.0.113.0/24")) for each in untracked)

    def test_nor_has_what_static_routes_keep_inside(self):
        world = edge_world(distributed=True)
        world.change_router("edge", routes=(("10.9.0.0/16", "10.0.0.9"), ("10.8.0.0/16", "203.0.113.9")))
        assert "-d 10.9.0.0/16 -i qr-+ -j CT --notrack" in rules(world, "raw", "hp-notrack")
        assert len(rules(world, "raw", "hp-notrack")) == 3

    def test_a_router_without_ipv6_has_no_chains_for_it_until_it_gets_an_interface(self):
        """Each family in which it has any costs a program that writes, and one that reads them."""
        world = edge_world(distributed=False)
        world.router("plain", "here")
        world.leg("plain", "red", "10.1.0.2")
        world.use("plain", "here")
        assert "qrouter-plain 4 mangle hp-mss" in world.items("nat")
        assert not any(key.startswith("qrouter-plain 6") for key in world.items("nat"))
        world.leg("plain", "blue", "fd00:1::2")
        assert "qrouter-plain 6 mangle hp-mss" in world.items("nat")


def scoped_world(**scopes: str) -> RouterWorld:
    """Return the centralised world with an address scope for the IPv4 subnet of each named network."""
    world = edge_world(distributed=False)
    for network, scope in scopes.items():
        first, *rest = world.subnets[NetworkId(network)]
        world.subnets[NetworkId(network)] = (replace(first, address_scope=scope), *rest)
    return world


class TestScopes:
    def test_without_scopes_only_what_could_not_be_translated_is_dropped(self):
        world = edge_world(distributed=False)
        assert rules(world, "filter", "hp-forward") == [
            WITHOUT_CONNECTION,
            f"-o {PUBLIC} -m conntrack --ctstate INVALID -j DROP",
        ]
        assert rules(world, "filter", "hp-input") == [
            "-m conntrack --ctstate INVALID -j DROP",
            "! -p icmp -m conntrack --ctstate ESTABLISHED -j DROP",
        ]
        world.change_router("edge", enable_snat=False)
        assert not rules(world, "filter", "hp-forward")

    def test_within_one_scope_nothing_is_translated(self):
        world = scoped_world(blue="s", red="s", public="s")
        assert rules(world, "nat", "hp-snat")[2] == f"-o {PUBLIC} -m mark --mark 0x100/0xff00 -j RETURN"

    def test_between_scopes_only_what_is_translated_passes(self):
        world = scoped_world(blue="s", red="t", public="s")
        marks = rules(world, "mangle", "hp-mark")
        assert f"-i {BLUE} -j MARK --set-xmark 0x100/0xff00" in marks
        assert f"-i {RED} -j MARK --set-xmark 0x200/0xff00" in marks
        assert rules(world, "filter", "hp-forward") == [
            WITHOUT_CONNECTION,
            f"-o {PUBLIC} -m mark ! --mark 0x100/0xff00 -m conntrack --ctstate INVALID -j DROP",
            f"-o {BLUE} -m mark ! --mark 0x100/0xff00 -m conntrack ! --ctstate SNAT,DNAT -j DROP",
            f"-o {RED} -m mark ! --mark 0x200/0xff00 -m conntrack ! --ctstate SNAT,DNAT -j DROP",
        ]

    def test_without_snat_floating_ips_still_leave_their_scope(self):
        world = scoped_world(blue="s", red="t")
        world.change_router("edge", enable_snat=False)
        assert rules(world, "filter", "hp-forward")[-2:] == [
            f"-o {PUBLIC} -j hp-floating",
            f"-o {PUBLIC} -m mark ! --mark 0x100/0xff00 -m conntrack ! --ctstate SNAT,DNAT -j DROP",
        ]
        assert "-s 10.0.0.11/32 -j ACCEPT" in rules(world, "filter", "hp-floating")


class TestRoutes:
    @pytest.fixture
    def world(self):
        return edge_world(distributed=False)

    def test_the_way_out_is_the_external_subnets_gateway(self, world):
        assert world.items("routes")[f"{SPACE} route 0.0.0.0/0"] == f"via 203.0.113.1 dev {PUBLIC}"
        assert world.items("routes")[f"{SPACE} route ::/0"] == f"via 2001:db8:ff::1 dev {PUBLIC}"

    def test_a_host_with_floating_ips_only_has_no_prefix_to_find_the_way_by(self):
        world = edge_world(distributed=True, active="there")
        world.change_router("edge", gateway_hosts=(HostName("there"),))
        assert world.items("routes")[f"{SPACE} route 0.0.0.0/0"] == f"via 203.0.113.1 dev {PUBLIC} onlink"
        assert f"{SPACE} route ::/0" not in world.items("routes")

    def test_several_next_hops_share(self, world):
        routes = (("10.9.0.0/16", "10.0.0.9"), ("10.9.0.0/16", "10.1.0.9"), ("fd00:9::/64", "fd00:1::9"))
        world.change_router("edge", routes=routes)
        assert world.items("routes")[f"{SPACE} route 10.9.0.0/16"] == (
            f"nexthop via 10.0.0.9 dev {BLUE} nexthop via 10.1.0.9 dev {RED}"
        )
        assert world.items("routes")[f"{SPACE} route fd00:9::/64"] == f"via fd00:1::9 dev {BLUE}"

    def test_a_default_route_of_the_store_takes_the_place_of_the_gateways(self, world):
        world.change_router("edge", routes=(("0.0.0.0/0", "10.0.0.9"),))
        assert world.items("routes")[f"{SPACE} route 0.0.0.0/0"] == f"via 10.0.0.9 dev {BLUE}"

    def test_a_next_hop_that_nothing_leads_to_is_said_and_the_others_stay(self, world):
        world.change_router("edge", routes=(("10.9.0.0/16", "10.0.0.9"), ("10.9.0.0/16", "192.0.2.9")))
        assert world.items("routes")[f"{SPACE} route 10.9.0.0/16"] == f"via 10.0.0.9 dev {BLUE}"
        (problem,) = [p for p in world.plan().problems if p.object_id == "router:edge"]
        assert (problem.field, problem.actor) == ("routes", Actor.CLOUD)
        assert "192.0.2.9" in problem.text

    def test_neighbors_of_the_store_need_not_be_asked_for_and_only_they(self, world):
        neighbors = keys(world, "routes", "neighbor")
        assert {
            f"{BLUE} 10.0.0.11",
            f"{BLUE} fd00:1::11",
            f"{BLUE} {link_local(mac(1))}",
            f"{BLUE} 10.0.0.23",
            f"{RED} 10.1.0.22",
        } <= neighbors
        assert not any("10.0.0.50" in each for each in neighbors)  # whoever has that may change


class TestGates:
    def opened_by(self, world, ofport=2001):
        """Return what must be in place before a leg may speak."""
        needed = {}
        for group in world.plan().groups.values():
            needed.update({ref.key: needs for ref, needs in group.requires.items() if ref.driver == "flows"})
        (entry,) = [key for key in needed if key.startswith("table=0,") and f"in_port={ofport}," in key]
        return needed[entry]

    def test_a_leg_speaks_only_once_everything_translates(self):
        world = edge_world(distributed=False)
        frame = world.group("router:edge")
        gate = self.opened_by(world)
        assert {ItemRef("nat", key) for key in frame.items["nat"]} <= gate
        assert {ItemRef("routes", key) for key in frame.items["routes"]} <= gate
        assert ItemRef("netns", SPACE) in gate

    def test_a_leg_speaks_only_with_its_devices_and_addresses(self):
        gate = self.opened_by(edge_world(distributed=False))
        assert ItemRef("links", f"{SPACE}/{BLUE}") in gate
        assert ItemRef("routes", f"{SPACE} address {BLUE} 10.0.0.1/24") in gate
        assert ItemRef("ovs", "port/hpr-edge-blue") in gate

    def test_everything_in_the_namespace_waits_for_it(self):
        """What is nobody's business must not be written into somebody else's namespace."""
        for distributed in (False, True):
            plan = edge_world(distributed=distributed).plan()
            requires = {ref: needs for group in plan.groups.values() for ref, needs in group.requires.items()}
            for group in plan.groups.values():
                for driver in ("links", "routes", "nat"):
                    for key in group.items.get(driver, {}):
                        if "qrouter" in key:
                            assert waits_for(requires, ItemRef(driver, key), ItemRef("netns", SPACE)), key


def waits_for(requires, ref, wanted) -> bool:
    return any(need == wanted or waits_for(requires, need, wanted) for need in requires.get(ref, ()))


class TestCost:
    @pytest.fixture
    def world(self):
        """Return a world with 20 routers of 20 floating IPs each."""
        world = edge_world(distributed=False)
        for number in range(20):
            name = f"r{number}"
            world.network(name, "vxlan", 6000 + number)
            world.subnet(name, "10.0.0.0/24", "10.0.0.1")
            world.router(name, "here", "there")
            world.leg(name, name, "10.0.0.1")
            world.leg(name, "public", f"203.0.113.{100 + number}", gateway=True)
            for each in range(20):
                world.floating(name, 1000 + 20 * number + each, f"198.51.{number}.{each}", f"10.0.0.{10 + each}", name)
            world.use(name, "here")
        return world

    def changed(self, world, change):
        """Return the groups that are other objects after *change* of the store's side, and how many were built."""
        memo, first = world.memo, world.snapshot()
        before = world.plan_of(first, memo)
        after = world.plan_of(change(first), memo)
        groups = {key for key, group in after.groups.items() if before.groups.get(key) is not group}
        return groups, memo.rebuilt

    def test_one_more_floating_ip_costs_one_group(self, world):
        def change(snapshot):
            old = snapshot.floating_ips["r7"]
            one = replace(old["f1140"], id="new", address="198.51.7.200", fixed_address="10.0.0.99")
            return replace(snapshot, floating_ips={**snapshot.floating_ips, "r7": {**old, "new": one}})

        assert self.changed(world, change) == ({"floating_ip:new"}, 1)

    def test_a_gateway_that_is_handed_over_costs_no_floating_ip(self, world):
        def change(snapshot):
            world.hand_over("r7", "there")
            return snapshot

        groups, _ = self.changed(world, change)
        assert groups
        assert not [key for key in groups if not key.startswith("router:r7")]

    def test_one_more_neighbor_costs_one_group_in_the_router(self, world):
        def change(snapshot):
            old = snapshot.endpoints["r7"]
            one = replace(snapshot.endpoints["blue"]["e11"], id="new", network="r7")
            return replace(snapshot, endpoints={**snapshot.endpoints, "r7": {**old, "new": one}})

        assert self.changed(world, change)[0] == {"endpoint:new", "router:r7/neighbors/r7-r7/new"}

    def test_a_router_that_moves_leaves_all_others_alone(self, world):
        before = world.plan(world.memo)
        world.use("r7", "there")
        after = world.plan(world.memo)
        changed = {key for key, group in after.groups.items() if before.groups.get(key) is not group}
        ours = {f"floating_ip:{floating}" for floating in world.floating_ips["r7"]}
        assert {key for key in changed if not key.startswith(("router:r7", "network:"))} == ours


class TestVoices:
    def test_the_gateway_and_floating_ips_speak_where_they_are_active(self):
        voices = edge_world(distributed=False).plan().voices[EDGE]
        assert voices[ObjectId("router:edge/gateway")].addresses == ("203.0.113.10", "2001:db8:ff::10")
        outside = [voice for what, voice in voices.items() if "/interface/" not in what]
        assert {voice.mac for voice in outside} == {leg_mac(3)}
        assert "router:edge/address/203.0.113.40" in voices
        assert not edge_world(distributed=False, active="there").plan().voices[EDGE]

    @pytest.mark.parametrize("distributed", [False, True])
    def test_a_new_claim_is_told_of_all_mac_addresses_that_move_with_the_gateway(self, distributed):
        world = edge_world(distributed=distributed)
        told = []
        for claim in (1, 2):
            world.gateways = replace(world.gateways, claims={RouterId("edge"): claim})
            told.append(world.plan(world.memo).voices[EDGE])
        again = [voice for what, voice in told[1].items() if told[0][what] != voice]
        assert {voice.claim for voice in again} == {2}
        # Floating IPs that leave from here whoever has the gateway.
        elsewhere = {"fa:16:3e:ff:ff:01", "fa:16:3e:ff:ff:03"} if distributed else set()
        elsewhere |= {leg_mac(1), leg_mac(2)}  # interfaces on tunnel networks
        assert {voice.mac for voice in again} == {voice.mac for voice in told[0].values()} - elsewhere

    def test_nothing_speaks_through_a_leg_without_a_number(self):
        world = edge_world(distributed=True)
        before = set(world.plan().voices[EDGE])
        world.ofports = {name: number for name, number in world.ofports.items() if number != 2001}
        assert before - set(world.plan().voices[EDGE]) == {"router:edge/interface/edge-blue"}
        world.ofports = {name: number for name, number in world.ofports.items() if number != 2003}
        assert set(world.plan().voices[EDGE]) == {"router:edge/interface/edge-red"}

    @pytest.mark.parametrize("distributed", [False, True])
    def test_instances_behind_tunnels_hear_of_interfaces_once_and_after_all_others(self, distributed):
        voices = edge_world(distributed=distributed).plan().voices[EDGE]
        inside = {voice.mac: voice for what, voice in voices.items() if "/interface/" in what}
        assert set(inside) == {leg_mac(1), leg_mac(2)}
        assert inside[leg_mac(1)].addresses == ("10.0.0.1", "fd00:1::1")
        assert not any(voice.urgent or voice.repeated for voice in inside.values())

    def test_floating_ips_of_a_distributed_router_speak_under_their_own_mac_addresses(self):
        voices = edge_world(distributed=True, active="there").plan().voices[EDGE]
        assert {str(key): voice.mac for key, voice in voices.items()} == {
            "floating_ip:f1": "fa:16:3e:ff:ff:01",
            "floating_ip:f3": "fa:16:3e:ff:ff:03",
        }


def test_gateway_hosts_without_ports_hear_what_is_sent_to_all():
    world = edge_world(distributed=False, active="third")
    world.other_host(4, "third", "physnet2")
    world.change_router("edge", gateway_hosts=(HostName("here"), HostName("third")))
    flooded = [str(a) for key, a in world.flows().items() if key.startswith("table=72,") and "metadata=0x1" in key]
    assert any(f"set_field:{underlay(4)}->tun_dst" in actions for actions in flooded)


def test_an_interface_on_a_network_that_is_not_there_is_said_and_the_rest_works():
    world = edge_world(distributed=False)
    del world.networks[NetworkId("red")]
    del world.ports[PortId("p2")]
    (problem,) = [p for p in world.plan().problems if p.object_id == "router:edge"]
    assert (problem.field, problem.actor) == ("interfaces", Actor.CLOUD)
    assert f"{BLUE} 10.0.0.1/24" in keys(world, "routes", "address")
