# SPDX-License-Identifier: Apache-2.0
"""What a router's namespace tells at this moment: whether next hops answer, and how often its rules were used.

Read for the status page only; nothing is kept or changed.  Any thread may look: it visits
the namespace itself, and a program that it starts there inherits that.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Mapping
from pathlib import Path

from agent.command import Runner
from agent.core.errors import ApplyError
from agent.drivers.namespaces import open_ours, told
from agent.drivers.routes_netlink import RouteTable
from agent.drivers.routes_text import Neighbor
from agent.namespace import FOLDER, inside

_LINE = re.compile(r"\[(\d+):\d+\] -A (hp-.*)")


class RouterLook:
    """Looks into the routers' namespaces that have a name in *folder*; *backend* is that of ``NatDriver``."""

    def __init__(self, run: Runner, backend: str = "", folder: Path = FOLDER) -> None:
        self._run = run
        self._program = f"iptables{backend and '-' + backend}-save"
        self._folder = folder

    def neighbors(self, name: str, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return the MAC addresses of (device, address), empty for who was asked for and does not answer.

        Who has not been asked for of late is left out.  Raises ApplyError.
        """
        keys = {Neighbor(device, _packed(address)): (device, address) for device, address in wanted}
        namespace = open_ours(name, self._folder)
        if namespace is None:
            return {}
        with namespace:
            try:
                entries = RouteTable(namespace.kernel).neighbors(list(keys))
            except OSError as err:
                raise told(name, err) from err
        return {keys[thing]: entry.address for thing, entry in entries.items() if thing in keys}

    def translated(self, name: str) -> Mapping[str, int]:
        """Return how many connections each IPv4 rule of ours has begun to translate, by chain and rule.

        Of a connection only the first packet meets them (iptables(8), table ``nat``).  Raises
        ApplyError, CommandError.
        """
        namespace = open_ours(name, self._folder)
        if namespace is None:
            return {}
        with namespace:
            try:
                with inside(namespace.descriptor):
                    text = self._run((self._program, "-c", "-t", "nat"))
            except OSError as err:
                raise told(name, err) from err
        found = (_LINE.fullmatch(line) for line in text.splitlines())
        return {line[2]: int(line[1]) for line in found if line is not None}


def _packed(address: str) -> bytes:
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except OSError as err:
        raise ApplyError(f"{address!r} is no address") from err
