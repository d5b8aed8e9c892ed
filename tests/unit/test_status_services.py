# SPDX-License-Identifier: Apache-2.0
"""What a port is answered and has asked, from the plan to what ``hostplane status port`` prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from agent.config import StatusConfig
from agent.core.errors import Actor, ApplyError, Problem
from agent.core.items import Served
from agent.core.model import HostName, HostSnapshot, NetworkId, Port, PortId, Subnet, SubnetId
from agent.core.plan import Group, ItemRef, ObjectId, Plan
from agent.core.report import ItemState, ObjectStatus, PortState
from agent.core.service_report import PortServices, ServiceCounts, port_services
from agent.status.metrics import AgentMetrics
from agent.status.sdnotify import Heartbeat, Notifier
from agent.status.server import StatusServer
from tests.fakes.status_source import FakeSource

PORT = Port(PortId("p1"), "vm1", NetworkId("n"), "fa:16:3e:00:00:01", ())
SNAPSHOT = HostSnapshot(HostName("host1"), in_sync=True, ports={PORT.id: PORT})
SUBNETS: list[dict[str, Any]] = [
    {"cidr": "10.0.0.0/24", "server": "10.0.0.254", "dhcp": True},
    {"cidr": "10.1.0.0/24", "server": None, "dhcp": False},
    {"cidr": "10.2.0.0/24", "server": None, "dhcp": True},
    {"cidr": "2001:db8:1::/64", "dhcp": True, "address_mode": "slaac", "ra_mode": "slaac"},
    {"cidr": "2001:db8:2::/64", "dhcp": True, "address_mode": "dhcpv6-stateful", "ra_mode": "dhcpv6-stateful"},
    {"cidr": "2001:db8:3::/64", "dhcp": True, "address_mode": None, "ra_mode": None},
]
ADDRESSES = [["10.0.0.5", 0], ["10.1.0.5", 1], ["10.2.0.5", 2], ["2001:db8:1::5", 3], ["2001:db8:2::5", 4]]
LAST = ["2001:db8:3::5", 5]
DHCP = {
    "identity": "02:48:50:01:00:07",
    "port": {"hostname": "vm1", "addresses": [*ADDRESSES, LAST], "subnets": SUBNETS},
}
METADATA = {"instance_id": "i-1", "aliases": [["100.64.1.1", "10.0.0.5"]], "content": {"user_data": "c2VjcmV0"}}
TOLD: Mapping[str, Any] = {
    "messages": [{"at": 1990.0, "protocol": "dhcpv4", "message": "request", "result": "ack"}],
    "advertised_at": 1940.0,
    "metadata": {"at": 1998.0, "address": "10.0.0.5", "method": "GET", "path": "/openstack", "code": 200},
    "connections": 2,
    "rate_limited": 3,
}


def plan() -> Plan:
    dhcp = Group(
        ObjectId("port:p1/dhcp"),
        {"responder": {"dhcp p1": Served("d", json.dumps(DHCP))}, "flows": {"table=0": "drop"}},
        {ItemRef("flows", "table=0"): frozenset({ItemRef("responder", "socket dhcp")})},
    )
    metadata = Group(ObjectId("port:p1/metadata"), {"responder": {"metadata p1": Served("m", json.dumps(METADATA))}})
    return Plan({group.object_id: group for group in (dhcp, metadata)})


def ask(port: PortId) -> Mapping[str, Any]:
    return TOLD


def unfinished(driver: str, key: str) -> dict[ItemRef, ObjectStatus]:
    return {ItemRef(driver, key): ObjectStatus(ItemState.ERROR, "it is away", 1.0)}


def test_what_is_offered_is_shown_without_the_tenants_data() -> None:
    (found,) = port_services("vm1", SNAPSHOT, plan(), {}, ask)
    assert found.in_place
    assert found.offer["dhcp"]["hostname"] == "vm1"
    assert found.offer["metadata"]["from_store"] is True
    assert "c2VjcmV0" not in json.dumps(found.offer)


@pytest.mark.parametrize(
    ("driver", "key"), [("responder", "dhcp p1"), ("flows", "table=0"), ("responder", "socket dhcp")]
)
def test_what_a_service_waits_for_is_named(driver: str, key: str) -> None:
    (found,) = port_services("p1", SNAPSHOT, plan(), unfinished(driver, key), ask)
    assert not found.in_place
    assert found.unfinished == (f"{driver} {key}: it is away",)


def test_a_responder_that_is_away_hides_nothing_else() -> None:
    def away(port: PortId) -> Mapping[str, Any]:
        raise ApplyError("the responder does not answer")

    (found,) = port_services("vm1", SNAPSHOT, plan(), {}, away)
    assert (found.told, found.error, found.in_place) == (None, "the responder does not answer", True)


def test_a_port_that_is_not_served_has_no_services() -> None:
    assert port_services("vm1", SNAPSHOT, Plan(), {}, ask) == ()


@pytest.fixture
def source() -> FakeSource:
    source = FakeSource()
    source.current.ports[PORT.id] = PortState(  # type: ignore[index]
        PORT.id, "vm1", PORT.network, up=True, reason="", since=1000.0, interface="tapp1", ofport=5
    )
    source.services = port_services("vm1", SNAPSHOT, plan(), {}, ask)
    return source


@pytest.fixture
def hostplane(source: FakeSource, tmp_path: Path, capsys: Any, monkeypatch: Any) -> Any:
    config = StatusConfig(tmp_path / "agent.sock", metrics_port=0)
    served = StatusServer(config, source, lambda accept: ("text/plain", b""))
    served.start()
    monkeypatch.setenv("HOSTPLANE_SOCKET", str(config.socket))
    monkeypatch.setattr("time.time", lambda: 2000.0)

    def run(*words: str) -> str:
        assert main(["status", "port", *words]) == 0
        text: str = capsys.readouterr().out
        return text

    yield run
    served.stop()


def test_people_see_what_a_port_gets_and_asked(hostplane: Callable[..., str]) -> None:
    lines = hostplane("vm1").splitlines()
    assert "services   in place, host name vm1, metadata of instance i-1 from the store" in lines
    assert [line.removeprefix("address    ") for line in lines if line.startswith("address")] == [
        "10.0.0.5 by DHCP from 10.0.0.254",
        "10.1.0.5 NOT TOLD: the subnet has DHCP off",
        "10.2.0.5 NOT TOLD: the subnet has no server address",
        "2001:db8:1::5 by router advertisements",
        "2001:db8:2::5 by DHCPv6",
        "2001:db8:3::5 NOT TOLD: the subnet has no IPv6 mode",
    ]
    assert "asked      DHCP request: ack, 10.0 s ago" in lines
    assert "told       router advertisement, 1 min ago" in lines
    assert "asked      metadata GET /openstack: 200, 2.0 s ago, from 10.0.0.5" in lines
    assert "refused    3 messages and requests were too many" in lines


def test_people_see_why_it_is_not_known(hostplane: Callable[..., str], source: FakeSource) -> None:
    source.services = (PortServices(PORT.id, {}, False, ("responder dhcp p1: no",), None, "it does not answer"),)
    lines = hostplane("vm1").splitlines()
    assert "services   NOT IN PLACE" in lines
    assert "waits for  responder dhcp p1: no" in lines
    assert "asked      unknown: it does not answer" in lines
    source.services = ()
    assert "services   none: the port is not answered anything" in hostplane("vm1")


@pytest.mark.parametrize(
    ("problem", "in_place"),
    [
        (Problem("subnet:s1", "dns_nameservers", "subnet blue4: name server 'x'; left out", Actor.CLOUD), True),
        (Problem("metadata_service:m", "url", "metadata service: url 'x'; left out", Actor.CLOUD), True),
        (Problem("host", "responder", "the user hostplane-responder does not exist", Actor.OPERATOR), False),
    ],
)
def test_people_see_what_is_wrong_with_what_the_port_is_answered(
    hostplane: Callable[..., str], source: FakeSource, problem: Problem, in_place: bool
) -> None:
    asks_nova = Group(
        ObjectId("port:p1/metadata"),
        {"responder": {"metadata p1": Served("m", '{"instance_id": "", "content": null}')}},
    )
    nova = Plan({**plan().groups, asks_nova.object_id: asks_nova})
    subnet = Subnet(SubnetId("s1"), "blue4", PORT.network, "10.0.0.0/24", None)
    snapshot = replace(SNAPSHOT, subnets={PORT.network: (subnet,)})
    source.services = port_services("vm1", snapshot, nova, {}, ask)
    source.current = replace(source.current, problems=(problem, Problem("subnet:other", "f", "other", Actor.CLOUD)))
    lines = hostplane("vm1").splitlines()
    state = "in place" if in_place else "NOT IN PLACE"
    nobody = "no metadata: without a device id Nova does not know the port"
    assert f"services   {state}, host name vm1, {nobody}" in lines
    assert [line for line in lines if line.startswith("problem")] == [
        f"problem    {problem.text} (who must act: {problem.actor})"
    ]


def test_a_port_without_an_address_is_said_to_have_none(hostplane: Callable[..., str], source: FakeSource) -> None:
    offer = {"dhcp": {"hostname": "", "addresses": [], "subnets": SUBNETS}}
    source.services = (PortServices(PORT.id, offer, True, (), TOLD),)
    assert "address    none: the port has no fixed address on a subnet" in hostplane("vm1").splitlines()


def test_programs_get_every_field_that_is_documented(hostplane: Callable[..., str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "status.md").read_text()
    (port,) = json.loads(hostplane("vm1", "-o", "json"))["ports"]
    services = port["services"]
    fields = {*services, *services["addresses"][0], *services["last"], *services["last"]["messages"][0]}
    assert {name for name in fields if f"`{name}`" not in text} == set()


def test_what_the_responder_counts_is_scraped() -> None:
    source = FakeSource()
    counters: Mapping[str, Mapping[tuple[tuple[str, str], ...], float]] = {
        "dhcp_messages": {(("family", "4"), ("type", "discover"), ("result", "offer")): 7.0},
        "metadata_requests": {(("code", "200"), ("family", "6")): 9.0},
        "connections": {(("state", "open"),): 4.0},
    }
    source.service_counters = ServiceCounts(up=True, counters=counters)
    _, page = AgentMetrics(source, Heartbeat(Notifier(None)), lambda: 1.0).scrape("text/plain")
    lines = page.decode().splitlines()
    assert 'hostplane_dhcp_messages_total{family="4",result="offer",type="discover"} 7.0' in lines
    assert 'hostplane_metadata_requests_total{code="200",family="6"} 9.0' in lines
    assert "hostplane_metadata_connections 4.0" in lines
    assert "hostplane_responder_up 1.0" in lines
