# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom on two hosts, over every type of network; real agents, real Open vSwitch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import pytest

from agent.sandbox.layout import UNDERLAY
from agent.sandbox.namespaces import Namespaces
from agent.sandbox.reach import Ping, ping_all
from agent.sandbox.tools import run
from agent.store.document import NetworkFields, PortFields
from tests.functional.lab import Lab, eventually, hostplane

# The second of a type is another tenant's, with the same addresses.
NETWORKS = {
    "local": "{type: local}",
    "flat": "{type: flat, physnet: external}",
    "vlan": "{type: vlan, physnet: physnet1, segmentation_id: 100}",
    "vlan2": "{type: vlan, physnet: physnet1, segmentation_id: 101}",
    "vxlan": "{type: vxlan}",
    "vxlan2": "{type: vxlan}",
    "geneve": "{type: geneve}",
    "geneve2": "{type: geneve}",
}
# (port, host, last byte of its address)
PLACES = (("a", "host1", 11), ("b", "host1", 12), ("c", "host2", 13))


def document() -> str:
    lines = ["networks:"]
    lines += [f"  {name}: {fields}" for name, fields in NETWORKS.items()]
    lines += ["subnets:"]
    lines += [f"  {name}4: {{network: {name}, cidr: 10.0.0.0/24}}" for name in NETWORKS]
    lines += [f'  {name}6: {{network: {name}, cidr: "2001:db8::/64", ipv6_mode: slaac}}' for name in NETWORKS]
    lines += ["ports:"]
    for name in NETWORKS:
        for place, host, number in PLACES:
            ips = f"[10.0.0.{number}, {{subnet: {name}6}}]"
            lines.append(f"  {name}-{place}: {{network: {name}, host: {host}, fixed_ips: {ips}}}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(2)
    lab.bring_up(document())
    return lab


@dataclass(frozen=True)
class Matrix:
    pings: dict[tuple[str, str], list[Ping]]

    def reached(self, source: str, target: str) -> bool:
        """Tell whether all addresses of *target* were reached from *source*, and answered by it."""
        return all(target in ping.arrived_at and ping.answered for ping in self.pings[source, target])

    def leaked(self, source: str, target: str) -> bool:
        """Tell whether anything of *source* arrived at *target*."""
        return any(target in ping.arrived_at for ping in self.pings[source, target])


@pytest.fixture(scope="module")
def matrix(lab: Lab) -> Matrix:
    """Every instance pings every address of every other one, all at once."""
    ports = {port.name: [fixed.address for fixed in port.fixed_ips] for port in lab.writer.list_ports()}
    asks = [(source, target, address) for source, target in permutations(ports, 2) for address in ports[target]]
    pings: dict[tuple[str, str], list[Ping]] = {}
    results = ping_all(lab.sandbox, [(source, address) for source, _, address in asks], 3.0)
    for (source, target, _), ping in zip(asks, results, strict=True):
        pings.setdefault((source, target), []).append(ping)
    return Matrix(pings)


@pytest.mark.parametrize("network", NETWORKS)
def test_ports_of_a_network_reach_each_other(matrix: Matrix, network: str) -> None:
    for source, target in permutations((place for place, _, _ in PLACES), 2):
        apart = network == "local" and "c" in (source, target)  # a local network ends at its host
        assert matrix.reached(f"{network}-{source}", f"{network}-{target}") is not apart, (source, target)


def test_nothing_arrives_in_another_network_even_with_equal_addresses(matrix: Matrix) -> None:
    leaks = [pair for pair in matrix.pings if pair[0].split("-")[0] != pair[1].split("-")[0] and matrix.leaked(*pair)]
    assert not leaks


def test_nothing_of_a_local_network_leaves_its_host(matrix: Matrix) -> None:
    assert not matrix.leaked("local-a", "local-c")
    assert not matrix.leaked("local-c", "local-a")


@pytest.mark.parametrize("network", NETWORKS)
def test_full_size_packets_arrive_and_larger_ones_do_not_leave(lab: Lab, network: str) -> None:
    """A packet of the network's MTU passes without fragments, on its host and to the other one."""
    mtu = lab.writer.get_network(network).mtu
    target = "b" if network == "local" else "c"
    for version, headers in ((4, 28), (6, 48)):
        address = lab.address(f"{network}-{target}", version)
        lab.assert_connection(f"{network}-a", address)
        assert lab.ping(f"{network}-a", address, "-Mdo", f"-s{mtu - headers}"), (version, mtu)
        assert not lab.ping(f"{network}-a", address, "-Mdo", f"-s{mtu - headers + 1}", wait=0.2), (version, mtu)


RECEIVER = """
import hashlib, socket, sys
listener = socket.create_server(("::", 5001), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
connection = listener.accept()[0]
digest = hashlib.sha256()
while data := connection.recv(65536):
    digest.update(data)
print(digest.hexdigest())
"""
SENDER = """
import hashlib, os, socket, sys
data = os.urandom(4 << 20)
with socket.create_connection((sys.argv[1], 5001), timeout=20) as connection:
    connection.sendall(data)
print(hashlib.sha256(data).hexdigest())
"""


@pytest.mark.parametrize(("source", "target"), [("local-a", "local-b"), ("vlan-a", "vlan-c"), ("vxlan-a", "vxlan-c")])
@pytest.mark.parametrize("version", [4, 6])
def test_tcp_carries_megabytes(lab: Lab, source: str, target: str, version: int) -> None:
    """Checksums and segment sizes are right, not only those of pings."""
    receiver = lab.start(target, sys.executable, "-c", RECEIVER)
    try:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        sent = lab.output(source, sys.executable, "-c", SENDER, lab.address(target, version))
        assert receiver.communicate(timeout=10)[0] == sent
    finally:
        receiver.kill()
        receiver.communicate()


@pytest.fixture
def stranger(lab: Lab) -> Iterator[list[str]]:
    """A machine on the physical network ``external`` that the store knows nothing of; yields how to enter it."""
    wires = Namespaces(lab.sandbox.paths).enter(UNDERLAY)
    run([*wires, "ip", "netns", "add", "stranger"])
    run([*wires, "ip", "link", "add", "s-ext", "type", "veth", "peer", "name", "eth0", "netns", "stranger"])
    run([*wires, "ip", "link", "set", "s-ext", "master", "external", "up"])
    run([*wires, "ip", "-n", "stranger", "link", "set", "eth0", "up"])
    run([*wires, "ip", "-n", "stranger", "addr", "add", "10.0.0.200/24", "dev", "eth0"])
    yield [*wires, "ip", "netns", "exec", "stranger"]
    run([*wires, "ip", "netns", "delete", "stranger"])


def test_a_flat_network_is_open_to_machines_that_the_store_does_not_know(lab: Lab, stranger: list[str]) -> None:
    lab.assert_connection("flat-a", "10.0.0.200")
    lab.assert_connection("flat-c", "10.0.0.200")
    for address in ("10.0.0.11", "10.0.0.13"):
        run([*stranger, "ping", "-q", "-c1", "-W2", address])
    for source in ("vxlan-a", "vlan-a", "local-a"):
        lab.assert_no_connection(source, "10.0.0.200")


def test_a_port_that_is_admin_down_is_shut_both_ways_and_opens_again(lab: Lab) -> None:
    lab.assert_connection("vxlan-a", "10.0.0.13")
    lab.writer.set_port("vxlan-a", PortFields(admin_state_up=False))
    lab.wait_port("vxlan-a", up=False)
    lab.assert_no_connection("vxlan-a", "10.0.0.13")
    lab.assert_no_connection("vxlan-c", "10.0.0.11")
    lab.assert_connection("vxlan-b", "10.0.0.13")
    lab.writer.set_port("vxlan-a", PortFields(admin_state_up=True))
    lab.wait_port("vxlan-a", up=True)
    lab.assert_connection("vxlan-c", "10.0.0.11")
    lab.assert_connection("vxlan-a", "10.0.0.13")


def test_a_network_that_is_admin_down_carries_nothing(lab: Lab) -> None:
    lab.applied(lab.writer.set_network("geneve2", NetworkFields(admin_state_up=False)))
    lab.assert_no_connection("geneve2-a", "10.0.0.12")
    lab.assert_no_connection("geneve2-a", "10.0.0.13")
    lab.assert_connection("geneve-a", "10.0.0.13")
    lab.applied(lab.writer.set_network("geneve2", NetworkFields(admin_state_up=True)))
    lab.assert_connection("geneve2-a", "10.0.0.13")


def test_a_deleted_port_is_cut_off_and_its_neighbours_stay(lab: Lab) -> None:
    lab.assert_connection("vlan2-b", "10.0.0.13")
    lab.applied(lab.writer.delete_port("vlan2-b"))
    lab.assert_no_connection("vlan2-b", "10.0.0.13")
    lab.assert_connection("vlan2-a", "10.0.0.13")


def test_status_shows_hosts_revisions_and_instances(lab: Lab) -> None:
    def shown() -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            hostplane("sandbox", "--name", lab.sandbox.name, "status", "-o", "json").stdout
        )
        return answer

    def settled() -> bool:
        hosts = shown()["hosts"]
        return all(host["applied_revision"] == lab.writer.revision()[1] for host in hosts)

    eventually(settled, "all hosts have applied the store's revision", 15)
    report = shown()
    assert [host["name"] for host in report["hosts"]] == ["host1", "host2"]
    assert all(pid > 0 for host in report["hosts"] for pid in host["pids"].values())
    instances = {instance["name"]: instance for instance in report["instances"]}
    assert instances["vxlan-c"]["host"] == "host2"
    assert instances["vxlan-c"]["port_id"] == lab.writer.get_port("vxlan-c").id
    assert instances["vxlan-c"]["up"] is True
