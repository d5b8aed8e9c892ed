# SPDX-License-Identifier: Apache-2.0
"""The command against a real ``ovsdb-server``: what it writes, prints, and how it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from agent.cli.main import main
from agent.store.writer import Writer
from tests.servers import StoreServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "two-hosts.yaml"


@dataclass(frozen=True)
class Outcome:
    """What a command printed and its exit status."""

    status: int
    out: str
    err: str

    def json(self):
        assert self.status == 0, self.err
        return json.loads(self.out)


Hostplane = Callable[..., Outcome]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as server:
        yield server


@pytest.fixture
def hostplane(store: StoreServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Hostplane:
    monkeypatch.setenv("HOSTPLANE_STORE", store.address)

    def run(*words: str) -> Outcome:
        capsys.readouterr()
        status = main(list(words))
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


def test_objects_are_created_shown_changed_listed_and_deleted(hostplane: Hostplane) -> None:
    blue = hostplane("network", "create", "blue", "--type", "vxlan", "--segmentation-id", "77", "-o", "json").json()
    assert (blue["type"], blue["segmentation_id"], blue["mtu"]) == ("vxlan", 77, 1450)
    assert hostplane("subnet", "create", "blue4", "--network", "blue", "--cidr", "10.0.0.0/24").status == 0
    created = hostplane("port", "create", "vm1", "--network", "blue", "--fixed-ip", "10.0.0.9", "--host", "host1")
    assert created.status == 0
    assert "10.0.0.9" in created.out

    changed = hostplane("port", "set", "vm1", "--admin-state-down", "--host", "host2", "--name", "vm9")
    assert (changed.status, changed.out) == (0, "port vm9 changed\n")
    again = hostplane("port", "set", "vm9", "--admin-state-down")
    assert again.out == "port vm9 was so already\n"
    vm9 = hostplane("port", "show", "vm9", "-o", "json").json()
    assert (vm9["host"], vm9["admin_state_up"], vm9["network"]) == ("host2", False, blue["id"])
    assert yaml.safe_load(hostplane("port", "show", vm9["id"], "-o", "yaml").out) == vm9

    assert hostplane("port", "delete", "vm9").out == "port vm9 deleted\n"
    assert hostplane("port", "list", "-o", "json").json() == []
    empty = hostplane("port", "list")
    assert (empty.status, empty.out, empty.err) == (0, "", "hostplane: no ports\n")


def test_lists_can_be_cut_down(hostplane: Hostplane) -> None:
    hostplane("apply", "-f", str(EXAMPLE))

    def names(*words: str) -> list[str]:
        return [row["name"] for row in hostplane("port", "list", "-o", "json", *words).json()]

    assert names("--host", "host1") == ["blue1", "lan1", "red1"]
    assert names("--network", "red") == ["red1", "red2"]
    assert names("--network", "red", "--host", "host2") == ["red2"]
    table = hostplane("port", "list", "--network", "red").out.splitlines()
    assert table[0].split() == ["ID", "NAME", "NETWORK", "MAC", "ADDRESS", "FIXED", "IPS", "HOST", "UP"]
    assert table[1].split()[1:3] == ["red1", "red"]


def test_applying_the_example_twice_changes_nothing_the_second_time(hostplane: Hostplane) -> None:
    first = hostplane("apply", "-f", str(EXAMPLE))
    assert first.status == 0
    assert "network blue created" in first.out
    assert first.out.splitlines()[-1] == "13 created"
    second = hostplane("apply", "-f", str(EXAMPLE))
    assert (second.status, second.out) == (0, "nothing to change\n")


def test_a_dry_run_tells_and_writes_nothing(hostplane: Hostplane) -> None:
    told = hostplane("apply", "-f", str(EXAMPLE), "--dry-run")
    assert "port red2 to create" in told.out
    assert hostplane("network", "list", "-o", "json").json() == []


def test_changes_show_old_and_new_values(hostplane: Hostplane, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("networks:\n  a: {type: vxlan, mtu: 1400}\n")
    hostplane("apply", "-f", str(file))
    file.write_text("networks:\n  a: {type: vxlan, mtu: 1300}\n")
    assert hostplane("apply", "-f", str(file)).out == "network a changed\n  mtu: 1400 -> 1300\n1 changed\n"


def test_pruning_takes_only_what_the_set_made(hostplane: Hostplane, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("networks:\n  a: {type: vxlan}\n  b: {type: vxlan}\n")
    hostplane("network", "create", "mine", "--type", "vxlan")
    hostplane("apply", "-f", str(file), "--set", "lab")
    file.write_text("networks:\n  a: {type: vxlan}\n")
    assert "network b deleted" in hostplane("apply", "-f", str(file), "--set", "lab", "--prune").out
    assert [n["name"] for n in hostplane("network", "list", "-o", "json").json()] == ["a", "mine"]
    refused = hostplane("apply", "-f", str(file), "--prune")
    assert refused.status == 1
    assert "--prune needs --set NAME" in refused.err


def test_pruning_everything_must_be_meant(hostplane: Hostplane, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("networks:\n  a: {type: vxlan}\n")
    prune = ("apply", "-f", str(file), "--set", "lab", "--prune")
    hostplane(*prune)
    file.write_text("# what the template should have written\n")
    refused = hostplane(*prune)
    assert refused.status == 1
    assert refused.err.startswith(f"hostplane: {file}: is empty, so --prune would delete all of set lab")
    assert len(hostplane("network", "list", "-o", "json").json()) == 1
    assert "network a to delete" in hostplane(*prune, "--dry-run").out
    assert "network a to delete" in hostplane(*prune, "--dry-run", "--yes").out
    file.write_text("networks: {}\n")
    assert "network a deleted" in hostplane(*prune).out


def test_what_the_writer_refuses_names_file_line_object_and_field(hostplane: Hostplane, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("networks:\n  blue: {type: vxlan}\n  red:\n    type: vxlan\n    segmentation_id: 17000000\n")
    refused = hostplane("apply", "-f", str(file))
    assert refused.status == 1
    assert refused.err == f"hostplane: {file}:3: network red: segmentation id 17000000 is outside 1..16777215\n"
    assert hostplane("network", "list", "-o", "json").json() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("network", "create", "a", "--type", "vxlan", "--segmentation-id", "0"), "network a: segmentation id 0 is"),
        (("network", "show", "nope"), "there is no network nope"),
        (("port", "create", "vm1", "--network", "nope"), "port vm1: "),
        (("port", "set", "vm1"), "port vm1: no field is given"),
        (("apply", "-f", "/nonexistent.yaml"), "/nonexistent.yaml: No such file or directory"),
        (("--store", "unix:/nonexistent", "port", "list"), "store unix:/nonexistent: cannot connect"),
        (("--store", "nonsense", "port", "list"), "store nonsense: not an address"),
        (("port", "list", "--ca-cert", "/x"), "store: --private-key and --certificate must be given as well"),
    ],
)
def test_errors_are_one_line_and_status_1(hostplane: Hostplane, words: tuple[str, ...], message: str) -> None:
    outcome = hostplane(*words)
    assert outcome.status == 1
    assert outcome.err.startswith(f"hostplane: {message}")
    assert outcome.err.count("\n") == 1


def report(address: str, host: str, revision: int, down: dict[str, str]) -> None:
    """Write what *host*'s agent would: it has applied *revision*, and these ports are down because of that."""
    with Writer.connect([address]) as writer:
        ports = {port.name: port.id for port in writer.list_ports()}

        def build(session) -> None:
            generation = [session.global_row.generation]
            session.insert("Host_Status", host=host, version="1", generation=generation, applied_revision=revision)
            for name, reason in down.items():
                session.insert("Port_Status", port=ports[name], host=host, up=False, reason=reason, since=1)

        writer.write(build)


def test_wait_names_the_ports_that_failed_and_the_hosts_that_did_not_answer(
    hostplane: Hostplane, store: StoreServer, tmp_path: Path
) -> None:
    hostplane("apply", "-f", str(EXAMPLE))
    report(store.address, "host1", 100, {"blue1": "no interface names it yet"})
    failed = hostplane("port", "set", "blue1", "--mac-address", "fa:16:3e:00:00:77", "--wait", "--wait-timeout", "0.2")
    assert failed.status == 4  # host2 has ports on that network, too, and says nothing
    assert "hostplane: host host2: did not apply revision" in failed.err
    report(store.address, "host2", 100, {})
    failed = hostplane("port", "set", "blue1", "--no-port-security", "--wait", "--wait-timeout", "5")
    assert failed.status == 3
    assert failed.err == "hostplane: port blue1: not up on host1: no interface names it yet\n"
    done = hostplane("port", "set", "red1", "--no-port-security", "--wait", "--wait-timeout", "5")
    assert done.status == 0


def test_wait_returns_as_soon_as_the_hosts_have_applied(hostplane: Hostplane, store: StoreServer) -> None:
    hostplane("apply", "-f", str(EXAMPLE))
    report(store.address, "host1", 100, {})
    late = threading.Timer(0.3, report, (store.address, "host2", 100, {}))
    late.start()
    assert hostplane("port", "set", "blue1", "--mac-address", "fa:16:3e:00:00:77", "--wait").status == 0
    late.join()
