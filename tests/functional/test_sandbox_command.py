# SPDX-License-Identifier: Apache-2.0
"""``hostplane sandbox`` as somebody types it: up with a file, a look around, restarts, down; and the demo."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.sandbox.layout import ROOT
from agent.sandbox.sandbox import Sandbox
from tests.functional.lab import REPOSITORY, eventually, hostplane, unique_name
from tests.functional.test_sandbox_lifecycle import assert_nothing_left

FILE = """
networks:
  blue: {type: vxlan}
subnets:
  blue4: {network: blue, cidr: 10.0.0.0/24}
ports:
  vm1: {network: blue, host: host1, fixed_ips: [10.0.0.11]}
  vm2: {network: blue, host: host2, fixed_ips: [10.0.0.12]}
  web1: {network: blue, host: host1, fixed_ips: [10.0.0.14], security_groups: [web]}
  out: {network: blue, host: elsewhere, fixed_ips: [10.0.0.13]}
security_groups:
  web: [{direction: ingress, protocol: tcp, ports: 80}]
"""


class Shell:
    """Somebody at a terminal."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return hostplane("sandbox", "--name", self.name, *words, stdin=stdin)

    def pings(self, source: str, address: str) -> bool:
        """Tell whether one of two echo requests is answered."""
        sandbox = Sandbox.find(self.name)
        argv = sandbox.argv(sandbox.resolve(source), ["ping", "-q", "-c2", "-i0.2", "-W0.5", address])
        return subprocess.run(argv, stdout=subprocess.DEVNULL, check=False).returncode == 0

    def hostplane(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another command on the sandbox's store; in this process, as starting one costs a second."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["--store", Sandbox.find(self.name).paths.store_address, *words])
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    def plug(self, port: str) -> None:
        """Plug a port of host1 into the namespace that is called so."""
        program = ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", "agent.cli.main"]
        self.good("exec", "host1", "--", *program, "plug", port, "--netns", port)

    def good(self, *words: str, stdin: str = "") -> str:
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, list[dict[str, object]]]:
        answer: dict[str, list[dict[str, object]]] = json.loads(self.good("status", "-o", "json"))
        return answer


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    shell = Shell(unique_name())
    try:
        done = shell.run("up", "--hosts", "2", "-f", "-", stdin=FILE)
        assert done.returncode == 0, done.stderr
        assert "instance vm1 on host1: network blue, 10.0.0.11" in done.stdout
        assert "instance web1 on host1: network blue, 10.0.0.14, security groups: web" in done.stdout
        assert "port out: its host is not in this sandbox" in done.stderr
        yield shell
    finally:
        shell.good("down")
    assert_nothing_left(shell.name)


def test_instances_work_as_soon_as_up_has_returned(shell: Shell) -> None:
    assert "0% packet loss" in shell.good("exec", "vm1", "--", "ping", "-c", "2", "-i", "0.2", "10.0.0.12")
    addresses = shell.good("exec", "vm2", "--", "ip", "-brief", "-4", "addr", "show", "eth0")
    assert "10.0.0.12/24" in addresses
    assert "default via 10.0.0.1" in shell.good("exec", "vm2", "--", "ip", "route")


def test_status_is_for_people_and_for_programs(shell: Shell) -> None:
    report = shell.status()
    assert [(host["name"], host["address"]) for host in report["hosts"]] == [
        ("host1", "198.18.0.1"),
        ("host2", "198.18.0.2"),
    ]
    assert {(instance["name"], instance["host"]) for instance in report["instances"]} == {
        ("vm1", "host1"),
        ("vm2", "host2"),
        ("web1", "host1"),
    }
    shown = shell.good("status")
    assert "vm1" in shown
    assert "198.18.0.2" in shown


def test_env_points_the_other_commands_at_store_and_agent(shell: Shell) -> None:
    lines = shell.good("env", "host2").splitlines()
    variables = dict(line.removeprefix("export ").split("=", 1) for line in lines)
    assert set(variables) == {"HOSTPLANE_STORE", "HOSTPLANE_SOCKET", "OVS_RUNDIR", "OVS_DBDIR"}
    ports = hostplane("port", "list", "-o", "json", environment=variables)
    assert {port["name"] for port in json.loads(ports.stdout)} == {"vm1", "vm2", "web1", "out"}
    assert json.loads(hostplane("status", "-o", "json", environment=variables).stdout)["host"] == "host2"


def test_a_port_can_be_plugged_by_hand(shell: Shell) -> None:
    made = shell.hostplane("port", "create", "vm3", "--network", "blue", "--host", "host1")
    assert made.returncode == 0, made.stderr
    shell.good("exec", "host1", "--", "ip", "netns", "add", "vm3")
    shell.plug("vm3")
    eventually(lambda: shell.pings("vm3", "10.0.0.12"), "vm3 reaches vm2")


def test_a_filtered_port_takes_in_what_its_group_allows(shell: Shell) -> None:
    assert not shell.pings("vm2", "10.0.0.14")
    words = ("web", "--direction", "ingress", "--protocol", "icmp", "--wait")
    made = shell.hostplane("security-group-rule", "create", *words, "-o", "json")
    assert made.returncode == 0, made.stderr
    assert shell.pings("vm2", "10.0.0.14")
    gone = shell.hostplane("security-group-rule", "delete", json.loads(made.stdout)[0]["id"], "--wait")
    assert gone.returncode == 0, gone.stderr
    assert not shell.pings("vm2", "10.0.0.14")


def test_a_port_that_is_filtered_later_is_shut_until_it_is_plugged_again(shell: Shell) -> None:
    shell.hostplane("port", "create", "late", "--network", "blue", "--host", "host1", "--fixed-ip", "10.0.0.19")
    shell.hostplane("security-group", "create", "out")  # lets everything out
    shell.good("exec", "host1", "--", "ip", "netns", "add", "late")
    shell.plug("late")
    eventually(lambda: shell.pings("late", "10.0.0.12"), "late reaches vm2")
    index = shell.good("exec", "late", "--", "ip", "-o", "link", "show", "eth0").split(":")[0]

    filtered = shell.hostplane("port", "set", "late", "--security-group", "out", "--wait")
    assert filtered.returncode == 3
    assert "port late: not up on host1: " in filtered.stderr
    assert not shell.pings("late", "10.0.0.12")
    shell.plug("late")
    eventually(lambda: shell.pings("late", "10.0.0.12"), "late reaches vm2 through its filter")
    assert not shell.pings("vm2", "10.0.0.19")
    assert shell.good("exec", "late", "--", "ip", "-o", "link", "show", "eth0").split(":")[0] == index


@pytest.mark.parametrize("kill", [(), ("--kill",)], ids=["SIGTERM", "SIGKILL"])
def test_restart_gives_a_new_agent_that_is_ready(shell: Shell, kill: tuple[str, ...]) -> None:
    before = shell.status()["hosts"]
    shell.good("restart", "host1", *kill)
    after = shell.status()["hosts"]
    assert after[0]["pids"]["agent"] != before[0]["pids"]["agent"]  # type: ignore[index]
    assert after[1] == before[1]
    assert "0% packet loss" in shell.good("exec", "vm1", "--", "ping", "-c", "1", "-W2", "10.0.0.12")


def test_a_silent_agent_is_shown_as_unknown_and_up_is_refused_meanwhile(shell: Shell) -> None:
    agent = shell.status()["hosts"][0]["pids"]["agent"]  # type: ignore[index]
    subprocess.run(["kill", "-9", str(agent)], check=True)
    eventually(lambda: shell.status()["hosts"][0]["pids"]["agent"] is None, "the agent is gone")  # type: ignore[index]
    assert shell.status()["hosts"][0]["applied_revision"] is None
    assert {instance["name"] for instance in shell.status()["instances"]} >= {"vm1", "vm2"}
    refused = shell.run("up")
    assert refused.returncode == 1
    assert "exists already" in refused.stderr
    shell.good("restart", "host1")
    assert shell.status()["hosts"][0]["applied_revision"] is not None


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("ports: {host1: {network: blue, host: host1}}", "port host1: name: a host of the sandbox is called so"),
        ("ports: {a/b: {network: blue, host: host1}}", "port a/b: name"),
        ("portz: {}", "unknown section"),
        ("ports: {vm1: {network: nowhere, host: host1}}", "port vm1: there is no network nowhere"),
    ],
)
def test_a_file_that_cannot_be_is_refused_and_nothing_stays(file: str, complaint: str) -> None:
    other = Shell(unique_name())
    done = other.run("up", "-f", "-", stdin=file)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert not (ROOT / other.name).exists()


ASKING = """
networks:
  blue: {type: vxlan, mtu: 1400}
subnets:
  blue4: {network: blue, cidr: 10.0.0.0/24}
  blue6: {network: blue, cidr: "2001:db8::/64", ipv6_mode: slaac}
ports:
  vm1: {network: blue, host: host1, mac_address: "fa:16:3e:00:00:01", fixed_ips: [10.0.0.11]}
  web1: {network: blue, host: host1, fixed_ips: [10.0.0.14], security_groups: [web]}
security_groups:
  web: [{direction: egress}]
"""


def test_with_dhcp_instances_ask_for_their_addresses_and_a_restarted_responder_answers() -> None:
    shell = Shell(unique_name())
    try:
        done = shell.run("up", "--hosts", "1", "--dhcp", "-f", "-", stdin=ASKING)
        assert done.returncode == 0, done.stderr
        for instance, address in (("vm1", "10.0.0.11/24"), ("web1", "10.0.0.14/24")):
            assert address in shell.good("exec", instance, "--", "ip", "-o", "-4", "address", "show", "dev", "eth0")
        before = shell.status()["hosts"][0]["pids"]["responder"]  # type: ignore[index]
        shell.good("restart", "host1", "--what", "responder")
        assert shell.status()["hosts"][0]["pids"]["responder"] not in (None, before)  # type: ignore[index]
        metadata = shell.good("exec", "web1", "--", "curl", "-sS", "http://169.254.169.254/latest/meta-data/local-ipv4")
        assert metadata == "10.0.0.14"
        # A kernel asks for routers up to 4 s after its device is up, and again every 4 s (RFC 4861, 10).
        words = ("exec", "vm1", "--", "ip", "-o", "-6", "address", "show", "dev", "eth0")
        eventually(lambda: "2001:db8::f816:3eff:fe00:1/64" in shell.good(*words), "vm1 has its IPv6 address")
    finally:
        shell.good("down")
    assert_nothing_left(shell.name)


def test_dhcp_is_about_the_instances_of_a_file() -> None:
    done = Shell(unique_name()).run("up", "--dhcp")
    assert done.returncode == 1
    assert "name one with -f" in done.stderr


DEMO = [sys.executable, "-m", "agent.sandbox.demo"]


def test_the_demo_shows_its_matrix_and_leaves_nothing() -> None:
    done = subprocess.run(DEMO, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "As it should be" in done.stdout
    assert "Each was told what its own port says" in done.stdout
    assert "host2 has the gateway" in done.stdout
    assert_nothing_left("demo")


def test_an_interrupted_demo_leaves_nothing_either(tmp_path: Path) -> None:
    with (tmp_path / "output").open("w") as output:
        demo = subprocess.Popen(DEMO, cwd=REPOSITORY, stdout=output, stderr=output)
        eventually((ROOT / "demo" / "host1" / "agent.log").exists, "the demo is at work", 20)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 1, (tmp_path / "output").read_text()
    assert_nothing_left("demo")
