# SPDX-License-Identifier: Apache-2.0
"""Waiting for hosts: who is concerned by a write, and what is said of ports that failed and hosts that are silent."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.errors import StoreError
from agent.core.model import HostName, HostSnapshot, Network, NetworkId, NetworkType, Port, PortId, SwitchView
from agent.port_states import PortFacts, port_states
from agent.store.document import (
    AddressGroupFields,
    FixedIpRequest,
    FloatingIpFields,
    HostFields,
    NetworkFields,
    PortFields,
    PortForwardingFields,
    RouterFields,
    RuleFields,
    SecurityGroupFields,
    SubnetFields,
)
from agent.store.records import PortFailure, RouterFailure
from agent.store.writer import Writer
from agent.store.writer_wait import concerned_ports
from tests.servers import StoreServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as server:
        yield server


@pytest.fixture
def writer(server: StoreServer) -> Iterator[Writer]:
    with Writer.connect([server.address]) as writer:
        writer.create_network("blue", NetworkFields(type="vxlan"))
        writer.create_network("red", NetworkFields(type="vxlan"))
        for host in ("host1", "host2", "host3"):
            writer.create_host(host, HostFields())
        for name, network, host in (("vm1", "blue", "host1"), ("vm2", "blue", "host2"), ("vm3", "red", "host3")):
            writer.create_port(name, PortFields(network=network, host=host))
        yield writer


class FakeAgent:
    """What an agent writes about itself and its ports."""

    def __init__(self, server: StoreServer, writer: Writer, host: str) -> None:
        self._address = server.address
        self._generation = writer.revision()[0]
        self._host = host

    def applied(self, revision: int, generation: str | None = None) -> None:
        row = {
            "host": self._host,
            "version": "1",
            "generation": ["uuid", generation or self._generation],
            "applied_revision": revision,
            "heartbeat": 1,
        }
        self._replace("Host_Status", [["host", "==", self._host]], row)

    def port(self, port_id: str, up: bool, reason: str = "") -> None:
        row = {"port": port_id, "host": self._host, "up": up, "reason": reason, "since": 1500}
        self._replace("Port_Status", [["port", "==", port_id], ["host", "==", self._host]], row)

    def router(self, router_id: str, *, active: bool = False, ready: bool | None = True, reason: str = "") -> None:
        row = {"router": router_id, "host": self._host, "active": active, "reason": reason, "since": 1}
        row |= {} if ready is None else {"ready": ready}
        self._replace("Router_Status", [["router", "==", router_id], ["host", "==", self._host]], row)

    def _replace(self, table: str, where: list[list[str]], row: dict[str, object]) -> None:
        operations = [
            "Hostplane",
            {"op": "delete", "table": table, "where": where},
            {"op": "insert", "table": table, "row": row},
        ]
        argv = ["ovsdb-client", "transact", self._address, json.dumps(operations)]
        answer = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        assert "error" not in answer, answer


@pytest.fixture
def agent(server: StoreServer, writer: Writer) -> Callable[[str], FakeAgent]:
    return lambda host: FakeAgent(server, writer, host)


def test_hosts_with_ports_on_the_network_are_concerned_and_no_others(
    writer: Writer, agent: Callable[[str], FakeAgent]
) -> None:
    written = writer.create_port("vm4", PortFields(network="blue", host="host4"))
    for host in ("host1", "host2", "host4"):
        agent(host).applied(written.revision)
    applied = writer.wait_applied(written, timeout=5)
    assert (applied.hosts, applied.missing, applied.exit_status) == (("host1", "host2", "host4"), (), 0)


def test_both_hosts_of_a_move_are_concerned(writer: Writer) -> None:
    written = writer.set_port("vm1", PortFields(host="host9"))
    assert writer.wait_applied(written, timeout=0).missing == ("host1", "host2", "host9")
    written = writer.delete_port("vm1")
    assert writer.wait_applied(written, timeout=0).missing == ("host2",)  # nobody has announced host9


def test_a_host_that_nobody_announced_is_waited_for_only_by_the_write_that_names_it(
    writer: Writer, agent: Callable[[str], FakeAgent]
) -> None:
    written = writer.create_port("lost", PortFields(network="blue", host="hots1"))
    assert "hots1" in writer.wait_applied(written, timeout=0).missing
    written = writer.create_port("vm4", PortFields(network="blue", host="host1"))
    agent("host1").applied(written.revision)
    agent("host2").applied(written.revision)
    assert writer.wait_applied(written, timeout=5).exit_status == 0
    moved = writer.set_port("lost", PortFields(host="host1"))
    agent("host1").applied(moved.revision)
    agent("host2").applied(moved.revision)
    assert writer.wait_applied(moved, timeout=5).exit_status == 0


def test_a_changed_tunnel_address_concerns_all_that_send_to_it(writer: Writer) -> None:
    writer.set_host("host1", HostFields(tunnel_address="192.0.2.1"))
    written = writer.set_host("host1", HostFields(tunnel_address="192.0.2.2"))
    assert writer.wait_applied(written, timeout=0).missing == ("host1", "host2")


def test_the_wait_ends_when_the_last_host_reports(writer: Writer, agent: Callable[[str], FakeAgent]) -> None:
    written = writer.set_network("blue", NetworkFields(mtu=1400))
    first, second = agent("host1"), agent("host2")
    first.applied(written.revision - 1)
    second.applied(written.revision + 5)  # later is fine
    report = threading.Timer(0.2, first.applied, [written.revision])
    report.start()
    started = time.monotonic()
    assert writer.wait_applied(written, timeout=30).exit_status == 0
    assert time.monotonic() - started < 20
    report.join()


def test_hosts_that_do_not_answer_are_named(writer: Writer, agent: Callable[[str], FakeAgent]) -> None:
    written = writer.set_network("blue", NetworkFields(mtu=1400))
    agent("host1").applied(written.revision)
    agent("host2").applied(written.revision - 1)
    applied = writer.wait_applied(written, timeout=0.1)
    assert (applied.missing, applied.exit_status) == (("host2",), 4)


def test_a_report_from_another_generation_does_not_count(writer: Writer, agent: Callable[[str], FakeAgent]) -> None:
    written = writer.set_network("red", NetworkFields(mtu=1400))
    agent("host3").applied(written.revision, generation=str(uuid.uuid4()))
    assert writer.wait_applied(written, timeout=0.2).missing == ("host3",)


def test_ports_that_failed_are_named_with_the_reason(writer: Writer, agent: Callable[[str], FakeAgent]) -> None:
    written = writer.set_network("blue", NetworkFields(mtu=1400))
    one, two = agent("host1"), agent("host2")
    vm1, vm2 = writer.get_port("vm1"), writer.get_port("vm2")
    one.port(vm1.id, up=False, reason="no such bridge")
    two.port(vm2.id, up=True)
    two.port(vm1.id, up=True)  # of a host where the port is not: does not count
    one.applied(written.revision)
    two.applied(written.revision)
    applied = writer.wait_applied(written, timeout=5)
    assert applied.failures == (PortFailure(vm1.id, "vm1", "host1", "no such bridge"),)
    assert applied.exit_status == 3
    shown = writer.get_port("vm1")
    assert (shown.up, shown.reason, shown.since) == (False, "no such bridge", 1.5)


def test_a_port_that_is_to_be_down_has_not_failed(writer: Writer, agent: Callable[[str], FakeAgent]) -> None:
    one, two = agent("host1"), agent("host2")
    one.port(writer.get_port("vm1").id, up=False, reason="admin state is down")
    written = writer.set_port("vm1", PortFields(admin_state_up=False))
    one.applied(written.revision)
    two.applied(written.revision)
    assert writer.wait_applied(written, timeout=5).exit_status == 0


def test_a_port_whose_instance_is_not_there_has_not_failed(writer: Writer, agent: Callable[[str], FakeAgent]) -> None:
    facts = PortFacts(
        HostSnapshot(
            HostName("host3"),
            networks={NetworkId("n"): Network(NetworkId("n"), "n", NetworkType.VXLAN, 1, None, 1450)},
            ports={PortId("p"): Port(PortId("p"), "p", NetworkId("n"), "fa:16:3e:00:00:01", ())},
        ),
        SwitchView(connected=True),
    )
    reason = port_states(facts, {}, now=0)[PortId("p")].reason
    written = writer.set_network("red", NetworkFields(mtu=1400))
    agent("host3").port(writer.get_port("vm3").id, up=False, reason=reason)
    agent("host3").applied(written.revision)
    assert writer.wait_applied(written, timeout=5).exit_status == 0
    assert not writer.get_port("vm3").up


def test_a_status_of_the_old_host_is_not_shown_after_a_move(writer: Writer, agent: Callable[[str], FakeAgent]) -> None:
    agent("host1").port(writer.get_port("vm1").id, up=True)
    writer.set_port("vm1", PortFields(host="host2"))
    assert writer.get_port("vm1").up is None


def test_hosts_show_how_far_they_are(writer: Writer, agent: Callable[[str], FakeAgent]) -> None:
    agent("host1").applied(3)
    agent("host7").applied(4)
    assert writer.wait_revision(4, ["host7"], timeout=5).missing == ()
    assert [(host.name, bool(host.id), host.applied_revision) for host in writer.list_hosts()] == [
        ("host1", True, 3),
        ("host2", True, None),
        ("host3", True, None),
        ("host7", False, 4),
    ]
    assert writer.get_host("host7").version == "1"


def test_deleting_a_host_takes_its_reports_along(writer: Writer, agent: Callable[[str], FakeAgent]) -> None:
    writer.create_host("host7", HostFields())
    host = agent("host7")
    host.port(writer.get_port("vm1").id, up=False)
    host.applied(3)
    assert writer.wait_revision(3, ["host7"], timeout=5).missing == ()
    writer.delete_host("host7")
    assert "host7" not in {shown.name for shown in writer.list_hosts()}
    assert writer.read(lambda view: view.rows("Port_Status")) == []


def test_a_store_that_goes_away_is_an_error_in_time(server: StoreServer) -> None:
    with Writer.connect([server.address], timeout=1) as writer:
        server.stop()
        started = time.monotonic()
        with pytest.raises(StoreError, match=r"store unix:.*: no answer within 1 s; whether it wrote is unknown"):
            writer.create_network("given up", NetworkFields(type="local"))
        assert time.monotonic() - started < 8
        server.start()
        deadline = time.monotonic() + 20
        for number in itertools.count():  # the connection comes back by itself
            try:
                writer.create_network(f"again {number}", NetworkFields(type="local"))
                break
            except StoreError:
                assert time.monotonic() < deadline
        assert "given up" not in {network.name for network in writer.list_networks()}


def test_a_port_that_is_up_without_all_that_its_security_groups_say_has_failed(writer, agent):
    writer.create_security_group("web", SecurityGroupFields())
    written = writer.set_port("vm1", PortFields(security_groups=("web",)))
    agent("host1").port(written.result.id, up=True, reason="security group web is not all in place")
    for host in ("host1", "host2"):
        agent(host).applied(written.revision)
    applied = writer.wait_applied(written, timeout=10)
    (failure,) = applied.failures
    assert (failure.name, failure.up, applied.exit_status) == ("vm1", True, 3)


def test_what_other_hosts_do_not_see_of_a_port_is_not_waited_for_there(server, writer):
    written = writer.set_port("vm1", PortFields(admin_state_up=False))
    FakeAgent(server, writer, "host1").applied(written.revision)
    applied = writer.wait_applied(written, timeout=10)
    assert (applied.hosts, applied.missing) == (("host1",), ())
    moved = writer.set_port("vm1", PortFields(host="host3"))
    assert set(writer.wait_applied(moved, timeout=0).missing) == {"host1", "host2", "host3"}


def test_a_call_that_changes_nothing_still_waits_for_the_host_of_the_port(server, writer):
    written = writer.set_port("vm1", PortFields(host="host1"))
    assert not written.changed
    assert writer.wait_applied(written, timeout=0).missing == ("host1",)
    FakeAgent(server, writer, "host1").applied(written.revision)
    assert writer.wait_applied(written, timeout=10).missing == ()


def test_a_group_concerns_the_hosts_of_its_ports(writer: Writer) -> None:
    writer.create_security_group("web", SecurityGroupFields())
    port = writer.set_port("vm1", PortFields(security_groups=("web",))).result
    ssh = RuleFields(direction="ingress", protocol="tcp", ports=22)
    written = writer.add_security_group_rules("web", (ssh,))
    assert writer.wait_applied(written, timeout=0).missing == ("host1",)
    again = writer.add_security_group_rules("web", (ssh,))
    assert not again.changed
    assert writer.wait_applied(again, timeout=0).missing == ("host1",)
    written_rule = writer.remove_security_group_rule(written.result[0].id)
    assert writer.wait_applied(written_rule, timeout=0).missing == ("host1",)
    logged = writer.set_security_group("web", SecurityGroupFields(log=("drop",)))
    assert writer.wait_applied(logged, timeout=0).missing == ("host1",)
    assert writer.read(lambda view: concerned_ports(view, logged)) == {port.id}


def test_a_member_more_concerns_the_hosts_where_rules_name_its_group(writer: Writer) -> None:
    writer.create_subnet("red4", SubnetFields(network="red", cidr="10.0.0.0/24"))
    writer.create_security_group("db", SecurityGroupFields(rules=()))
    rules = (RuleFields(direction="ingress", remote_group="db"),)
    writer.create_security_group("web", SecurityGroupFields(rules=rules))
    writer.set_port("vm1", PortFields(security_groups=("web",)))
    written = writer.create_port("vm4", PortFields(network="red", host="host3", security_groups=("db",)))
    assert writer.wait_applied(written, timeout=0).missing == ("host1", "host3")
    written = writer.set_port("vm4", PortFields(admin_state_up=False))  # its addresses stay
    assert writer.wait_applied(written, timeout=0).missing == ("host3",)
    assert writer.wait_applied(writer.delete_port("vm4"), timeout=0).missing == ("host1", "host3")


def test_an_address_group_concerns_the_hosts_where_rules_name_it(writer: Writer) -> None:
    writer.create_address_group("office", AddressGroupFields())
    rules = (RuleFields(direction="ingress", remote_address_group="office"),)
    writer.create_security_group("web", SecurityGroupFields(rules=rules))
    writer.set_port("vm2", PortFields(security_groups=("web",)))
    written = writer.add_addresses("office", ("192.0.2.1",))
    assert writer.wait_applied(written, timeout=0).missing == ("host2",)


def test_deleting_a_group_concerns_the_hosts_where_it_was_named(writer: Writer) -> None:
    writer.create_security_group("db", SecurityGroupFields(rules=()))
    rules = (RuleFields(direction="ingress", remote_group="db"),)
    writer.create_security_group("web", SecurityGroupFields(rules=rules))
    writer.set_port("vm2", PortFields(security_groups=("web",)))
    assert writer.wait_applied(writer.delete_security_group("db"), timeout=0).missing == ("host2",)


@pytest.fixture
def edge(writer: Writer) -> RouterFields:
    """A router of network blue with its gateway on host3."""
    writer.create_network("public", NetworkFields(type="flat", physnet="external", external=True))
    writer.create_subnet("public4", SubnetFields(network="public", cidr="203.0.113.0/24", dhcp=False))
    writer.create_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24"))
    interfaces = (FixedIpRequest(subnet="blue4"),)
    return RouterFields(external_network="public", gateway_hosts=("host3",), interfaces=interfaces)


def test_a_router_is_waited_for_until_its_hosts_say_that_it_is_ready(
    writer: Writer, agent: Callable[[str], FakeAgent], edge: RouterFields
) -> None:
    written = writer.create_router("edge", edge)
    router = written.result.id
    gateway, instances = agent("host3"), agent("host1")
    gateway.router(router, ready=False, reason="device hpr-1 has no OpenFlow port number yet")
    instances.router(router)
    for host in ("host1", "host2", "host3"):  # host2 has nothing to do with it
        agent(host).applied(written.revision)
    applied = writer.wait_applied(written, timeout=0.2)
    missing = RouterFailure(router, "edge", "host3", "device hpr-1 has no OpenFlow port number yet")
    assert (applied.router_failures, applied.missing, applied.exit_status) == ((missing,), (), 3)
    ready = threading.Timer(0.2, gateway.router, [router], {"active": True})
    ready.start()
    assert writer.wait_applied(written, timeout=30).exit_status == 0
    ready.join()


def test_floating_ips_and_forwardings_wait_for_their_router(
    writer: Writer, agent: Callable[[str], FakeAgent], edge: RouterFields
) -> None:
    router = writer.create_router("edge", edge).result.id
    writer.set_port("vm2", PortFields(fixed_ips=(FixedIpRequest("10.0.0.12"),)))
    for written in (
        writer.create_floating_ip("203.0.113.9", FloatingIpFields(port="vm2")),
        writer.delete_floating_ip("203.0.113.9"),
        writer.create_port_forwarding("203.0.113.9:22", PortForwardingFields(protocol="tcp", internal="vm2:22")),
    ):
        assert written.routers == {router}


def test_a_router_that_leaves_something_out_is_named_at_once_and_one_that_is_to_be_down_is_not(
    writer: Writer, agent: Callable[[str], FakeAgent], edge: RouterFields
) -> None:
    written = writer.create_router("edge", edge)
    agent("host1").router(written.result.id, ready=None)  # an agent of before 1.4
    agent("host2").router(written.result.id, reason="host host3 has the gateway")
    agent("host3").router(written.result.id, active=True, reason="router edge: route to 10.9.0.0/16: left out")
    for host in ("host1", "host2", "host3"):
        agent(host).applied(written.revision + 1)
    applied = writer.wait_applied(written, timeout=30)
    (failure,) = applied.router_failures
    assert (failure.host, failure.ready, applied.exit_status) == ("host3", True, 3)
    down = writer.set_router("edge", RouterFields(admin_state_up=False))
    agent("host3").router(written.result.id, ready=False, reason="the router is administratively down")
    assert writer.wait_applied(down, timeout=30).exit_status == 0
