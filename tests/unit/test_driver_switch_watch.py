# SPDX-License-Identifier: Apache-2.0
"""The watch outlives peers that are no switch, or no switch any more."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.drivers.switch_watch import SwitchWatch

OPENFLOW_1_0_HELLO = b"\x01\x00\x00\x08\x00\x00\x00\x01"
OPENFLOW_1_4_HELLO = b"\x05\x00\x00\x08\x00\x00\x00\x01"
SHORT_MULTIPART = b"\x05\x13\x00\x0a\x00\x00\x00\x00\x00\x0d"


class Peer:
    """Takes connections, says *greeting* and closes them."""

    def __init__(self, path: Path, greeting: bytes) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._greeting = greeting
        self.taken = threading.Semaphore(0)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(self._greeting)
            self.taken.release()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(params=[b"", b"\x05", OPENFLOW_1_0_HELLO, OPENFLOW_1_4_HELLO, OPENFLOW_1_4_HELLO + SHORT_MULTIPART])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    running = Peer(tmp_path / "br-int.mgmt", request.param)
    yield running
    running.close()


def test_a_peer_that_hangs_up_is_tried_again_and_again(peer: Peer, tmp_path: Path) -> None:
    events: list[str] = []
    watch = SwitchWatch(tmp_path / "br-int.mgmt", lambda _: events.append("back"), lambda: events.append("lost"))
    watch.start()
    try:
        for _ in range(5):
            assert peer.taken.acquire(timeout=10)
    finally:
        watch.stop()
    assert not watch.is_connected()
    assert events == []
