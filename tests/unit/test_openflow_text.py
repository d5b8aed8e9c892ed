# SPDX-License-Identifier: Apache-2.0
"""Flow text: canonical notation.  That it is Open vSwitch's is tested on a real switch."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import openflow
from agent.core.openflow import match


def test_fields_come_in_one_order_whatever_order_they_are_given_in():
    one = match("arp", arp_tpa="10.0.0.1", in_port=3, metadata=5, reg1=9)
    other = match("arp", reg1=9, metadata=5, arp_tpa="10.0.0.1", in_port=3)
    assert one == other == "arp,reg1=0x9,metadata=0x5,in_port=3,arp_tpa=10.0.0.1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (match(), ""),
        (match("ip"), "ip"),
        (match("ip", in_port=1, nw_src=None), "ip,in_port=1"),
        (match(reg0=0), "reg0=0"),
        (match(metadata=255), "metadata=0xff"),
        (match(tun_id=5000, in_port=1), "tun_id=0x1388,in_port=1"),
        (match(dl_type=openflow.ETH_P_8021AD), "dl_type=0x88a8"),
        (openflow.flow_key(0, 0, ""), "table=0,priority=0"),
        (openflow.flow_key(3, 7, "ip"), "table=3,priority=7,ip"),
        (openflow.set_register(1, 10), "set_field:0xa->reg1"),
        (openflow.set_register(1, 0), "set_field:0->reg1"),
        (openflow.set_tunnel_destination("192.0.2.1"), "set_field:192.0.2.1->tun_dst"),
        (openflow.set_tunnel_destination("fd00::1"), "set_field:fd00::1->tun_ipv6_dst"),
        (openflow.push_vlan(100), ("push_vlan:0x8100", "set_field:4196->vlan_vid")),
    ],
)
def test_notation(text, expected):
    assert text == expected


def test_field_without_a_known_place_is_refused():
    with pytest.raises(KeyError):
        match(ct_state="+trk")


def test_priority_that_would_not_be_shown_is_refused():
    with pytest.raises(ValueError, match="32768"):
        openflow.flow_key(0, 32768, "ip")


@pytest.mark.parametrize(
    ("cidr", "expected"),
    [
        ("10.0.0.1/32", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", None),
        ("2001:db8::1/128", "2001:db8::1"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::/0", None),
        ("::/1", "::/1"),
        ("::ffff:0:0/96", "::ffff:0.0.0.0/96"),
    ],
)
def test_prefix_is_shown_without_a_mask_that_says_nothing(cidr, expected):
    assert openflow.prefix_text(cidr) == expected


# Runs of zeros are what the notations of IPv6 are about.
WORDS = st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF, 0x1234]), min_size=8, max_size=8)


@given(WORDS)
def test_ipv6_text_is_the_c_librarys(words):
    packed = b"".join(word.to_bytes(2) for word in words)
    text = openflow.ipv6_text(str(ipaddress.IPv6Address(packed)))
    assert text == socket.inet_ntop(socket.AF_INET6, packed)
