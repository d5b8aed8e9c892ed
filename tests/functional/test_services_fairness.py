# SPDX-License-Identifier: Apache-2.0
"""An instance that connects to the metadata service without pause costs itself, and nobody else."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.service_identity import METADATA4, METADATA_PORT
from agent.l2.settings import MetadataLimits
from agent.namespace import inside
from tests.functional.filter_wire import namespace_of
from tests.functional.instance_sockets import Http
from tests.functional.lab import Lab
from tests.functional.service_places import route_to_metadata

pytestmark = pytest.mark.alone

DOCUMENT = """
networks:
  a: {type: vxlan}
subnets:
  a4: {network: a, cidr: 10.0.0.0/24}
ports:
  greedy: {network: a, host: host1, fixed_ips: [10.0.0.11], metadata: {instance_id: i-greedy}}
  modest: {network: a, host: host1, fixed_ips: [10.0.0.12], metadata: {instance_id: i-modest}}
"""
AT_ONCE = 256  # connections that are being opened
REQUESTS = 150  # fewer than may be asked at once
LIMITS = MetadataLimits()
RATE, BURST = 4 * LIMITS.rate, 4 * LIMITS.burst  # of connections


class Flood:
    """Opens connections and closes them at once; counts those that were taken."""

    def __init__(self, namespace: Path) -> None:
        self.taken = 0
        self._namespace = namespace
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()

    def _run(self) -> None:
        poller = select.epoll()
        links: dict[int, socket.socket] = {}
        with self._namespace.open("rb") as opened, inside(opened.fileno()):
            while not self._stopping.is_set():
                while len(links) < AT_ONCE:
                    link = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    with contextlib.suppress(BlockingIOError):
                        link.connect((METADATA4, METADATA_PORT))
                    links[link.fileno()] = link
                    poller.register(link, select.EPOLLOUT)
                for descriptor, events in poller.poll(0.05):
                    link = links.pop(descriptor)
                    poller.unregister(link)
                    link.close()
                    self.taken += not events & select.EPOLLERR
        for link in links.values():
            link.close()
        poller.close()


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(1)
    lab.bring_up(DOCUMENT)
    route_to_metadata(lab, "greedy", "modest")
    return lab


def test_who_connects_without_pause_has_nobody_else_wait(lab: Lab) -> None:
    flood, waited = Flood(namespace_of(lab, "greedy")), []
    begun = time.monotonic()
    with flood.running():
        for _ in range(REQUESTS):
            asked = time.monotonic()
            with Http(namespace_of(lab, "modest")) as connection:
                assert connection.ask("/latest/meta-data/instance-id").text == "i-modest"
            waited.append(time.monotonic() - asked)
    seconds = time.monotonic() - begun
    print(f"{flood.taken / seconds:.0f} connections/s of one instance were taken; another one waited for ", end="")
    print(f"{sorted(waited)[REQUESTS // 2] * 1000:.1f} ms, at most {max(waited) * 1000:.1f} ms")
    # What is dropped in time takes nobody's turn; how long one waits is the machine's business as well.
    assert 0 < flood.taken <= BURST + RATE * seconds
