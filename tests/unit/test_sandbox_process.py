# SPDX-License-Identifier: Apache-2.0
"""Processes by id and start time: ours are ended, others with the same number are not."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from agent.sandbox.process import ProcessFolder, ProcessRecord, start, start_time


def test_a_started_process_is_alive_until_it_was_stopped(tmp_path: Path) -> None:
    record = start(["sleep", "600"], os.environ, tmp_path / "log")
    assert record.is_alive()
    record.stop(kill=False)
    assert not record.is_alive()
    record.stop(kill=True)  # once more is no error


def test_what_a_process_says_is_in_its_log(tmp_path: Path) -> None:
    record = start(["sh", "-c", "echo out; echo err >&2"], os.environ, tmp_path / "log")
    assert record.wait(10)
    assert (tmp_path / "log").read_text() == "out\nerr\n"


def test_a_process_with_the_same_id_but_another_start_time_is_not_ours() -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        begun = start_time(other.pid)
        assert begun is not None
        forged = ProcessRecord(other.pid, begun - 1)
        assert not forged.is_alive()
        forged.stop(kill=True)
        assert other.poll() is None
        other.kill()


def test_a_zombie_has_ended() -> None:
    with subprocess.Popen(["true"]) as child:
        record = ProcessRecord(child.pid, start_time(child.pid) or 0)
        assert record.wait(10)  # nobody has collected its status yet
        assert not record.is_alive()


def test_a_stopped_process_that_ignores_the_request_is_named(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done"
    record = start(["sh", "-c", script], os.environ, tmp_path / "log")
    while not ready.exists():
        assert record.is_alive()
    with pytest.raises(Exception, match=f"process {record.pid} did not end"):
        record.stop(kill=False, timeout=0.1)
    record.send(signal.SIGKILL)
    assert record.wait(10)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_a_record_that_a_crash_cut_off_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    folder = ProcessFolder(tmp_path)
    assert folder.load("x") is None
    assert folder.load("missing") is None


def test_records_survive_in_their_folder(tmp_path: Path) -> None:
    record = ProcessRecord(1, 2)
    ProcessFolder(tmp_path).save("host1.agent", record)
    assert ProcessFolder(tmp_path).load("host1.agent") == record
