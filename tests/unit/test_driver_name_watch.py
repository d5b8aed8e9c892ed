# SPDX-License-Identifier: Apache-2.0
"""The watch of a name in a folder: who takes it out is noticed, whatever else happens there."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.drivers.name_watch import NameWatch


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[NameWatch]:
    watch = NameWatch(tmp_path / "netns", "hp-responder")
    yield watch
    watch.close()
    assert watch.fileno() is None


def is_told(watch: NameWatch) -> bool:
    descriptor = watch.fileno()
    assert descriptor is not None
    return bool(select.select([descriptor], [], [], 0)[0])


def test_only_the_name_counts_and_only_that_it_is_gone(tmp_path: Path, watch: NameWatch) -> None:
    assert watch.fileno() is None  # there is no such folder yet
    (tmp_path / "netns").mkdir()
    assert not is_told(watch)
    ours, others = tmp_path / "netns" / "hp-responder", tmp_path / "netns" / "hp-responder2"

    ours.write_text("")
    others.write_text("")
    assert not is_told(watch)
    others.unlink()
    assert is_told(watch)
    assert not watch.taken_out()
    assert not is_told(watch)

    ours.unlink()
    others.write_text("")
    others.unlink()
    assert watch.taken_out()
    assert not watch.taken_out()

    ours.write_text("")
    ours.rename(tmp_path / "elsewhere")
    assert watch.taken_out()


def test_what_cannot_be_told_one_by_one_counts_as_gone(tmp_path: Path, watch: NameWatch) -> None:
    """The kernel keeps so many events and says only that there were more."""
    (tmp_path / "netns").mkdir()
    assert not is_told(watch)
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(most + 10):
        path = tmp_path / "netns" / str(number)
        path.write_text("")
        path.unlink()
    assert any(watch.taken_out() for _ in range(most))
