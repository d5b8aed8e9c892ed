# SPDX-License-Identifier: Apache-2.0
"""The sockets that the responder reads: opened by us, and kept by us as well.

Because we hold a duplicate of each, what has come in and was not read outlives a
responder that dies, and its successor goes on reading where it left off.  A process of
ours that has just started gets its duplicates back from the responder.  Whether a
socket is the one that is wanted, and still reads what it should, is asked of the kernel.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from agent.core.errors import ApplyError
from agent.core.items import ResponderSocket, SocketKind
from agent.core.plan import Key
from agent.drivers import namespace_sockets
from agent.drivers.namespace_sockets import Place

PREFIX: Final = "socket "
Places: TypeAlias = Callable[[str, str], Place | None]
_NONE = "-"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class Sockets:
    """Keeps the sockets by key; used by one thread."""

    def __init__(self) -> None:
        self._kept: dict[Key, socket.socket] = {}

    def get(self, key: Key, wanted: ResponderSocket) -> tuple[socket.socket, str]:
        """Return a socket that is as *wanted*, which stays ours, and its digest: the one that is kept, or a new one.

        Raises ApplyError.
        """
        if not self.has(key, wanted):
            self.forget(key)
            self._kept[key] = _open(wanted)
        kept = self._kept[key]
        return kept, _digest(wanted, namespace_sockets.place_of_socket(kept))

    def has(self, key: Key, wanted: ResponderSocket) -> bool:
        """Tell whether the socket that is kept is as *wanted*.  Raises ApplyError."""
        kept = self._kept.get(key)
        return kept is not None and _is_as_wanted(kept, wanted)

    def missing(self) -> bool:
        """Tell whether nothing is kept, as when we have just started."""
        return not self._kept

    def adopt(self, descriptors: Mapping[Key, int]) -> None:
        """Keep what the responder has sent; of a key that is kept already what was kept stays."""
        for key, number in descriptors.items():
            adopted = socket.socket(fileno=number)
            if key.startswith(PREFIX) and key not in self._kept:
                self._kept[key] = adopted
            else:
                adopted.close()

    def forget(self, key: Key) -> None:
        """Keep the socket no longer."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            kept.close()


def value_of(digest: str, place: Places) -> ResponderSocket:
    """Return the item that the responder's socket with *digest* is; one with an empty device if it reads nothing.

    Raises ApplyError.
    """
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
    """Return what tells a socket from all others, so that `value_of` can be asked by a process without memory.

    Letters and digits only: it becomes part of a name in systemd's descriptor store.
    """
    described = (wanted.kind, wanted.namespace, wanted.device, wanted.address or _NONE, wanted.port)
    return " ".join(map(str, (*described, here.cookie, here.index))).encode().hex()


def _reads(here: Place, there: Place | None) -> bool:
    """Tell whether a socket at *here* reads what one opened at *there* would read."""
    return there is not None and here.cookie == there.cookie and here.index in (0, there.index)


def _is_as_wanted(kept: socket.socket, wanted: ResponderSocket) -> bool:
    with contextlib.suppress(OSError):  # it is no socket of the kind that it should be
        if wanted.kind is SocketKind.FRAMES:
            fits = kept.family == socket.AF_PACKET and kept.type == socket.SOCK_RAW
        else:
            listens = kept.family in (socket.AF_INET, socket.AF_INET6) and kept.type == socket.SOCK_STREAM
            fits = (
                listens
                and kept.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
                and tuple(kept.getsockname()[:2]) == (wanted.address, wanted.port)
            )
        return fits and namespace_sockets.is_in_place(kept, wanted.namespace, wanted.device)
    return False


def _open(wanted: ResponderSocket) -> socket.socket:
    match wanted.kind:
        case SocketKind.FRAMES:
            return namespace_sockets.open_packet_socket(wanted.namespace, wanted.device)
        case SocketKind.METADATA:
            return namespace_sockets.open_listener(wanted.namespace, wanted.device, wanted.address, wanted.port)
    raise ApplyError(f"responder: sockets of kind {wanted.kind} are not known")
