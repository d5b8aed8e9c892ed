# SPDX-License-Identifier: Apache-2.0
"""Neutron's extra DHCP options: names and values, and what they are on the wire."""

from __future__ import annotations

import pytest

from agent.core.errors import InputError
from agent.dhcp.data import BootData
from agent.dhcp.v4_options import NEXT_SERVER, read_options


def payload(name, value):
    (option,) = read_options([(name, value)]).options4
    return option


@pytest.mark.parametrize(
    ("name", "value", "code", "octets"),
    [
        ("router", "10.0.0.1, 10.0.0.2", 3, "0a0000010a000002"),
        ("option:router", "10.0.0.1", 3, "0a000001"),
        ("3", "10.0.0.1", 3, "0a000001"),
        ("dns_server", "{1.1.1.1, 8.8.8.8}", 6, "0101010108080808"),
        ("mtu", "1400", 26, "0578"),
        ("26", "0x578", 26, "0578"),
        ("tcp-ttl", "64", 37, "40"),
        ("ip-forward-enable", "true", 19, "01"),
        ("lease-time", "12h", 51, "0000a8c0"),
        ("lease-time", "infinite", 51, "ffffffff"),
        ("T1", "90", 58, "0000005a"),
        ("domain-search", "example.org,eu.example.org", 119, "076578616d706c65036f726700026575c000"),
        ("classless-static-route", "10.0.0.0/8,10.1.2.3,0.0.0.0/0,10.1.2.1", 121, "080a0a01020300" + "0a010201"),
        ("classless_static_route", "{192.168.1.0/25,10.0.0.1}", 121, "19c0a801000a000001"),
        ("249", "10.128.0.0/9,10.1.2.3", 249, "090a800a010203"),
        ("static-route", "10.0.0.1,10.0.0.2", 33, "0a0000010a000002"),
        ("path-prefix", "/a,b", 210, "2f612c62"),
        ("66", "10.0.0.9", 66, b"10.0.0.9".hex()),  # a name by its type, whatever it looks like
        ("tftp-server-address", "10.0.0.9", 150, "0a000009"),
        ("vendor-encap", "01:04:c0:00:02:01", 43, "0104c0000201"),
        ("vendor-encap", "0x0104", 43, "0104"),
        ("wpad", "http://x/\nrm -rf", 252, b"http://x/\nrm -rf".hex()),  # octets, not a line of anybody's file
        ("domain-name", "münchen", 15, "münchen".encode().hex()),
        ("224", "7", 224, "07"),
        ("224", "300", 224, "012c"),
        ("224", "70000", 224, "00011170"),
        ("224", "99999999999", 224, b"99999999999".hex()),
        ("224", "10.0.0.1,10.0.0.2", 224, "0a0000010a000002"),
        ("224", '"300"', 224, b"300".hex()),
        ("224", "some text, 10.0.0.1", 224, b"some text, 10.0.0.1".hex()),
        ("router", "", 3, ""),
    ],
)
def test_a_value_becomes_octets_by_its_type(name, value, code, octets):
    assert payload(name, value) == (code, bytes.fromhex(octets))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("router", "10.0.0.300", "'10.0.0.300' is not an IPv4 address"),
        ("router", "fd00::1", "'fd00::1' is not an IPv4 address"),
        ("mtu", "70000", "'70000' is not a number of 0..65535"),
        ("mtu", "-1", "'-1' is not a number of 0..65535"),
        ("mtu", "9" * 5000, "is not a number"),
        ("ip-forward-enable", "maybe", "'maybe' is not true or false"),
        ("lease-time", "soon", "'soon' is not a time"),
        ("lease-time", "4294967295", "is not a time"),
        ("static-route", "10.0.0.1", "not a list of pairs"),
        ("classless-static-route", "10.0.0.0/8", "not destination,nexthop"),
        ("classless-static-route", "10.0.0.1/8,10.0.0.1", "'10.0.0.1/8' is not an IPv4 network"),
        ("domain-search", "example..org", "'example..org' is not a domain name"),
        ("vendor-id-encap", "xyz", "'xyz' is not made of hexadecimal octets"),
        ("224", "0xabc", "'0xabc' is not made of hexadecimal octets"),
        ("225", "x" * 1025, "1025 octets are more than 1024"),
        ("no-such-option", "1", "neither a name that dnsmasq knows nor a number"),
        ("256", "1", "256 is outside 1..254"),
        ("0", "1", "cannot be set: it is padding"),
        ("53", "5", "cannot be set: it is set in each answer"),
        ("server-identifier", "10.0.0.1", "cannot be set: it is the subnet's server address"),
        ("tag:xyz,67", "f", "the tag 'xyz' is not one of ipxe, !ipxe, bios"),
        ("tag:arch-70000,67", "f", "the tag 'arch-70000' is not one of"),
        ("tag:ipxe,lease-time", "60", "without tags"),
        ("domain-name", "\ud800", "surrogates not allowed"),
    ],
)
def test_a_bad_option_is_named_with_the_reason(name, value, why):
    with pytest.raises(InputError) as caught:
        read_options([("mtu", "1400"), (name, value)])

    assert str(caught.value).startswith(f"dhcp option {name}: ")
    assert why in str(caught.value)


def test_the_later_of_two_values_counts():
    assert read_options([("mtu", "1400"), ("26", "1300")]).options4 == ((26, b"\x05\x14"),)


def test_a_client_id_decides_nothing():
    assert read_options([("client-id", "ff:00"), ("61", "01:02")]).options4 == ()


def test_tags_become_conditions_and_the_special_comes_after_the_general():
    options = read_options(
        [
            ("tag:ipxe,tag:efi-x86_64,67", "c"),
            ("tag:ipxe,67", "b"),
            ("67", "a"),
            ("server-ip-address", "10.0.0.9"),
            ("tag:!ipxe,tag:arch-11,255", "10.0.0.8"),
            ("tag:arch-11,67", "d"),
        ]
    )

    assert options.options4 == ((67, b"a"),)
    assert options.boot == (
        BootData(next_server="10.0.0.9"),
        BootData(architectures=(11,), options4=((67, b"d"),)),
        BootData(ipxe=False, architectures=(11,), next_server="10.0.0.8"),
        BootData(ipxe=True, options4=((67, b"b"),)),
        BootData(ipxe=True, architectures=(7, 9), options4=((67, b"c"),)),
    )
    assert all(code != NEXT_SERVER for entry in options.boot for code, _ in entry.options4)
