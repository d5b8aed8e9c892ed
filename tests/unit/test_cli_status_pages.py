# SPDX-License-Identifier: Apache-2.0
"""status, plan, hold and log-level against a served status socket."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.config import StatusConfig
from agent.core.errors import Actor, ApplyError, Problem
from agent.core.model import NetworkId, PortId
from agent.core.plan import ItemRef
from agent.core.report import HoldState, ItemState, ObjectStatus, Operations, PassReport, PortState
from agent.l2.pipeline import Table
from agent.status.server import StatusServer
from tests.fakes.status_source import FakeSource

BLUE = NetworkId("11111111-0000-0000-0000-000000000001")
VM1 = PortState(PortId("p1"), "vm1", BLUE, up=True, reason="", since=900.0, interface="tap1", ofport=5)
VM2 = PortState(PortId("p2"), "vm2", BLUE, up=False, reason="no interface", since=950.0)

Hostplane = Callable[..., list[str]]


@pytest.fixture
def source() -> FakeSource:
    source = FakeSource()
    source.current = replace(
        source.current,
        store_address="unix:/store.sock",
        store_connected=True,
        store_in_sync=True,
        switch_connected=True,
        desired_revision=7,
        applied_revision=7,
        applied_at=1990.0,
        ports={VM1.id: VM1, VM2.id: VM2},
        network_names={BLUE: "blue"},
        objects={"networks": 1, "hosts": 2},
        items={"ovs": 3, "flows": 40},
        last_pass=PassReport(
            7,
            1990.0,
            0.012,
            reasons=("store",),
            groups=10,
            groups_changed=1,
            operations={"flows": Operations(created=4, seconds=0.003)},
        ),
    )
    return source


@pytest.fixture
def hostplane(
    source: FakeSource, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hostplane]:
    level = logging.getLogger().level
    config = StatusConfig(socket=tmp_path / "agent.sock", socket_group="hpcl-no-such-group", metrics_port=0)
    served = StatusServer(config, source, scrape=lambda _: ("text/plain", b""), now=lambda: 2000.0)
    served.start()
    monkeypatch.setenv("HOSTPLANE_SOCKET", str(config.socket))
    monkeypatch.setattr("time.time", lambda: 2000.0)

    def run(*words: str, status: int = 0) -> list[str]:
        capsys.readouterr()
        assert main(list(words)) == status
        captured = capsys.readouterr()
        return (captured.out if status == 0 else captured.err).splitlines()

    yield run
    served.stop()
    logging.getLogger().setLevel(level)


def test_the_summary_comes_first(hostplane: Hostplane) -> None:
    lines = hostplane("status")
    assert lines[0] == "host1: hostplane 1.2.3, running for 16 min 40 s"
    assert lines[1] == "converged: revision 7 is in place since 10.0 s"
    assert "store     unix:/store.sock connected, in sync" in lines
    assert "ports     2: 1 up, 1 down" in lines
    assert "objects   1 networks, 2 hosts" in lines
    flows = next(line for line in lines if line.startswith("flows"))
    assert flows.split() == ["flows", "40", "40", "0", "0", "0", "4", "0", "0", "0", "0", "3", "ms"]
    assert lines[-1] == "last pass 10.0 s ago, revision 7, 12 ms, 1 of 10 groups planned anew, because of store"


def test_what_is_wrong_stands_out(hostplane: Hostplane, source: FakeSource) -> None:
    source.current = replace(
        source.current, store_connected=False, store_in_sync=False, stale=True, store_last_sync_at=1700.0
    )
    lines = hostplane("status")
    assert lines[1].startswith("NOT CONVERGED: revision 7 of 7 is in place; ")
    store = "store     unix:/store.sock NOT CONNECTED, last in sync 5 min ago, working from the last snapshot on disk"
    assert store in lines


def test_json_is_what_the_socket_says(hostplane: Hostplane) -> None:
    answer = json.loads("\n".join(hostplane("status", "-o", "json")))
    assert answer["host"] == "host1"
    assert answer["ports"] == {"total": 2, "up": 1, "down": 1}


def test_ports_and_networks(hostplane: Hostplane) -> None:
    lines = hostplane("status", "ports")
    assert lines[0] == "2 ports, 1 up"
    assert lines[2].split() == ["vm1", "blue", "up", "18", "min", "20", "s", "tap1", "-"]
    assert lines[3].endswith("no interface")
    assert len(hostplane("status", "ports", "vm2")) == 3
    assert hostplane("status", "ports", "vm3", status=1)[0].startswith("hostplane: there is no port vm3 on this host")
    assert hostplane("status", "networks")[2].split() == ["blue", BLUE, "2", "1"]


def test_flows_are_counted_and_on_demand_listed(hostplane: Hostplane, source: FakeSource) -> None:
    first, second = list(Table)[:2]
    source.known_flows = {f"table={first},priority=1,ip": "drop", f"table={second},priority=0": "resubmit(,6)"}
    counted = hostplane("status", "flows")
    assert counted[0] == "2 flows"
    assert counted[2].split() == [first.name.lower(), "1"]
    only = [f"table={second},priority=0 actions=resubmit(,6)"]
    assert hostplane("status", "flows", second.name.lower())[1:] == only
    assert len(hostplane("status", "flows", "all")) == 3
    assert hostplane("status", "flows", "all", "--limit", "1")[-1] == "... and more (--limit)"


def test_problems_say_who_must_act(hostplane: Hostplane, source: FakeSource) -> None:
    assert source.current.last_pass is not None
    status = ObjectStatus(ItemState.ERROR, "device busy", since=1940.0, attempts=3, next_try_at=2004.0)
    last = replace(source.current.last_pass, unfinished={ItemRef("ovs", "port/hp-vxlan"): status})
    problem = Problem("network:n1", "physnet", "it is mapped to no bridge", Actor.OPERATOR)
    source.current = replace(source.current, problems=(problem,), last_pass=last)
    lines = hostplane("status", "problems")
    assert lines[0] == "1 objects cannot be served as the store wants, 1 items are not done"
    assert lines[2].split() == ["network:n1", "physnet", "operator", "it", "is", "mapped", "to", "no", "bridge"]
    assert lines[4].split() == ["ovs", "port/hp-vxlan", "error", "1", "min", "3", "4.0", "s", "-", "device", "busy"]


def test_what_waits_for_one_failure_is_counted_and_not_listed(hostplane: Hostplane, source: FakeSource) -> None:
    assert source.current.last_pass is not None
    failed, device, flow = ItemRef("netns", "qrouter-r"), ItemRef("links", "qg-1"), ItemRef("flows", "table=0")
    error = ObjectStatus(ItemState.ERROR, "it is somebody else's", since=1940.0, attempts=3)
    unfinished = {
        failed: error,
        device: ObjectStatus(ItemState.BLOCKED, "waits for netns", since=1940.0, waits_for=failed),
        flow: ObjectStatus(ItemState.BLOCKED, "waits for links", since=1940.0, waits_for=device),
        ItemRef("flows", "table=1"): ObjectStatus(ItemState.BLOCKED, "waits for what goes first", since=1940.0),
    }
    source.current = replace(source.current, last_pass=replace(source.current.last_pass, unfinished=unfinished))
    lines = hostplane("status", "problems")
    assert lines[0].endswith(" 4 items are not done")
    assert sorted(line.split()[0] for line in lines[-2:]) == ["flows", "netns"]
    row = next(line for line in lines if line.startswith("netns"))
    assert row.endswith("2        it is somebody else's")
    assert not any(line.startswith("links") for line in lines)


def test_a_plan_shows_what_would_change(hostplane: Hostplane, source: FakeSource) -> None:
    source.answer_plan = {
        "revision": 9,
        "stale": False,
        "hold": None,
        "changes": {
            "ovs": {
                "create": {"port/hp-vxlan": {"name": "hp-vxlan", "type": "vxlan", "options": [["key", "flow"]]}},
                "update": {},
                "delete": {},
                "owners": {"port/hp-vxlan": "host:"},
            },
            "flows": {
                "create": {},
                "update": {"table=0,priority=1": {"from": "drop", "to": "output:1"}},
                "delete": {"table=0,priority=2": "drop"},
                "owners": {"table=0,priority=1": "port:p1"},
            },
        },
        "problems": [],
    }
    assert hostplane("plan") == [
        "revision 9: 1 items to create, 1 to change, 1 to delete",
        "",
        "ovs:",
        "  + port/hp-vxlan  name=hp-vxlan, type=vxlan, options={key=flow}",
        "",
        "flows:",
        "  ~ table=0,priority=1",
        "      from drop",
        "      to   output:1",
        "  - table=0,priority=2 actions=drop",
    ]
    assert len(hostplane("plan", "--driver", "ovs")) == 4
    assert hostplane("plan", "--owner", "port:p1")[0] == "revision 9: 0 items to create, 1 to change, 0 to delete"
    chosen = json.loads("\n".join(hostplane("plan", "--driver", "flows", "-o", "json")))
    assert set(chosen["changes"]) == {"flows"}


def test_a_plan_that_cannot_be_made_says_why(hostplane: Hostplane, source: FakeSource) -> None:
    source.answer_plan = ApplyError("the switch does not answer")
    assert hostplane("plan", status=1) == ["hostplane: the switch does not answer"]


def test_a_hold_is_shown_and_released(hostplane: Hostplane, source: FakeSource) -> None:
    assert hostplane("hold") == ["nothing is held"]
    assert hostplane("hold", "release", status=1) == ["hostplane: nothing is held"]
    hold = HoldState(1940.0, 8, ports_before=12, ports_removed=11, text="11 of 12 ports would go")
    source.current = replace(source.current, hold=hold)
    assert hostplane("hold")[0] == "held for 1 min: revision 8 would remove 11 of 12 ports"
    assert hostplane("status")[2].startswith("HELD for 1 min: 11 of 12 ports would go")
    assert hostplane("hold", "release") == ["released: 11 of 12 ports would go"]
    assert source.asked == ["release"]


def test_the_log_level_can_be_changed(hostplane: Hostplane, source: FakeSource) -> None:
    assert hostplane("log-level", "debug") == ["log level debug, until the agent restarts or reloads"]
    assert source.level == "debug"
    assert "loud" in hostplane("log-level", "loud", status=1)[0]
