# SPDX-License-Identifier: Apache-2.0
"""An address of a distributed router has a floating IP or forwarded ports: its answers leave by one of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cli.yaml_file import parse_file
from agent.core.errors import InputError
from agent.store.document import FloatingIpFields, PortForwardingFields, RouterFields
from agent.store.writer import Writer
from tests.servers import StoreServer
from tests.store_rows import assert_consistent

WORLD = """
networks:
  public: {type: flat, physnet: external, external: true}
  blue: {type: vxlan}
  red: {type: vxlan}
subnets:
  public4: {network: public, cidr: 203.0.113.0/24, dhcp: false}
  blue4: {network: blue, cidr: 10.0.0.0/24}
  red4: {network: red, cidr: 10.1.0.0/24}
routers:
  spread: {distributed: true, gateway: {network: public, fixed_ips: [203.0.113.2]}, interfaces: [blue4]}
  edge: {gateway: {network: public, fixed_ips: [203.0.113.3]}, interfaces: [red4]}
ports:
  floating: {network: blue, fixed_ips: [10.0.0.11, 10.0.0.12]}
  forwarded: {network: blue, fixed_ips: [10.0.0.13]}
  both: {network: red, fixed_ips: [10.1.0.14]}
"""
USED = """
floating_ips:
  203.0.113.10: {port: floating, fixed_ip: 10.0.0.11}
  203.0.113.20: {port: both}
  203.0.113.30: {}
port_forwardings:
  - {external: "203.0.113.2:22", internal: "forwarded:22", protocol: tcp}
  - {external: "203.0.113.3:22", internal: "both:22", protocol: tcp}
"""
SWAPPED = """
floating_ips:
  203.0.113.10: {port: forwarded}
  203.0.113.20: {port: both}
  203.0.113.30: {}
port_forwardings:
  - {external: "203.0.113.2:22", internal: "floating:22", fixed_ip: 10.0.0.11, protocol: tcp}
  - {external: "203.0.113.3:22", internal: "both:22", protocol: tcp}
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with StoreServer(tmp_path) as server, Writer.connect([server.address]) as writer:
        writer.apply(parse_file((WORLD + USED).encode(), "world"))
        yield writer
        assert_consistent(writer)


def forward(internal: str, fixed_ip: str) -> PortForwardingFields:
    return PortForwardingFields(protocol="tcp", internal=internal, fixed_ip=fixed_ip)


CALLS: dict[str, tuple[Callable[[Writer], object], str]] = {
    "forwarding to a floating IP's address": (
        lambda writer: writer.create_port_forwarding("203.0.113.2:80", forward("floating:80", "10.0.0.11")),
        "port forwarding 203.0.113.2:80: port floating with fixed ip 10.0.0.11 would have "
        "floating ip 203.0.113.10 and port forwarding 203.0.113.2:80/tcp: of a distributed router (spread)",
    ),
    "forwarding from an address of its own": (
        lambda writer: writer.create_port_forwarding("203.0.113.40:80", forward("floating:80", "10.0.0.11")),
        "floating ip 203.0.113.10 and port forwarding 203.0.113.40:80/tcp",
    ),
    "forwarding that is led there": (
        lambda writer: writer.set_port_forwarding("203.0.113.2:22/tcp", forward("floating:22", "10.0.0.11")),
        "floating ip 203.0.113.10 and port forwarding 203.0.113.2:22/tcp",
    ),
    "floating IP for a forwarded address": (
        lambda writer: writer.set_floating_ip("203.0.113.30", FloatingIpFields(port="forwarded")),
        "floating ip 203.0.113.30: port forwarded with fixed ip 10.0.0.13 would have "
        "floating ip 203.0.113.30 and port forwarding 203.0.113.2:22/tcp: of a distributed router (spread)",
    ),
    "router that becomes distributed": (
        lambda writer: writer.set_router("edge", RouterFields(distributed=True)),
        "router edge: distributed: port both with fixed ip 10.1.0.14 would have "
        "floating ip 203.0.113.20 and port forwarding 203.0.113.3:22/tcp: of a distributed router (edge)",
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_both_are_refused_whichever_comes_second(writer: Writer, call: str) -> None:
    before = writer.revision()
    with pytest.raises(InputError, match=re.escape(CALLS[call][1])):
        CALLS[call][0](writer)
    assert writer.revision() == before


def test_another_address_of_the_port_can_be_forwarded(writer: Writer) -> None:
    made = writer.create_port_forwarding("203.0.113.2:80", forward("floating:80", "10.0.0.12")).result
    assert (made.port_name, made.fixed_ip) == ("floating", "10.0.0.12")


def test_a_file_may_give_one_address_what_the_other_had(writer: Writer) -> None:
    writer.apply(parse_file((WORLD + SWAPPED).encode(), "swapped"))
    assert writer.get_floating_ip("203.0.113.10").port_name == "forwarded"
    assert writer.get_port_forwarding("203.0.113.2:22/tcp").fixed_ip == "10.0.0.11"


def test_in_a_file_the_line_is_told(writer: Writer) -> None:
    text = (
        WORLD + USED + '  - {external: "203.0.113.2:80", internal: "floating:80", fixed_ip: 10.0.0.11, protocol: tcp}\n'
    )
    line = text.partition("203.0.113.10:")[0].count("\n") + 1
    told = f"line {line}: floating ip 203.0.113.10: port floating with fixed ip 10.0.0.11 would have"
    with pytest.raises(InputError, match=re.escape(told)):
        writer.apply(parse_file(text.encode(), "f.yaml"))
