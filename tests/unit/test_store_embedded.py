# SPDX-License-Identifier: Apache-2.0
"""The embedded store: started once, adopted by the next, outliving its starter, converted, stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.core.errors import StoreError
from agent.store import embedded, remotes
from agent.store.connection import fetch_version
from agent.store.document import NetworkFields
from agent.store.embedded import StorePaths, ensure_running, stop
from agent.store.writer import Writer


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[StorePaths]:
    paths = StorePaths(tmp_path / "state", tmp_path / "run")
    yield paths
    stop(paths)


def pid_of(paths: StorePaths) -> int:
    return int(paths.pidfile.read_text())


def test_it_is_started_with_a_generation_and_keeps_its_data(paths: StorePaths) -> None:
    address = ensure_running(paths)
    assert address == f"unix:{paths.run_dir}/store.sock"
    with Writer.connect([address]) as writer:
        generation, revision = writer.revision()
        assert (len(generation), revision) == (36, 0)
        writer.create_network("blue", NetworkFields(type="vxlan"))
    assert stop(paths)
    assert not stop(paths)
    ensure_running(paths)
    with Writer.connect([address]) as writer:
        assert writer.revision() == (generation, 1)
        assert [network.name for network in writer.list_networks()] == ["blue"]


def test_a_running_one_is_adopted(paths: StorePaths) -> None:
    ensure_running(paths)
    first = pid_of(paths)
    ensure_running(paths)
    assert pid_of(paths) == first


def test_several_starters_at_once_start_one(paths: StorePaths) -> None:
    with ThreadPoolExecutor(4) as pool:
        addresses = {job.result() for job in [pool.submit(ensure_running, paths) for _ in range(4)]}
    assert len(addresses) == 1
    users = subprocess.run(["pgrep", "-f", str(paths.database)], capture_output=True, text=True, check=True)
    assert users.stdout.split() == [str(pid_of(paths))]


def test_it_outlives_a_starter_that_is_killed_with_its_session(paths: StorePaths) -> None:
    script = (
        "import sys, time; sys.modules['eventlet'] = None\n"
        "from pathlib import Path\n"
        "from agent.store.embedded import StorePaths, ensure_running\n"
        "print(ensure_running(StorePaths(Path(sys.argv[1]), Path(sys.argv[2]))), flush=True)\n"
        "time.sleep(60)\n"
    )
    argv = [sys.executable, "-c", script, str(paths.state_dir), str(paths.run_dir)]
    starter = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
    assert starter.stdout is not None
    assert starter.stdout.readline().startswith(b"unix:")
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    pid = pid_of(paths)
    assert os.getsid(pid) == pid
    with Writer.connect([paths.address]) as writer:
        writer.create_network("blue", NetworkFields(type="vxlan"))
    ensure_running(paths)
    assert pid_of(paths) == pid


def test_it_comes_back_after_a_crash_with_everything_that_was_committed(paths: StorePaths) -> None:
    address = ensure_running(paths)
    with Writer.connect([address]) as writer:
        writer.create_network("blue", NetworkFields(type="vxlan"))
    killed = pid_of(paths)
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{killed}/cmdline").exists() and Path(f"/proc/{killed}/cmdline").read_bytes():
        assert time.monotonic() < deadline
    ensure_running(paths)
    assert pid_of(paths) != killed
    with Writer.connect([address]) as writer:
        assert [network.name for network in writer.list_networks()] == ["blue"]


def test_a_program_with_a_newer_schema_converts_the_running_store(
    paths: StorePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = ensure_running(paths)
    pid = pid_of(paths)
    newer = json.loads(remotes.schema_text())
    major, minor, _ = newer["version"].split(".")
    newer["version"] = f"{major}.{int(minor) + 1}.0"
    newer["tables"]["Network"]["columns"]["colour"] = {"type": "string"}
    with Writer.connect([address]) as older_program:
        older_program.create_network("blue", NetworkFields(type="vxlan"))
        with monkeypatch.context() as patch:
            patch.setattr(remotes, "schema_text", lambda: json.dumps(newer))
            remotes.schema_version.cache_clear()
            with pytest.raises(StoreError, match=r"this program needs .* convert it"):
                Writer.connect([address])
            ensure_running(paths)
            with Writer.connect([address]) as writer:
                assert writer.read(lambda view: [row.colour for row in view.rows("Network")]) == [""]
        remotes.schema_version.cache_clear()
        # The program that does not know the addition yet goes on writing.
        older_program.create_network("red", NetworkFields(type="vxlan"))
    assert fetch_version(address) == newer["version"]
    assert pid_of(paths) == pid


def test_a_schema_of_another_major_version_is_left_alone(paths: StorePaths, tmp_path: Path) -> None:
    other = json.loads(remotes.schema_text()) | {"version": "99.0.0"}
    for folder in (paths.state_dir, paths.run_dir):
        folder.mkdir()
    (tmp_path / "other").write_text(json.dumps(other))
    subprocess.run(["ovsdb-tool", "create", str(paths.database), str(tmp_path / "other")], check=True)
    with pytest.raises(StoreError, match=r"its schema has version 99\.0\.0, this program needs"):
        ensure_running(paths)
    assert fetch_version(paths.address) == "99.0.0"


def test_a_broken_database_is_an_error_that_names_it_and_is_not_replaced(paths: StorePaths) -> None:
    paths.state_dir.mkdir()
    paths.database.write_text("not a database")
    with pytest.raises(StoreError, match=r"store\.db: unexpected file format"):
        ensure_running(paths)
    assert paths.database.read_text() == "not a database"


def test_a_server_that_hangs_is_not_replaced(paths: StorePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_running(paths)
    monkeypatch.setattr(embedded, "ASK_TIMEOUT", 1.0)
    os.kill(pid_of(paths), signal.SIGSTOP)
    try:
        with pytest.raises(StoreError, match="its server runs but does not answer"):
            ensure_running(paths)
    finally:
        os.kill(pid_of(paths), signal.SIGCONT)
    ensure_running(paths)


def test_a_stale_pid_of_another_process_is_not_ended(paths: StorePaths) -> None:
    ensure_running(paths)
    stop(paths)
    paths.pidfile.write_text(f"{os.getpid()}\n")
    assert not stop(paths)
    ensure_running(paths)
    assert pid_of(paths) != os.getpid()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        ensure_running(StorePaths(tmp_path / "file" / "state", tmp_path / "run"))
