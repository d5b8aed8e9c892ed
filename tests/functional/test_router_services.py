# SPDX-License-Identifier: Apache-2.0
"""Addresses, metadata and sizes of packets on networks that routers join.

host1 has the gateways.  ``c`` is a centralised router between ``cb`` and the narrower
``cs``, ``d`` a distributed one between networks with the same IPv4 addresses.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from agent.core.service_identity import METADATA4, link_local
from agent.store.document import FixedIpRequest
from tests.functional import clients
from tests.functional.clients import forget
from tests.functional.filter_wire import namespace_of
from tests.functional.instance_sockets import get
from tests.functional.lab import HERE, Lab, eventually
from tests.functional.router_tools import new_router_lab, wait_gateway
from tests.functional.service_places import addresses, mtu, routes

pytestmark = pytest.mark.alone

HOSTS = ("host1", "host2")
WIDE, NARROW, BEYOND = 1450, 1330, 1290  # MTU
_NETWORKS = """
  {r}b: {{type: vxlan, mtu: 1450, dns_domain: {r}.example.org}}
  {r}s: {{type: vxlan, mtu: 1330}}
"""
_SUBNETS = """
  {r}b4: {{network: {r}b, cidr: 10.0.0.0/24, dns: [10.0.0.53]}}
  {r}b6: {{network: {r}b, cidr: "2001:db8:{r}0::/64", ipv6_mode: slaac, dns: ["2001:db8::53"]}}
  {r}s4: {{network: {r}s, cidr: 10.1.0.0/24}}
  {r}s6: {{network: {r}s, cidr: "2001:db8:{r}1::/64", ipv6_mode: slaac}}
"""
_PORTS = """
  {r}b1: {{network: {r}b, host: host1, metadata: {{instance_id: i-{r}b1}}}}
  {r}b2: {{network: {r}b, host: host2, metadata: {{instance_id: i-{r}b2}}}}
  {r}s2: {{network: {r}s, host: host2, metadata: {{instance_id: i-{r}s2}}}}
"""
DOCUMENT = f"""
networks:
  public: {{type: flat, physnet: external, external: true}}
{_NETWORKS.format(r="c")}{_NETWORKS.format(r="d")}
subnets:
  public4: {{network: public, cidr: 203.0.113.0/24, gateway: 203.0.113.1, dhcp: false}}
  public6: {{network: public, cidr: "2001:db8:ff::/64", gateway: "2001:db8:ff::1", dhcp: false}}
{_SUBNETS.format(r="c")}{_SUBNETS.format(r="d")}
routers:
  c:
    gateway: {{network: public, hosts: [host1], fixed_ips: [203.0.113.2, "2001:db8:ff::2"]}}
    interfaces: [cb4, cb6, cs4, cs6]
  d:
    distributed: true
    gateway: {{network: public, hosts: [host1], fixed_ips: [203.0.113.3, "2001:db8:ff::3"]}}
    interfaces: [db4, db6, ds4, ds6]
ports:
{_PORTS.format(r="c")}{_PORTS.format(r="d")}
floating_ips:
  203.0.113.12: {{port: cs2}}
  203.0.113.22: {{port: ds2}}
"""
FLOATING = {"c": "203.0.113.12", "d": "203.0.113.22"}
OUTSIDE = {4: "198.51.100.1", 6: "2001:db8:100::1"}
# Behind a link of the router beyond that takes less.
FAR = {4: "192.0.2.1", 6: "2001:db8:200::1"}
PORT = 81
LISTEN = f"""
import socket, sys
server = socket.create_server(("", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
sys.stdin.read()
"""
ROUTERS = pytest.mark.parametrize("router", ["c", "d"], ids=["centralised", "distributed"])
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_router_lab(new_lab, DOCUMENT, len(HOSTS))
    script = f"""
ip link add far type veth peer name away
ip link set far mtu {BEYOND} up
ip link set away up
ip route add {FAR[4]}/32 dev far
ip -6 route add {FAR[6]}/128 dev far
"""
    lab.output("upstream", "sh", "-ec", script)
    for router in ("c", "d"):
        wait_gateway(lab, router, "host1", HOSTS)
    return lab


def router_link_local(lab: Lab, router: str, subnet: str) -> str:
    """Return the link-local address that a router has beside its address of a subnet."""
    legs = lab.writer.get_router(router).interfaces
    return link_local(next(leg.mac_address for leg in legs if leg.subnet_name == subnet))


def default_route6(lab: Lab, instance: str) -> list[str]:
    return [route for route in routes(lab, instance, 6) if route.startswith("default")]


@ROUTERS
def test_leases_and_advertisements_lead_to_the_router(lab: Lab, tmp_path: Path, router: str) -> None:
    """On a host without a gateway; from there outside, by both families, and metadata as on any network."""
    instance = f"{router}b2"
    expected = lab.address(instance, 6)
    forget(lab, instance)
    for state in ("down", "up"):
        lab.output(instance, "ip", "link", "set", "eth0", state)
    with clients.dhclient(lab, instance, tmp_path) as (told, resolver):
        assert told["new_routers"] == "10.0.0.1"
        assert "10.0.0.53" in resolver
        eventually(lambda: "default via 10.0.0.1 dev eth0" in routes(lab, instance), "the route is set")
        assert f"{METADATA4} via 10.0.0.1 dev eth0" in routes(lab, instance)
        assert mtu(lab, instance) == WIDE
        lab.assert_connection(instance, OUTSIDE[4])
        lab.assert_connection(instance, lab.address(f"{router}s2", 4))
        for version in (4, 6):
            found = get(namespace_of(lab, instance), "/latest/meta-data/instance-id", version=version)
            assert found.text == f"i-{instance}"
    eventually(lambda: addresses(lab, instance, 6) == [f"{expected}/64"], "the kernel has its address")
    way = f"default via {router_link_local(lab, router, f'{router}b6')} dev eth0"
    assert default_route6(lab, instance) == [way]
    assert lab.output(instance, "cat", "/proc/sys/net/ipv6/conf/eth0/mtu").strip() == str(WIDE)
    lab.assert_connection(instance, OUTSIDE[6])
    lab.assert_connection(instance, lab.address(f"{router}s2", 6))


@ROUTERS
def test_no_router_leads_to_metadata(lab: Lab, router: str) -> None:
    """Neither from outside to ours, nor from inside to somebody who has its address outside."""
    curl = ("curl", "-sS", "--max-time", "1", f"http://{METADATA4}/")
    gateway = next(ip.address for ip in lab.writer.get_router(router).external_fixed_ips if "." in ip.address)
    lab.output("upstream", "ip", "route", "add", f"{METADATA4}/32", "via", gateway)
    assert lab.run("upstream", *curl).returncode != 0
    lab.output("upstream", "ip", "route", "delete", f"{METADATA4}/32")

    instance = f"{router}b1"
    lab.output(instance, "ip", "route", "replace", "default", "via", "10.0.0.1")
    lab.output("upstream", "ip", "address", "add", f"{METADATA4}/32", "dev", "lo")
    lab.assert_connection(instance, OUTSIDE[4])
    lab.assert_no_connection(instance, METADATA4)
    assert lab.run(instance, *curl[:-1], f"http://{METADATA4}:8080/").returncode == 28  # not even refused
    assert get(namespace_of(lab, instance), "/latest/meta-data/instance-id").text == f"i-{instance}"
    lab.output("upstream", "ip", "address", "delete", f"{METADATA4}/32", "dev", "lo")


def learned_mtu(lab: Lab, source: str, address: str, size: int) -> int:
    """Return which MTU an instance takes for that of the way to an address, once packets of *size* were too big."""
    return int(lab.output(source, sys.executable, str(HERE / "path_mtu.py"), address, str(size)))


@ROUTERS
@VERSIONS
def test_who_sends_too_much_is_told_what_the_way_takes(lab: Lab, router: str, version: int) -> None:
    """By the router towards a narrower network, and by one beyond, through a floating IP, SNAT, or neither."""
    narrow = lab.address(f"{router}s2", version)
    for source in (f"{router}b1", f"{router}b2"):
        assert learned_mtu(lab, source, narrow, WIDE) == NARROW, source
        assert learned_mtu(lab, source, FAR[version], WIDE) == BEYOND, source
    assert learned_mtu(lab, f"{router}s2", FAR[version], NARROW) == BEYOND
    towards = FLOATING[router] if version == 4 else narrow
    assert learned_mtu(lab, "upstream", towards, 1500) == NARROW
    if version == 4:
        assert learned_mtu(lab, f"{router}b2", towards, WIDE) == NARROW


def segment_size(frame: bytes) -> int:
    """Return the MSS that a SYN says, 0 of other frames."""
    packet = Ether(frame)
    if TCP not in packet or not packet[TCP].flags.S:
        return 0
    return int(dict(packet[TCP].options)["MSS"])


@pytest.fixture(scope="module")
def listening(lab: Lab) -> Iterator[None]:
    """Somebody to talk to, at both ends of all ways."""
    servers = [lab.start(place, sys.executable, "-c", LISTEN) for place in ("cb1", "cs2", "db1", "ds2", "upstream")]
    for server in servers:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
    yield
    for server in servers:
        server.communicate("")


@ROUTERS
@VERSIONS
@pytest.mark.usefixtures("listening")
def test_tcp_hears_how_large_segments_may_be_before_it_sends_any(lab: Lab, router: str, version: int) -> None:
    """In the first packets both ways, whoever begins, within and to outside."""
    wide, narrow = f"{router}b1", f"{router}s2"
    size = NARROW - {4: 40, 6: 60}[version]
    inside = lab.address(narrow, version)
    for source, server, address in (
        (wide, narrow, inside),
        (narrow, wide, lab.address(wide, version)),
        ("upstream", narrow, FLOATING[router] if version == 4 else inside),
        (narrow, "upstream", OUTSIDE[version]),
    ):
        with lab.capture(server) as questions, lab.capture(source) as answers:
            lab.output(source, "bash", "-c", f"exec 3<>/dev/tcp/{address}/{PORT}")
            seen = [
                segment_size(side.until(lambda frame: segment_size(frame) > 0)[-1]) for side in (questions, answers)
            ]
        assert seen == [size, size], (source, address)


@ROUTERS
def test_hosts_forget_a_router_that_has_gone(lab: Lab, router: str) -> None:
    """And only that: the addresses that its advertisements gave them stay, and who comes back leads out again."""
    instance = f"{router}b1"
    before = addresses(lab, instance, 6)
    for state in ("down", "up"):
        lab.output(instance, "ip", "link", "set", "eth0", state)
    eventually(lambda: bool(default_route6(lab, instance)), "there is a router")
    assert before
    lab.writer.remove_router_interfaces(router, [f"{router}b6"])
    eventually(lambda: not default_route6(lab, instance), "the router is forgotten")
    assert addresses(lab, instance, 6)
    lab.writer.add_router_interfaces(router, [FixedIpRequest(subnet=f"{router}b6")])
    eventually(lambda: bool(default_route6(lab, instance)), "there is a router again")
    lab.assert_connection(instance, OUTSIDE[6])
