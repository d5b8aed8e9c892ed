# SPDX-License-Identifier: Apache-2.0
"""Two writers that meet at a router: what one commits between the other's look and its write is never overlooked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from agent.cli.yaml_file import parse_file
from agent.core.errors import InputError
from agent.store.document import (
    FixedIpRequest,
    FloatingIpFields,
    HostRoute,
    NetworkFields,
    PortFields,
    PortForwardingFields,
    RouterFields,
    SubnetFields,
    SubnetPoolFields,
)
from agent.store.records import Written
from agent.store.writer import Writer
from agent.store.writer_session import Session
from tests.servers import StoreServer
from tests.store_rows import assert_consistent

R = TypeVar("R")


class Interrupted(Writer):
    """A writer that is interrupted once, when it has made up its mind and not written yet."""

    meanwhile: Callable[[], object] | None = None

    def write(self, build: Callable[[Session], R]) -> Written[R]:
        def interrupted(session: Session) -> R:
            result = build(session)
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                meanwhile()
            return result

        return super().write(interrupted)


def on(*subnets: str) -> tuple[FixedIpRequest, ...]:
    return tuple(FixedIpRequest(subnet=subnet) for subnet in subnets)


def forward(internal: str) -> PortForwardingFields:
    return PortForwardingFields(protocol="tcp", internal=internal)


WORLD = b"""
networks:
  public: {type: flat, physnet: external, external: true}
  outer: {type: vxlan, external: true}
  blue: {type: vxlan}
  red: {type: vxlan}
  twin: {type: vxlan}
  one: {type: vxlan}
  two: {type: vxlan}
  far: {type: vxlan}
  near: {type: vxlan}
address_scopes: {inside: {ip_version: 4}}
subnet_pools:
  ten: {prefixes: [10.8.0.0/15], address_scope: inside}
  free: {prefixes: [10.20.0.0/16]}
subnets:
  public4: {network: public, cidr: 203.0.113.0/24, dhcp: false}
  outer4: {network: outer, cidr: 198.51.100.0/24, dhcp: false}
  blue4: {network: blue, cidr: 10.0.0.0/24}
  red4: {network: red, cidr: 10.1.0.0/24}
  twin4: {network: twin, cidr: 10.1.0.0/24}
  far4: {network: far, cidr: 10.3.0.0/24}
  near4: {network: near, cidr: 10.4.0.0/24}
routers:
  edge: {gateway: {network: public}, interfaces: [blue4]}
  bare: {}
  single: {gateway: {network: public, fixed_ips: [203.0.113.31]}, interfaces: [near4]}
  spread: {distributed: true, gateway: {network: public, fixed_ips: [203.0.113.30]}, interfaces: [far4]}
ports:
  vm1: {network: blue, host: host1}
  vm2: {network: blue, host: host2}
  vm3: {network: far, host: host1}
  vm4: {network: near, host: host1}
floating_ips: {203.0.113.10: {}, 203.0.113.20: {}, 203.0.113.40: {port: vm4}}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as server, Writer.connect([server.address]) as writer:
        writer.apply(parse_file(WORLD, "world"))
        yield server


Call = Callable[[Writer], object]


def associate(address: str = "203.0.113.10", port: str = "vm1") -> Call:
    return lambda writer: writer.set_floating_ip(address, FloatingIpFields(port=port))


def add(subnet: str) -> Call:
    return lambda writer: writer.add_router_interfaces("edge", on(subnet))


def forwarding(external: str, internal: str = "vm2:22") -> Call:
    return lambda writer: writer.create_port_forwarding(external, forward(internal))


def router(name: str = "edge", **fields: object) -> Call:
    make: Callable[..., RouterFields] = RouterFields
    return lambda writer: writer.set_router(name, make(**fields))


def taken(name: str) -> Call:
    return lambda writer: writer.create_subnet(name, SubnetFields(network=name[:-1], subnet_pool="ten"))


BOTH, ONE, FIRST = (2,), (1,), (1, 2)  # of the last: both, unless the second one takes what the first one needs
MEETINGS: dict[str, tuple[Call, Call, tuple[int, ...]]] = {
    "interfaces that overlap": (add("red4"), add("twin4"), ONE),
    "interfaces that do not": (add("red4"), router(routes=(HostRoute("10.9.0.0/16", "10.0.0.9"),)), BOTH),
    "an interface and the end of its subnet": (add("red4"), lambda writer: writer.delete_subnet("red4"), ONE),
    "a port that moves": (associate(), lambda writer: writer.set_port("vm1", PortFields(host="host9")), BOTH),
    "a port that gets other addresses": (
        associate(),
        lambda writer: writer.set_port("vm1", PortFields(fixed_ips=(FixedIpRequest("10.0.0.77"),))),
        FIRST,
    ),
    "two floating ips for one address": (associate(), associate("203.0.113.20"), ONE),
    "two ports for one floating ip": (associate(), associate(port="vm2"), BOTH),
    "a floating ip and a forwarding of a distributed router": (
        associate(port="vm3"),
        forwarding("203.0.113.30:22", "vm3:22"),
        ONE,
    ),
    "a forwarding and a router that becomes distributed": (
        forwarding("203.0.113.31:22", "vm4:22"),
        router("single", distributed=True),
        ONE,
    ),
    "the end of the interface": (associate(), router(interfaces=()), ONE),
    "the end of the gateway": (associate(), router(external_network=None), ONE),
    "the end of the router": (associate(), lambda writer: writer.delete_router("edge"), ONE),
    "one floating ip for a port and for forwardings": (associate(), forwarding("203.0.113.10:22"), ONE),
    "forwardings of the same ports": (forwarding("203.0.113.2:20-22", "vm1:1-3"), forwarding("203.0.113.2:22"), ONE),
    "forwardings of a new address": (forwarding("203.0.113.11:1"), forwarding("203.0.113.11:2"), BOTH),
    "a forwarding and another gateway": (forwarding("203.0.113.2:1"), router(external_network="outer"), ONE),
    "a route and the end of its interface": (
        router(routes=(HostRoute("10.9.0.0/16", "10.0.0.9"),)),
        router(interfaces=()),
        ONE,
    ),
    "a gateway and a network that is none any more": (
        router("bare", external_network="outer"),
        lambda writer: writer.set_network("outer", NetworkFields(external=False)),
        ONE,
    ),
    "a floating ip and a network that is none any more": (
        lambda writer: writer.create_floating_ip("198.51.100.7", FloatingIpFields()),
        lambda writer: writer.set_network("outer", NetworkFields(external=False)),
        ONE,
    ),
    "two subnets of one pool": (taken("one4"), taken("two4"), BOTH),
    "a subnet and prefixes without it": (
        taken("one4"),
        lambda writer: writer.set_subnet_pool("ten", SubnetPoolFields(prefixes=("10.9.0.0/16",))),
        FIRST,
    ),
    "pools that overlap in one scope": (
        lambda writer: writer.set_subnet_pool("free", SubnetPoolFields(address_scope="inside")),
        lambda writer: writer.create_subnet_pool(
            "new", SubnetPoolFields(prefixes=("10.20.0.0/24",), address_scope="inside")
        ),
        ONE,
    ),
}


@pytest.mark.parametrize("swapped", [False, True], ids=["", "swapped"])
@pytest.mark.parametrize("meeting", MEETINGS)
def test_what_is_committed_meanwhile_is_taken_into_account(server: StoreServer, meeting: str, swapped: bool) -> None:
    first, second, _ = MEETINGS[meeting]
    mine, theirs = (second, first) if swapped else (first, second)
    done = 0

    def attempt(call: Call, writer: Writer) -> None:
        nonlocal done
        try:
            call(writer)
        except InputError:
            return
        done += 1

    with Interrupted.connect([server.address]) as writer, Writer.connect([server.address]) as other:
        assert isinstance(writer, Interrupted)
        writer.meanwhile = lambda: attempt(theirs, other)
        attempt(mine, writer)
        assert_consistent(writer)
    with Writer.connect([server.address]) as present:
        assert_consistent(present)
    assert done in MEETINGS[meeting][2]
