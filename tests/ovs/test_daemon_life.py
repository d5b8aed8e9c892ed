# SPDX-License-Identifier: Apache-2.0
"""The real daemon on a real store and switch, through everything that happens to a daemon."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.naming import COOKIE_OWNER
from agent.store.document import PortFields
from agent.store.writer import Writer
from tests.fakes.openvswitch import accepts, wait_until
from tests.ovs.daemon_host import DaemonHost, make_ports


@pytest.fixture
def host(tmp_path) -> Iterator[DaemonHost]:
    with DaemonHost(tmp_path) as running:
        yield running
        assert "Traceback" not in running.log, running.log


@pytest.fixture
def writer(host: DaemonHost) -> Iterator[Writer]:
    with Writer.connect([host.store.address]) as connected:
        yield connected


def wired(host: DaemonHost, writer: Writer, count: int) -> tuple[list[str], int]:
    """A host with *count* ports up."""
    ids, revision = make_ports(writer, count)
    host.start()
    host.wait_converged(revision)
    host.plug(*ids)
    host.wait_ports(count)
    return ids, revision


def test_a_port_is_up_in_the_store_when_its_interface_appears(host, writer):
    ids, revision = make_ports(writer, 2)
    host.start()
    host.wait_converged(revision)
    wait_until(lambda: "not plugged in" in (writer.get_port("vm0").reason or ""))
    host.plug(ids[0])
    wait_until(lambda: writer.get_port("vm0").up)
    assert not writer.get_port("vm1").up
    assert writer.get_host("host1").tunnel_address == "198.18.0.1"
    assert host.process is not None
    assert "greenlet" not in Path(f"/proc/{host.process.pid}/maps").read_text()
    assert any(key.startswith("table=60") and "reg1" in actions for key, actions in host.flows().items())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_changes_no_flow(host, writer, how):
    wired(host, writer, 3)
    before = host.ovs.ofctl("--no-stats", "dump-flows", "MGMT")
    assert host.stop(how) == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    assert host.ovs.ofctl("--no-stats", "dump-flows", "MGMT") == before, "a stop leaves the dataplane as it is"
    since = {port.name: port.since for port in writer.list_ports()}
    host.start()
    host.wait_ports(3)
    operations = host.status()["last_pass"]["operations"]
    assert operations["flows"]["created"] + operations["flows"]["updated"] + operations["flows"]["deleted"] == 0
    assert host.ovs.ofctl("--no-stats", "dump-flows", "MGMT") == before
    assert {port.name: port.since for port in writer.list_ports()} == since, "the ports have been up all the time"


def test_without_a_store_it_starts_from_what_it_saved_and_deletes_nothing(host, writer):
    wired(host, writer, 2)
    before = host.flows()
    host.stop()
    writer.close()
    host.store.stop()
    key = "table=60,priority=9,in_port=98"
    host.ovs.ofctl("add-flow", "MGMT", f"cookie={COOKIE_OWNER << 48:#x},{key},actions=drop")
    host.ovs.ofctl("--strict", "del-flows", "MGMT", "table=90,priority=0")
    host.start()
    wait_until(lambda: host.status().get("store", {}).get("stale"))
    wait_until(lambda: host.flows() == {**before, key: "drop"})
    assert host.status()["ports"]["up"] == 2
    assert host.status("/ready")["ready"] is True
    host.store.start()
    wait_until(lambda: host.flows() == before)
    wait_until(lambda: not host.status()["store"]["stale"])


def test_what_happens_while_the_store_is_away_is_done_when_it_is_back(host, writer):
    wired(host, writer, 2)
    before = host.flows()
    writer.close()
    host.store.stop()
    wait_until(lambda: host.status()["store"]["connected"] is False)
    assert host.flows() == before
    assert host.status()["live"]["ok"]
    host.store.start()
    with Writer.connect([host.store.address]) as again:
        revision = again.set_port("vm1", PortFields(admin_state_up=False)).revision
        host.wait_converged(revision)
        host.wait_ports(1)


def test_a_mass_deletion_is_held_until_the_operator_lets_it_through(host, writer):
    host.configure(hold_minimum="3", hold_share="0.5")
    wired(host, writer, 4)
    before = host.flows()
    host.stop()
    for number in range(4):
        revision = writer.delete_port(f"vm{number}").revision
    host.start()
    wait_until(lambda: host.status().get("hold"))
    assert host.flows() == before
    host.post("/hold/release")
    host.wait_converged(revision)
    wait_until(lambda: not any(key.startswith("table=90,priority=100") for key in host.flows()))
    assert not host.status()["hold"]


def test_fragments_are_looked_into_after_a_restart_of_the_switch_too(host, writer):
    def mode() -> str:
        return host.ovs.ofctl("get-frags", "MGMT").strip()

    wired(host, writer, 1)
    wait_until(lambda: mode() == "nx-match")
    host.ovs.stop_vswitchd(kill=True)
    host.ovs.start_vswitchd()
    wait_until(lambda: accepts(host.ovs.folder / "br-int.mgmt"))
    wait_until(lambda: mode() == "nx-match")


def test_an_empty_database_in_the_store_s_place_is_not_believed(host, writer):
    wired(host, writer, 2)
    before = host.flows()
    writer.close()
    host.store.stop()
    (host.store.folder / "store.db").unlink()
    host.store.start()
    wait_until(lambda: host.status().get("hold"))
    assert host.flows() == before


def test_a_bridge_that_was_told_not_to_speak_to_us_is_told_otherwise(host, writer):
    wired(host, writer, 1)
    host.ovs.vsctl("set", "Bridge", "br-int", "protocols=OpenFlow10,OpenFlow13")
    wait_until(lambda: "OpenFlow14" in host.ovs.vsctl("get", "Bridge", "br-int", "protocols"))
    host.ovs.ofctl("--strict", "del-flows", "MGMT", "table=60,priority=0")
    host.post("/resync")
    wait_until(lambda: "table=60,priority=0" in host.flows())
    host.wait_ports(1)


def test_a_switch_that_is_restarted_gets_all_flows_again(host, writer):
    wired(host, writer, 3)
    before = host.flows()
    host.ovs.stop_vswitchd(kill=True)
    host.ovs.start_vswitchd()
    wait_until(lambda: accepts(host.ovs.folder / "br-int.mgmt"))
    wait_until(lambda: sorted(host.flows().items()) == sorted(before.items()))
    host.wait_ports(3)
    assert host.status()["problems"] == 0


def test_a_bad_port_is_named_and_the_others_do_not_notice(host, writer):
    ids, _ = wired(host, writer, 2)
    before = host.flows()
    request = (
        f'["Hostplane",{{"op":"update","table":"Port","where":[["_uuid","==",["uuid","{ids[0]}"]]],'
        '"row":{"mac_address":"01:00:5e:00:00:01"}}]'
    )
    subprocess.run(["ovsdb-client", "transact", host.store.address, request], check=True, capture_output=True)
    host.wait_ports(1)
    (problem,) = host.status("/problems")["problems"]
    assert problem["object_id"] == f"port:{ids[0]}"
    assert "multicast" in problem["text"]
    assert problem["actor"] == "cloud"
    wait_until(lambda: "multicast" in writer.get_port("vm0").reason)
    assert set(host.flows()) < set(before)


def test_the_plan_shows_what_is_wrong_and_a_resync_repairs_it(host, writer):
    wired(host, writer, 1)
    assert host.status("/plan")["changes"] == {}
    host.ovs.ofctl("--strict", "del-flows", "MGMT", "table=60,priority=0")
    changes = host.status("/plan")["changes"]
    assert list(changes["flows"]["create"]) == ["table=60,priority=0"]
    host.post("/resync")
    wait_until(lambda: "table=60,priority=0" in host.flows())
    wait_until(lambda: host.status("/plan")["changes"] == {})


def test_sighup_takes_over_what_can_be_changed_and_names_the_rest(host, writer):
    wired(host, writer, 1)
    host.configure(resync_interval="5")
    assert host.process is not None
    host.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "changed: [pass] resync_interval" in host.log)
    host.config.write_text(host.config.read_text().replace("198.18.0.1", "198.18.0.2"))
    host.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "after a restart only: [l2] tunnel_address" in host.log)
    host.config.write_text("[nonsense]\n")
    host.process.send_signal(signal.SIGHUP)
    wait_until(lambda: host.log.count("configuration not reloaded") == 1)
    host.config.write_bytes(b"# caf\xe9\n")
    host.process.send_signal(signal.SIGHUP)
    wait_until(lambda: host.log.count("configuration not reloaded") == 2)
    host.wait_ports(1)
    assert host.stop() == 0


def test_a_wrong_configuration_ends_it_before_it_touches_anything(host):
    host.config.write_text("[pass]\nhold_share = 7\n")
    done = subprocess.run(
        [sys.executable, "-m", "agent", "--config-file", str(host.config)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "[pass] hold_share" in done.stderr
    assert "Traceback" not in done.stderr
    assert "br-int" not in host.ovs.vsctl("list-br")


def test_a_second_daemon_on_the_same_host_is_refused(host, writer):
    wired(host, writer, 1)
    done = subprocess.run(
        [sys.executable, "-m", "agent", "--config-file", str(host.config)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "agent.sock" in done.stderr
    host.wait_ports(1)
