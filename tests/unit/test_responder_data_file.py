# SPDX-License-Identifier: Apache-2.0
"""What the responder finds in its file again: after changes, crashes at any octet, damage, and a full disk."""

import errno
import json
import os
import stat
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agent
from agent.core.errors import ConfigError
from agent.responder import data_file
from agent.responder.data_file import NAME, DataFile, open_folder
from agent.responder.privileges import Account


@pytest.fixture
def folder(tmp_path):
    descriptor = open_folder(tmp_path / "responder", None)
    yield tmp_path / "responder", descriptor
    os.close(descriptor)


def fresh(descriptor):
    """Return the file as a process that has just started has it, and what it finds."""
    file = DataFile(descriptor)
    return file, {key: (digest, data) for key, digest, data in file.load()}


def test_what_was_put_last_is_found_and_what_was_deleted_is_not(folder):
    file, found = fresh(folder[1])
    assert found == {}
    file.put("dhcp a", "1", {"x": 1})
    file.put("dhcp b", "1", {"x": 2})
    file.put("dhcp a", "2", {"x": 3})
    file.delete("dhcp b")
    file.delete("dhcp never")
    file.put("service", "é", ["\n", None])

    for _ in range(2):  # a start writes the file anew: nothing may be lost by that
        file, found = fresh(folder[1])
        assert found == {"dhcp a": ("2", {"x": 3}), "service": ("é", ["\n", None])}


def test_nobody_else_reads_it(folder):
    file, _ = fresh(folder[1])
    file.put("service", "1", {"secret": "s"})
    assert stat.S_IMODE((folder[0] / NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder[0].stat().st_mode) == 0o700


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 9))), max_size=12),
    st.integers(0, 10_000),
)
def test_a_process_that_dies_at_any_octet_loses_its_last_words_only(tmp_path_factory, changes, cut):
    path = tmp_path_factory.mktemp("cut")
    folder = open_folder(path / "f", None)
    file, _ = fresh(folder)
    states: list[dict[str, tuple[str, object]]] = [{}]
    sizes = [(path / "f" / NAME).stat().st_size]
    for key, value in changes:
        state = dict(states[-1])
        if value is None:
            file.delete(key)
            state.pop(key, None)
        else:
            file.put(key, "d", value)
            state[key] = ("d", value)
        states.append(state)
        sizes.append((path / "f" / NAME).stat().st_size)
    cut = sizes[0] + cut % (sizes[-1] - sizes[0] + 1)
    os.truncate(path / "f" / NAME, cut)

    whole = max(index for index, size in enumerate(sizes) if size <= cut)
    again, found = fresh(folder)
    assert found == states[whole]
    again.put("new", "n", 1)
    assert fresh(folder)[1] == {**states[whole], "new": ("n", 1)}
    os.close(folder)


def test_a_damaged_line_costs_no_other(folder, caplog):
    file, _ = fresh(folder[1])
    for key in "abc":
        file.put(key, "1", key)
    path = folder[0] / NAME
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"b", b"x")
    path.write_bytes(b"".join(lines))

    _, found = fresh(folder[1])

    assert found == {"a": ("1", "a"), "c": ("1", "c")}
    assert "1 damaged lines" in caplog.text
    assert fresh(folder[1])[1] == found


def test_what_another_version_wrote_is_served_from_and_has_to_be_told_anew(folder):
    file, _ = fresh(folder[1])
    file.put("dhcp a", "1", "data")
    path = folder[0] / NAME
    text = json.dumps({"format": "hostplane-responder", "version": 1, "software": agent.__version__ + "+later"})
    _, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(b"%08x %s\n" % (zlib.crc32(text.encode()), text.encode()) + rest)

    again, found = fresh(folder[1])

    assert found == {"dhcp a": ("", "data")}
    again.put("dhcp a", "1", "new data")
    assert fresh(folder[1])[1] == {"dhcp a": ("1", "new data")}


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"00000000 {}\n", b'9c1f1a5d {"format":"other","version":1}\n'])
def test_what_is_no_file_of_ours_is_replaced(folder, content):
    (folder[0] / NAME).write_bytes(content)
    file, found = fresh(folder[1])
    assert found == {}
    file.put("a", "1", 1)
    assert fresh(folder[1])[1] == {"a": ("1", 1)}


def test_the_file_does_not_grow_with_changes(folder, monkeypatch):
    monkeypatch.setattr(data_file, "SMALLEST_REWRITE", 4096)
    file, _ = fresh(folder[1])
    for number in range(2000):
        file.put(f"dhcp {number % 5}", str(number), "x" * 50)
    assert (folder[0] / NAME).stat().st_size < 10_000
    assert set(fresh(folder[1])[1]) == {f"dhcp {number}" for number in range(5)}


def test_who_has_the_last_word_is_heard_though_another_has_written_a_file_meanwhile(folder):
    """A successor that did not come to serve must not cost what its predecessor is told later."""
    file, _ = fresh(folder[1])
    file.put("a", "1", "a")
    fresh(folder[1])
    file.put("b", "1", "b")
    assert fresh(folder[1])[1] == {"a": ("1", "a"), "b": ("1", "b")}


def test_what_does_not_fit_on_the_disk_is_written_when_there_is_room(folder, monkeypatch, caplog):
    file, _ = fresh(folder[1])
    file.put("a", "1", "old")
    real = os.pwrite

    def full(descriptor, data, at):
        if len(data) > 20:
            return real(descriptor, bytes(data)[:20], at)  # some of it: the next call finds no room at all
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    file.put("a", "2", "new")
    file.put("b", "1", "more")
    file.delete("b")
    assert caplog.text.count("No space left") == 1
    monkeypatch.setattr(os, "pwrite", real)
    assert b'"old"' in (folder[0] / NAME).read_bytes()

    file.put("c", "1", "c")
    assert fresh(folder[1])[1] == {"a": ("2", "new"), "c": ("1", "c")}


def test_a_directory_of_somebody_else_is_refused(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "link").symlink_to(other)
    with pytest.raises(ConfigError, match="cannot be used"):
        open_folder(tmp_path / "link", None)
    if os.geteuid() == 0:
        os.chown(other, 4711, 4711)
        with pytest.raises(ConfigError, match="belongs to user 4711"):
            open_folder(other, Account(4712, 4712))
        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "snapshot").touch()
        with pytest.raises(ConfigError, match="not empty"):
            open_folder(mine, Account(4712, 4712))
        os.close(open_folder(tmp_path / "made", Account(4712, 4713)))
        made = (tmp_path / "made").stat()
        assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (4712, 4713, 0o700)
