# SPDX-License-Identifier: Apache-2.0
"""Who gets to hear ARP requests and neighbour solicitations, and what comes back."""

import re

import pytest

from tests.golden.l2_world import example_world, mac, underlay
from tests.ovs.pipeline_lab import UNDERLAY, Lab, running_switch, tunnel
from tests.ovs.pipeline_packets import BROADCAST, solicit, tagged, who_has

LOCAL = {"tap1", "tap2", "tap7", "tap8", "tap9"}
FAR = {f"vxlan 5000 to {underlay(2)}", f"vxlan 5000 to {underlay(3)}"}
LAN = {"tap4", "tap13", "tap14"}
LAN_OUT = f"{UNDERLAY} vlan 100"
IN_BLUE = tunnel("vxlan", 5000, underlay(2))
ROUTER = "02:00:00:00:00:09"
NO_ADDRESS = "0.0.0.0"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with running_switch(tmp_path_factory.mktemp("neighbors"), ports=15) as switch:
        yield Lab(switch, example_world())


def final_flow(lab):
    text = re.findall(r"^Final flow: (.*)$", lab.trace, re.MULTILINE)[-1]
    return dict(part.partition("=")[::2] for part in text.split(","))


@pytest.mark.parametrize(
    ("source", "address", "spa", "owner"),
    [
        pytest.param(1, "10.0.0.2", "10.0.0.1", 2, id="local"),
        pytest.param(1, "10.0.0.21", "10.0.0.1", 21, id="on another host"),
        pytest.param(4, "10.1.0.24", "10.1.0.4", 24, id="on a physical network"),
        pytest.param(4, "10.1.0.14", "10.1.0.4", 14, id="local, on a physical network"),
    ],
)
def test_request_for_a_known_address_is_answered(lab, source, address, spa, owner):
    assert lab.send(source, who_has(source, address, spa=spa)) == {f"tap{source}"}
    reply = final_flow(lab)
    assert reply["arp_op"] == "2"
    assert (reply["dl_src"], reply["dl_dst"]) == (mac(owner), mac(source))
    assert (reply["arp_sha"], reply["arp_spa"]) == (mac(owner), address)
    assert (reply["arp_tha"], reply["arp_tpa"]) == (mac(source), spa)


def test_probe_for_somebody_elses_address_is_answered(lab):
    """Port 7 may say what it likes, and is told that the address is taken (RFC 5227)."""
    assert lab.send(7, who_has(7, "10.0.0.2", spa=NO_ADDRESS)) == {"tap7"}


@pytest.mark.parametrize(
    ("source", "packet"),
    [
        pytest.param(1, who_has(1, "10.0.0.1", spa=NO_ADDRESS), id="probe for its own address"),
        pytest.param(1, who_has(1, "10.0.0.1"), id="announcement of its own address"),
        pytest.param(1, who_has(1, "10.0.0.23"), id="bound to no host"),
        pytest.param(1, who_has(1, "10.0.0.12"), id="not plugged"),
        pytest.param(1, who_has(1, "10.0.0.10"), id="administratively down"),
        pytest.param(1, who_has(1, "10.0.0.25"), id="of another network"),
        pytest.param(1, who_has(1, "10.0.0.200"), id="of allowed address pairs"),
        pytest.param(9, who_has(9, "10.0.0.200", spa=NO_ADDRESS), id="probe for an address pair"),
    ],
)
def test_other_requests_travel(lab, source, packet):
    assert lab.send(source, packet) == (LOCAL - {f"tap{source}"}) | FAR


def test_port_that_may_have_any_address_asks_for_itself(lab):
    """A pair of 0.0.0.0/0 covers every address: nothing can be answered without claiming one of its own."""
    assert lab.send(13, who_has(13, "10.1.0.4", spa="10.1.0.13")) == (LAN - {"tap13"}) | {LAN_OUT}


@pytest.mark.parametrize(
    ("source", "packet", "where", "owner"),
    [
        pytest.param(1, solicit(1, "2001:db8::2", sll=mac(1)), "tap2", 2, id="local"),
        pytest.param(1, solicit(1, "2001:db8::21"), f"vxlan 5000 to {underlay(2)}", 21, id="on another host"),
        pytest.param(7, solicit(7, "2001:db8::1", src="::"), "tap1", 1, id="somebody else's address"),
        pytest.param(4, solicit(4, "2001:db8:1::24", src="2001:db8:1::4"), LAN_OUT, 24, id="on a physical network"),
    ],
)
def test_solicitation_goes_to_the_owner_only(lab, source, packet, where, owner):
    assert lab.send(source, packet) == {where}
    assert final_flow(lab)["dl_dst"] == mac(owner)


@pytest.mark.parametrize(
    ("source", "packet"),
    [
        pytest.param(1, solicit(1, "2001:db8::1", src="::"), id="for its own address"),
        pytest.param(1, solicit(1, "2001:db8::99"), id="for an address that nobody has"),
    ],
)
def test_other_solicitations_travel(lab, source, packet):
    assert lab.send(source, packet) == (LOCAL - {f"tap{source}"}) | FAR


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        pytest.param(who_has(21, "10.0.0.1"), {"tap1"}, id="local"),
        pytest.param(who_has(21, "10.0.0.99"), LOCAL, id="unknown"),
        pytest.param(who_has(21, "10.0.0.21", spa="10.0.0.21"), LOCAL, id="announcement"),
        pytest.param(solicit(21, "2001:db8::2"), {"tap2"}, id="solicitation, local"),
        pytest.param(solicit(21, "2001:db8::99"), LOCAL, id="solicitation, unknown"),
    ],
)
def test_questions_from_tunnels_stay_here(lab, packet, expected):
    assert lab.send(IN_BLUE, packet) == expected


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        pytest.param(who_has(ROUTER, "10.1.0.4", spa="10.1.0.1"), {"tap4"}, id="local"),
        pytest.param(who_has(ROUTER, "10.1.0.4", spa="10.1.0.1", target=4), {"tap4"}, id="local, unicast"),
        pytest.param(who_has(ROUTER, "10.1.0.24", spa="10.1.0.1"), set(), id="on another host"),
        pytest.param(who_has(24, "10.1.0.24", spa="10.1.0.24"), LAN, id="announcement from another host"),
        pytest.param(who_has(ROUTER, "10.1.0.1", spa="10.1.0.1"), LAN, id="announcement of a gateway"),
        pytest.param(who_has(ROUTER, "10.1.0.77", spa="10.1.0.1"), LAN, id="unknown"),
        pytest.param(solicit(ROUTER, "2001:db8:1::4"), {"tap4"}, id="solicitation, local"),
        pytest.param(solicit(ROUTER, "2001:db8:1::24"), set(), id="solicitation, on another host"),
        pytest.param(solicit(ROUTER, "2001:db8:1::77"), LAN, id="solicitation, unknown"),
    ],
)
def test_questions_from_physical_networks_reach_who_they_are_for(lab, packet, expected):
    assert lab.send(UNDERLAY, tagged(packet, (0x8100, 100))) == expected


def test_broadcast_answer_of_a_neighbour_reaches_everybody(lab):
    assert lab.send(UNDERLAY, tagged(who_has(ROUTER, "10.1.0.99", target=BROADCAST), (0x8100, 100))) == LAN
