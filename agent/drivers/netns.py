# SPDX-License-Identifier: Apache-2.0
"""Driver ``netns``: network namespaces with a name in ``/run/netns``, as ip-netns(8) makes them.

A namespace is ours if the alias of its ``lo`` is ``hostplane:netns:<owner>``; the alias
is set and ``lo`` brought up before a name is given, so nothing half-made has one.  A
name is a file on which the namespace is mounted; ours has the alias as its content
from the moment it appears.  A process that dies between file and mount, or between
unmounting and removing the file, leaves a file that says whose it is.

Namespaces of others are looked at (the alias of ``lo``) and never changed; neither is
a file that somebody else left.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import threading
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from agent.core.errors import ApplyError
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.namespaces import ALIAS, ForeignError, Namespace, names, open_namespace, told
from agent.namespace import FOLDER

_CLONE_NEWNET = 0x40000000  # sched.h
_MS_BIND, _MS_REC, _MS_SHARED = 1 << 12, 1 << 14, 1 << 20  # sys/mount.h
_MNT_DETACH = 2
_LIBC = ctypes.CDLL(None, use_errno=True)
_THIS_THREADS: Final = "/proc/thread-self/ns/net"
_LONGEST = 256  # octets of a file that are looked at
_PARTS = 16  # that are read back one by one: a namespace takes 0.2 ms, and there may be hundreds

# What is observed instead of the owner alone where something is to be put right.
_UNFINISHED, _LOOPBACK_DOWN = "unfinished ", "lo down "
_BEING_WRITTEN = ".hostplane."  # begins the name of a file of ours that may not have its content yet


class NetnsDriver:
    """The named namespaces in *folder*."""

    name = "netns"

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read whose the namespaces of ours are: all of them, or those of *keys*."""
        found: dict[Key, Value] = {}
        for name in names(self._folder) if keys is None else keys:
            state = self._state(name)
            if state is not None:
                found[name] = state
        return found

    def places(self) -> Collection[str]:
        """Return the parts in which names are looked at."""
        return [str(number) for number in range(_PARTS)]

    def place_of(self, key: Key) -> str:
        """Return the part that a name belongs to."""
        return str(zlib.crc32(key.encode()) % _PARTS)

    def observe_place(self, place: str) -> dict[Key, Value]:
        """Read back the namespaces of ours in one part.  Raises ApplyError."""
        return self.observe({name: ObjectId("") for name in names(self._folder) if self.place_of(name) == place})

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Make and mark namespaces, and take names away; a namespace ends when nobody is in it any more."""
        failed: dict[Key, Exception] = {}
        missing: dict[str, str] = {}
        for name, owner in (*delta.creates.items(), *((key, new) for key, (_, new) in delta.updates.items())):
            try:
                if not self._mark(name, f"{ALIAS}{owner}"):
                    missing[name] = f"{ALIAS}{owner}"
            except (OSError, ApplyError) as err:
                failed[name] = err if isinstance(err, ForeignError) else told(name, err)
        if missing:
            failed |= _in_a_thread(missing, self._folder)
        for name in delta.deletes:
            try:
                self._remove(name)
            except (OSError, ApplyError) as err:
                failed[name] = told(name, err)
        return failed

    def _state(self, name: str) -> str | None:
        """Return the value of what has the name, None if that is not ours.  Raises ApplyError."""
        namespace = open_namespace(name, self._folder)
        if namespace is None:
            content = _content(self._folder / name)
            return None if content is None else _UNFINISHED + content.removeprefix(ALIAS)
        try:
            with namespace:
                alias, is_up = namespace.loopback()
        except (OSError, ApplyError) as err:
            raise told(name, err) from err
        if not alias.startswith(ALIAS):
            return None
        return ("" if is_up else _LOOPBACK_DOWN) + alias.removeprefix(ALIAS)

    def _mark(self, name: str, alias: str) -> bool:
        """Mark a namespace of ours that is there; tell whether there is one.  Raises ApplyError, OSError."""
        namespace = open_namespace(name, self._folder)
        if namespace is None:
            return False
        with namespace:
            if not namespace.is_ours():
                raise ForeignError(f"namespace {name} exists and was not made by hostplane")
            if namespace.loopback() != (alias, True):
                namespace.mark(alias)
        return True

    def _remove(self, name: str) -> None:
        """Take the name away from a namespace of ours.  Raises ApplyError, OSError."""
        path, unmounted = self._folder / name, False
        while True:  # more than once if it was mounted more than once
            namespace = open_namespace(name, self._folder)
            if namespace is None:
                break
            with namespace:
                if not namespace.is_ours():
                    return
            _check(_LIBC.umount2(os.fsencode(path), _MNT_DETACH))
            unmounted = True
        if unmounted or _content(path) is not None:
            path.unlink(missing_ok=True)


def _content(path: Path) -> str | None:
    """Return what a file of ours says, None if it is not ours or not there.  Raises ApplyError."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            text = file.read(_LONGEST).decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as err:
        raise ApplyError(f"{path}: {err.strerror or err}") from err
    return text if text.startswith(ALIAS) or path.name.startswith(_BEING_WRITTEN) else None


def _in_a_thread(wanted: Mapping[str, str], folder: Path) -> dict[Key, Exception]:
    """Make namespaces; return those that failed, and why.

    In a thread that ends: who makes a namespace is in it, and our own must never be.
    """
    failed: dict[Key, Exception] = {}

    def work() -> None:
        try:
            _prepare(folder)
        except (OSError, ApplyError) as err:
            failed.update(dict.fromkeys(wanted, told(f"folder {folder}", err)))
            return
        for name, alias in wanted.items():
            try:
                _make(folder / name, alias)
            except (OSError, ApplyError) as err:
                failed[name] = err if isinstance(err, ForeignError) else told(name, err)

    thread = threading.Thread(target=work, name="netns")
    thread.start()
    thread.join()
    return failed


def _prepare(folder: Path) -> None:
    """Have *folder* be a shared mount, so that names come and go in all mount namespaces.  Raises OSError, ApplyError.

    As iproute2 does it, with its lock: mounts upon mounts would double with each try.
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if _share(folder):
        return
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _share(folder):
            _mount(folder, folder, _MS_BIND | _MS_REC)
            _share(folder)
    except BlockingIOError:
        raise ApplyError("somebody else is setting it up at this moment") from None
    finally:
        os.close(lock)


def _share(folder: Path) -> bool:
    """Have the mount at *folder* be shared; tell whether there is one.  Raises OSError."""
    try:
        _mount("", folder, _MS_SHARED | _MS_REC)
    except OSError as err:
        if err.errno != errno.EINVAL:
            raise
        return False
    return True


def _make(path: Path, alias: str) -> None:
    """Make a namespace and move into it; mark and name it.  Raises OSError, ApplyError."""
    _check(_LIBC.unshare(_CLONE_NEWNET))
    with Namespace(path.name, os.open(_THIS_THREADS, os.O_RDONLY | os.O_CLOEXEC)) as namespace:
        namespace.mark(alias)
    _reserve(path, alias)
    try:
        _mount(_THIS_THREADS, path, _MS_BIND)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _reserve(path: Path, alias: str) -> None:
    """Have a file of ours at *path*, never seen without its content.  Raises OSError, ForeignError."""
    written = path.with_name(_BEING_WRITTEN + path.name)
    written.write_text(alias)
    try:
        path.hardlink_to(written)
    except FileExistsError:
        if _content(path) is None:
            raise ForeignError(
                f"namespace {path.name}: {path} exists, is no namespace, and was not made by hostplane"
            ) from None
    finally:
        written.unlink(missing_ok=True)


def _mount(source: str | Path, target: Path, flags: int) -> None:
    _check(_LIBC.mount(os.fsencode(source), os.fsencode(target), b"none", flags, None))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
