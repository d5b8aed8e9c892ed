# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the hand-over socket: asks the responder, many things at once, and waits no longer than told.

The responder reads what tenants send, so what it answers is checked like any input:
its answers have to come in order and in time, and who it is says the kernel.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from agent import __version__
from agent.core.errors import AwayError
from agent.responder import protocol
from agent.responder.protocol import Decoder, Frame, ProtocolError

SILENCE: Final = 5.0  # seconds that the responder may take for one answer
LONGEST: Final = 10.0  # seconds for all answers to what was asked at once; a third of the unit's WatchdogSec
_CHUNK = 1 << 16  # octets
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)
_ANCILLARY = socket.CMSG_SPACE(protocol.MAX_DESCRIPTORS * 4) + socket.CMSG_SPACE(_CREDENTIALS.size)


class ResponderAwayError(AwayError):
    """The responder is not there, ended, or does not answer in time; it is started again."""


class ResponderSilentError(ResponderAwayError):
    """Somebody is there and does not answer in time."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who answers: ``generation`` is of one process, ``protocol`` (major, minor); ``pid`` is what the kernel says."""

    protocol: tuple[int, int]
    version: str
    generation: str
    pid: int

    @property
    def is_ours(self) -> bool:
        """Tell whether it is of our own version."""
        return (self.protocol, self.version) == (protocol.PROTOCOL, __version__)

    @property
    def understands_us(self) -> bool:
        """Tell whether more may be said than ``hello``, ``sockets`` and ``drain``."""
        return self.protocol[0] == protocol.PROTOCOL[0]


class Request(NamedTuple):
    """A frame without its ``seq``, and a descriptor to send with it, which stays the caller's."""

    frame: Frame
    descriptor: int | None = None


class Answer(NamedTuple):
    """A frame, and descriptors that the receiver owns."""

    frame: Frame
    descriptors: list[int]

    @property
    def error(self) -> str | None:
        """Why it was not done."""
        error = self.frame.get("error")
        return None if error is None else str(error)


class ResponderClient:
    """A connection to one responder, for one thread; only ``abort`` may be called by another.

    Everything raises ResponderAwayError, or ProtocolError for answers that make no
    sense; the connection is closed then.
    """

    def __init__(self, path: Path, patience: float = SILENCE) -> None:
        """Connect to the socket at *path*; *patience* in seconds is for connecting and saying hello, each."""
        self._path = path
        self._decoder = Decoder()
        self._sequence = 0
        self._pid = 0
        self._socket = _connect(path, patience)
        self.hello = self._say_hello(patience)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
        for number in self._decoder.abandon():
            os.close(number)

    def abort(self) -> None:
        """Have whoever waits on the connection see its end at once."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended already

    def fileno(self) -> int:
        """Return the descriptor: it is readable once the responder has ended."""
        return self._socket.fileno()

    # What can be asked.

    def ask(self, requests: Sequence[Request], silence: float | None = None) -> list[Answer]:
        """Send *requests* without waiting in between; return an answer for each.

        At most *silence* seconds (``SILENCE`` if None) may pass without one.
        """
        answers: list[Answer] = []
        first = self._sequence + 1
        self._sequence += len(requests)
        try:
            outgoing = _Outgoing(requests, first)
            silence = SILENCE if silence is None else silence
            now = time.monotonic()
            until, end = now + silence, now + LONGEST
            while len(answers) < len(requests):
                before = len(answers)
                self._exchange(outgoing, answers, first, min(until, end))
                if len(answers) > before:
                    until = time.monotonic() + silence
        except BaseException:
            for answer in answers:
                close_all(answer.descriptors)
            self.close()
            raise
        return answers

    def digests(self, keys: Collection[str] | None = None) -> dict[str, str]:
        """Return the digests of what it knows, all of it or of *keys*."""
        frame: dict[str, object] = {"type": "digests"}
        if keys is not None:
            frame["keys"] = sorted(keys)
        found = self._one(frame).get("digests")
        if not isinstance(found, dict):
            raise self._nonsense("digests")
        return {str(key): str(digest) for key, digest in found.items() if keys is None or key in keys}

    def sockets(self) -> dict[str, int]:
        """Return duplicates of its sockets by key; the caller owns them."""
        (answer,) = self.ask([Request({"type": "sockets"})])
        keys = answer.frame.get("keys")
        if not isinstance(keys, list) or len(keys) != len(answer.descriptors):
            close_all(answer.descriptors)
            raise self._nonsense("sockets")
        return {str(key): number for key, number in zip(keys, answer.descriptors, strict=True)}

    def stats(self, port: str | None, patience: float) -> Frame:
        """Return what it has counted, and of *port* what it answered last; *patience* is in seconds."""
        frame = {"type": "stats"} if port is None else {"type": "stats", "port": port}
        return self._one(frame, patience)

    def drain(self) -> None:
        """Have it read no more, and end when the requests that are open have ended."""
        self._one({"type": "drain"})

    def _one(self, frame: Frame, silence: float | None = None) -> Frame:
        (answer,) = self.ask([Request(frame)], silence)
        close_all(answer.descriptors)
        if answer.error is not None:
            raise ResponderAwayError(f"responder: {frame['type']}: {answer.error}")
        return answer.frame

    # How it is done.

    def _say_hello(self, patience: float) -> Hello:
        answer = self.ask([Request({"type": "hello", "protocol": protocol.PROTOCOL, "version": __version__})], patience)
        close_all(answer[0].descriptors)
        frame = answer[0].frame
        match frame.get("protocol"):
            case [int(major), int(minor)]:
                return Hello((major, minor), str(frame.get("version")), str(frame.get("generation")), self._pid)
        raise self._nonsense("hello")

    def _exchange(self, outgoing: _Outgoing, answers: list[Answer], first: int, until: float) -> None:
        """Send what can be sent and receive what has come; wait for the one or the other."""
        wait = until - time.monotonic()
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | (0 if outgoing.is_done else select.POLLOUT))
        events = poller.poll(max(wait, 0) * 1000)
        if not events:
            raise ResponderSilentError(f"the responder at {self._path} does not answer")
        try:
            if events[0][1] & select.POLLOUT:
                outgoing.send(self._socket)
            if events[0][1] & ~select.POLLOUT:
                self._receive(answers, first)
        except OSError as err:
            raise ResponderAwayError(f"the responder at {self._path} has ended: {err.strerror or err}") from None

    def _receive(self, answers: list[Answer], first: int) -> None:
        data, ancillary, _, _ = self._socket.recvmsg(_CHUNK, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        descriptors: list[int] = []
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                descriptors += numbers
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                self._pid = _CREDENTIALS.unpack_from(content)[0]
        if not data:
            close_all(descriptors)
            raise ResponderAwayError(f"the responder at {self._path} has ended")
        for frame, own in self._decoder.feed(data, descriptors):
            answers.append(Answer(frame, own))
            # The first answer is to hello, which older responders may not number.
            if frame.get("seq", first) != first + len(answers) - 1:
                raise self._nonsense(str(frame.get("type")))

    def _nonsense(self, what: str) -> ProtocolError:
        return ProtocolError(f"the responder at {self._path} answers nonsense to {what}")


class _Outgoing:
    """What is still to be sent."""

    def __init__(self, requests: Sequence[Request], first: int) -> None:
        self._chunks = _chunks(requests, first)
        self._rest = memoryview(b"")
        self._descriptor: int | None = None
        self.is_done = False
        self._next()

    def send(self, to: socket.socket) -> None:
        """Send until the socket takes no more.  Raises OSError."""
        while not self.is_done:
            rights = []
            if self._descriptor is not None:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self._descriptor]))]
            try:
                sent = to.sendmsg([self._rest], rights, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            self._descriptor = None  # gone with the first octet
            self._rest = self._rest[sent:]
            if not self._rest:
                self._next()

    def _next(self) -> None:
        chunk, self._descriptor = next(self._chunks, (b"", None))
        self._rest = memoryview(chunk)
        self.is_done = not chunk


def close_all(descriptors: Collection[int]) -> None:
    """Close *descriptors*."""
    for number in descriptors:
        os.close(number)


def _chunks(requests: Sequence[Request], first: int) -> Iterator[tuple[bytes, int | None]]:
    """Yield the octets of *requests*, small ones together; one with a descriptor has a chunk of its own."""
    plain = bytearray()
    for number, request in enumerate(requests, first):
        data = protocol.encode({**request.frame, "seq": number})
        if request.descriptor is None:
            plain += data
        if plain and (request.descriptor is not None or len(plain) >= _CHUNK):
            yield bytes(plain), None
            plain.clear()
        if request.descriptor is not None:
            yield data, request.descriptor
    if plain:
        yield bytes(plain), None


def _connect(path: Path, patience: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(patience)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # each answer says which process sent it
        # Through the folder's descriptor: a socket's path may have 107 bytes only.
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        connection.setblocking(False)
    except OSError as err:
        connection.close()
        raise ResponderAwayError(f"no responder answers at {path}: {err.strerror or err}") from None
    return connection
