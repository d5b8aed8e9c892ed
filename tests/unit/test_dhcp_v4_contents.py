# SPDX-License-Identifier: Apache-2.0
"""Which options a client of scapy's finds in an answer: routes, names, boot files, and what of them fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core.errors import InputError
from agent.dhcp.data import BootData, SubnetData
from agent.dhcp.v4_answers import answer_frame
from agent.dhcp.v4_options import read_options
from agent.dhcp.v4_port import prepare
from tests.unit.dhcp_v4_client import BLUE, PORT, RED, codes, exchange, request

ALL = list(range(1, 255))
ROUTES, MICROSOFT_ROUTES, SEARCH, FQDN = 121, 249, 119, 81
ROUTED = replace(BLUE, routed=True)
EVERYTHING = replace(
    PORT,
    search=("example.org", "eu.example.org"),
    ntp4=("10.0.0.3", "10.0.0.4"),
    subnets=(replace(BLUE, routes=(("10.9.0.0/16", "10.0.0.9"),)),),
)


def ask(*options, port=PORT, kind="discover", wanted=None, **fields):
    listed = [] if wanted is None else [("param_req_list", wanted)]
    return exchange(request(kind, *options, *listed, **fields), port)[1]


def routes_of(port):
    """Return the routes of option 121 as scapy reads them."""
    found = ask(port=port, wanted=[ROUTES]).options.get("classless_static_routes", ())
    return list(found) if isinstance(found, tuple | list) else [found]


def test_everything_that_the_store_says_reaches_the_client():
    options = ask(port=EVERYTHING, wanted=ALL).options

    told = {
        name: options[name] for name in ("router", "name_server", "hostname", "domain", "NTP_server", "interface-mtu")
    }
    assert told == {
        "router": "10.0.0.1",
        "name_server": "9.9.9.9",
        "hostname": b"web-1",
        "domain": b"example.org",
        "NTP_server": ("10.0.0.3", "10.0.0.4"),
        "interface-mtu": 1450,
    }
    assert options["broadcast_address"] == "10.0.0.255"
    assert options[SEARCH] == b"\x07example\x03org\x00\x02eu\xc0\x00"  # RFC 3397: with pointers


def test_only_what_is_asked_for_is_sent_in_that_order_and_the_mtu_always():
    reply = ask(port=EVERYTHING, wanted=[15, 6, 3])

    assert [name for name in reply.options if name not in ("message-type", "server_id")] == [
        "lease_time", "renewal_time", "rebinding_time", "subnet_mask", "domain", "name_server", "router",
        "interface-mtu",
    ]  # fmt: skip


def test_who_asks_for_nothing_in_particular_gets_what_everybody_understands():
    sent = codes(ask(port=EVERYTHING))

    assert {1, 3, 6, 12, 15, 26, 28, 42} <= sent
    assert sent.isdisjoint({MICROSOFT_ROUTES, 108})


@pytest.mark.parametrize(
    ("subnets", "expected"),
    [
        pytest.param(
            (BLUE,), ["169.254.169.254/32:10.0.0.2", "0.0.0.0/0:10.0.0.1"], id="gateway-that-is-no-router-of-ours"
        ),
        pytest.param((ROUTED,), ["169.254.169.254/32:10.0.0.1", "0.0.0.0/0:10.0.0.1"], id="routed"),
        pytest.param((replace(BLUE, gateway=None),), ["169.254.169.254/32:10.0.0.2"], id="isolated"),
        pytest.param(
            (ROUTED, RED, SubnetData("fd00::/64")),
            ["10.1.0.0/16:0.0.0.0", "169.254.169.254/32:10.0.0.1", "0.0.0.0/0:10.0.0.1"],
            id="other-subnets-on-the-link",
        ),
        pytest.param(
            (replace(ROUTED, routes=(("10.64.0.0/10", "10.0.0.8"), ("192.0.2.7/32", "10.0.0.9"))),),
            ["10.64.0.0/10:10.0.0.8", "192.0.2.7/32:10.0.0.9", "169.254.169.254/32:10.0.0.1", "0.0.0.0/0:10.0.0.1"],
            id="host-routes",
        ),
        pytest.param(
            (replace(BLUE, routes=(("169.254.169.254/32", "10.0.0.9"),)),),
            ["169.254.169.254/32:10.0.0.9", "0.0.0.0/0:10.0.0.1"],
            id="metadata-by-host-route",
        ),
        pytest.param(
            (replace(BLUE, gateway=None, routes=(("0.0.0.0/0", "10.0.0.9"),)),),
            ["169.254.169.254/32:10.0.0.2", "0.0.0.0/0:10.0.0.9"],
            id="default-by-host-route",
        ),
        pytest.param(
            (replace(BLUE, routes=(("0.0.0.0/0", "10.0.0.9"),)),),
            ["169.254.169.254/32:10.0.0.2", "0.0.0.0/0:10.0.0.1"],
            id="the-gateway-wins",
        ),
        pytest.param(
            (replace(ROUTED, gateway="172.16.0.1"),),
            ["169.254.169.254/32:172.16.0.1", "172.16.0.1/32:0.0.0.0", "0.0.0.0/0:172.16.0.1"],
            id="gateway-outside-the-subnet",
        ),
    ],
)
def test_routes_are_neutrons(subnets, expected):
    assert routes_of(replace(PORT, subnets=subnets)) == expected


def test_a_gateway_outside_the_subnet_can_be_reached_before_anything_goes_through_it():
    routes = routes_of(replace(PORT, subnets=(replace(ROUTED, gateway="172.16.0.1"),)))

    assert routes.index("172.16.0.1/32:0.0.0.0") < routes.index("0.0.0.0/0:172.16.0.1")


def test_microsofts_number_holds_the_same_routes():
    options = ask(wanted=[ROUTES, MICROSOFT_ROUTES]).options

    assert options[MICROSOFT_ROUTES].hex() == "20a9fea9fe0a000002" + "000a000001"


def test_a_ports_own_options_override_ours_and_go_to_everybody():
    own = read_options([("router", "10.0.0.77"), ("ntp-server", "10.0.0.8"), ("252", "http://wpad/wpad.dat")])
    port = replace(EVERYTHING, options4=own.options4)
    options = ask(port=port, wanted=[1, ROUTES]).options

    assert (options["router"], options["NTP_server"], options[252]) == (
        "10.0.0.77",
        "10.0.0.8",
        b"http://wpad/wpad.dat",
    )
    assert routes_of(port)[-1] == "0.0.0.0/0:10.0.0.77"


def test_an_option_without_value_takes_ours_away():
    port = replace(PORT, options4=read_options([("router", ""), ("option:dns-server", "")]).options4)

    assert codes(ask(port=port, wanted=ALL)).isdisjoint({3, 6})
    assert routes_of(port) == ["169.254.169.254/32:10.0.0.2"]


def test_times_of_a_port_are_its_own():
    own = read_options([("lease-time", "1h"), ("T1", "300"), ("58", "200")])
    options = ask(port=replace(PORT, options4=own.options4)).options

    assert (options["lease_time"], options["renewal_time"], options["rebinding_time"]) == (3600, 200, 3150)


def test_ipv6_only_is_for_who_asks_for_it():
    port = replace(PORT, options4=read_options([("ipv6-only", "1800")]).options4)

    assert 108 not in codes(ask(port=port, wanted=[1, 3]))
    assert 108 in codes(ask(port=port, wanted=[1, 3, 108]))


def test_no_dns_server_at_all_is_announced_as_neutron_has_it():
    assert 6 not in codes(ask(port=replace(PORT, subnets=(replace(BLUE, dns=("0.0.0.0",)),)), wanted=ALL))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0x04 | 0x01, b"\x05\xff\xff\x05web-1\x07example\x03org\x00"),
        (0x04, b"\x07\xff\xff\x05web-1\x07example\x03org\x00"),
        (0x04 | 0x08, b"\x0c\xff\xff\x05web-1\x07example\x03org\x00"),
        (0x01, b"\x01\xff\xffweb-1.example.org"),
    ],
)
def test_the_client_learns_its_name_in_the_form_that_it_speaks(flags, expected):
    asked = bytes((flags, 0, 0)) + b"\x04evil"
    options = ask((FQDN, asked)).options

    assert options["client_FQDN"] == expected


PXE = read_options(
    [
        ("tag:arch-16,67", "http://10.0.0.9/grubx64.efi"),
        ("tag:!ipxe,67", "undionly.kpxe"),
        ("tag:!ipxe,tag:efi-x86_64,bootfile-name", "snponly.efi"),
        ("tag:ipxe,67", "http://10.0.0.9:8088/boot.ipxe"),
        ("server-ip-address", "10.0.0.9"),
        ("tftp-server", "10.0.0.9"),
    ]
)
BOOTING = replace(PORT, options4=PXE.options4, boot=PXE.boot)
VENDOR = "vendor_class_id"


@pytest.mark.parametrize(
    ("options", "file"),
    [
        pytest.param([(93, b"\x00\x00")], b"undionly.kpxe", id="bios"),
        pytest.param([(93, b"\x00\x07")], b"snponly.efi", id="uefi"),
        pytest.param([(93, b"\x00\x09\x00\x07")], b"snponly.efi", id="two-architectures"),
        pytest.param([(93, b"\x00\x07"), (77, b"iPXE")], b"http://10.0.0.9:8088/boot.ipxe", id="ipxe-by-user-class"),
        pytest.param([(93, b"\x00\x07"), (175, b"\x01\x01\x01")], b"http://10.0.0.9:8088/boot.ipxe", id="ipxe-by-175"),
        pytest.param([(93, b"\x00\x10")], b"http://10.0.0.9/grubx64.efi", id="http-boot"),
        pytest.param([(93, b"\x07")], b"undionly.kpxe", id="half-an-architecture"),
        pytest.param([], b"undionly.kpxe", id="no-architecture"),
    ],
)
def test_a_boot_loader_gets_the_file_for_its_kind(options, file):
    reply = ask(*options, port=BOOTING, wanted=[66, 67])

    assert reply.bootp.file.rstrip(b"\0") == file
    assert reply.options["boot-file-name"] == file
    assert reply.bootp.siaddr == "10.0.0.9"
    assert reply.bootp.sname.rstrip(b"\0") == reply.options["tftp_server_name"] == b"10.0.0.9"


def test_uefi_http_boot_is_told_that_the_offer_is_meant_for_it():
    plain = ask((93, b"\x00\x10"), (60, b"PXEClient:Arch:00016"), port=BOOTING)
    http = ask((93, b"\x00\x10"), (60, b"HTTPClient:Arch:00016"), port=BOOTING)

    assert 60 not in codes(plain)
    assert http.options[VENDOR] == b"HTTPClient"


def test_the_next_server_is_the_tftp_servers_address_unless_it_is_said():
    by_address = replace(PORT, options4=read_options([("tftp-server-address", "10.0.0.8")]).options4)
    by_name = replace(PORT, options4=read_options([("tftp-server", "boot.example.org")]).options4)

    assert ask(port=by_address).bootp.siaddr == "10.0.0.8"
    assert ask(port=by_name).bootp.siaddr == "0.0.0.0"


def test_a_small_client_gets_the_rest_in_the_unused_fields():
    many = tuple((code, bytes(100)) for code in (224, 225, 226, 227, 228))
    port = replace(PORT, options4=many)
    small, large = ask(port=port), ask(("max_dhcp_size", 1500), port=port)

    assert len(small.ip) <= 576
    assert 52 in codes(small)  # option overload; scapy does not look into the fields
    assert small.bootp.file[:2] == bytes((226, 100))
    assert {224, 225} <= codes(small)
    assert {224, 225, 226, 227, 228} <= codes(large)
    assert 52 not in codes(large)


@pytest.mark.parametrize(
    ("size", "mtu", "most"), [(0, 1500, 576), (300, 1500, 576), (9000, 1500, 1500), (9000, 600, 600)]
)
def test_no_answer_is_larger_than_client_and_network_take(size, mtu, most):
    port = replace(PORT, mtu=mtu, options4=tuple((code, bytes(90)) for code in range(170, 240)))

    assert most - 300 < len(ask(("max_dhcp_size", size), port=port).ip) <= most


def test_a_list_of_routes_of_more_than_255_octets_goes_in_pieces():
    routes = tuple((f"10.{i}.0.0/16", "10.0.0.9") for i in range(100))
    port = replace(PORT, subnets=(replace(BLUE, routes=routes),))
    frame = request("discover", ("param_req_list", [ROUTES]), ("max_dhcp_size", 1500))
    _, reply = exchange_raw(frame, port)
    pieces = [piece for code, piece in reply if code == ROUTES]
    whole = b"".join(pieces)

    assert [len(piece) for piece in pieces] == [255, 255, 204]
    assert len(whole) == 100 * 7 + 9 + 5  # and metadata and the default
    assert whole.startswith(b"\x10\x0a\x00\x0a\x00\x00\x09\x10\x0a\x01")


def exchange_raw(frame, port):
    """Return the answer's options one by one; scapy would take each piece for an option of its own."""
    answer, reply = answer_frame(frame, prepare(port))
    assert reply is not None
    octets = reply[14 + 28 + 240 :]
    found = []
    while octets[0] != 255:
        found.append((octets[0], octets[2 : 2 + octets[1]]))
        octets = octets[2 + octets[1] :]
    return answer, found


@pytest.mark.parametrize(
    "broken",
    [
        replace(PORT, options4=((53, b"\x05"),)),
        replace(PORT, options4=((256, b"x"),)),
        replace(PORT, options4=((255, b"x"),)),
        replace(PORT, boot=(BootData(options4=((51, b"\0\0\0\1"),)),)),
        replace(PORT, lease_seconds=0),
        replace(PORT, lease_seconds=1 << 32),
        replace(PORT, mtu=1 << 16),
        replace(PORT, subnets=(replace(BLUE, cidr="10.0.0.0/33"),)),
        replace(PORT, hostname="a" * 64),
        replace(PORT, search=("a..b",)),
    ],
)
def test_what_no_message_can_hold_is_refused_before_anybody_asks(broken):
    with pytest.raises(InputError, match=PORT.port):
        prepare(broken)
