# SPDX-License-Identifier: Apache-2.0
"""Names of hosts to addresses: the system's resolver blocks, so it runs in a thread."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from dataclasses import dataclass

from agent.responder import green

LOG = logging.getLogger(__name__)

KEPT = 30.0  # seconds that an answer is used without asking again

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


@dataclass(slots=True)
class _Answer:
    addresses: tuple[Address, ...]
    until: float


class Resolver:
    """Remembers what it has found; an old answer is better than none."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], _Answer] = {}
        self._asking: dict[tuple[str, int], green.Event] = {}

    def resolve(self, host: str, port: int, seconds: float) -> tuple[Address, ...]:
        """Return the addresses of *host*, the preferred first; OSError, TimeoutError after *seconds*."""
        try:
            return _lookup(host, port, socket.AI_NUMERICHOST)
        except OSError:
            pass  # a name
        where = host, port
        known = self._known.get(where)
        if known is not None and known.until > time.monotonic():
            return known.addresses
        asking = self._asking.get(where)
        if asking is None:
            asking = self._asking[where] = green.Event()
            green.spawn("resolver", self._ask, where, asking)
        if asking.wait(timeout=seconds) is None and known is None:
            raise TimeoutError(f"no address of {host} was found in time")
        known = self._known.get(where)
        if known is None:
            raise OSError(f"the address of {host} cannot be found")
        return known.addresses

    def _ask(self, where: tuple[str, int], asking: green.Event) -> None:
        found: list[tuple[Address, ...]] = []
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

        def work() -> None:
            try:
                found.append(_lookup(*where, 0))
            except (OSError, UnicodeError) as err:
                LOG.warning("the address of %s cannot be found: %s", where[0], err)
            finally:
                os.close(writer)

        threading.Thread(target=work, name="resolver", daemon=True).start()
        try:
            green.wait_readable(reader)
        finally:
            os.close(reader)
            del self._asking[where]
            if found:
                self._known[where] = _Answer(found[0], time.monotonic() + KEPT)
            asking.send(True)


def _lookup(host: str, port: int, flags: int) -> tuple[Address, ...]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return tuple(
        (family, (address[0], address[1]) if len(address) == 2 else (address[0], address[1], address[2], address[3]))
        for family, _, _, _, address in found
        if isinstance(address[0], str) and isinstance(address[1], int)
    )
