# SPDX-License-Identifier: Apache-2.0
"""Giving up everything that a process can give up, for good, after all modules are imported.

Modules may lie where only root can read, so that the process starts as root and
becomes its user itself.  Under systemd it is that user already; the rest is done all
the same.  Sources: capabilities(7), prctl(2), credentials(7), getrlimit(2).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import ConfigError

MEMORY = 1 << 29  # octets of address space, several times of what 1,000 ports take
DESCRIPTORS = 8192

_PR_SET_DUMPABLE, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 4, 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_CAPABILITIES = 64  # more than any kernel has
_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@dataclass(frozen=True, slots=True)
class Account:
    """Whom we become."""

    uid: int
    gid: int


def find_account(name: str) -> Account:
    """Return the account called *name*; raise ConfigError if there is none, or if it is root's."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"user {name} does not exist: make it (systemd-sysusers), or set [responder] user") from None
    if entry.pw_uid == 0 or entry.pw_gid == 0:
        raise ConfigError(f"user {name} is root, and the responder must not be: set [responder] user to another")
    return Account(entry.pw_uid, entry.pw_gid)


def drop(account: Account | None) -> None:
    """Become *account* (None: stay who we are) without any privilege; raise ConfigError if that fails.

    Afterwards nothing can be regained: neither by exec of a set-user-ID program nor
    through what the process still holds.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _limit()
        if os.geteuid() == 0:
            if account is None:
                raise ConfigError("the responder does not run as root: give it --user")
            _drop_bounding_set(libc)
            os.setgroups([])
            os.setresgid(account.gid, account.gid, account.gid)
            os.setresuid(account.uid, account.uid, account.uid)
        _prctl(libc, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        _clear_capabilities(libc)
        _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
        _prctl(libc, _PR_SET_DUMPABLE, 0)
    except OSError as err:
        raise ConfigError(f"privileges cannot be dropped: {err}") from None
    _verify()


def _limit() -> None:
    for kind, wish in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_NOFILE, DESCRIPTORS), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY and os.geteuid() != 0:
            wish = min(wish, hard)
        resource.setrlimit(kind, (wish, wish))


def _drop_bounding_set(libc: ctypes.CDLL) -> None:
    for number in range(_CAPABILITIES):
        if libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            _prctl(libc, _PR_CAPBSET_DROP, number)


def _clear_capabilities(libc: ctypes.CDLL) -> None:
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    if libc.capset(ctypes.byref(header), data) != 0:
        raise _error("capset")


def _prctl(libc: ctypes.CDLL, option: int, argument: int) -> None:
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        raise _error(f"prctl {option}")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def _verify() -> None:
    """Look at what the kernel says of us; raise ConfigError if anything is left."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    left = [name for name in ("CapInh", "CapPrm", "CapEff", "CapAmb") if int(status[name], 16)]
    if left or status["NoNewPrivs"] != "1" or 0 in (*os.getresuid(), *os.getresgid(), *os.getgroups()):
        raise ConfigError(f"privileges are left after dropping them: {', '.join(left) or 'root'}")
    try:
        os.setresuid(0, 0, 0)
    except OSError:
        return
    raise ConfigError("root can be regained after privileges were dropped")
