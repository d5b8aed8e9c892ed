# SPDX-License-Identifier: Apache-2.0
"""The view of the local switch, and its watch, on a real Open vSwitch."""

import os
import statistics
import threading
import time
from collections.abc import Mapping

import pytest

from agent.core.errors import Actor
from agent.core.model import PluggedInterface, PortId
from agent.drivers.switch import LocalSwitch
from agent.drivers.switch_watch import SwitchWatch
from tests.fakes.openvswitch import OpenVSwitch, accepts, wait_until


class Watched:
    """A real switch, its view and its watch, and what they reported."""

    def __init__(self, folder):
        self.ovs = OpenVSwitch(folder)
        self.ovs.start()
        self.ovs.vsctl("add-br", "br-int", "--", "set", "Bridge", "br-int", "fail_mode=secure")
        self.views = threading.Semaphore(0)
        self.events: list[tuple[str, Mapping[str, int]]] = []
        self.local = LocalSwitch(self.ovs.database, self.views.release)
        self.watch = SwitchWatch(folder / "br-int.mgmt", self._back, lambda: self.events.append(("lost", {})))

    def _back(self, ofports):
        self.local.overlay_ofports(ofports)
        self.events.append(("back", ofports))

    def plug(self, *names):
        """Plug interfaces for the ports p-<name>; wait until the switch has numbered them."""
        words = []
        for name in names:
            words += ["--", "add-port", "br-int", name, "--", "set", "Interface", name, "type=dummy"]
            words += [f"external_ids:iface-id=p-{name}"]
        self.ovs.vsctl(*words[1:])

    def number(self, name):
        plugged = self.local.view().interfaces.get(PortId(f"p-{name}"))
        return plugged.ofport if plugged is not None else None

    def numbers_of_the_switch(self):
        lines = self.ovs.ofctl("dump-ports-desc", "MGMT").splitlines()
        pairs = [line.strip().split(":")[0].rstrip(")").split("(") for line in lines if "(" in line and "addr" in line]
        return {name: int(number) for number, name in pairs if number.isdigit()}

    def stop(self):
        self.watch.stop()
        self.local.stop()
        self.ovs.stop()


@pytest.fixture
def host(tmp_path):
    watched = Watched(tmp_path)
    watched.local.start()
    wait_until(lambda: watched.local.view().connected)
    yield watched
    watched.stop()


def test_plugged_interfaces_and_other_ports_of_the_integration_bridge_are_told_apart(host):
    host.plug("tap1", "tap2")
    host.ovs.vsctl(
        "add-port", "br-int", "hp-vxlan", "--", "set", "Interface", "hp-vxlan", "type=vxlan", "options:remote_ip=flow"
    )
    host.ovs.vsctl(
        "add-br",
        "br-phy1",
        "--",
        "add-port",
        "br-phy1",
        "eth9",
        "--",
        "set",
        "Interface",
        "eth9",
        "type=dummy",
        "external_ids:iface-id=p-eth9",
    )
    wait_until(lambda: "br-phy1" in host.local.view().bridges and "hp-vxlan" in host.local.view().ofports)

    view = host.local.view()
    real = host.numbers_of_the_switch()
    assert view.interfaces == {
        f"p-{name}": PluggedInterface(name, PortId(f"p-{name}"), real[name]) for name in ("tap1", "tap2")
    }
    assert view.ofports == {"hp-vxlan": real["hp-vxlan"]}
    assert view.bridges == {"br-int", "br-phy1"}
    assert view.problems == ()


def test_an_interface_that_open_vswitch_cannot_open_says_why(host):
    host.ovs.vsctl(
        "--no-wait",
        "add-port",
        "br-int",
        "tapx",
        "--",
        "set",
        "Interface",
        "tapx",
        "type=patch",
        "external_ids:iface-id=p-tapx",
    )
    wait_until(lambda: getattr(host.local.view().interfaces.get("p-tapx"), "error", None))

    plugged = host.local.view().interfaces["p-tapx"]
    assert plugged.ofport is None
    assert "peer" in plugged.error


def test_two_interfaces_for_one_port_one_is_used_and_the_operator_is_told(host):
    host.plug("tap1")
    wait_until(lambda: host.number("tap1"))
    host.ovs.vsctl(
        "add-port", "br-int", "tap2", "--", "set", "Interface", "tap2", "type=dummy", "external_ids:iface-id=p-tap1"
    )
    wait_until(lambda: host.local.view().interfaces["p-tap1"].name == "tap2")  # plugged last, once it has a number

    view = host.local.view()
    assert [(p.object_id, p.field, p.actor) for p in view.problems] == [
        ("port:p-tap1", "external_ids:iface-id", Actor.OPERATOR)
    ]
    assert "tap1" in view.problems[0].text

    host.ovs.vsctl("del-port", "tap2")
    wait_until(lambda: not host.local.view().problems)
    assert host.local.view().interfaces["p-tap1"].name == "tap1"


def test_unchanged_interfaces_stay_the_same_objects_and_an_unchanged_view_too(host):
    host.plug("tap1")
    wait_until(lambda: host.number("tap1"))
    before = host.local.view()
    host.plug("tap2")
    wait_until(lambda: host.number("tap2"))
    after = host.local.view()
    assert after.interfaces["p-tap1"] is before.interfaces["p-tap1"]

    host.ovs.vsctl("set", "Interface", "tap1", "external_ids:something=else")
    host.ovs.vsctl("set", "Bridge", "br-int", "external_ids:last=1")
    wait_until(lambda: "last" in host.local.rows().bridge("br-int")[1].external_ids)
    assert host.local.view() is after


def test_an_unplugged_interface_and_a_deleted_bridge_disappear(host):
    host.plug("tap1", "tap2")
    wait_until(lambda: host.number("tap2"))
    host.ovs.vsctl("remove", "Interface", "tap1", "external_ids", "iface-id")
    wait_until(lambda: set(host.local.view().interfaces) == {"p-tap2"})
    assert set(host.local.view().ofports) == {"tap1"}

    host.ovs.vsctl("del-br", "br-int")
    wait_until(lambda: not host.local.view().bridges)
    assert host.local.view().interfaces == {}


def test_the_view_survives_a_restart_of_the_database_with_another_content(host):
    host.plug("tap1", "tap2")
    wait_until(lambda: host.number("tap2"))
    kept = host.local.view().interfaces["p-tap2"]
    host.ovs.stop_server()
    wait_until(lambda: not host.local.is_connected())
    assert host.local.view().interfaces["p-tap2"] is kept

    host.ovs.start_server()
    host.ovs.vsctl("del-port", "tap1")
    wait_until(lambda: set(host.local.view().interfaces) == {"p-tap2"})
    assert {row.name for row in host.local.rows().interfaces.values()} == {"br-int", "tap2"}


def test_four_hundred_interfaces_and_one_more(host):
    host.plug(*(f"tap{n}" for n in range(400)))
    wait_until(lambda: len(host.local.view().interfaces) == 400 and all(host.number(f"tap{n}") for n in range(400)))
    before = host.local.view()
    started = time.thread_time()
    for _ in range(20):
        host.local._rebuild()
    assert (time.thread_time() - started) / 20 < 0.01

    host.plug("one-more")
    wait_until(lambda: host.number("one-more"))
    after = host.local.view()
    assert all(after.interfaces[port] is plugged for port, plugged in before.interfaces.items())


@pytest.mark.alone
def test_a_restart_of_the_switch_is_noticed_at_once_and_its_numbers_are_right(host):
    host.plug("tap1", "tap2")
    host.watch.start()
    wait_until(host.watch.is_connected)
    assert host.events == []  # there from the start: nothing was lost

    host.ovs.stop_vswitchd(kill=True)
    killed = time.monotonic()
    wait_until(lambda: host.events == [("lost", {})])
    assert time.monotonic() - killed < 0.2

    # Somebody changes the ports while the switch is away, so that the database is wrong about numbers.
    host.ovs.vsctl("--no-wait", "set", "Interface", "tap1", "ofport_request=77")
    host.ovs.start_vswitchd()
    wait_until(lambda: len(host.events) == 2)
    assert host.events[1] == ("back", {"tap1": 77, "tap2": 2})
    assert (host.number("tap1"), host.number("tap2")) == (77, 2)
    assert host.numbers_of_the_switch() == {"tap1": 77, "tap2": 2}


def test_numbers_told_by_the_switch_count_until_the_database_has_changed_or_time_is_over(tmp_path):
    clock = [0.0]
    ovs = OpenVSwitch(tmp_path)
    ovs.start_server_alone()
    ovs.vsctl("--no-wait", "add-br", "br-int")
    for name, number in (("tap1", 1), ("tap2", 2), ("tap3", 3)):
        ovs.vsctl(
            "--no-wait",
            "add-port",
            "br-int",
            name,
            "--",
            "set",
            "Interface",
            name,
            f"ofport={number}",
            f"external_ids:iface-id=p-{name}",
        )
    local = LocalSwitch(ovs.database, lambda: None, lambda: clock[0])
    local.start()

    def numbers():
        return [local.view().interfaces[PortId(f"p-tap{n}")].ofport for n in (1, 2, 3)]

    try:
        wait_until(lambda: len(local.view().interfaces) == 3)
        local.overlay_ofports({"tap1": 1, "tap2": 12})
        assert numbers() == [1, 12, None]
        ovs.vsctl("--no-wait", "set", "Interface", "tap2", "ofport=22")
        wait_until(lambda: numbers() == [1, 22, None])
        clock[0] = 11.0
        assert numbers() == [1, 22, 3]
    finally:
        local.stop()
        ovs.stop()


def test_the_bridge_being_made_later_and_made_anew_counts_as_coming_back(tmp_path):
    ovs = OpenVSwitch(tmp_path / ("long" * 30))
    ovs.folder.mkdir()
    ovs.start()
    events: list[Mapping[str, int] | None] = []
    watch = SwitchWatch(ovs.folder / "br-int.mgmt", events.append, lambda: events.append(None))
    watch.start()
    try:
        ovs.vsctl("add-br", "br-int")
        wait_until(lambda: events == [{}])
        ovs.vsctl("del-br", "br-int")
        wait_until(lambda: events == [{}, None])
        ovs.vsctl("add-br", "br-int", "--", "add-port", "br-int", "p1", "--", "set", "Interface", "p1", "type=dummy")
        wait_until(lambda: len(events) == 3)
    finally:
        watch.stop()
        ovs.stop()
    assert events[2] == {"p1": 1}


@pytest.mark.alone
def test_a_watched_switch_costs_next_to_nothing(host):
    host.watch.start()
    wait_until(host.watch.is_connected)
    before = os.times()
    host.ovs.ofctl("show", "MGMT")
    done = threading.Event()
    done.wait(0.5)
    after = os.times()

    assert after.user + after.system - before.user - before.system < 0.2


@pytest.mark.alone
def test_flows_can_be_back_soon_after_the_switch_with_four_hundred_ports(host):
    """The view is right, and flows can be written, well within the second that forwarding may take."""
    host.plug(*(f"tap{n}" for n in range(400)))
    wait_until(lambda: len(host.local.view().interfaces) == 400)
    host.watch.start()
    wait_until(host.watch.is_connected)
    delays = []
    for _ in range(3):
        host.events.clear()
        host.ovs.stop_vswitchd(kill=True)
        wait_until(lambda: host.events)
        host.ovs.start_vswitchd()
        wait_until(lambda: accepts(host.ovs.folder / "br-int.mgmt"))
        accepted = time.monotonic()
        wait_until(lambda: len(host.events) == 2)
        delays.append(time.monotonic() - accepted)
        assert len(host.events[1][1]) == 400

    print(f"numbers known {statistics.median(delays) * 1000:.0f} ms after the socket accepts")
    assert max(delays) < 0.5
