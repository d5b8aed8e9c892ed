# SPDX-License-Identifier: Apache-2.0
"""The command about routers, floating IPs, port forwardings, pools and hosts to be drained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.store.writer import Writer
from tests.servers import StoreServer

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "routers.yaml")
Hostplane = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as server:
        yield server


@pytest.fixture
def hostplane(store: StoreServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Hostplane:
    """Return what runs a command and returns what it printed; of a failure what it complained of."""
    monkeypatch.setenv("HOSTPLANE_STORE", store.address)

    def run(*words: str, status: int = 0) -> str:
        capsys.readouterr()
        assert main(list(words)) == status
        captured = capsys.readouterr()
        return captured.out if status == 0 else captured.err

    return run


def made(hostplane: Hostplane, *words: str):
    return json.loads(hostplane(*words, "-o", "json"))


def test_a_router_is_made_connected_shown_and_deleted(hostplane: Hostplane) -> None:
    hostplane("network", "create", "public", "--type", "flat", "--physnet", "ext", "--external")
    hostplane("subnet", "create", "public4", "--network", "public", "--cidr", "203.0.113.0/24", "--no-dhcp")
    hostplane("network", "create", "blue", "--type", "vxlan")
    hostplane("subnet", "create", "blue4", "--network", "blue", "--cidr", "10.0.0.0/24")
    for name, address in (("vm1", "10.0.0.11"), ("vm2", "10.0.0.12")):
        hostplane("port", "create", name, "--network", "blue", "--fixed-ip", address)
    words = ["--external-network", "public", "--gateway-host", "host1", "--gateway-host", "host2", "--distributed"]
    router = made(hostplane, "router", "create", "edge", *words)
    assert router["gateway"]["hosts"] == ["host1", "host2"]
    assert (router["distributed"], router["ha"], router["enable_snat"]) == (True, True, True)
    assert hostplane("router", "add-interface", "edge", "blue4") == "router edge changed\n"
    assert hostplane("router", "add-interface", "edge", "blue4") == "router edge was so already\n"
    hostplane("router", "set", "edge", "--route", "destination=10.9.0.0/16,nexthop=10.0.0.9", "--no-enable-snat")

    floating = made(hostplane, "floating-ip", "create", "any", "--network", "public", "--port", "vm1")
    assert (floating["floating_ip_address"], floating["fixed_ip"]) == ("203.0.113.3", "10.0.0.11")
    assert "203.0.113.3" in hostplane("floating-ip", "list", "--router", "edge")
    assert hostplane("floating-ip", "list", "--port", "vm2") == ""
    forwarding = made(
        hostplane, "port-forwarding", "create", "203.0.113.2:22", "--internal", "vm2:22", "--protocol", "tcp"
    )
    assert (forwarding["external"], forwarding["internal"]) == ("203.0.113.2:22", "vm2:22")

    shown = hostplane("router", "show", "edge")
    assert "10.9.0.0/16 via 10.0.0.9" in shown
    assert "10.0.0.1" in shown
    error = hostplane("router", "delete", "edge", status=1)
    assert error.startswith("hostplane: router edge: it is in use by floating ip 203.0.113.3, port forwarding")
    assert hostplane("port-forwarding", "delete", "203.0.113.2:22/tcp").endswith("deleted\n")
    assert hostplane("floating-ip", "set", "203.0.113.3", "--no-port") == "floating ip 203.0.113.3 changed\n"
    assert hostplane("router", "delete", "edge") == "router edge deleted\n"
    assert "edge" not in hostplane("port", "list")


def test_the_example_is_applied_twice_listed_and_shown(hostplane: Hostplane) -> None:
    assert "router edge created" in hostplane("apply", "-f", EXAMPLE, "--set", "demo")
    assert hostplane("apply", "-f", EXAMPLE, "--set", "demo", "--prune") == "nothing to change\n"
    lines = hostplane("router", "list").splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["edge", "inner"]
    ports = hostplane("port", "list")
    assert len(ports.splitlines()) == 1 + 4 + 5  # those of instances, and of routers
    assert "2001:db8:1000::/40" in hostplane("subnet-pool", "show", "tenants6")
    assert "routed6" in hostplane("address-scope", "list")
    inner = made(hostplane, "router", "show", "inner")
    assert inner["gateway"]["network"] == "public"
    assert [(i["subnet_name"], i["address"]) for i in inner["interfaces"]] == [
        ("app4", "10.0.1.254"),
        ("db4", "10.0.0.1"),
    ]


def test_a_host_is_drained_and_taken_back(hostplane: Hostplane) -> None:
    hostplane("host", "create", "host1", "--tunnel-address", "192.0.2.1")
    assert hostplane("host", "set", "host1", "--drain") == "host host1 changed\n"
    assert made(hostplane, "host", "show", "host1")["drain"] is True
    assert hostplane("host", "set", "host1", "--no-drain") == "host host1 changed\n"
    assert made(hostplane, "host", "show", "host1")["drain"] is False


def test_a_gateway_without_hosts_is_shown_as_what_it_is(hostplane: Hostplane) -> None:
    hostplane("network", "create", "public", "--external", "--type", "flat", "--physnet", "external")
    hostplane("subnet", "create", "public4", "--network", "public", "--cidr", "203.0.113.0/24")
    hostplane("router", "create", "edge", "--external-network", "public")
    assert "none: nothing leaves but floating IPs" in hostplane("router", "show", "edge")
    hostplane("router", "set", "edge", "--gateway-host", "host1")
    shown = hostplane("router", "show", "edge").splitlines()
    assert "gateway_hosts   host1" in shown
    assert shown.index("gateway_hosts   host1") < next(n for n, line in enumerate(shown) if line.startswith("status"))


def test_a_gateway_host_that_nobody_knows_is_named_by_who_waits_for_it(hostplane: Hostplane) -> None:
    hostplane("network", "create", "public", "--external", "--type", "flat", "--physnet", "external")
    hostplane("subnet", "create", "public4", "--network", "public", "--cidr", "203.0.113.0/24")
    words = ("--external-network", "public", "--gateway-host", "hots1", "--wait", "--wait-timeout", "0.1")
    assert "host hots1: no agent of that name" in hostplane("router", "create", "edge", *words, status=4)


def test_a_router_is_shown_with_what_its_hosts_say(hostplane: Hostplane, store: StoreServer) -> None:
    hostplane("apply", "-f", EXAMPLE)
    with Writer.connect([store.address]) as writer:
        router = writer.get_router("edge").id

        def report(session) -> None:
            for host, active, reason in (("host2", False, "host1 comes before it"), ("host1", True, "")):
                columns = {"router": router, "host": host, "active": active, "ready": True, "reason": reason}
                session.insert("Router_Status", None, **columns, since=1_700_000_000_000)

        writer.write(report)
    status = made(hostplane, "router", "show", "edge")["status"]
    assert [(s["host"], s["active"], s["reason"]) for s in status] == [
        ("host1", True, ""),
        ("host2", False, "host1 comes before it"),
    ]
    assert "host1 comes before it" in hostplane("router", "show", "edge")
