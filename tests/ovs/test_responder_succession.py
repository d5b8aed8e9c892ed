# SPDX-License-Identifier: Apache-2.0
"""One responder after another on the same sockets: replaced, drained, killed, started by systemd; nobody is refused."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest
from scapy.layers.dhcp import BOOTP
from scapy.layers.l2 import Ether

from agent.core.service_identity import DHCP_SOCKET, METADATA_SOCKET4, identity_mac
from agent.metadata.data import NovaData
from agent.responder_client import Request, close_all
from tests.ovs.responder_lab import (
    discover,
    lab,
    put_dhcp,
    put_metadata,
    put_service,
    read_answer,
    with_xid,
)

GET = b"GET /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n"
PORTS = range(1, 5)


@pytest.fixture
def place(tmp_path):
    with lab(tmp_path) as found:
        yield found


@pytest.fixture
def manager(tmp_path):
    """systemd's notification socket."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(path))
        for folder in (tmp_path, *tmp_path.parents):  # the responder sends there when it is root no more
            if folder.owner() == "root" and folder != Path("/tmp"):
                folder.chmod(folder.stat().st_mode | 0o011)
        path.chmod(0o777)
        bound.settimeout(10)
        yield bound


def told():
    return [*map(put_dhcp, PORTS), *map(put_metadata, PORTS)]


class Asking:
    """Asks for an address and for metadata without rest, and notes what was not answered."""

    def __init__(self, place):
        self._place = place
        self._ends = threading.Event()
        self.unanswered: list[str] = []
        self.answered = 0
        self._threads = [threading.Thread(target=work) for work in (self._frames, self._requests)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _frames(self):
        frames = {number: discover(number) for number in PORTS}
        xid = 0
        while not self._ends.wait(0.02):
            xid += 1
            number = 1 + xid % len(PORTS)
            wanted = lambda frame, xid=xid: BOOTP in (found := Ether(frame)) and found[BOOTP].xid == xid  # noqa: E731
            self._note(self._place.ask(with_xid(frames[number], xid), number, 5.0, want=wanted), f"discover {xid}")

    def _requests(self):
        asked = 0
        while not self._ends.wait(0.01):
            asked += 1
            try:
                answer = self._place.get(1 + asked % len(PORTS), version=4 + asked % 2 * 2)
            except OSError as err:
                answer = None
                self.unanswered.append(repr(err))
            self._note(answer, f"request {asked}")

    def _note(self, answer, what):
        if answer:
            self.answered += 1
        else:
            self.unanswered.append(what)

    def wait_for_more(self, number=20):
        until, target = time.monotonic() + 20, self.answered + number
        while self.answered < target:
            assert time.monotonic() < until, self.unanswered


def test_a_successor_takes_over_without_a_refused_request(place):
    first = place.start(*told())
    with Asking(place) as asking:
        asking.wait_for_more()
        second = place.start(sockets=False)  # knows from the file what the first was told
        sockets = first.client.sockets()
        digests = first.client.digests()
        assert {key: digest for key, digest in digests.items() if key not in sockets} == second.client.digests()
        kinds = {DHCP_SOCKET: "frames"}
        given = [
            Request({"type": "socket", "key": key, "kind": kinds.get(key, "metadata"), "digest": digests[key]}, number)
            for key, number in sockets.items()
        ]
        assert second.tell(*given) == [None] * 3
        close_all(sockets.values())
        asking.wait_for_more()
        first.drain()
        assert first.wait() == 0
        asking.wait_for_more()
    assert asking.unanswered == []
    assert second.client.digests() == digests


def test_what_a_responder_that_was_killed_did_not_read_is_answered_by_the_next(place):
    first = place.start(*told())
    first.process.send_signal(19)  # stopped: what comes now waits
    place.wire.send(discover(1, xid=77))
    waiting = place.connect(2)
    waiting.sendall(GET)
    first.kill()

    place.start()

    assert Ether(place.hear(1, want=lambda frame: BOOTP in Ether(frame)))[BOOTP].xid == 77
    assert read_answer(waiting) == (200, b"of port-2")
    waiting.close()


def test_draining_ends_what_is_idle_answers_what_is_open_and_reads_nothing_more(place):
    with socket.socket() as nova:
        nova.bind(("127.0.0.1", 0))
        nova.listen()
        url = f"http://127.0.0.1:{nova.getsockname()[1]}"
        first = place.start(put_service(NovaData(url)), put_dhcp(1), put_metadata(1), put_metadata(2, nova=True))
        idle, busy = place.connect(1), place.connect(2)
        idle.sendall(GET)
        assert read_answer(idle) == (200, b"of port-1")
        busy.sendall(GET)
        asked, _ = nova.accept()
        assert b"X-Instance-Id: instance-2" in asked.recv(65536).replace(b"-ID:", b"-Id:")
        shy = place.connect(1)  # has connected and will ask in a moment
        until = time.monotonic() + 5
        while first.stats()["counters"]["connections"] != {"state=open": 3}:
            assert time.monotonic() < until

        first.terminate()
        assert idle.recv(1) == b""  # at once
        assert first.process.poll() is None
        shy.sendall(GET)
        assert read_answer(shy) == (200, b"of port-1")
        assert shy.recv(1) == b""
        place.wire.send(discover(1, xid=5))
        late = place.connect(1)
        late.sendall(GET)
        asked.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfrom Nova")
        assert read_answer(busy) == (200, b"from Nova")
        assert busy.recv(1) == b""
        assert first.wait() == 0

        place.start()
        assert read_answer(late) == (200, b"of port-1")
        assert Ether(place.hear(1, want=lambda frame: BOOTP in Ether(frame)))[BOOTP].xid == 5
        for each in (idle, busy, shy, asked, late):
            each.close()


def test_a_draining_responder_takes_nothing_more_and_still_tells(place):
    with socket.socket() as nova:
        nova.bind(("127.0.0.1", 0))
        nova.listen()
        service = put_service(NovaData(f"http://127.0.0.1:{nova.getsockname()[1]}"))
        first = place.start(service, put_metadata(2, nova=True))
        with place.connect(2) as busy:
            busy.sendall(GET)
            asked, _ = nova.accept()
            first.drain()
            assert first.tell(put_dhcp(3)) == ["this responder drains: speak to its successor"]
            sockets = first.client.sockets()
            assert sockets.keys() == place.sockets.keys()
            close_all(sockets.values())
            assert first.stats()["counters"]["connections"] == {"state=open": 1}
            asked.close()
            assert read_answer(busy)[0] == 503
        assert first.wait() == 0


def test_systemd_keeps_the_sockets_and_a_crash_is_survived_without_any_agent(place, manager):
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "2000000"}
    first = place.start(*told(), environ=environ)
    stored: dict[str, int] = {}
    said: set[str] = set()
    while len(stored) < 3 or "WATCHDOG=1" not in said:
        text, numbers, _, _ = socket.recv_fds(manager, 4096, 4)
        lines = text.decode().split("\n")
        said |= set(lines)
        if "FDSTORE=1" in lines:
            assert "FDPOLL=0" in lines
            stored[dict(line.split("=", 1) for line in lines)["FDNAME"]] = numbers[0]
    assert "READY=1" in said
    assert all(len(name) < 256 and ":" not in name and name.isascii() for name in stored)
    digests = first.client.digests()
    for opened in place.sockets.values():
        opened.close()  # the agent is away
    first.kill()

    second = place.start(sockets=False, stored=stored, environ=environ)
    assert Ether(place.ask(discover(1, xid=3), 1, want=lambda frame: BOOTP in Ether(frame)))[BOOTP].xid == 3
    assert place.get(3, version=6) == (200, b"of port-3")
    assert second.client.digests() == digests

    assert second.tell(Request({"type": "delete", "key": METADATA_SOCKET4})) == [None]
    while b"FDSTOREREMOVE=1" not in (text := manager.recv(4096)):
        pass
    assert text.decode().split("\n")[1].removeprefix("FDNAME=") in stored
    with pytest.raises(OSError):
        for number in stored.values():
            os.close(number)
        place.connect(1, seconds=0.5)
    second.terminate()
    assert second.wait() == 0
    while b"STOPPING=1" not in manager.recv(4096):
        pass


def test_a_socket_is_replaced_by_another_of_the_same_key(place):
    first = place.start(*told())
    again = place.sockets[DHCP_SOCKET].dup()
    request = {"type": "socket", "key": DHCP_SOCKET, "kind": "frames", "digest": "new"}
    assert first.tell(Request(request, again.fileno())) == [None]
    again.close()
    assert first.client.digests()[DHCP_SOCKET] == "new"
    assert place.ask(discover(1), 1) is not None
    assert bytes.fromhex(identity_mac(1).replace(":", "")) == place.ask(discover(1), 1)[6:12]
