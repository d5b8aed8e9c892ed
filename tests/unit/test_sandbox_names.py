# SPDX-License-Identifier: Apache-2.0
"""Names and paths of the sandbox, and the picture of its topology."""

from __future__ import annotations

import pytest

from agent.core.errors import InputError
from agent.sandbox.layout import MAX_HOSTS, check_instance_name, host_names, sandbox_paths, underlay_address
from agent.sandbox.picture import topology
from agent.store.records import FixedIpRecord, PortRecord

SOCKET_PATH_MAX = 107


def test_every_socket_fits_a_unix_address_even_with_the_longest_names() -> None:
    host = sandbox_paths("n" * 24).host(host_names(MAX_HOSTS)[-1])
    longest = [host.ovs / "ovs-vswitchd.4194304.ctl", host.ovs / "br-physnet1.snoop", host.run / "next-responder.sock"]
    assert max(len(str(path)) for path in longest) <= SOCKET_PATH_MAX


@pytest.mark.parametrize(
    "name", ["host1", "host2", ".", "..", "", "a/b", "a b", "-x", "x" * 65, "new\nline", "hp-responder"]
)
def test_names_that_no_instance_can_have(name: str) -> None:
    with pytest.raises(InputError, match="name"):
        check_instance_name(name, ("host1", "host2"))


@pytest.mark.parametrize("name", ["vm1", "host3", "web-1.example", "a_b"])
def test_names_that_an_instance_can_have(name: str) -> None:
    check_instance_name(name, ("host1", "host2"))


def test_hosts_have_addresses_of_their_own() -> None:
    addresses = [underlay_address(number) for number in range(1, MAX_HOSTS + 1)]
    assert addresses[0] == "198.18.0.1"
    assert len(set(addresses)) == MAX_HOSTS


def port(name: str, host: str, *addresses: str) -> PortRecord:
    fixed = tuple(FixedIpRecord(address, "s") for address in addresses)
    return PortRecord(name, name, "n", "blue", host, "02:00:00:00:00:01", fixed, True, True, (), "", "")


def test_the_picture_shows_every_port_on_its_host_in_straight_lines() -> None:
    ports = [port("vm1", "host1", "10.0.0.1", "2001:db8::f816:3eff:fe71:6bc4"), port("vm2", "host2", "10.0.0.2")]
    lines = topology(
        [("host1", "198.18.0.1"), ("host2", "198.18.0.2")], [*ports, port("bare", "host2")], "198.18.0.0/15"
    )
    boxes = lines[:-3]
    assert len({len(line) for line in boxes}) == 1
    half = len(boxes[0]) // 2
    assert any("vm1" in line[:half] and "10.0.0.1" in line[:half] for line in boxes)
    assert any("vm2" in line[half:] and "10.0.0.2" in line[half:] for line in boxes)
    assert all("vm2" not in line[:half] for line in boxes)
    assert any("2001:db8::f816:3eff:fe71:6bc4" in line[:half] for line in boxes)
