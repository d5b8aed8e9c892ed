# SPDX-License-Identifier: Apache-2.0
"""The form in which a port's data travels to the responder and lies in its file."""

from __future__ import annotations

import json

import pytest

from agent.core.errors import InputError
from agent.dhcp.data import INFINITE, BootData, PortData, SubnetData, decode_port, encode_port

FULL = PortData(
    port="8f7a2e06-0000-4000-8000-000000000001",
    mac="fa:16:3e:00:00:01",
    server_mac="fa:16:3e:ff:ff:ff",
    hostname="web",
    domain="example.org",
    search=("example.org",),
    mtu=1450,
    addresses=(("10.0.0.5", 0), ("fd00::5", 1)),
    subnets=(
        SubnetData("10.0.0.0/24", "10.0.0.1", "10.0.0.2", ("9.9.9.9",), (("10.9.0.0/16", "10.0.0.9"),), routed=True),
        SubnetData("fd00::/64", dhcp=False, address_mode="slaac", ra_mode="slaac"),
    ),
    options4=((43, b"\x00\xff\n"), (3, b"")),
    options6=((59, b"http://x"),),
    boot=(BootData(True, (7, 9), "10.0.0.9", ((67, b"f"),), ((59, b"u"),)), BootData(False)),
    ntp4=("10.0.0.3",),
    ntp6=("fd00::3",),
    lease_seconds=INFINITE,
)
SMALL = PortData(port="p", mac="fa:16:3e:00:00:01", server_mac="fa:16:3e:ff:ff:ff")


@pytest.mark.parametrize("data", [FULL, SMALL])
def test_data_comes_back_from_json_as_it_was(data):
    assert decode_port(json.loads(json.dumps(encode_port(data)))) == data


def test_fields_of_other_versions_do_no_harm():
    later = encode_port(FULL)
    later["colour"] = "blue"
    later["subnets"] = [{**subnet, "smell": 1} for subnet in later["subnets"]]  # type: ignore[attr-defined]

    assert decode_port(later) == FULL
    assert decode_port({"port": "p", "mac": "fa:16:3e:00:00:01", "server_mac": "fa:16:3e:ff:ff:ff"}) == SMALL


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"port": 1}, "port: 1 is not text"),
        ({"mtu": "1500"}, "mtu: '1500' is not a number"),
        ({"mtu": True}, "mtu: True is not a number"),
        ({"search": "example.org"}, "search: 'example.org' is not a list"),
        ({"addresses": [["10.0.0.5"]]}, "addresses: .* is not a pair"),
        ({"addresses": [["10.0.0.5", 2]]}, "10.0.0.5 is of subnet 2, the last is 1"),
        ({"addresses": [["10.0.0.5", -1]]}, "10.0.0.5 is of subnet -1"),
        ({"subnets": [{"gateway": "10.0.0.1"}]}, "cidr is missing"),
        ({"subnets": ["10.0.0.0/24"]}, "is not an object"),
        ({"subnets": [{"cidr": "10.0.0.0/24", "dhcp": "yes"}]}, "dhcp: 'yes' is neither true nor false"),
        ({"options4": [[43, "0g"]]}, "options4: non-hexadecimal"),
        ({"boot": [{"ipxe": "no"}]}, "ipxe: 'no' is neither"),
    ],
)
def test_what_makes_no_sense_is_named(change, why):
    with pytest.raises(InputError, match=why):
        decode_port({**encode_port(FULL), **change})


@pytest.mark.parametrize("value", [None, [], "x", {}, {"port": "p"}])
def test_what_is_no_port_at_all_is_refused(value):
    with pytest.raises(InputError):
        decode_port(value)
