# SPDX-License-Identifier: Apache-2.0
"""The sockets that the responder reads: opened by us, and kept by us as well.

Because we hold a duplicate of each, what has come in and was not read outlives a
responder that dies, and its successor goes on reading where it left off.  A process of
ours that has just started gets its duplicates back from the responder.  Whether a
socket is the one that is wanted, and still reads what it should, is asked of the kernel.
"""

from __future__ import annotations

import functools
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol, TypeAlias

from agent.core.errors import ApplyError
from agent.core.items import ResponderSocket, SocketKind
from agent.core.plan import Key
from agent.drivers import namespace_sockets
from agent.drivers.namespace_sockets import Place

PREFIX: Final = "socket "
Places: TypeAlias = Callable[[str, str], Place | None]
_NONE = "-"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class Kernel(Protocol):
    """Opens sockets and knows where they are; ``agent.drivers.namespace_sockets`` says more."""

    def open_packet_socket(self, namespace: str, device: str) -> socket.socket:
        """Return a socket for all frames of *device*."""

    def open_listener(self, namespace: str, device: str, address: str, port: int) -> socket.socket:
        """Return a listening TCP socket."""

    def place(self, namespace: str, device: str) -> Place | None:
        """Return where a socket opened now would read."""

    def place_of_socket(self, opened: socket.socket) -> Place:
        """Return where a socket reads."""


class Sockets:
    """Keeps the sockets by key; used by one thread."""

    def __init__(self, kernel: Kernel = namespace_sockets) -> None:
        self._kernel = kernel
        self._kept: dict[Key, socket.socket] = {}

    def get(self, key: Key, wanted: ResponderSocket) -> tuple[socket.socket, str]:
        """Return a socket that is as *wanted*, which stays ours, and its digest: the one that is kept, or a new one.

        Raises ApplyError.
        """
        if not self.has(key, wanted):
            self.forget(key)
            self._kept[key] = self._open(wanted)
        kept = self._kept[key]
        return kept, _digest(wanted, self._kernel.place_of_socket(kept))

    def has(self, key: Key, wanted: ResponderSocket) -> bool:
        """Tell whether the socket that is kept is as *wanted*.  Raises ApplyError."""
        kept = self._kept.get(key)
        return kept is not None and self._is_as_wanted(kept, wanted)

    def missing(self) -> bool:
        """Tell whether nothing is kept, as when we have just started."""
        return not self._kept

    def adopt(self, descriptors: Mapping[Key, int]) -> None:
        """Keep what the responder has sent; of a key that is kept already what was kept stays."""
        for key, number in descriptors.items():
            try:
                adopted = socket.socket(fileno=number)
            except OSError:  # no socket at all
                os.close(number)
                continue
            if key.startswith(PREFIX) and key not in self._kept:
                self._kept[key] = adopted
            else:
                adopted.close()

    def forget(self, key: Key) -> None:
        """Keep the socket no longer."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            kept.close()

    def values(self, digests: Mapping[Key, str]) -> dict[Key, ResponderSocket]:
        """Return the items that the responder's sockets are, by *digests*; of one that reads nothing the device is "".

        Raises ApplyError.
        """
        place = functools.cache(self._kernel.place)  # all are in one namespace
        return {key: _value(digest, place) for key, digest in digests.items()}

    def _open(self, wanted: ResponderSocket) -> socket.socket:
        match wanted.kind:
            case SocketKind.FRAMES:
                return self._kernel.open_packet_socket(wanted.namespace, wanted.device)
            case SocketKind.METADATA:
                return self._kernel.open_listener(wanted.namespace, wanted.device, wanted.address, wanted.port)
        raise ApplyError(f"responder: sockets of kind {wanted.kind} are not known")

    def _is_as_wanted(self, kept: socket.socket, wanted: ResponderSocket) -> bool:
        try:
            here = self._kernel.place_of_socket(kept)
            if wanted.kind is SocketKind.FRAMES:
                fits = kept.family == socket.AF_PACKET
            else:
                fits = (
                    kept.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
                    and kept.type == socket.SOCK_STREAM
                    and tuple(kept.getsockname()[:2]) == (wanted.address, wanted.port)
                )
        except OSError:
            return False  # it is of another kind altogether
        return fits and _reads(here, self._kernel.place(wanted.namespace, wanted.device))


def _value(digest: str, place: Places) -> ResponderSocket:
    try:
        kind, namespace, device, address, port, cookie, index = bytes.fromhex(digest).decode().split(" ")
        found = ResponderSocket(SocketKind(kind), namespace, device, "" if address == _NONE else address, int(port))
        here = Place(int(cookie), int(index))
    except ValueError:  # of a version that we do not know
        return ResponderSocket(SocketKind.FRAMES, "", "")
    if not _NAME.fullmatch(namespace):  # what the responder says must not make us open any file
        return replace(found, namespace="", device="")
    return found if _reads(here, place(namespace, device)) else replace(found, device="")


def _digest(wanted: ResponderSocket, here: Place) -> str:
    """Return what tells a socket from all others, so that a process without memory knows it again.

    Letters and digits only: it becomes part of a name in systemd's descriptor store.
    """
    described = (wanted.kind, wanted.namespace, wanted.device, wanted.address or _NONE, wanted.port)
    return " ".join(map(str, (*described, here.cookie, here.index))).encode().hex()


def _reads(here: Place, there: Place | None) -> bool:
    """Tell whether a socket at *here* reads what one opened at *there* would read."""
    return there is not None and here.cookie == there.cookie and here.index in (0, there.index)
