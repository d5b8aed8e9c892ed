# SPDX-License-Identifier: Apache-2.0
"""systemd's descriptor store: sockets in it outlive the process (sd_pid_notify_with_fds(3), sd_listen_fds(3)).

A socket is stored under ``<key>@<digest>``.  So the next process knows from the name
alone what it is, and a new socket of the same key can be stored before the old is
removed.  Without systemd nothing here does anything.
"""

from __future__ import annotations

import array
import logging
import os
import socket
from collections.abc import MutableMapping
from typing import NamedTuple
from urllib.parse import quote, unquote

LOG = logging.getLogger(__name__)

FIRST = 3  # SD_LISTEN_FDS_START
LONGEST_NAME = 255
_SEPARATOR = "@"


class Stored(NamedTuple):
    """A socket that an earlier process has stored."""

    key: str
    digest: str
    descriptor: int


class Passed(NamedTuple):
    """What systemd has given us: where to listen, and what was stored."""

    listening: tuple[int, ...]
    stored: tuple[Stored, ...]


def take_passed(environ: MutableMapping[str, str] = os.environ) -> Passed:
    """Return what *environ* says was passed to us, and remove its variables; all is closed on exec from now on."""
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return Passed((), ())
    listening: list[int] = []
    stored: list[Stored] = []
    for index in range(int(count)):
        descriptor = FIRST + index
        os.set_inheritable(descriptor, False)
        key, separator, digest = unquote(names[index]).partition(_SEPARATOR) if index < len(names) else ("", "", "")
        if separator and key.startswith("socket "):
            stored.append(Stored(key, digest, descriptor))
        else:
            listening.append(descriptor)
    return Passed(tuple(listening), tuple(stored))


class FdStore:
    """Stores and removes sockets at the service manager at *address*, the value of ``NOTIFY_SOCKET``."""

    def __init__(self, address: str | None) -> None:
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self._names: dict[str, str] = {}

    def adopt(self, stored: Stored) -> None:
        """Note that a socket is in the store already."""
        self._names[stored.key] = name_of(stored.key, stored.digest)

    def put(self, key: str, digest: str, descriptor: int) -> None:
        """Store a socket, in place of the one of that key."""
        before, name = self._names.get(key), name_of(key, digest)
        if before == name:
            self.delete(key)
        # Without FDPOLL=0 the store would let go of a packet socket whose device is down for a moment.
        if self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", descriptor):
            self._names[key] = name
            if before not in (None, name):
                self._send(f"FDSTOREREMOVE=1\nFDNAME={before}")

    def delete(self, key: str) -> None:
        """Take the socket of *key* out of the store."""
        name = self._names.pop(key, None)
        if name is not None:
            self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _send(self, text: str, *descriptors: int) -> bool:
        if not self._address:
            return False
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.setblocking(False)
            try:
                manager.sendmsg([text.encode()], ancillary, 0, self._address)
            except OSError as err:
                LOG.warning(
                    "the service manager takes no socket, and a restart without the agent would lose it: %s", err
                )
                return False
        return True


def name_of(key: str, digest: str) -> str:
    """Return the name under which a socket is stored: printable ASCII without colons, at most 255 characters."""
    return quote(f"{key}{_SEPARATOR}{digest}", safe=" @/")[:LONGEST_NAME]
