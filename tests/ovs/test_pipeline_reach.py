# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom: planned flows in a real switch, asked with ``ofproto/trace``."""

import pytest

from tests.golden.l2_world import example_world, underlay
from tests.ovs.pipeline_lab import PATCH, UNDERLAY, Lab, running_switch, tunnel
from tests.ovs.pipeline_packets import BROADCAST, NOBODY, VRRP, of_type, ping, ping6, tagged

THERE = f"to {underlay(2)}"
BEYOND = f"to {underlay(3)}"
BLUE = {"tap1", "tap2", "tap7", "tap8", "tap9"}
BLUE_FAR = {f"vxlan 5000 {THERE}", f"vxlan 5000 {BEYOND}"}
LAN = {"tap4", "tap13", "tap14"}
LAN_OUT = f"{UNDERLAY} vlan 100"
NOWHERE: set[str] = set()
STP = "01:80:c2:00:00:00"

IN_BLUE = tunnel("vxlan", 5000, underlay(2))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with running_switch(tmp_path_factory.mktemp("reach"), ports=15) as switch:
        yield Lab(switch, example_world())


def lan(source, target):
    return ping(source, target, src=f"10.1.0.{source}" if isinstance(source, int) else "10.1.0.77")


UNICAST = [
    ("same network, same host", 1, ping(1, 2), {"tap2"}),
    ("same network, same host, IPv6", 1, ping6(1, 2), {"tap2"}),
    ("same network, another host", 1, ping(1, 21), {f"vxlan 5000 {THERE}"}),
    ("same network, a third host", 1, ping6(1, 22), {f"vxlan 5000 {BEYOND}"}),
    ("Geneve", 3, ping(3, 25), {f"geneve 6000 {THERE}"}),
    ("an address that nobody has", 1, ping(1, NOBODY), NOWHERE),
    ("its own address", 1, ping(1, 1), NOWHERE),
    ("another tenant with the same IP addresses", 1, ping(1, 3), NOWHERE),
    ("another tenant, elsewhere", 1, ping(1, 25), NOWHERE),
    ("another network's physical port", 1, ping(1, 24), NOWHERE),
    ("a port that is administratively down", 1, ping(1, 10), NOWHERE),
    ("from a port that is administratively down", 10, ping(10, 1, src="10.0.0.10"), NOWHERE),
    ("from a network that is administratively down", 11, ping(11, BROADCAST, src="10.4.0.11"), NOWHERE),
    ("a port that is not plugged", 1, ping(1, 12), NOWHERE),
    ("a port that is bound to no host", 1, ping(1, 23), NOWHERE),
    ("an interface that no port is planned for", 12, ping(12, BROADCAST, src="10.0.0.12"), NOWHERE),
    ("a MAC address of allowed address pairs", 1, ping(1, VRRP), {"tap9"}),
]

GROUPS = [
    ("broadcast", 1, ping(1, BROADCAST), (BLUE - {"tap1"}) | BLUE_FAR),
    ("multicast", 7, ping6(7, "33:33:00:00:00:fb"), (BLUE - {"tap7"}) | BLUE_FAR),
    ("broadcast, Geneve", 3, ping(3, BROADCAST), {f"geneve 6000 {THERE}"}),
    ("broadcast, local network", 6, ping(6, BROADCAST, src="10.3.0.6"), {"tap15"}),
    ("bridges' own protocols", 7, of_type(7, STP, 0x88CC), NOWHERE),
    ("from a group address", 7, ping("01:00:5e:00:00:01", 1), NOWHERE),
]

TUNNELS = [
    ("to a local port", IN_BLUE, ping(21, 1), {"tap1"}),
    ("broadcast", IN_BLUE, ping(21, BROADCAST), BLUE),
    ("never on to another tunnel", IN_BLUE, ping(21, 22), NOWHERE),
    ("to nobody", IN_BLUE, ping(21, NOBODY), NOWHERE),
    ("a MAC address of allowed address pairs", IN_BLUE, ping(21, VRRP), {"tap9"}),
    ("from a host that is not known", tunnel("vxlan", 5000, underlay(99)), ping(21, 1), NOWHERE),
    ("from this host's own address", tunnel("vxlan", 5000, underlay(1)), ping(21, 1), NOWHERE),
    ("an identifier that is not known", tunnel("vxlan", 5999, underlay(2)), ping(21, 1), NOWHERE),
    ("the identifier of a network that is down", tunnel("vxlan", 5001, underlay(2)), ping(21, 11), NOWHERE),
    ("the identifier of another encapsulation", tunnel("geneve", 5000, underlay(2)), ping(21, 1), NOWHERE),
    ("Geneve", tunnel("geneve", 6000, underlay(2)), ping(25, 3), {"tap3"}),
    ("a tag inside", IN_BLUE, tagged(ping(21, 1), (0x8100, 0)), NOWHERE),
    ("a source address that is a group", IN_BLUE, ping("01:00:5e:00:00:01", 1), NOWHERE),
]

PHYSICAL = [
    ("known, same host", 4, lan(4, 13), {"tap13"}),
    ("known, other host", 4, lan(4, 24), {LAN_OUT}),
    ("unknown", 4, lan(4, NOBODY), {LAN_OUT}),
    ("broadcast", 4, lan(4, BROADCAST), (LAN - {"tap4"}) | {LAN_OUT}),
    ("flat, unknown", 5, ping(5, NOBODY, src="10.2.0.5"), {UNDERLAY}),
    ("from outside", UNDERLAY, tagged(lan("02:00:00:00:00:09", 4), (0x8100, 100)), {"tap4"}),
    ("from outside, broadcast", UNDERLAY, tagged(lan("02:00:00:00:00:09", BROADCAST), (0x8100, 100)), LAN),
    ("from outside, another VLAN", UNDERLAY, tagged(lan("02:00:00:00:00:09", BROADCAST), (0x8100, 101)), NOWHERE),
    ("from outside, not back out", UNDERLAY, tagged(lan("02:00:00:00:00:09", 24), (0x8100, 100)), NOWHERE),
    ("from outside, QinQ", UNDERLAY, tagged(lan("02:00:00:00:00:09", 4), (0x8100, 100), (0x8100, 7)), NOWHERE),
    (
        "from outside, 802.1ad inside",
        UNDERLAY,
        tagged(lan("02:00:00:00:00:09", 4), (0x8100, 100), (0x88A8, 7)),
        NOWHERE,
    ),
    ("from outside, VID 0 inside", UNDERLAY, tagged(lan("02:00:00:00:00:09", 14), (0x8100, 100), (0x8100, 0)), NOWHERE),
    ("from outside, flat", UNDERLAY, ping("02:00:00:00:00:09", 5), {"tap5"}),
    ("from outside, flat, broadcast", UNDERLAY, ping("02:00:00:00:00:09", BROADCAST), {"tap5"}),
    # The physical bridge itself would have taken the priority tag off.
    ("flat, a priority tag that came through", PATCH, tagged(ping("02:00:00:00:00:09", 5), (0x8100, 0)), NOWHERE),
    ("from outside, to a tunnel network's port", UNDERLAY, ping("02:00:00:00:00:09", 1), NOWHERE),
]


def vlan100(frame):
    """Return *frame* as it travels on the network lan outside."""
    return tagged(frame, (0x8100, 100))


FRAMES = [
    ("priority tag", 1, tagged(ping(1, 2), (0x8100, 0)), NOWHERE),
    ("VLAN tag", 1, tagged(ping(1, 2), (0x8100, 100)), NOWHERE),
    ("QinQ", 1, tagged(ping(1, 2), (0x88A8, 5), (0x8100, 6)), NOWHERE),
    ("priority tag, port security off", 7, tagged(ping(7, 2), (0x8100, 0)), NOWHERE),
    ("VLAN tag, port security off", 7, tagged(ping(7, 2), (0x8100, 5)), NOWHERE),
    ("802.1ad, port security off", 7, tagged(ping(7, 2), (0x88A8, 5)), NOWHERE),
    ("a tag that would lead into a VLAN", 14, tagged(lan(14, BROADCAST), (0x8100, 100)), NOWHERE),
    ("PPPoE", 1, of_type(1, 2, 0x8863), NOWHERE),
    ("reverse ARP", 1, of_type(1, BROADCAST, 0x8035), NOWHERE),
    ("PPPoE, to a port with port security", 7, of_type(7, 2, 0x8863), NOWHERE),
    ("reverse ARP, to ports with port security", 7, of_type(7, BROADCAST, 0x8035), BLUE_FAR),
    ("PPPoE, port security off", UNDERLAY, vlan100(of_type("02:00:00:00:00:09", 14, 0x8863)), {"tap14"}),
    (
        "PPPoE from outside, to a port with port security",
        UNDERLAY,
        vlan100(of_type("02:00:00:00:00:09", 4, 0x8863)),
        NOWHERE,
    ),
]


def named(cases):
    return [pytest.param(*case[1:], id=case[0]) for case in cases]


@pytest.mark.parametrize(("source", "packet", "expected"), named(UNICAST))
def test_unicast(lab, source, packet, expected):
    assert lab.send(source, packet) == expected


@pytest.mark.parametrize(("source", "packet", "expected"), named(GROUPS))
def test_group_addresses(lab, source, packet, expected):
    assert lab.send(source, packet) == expected


@pytest.mark.parametrize(("source", "packet", "expected"), named(TUNNELS))
def test_from_tunnels(lab, source, packet, expected):
    assert lab.send(source, packet) == expected


@pytest.mark.parametrize(("source", "packet", "expected"), named(PHYSICAL))
def test_physical_networks(lab, source, packet, expected):
    assert lab.send(source, packet) == expected


@pytest.mark.parametrize(("source", "packet", "expected"), named(FRAMES))
def test_tagged_and_foreign_frames(lab, source, packet, expected):
    assert lab.send(source, packet) == expected


def test_second_tag_is_seen_whatever_the_switch_is_told_to_parse(lab):
    lab.switch.vsctl("set", "Open_vSwitch", ".", "other_config:vlan-limit=2")
    try:
        packet = tagged(lan("02:00:00:00:00:09", 4), (0x8100, 100), (0x8100, 7))
        assert lab.send(UNDERLAY, packet) == NOWHERE
        assert lab.send(UNDERLAY, tagged(lan("02:00:00:00:00:09", 4), (0x8100, 100))) == {"tap4"}
    finally:
        lab.switch.vsctl("remove", "Open_vSwitch", ".", "other_config", "vlan-limit")
