# SPDX-License-Identifier: Apache-2.0
"""Rules change under traffic, and the agent is killed meanwhile: what passes is what old or new rules allow.

``HOSTPLANE_TEST_KILLS`` says at how many points the agent is killed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from agent.cli.yaml_file import parse_file
from agent.core.errors import AgentError
from agent.namespace import inside
from agent.status import client
from agent.store.document import AddressGroupFields, PortFields, RuleFields, SecurityGroupFields
from tests.functional import filter_host
from tests.functional.filter_flood import Steady, flood
from tests.functional.filter_wire import Wire, namespace_of
from tests.functional.lab import EchoStream, Lab, eventually

pytestmark = pytest.mark.alone

KILLS = int(os.environ.get("HOSTPLANE_TEST_KILLS", "20"))
LATEST_KILL = 0.16  # seconds after the write: a pass over such a change has ended by then
GAP = 0.5  # seconds that a scheduling hiccup of the machine may delay a reply: late is not lost

# Neither lets the stranger send to port 9000: before, the rule is there and he is no
# member; after, he is a member and the rule is gone.  Only a mixture would.
BEFORE = """
security_groups:
  changing:
    - {direction: egress}
    - {direction: ingress, protocol: icmp}
    - {direction: ingress, protocol: udp, ports: 8000, remote_group: friends}
    - {direction: ingress, protocol: udp, ports: 9000, remote_group: peers}
    - {direction: ingress, protocol: tcp, ports: 22, remote_address_group: office}
  peers: []
address_groups:
  office: [192.0.2.0/24, "2001:db8:1::/48"]
ports:
  stranger: {security_groups: [anything-out]}
  victim: {security_groups: [changing]}
"""
AFTER = """
security_groups:
  changing:
    - {direction: egress}
    - {direction: ingress, protocol: icmp}
    - {direction: ingress, protocol: udp, ports: 8000, remote_group: friends}
    - {direction: ingress, protocol: udp, ports: 9001, remote_group: peers}
  peers: []
address_groups:
  office: [192.0.2.0/24, 10.0.0.12, "2001:db8::/64"]
ports:
  stranger: {security_groups: [anything-out, peers]}
  victim: {security_groups: [changing, friends]}
"""


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(1)
    lab.bring_up(filter_host.DOCUMENT)
    lab.bring_up(TENANT)
    lab.assert_connection("friend", filter_host.VICTIM)
    return lab


@pytest.fixture(scope="module")
def wire(lab: Lab) -> Iterator[Wire]:
    with Wire(filter_host.stations(lab)) as wire:
        yield wire


def converged(lab: Lab) -> bool:
    try:
        return bool(client.get(lab.sandbox.host("host1").paths.agent_socket, "/status")["converged"])
    except AgentError:
        return False


def test_killed_anywhere_in_a_change_it_lets_nothing_pass_that_neither_allows(lab: Lab, wire: Wire) -> None:
    lab.applied(lab.writer.apply(parse_file(BEFORE.encode(), "before")))
    never = filter_host.always_forbidden(lab) + filter_host.forbidden(lab, "stranger", "victim", 9000)
    overflowed = filter_host.overflowed(lab)
    stream = EchoStream(lab, "friend", filter_host.VICTIM)
    stream.wait_flowing()
    allowed = Steady(filter_host.fresh_packets(lab, "friend", "victim", 8000))
    with flood(wire, never, allowed) as leaks:
        for number, text in zip(range(KILLS), itertools.cycle((AFTER, BEFORE)), strict=False):
            lab.writer.apply(parse_file(text.encode(), "change"))
            time.sleep(LATEST_KILL * number / KILLS)
            lab.sandbox.restart("host1", "agent", kill=True)
        eventually(lambda: converged(lab), "host1 has converged", 30)
    report = stream.stop()
    print(f"killed at {KILLS} points of changes: {leaks.sent} forbidden packets sent, {leaks.arrived and leaks.text()}")
    print(f"allowed: {allowed.summary()}; {report.summary()}")
    assert not leaks.arrived, leaks.text()
    overflowed = filter_host.overflowed(lab) - overflowed
    assert len(allowed.lost()) + len(report.lost) <= overflowed, (allowed.summary(), report.losses_by_second())
    assert report.longest_gap[0] < GAP or overflowed
    assert report.duplicates == 0


# Another tenant, with the same addresses and the same connections.
TENANT = """
networks:
  red: {type: vxlan}
subnets:
  red4: {network: red, cidr: 10.0.0.0/24}
ports:
  red-friend: {network: red, host: host1, fixed_ips: [10.0.0.11], security_groups: [anything-out]}
  red-victim: {network: red, host: host1, fixed_ips: [10.0.0.13], security_groups: [anything-in]}
"""
CLIENT_PORT = itertools.count(50_000)


class Connection:
    """A TCP connection between two instances, its ends held by the test."""

    def __init__(self, lab: Lab, source: str, target: str, port: int, source_port: int) -> None:
        address = lab.address(target)
        with _in_namespace(lab, target):
            listener = socket.socket()
        with listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(1)
            with _in_namespace(lab, source):
                self._client = socket.socket()
            self._client.settimeout(3)
            self._client.bind((lab.address(source), source_port))
            self._client.connect((address, port))
            self._server, _ = listener.accept()

    def close(self) -> None:
        """Reset it, so that nobody waits for anybody."""
        for end in (self._client, self._server):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            end.close()

    def heard(self) -> tuple[bool, bool]:
        """Tell whether the opener hears the other end, and then the other end the opener."""
        return self._passes(self._server, self._client), self._passes(self._client, self._server)

    def lives(self) -> bool:
        """Tell whether both ends hear each other."""
        return self.heard() == (True, True)

    @staticmethod
    def _passes(sender: socket.socket, receiver: socket.socket) -> bool:
        sender.send(b"?")
        receiver.settimeout(0.6)  # a lost packet is sent again after 0.2 s
        with contextlib.suppress(TimeoutError):
            return bool(receiver.recv(100))
        return False


@contextlib.contextmanager
def _in_namespace(lab: Lab, place: str) -> Iterator[None]:
    with namespace_of(lab, place).open("rb") as namespace, inside(namespace.fileno()):
        yield


@pytest.fixture
def connect(lab: Lab) -> Iterator[Callable[..., Connection]]:
    made: list[Connection] = []

    def make(source: str, target: str, port: int, source_port: int | None = None) -> Connection:
        made.append(Connection(lab, source, target, port, source_port or next(CLIENT_PORT)))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


def tcp(port: int, group: str | None = None, addresses: str | None = None) -> RuleFields:
    """Return a rule that lets TCP in from members of a group or an address group, or from anybody."""
    return RuleFields("ingress", "IPv4", "tcp", port, remote_group=group, remote_address_group=addresses)


def set_up(lab: Lab, *rules: RuleFields, victim: tuple[str, ...] = ("changing",)) -> None:
    """Give the victim these rules, and nobody anything else."""
    everything = RuleFields(direction="egress", ethertype="IPv4")
    lab.writer.set_security_group("changing", SecurityGroupFields(rules=(everything, *rules)))
    lab.writer.set_port("stranger", PortFields(security_groups=("anything-out",)))
    lab.applied(lab.writer.set_port("victim", PortFields(security_groups=victim)))


@pytest.fixture
def groups(lab: Lab) -> None:
    lab.applied(lab.writer.apply(parse_file(BEFORE.encode(), "before")))


@pytest.mark.usefixtures("groups")
def test_a_rule_that_goes_ends_its_own_connections_only(lab: Lab, connect: Callable[..., Connection]) -> None:
    set_up(lab, tcp(8000), tcp(8001))
    goes = connect("friend", "victim", 8001, 44_000)
    stays = [connect("friend", "victim", 8000), connect("stranger", "victim", 8000), connect("victim", "open", 8001)]
    twin = connect("red-friend", "red-victim", 8001, 44_000)
    assert all(each.lives() for each in (goes, *stays, twin))
    set_up(lab, tcp(8000))
    # Not even by the server's own word, which its group lets out: the client's would be answers to it.
    assert goes.heard() == (False, False)
    assert [each.lives() for each in (*stays, twin)] == [True] * 4
    set_up(lab, tcp(8000), tcp(8001))
    assert goes.lives()  # TCP sends again until somebody answers, and now it may


@pytest.mark.usefixtures("groups")
def test_a_rule_that_another_one_stands_in_for_ends_nothing(lab: Lab, connect: Callable[..., Connection]) -> None:
    set_up(lab, tcp(8000), tcp(8000, group="friends"))
    one, other = connect("friend", "victim", 8000), connect("stranger", "victim", 8000)
    set_up(lab, tcp(8000, group="friends"))
    assert one.lives()
    assert not other.lives()


@pytest.mark.usefixtures("groups")
def test_a_member_that_goes_ends_what_it_was_allowed_for(lab: Lab, connect: Callable[..., Connection]) -> None:
    set_up(lab, tcp(8000, group="peers"), tcp(8001))
    lab.applied(lab.writer.set_port("stranger", PortFields(security_groups=("anything-out", "peers"))))
    lab.applied(lab.writer.set_port("friend", PortFields(security_groups=("friends", "peers"))))
    goes, stays = connect("stranger", "victim", 8000), connect("friend", "victim", 8000)
    other = connect("stranger", "victim", 8001)
    lab.applied(lab.writer.set_port("stranger", PortFields(security_groups=("anything-out",))))
    assert not goes.lives()
    assert stays.lives()
    assert other.lives()
    lab.applied(lab.writer.set_port("friend", PortFields(security_groups=("friends",))))
    assert not stays.lives()


@pytest.mark.usefixtures("groups")
def test_an_address_that_goes_from_an_address_group_ends_its_connections(
    lab: Lab, connect: Callable[..., Connection]
) -> None:
    set_up(lab, tcp(8000, addresses="office"))
    friend, stranger = lab.address("friend"), lab.address("stranger")
    lab.applied(lab.writer.set_address_group("office", AddressGroupFields((friend, f"{stranger}/31"))))
    stays, goes = connect("friend", "victim", 8000), connect("stranger", "victim", 8000)
    lab.applied(lab.writer.set_address_group("office", AddressGroupFields((friend,))))
    assert stays.lives()
    assert not goes.lives()


@pytest.mark.usefixtures("groups")
def test_a_group_that_a_port_loses_ends_what_it_allowed(lab: Lab, connect: Callable[..., Connection]) -> None:
    set_up(lab, tcp(8000), victim=("changing", "anything-in"))
    goes, stays = connect("friend", "victim", 8001), connect("friend", "victim", 8000)
    lab.applied(lab.writer.set_port("victim", PortFields(security_groups=("changing",))))
    assert not goes.lives()
    assert stays.lives()


@pytest.mark.usefixtures("groups")
def test_what_comes_disturbs_nothing(lab: Lab, connect: Callable[..., Connection]) -> None:
    icmp = RuleFields(direction="ingress", ethertype="IPv4", protocol="icmp")
    set_up(lab, icmp, tcp(8000))
    connection = connect("friend", "victim", 8000)
    overflowed = filter_host.overflowed(lab)
    stream = EchoStream(lab, "friend", filter_host.VICTIM)
    stream.wait_flowing()
    for number in range(10):
        lab.applied(lab.writer.add_security_group_rules("changing", (tcp(9100 + number, group="peers"),)))
    lab.applied(lab.writer.add_addresses("office", ("198.51.100.0/24",)))
    lab.applied(lab.writer.set_port("stranger", PortFields(security_groups=("anything-out", "peers"))))
    lab.applied(lab.writer.set_port("victim", PortFields(security_groups=("changing", "friends"))))
    assert connection.lives()
    report = stream.stop()
    overflowed = filter_host.overflowed(lab) - overflowed
    assert len(report.lost) <= overflowed, report.summary()
    assert report.longest_gap[0] < GAP or overflowed
