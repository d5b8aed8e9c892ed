# SPDX-License-Identifier: Apache-2.0
"""A sandbox by itself: what it makes, what it leaves behind (nothing), whatever happens to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.errors import InputError
from agent.sandbox.layout import ROOT
from agent.sandbox.sandbox import Sandbox, remove
from tests.functional.lab import REPOSITORY, Lab, eventually, hostplane, unique_name


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    return new_lab(2, agents=False)


def command(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    return hostplane("sandbox", "--name", lab.sandbox.name, *words)


def namespace_of(lab: Lab, place: str) -> str:
    return lab.output(place, "readlink", "/proc/self/ns/net").strip()


def assert_nothing_left(name: str) -> None:
    assert not (ROOT / name).exists()
    assert f"hpsb-{name}" not in Path("/proc/mounts").read_text()
    # What was killed inside of a system call is there until that has ended.
    eventually(lambda: not processes_of(name), f"no process of {name} is left")


def processes_of(name: str) -> list[bytes]:
    """Return the command lines that name the sandbox."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if f"/{name}/".encode() in words:
            found.append(words)
    return found


def test_hosts_reach_each_other_over_the_underlay_and_see_only_their_own_devices(lab: Lab) -> None:
    assert lab.ping("host1", "198.18.0.2")
    outside = {path.name for path in Path("/sys/class/net").iterdir()} - {"lo"}
    inside = set(lab.output("host1", "ls", "/sys/class/net").split())
    assert {"uplink", "physnet1", "external", "br-phy"} <= inside
    assert not outside & inside


def test_physical_networks_are_shared_segments(lab: Lab) -> None:
    """What one host sends on its physnet1 arrives on the other's, and not on another physical network."""
    frame = bytes.fromhex("ffffffffffff 0200000000aa 88b5") + b"on physnet1".ljust(46, b"\0")
    fence = frame[:14] + b"on external".ljust(46, b"\0")
    with lab.capture("host2", "physnet1") as there, lab.capture("host2", "external") as other:
        lab.send("host1", [frame], "physnet1")
        lab.send("host1", [fence], "external")
        assert frame in there.until(lambda seen: seen == frame)
        assert frame not in other.until(lambda seen: seen == fence)


def test_a_hosts_ip_netns_shows_its_own_namespaces_only(lab: Lab) -> None:
    lab.output("host1", "ip", "netns", "add", "only-here")
    try:
        assert lab.output("host1", "ip", "netns", "list").split() == ["only-here"]
        assert lab.output("host2", "ip", "netns", "list") == ""
        assert "only-here" not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
        assert namespace_of(lab, "only-here") != namespace_of(lab, "host1")
        assert lab.output("host1", "ip", "netns", "exec", "only-here", "ls", "/sys/class/net").split() == ["lo"]
    finally:
        lab.output("host1", "ip", "netns", "delete", "only-here")
    with pytest.raises(InputError, match="no host or instance is called only-here"):
        lab.sandbox.resolve("only-here")


def test_a_name_on_two_hosts_is_ambiguous(lab: Lab) -> None:
    for host in ("host1", "host2"):
        lab.output(host, "ip", "netns", "add", "twice")
    done = command(lab, "exec", "twice", "--", "true")
    for host in ("host1", "host2"):
        lab.output(host, "ip", "netns", "delete", "twice")
    assert done.returncode == 125
    assert "on host1 and on host2" in done.stderr


@pytest.mark.parametrize("status", [0, 1, 42])
def test_exec_passes_the_exit_status_on(lab: Lab, status: int) -> None:
    assert command(lab, "exec", "host1", "--", "sh", "-c", f"exit {status}").returncode == status


def test_exec_without_a_place_exits_125_and_without_the_program_127(lab: Lab) -> None:
    missing = command(lab, "exec", "nobody", "--", "true")
    assert missing.returncode == 125
    assert "no host or instance is called nobody" in missing.stderr
    assert hostplane("sandbox", "--name", unique_name(), "exec", "host1", "--", "true").returncode == 125
    assert command(lab, "exec", "host1", "--", "no-such-program").returncode == 127


def test_exec_replaces_itself_so_output_and_signals_pass_at_once(lab: Lab) -> None:
    words = ["sandbox", "--name", lab.sandbox.name, "exec", "host2", "--", "sh", "-c", "echo $$; exec sleep 60"]
    process = subprocess.Popen([sys.executable, "-m", "agent.cli.main", *words], stdout=subprocess.PIPE, cwd=REPOSITORY)
    with process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == -signal.SIGTERM


def test_exec_keeps_arguments_options_and_the_working_directory(lab: Lab, tmp_path: Path) -> None:
    words = ["exec", "host1", "--", "sh", "-c", 'pwd; printf "%s|" "$@"', "sh", "-o", "json", "--", "a b"]
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli.main", "sandbox", "--name", lab.sandbox.name, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.stdout == f"{tmp_path}\n-o|json|--|a b|"


def test_env_points_open_vswitchs_tools_at_the_host(lab: Lab) -> None:
    script = command(lab, "env", "host2").stdout
    assert all(line.startswith("export ") for line in script.splitlines())
    shown = subprocess.run(
        ["sh", "-c", f"{script} ovs-vsctl get Open_vSwitch . external_ids:hostname; echo $HOSTPLANE_STORE"],
        capture_output=True,
        text=True,
    )
    assert shown.stdout.split() == ["host2", lab.sandbox.paths.store_address]
    inside = command(lab, "exec", "host1", "--", "ovs-vsctl", "get", "Open_vSwitch", ".", "external_ids:hostname")
    assert inside.stdout.strip() == "host1"


def test_env_of_an_unknown_host_names_those_that_are_there(lab: Lab) -> None:
    done = command(lab, "env", "host9")
    assert done.returncode == 1
    assert "there are host1, host2" in done.stderr


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("what", ["ovs", "store"])
def test_restart_returns_with_a_new_process_that_works(lab: Lab, what: str, kill: bool) -> None:
    def pid() -> int:
        record = (
            lab.sandbox.store.process() if what == "store" else lab.sandbox.hosts[0].processes().get("ovs-vswitchd")
        )
        assert record is not None
        return record.pid

    before = pid()
    done = command(lab, "restart", "host1", "--what", what, *(["--kill"] if kill else []))
    assert done.returncode == 0, done.stderr
    assert pid() != before
    assert lab.ping("host1", "198.18.0.2", wait=2)
    assert "Hostplane" in lab.output("host1", "ovsdb-client", "list-dbs", lab.sandbox.paths.store_address)


def test_a_second_one_of_the_same_name_is_refused_and_the_first_lives_on(lab: Lab) -> None:
    with pytest.raises(InputError, match="exists already"):
        Sandbox.create(lab.sandbox.name, 1, agents=False)
    assert lab.ping("host1", "198.18.0.2")


def test_two_sandboxes_stand_side_by_side(lab: Lab, new_lab: Callable[..., Lab]) -> None:
    other = new_lab(2, agents=False)
    assert namespace_of(other, "host1") != namespace_of(lab, "host1")
    assert other.ping("host1", "198.18.0.2")
    assert remove(other.sandbox.name)
    assert_nothing_left(other.sandbox.name)
    assert lab.ping("host1", "198.18.0.2")


def test_down_ends_what_runs_in_instances_and_nothing_else(new_lab: Callable[..., Lab]) -> None:
    lab = new_lab(1, agents=False)
    name = lab.sandbox.name
    bystander = subprocess.Popen(["sleep", "600"])
    forged = {"pid": bystander.pid, "start_time": 1}
    (lab.sandbox.paths.processes / "forged.json").write_text(json.dumps(forged))
    lab.output("host1", "ip", "netns", "add", "vm")
    inside = [
        lab.start("vm", "sleep", "600"),
        lab.start("host1", "ip", "netns", "exec", "vm", "sleep", "600"),
        lab.start("host1", "unshare", "--mount", "sleep", "600"),
    ]
    eventually(lambda: all(namespace_entered(process.pid) for process in inside), "the processes are inside")
    assert hostplane("sandbox", "--name", name, "down").returncode == 0
    assert all(process.wait(5) == -signal.SIGKILL for process in inside)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    assert_nothing_left(name)


def namespace_entered(pid: int) -> bool:
    return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


def test_down_from_inside_is_refused(lab: Lab) -> None:
    program = [sys.executable, "-m", "agent.cli.main", "sandbox", "--name", lab.sandbox.name, "down"]
    done = lab.run("host1", "env", f"PYTHONPATH={REPOSITORY}", *program)
    assert done.returncode == 1
    assert "run it outside" in done.stderr
    assert lab.ping("host1", "198.18.0.2")


def test_down_with_nothing_there_is_no_error() -> None:
    name = unique_name()
    for _ in range(2):
        done = hostplane("sandbox", "--name", name, "down")
        assert (done.returncode, done.stderr) == (0, "")


def test_down_after_everything_was_killed(new_lab: Callable[..., Lab]) -> None:
    lab = new_lab(2, agents=False)
    for host in lab.sandbox.hosts:
        for record in host.processes().values():
            record.stop(kill=True)
    lab.sandbox.store.stop(kill=True)
    assert hostplane("sandbox", "--name", lab.sandbox.name, "down").returncode == 0
    assert_nothing_left(lab.sandbox.name)


CREATE = """
import sys
sys.modules["eventlet"] = None
from agent.sandbox.sandbox import Sandbox
Sandbox.create(sys.argv[1], 2, agents=False)
"""


@pytest.mark.parametrize("delay", [0.2, 0.3, 0.4, 0.5, 0.6])
def test_down_after_the_creator_was_killed_in_the_middle(delay: float) -> None:
    """Whatever the moment: what was made by then goes away."""
    name = unique_name()
    creator = subprocess.Popen([sys.executable, "-c", CREATE, name], cwd=REPOSITORY)
    time.sleep(delay)  # any moment is as good as another
    creator.kill()
    creator.wait()
    assert hostplane("sandbox", "--name", name, "down").returncode == 0
    assert_nothing_left(name)


def test_an_interrupted_creator_takes_everything_down_itself() -> None:
    name = unique_name()
    creator = subprocess.Popen([sys.executable, "-c", CREATE, name], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    eventually((ROOT / name / "ns").exists, "the sandbox is being made")
    creator.send_signal(signal.SIGINT)
    assert creator.wait(15) != 0
    assert_nothing_left(name)


def test_names_that_cannot_be_are_refused_before_anything_is_made() -> None:
    for name in ("", "Upper", "../x", "a" * 25, "-dash"):
        with pytest.raises(InputError, match="name"):
            Sandbox.create(name, 1, agents=False)
    for hosts in (0, 201):
        with pytest.raises(InputError, match="hosts"):
            Sandbox.create(unique_name(), hosts, agents=False)
