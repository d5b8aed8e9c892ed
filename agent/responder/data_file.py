# SPDX-License-Identifier: Apache-2.0
"""What the responder knows, on disk: so that one that starts while the agent is away serves at once.

A text file of lines ``<crc32 in hex> <JSON>``: a header, then a line for each change.
Lines stand alone, so that a damaged one costs no other.  When most of them are outdated
the file is written anew beside it and renamed over it.  Nothing is synced to the disk:
it has to outlive the process, and what it is for does not outlive the machine.

The file holds secrets.  Its directory is opened, and given to the user, before
privileges are dropped; afterwards it is used by descriptor alone.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

import agent
from agent.core.errors import ConfigError
from agent.responder.privileges import Account

LOG = logging.getLogger(__name__)

NAME = "responder.data"
FORMAT = "hostplane-responder"
VERSION = 1
SMALLEST_REWRITE = 1 << 20  # octets of outdated lines that are always kept

_BESIDE = f"{NAME}.new"


def open_folder(path: Path, account: Account | None) -> int:
    """Return a descriptor of the directory *path*, made and given to *account* if need be; raise ConfigError.

    It is the responder's own: what belongs to another user is refused.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        owner = os.fstat(folder).st_uid
        wanted = account.uid if account is not None and os.geteuid() == 0 else os.geteuid()
        if owner not in (wanted, os.geteuid()):
            raise ConfigError(f"{path}: belongs to user {owner}, not to the responder")
        if owner != wanted and account is not None:
            if next(os.scandir(folder), None) is not None:
                raise ConfigError(f"{path}: is root's and not empty: give the responder a directory of its own")
            os.fchown(folder, account.uid, account.gid)
        if stat.S_IMODE(os.fstat(folder).st_mode) != 0o700:
            os.fchmod(folder, 0o700)
    except OSError as err:
        raise ConfigError(f"{path}: cannot be used: {err.strerror}") from None
    return folder


class DataFile:
    """The file in *folder*, a descriptor of its directory; one instance a process.

    Never raises for the disk's sake: what could not be written is tried again with the
    next change, and said once.
    """

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._file = -1
        self._size = 0  # octets of the file that are whole lines
        self._places: dict[str, tuple[int, int]] = {}  # key -> where its last line stands, and its length
        self._live = 0  # octets of those
        self._pending: dict[str, bytes] = {}  # lines that could not be written
        self._failed = False

    def load(self) -> Iterator[tuple[str, str, object]]:
        """Yield (key, digest, data) of all that is known, then be ready for `put` and `delete`.

        What another version of this software has written has digests of "": it is good
        enough to serve from, and to be told anew by the agent.
        """
        try:
            self._file = os.open(NAME, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError:
            self._rewrite()
            return
        except OSError as err:
            self._complain(err)
            return
        lines, same = self._read()
        for key, (digest, data) in lines.items():
            yield key, digest if same else "", data
        self._rewrite()

    def put(self, key: str, digest: str, data: object) -> None:
        """Note what is known under *key*."""
        self._append(key, _line(["put", key, digest, data]))

    def delete(self, key: str) -> None:
        """Note that nothing is known under *key*."""
        if key in self._places or key in self._pending:
            self._append(key, _line(["delete", key]))

    def _append(self, key: str, line: bytes) -> None:
        self._pending.pop(key, None)
        self._pending[key] = line
        try:
            for waiting in list(self._pending):
                self._write(waiting, self._pending[waiting])
                del self._pending[waiting]
        except OSError as err:
            self._complain(err)
            return
        self._failed = False
        # No name any more: who was to come after us has written its own, and we are still here.
        if self._size > 2 * self._live + SMALLEST_REWRITE or os.fstat(self._file).st_nlink == 0:
            self._rewrite()

    def _write(self, key: str, line: bytes) -> None:
        if self._file < 0:
            self._start(NAME)
        written = 0
        while written < len(line):
            written += os.pwrite(self._file, line[written:], self._size + written)
        self._place(key, 0 if line[9:].startswith(b'["delete"') else len(line))
        self._size += len(line)

    def _place(self, key: str, length: int) -> None:
        """Note that the line of *key* stands at the end, or with *length* 0 that there is none."""
        _, before = self._places.pop(key, (0, 0))
        self._live += length - before
        if length:
            self._places[key] = (self._size, length)

    def _start(self, name: str) -> None:
        """Begin an empty file."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=self._folder)
        header = _line({"format": FORMAT, "version": VERSION, "software": agent.__version__})
        os.pwrite(file, header, 0)
        self._file, self._size = file, len(header)

    def _rewrite(self) -> None:
        """Write the file anew with what is still true, and put it in the place of the old."""
        old, size, places, live = self._file, self._size, self._places, self._live
        try:
            self._start(_BESIDE)
            self._places, self._live = {}, 0
            for key, (at, length) in places.items():
                self._write(key, os.pread(old, length, at))
            os.rename(_BESIDE, NAME, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as err:
            self._complain(err)
            if self._file not in (old, -1):
                os.close(self._file)
            self._file, self._size, self._places, self._live = old, size, places, live
            return
        if old >= 0:
            os.close(old)

    def _read(self) -> tuple[dict[str, tuple[str, object]], bool]:
        """Return digest and data by key, and whether our own version wrote them."""
        found: dict[str, tuple[str, object]] = {}
        same, damaged = False, 0
        with os.fdopen(os.dup(self._file), "rb") as file:
            for line in file:
                entry = _entry(line)
                match entry:
                    case {"format": format_, "version": version, "software": software} if self._size == 0:
                        if (format_, version) != (FORMAT, VERSION):
                            LOG.warning("%s is %s version %s: not used", NAME, format_, version)
                            return {}, False
                        same = software == agent.__version__
                    case ["put", str(key), str(digest), data]:
                        found[key] = (digest, data)
                        self._place(key, len(line))
                    case ["delete", str(key)]:
                        found.pop(key, None)
                        self._place(key, 0)
                    case _:
                        damaged += 1
                self._size += len(line)
        if damaged:
            LOG.warning("%s: %d damaged lines are left out", NAME, damaged)
        return found, same

    def _complain(self, err: OSError) -> None:
        if not self._failed:
            LOG.warning("%s cannot be written, tried again with the next change: %s", NAME, err.strerror)
        self._failed = True


def _line(value: object) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entry(line: bytes) -> object:
    """Return the value in *line*, None for a damaged one."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        value: object = json.loads(text)
    except ValueError:
        return None
    return value
