# SPDX-License-Identifier: Apache-2.0
"""What stands for a port is text that others compare: it must be what Python and the switch would write."""

import ipaddress

import pytest

from agent.core.service_identity import ALIASES4, ALIASES6, SLOTS4, SLOTS6, alias, link_local


@pytest.mark.parametrize(
    ("mac", "expected"),
    [
        ("fa:16:3e:00:00:01", "fe80::f816:3eff:fe00:1"),
        ("02:00:00:00:00:00", "fe80::ff:fe00:0"),
        ("00:03:00:7f:01:76", "fe80::203:ff:fe7f:176"),
        ("00:00:5e:00:01:05", "fe80::200:5eff:fe00:105"),
    ],
)
def test_link_local_address(mac, expected):
    assert link_local(mac) == expected == str(ipaddress.IPv6Address(expected))


@pytest.mark.parametrize(
    ("address", "network", "slots"), [("10.0.0.5", ALIASES4, SLOTS4), ("2001:db8::5", ALIASES6, SLOTS6)]
)
def test_aliases_are_canonical_and_no_two_ports_have_one(address, network, slots):
    places = [(number, slot) for number in (1, 2, 0x100, 0xFFFF) for slot in (0, 1, 0x20, slots - 1)]
    aliases = [alias(number, address, slot) for number, slot in places]
    assert aliases == [str(ipaddress.ip_address(text)) for text in aliases]
    assert len(set(aliases)) == len(places)
    assert all(ipaddress.ip_address(text) in ipaddress.ip_network(network) for text in aliases)
