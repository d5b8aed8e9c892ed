# SPDX-License-Identifier: Apache-2.0
"""A saved snapshot, planned on another machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from agent.cli.main import main
from agent.core import naming
from agent.core.model import (
    Endpoint,
    EndpointId,
    FixedIp,
    Host,
    HostName,
    HostSnapshot,
    Network,
    NetworkId,
    NetworkType,
    Port,
    PortId,
    Router,
    RouterId,
    RouterInterface,
    Subnet,
    SubnetId,
)
from agent.core.snapshot_file import SnapshotFile

HERE, THERE = HostName("host1"), HostName("host2")
BLUE = NetworkId("11111111-0000-0000-0000-000000000001")
SUBNET = SubnetId("22222222-0000-0000-0000-000000000001")
VM1 = PortId("33333333-0000-0000-0000-000000000001")
VM2 = PortId("33333333-0000-0000-0000-000000000002")
MAC1, MAC2, ROUTER_MAC = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02", "fa:16:3e:00:00:03"


def snapshot() -> HostSnapshot:
    vxlan = frozenset({NetworkType.VXLAN})
    hosts = {name: Host(name, address, vxlan) for name, address in ((HERE, "192.0.2.1"), (THERE, "192.0.2.2"))}
    endpoints = {
        EndpointId(VM1): Endpoint(EndpointId(VM1), BLUE, MAC1, ("10.0.0.11",), HERE),
        EndpointId(VM2): Endpoint(EndpointId(VM2), BLUE, MAC2, ("10.0.0.12",), THERE),
    }
    return HostSnapshot(
        host=HERE,
        generation="g",
        revision=7,
        in_sync=True,
        networks={BLUE: Network(BLUE, "blue", NetworkType.VXLAN, 77, None, 1450)},
        subnets={BLUE: (Subnet(SUBNET, "blue4", BLUE, "10.0.0.0/24", None),)},
        ports={VM1: Port(VM1, "vm1", BLUE, MAC1, (FixedIp("10.0.0.11", SUBNET),))},
        endpoints={BLUE: MappingProxyType(endpoints)},
        hosts=hosts,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "snapshot"
    SnapshotFile(path, HERE).save(snapshot())
    return path


def test_its_plan_holds_what_the_host_would_get(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--snapshot", str(file), "-o", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["revision"] == 7
    assert "port/hp-vxlan" in plan["changes"]["ovs"]["create"]
    flows = plan["changes"]["flows"]["create"]
    to_tunnel = [key for key, actions in flows.items() if MAC2 in key and "192.0.2.2" in actions]
    assert to_tunnel, "a frame to the other host's port goes through the tunnel"
    assert plan["changes"]["flows"]["owners"][to_tunnel[0]]


def test_it_reads_as_text_too_and_can_be_cut_down_to_one_object(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--snapshot", str(file)]) == 0
    everything = capsys.readouterr().out
    assert everything.startswith("revision 7 (from a snapshot saved on disk): ")
    assert main(["plan", "--snapshot", str(file), "--owner", f"port:{VM1}"]) == 0
    assert 0 < capsys.readouterr().out.count("\n") < everything.count("\n")


def test_a_filtered_port_is_planned_with_its_bridge_and_each_rule_of_a_chain_on_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, path = snapshot(), tmp_path / "snapshot"
    SnapshotFile(path, HERE).save(replace(base, ports={VM1: replace(base.ports[VM1], filtered=True)}))
    assert main(["plan", "--snapshot", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"  + {naming.hybrid_bridge_name(VM1)}  name=") for line in lines)
    chain = lines.index(f"  + 4 filter {naming.FORWARD_CHAIN}")
    assert lines[chain + 2] == f"        -i qbr+ -j {naming.TREE_CHAIN}"
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize("order", [(HERE, THERE), (THERE, HERE)])
def test_a_router_is_planned_as_if_its_first_gateway_were_in_use(
    order: tuple[HostName, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, path = snapshot(), tmp_path / "snapshot"
    addresses = (FixedIp("10.0.0.1", SUBNET),)
    leg = RouterInterface(PortId("44444444-0000-0000-0000-000000000001"), BLUE, ROUTER_MAC, addresses)
    router = Router(RouterId("55555555-0000-0000-0000-000000000001"), "edge", gateway_hosts=order, interfaces=(leg,))
    SnapshotFile(path, HERE).save(replace(base, routers={router.id: router}))
    assert main(["plan", "--snapshot", str(path), "-o", "json"]) == 0
    created = {driver: change["create"] for driver, change in json.loads(capsys.readouterr().out)["changes"].items()}
    assert naming.router_namespace(router.id) in created["netns"]
    here = order[0] == HERE
    elsewhere = [key for key, value in created["flows"].items() if ROUTER_MAC in key and "192.0.2.2" in value]
    assert bool(elsewhere) is not here, "frames to the router go where its gateway is"


def test_a_file_that_is_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.write_text("hello\n")
    for path, message in ((other, "is not a snapshot that an agent has saved"), (tmp_path / "no", "No such file")):
        assert main(["plan", "--snapshot", str(path)]) == 1
        assert f"hostplane: {path}: {message}" in capsys.readouterr().err
