# SPDX-License-Identifier: Apache-2.0
"""What goes on through routers while floating IPs, routes and interfaces come, go and stand for others.

host1 has the gateways, host2 instances only.  ``c`` is a centralised router, ``d`` a
distributed one with the same subnet, and so is ``e``, which goes in the end.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from threading import Thread

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from agent.store.document import FixedIpRequest, FloatingIpFields, HostRoute, RouterFields
from tests.functional.lab import HERE, EchoStream, Lab, eventually
from tests.functional.router_tools import move, namespace_of, new_router_lab, wait_gateway

pytestmark = pytest.mark.alone

HOSTS = ("host1", "host2")
DOCUMENT = """
networks:
  public: {type: flat, physnet: external, external: true}
  cb: {type: vxlan}
  db: {type: vxlan}
  eb: {type: vxlan}
subnets:
  public4: {network: public, cidr: 203.0.113.0/24, gateway: 203.0.113.1, dhcp: false}
  cb4: {network: cb, cidr: 10.0.0.0/24, dhcp: false}
  db4: {network: db, cidr: 10.0.0.0/24, dhcp: false}
  eb4: {network: eb, cidr: 10.0.0.0/24, dhcp: false}
routers:
  c: {gateway: {network: public, hosts: [host1], fixed_ips: [203.0.113.2]}, interfaces: [cb4]}
  d: {distributed: true, gateway: {network: public, hosts: [host1], fixed_ips: [203.0.113.3]}, interfaces: [db4]}
  e: {gateway: {network: public, hosts: [host1], fixed_ips: [203.0.113.4]}, interfaces: [eb4]}
ports:
  e1: {network: eb, host: host1, fixed_ips: [10.0.0.32]}
  c1: {network: cb, host: host1, fixed_ips: [10.0.0.11], allowed_address_pairs: [10.9.0.1]}
  c2: {network: cb, host: host2, fixed_ips: [10.0.0.12]}
  cf: {network: cb, host: host2, fixed_ips: [10.0.0.22]}
  cn: {network: cb, host: host2, fixed_ips: [10.0.0.32]}
  d1: {network: db, host: host1, fixed_ips: [10.0.0.11], allowed_address_pairs: [10.9.0.1]}
  d2: {network: db, host: host2, fixed_ips: [10.0.0.12]}
  df: {network: db, host: host2, fixed_ips: [10.0.0.22]}
  dn: {network: db, host: host2, fixed_ips: [10.0.0.32]}
floating_ips:
  203.0.113.20: {port: c1}
  203.0.113.22: {port: cf}
  203.0.113.30: {port: d1}
  203.0.113.32: {port: df}
"""
MANY = 40  # packets: two flows of 100 a second
LATE = 0.5  # seconds that a scheduling hiccup of the machine may delay a reply: late is not lost
PORT = 4000
# Who sends to the floating IP of a router, and as whom it is seen: from outside, with a floating IP, and with none.
SENDERS = {
    "c": {"upstream": "203.0.113.1", "cf": "203.0.113.22", "cn": "203.0.113.2"},
    "d": {"upstream": "203.0.113.1", "df": "203.0.113.32", "dn": "203.0.113.3"},
}
BEHIND = "10.9.0.1"  # the address of an instance that leads on to others
FLOATING = {"c": "203.0.113.20", "d": "203.0.113.30"}
ROUTERS = pytest.mark.parametrize("router", ["c", "d"], ids=["centralised", "distributed"])


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_router_lab(new_lab, DOCUMENT, len(HOSTS))
    for router in ("c", "d"):
        wait_gateway(lab, router, "host1", HOSTS)
        for source in SENDERS[router]:
            lab.assert_connection(source, FLOATING[router])
    return lab


class Program:
    """``endless_flow.py`` in an instance; ``said`` are the lines that it has printed."""

    def __init__(self, lab: Lab, place: str, *words: str) -> None:
        self.place = place
        self.said: list[str] = []
        self._process = lab.start(place, sys.executable, str(HERE / "endless_flow.py"), *words)
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line.strip())

    def wait(self, *lines: str) -> None:
        """Wait until it has printed *lines*, in any order, since it was told to forget."""
        eventually(lambda: set(lines) <= set(self.said), f"{self.place} says {lines}, not {self.said}")

    def forget(self) -> None:
        """Have a server say anew whom it sees."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.said.clear()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(10)

    def report(self) -> dict[str, int]:
        """End it; return what it has seen."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join(10)
        self._process.wait(10)
        return dict(json.loads(self.said[-1]))


class Flows:
    """What all senders of a router send to its floating IP."""

    def __init__(self, lab: Lab, router: str) -> None:
        self._lab = lab
        self._seen_as = SENDERS[router]
        self._servers: dict[str, Program] = {}
        self._senders: list[Program] = []

    def begin(self, address: str, server: str) -> None:
        """Send to *address*, which leads to *server*."""
        self.serve(server)
        self._senders += [Program(self._lab, who, "talk", who, address, str(PORT)) for who in self._seen_as]
        self.wait_answers(server)

    def serve(self, port: str, name: str = "") -> None:
        """Have *port* answer, as *name*."""
        known = self._servers.get(name or port)
        if known is not None:
            known.forget()
        else:
            self._servers[name or port] = Program(self._lab, port, "serve", name or port, str(PORT))
            self._servers[name or port].wait("listening")

    def wait_answers(self, name: str) -> None:
        """Wait until *name* hears all of them, and answers."""
        for sender in self._senders:
            sender.wait(f"{name} {self._seen_as[sender.place]}")
            sender.said.clear()
        self._servers[name].wait(*(f"echo {source}" for source in self._seen_as))

    def end(self) -> dict[str, int]:
        """End them; return how often each sender was refused."""
        reports = {sender.place: sender.report() for sender in self._senders}
        print(reports)
        return {place: report["refused"] for place, report in reports.items()}

    def kill(self) -> None:
        for program in (*self._servers.values(), *self._senders):
            program.kill()


@pytest.fixture
def flows(lab: Lab, router: str) -> Iterator[Flows]:
    flows = Flows(lab, router)
    yield flows
    flows.kill()


@pytest.fixture
def unchanged(lab: Lab, router: str) -> Iterator[None]:
    """Streams that nothing of a test concerns."""
    with losing_nothing(lab, ("upstream", SENDERS[router][f"{router}f"]), (f"{router}n", "198.51.100.1")):
        yield


@contextlib.contextmanager
def losing_nothing(lab: Lab, *ways: tuple[str, str]) -> Iterator[None]:
    """Send echo requests meanwhile, from somewhere to an address each, none of which may be lost."""
    streams = [EchoStream(lab, source, address, 200) for source, address in ways]
    for stream in streams:
        stream.wait_flowing()
    yield
    for stream in streams:
        stream.finish()
    for stream, way in zip(streams, ways, strict=True):
        report = stream.stop()
        print(f"{way}: {report.summary()}")
        assert not report.lost, (way, report.losses_by_second())
        assert report.longest_gap[0] < LATE


@ROUTERS
@pytest.mark.usefixtures("unchanged")
def test_what_is_sent_to_a_floating_ip_follows_it_to_another_port(lab: Lab, flows: Flows, router: str) -> None:
    """To the host of two of the senders, and back to the gateway's, where others are translated."""
    flows.begin(FLOATING[router], f"{router}1")
    for port in (f"{router}2", f"{router}1"):
        flows.serve(port)
        lab.writer.set_floating_ip(FLOATING[router], FloatingIpFields(port=port))
        flows.wait_answers(port)
    assert not any(flows.end().values())  # a router that refused datagrams would reset sessions, too


def sources(frames: Iterable[bytes]) -> list[str]:
    """Return from whom frames to BEHIND are, one after the other."""
    packets = (Ether(frame) for frame in frames)
    return [packet[IP].src for packet in packets if IP in packet and packet[IP].dst == BEHIND]


@ROUTERS
@pytest.mark.usefixtures("unchanged")
def test_what_went_by_a_route_leaves_translated_when_that_goes_and_comes_back_as_it_was(lab: Lab, router: str) -> None:
    """One and the same flow: nobody outside is to hear of addresses inside."""
    port, sender = f"{router}1", f"{router}n"
    outer, inner = SENDERS[router][sender], lab.address(sender)
    route = RouterFields(routes=(HostRoute("10.9.0.0/24", lab.address(port)),))
    lab.output(port, "ip", "address", "add", f"{BEHIND}/32", "dev", "lo")
    lab.applied(lab.writer.set_router(router, route))
    with contextlib.ExitStack() as ends:
        server = Program(lab, port, "serve", "behind", str(PORT))
        ends.callback(server.kill)
        server.wait("listening")
        talk = Program(lab, sender, "talk", sender, BEHIND, str(PORT))
        ends.callback(talk.kill)
        server.wait(f"echo {sender}")
        lab.writer.set_router(router, RouterFields(routes=()))
        with lab.capture("upstream") as frames:
            frames.until(lambda frame: sources([frame]) == [outer], 10)
            count = itertools.count()
            later = frames.until(lambda frame: bool(sources([frame])) and next(count) > MANY)
        assert set(sources(later)) == {outer}
        with lab.capture(port) as frames:
            lab.writer.set_router(router, route)
            frames.until(lambda frame: sources([frame]) == [inner], 10)
            count = itertools.count()
            later = frames.until(lambda frame: bool(sources([frame])) and next(count) > MANY)
        assert set(sources(later)) == {inner}
    lab.applied(lab.writer.set_router(router, RouterFields(routes=())))


def test_a_router_that_goes_takes_along_what_it_has_and_no_more(lab: Lab) -> None:
    """Others have the same addresses; what comes under its name begins anew.

    The streams stay on the host: whenever a link comes or goes the switch looks for the ways of its tunnels again.
    """
    space = namespace_of(lab, "e")
    before = lab.writer.get_router("e")
    lab.assert_connection("e1", "198.51.100.1")
    with losing_nothing(lab, *(("upstream", address) for address in FLOATING.values())):
        lab.applied(lab.writer.delete_router("e"))
    assert space not in lab.output("host1", "ip", "netns")
    lab.assert_no_connection("e1", "198.51.100.1")
    fields = RouterFields("public", (FixedIpRequest("203.0.113.4"),), ("host1",), (FixedIpRequest(subnet="eb4"),))
    lab.writer.create_router("e", fields, router_id=before.id)  # its interface has another MAC address now
    lab.assert_connection("e1", "198.51.100.1")
    assert namespace_of(lab, "e") == space


@ROUTERS
def test_what_is_sent_to_a_floating_ip_follows_its_port_to_another_host(lab: Lab, flows: Flows, router: str) -> None:
    for number, old, new in ((1, "host1", "host2"), (2, "host2", "host1")):
        port = f"{router}{number}"
        lab.applied(lab.writer.set_floating_ip(FLOATING[router], FloatingIpFields(port=port)))
        if number == 1:
            flows.begin(FLOATING[router], port)
        else:
            flows.serve(port)
            flows.wait_answers(port)
        move(lab, port, old, new)
        flows.serve(port, f"{port}-moved")
        flows.wait_answers(f"{port}-moved")
