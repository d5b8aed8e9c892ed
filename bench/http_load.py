# SPDX-License-Identifier: Apache-2.0
"""Ask a metadata service as many instances at once, and tell how long each answer took.

Runs as a program of its own in the namespace that holds the instances' devices, on the
standard library alone.  Standard input is one JSON object, standard output another::

    {"instances": [{"device": ..., "address": ..., "expect": ...}, ...], "path": "/...",
     "count": 2000, "outstanding": 16, "keep_alive": true}
    {"done": 2000, "seconds": 1.5, "lost": 0, "wrong": 0, "first_wrong": "", "times": [...]}

So many requests are made, so many at a time, each of another instance.  With
``keep_alive`` each instance has one connection that stays; without, each request has a
connection of its own, and its time counts from the beginning of connecting.  An answer is
``wrong`` unless it is 200 and holds what its instance ``expect``s.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TARGET = ("169.254.169.254", 80)
LOST_AFTER = 2.0  # seconds
_READ = 1 << 16


@dataclass(slots=True)
class Instance:
    """One client; ``begun`` 0 means that it waits for nothing."""

    device: bytes
    address: str
    expect: bytes
    request: bytes
    link: socket.socket | None = None
    connected: bool = False
    begun: float = 0.0
    answer: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class Outcome:
    """What came of it all; ``times`` are seconds."""

    times: list[float] = field(default_factory=list)
    lost: int = 0
    wrong: int = 0
    first_wrong: str = ""


def whole(answer: bytearray) -> int:
    """Return how long the answer is that begins here, 0 while it is not whole (RFC 9112, with Content-Length)."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return 0
    head = bytes(answer[:end]).lower()
    at = head.find(b"\r\ncontent-length:")
    length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    return end + 4 + length if len(answer) >= end + 4 + length else 0


class Clients:
    """All instances and their connections."""

    def __init__(self, instances: Sequence[Mapping[str, str]], path: str, *, keep_alive: bool) -> None:
        connection = b"" if keep_alive else b"Connection: close\r\n"
        request = b"GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: bench\r\nAccept: */*\r\n%s\r\n" % (
            path.encode(),
            connection,
        )
        self.instances = [
            Instance(each["device"].encode(), each["address"], each["expect"].encode(), request) for each in instances
        ]
        self.outcome = Outcome()
        self._keep_alive = keep_alive
        self._poll = select.epoll()
        self._owners: dict[int, int] = {}

    def begin(self, index: int) -> None:
        """Send the request of an instance, on its connection or on a new one."""
        each = self.instances[index]
        each.answer.clear()
        each.begun = time.monotonic()
        if each.link is None:
            self._connect(index)
        else:
            each.link.send(each.request)

    def go_on(self, timeout: float) -> list[int]:
        """Do what can be done; return the instances whose answers are whole now, or that have failed."""
        done = []
        for descriptor, events in self._poll.poll(timeout):
            index = self._owners.get(descriptor)
            if index is None:
                continue
            each = self.instances[index]
            if not each.connected:
                each.connected = True
                self._poll.modify(descriptor, select.EPOLLIN)
                if events & (select.EPOLLERR | select.EPOLLHUP):
                    done.append(self._fail(index, "the connection was refused"))
                elif each.link is not None:
                    each.link.send(each.request)
            elif self._read(index):
                done.append(index)
        return done

    def give_up_late(self) -> list[int]:
        """Return the instances that have waited too long; their requests count as lost."""
        limit = time.monotonic() - LOST_AFTER
        late = [index for index, each in enumerate(self.instances) if each.begun and each.begun < limit]
        for index in late:
            self.outcome.lost += 1
            self._end(index)
        return late

    def _read(self, index: int) -> bool:
        """Take what has come; tell whether the request has ended, well or not."""
        each = self.instances[index]
        if each.link is None:
            return False
        try:
            data = each.link.recv(_READ)
        except BlockingIOError:
            return False
        except OSError as err:
            data, reason = b"", errno.errorcode.get(err.errno or 0, "?")
        else:
            reason = "the connection was closed"
        if not data:
            waited = bool(each.begun)
            if waited:
                self._fail(index, reason)
            else:
                self._disconnect(index)  # between two requests a server may
            return waited
        each.answer += data
        if not each.begun or not whole(each.answer):
            return False
        self._judge(each)
        each.begun = 0.0
        if not self._keep_alive or b"\r\nconnection: close" in bytes(each.answer[:512]).lower():
            self._disconnect(index)
        return True

    def _judge(self, each: Instance) -> None:
        if each.answer.startswith(b"HTTP/1.1 200 ") and each.expect in each.answer:
            self.outcome.times.append(time.monotonic() - each.begun)
        else:
            self._wrong(f"{each.address} got {bytes(each.answer[:300])!r}")

    def _wrong(self, text: str) -> None:
        self.outcome.wrong += 1
        self.outcome.first_wrong = self.outcome.first_wrong or text

    def _fail(self, index: int, reason: str) -> int:
        self._wrong(f"{self.instances[index].address}: {reason}")
        self._end(index)
        return index

    def _end(self, index: int) -> None:
        self.instances[index].begun = 0.0
        self._disconnect(index)

    def _connect(self, index: int) -> None:
        each = self.instances[index]
        link = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, each.device)
        link.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port is found with the target
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.bind((each.address, 0))
        each.link, each.connected = link, False
        self._owners[link.fileno()] = index
        self._poll.register(link, select.EPOLLOUT)
        link.connect_ex(TARGET)

    def _disconnect(self, index: int) -> None:
        each = self.instances[index]
        if each.link is not None:
            self._owners.pop(each.link.fileno(), None)
            self._poll.unregister(each.link)
            each.link.close()
            each.link = None


def rate(clients: Clients, count: int, outstanding: int) -> float:
    """Make *count* requests, *outstanding* at a time; return how many seconds it took."""
    resting = deque(range(len(clients.instances)))
    started = looked = time.monotonic()
    begun, going = 0, 0
    while going or begun < count:
        while going < outstanding and resting and begun < count:
            clients.begin(resting.popleft())
            begun, going = begun + 1, going + 1
        done = clients.go_on(0.05)
        if (now := time.monotonic()) - looked > LOST_AFTER / 10:
            looked = now
            done += clients.give_up_late()
        resting.extend(done)
        going -= len(done)
    return time.monotonic() - started


def main(order: Mapping[str, Any]) -> Mapping[str, object]:
    """Do what *order* says, after one request of each instance that does not count."""
    clients = Clients(order["instances"], order["path"], keep_alive=order["keep_alive"])
    count = len(clients.instances)
    rate(clients, count, order["outstanding"])
    clients.outcome.times.clear()
    took = rate(clients, order["count"], order["outstanding"])
    outcome = clients.outcome
    return {
        "done": len(outcome.times),
        "seconds": took,
        "lost": outcome.lost,
        "wrong": outcome.wrong,
        "first_wrong": outcome.first_wrong,
        "times": outcome.times,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
