# SPDX-License-Identifier: Apache-2.0
"""The hand-over socket: agents tell what to answer, and give the sockets to answer on.

Only root may speak here (SO_PEERCRED of unix(7)).  There may be more than one agent for
a moment, when one takes over from another; the last word counts.
"""

from __future__ import annotations

import array
import logging
import os
import socket
import struct
import time
import uuid
from collections.abc import Mapping
from typing import Final, Protocol

import agent
from agent.core.errors import InputError
from agent.responder import green
from agent.responder.protocol import MAX_DESCRIPTORS, PROTOCOL, Decoder, Frame, ProtocolError, encode

LOG = logging.getLogger(__name__)

SLICE = 0.002  # seconds of work for an agent, then instances have their turn
READ = 1 << 16
REST = 0.1  # seconds after an error of accept

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_ROOM = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
_ALWAYS: Final = frozenset(("hello", "sockets", "drain"))  # what may be said with any major version


class Responder(Protocol):
    """What agents tell and ask; each raises InputError for what it does not take."""

    def put(self, key: str, digest: str, data: object) -> None:
        """Know *data* under *key*."""

    def put_socket(self, key: str, digest: str, kind: str, opened: socket.socket) -> None:
        """Read *opened*, which is the responder's from now on, in place of the one of that key."""

    def delete(self, key: str) -> None:
        """Know or read nothing under *key*; what it carried has ended."""

    def digests(self) -> Mapping[str, str]:
        """Return the digest of each key."""

    def sockets(self) -> Mapping[str, socket.socket]:
        """Return the sockets that are read."""

    def stats(self, port: str | None) -> Mapping[str, object]:
        """Return counters, and what *port* was answered."""

    def drain(self) -> None:
        """Read no more, and end soon."""


class Control:
    """Listens for agents; `accept_from` is a green thread's."""

    def __init__(self, responder: Responder, allowed_uid: int = 0) -> None:
        self._responder = responder
        self._allowed_uid = allowed_uid
        self.generation = uuid.uuid4().hex

    def accept_from(self, listener: socket.socket) -> None:
        """Serve agents until the thread is ended."""
        while True:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                green.wait_readable(listener)
                continue
            except OSError as err:
                LOG.warning("no agent can be accepted: %s", err.strerror)
                green.sleep(REST)
                continue
            pid, uid, _ = _CREDENTIALS.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if uid != self._allowed_uid:
                LOG.warning("process %d of user %d wanted to speak as an agent: refused", pid, uid)
                connection.close()
                continue
            connection.setblocking(False)
            green.spawn(f"agent {pid}", _Session(connection, pid, self._responder, self.generation).run)


class _Session:
    """The connection of one agent."""

    def __init__(self, connection: socket.socket, pid: int, responder: Responder, generation: str) -> None:
        self._connection = connection
        self._pid = pid
        self._responder = responder
        self._generation = generation
        self._decoder = Decoder()
        self._speaks = False  # our major version
        self._turn_ends = 0.0

    def run(self) -> None:
        """Answer frames until the agent ends the connection."""
        LOG.info("agent %d has connected", self._pid)
        try:
            while self._read():
                pass
        except ProtocolError as err:
            LOG.warning("agent %d: %s", self._pid, err)
        except OSError as err:
            LOG.info("agent %d: %s", self._pid, err.strerror)
        finally:
            for descriptor in self._decoder.abandon():
                os.close(descriptor)
            self._connection.close()
            LOG.info("agent %d has gone", self._pid)

    def _read(self) -> bool:
        """Read once and answer what has come; tell whether there may be more."""
        try:
            data, ancillary, flags, _ = self._connection.recvmsg(READ, _ROOM, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            green.wait_readable(self._connection)
            self._turn_ends = time.monotonic() + SLICE
            return True
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        frames = self._decoder.feed(data, descriptors)
        out = bytearray()
        for frame, own in frames:
            if frame["type"] == "sockets":
                green.send_all(self._connection, bytes(out))
                out.clear()
                self._send_sockets(frame)
            out += self._take(frame, own)
            if len(out) > READ or time.monotonic() > self._turn_ends:
                green.send_all(self._connection, bytes(out))
                out.clear()
                green.sleep()
                self._turn_ends = time.monotonic() + SLICE
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError("descriptors were lost")
        green.send_all(self._connection, bytes(out))
        return bool(data)

    def _take(self, frame: Frame, own: list[int]) -> bytes:
        """Do what *frame* says and return the answer's octets; close those of its descriptors that nobody took."""
        left = list(own)
        error = ""
        answer: dict[str, object] = {"type": "ack"}
        try:
            answer |= self._do(frame, left)
        except InputError as err:
            error = str(err)
        except Exception as err:
            # An agent that says what we do not expect must not cost instances their answers.
            LOG.exception("agent %d: a bug in %s", self._pid, frame["type"])
            error = f"a bug: {err!r}"
        finally:
            for descriptor in left:
                os.close(descriptor)
        if error:
            answer = {"type": "ack", "error": error}
        if frame["type"] == "sockets":
            return b""  # has been answered
        if "seq" not in frame:
            return encode(answer) if answer["type"] == "hello" else b""
        return encode({**answer, "seq": frame["seq"]})

    def _do(self, frame: Frame, descriptors: list[int]) -> Mapping[str, object]:
        """Return the fields of the answer; raise InputError."""
        kind = frame["type"]
        if kind not in _ALWAYS and not self._speaks:
            raise InputError(f"{kind}: say hello first, in version {PROTOCOL[0]} of the protocol")
        match frame:
            case {"type": "hello"}:
                return self._hello(frame)
            case {"type": "put", "key": str(key), "digest": str(digest), "data": data}:
                self._responder.put(key, digest, data)
            case {"type": "socket", "key": str(key), "digest": str(digest), "kind": str(sort)}:
                if len(descriptors) != 1:
                    raise InputError(f"{key}: {len(descriptors)} descriptors came, not one")
                self._responder.put_socket(key, digest, sort, _socket_of(key, descriptors))
            case {"type": "delete", "key": str(key)}:
                self._responder.delete(key)
            case {"type": "digests"}:
                return {"type": "digests", "digests": _chosen(self._responder.digests(), frame.get("keys"))}
            case {"type": "stats"}:
                port = frame.get("port")
                return {"type": "stats", **self._responder.stats(port if isinstance(port, str) else None)}
            case {"type": "sockets"}:
                return {}
            case {"type": "drain"}:
                LOG.info("agent %d has us drain", self._pid)
                self._responder.drain()
            case _:
                raise InputError(f"{kind}: not known, or not all fields are there")
        return {}

    def _hello(self, frame: Frame) -> Mapping[str, object]:
        match frame.get("protocol"):
            case [int(major), int(_)]:
                self._speaks = major == PROTOCOL[0]
            case _:
                raise InputError("hello: protocol is not [major, minor]")
        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "version": agent.__version__,
            "generation": self._generation,
            "pid": os.getpid(),
        }

    def _send_sockets(self, frame: Frame) -> None:
        """Answer with duplicates of our sockets, on the first octet."""
        sockets = self._responder.sockets()
        keys = list(sockets)[:MAX_DESCRIPTORS]
        data = encode({"type": "sockets", "keys": keys, **({"seq": frame["seq"]} if "seq" in frame else {})})
        rights = array.array("i", (sockets[key].fileno() for key in keys))
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if keys else []
        while True:
            try:
                sent = self._connection.sendmsg([data], ancillary)
            except BlockingIOError:
                green.wait_writable(self._connection)
                continue
            green.send_all(self._connection, data[sent:])
            return


def _socket_of(key: str, descriptors: list[int]) -> socket.socket:
    """Return the one of *descriptors* as a socket that does not block, and take it off the list."""
    try:
        opened = socket.socket(fileno=descriptors[0])
    except OSError as err:
        raise InputError(f"{key}: the descriptor is no socket: {err.strerror}") from None
    descriptors.clear()
    opened.setblocking(False)
    return opened


def _chosen(digests: Mapping[str, str], keys: object) -> Mapping[str, str]:
    """Return what is asked for: those of *keys*, all of them if it is no list."""
    if not isinstance(keys, list):
        return digests
    return {key: digests[key] for key in keys if isinstance(key, str) and key in digests}
