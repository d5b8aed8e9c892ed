# SPDX-License-Identifier: Apache-2.0
"""What a port is told by DHCPv6 besides its addresses, read by scapy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.dhcp6 import (
    USER_CLASS_DATA,
    DHCP6_InfoRequest,
    DHCP6OptBootFileUrl,
    DHCP6OptClientArchType,
    DHCP6OptClientFQDN,
    DHCP6OptDNSDomains,
    DHCP6OptDNSServers,
    DHCP6OptInfoRefreshTime,
    DHCP6OptOptReq,
    DHCP6OptSNTPServers,
    DHCP6OptUserClass,
)

from agent.dhcp import frames6, v6_packet
from agent.dhcp.data import BootData
from agent.dhcp.v6_packet import Code
from tests.dhcp6_client import OWN, PORT, STATEFUL, STATELESS, answer, ask, leases, solicit, udp_frame

CONFIGURED = replace(
    PORT,
    search=("a.example", "example.org"),
    ntp6=("2001:db8::123", "time.example.org", "no..name"),
    options6=((41, b"CET-1"),),
)
URL = int(Code.BOOTFILE_URL)


def options(message, port) -> dict[int, list[bytes]]:
    """Return what the answer says by code, without what it says about the exchange itself."""
    frame = answer(udp_frame(message), port).frame
    assert frame is not None
    datagram = frames6.parse(frame)
    assert isinstance(datagram, frames6.Datagram)
    found: dict[int, list[bytes]] = {}
    for code, payload in v6_packet.decode(datagram.payload).options:
        found.setdefault(code, []).append(payload)
    for code in (Code.CLIENT_ID, Code.SERVER_ID, Code.IA_NA, Code.PREFERENCE):
        found.pop(code, None)
    return found


def test_servers_and_names_are_told():
    _, frame = ask(solicit(23, 24, 31, 56), CONFIGURED)

    assert frame[DHCP6OptDNSServers].dnsservers == ["2001:db8::53"]
    assert frame[DHCP6OptDNSDomains].dnsdomains == ["example.org.", "a.example."]
    assert frame[DHCP6OptSNTPServers].sntpservers == ["2001:db8::123"]
    address, name = frames6.packed("2001:db8::123"), b"\4time\7example\3org\0"
    assert options(solicit(56), CONFIGURED) == {56: [b"\0\1\0\x10" + address + b"\0\3\0\x12" + name]}


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], []),  # wants nothing, and says so
        ([23], [23]),
        ([41, 24, 23], [23, 24, 41]),
        ([23, 23, 59, 999], [23]),
    ],
)
def test_what_is_not_asked_for_is_not_told(codes, expected):
    assert sorted(options(solicit(*codes), CONFIGURED)) == expected


def test_who_does_not_say_what_it_wants_is_told_all():
    message = solicit().copy()
    message[DHCP6OptOptReq].underlayer.remove_payload()

    assert sorted(options(message, CONFIGURED)) == [23, 24, 31, 41, 56]


def test_servers_of_all_subnets_are_told_once_and_only_those_of_ipv6():
    more = replace(STATELESS, dns=("2001:db8::54", "10.0.0.53", "2001:db8::53"))
    _, frame = ask(solicit(23), replace(PORT, subnets=(*PORT.subnets, more)))

    assert frame[DHCP6OptDNSServers].dnsservers == ["2001:db8::53", "2001:db8::54"]


def test_nothing_empty_is_told():
    port = replace(PORT, domain="", subnets=(replace(STATEFUL, dns=()), PORT.subnets[1]))

    assert options(solicit(23, 24, 31, 56, 59), port) == {}


@pytest.mark.parametrize(("lease", "seconds"), [(7200, 7200), (10, 600), (-1, 0xFFFFFFFF)])
def test_who_asks_without_addresses_is_told_when_to_ask_again(lease, seconds):
    _, frame = ask(DHCP6_InfoRequest(trid=1) / DHCP6OptOptReq(reqopts=[32]), replace(PORT, lease_seconds=lease))

    assert frame[DHCP6OptInfoRefreshTime].reftime == seconds
    assert options(solicit(32), PORT) == {}


def test_the_ports_own_options_replace_ours_or_take_them_away():
    port = replace(CONFIGURED, options6=((23, bytes(16)), (24, b""), (17, b"\0\0\0\1a"), (17, b"\0\0\0\2b")))

    assert options(solicit(23, 24, 17), port) == {23: [bytes(16)], 17: [b"\0\0\0\1a", b"\0\0\0\2b"]}


def test_no_option_of_a_port_speaks_for_the_protocol():
    port = replace(PORT, options6=((1, b"abc"), (2, b"abc"), (3, bytes(12)), (13, b"\0\1"), (14, b""), (39, b"\0")))
    result, frame = ask(solicit(1, 2, 3, 13, 14), port)

    assert result == "answered"
    assert leases(frame) == {7: [(OWN, 86400, 86400)]}
    assert options(solicit(1, 2, 3, 13, 14), port) == {}


BOOT = (
    BootData(ipxe=False, options6=((URL, b"tftp://x/ipxe.efi"),)),
    BootData(ipxe=False, architectures=(11,), options6=((URL, b"tftp://x/arm64.efi"),)),
    BootData(ipxe=True, options6=((URL, b"http://x/script"),)),
)
IPXE = DHCP6OptUserClass(userclassdata=[USER_CLASS_DATA(data=b"iPXE")])


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (None, b"tftp://x/ipxe.efi"),
        (DHCP6OptClientArchType(archtypes=[7]), b"tftp://x/ipxe.efi"),
        (DHCP6OptClientArchType(archtypes=[7, 11]), b"tftp://x/arm64.efi"),
        (IPXE, b"http://x/script"),
        (IPXE / DHCP6OptClientArchType(archtypes=[11]), b"http://x/script"),
        (DHCP6OptUserClass(userclassdata=[USER_CLASS_DATA(data=b"other")]), b"tftp://x/ipxe.efi"),
    ],
)
def test_each_boot_loader_is_told_what_to_load(extra, expected):
    port = replace(PORT, options6=((URL, b"http://default"),), boot=BOOT)
    message = solicit(59) if extra is None else solicit(59) / extra
    _, frame = ask(message, port)

    assert frame[DHCP6OptBootFileUrl].optdata == expected


@pytest.mark.parametrize(
    ("flags", "hostname", "domain", "expected"),
    [
        ("S", "web", "example.org", b"\x06\3web\7example\3org\0"),  # N and O: nobody updates DNS, other than you said
        ("", "web", "example.org", b"\x04\3web\7example\3org\0"),
        ("N", "web", "", b"\x04\3web"),
        ("S", "", "example.org", None),
        ("S", "no..name", "example.org", None),
    ],
)
def test_a_client_that_speaks_of_its_name_is_told_the_ports(flags, hostname, domain, expected):
    port = replace(PORT, hostname=hostname, domain=domain)
    found = options(solicit() / DHCP6OptClientFQDN(flags=flags, fqdn="mine.example."), port)

    assert found.get(39) == (None if expected is None else [expected])


def test_a_client_may_ask_for_its_name_without_saying_one():
    assert options(solicit(39), PORT) == {39: [b"\x04\3web\7example\3org\0"]}


def test_what_does_not_fit_into_a_packet_of_the_link_is_left_out():
    port = replace(PORT, mtu=1280, options6=((200, bytes(700)), (201, bytes(700)), (202, b"small")))
    frame = answer(udp_frame(solicit(200, 201, 202, 23)), port).frame

    assert frame is not None
    assert len(frame) <= 14 + 1280
    assert sorted(options(solicit(200, 201, 202, 23), port)) == [23, 200, 202]
