# SPDX-License-Identifier: Apache-2.0
"""The last in-sync snapshot on disk, from which the daemon starts when the store is away.

A text file of lines ``<crc32 in hex> <JSON>``: a header, a block with everything,
then a block for each later change, written *before* the dataplane is changed, so
that the file is never older than what is installed.  A line whose checksum is wrong
ends the file (the process died while writing it).  When the changes outgrow the
first block the file is written anew beside it and renamed over it.  Nobody but its
owner can read it: user data of instances often hold passwords.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.core import codec
from agent.core.errors import AgentError
from agent.core.model import HostName, HostSnapshot

LOG = logging.getLogger(__name__)

FORMAT = "hostplane-snapshot"
VERSION = 1
SMALLEST_REWRITE = 1 << 16  # bytes of changes that are always kept before the file is written anew


class SnapshotFileError(AgentError):
    """The file cannot be used; the daemon waits for the store instead."""


class SnapshotFile:
    """Saves what the reconcile thread is about to apply; one instance a process."""

    def __init__(self, path: Path, host: HostName) -> None:
        self._path = path
        self._host = host
        self._saved: HostSnapshot | None = None
        self._first_block = 0
        self._changes = 0

    def load(self) -> HostSnapshot | None:
        """Return the saved snapshot marked stale, None when there is none.

        Raises SnapshotFileError when the file is for another host or of another version.
        """
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as err:
            raise SnapshotFileError(f"{self._path}: cannot be read: {err.strerror}") from err
        lines = _checked_lines(text)
        if not lines:
            raise SnapshotFileError(f"{self._path}: is damaged from its first line on")
        header, *blocks = lines
        if header.get("format") != FORMAT or header.get("version") != VERSION:
            raise SnapshotFileError(
                f"{self._path}: is {header.get('format')} version {header.get('version')}, not {FORMAT} {VERSION}"
            )
        if header.get("host") != self._host:
            raise SnapshotFileError(f"{self._path}: is of host {header.get('host')}, not of {self._host}")
        snapshot = HostSnapshot(self._host)
        try:
            for block in blocks:
                snapshot = codec.apply(snapshot, block)
        except (KeyError, TypeError, ValueError) as err:
            raise SnapshotFileError(f"{self._path}: holds a block that makes no sense: {err!r}") from err
        return replace(snapshot, stale=True) if snapshot.in_sync else None

    def save(self, snapshot: HostSnapshot) -> None:
        """Make the file say *snapshot*; costs what changed since the last call.

        Raises SnapshotFileError; the next call then writes the whole file.
        """
        if snapshot.stale or snapshot is self._saved:
            return
        try:
            if self._saved is None or self._changes > max(self._first_block, SMALLEST_REWRITE):
                self._rewrite(snapshot)
            else:
                line = _line(codec.difference(self._saved, snapshot))
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(line)
                self._changes += len(line)
        except OSError as err:
            self._saved = None
            raise SnapshotFileError(f"{self._path}: cannot be written: {err.strerror}") from err
        self._saved = snapshot

    def _rewrite(self, snapshot: HostSnapshot) -> None:
        header = _line({"format": FORMAT, "version": VERSION, "host": self._host})
        block = _line(codec.difference(HostSnapshot(self._host), snapshot))
        beside = self._path.with_suffix(".new")
        beside.unlink(missing_ok=True)  # one that is there already would keep its mode
        with open(beside, "w", encoding="utf-8", opener=_private) as file:  # Path.open takes none
            file.write(header + block)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        self._first_block, self._changes = len(block), 0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _line(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def _checked_lines(text: str) -> list[dict[str, Any]]:
    """Return the values of all lines up to the first damaged one."""
    values: list[dict[str, Any]] = []
    for line in text.splitlines(keepends=True):
        checksum, _, body = line.rstrip("\n").partition(" ")
        if not line.endswith("\n") or checksum != f"{zlib.crc32(body.encode()):08x}":
            LOG.warning("the saved snapshot ends in a damaged line; using what stands before it")
            break
        values.append(json.loads(body))
    return values
