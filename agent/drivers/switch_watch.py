# SPDX-License-Identifier: Apache-2.0
"""Notice within milliseconds that Open vSwitch was restarted, and ask it for its port numbers.

One idle OpenFlow connection to the bridge's management socket: its end tells that
``ovs-vswitchd`` (or the bridge) has gone, its coming back that flows can be written
again.  The database tells neither in time.  On the new connection the switch is
asked for its ports, so that the flows of the next pass cannot name a port by the
number that it had before.

Only OpenFlow's 8-byte header, HELLO, ECHO and the port description are spoken
(OpenFlow Switch Specification 1.3.5 to 1.5.1, sections 7.1.1, 7.3.5 and 7.5).
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

LOG = logging.getLogger(__name__)

RETRY_SECONDS = 0.02  # between attempts to connect, soon after a loss
SLOW_RETRY_SECONDS = 0.25  # and when nobody has answered for long
SLOW_AFTER_SECONDS = 30.0
ANSWER_SECONDS = 5.0  # for the switch to answer on a connection that it has taken

_HEADER = struct.Struct("!BBHI")  # version, type, length, transaction id
_VERSIONS = 0b1110000  # OpenFlow 1.3, 1.4, 1.5 as a HELLO bitmap
_HELLO_BODY = struct.pack("!HHI", 1, 8, _VERSIONS)
_HIGHEST = 6
_OPENFLOW_1_3, _OPENFLOW_1_5 = 4, 6
_HELLO, _ERROR, _ECHO_REQUEST, _ECHO_REPLY, _SET_CONFIG, _MULTIPART_REQUEST, _MULTIPART_REPLY = 0, 1, 2, 3, 9, 18, 19
# Open vSwitch's own: the first fragment of a packet is matched with its ports and ICMP type, as ovs-ofctl(8) says of
# "set-frags nx-match".  Without it a fragment matches no flow that looks at these, and slips past what forbids them.
_FRAGMENTS_NX_MATCH = struct.pack("!HH", 3, 0)  # flags, miss_send_len
_PORT_DESCRIPTION = 13
_MULTIPART = struct.Struct("!HH4x")  # kind, flags
_MORE = 1
_ANY_PORT = struct.pack("!I4x", 0xFFFFFFFF)
_PORT = struct.Struct("!IHxx6xxx16s")  # number, length (1.4 and later), name
_PORT_SIZE_1_3 = 64
_LAST_PORT = 0xFFFFFF00  # numbers above are reserved


class _LostError(Exception):
    """The connection ended, or the peer does not speak OpenFlow."""


class SwitchWatch:
    """Watch the management socket at *path* on a thread of its own.

    *on_back* gets {port name: OpenFlow number} whenever the switch answers after it
    did not; it is not called for a connection that was there from the start, as
    nothing can have been lost.  *on_lost* is called when a connection ends.  Both
    run on the watch's thread and must not block.
    """

    def __init__(self, path: Path, on_back: Callable[[Mapping[str, int]], None], on_lost: Callable[[], None]) -> None:
        self._path = path
        self._on_back = on_back
        self._on_lost = on_lost
        self._stop_read, self._stop_write = os.pipe()
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._run, name="switch-watch", daemon=True)

    def start(self) -> None:
        """Start watching; returns at once."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Close the connection and end the thread."""
        os.write(self._stop_write, b"x")
        if self._thread.is_alive():
            self._thread.join(timeout)

    def is_connected(self) -> bool:
        """Tell whether the switch answers."""
        return self._connected.is_set()

    def _run(self) -> None:
        first = True
        lost_at = time.monotonic()
        while not self._stopped(0):
            connection = self._connect()
            if connection is not None:
                with connection:
                    self._serve(connection, quiet=first)
                lost_at = time.monotonic()
            first = False
            if self._stopped(RETRY_SECONDS if time.monotonic() - lost_at < SLOW_AFTER_SECONDS else SLOW_RETRY_SECONDS):
                break

    def _serve(self, connection: socket.socket, *, quiet: bool) -> None:
        """Hold *connection* until it ends; tell that the switch is back unless *quiet*."""
        try:
            stream = _Stream(connection, self._stopped)
            stream.look_into_fragments()
            ofports = stream.read_ports()
            self._connected.set()
            if not quiet:
                LOG.info("Open vSwitch answers again at %s, with %d ports", self._path, len(ofports))
                self._on_back(ofports)
            stream.answer_echoes()
        except (_LostError, OSError, struct.error) as err:
            if not self._connected.is_set():
                LOG.debug("%s: %s", self._path, err)
                return
            self._connected.clear()
            if not self._stopped(0):
                LOG.warning("lost the connection to Open vSwitch at %s", self._path)
                self._on_lost()

    def _connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(ANSWER_SECONDS)
            # Through the folder's descriptor: a socket's path may have 107 bytes only.
            folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{folder}/{self._path.name}")
            finally:
                os.close(folder)
            connection.setblocking(False)  # from here on only what has been polled for is read
        except OSError:
            connection.close()
            return None
        return connection

    def _stopped(self, wait: float | None, *others: int) -> bool:
        """Wait up to *wait* seconds (None: for ever) for one of *others* or the end; return whether it is the end."""
        poller = select.poll()
        for descriptor in (self._stop_read, *others):
            poller.register(descriptor, select.POLLIN)
        ready = poller.poll(None if wait is None else wait * 1000)
        return any(descriptor == self._stop_read for descriptor, _ in ready)


class _Stream:
    """OpenFlow messages on a connected socket."""

    def __init__(self, connection: socket.socket, stopped: Callable[..., bool]) -> None:
        self._connection = connection
        self._stopped = stopped
        self._version = _HIGHEST
        self._send(_HELLO, _HELLO_BODY)
        kind, _, _ = self._receive(ANSWER_SECONDS)
        if kind != _HELLO:
            raise _LostError("no HELLO")

    def look_into_fragments(self) -> None:
        """Have first fragments matched like whole packets; holds for the switch until it ends."""
        self._send(_SET_CONFIG, _FRAGMENTS_NX_MATCH)

    def read_ports(self) -> dict[str, int]:
        """Ask for the ports; return their numbers by name."""
        body = _MULTIPART.pack(_PORT_DESCRIPTION, 0)
        self._send(_MULTIPART_REQUEST, body + (_ANY_PORT if self._version >= _OPENFLOW_1_5 else b""))
        ports: dict[str, int] = {}
        more = True
        while more:
            kind, xid, body = self._receive(ANSWER_SECONDS)
            if kind == _MULTIPART_REPLY and body[:2] == _PORT_DESCRIPTION.to_bytes(2):
                more = bool(_MULTIPART.unpack_from(body)[1] & _MORE)
                ports.update(_parse_ports(body[_MULTIPART.size :], self._version))
            elif not self._answer_echo(kind, xid, body) and kind == _ERROR:
                raise _LostError("the switch refused to describe its ports")
        return ports

    def answer_echoes(self) -> None:
        """Keep the connection until it ends, which raises ``_LostError``."""
        while True:
            self._answer_echo(*self._receive(None))

    def _answer_echo(self, kind: int, xid: int, body: bytes) -> bool:
        if kind == _ECHO_REQUEST:
            self._send(_ECHO_REPLY, body, xid)
        return kind == _ECHO_REQUEST

    def _send(self, kind: int, body: bytes, xid: int = 0) -> None:
        self._connection.sendall(_HEADER.pack(self._version, kind, _HEADER.size + len(body), xid) + body)

    def _receive(self, wait: float | None) -> tuple[int, int, bytes]:
        """Return the next message's type, transaction id and body."""
        version, kind, length, xid = _HEADER.unpack(self._read(_HEADER.size, wait))
        if length < _HEADER.size or version < _OPENFLOW_1_3:
            raise _LostError("not OpenFlow 1.3 or later")
        self._version = min(version, _HIGHEST)
        return kind, xid, self._read(length - _HEADER.size, ANSWER_SECONDS)

    def _read(self, size: int, wait: float | None) -> bytes:
        data = b""
        while len(data) < size:
            if self._stopped(wait, self._connection.fileno()):
                raise _LostError("stopped")
            more = self._connection.recv(size - len(data))
            if not more:
                raise _LostError("the switch closed the connection")
            data += more
        return data


def _parse_ports(body: bytes, version: int) -> Iterator[tuple[str, int]]:
    """Yield name and number of each port in a port description."""
    offset = 0
    while offset + _PORT.size <= len(body):
        number, length, name = _PORT.unpack_from(body, offset)
        if number < _LAST_PORT:
            yield name.rstrip(b"\0").decode(errors="replace"), number
        # From 1.4 on each port says how long it is; a length that leads nowhere ends the list.
        offset += _PORT_SIZE_1_3 if version == _OPENFLOW_1_3 else max(length, _PORT.size)
