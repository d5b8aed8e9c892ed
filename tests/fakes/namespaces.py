# SPDX-License-Identifier: Apache-2.0
"""Devices and sockets in namespaces for tests without root.

The sockets are real ones of the test's own namespace; which namespace and device they
are of is remembered by inode, which all duplicates of a socket have in common.
"""

from __future__ import annotations

import os
import socket

from agent.core.errors import ApplyError
from agent.drivers.namespace_sockets import Place


class FakeNamespaces:
    def __init__(self) -> None:
        self.places: dict[tuple[str, str], Place] = {}
        self.opened = 0
        self._of: dict[int, Place] = {}

    def make(self, namespace: str, device: str, cookie: int, index: int) -> None:
        self.places[namespace, device] = Place(cookie, index)

    def place(self, namespace: str, device: str) -> Place | None:
        return self.places.get((namespace, device))

    def place_of_socket(self, opened: socket.socket) -> Place:
        return self._of[os.fstat(opened.fileno()).st_ino]

    def open_packet_socket(self, namespace: str, device: str) -> socket.socket:
        raise ApplyError("packet sockets need root")

    def open_listener(self, namespace: str, device: str, address: str, port: int) -> socket.socket:
        there = self.places.get((namespace, device))
        if there is None:
            raise ApplyError(f"namespace {namespace}: {device} is not there")
        opened = socket.socket()
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((address, port))
            opened.listen()
        except OSError as err:
            opened.close()
            raise ApplyError(str(err)) from None
        self.opened += 1
        self._of[os.fstat(opened.fileno()).st_ino] = there
        return opened


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
