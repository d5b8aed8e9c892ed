# SPDX-License-Identifier: Apache-2.0
"""The one door to a port's answers: every protocol goes through it, bad data does not, no octets make it raise."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_RS, IPv6
from scapy.layers.l2 import ARP, Ether

from agent.core.errors import InputError
from agent.dhcp.data import SubnetData
from agent.dhcp.port_answers import Answered, PortAnswers
from tests.dhcp6_client import IDENTITY, LINK_LOCAL, MAC, PORT, solicit, udp_frame

FROM = bytes.fromhex(IDENTITY.replace(":", ""))
ANSWERS = PortAnswers(PORT, FROM)
SOLICIT = udp_frame(solicit())
ROUTER_SOLICITATION = bytes(Ether(src=MAC, dst=IDENTITY) / IPv6(src=LINK_LOCAL, dst="ff02::2") / ICMPv6ND_RS())
DISCOVER = bytes.fromhex(
    "064850000009fa163e0000010800"
    "4500011c00000000401179d200000000ffffffff"
    "0044004301080000"
    "0101060000001234" + "00" * 20 + "fa163e000001" + "00" * 202 + "63825363" + "350101ff" + "00" * 20
)


def summary(told):
    return told.protocol, told.message, told.result, told.frame is not None


def test_each_protocol_is_known_by_its_name():
    assert summary(ANSWERS.answer(DISCOVER)) == ("dhcpv4", "discover", "offered", True)
    assert summary(ANSWERS.answer(SOLICIT)) == ("dhcpv6", "solicit", "answered", True)
    assert summary(ANSWERS.answer(ROUTER_SOLICITATION)) == ("ra", "solicitation", "answered", True)
    assert ANSWERS.answer(bytes(Ether(src=MAC, dst=IDENTITY) / ARP())) == Answered("", "", "malformed")
    assert ANSWERS.answer(b"") == Answered("", "", "malformed")


@pytest.mark.parametrize(
    "data",
    [
        replace(PORT, mac="fa:16"),
        replace(PORT, server_mac="server"),
        replace(PORT, addresses=(("10.0.0.500", 1),)),
        replace(PORT, addresses=(("2001:db8::g", 0),)),
        replace(PORT, subnets=(replace(PORT.subnets[0], cidr="2001:db8:1::/200"), PORT.subnets[1])),
        replace(PORT, subnets=(replace(PORT.subnets[0], server="2001:db8:1::x"), PORT.subnets[1])),
        replace(PORT, subnets=(replace(PORT.subnets[0], dns=("::1::",)), PORT.subnets[1])),
        replace(PORT, subnets=(PORT.subnets[0], SubnetData("10.0.0.0/24", server="10.0.0.256"))),
        replace(PORT, router_mac="router"),
        replace(PORT, search=("a" * 64 + ".example",)),
        replace(PORT, options6=((1 << 17, b"x"),)),
        replace(PORT, options4=((67, b"x" * 70000), (300, b"x"))),
    ],
)
def test_data_that_no_packet_can_hold_is_refused_when_it_comes(data):
    """And not when an instance asks: what is refused leaves the port with what was known before."""
    with pytest.raises(InputError, match="port 2c7d2f3e"):
        PortAnswers(data, FROM)


@settings(max_examples=300)
@given(st.sampled_from([DISCOVER, SOLICIT, ROUTER_SOLICITATION]), st.data())
def test_whatever_the_octets_an_answer_goes_back_by_the_way_they_came_or_nowhere(good, data):
    octets = bytearray(good)
    for _ in range(data.draw(st.integers(0, 4))):
        octets[data.draw(st.integers(6, len(octets) - 1))] = data.draw(st.integers(0, 255))
    size = data.draw(st.integers(0, len(octets)))
    for frame in (bytes(octets), bytes(octets[:size])):
        told = ANSWERS.answer(frame)
        if told.frame is not None:
            assert told.frame[6:12] == frame[:6] == FROM
