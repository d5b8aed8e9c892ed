# SPDX-License-Identifier: Apache-2.0
"""Options by name, as Neutron, dnsmasq and OVN write them for IPv6, and what they come to."""

from __future__ import annotations

import pytest

from agent.core.errors import InputError
from agent.dhcp.data import BootData
from agent.dhcp.v6_options import read_options

ADDRESS = bytes.fromhex("20010db8") + bytes(11) + b"\1"
OTHER = bytes.fromhex("20010db8") + bytes(11) + b"\2"


@pytest.mark.parametrize(
    ("name", "value", "code", "payload"),
    [
        ("dns-server", "[2001:db8::1],[2001:db8::2]", 23, ADDRESS + OTHER),
        ("dns_server", "{2001:db8::1, 2001:db8::2}", 23, ADDRESS + OTHER),
        ("option6:dns-server", "2001:db8::1", 23, ADDRESS),
        ("23", "2001:db8::1", 23, ADDRESS),
        ("option6:23", "2001:db8::1", 23, ADDRESS),
        ("domain-search", "a.example,b.", 24, b"\1a\7example\0\1b\0"),
        ("sip-server-domain", "a", 21, b"\1a\0"),
        ("nis+-server", "2001:db8::1", 28, ADDRESS),
        ("sntp-server", "2001:db8::1", 31, ADDRESS),
        ("ntp-server", "[2001:db8::1],time.a", 56, b"\0\1\0\x10" + ADDRESS + b"\0\3\0\x08\4time\1a\0"),
        ("information-refresh-time", "1h", 32, b"\0\0\x0e\x10"),
        ("bootfile-url", "tftp://[ff80::1]/a,b", 59, b"tftp://[ff80::1]/a,b"),
        ("bootfile-name", "http://a", 59, b"http://a"),
        ("bootfile-param", "a,bc", 60, b"\0\1a\0\2bc"),
        ("sol-max-rt", "3600", 82, b"\0\0\x0e\x10"),
        ("posix-timezone", "EST5EDT4,M3.2.0/02:00", 41, b"EST5EDT4,M3.2.0/02:00"),
        ("vendor-class", "0x00000157000a4854545043", 16, bytes.fromhex("00000157000a4854545043")),
        ("60000", "0a:ff", 60000, b"\x0a\xff"),
        ("60000", "0x0aff", 60000, b"\x0a\xff"),
        ("60000", "7", 60000, b"\7"),
        ("60000", "70000", 60000, b"\0\1\x11\x70"),
        ("60000", "99999999999", 60000, b"99999999999"),
        ("60000", "[2001:db8::1]", 60000, ADDRESS),
        ("60000", "some text", 60000, b"some text"),
        ("60000", '"7"', 60000, b"7"),
        ("60000", "", 60000, b""),
    ],
)
def test_names_and_values_become_octets(name, value, code, payload):
    assert read_options([(name, value)]).options6 == ((code, payload),)


def test_what_ironic_writes_for_ipxe_is_understood():
    found = read_options([("tag:ipxe6,59", "http://x/script"), ("tag:!ipxe6,59", "tftp://x/ipxe.efi")])

    assert found.options6 == ()
    assert set(found.boot) == {
        BootData(ipxe=True, options6=((59, b"http://x/script"),)),
        BootData(ipxe=False, options6=((59, b"tftp://x/ipxe.efi"),)),
    }


def test_what_is_said_of_fewer_clients_comes_later_and_so_wins():
    found = read_options(
        [("tag:!ipxe,tag:efi-arm64,option6:bootfile-url", "b"), ("tag:!ipxe,bootfile-url", "a"), ("bootfile-url", "c")]
    )

    assert found.options6 == ((59, b"c"),)
    assert [boot.options6 for boot in found.boot] == [((59, b"a"),), ((59, b"b"),)]
    assert found.boot[1].architectures == (11,)


def test_the_later_of_two_values_counts():
    assert read_options([("59", "a"), ("bootfile-url", "b")]).options6 == ((59, b"b"),)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("dns-server", "10.0.0.1", "'10.0.0.1' is not an IPv6 address"),
        ("dns-server", "2001:db8::1,", "'' is not an IPv6 address"),
        ("domain-search", "a..b", "no domain name"),
        ("domain-search", "x" * 64, "no domain name"),
        ("domain-search", ".".join(["a" * 60] * 5), "more than 255 octets"),
        ("domain-search", "ä.example", "no domain name"),
        ("ntp-server", "a b", "no domain name"),
        ("information-refresh-time", "soon", "is not a time"),
        ("sol-max-rt", "59", "60..86400"),
        ("vendor-opts", "xyz", "hexadecimal"),
        ("server-id", "0x00", "cannot be set"),
        ("FQDN", "a.b", "cannot be set"),
        ("2", "0x00", "cannot be set"),
        ("rapid-commit", "", "cannot be set"),
        ("0", "a", "outside 1..65535"),
        ("65536", "a", "outside 1..65535"),
        ("server-ip-address", "10.0.0.1", "neither"),
        ("", "a", "neither"),
        ("tag:nobody,59", "a", "tag 'nobody'"),
        ("60000", "x" * 1025, "more than 1024"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name, value, why):
    with pytest.raises(InputError, match=why) as refused:
        read_options([("bootfile-url", "fine"), (name, value)])

    assert str(refused.value).startswith(f"dhcp option {name}:")
