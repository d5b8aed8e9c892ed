# SPDX-License-Identifier: Apache-2.0
"""How packets come to routers and leave them: planned flows in a real switch, asked packet by packet.

What the router in a namespace makes of them is not seen here; ``edge_world`` says who is where.
"""

import re

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6MLReport2, ICMPv6ND_NA, IPv6
from scapy.layers.l2 import ARP

from agent.core.model import FloatingIpId, RouterId
from agent.core.naming import host_mac
from agent.core.openflow import ANNOUNCED
from agent.core.service_identity import link_local
from tests.golden.l2_world import mac, underlay
from tests.golden.router_world import EXTERNAL_PATCH, edge_world, leg_mac
from tests.ovs.pipeline_lab import PATCH, Lab, dump, load, parse_outputs, running_switch, tunnel
from tests.ovs.pipeline_packets import BROADCAST, NOBODY, ether, is_at, ping, ping6, solicit, tagged, who_has

BLUE, RED, PUBLIC = 2001, 2002, 2003  # OpenFlow numbers of the router's legs
AT_BLUE, AT_RED, AT_PUBLIC = "hpr-edge-blue", "hpr-edge-red", "hpr-edge-public"
R_BLUE, R_RED, G = leg_mac(1), leg_mac(2), leg_mac(3)
FLOATING = "fa:16:3e:ff:ff:01"  # the MAC address of 203.0.113.21
THERE = f"vxlan 5000 to {underlay(2)}"
THERE_RED = f"vxlan 5001 to {underlay(2)}"
BEYOND = f"vxlan 5000 to {underlay(3)}"
OUTSIDE = f"in_port={EXTERNAL_PATCH}"
UPSTREAM = "02:00:00:00:0e:01"
FROM_THERE = tunnel("vxlan", 5000, underlay(2))
NOWHERE: set[str] = set()
INTERNET = "198.51.100.7"
VLAN = (0x8100, 100)
PASSING = host_mac("here", "edge-public")  # under which a gateway sends that is not to be learned from


@pytest.fixture(scope="module")
def switch(tmp_path_factory):
    with running_switch(tmp_path_factory.mktemp("routers"), ports=3) as running:
        words = ["--", "add-br", "br-ex", "--", "set", "Bridge", "br-ex", "datapath_type=dummy", "fail-mode=standalone"]
        ports = {"hp-i-physnet2": EXTERNAL_PATCH, AT_BLUE: BLUE, AT_RED: RED, AT_PUBLIC: PUBLIC, "hpr-edge-lan": 2004}
        for name, number in ports.items():
            kind = ("type=patch", "options:peer=hp-p-physnet2") if name == "hp-i-physnet2" else ("type=dummy",)
            words += [
                "--",
                "add-port",
                "br-int",
                name,
                "--",
                "set",
                "Interface",
                name,
                f"ofport_request={number}",
                *kind,
            ]
        words += ["--", "add-port", "br-ex", "hp-p-physnet2"]
        words += ["--", "set", "Interface", "hp-p-physnet2", "type=patch", "options:peer=hp-i-physnet2"]
        words += ["--", "add-port", "br-ex", "world", "--", "set", "Interface", "world", "type=dummy"]
        running.vsctl(*words)
        yield running


class RouterLab(Lab):
    """A switch that holds a world's flows; says what became of the last packet."""

    def send(self, source, packet):
        """Return where the packet goes; what the operator's bridge keeps for itself does not count."""
        return Lab.send(self, source, packet) - {"br-ex"}

    def announce(self, leg, source, address):
        """Return where an ARP announcement goes that the daemon sends in the name of a leg, with a register set."""
        arp = f"arp,dl_src={source},dl_dst={BROADCAST},arp_op=1,arp_sha={source},arp_spa={address},arp_tpa={address}"
        flow = f"in_port={leg},reg{ANNOUNCED}=1,{arp}"
        self.trace = self.switch.appctl("ofproto/trace", "--names", "br-int", flow)
        return parse_outputs(self.trace) - {"br-ex"}

    def final(self, field: str) -> str:
        """Return a field of the packet as it went out."""
        text = re.findall(r"^Final flow: (.*)$", self.trace, re.MULTILINE)[-1]
        found = re.search(rf"\b{field}=([^,]*)", text)
        assert found is not None, text
        return found[1]


@pytest.fixture
def central(switch):
    return RouterLab(switch, edge_world(distributed=False))


@pytest.fixture
def standby(switch):
    return RouterLab(switch, edge_world(distributed=False, active="there"))


@pytest.fixture
def spread(switch):
    """A distributed router whose gateway is active elsewhere."""
    return RouterLab(switch, edge_world(distributed=True, active="there"))


@pytest.fixture
def spread_gateway(switch):
    return RouterLab(switch, edge_world(distributed=True))


def handing_over(switch, host, *, distributed=False, announced=True):
    """Return a switch whose gateway is passing here, while that of *host* is to be used."""
    world = edge_world(distributed=distributed)
    world.hand_over("edge", host, announced=announced)
    return RouterLab(switch, world)


def out_of(leg_mac_, target, src=INTERNET, dst="10.0.0.11"):
    """Return a packet that a leg sends."""
    return ether(leg_mac_, target) / IP(src=src, dst=dst) / ICMP()


@pytest.mark.parametrize("distributed", [False, True])
@pytest.mark.parametrize("active", ["here", "there", None])
@pytest.mark.parametrize("routes", [False, True])
def test_planned_text_is_what_the_switch_shows(switch, distributed, active, routes):
    world = edge_world(distributed=distributed, active=active)
    if routes:
        world.change_router("edge", routes=(("10.9.0.0/16", "10.0.0.9"), ("10.9.1.0/24", "203.0.113.9")))
    flows = world.flows()
    load(switch, flows)
    assert dump(switch) == flows


class TestCentralised:
    def test_what_instances_send_to_the_active_router_reaches_its_leg(self, central):
        assert central.send(1, ping(1, R_BLUE, "10.0.0.11", INTERNET)) == {AT_BLUE}
        assert central.send(1, ping(1, R_BLUE, "10.0.0.11", "10.1.0.12")) == {AT_BLUE}
        assert central.send(1, ping6(1, R_BLUE, "fd00:1::11", "2001:db8::1")) == {AT_BLUE}
        assert central.send(FROM_THERE, ping(11, R_BLUE, "10.0.0.21", INTERNET)) == {AT_BLUE}

    def test_what_the_router_sends_finds_instances_here_and_elsewhere(self, central):
        assert central.send(BLUE, out_of(R_BLUE, mac(1))) == {"tap1"}
        assert central.send(BLUE, out_of(R_BLUE, mac(11))) == {THERE}
        assert central.send(RED, out_of(R_RED, mac(12))) == {THERE_RED}
        assert central.send(PUBLIC, out_of(G, UPSTREAM, "203.0.113.10", INTERNET)) == {"world"}

    def test_interface_addresses_are_answered_for_everywhere(self, central, standby):
        for lab in (central, standby):
            assert lab.send(1, who_has(1, "10.0.0.1", "10.0.0.11")) == {"tap1"}
            assert lab.final("arp_sha") == R_BLUE

    def test_neighbor_solicitations_find_the_active_router(self, central, switch):
        packet = solicit(1, "fd00:1::1", "fd00:1::11", mac(1))
        for address in ("fd00:1::1", link_local(R_BLUE)):
            packet = solicit(1, address, "fd00:1::11", mac(1))
            assert central.send(1, packet) == {AT_BLUE}
        standby = RouterLab(switch, edge_world(distributed=False, active="there"))
        assert standby.send(1, packet) == {THERE}

    def test_outside_the_gateway_and_floating_ips_are_answered_for_where_it_is_active(self, central):
        for address in ("203.0.113.10", "203.0.113.21", "203.0.113.33", "203.0.113.40"):
            assert central.send(OUTSIDE, who_has(UPSTREAM, address, "203.0.113.1")) == {AT_PUBLIC}
        assert central.send(OUTSIDE, ping(UPSTREAM, G, INTERNET, "203.0.113.21")) == {AT_PUBLIC}

    def test_instances_send_through_the_tunnel_to_the_active_gateway(self, standby):
        assert standby.send(1, ping(1, R_BLUE, "10.0.0.11", INTERNET)) == {THERE}
        assert standby.send(2, ping(2, R_RED, "10.1.0.12", "10.0.0.11")) == {THERE_RED}

    def test_a_standby_says_and_takes_nothing(self, standby):
        for leg, source in ((BLUE, R_BLUE), (RED, R_RED), (PUBLIC, G)):
            assert standby.send(leg, who_has(source, "10.0.0.99", "10.0.0.1")) == NOWHERE
            assert standby.send(leg, out_of(source, mac(1))) == NOWHERE
            report = ether(source, "33:33:00:00:00:16") / IPv6(src="::", dst="ff02::16") / ICMPv6MLReport2()
            assert standby.send(leg, report) == NOWHERE
        assert standby.send(OUTSIDE, who_has(UPSTREAM, "203.0.113.10", "203.0.113.1")) == NOWHERE
        assert standby.send(OUTSIDE, ping(UPSTREAM, G, INTERNET, "203.0.113.21")) == NOWHERE
        assert standby.send(FROM_THERE, ping(11, R_BLUE, "10.0.0.21", INTERNET)) == NOWHERE

    def test_without_any_gateway_nothing_leaves_and_addresses_stay_known(self, switch):
        lab = RouterLab(switch, edge_world(distributed=False, active=None))
        assert lab.send(1, who_has(1, "10.0.0.1", "10.0.0.11")) == {"tap1"}
        assert lab.send(1, ping(1, R_BLUE, "10.0.0.11", INTERNET)) == NOWHERE

    def test_announcements_pass_the_answers_for_the_announced_address(self, central):
        assert central.send(PUBLIC, who_has(G, "203.0.113.10", "203.0.113.10")) == {"world"}
        assert central.send(PUBLIC, who_has(G, "203.0.113.21", "203.0.113.21")) == {"world"}

    def test_the_router_asks_for_addresses_that_the_store_does_not_know(self, central):
        assert central.send(BLUE, who_has(R_BLUE, "10.0.0.50", "10.0.0.1")) == {"tap1", "tap3", THERE, BEYOND}
        assert central.send(PUBLIC, who_has(G, "203.0.113.1", "203.0.113.10")) == {"world"}

    def test_a_leg_hears_of_virtual_addresses_but_no_tenants_broadcasts(self, central):
        announcement = ether(11, BROADCAST) / ARP(op=1, hwsrc=mac(11), psrc="10.0.0.50", pdst="10.0.0.50")
        assert central.send(FROM_THERE, announcement) == {"tap1", "tap3", AT_BLUE}
        assert central.send(FROM_THERE, ping(11, BROADCAST, "10.0.0.21", "10.0.0.255")) == {"tap1", "tap3"}


class TestHandingOver:
    """Two are open: no switch outside is to learn from what one of them only passes on."""

    @pytest.mark.parametrize("distributed", [False, True])
    @pytest.mark.parametrize("host", ["here", "there"])
    def test_what_is_passed_on_leaves_under_the_hosts_own_mac_address(self, switch, distributed, host):
        lab = handing_over(switch, host, distributed=distributed)
        assert lab.send(PUBLIC, out_of(G, UPSTREAM, "203.0.113.10", INTERNET)) == {"world"}
        assert lab.final("dl_src") == PASSING
        assert lab.send(PUBLIC, who_has(G, "203.0.113.1", "203.0.113.10")) == {"world"}
        assert (lab.final("dl_src"), lab.final("arp_sha")) == (PASSING, G)

    @pytest.mark.parametrize("announced", [False, True])
    def test_what_other_hosts_send_is_taken_all_the_time(self, switch, announced):
        lab = handing_over(switch, "there", announced=announced)
        assert lab.send(FROM_THERE, ping(11, R_BLUE, "10.0.0.21", INTERNET)) == {AT_BLUE}

    @pytest.mark.parametrize("distributed", [False, True])
    def test_announcements_go_under_the_gateways_mac_address(self, switch, distributed):
        lab = handing_over(switch, "there", distributed=distributed)
        assert lab.announce(PUBLIC, G, "203.0.113.10") == {"world"}
        assert (lab.final("dl_src"), lab.final("arp_sha")) == (G, G)

    def test_a_floating_ip_with_a_mac_address_of_its_own_is_handed_over_likewise(self, switch):
        lab = handing_over(switch, "there", distributed=True)
        assert lab.send(PUBLIC, out_of(G, UPSTREAM, "203.0.113.33", INTERNET)) == {"world"}
        assert lab.final("dl_src") == PASSING
        own = "fa:16:3e:ff:ff:0d"
        assert lab.announce(PUBLIC, own, "203.0.113.33") == {"world"}
        assert lab.final("dl_src") == own
        assert lab.send(PUBLIC, out_of(G, UPSTREAM, "203.0.113.21", INTERNET)) == {"world"}
        assert lab.final("dl_src") == FLOATING  # that of an instance here stays here

    @pytest.mark.parametrize("address", ["203.0.113.10", "203.0.113.21"], ids=["gateway", "floating"])
    def test_what_comes_from_outside_goes_back_to_who_knows_the_connections(self, switch, address):
        lab = handing_over(switch, "there")
        assert lab.send(OUTSIDE, ping(UPSTREAM, G, INTERNET, address)) == {"world"}
        assert (lab.final("dl_src"), lab.final("dl_dst")) == (PASSING, host_mac("there", "edge-public"))
        lab = handing_over(switch, "here")
        assert lab.send(OUTSIDE, ping(UPSTREAM, PASSING, INTERNET, address)) == {AT_PUBLIC}
        assert lab.final("dl_dst") == G

    @pytest.mark.parametrize("host", [None, "here", "there"])
    def test_what_is_cached_of_a_gateways_mac_address_never_depends_on_where_a_packet_goes_on_to(self, switch, host):
        """Or the switch would have to change one of two cached flows that overlap, and Open vSwitch 3.1 takes any."""
        active = RouterLab(switch, edge_world(distributed=False)) if host is None else handing_over(switch, host)
        active.send(OUTSIDE, ping(UPSTREAM, G, INTERNET, "203.0.113.21"))
        megaflow = re.findall(r"^Megaflow: (.*)$", active.trace, re.MULTILINE)[-1]
        assert f"dl_dst={G}" in megaflow
        assert "nw_dst" not in megaflow

    @pytest.mark.parametrize("address", ["203.0.113.10", "203.0.113.21"], ids=["gateway", "floating"])
    def test_who_is_not_led_to_yet_passes_nothing_back(self, switch, address):
        lab = handing_over(switch, "there", announced=False)
        assert lab.send(OUTSIDE, ping(UPSTREAM, G, INTERNET, address)) == {AT_PUBLIC}

    @pytest.mark.parametrize("host", ["here", "there"])
    @pytest.mark.parametrize("distributed", [False, True])
    def test_on_a_vlan_too_what_is_planned_is_what_the_switch_shows(self, switch, distributed, host):
        world = edge_world(distributed=distributed)
        world.network("public", "vlan", 30, "physnet2")
        world.hand_over("edge", host)
        flows = world.flows()
        load(switch, flows)
        assert dump(switch) == flows
        assert any("push_vlan" in actions and "IN_PORT" in actions for actions in flows.values()) is (host == "there")

    @pytest.mark.parametrize("distributed", [False, True])
    def test_instances_here_use_the_gateway_that_all_use(self, switch, distributed):
        lab = handing_over(switch, "there", distributed=distributed)
        assert lab.send(2, ping(2, R_RED, "10.1.0.12", INTERNET)) == {THERE_RED}
        lab = handing_over(switch, "here", distributed=distributed)
        assert lab.send(2, ping(2, R_RED, "10.1.0.12", INTERNET)) == {AT_RED}


class TestDistributed:
    def test_between_networks_this_host_routes(self, spread):
        assert spread.send(1, ping(1, R_BLUE, "10.0.0.11", "10.1.0.22")) == {AT_BLUE}
        assert spread.send(1, ping6(1, R_BLUE, "fd00:1::11", "fd00:1::1")) == {AT_BLUE}
        assert spread.send(RED, out_of(R_RED, mac(12), "10.0.0.11", "10.1.0.22")) == {THERE_RED}

    def test_what_leaves_goes_through_the_tunnel_to_the_active_gateway(self, spread):
        assert spread.send(2, ping(2, R_RED, "10.1.0.12", INTERNET)) == {THERE_RED}
        assert spread.send(1, ping6(1, R_BLUE, "fd00:1::11", "2001:db8::1")) == {THERE}

    def test_the_active_gateway_takes_it(self, spread_gateway):
        assert spread_gateway.send(FROM_THERE, ping(11, R_BLUE, "10.0.0.21", INTERNET)) == {AT_BLUE}
        assert spread_gateway.send(2, ping(2, R_RED, "10.1.0.12", INTERNET)) == {AT_RED}

    def test_who_has_a_floating_ip_here_leaves_here_under_its_own_mac_address(self, spread):
        assert spread.send(1, ping(1, R_BLUE, "10.0.0.11", INTERNET)) == {AT_BLUE}
        assert spread.send(PUBLIC, out_of(G, UPSTREAM, "203.0.113.21", INTERNET)) == {"world"}
        assert spread.final("dl_src") == FLOATING
        assert spread.send(PUBLIC, who_has(G, "203.0.113.1", "203.0.113.21")) == {"world"}
        assert (spread.final("arp_sha"), spread.final("dl_src")) == (FLOATING, FLOATING)

    def test_a_floating_ip_is_found_under_its_own_mac_address(self, spread):
        assert spread.send(OUTSIDE, who_has(UPSTREAM, "203.0.113.21", "203.0.113.1")) == {AT_PUBLIC}
        assert spread.send(OUTSIDE, ping(UPSTREAM, FLOATING, INTERNET, "203.0.113.21")) == {AT_PUBLIC}
        assert spread.final("dl_dst") == G
        probe = who_has(UPSTREAM, "203.0.113.21", "203.0.113.1", target=FLOATING)
        assert spread.send(OUTSIDE, probe) == {AT_PUBLIC}
        assert spread.final("dl_dst") == G

    def test_nothing_else_leaves_by_a_gateway_that_is_not_active(self, spread):
        assert spread.send(PUBLIC, out_of(G, UPSTREAM, "203.0.113.10", INTERNET)) == NOWHERE
        assert spread.send(PUBLIC, out_of(G, UPSTREAM, "10.1.0.12", INTERNET)) == NOWHERE
        assert spread.send(PUBLIC, out_of(G, UPSTREAM, "203.0.113.33", INTERNET)) == NOWHERE
        assert spread.send(PUBLIC, who_has(G, "203.0.113.1", "203.0.113.10")) == NOWHERE
        for address in ("203.0.113.10", "203.0.113.33"):  # the leg may hear the question
            answer = ether(G, UPSTREAM) / ARP(op=2, hwsrc=G, psrc=address, hwdst=UPSTREAM, pdst="203.0.113.1")
            assert spread.send(PUBLIC, answer) == NOWHERE
        assert spread.send(FROM_THERE, ping(11, R_BLUE, "10.0.0.21", INTERNET)) == NOWHERE

    @pytest.mark.parametrize("address", ["203.0.113.10", "203.0.113.33", "203.0.113.40"])
    def test_who_has_a_floating_ip_here_meets_the_gateways_addresses_outside(self, spread, address):
        """The answers to what comes from the gateway's address would else miss the translation that awaits them."""
        assert spread.send(1, ping(1, R_BLUE, "10.0.0.11", address)) == {AT_BLUE}

    def test_the_active_gateway_and_floating_ips_elsewhere_are_others_to_each_other(self, spread):
        assert spread.send(OUTSIDE, who_has(G, "203.0.113.21", "203.0.113.10")) == {AT_PUBLIC}
        assert spread.send(OUTSIDE, ping(G, FLOATING, "203.0.113.10", "203.0.113.21")) == {AT_PUBLIC}

    def test_an_instance_without_an_own_uplink_has_its_floating_ip_at_the_gateway(self, spread_gateway):
        own = "fa:16:3e:ff:ff:{:02x}".format
        assert spread_gateway.send(OUTSIDE, ping(UPSTREAM, own(13), INTERNET, "203.0.113.33")) == {AT_PUBLIC}
        assert spread_gateway.send(OUTSIDE, ping(UPSTREAM, own(11), INTERNET, "203.0.113.31")) == NOWHERE

    def test_answers_to_the_routers_questions_reach_whoever_asked(self, spread):
        reply = ether(1, R_BLUE) / ARP(op=2, hwsrc=mac(1), psrc="10.0.0.11", pdst="10.0.0.1", hwdst=R_BLUE)
        assert spread.send(1, reply) == {AT_BLUE, THERE, BEYOND}
        packet = ether(1, R_BLUE) / IPv6(src="fd00:1::11", dst="fd00:1::1", hlim=255) / ICMPv6ND_NA(tgt="fd00:1::11")
        assert spread.send(1, packet) == {AT_BLUE, THERE, BEYOND}
        assert spread.send(FROM_THERE, reply) == {AT_BLUE}

    def test_the_router_on_another_host_is_not_heard_as_somebody_else(self, spread):
        question = who_has(R_BLUE, "10.0.0.50", "10.0.0.1")
        assert spread.send(FROM_THERE, question) == {"tap1", "tap3"}

    def test_routes_of_the_store_decide_who_routes(self, switch):
        world = edge_world(distributed=True, active="there")
        routes = (("10.9.0.0/16", "10.0.0.9"), ("10.9.1.0/24", "203.0.113.9"))
        world.change_router("edge", routes=routes)
        lab = RouterLab(switch, world)
        assert lab.send(2, ping(2, R_RED, "10.1.0.12", "10.9.7.7")) == {AT_RED}
        assert lab.send(2, ping(2, R_RED, "10.1.0.12", "10.9.1.7")) == {THERE_RED}

    def test_without_any_gateway_networks_stay_joined(self, switch):
        lab = RouterLab(switch, edge_world(distributed=True, active=None))
        assert lab.send(2, ping(2, R_RED, "10.1.0.12", "10.0.0.11")) == {AT_RED}
        assert lab.send(2, ping(2, R_RED, "10.1.0.12", INTERNET)) == NOWHERE
        assert lab.send(1, ping(1, R_BLUE, "10.0.0.11", INTERNET)) == {AT_BLUE}


def lan_world(active="there"):
    """Return the distributed world with instance 3, and 21 of host there, on a VLAN that is routed, too."""
    world = edge_world(distributed=True, active=active)
    world.network("lan", "vlan", 100)
    world.subnet("lan", "10.2.0.0/24", "10.2.0.1")
    world.port(3, "lan", "10.2.0.13")
    world.floating_ips[RouterId("edge")].pop(FloatingIpId("f3"))
    world.endpoint(21, "lan", "there", "10.2.0.21")
    world.leg("edge", "lan", "10.2.0.1")
    return world


class TestDistributedOnPhysicalNetworks:
    LEG, AT, R = 2004, "hpr-edge-lan", leg_mac(4)
    OUT = "uplink1 vlan 100"

    @pytest.fixture
    def lan(self, switch):
        return RouterLab(switch, lan_world())

    @pytest.fixture
    def lan_gateway(self, switch):
        return RouterLab(switch, lan_world("here"))

    def test_planned_text_is_what_the_switch_shows(self, switch):
        for active in ("here", "there", None):
            flows = lan_world(active).flows()
            load(switch, flows)
            assert dump(switch) == flows

    def test_switches_see_a_mac_address_of_the_host_only(self, lan):
        assert lan.send(self.LEG, out_of(self.R, mac(21), "10.0.0.11", "10.2.0.21")) == {self.OUT}
        assert lan.final("dl_src") == host_mac("here", "edge-lan")
        assert lan.send(self.LEG, who_has(self.R, "10.2.0.99", "10.2.0.1")) == {"tap3", self.OUT}
        assert host_mac("here", "edge-lan") in lan.trace
        assert lan.send(self.LEG, out_of(self.R, mac(3), "10.0.0.11", "10.2.0.13")) == {"tap3"}

    def test_answers_to_it_reach_the_leg_as_its_own(self, lan):
        reply = ether(21, host_mac("here", "edge-lan")) / ARP(op=2, hwsrc=mac(21), psrc="10.2.0.99", pdst="10.2.0.1")
        assert lan.send(PATCH, tagged(reply, VLAN)) == {self.AT}
        assert lan.final("dl_dst") == self.R

    def test_what_other_hosts_route_comes_from_the_router(self, lan):
        packet = ether(host_mac("there", "edge-lan"), 3) / IP(src="10.0.0.21", dst="10.2.0.13") / ICMP()
        assert lan.send(PATCH, tagged(packet, VLAN)) == {"tap3"}
        assert lan.final("dl_src") == self.R

    @pytest.mark.parametrize("address", ["10.2.0.1", "10.2.0.99"], ids=["announcement", "question"])
    def test_what_other_hosts_say_of_the_router_leads_instances_to_this_host(self, lan, address):
        there = host_mac("there", "edge-lan")
        assert lan.send(PATCH, tagged(who_has(there, address, "10.2.0.1"), VLAN)) == {"tap3"}
        assert (lan.final("dl_src"), lan.final("arp_sha")) == (self.R, self.R)

    def test_answers_to_the_routers_questions_reach_whoever_asked(self, lan):
        reply = ether(3, self.R) / ARP(op=2, hwsrc=mac(3), psrc="10.2.0.13", hwdst=self.R, pdst="10.2.0.1")
        assert lan.send(3, reply) == {self.AT, self.OUT}
        heard = ether(21, "ff:ff:ff:ff:ff:ff") / ARP(op=2, hwsrc=mac(21), psrc="10.2.0.98", pdst="10.2.0.1")
        assert self.AT in lan.send(PATCH, tagged(heard, VLAN))

    def test_nobody_outside_is_the_router(self, lan):
        packet = ether(self.R, 3) / IP(src="10.0.0.21", dst="10.2.0.13") / ICMP()
        assert lan.send(PATCH, tagged(packet, VLAN)) == NOWHERE

    def test_this_host_routes_and_the_gateways_host_what_leaves(self, lan, switch):
        assert lan.send(3, ping(3, self.R, "10.2.0.13", "10.0.0.21")) == {self.AT}
        assert lan.send(3, ping(3, self.R, "10.2.0.13", INTERNET)) == {self.OUT}
        assert (lan.final("dl_dst"), lan.final("dl_src")) == (host_mac("there", "edge-lan"), mac(3))
        gateway = RouterLab(switch, lan_world("here"))
        packet = ether(21, host_mac("here", "edge-lan")) / IP(src="10.2.0.21", dst=INTERNET) / ICMP()
        assert gateway.send(PATCH, tagged(packet, VLAN)) == {self.AT}

    def test_only_the_active_gateway_answers_those_whom_the_store_does_not_know(self, lan_gateway, switch):
        question = tagged(who_has(NOBODY, "10.2.0.1", "10.2.0.77"), VLAN)
        assert lan_gateway.send(PATCH, question) == {self.AT}
        answer = ether(self.R, NOBODY) / ARP(op=2, hwsrc=self.R, psrc="10.2.0.1", hwdst=NOBODY, pdst="10.2.0.77")
        assert lan_gateway.send(self.LEG, answer) == {self.OUT}
        assert lan_gateway.final("arp_sha") == host_mac("here", "edge-lan")
        assert RouterLab(switch, lan_world()).send(PATCH, question) == NOWHERE


def test_frames_to_nobody_are_no_business_of_the_router(central):
    assert central.send(1, ping(1, NOBODY, "10.0.0.11", INTERNET)) == NOWHERE
    assert AT_BLUE in central.send(1, is_at(1, "10.0.0.11"))
