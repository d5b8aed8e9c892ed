# SPDX-License-Identifier: Apache-2.0
"""What agent and responder say to each other over the hand-over socket.

SOCK_STREAM; a frame is an unsigned 32-bit length in network order and a JSON object of
that many octets.  Descriptors travel on a frame's first octet, at most 64, and such a
frame has a ``sendmsg`` of its own: what is read together with descriptors ends with octets
of their frame (unix(7), SCM_RIGHTS), though others may stand before.  Fields that
are not known are ignored.  The agent asks, and asks more without waiting; the responder
answers each frame that has a ``seq`` by one with the same ``seq``, in order.

================================================  ===========================================
from the agent                                    answer
================================================  ===========================================
``hello {protocol, version}``                     ``hello {protocol, version, generation, pid}``
``socket {seq, key, kind, digest}`` + descriptor  ``ack {seq}``
``put {seq, key, digest, data}``                  ``ack {seq}``
``delete {seq, key}``                             ``ack {seq}``, when what it carried has ended
``digests {seq, keys?}``                          ``digests {seq, digests: {key: digest}}``, of all or ``keys``
``sockets {seq}``                                 ``sockets {seq, keys}`` + descriptors, in that order
``stats {seq, port?}``                            ``stats {seq, counters, port}``
``drain {seq}``                                   ``ack {seq}``; it reads no more and ends
================================================  ===========================================

An ``ack`` with ``error`` says why something could not be done; what was known under the
key before stays.  ``protocol`` is [major, minor]; with another major version nothing but
``hello``, ``sockets`` and ``drain`` may be said.  ``generation`` is of one process.

Keys: ``dhcp <port id>`` with ``{"identity": MAC, "port": agent.dhcp.data}``,
``metadata <port id>`` with ``agent.metadata.data.MetadataData``, ``service`` with
``agent.metadata.data.ServiceData``, and of sockets ``socket <name>`` (kinds are those of
``agent.core.items.SocketKind``).  Digests are the agent's own; the responder only keeps them.

``counters`` are ``{name: {"label=value,...": number}}``: ``dhcp_messages`` (type, family,
result), ``ra_sent`` (kind), ``nd_messages`` (result), ``metadata_requests`` (code, family),
``rate_limited`` (what, family), ``dropped_frames`` (reason), ``connections`` (state).
``port`` is for people, times in Unix seconds: ``{"messages": [{"at", "protocol", "message",
"result"}, ...], "advertised_at": time or null, "metadata": {"at", "address", "method",
"path", "code"} or null, "connections": number, "rate_limited": number}``; messages are the
last of each protocol and kind, newest first.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from agent.core.errors import Actor, AgentError

PROTOCOL: Final = (1, 0)
SOCKET_NAME: Final = "responder.sock"
MAX_FRAME: Final = 16 << 20  # octets
MAX_DESCRIPTORS: Final = 64

Frame: TypeAlias = Mapping[str, object]
_LENGTH = struct.Struct("!I")


class ProtocolError(AgentError):
    """The other side sends what is no frame: the connection is of no use any more."""

    actor = Actor.NOBODY


def encode(frame: Frame) -> bytes:
    """Return the octets of *frame*; raise ProtocolError if it is larger than a frame may be."""
    text = json.dumps(frame, separators=(",", ":")).encode()
    if len(text) > MAX_FRAME:
        raise ProtocolError(f"a {frame.get('type')} frame of {len(text)} octets is too long")
    return _LENGTH.pack(len(text)) + text


class Decoder:
    """Turns what is read from the socket into frames."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._marks: list[tuple[int, list[int]]] = []  # where descriptors came, counted from the buffer's start

    def feed(self, data: bytes, descriptors: Sequence[int] = ()) -> Iterator[tuple[Frame, list[int]]]:
        """Yield the frames that are complete with *data*, each with the descriptors that came with it.

        The receiver of a frame owns its descriptors.  Raises ProtocolError.
        """
        if descriptors:
            # The kernel puts what was sent before in front, and nothing that was sent later behind.
            self._marks.append((len(self._data) + max(len(data), 1) - 1, list(descriptors)))
        self._data += data
        while len(self._data) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data)
            if length > MAX_FRAME:
                raise ProtocolError(f"a frame of {length} octets is announced, at most {MAX_FRAME} are allowed")
            end = _LENGTH.size + length
            if len(self._data) < end:
                return
            frame = _parse(bytes(self._data[_LENGTH.size : end]))
            del self._data[:end]
            own = [number for at, numbers in self._marks if at < end for number in numbers]
            self._marks = [(at - end, numbers) for at, numbers in self._marks if at >= end]
            yield frame, own

    def abandon(self) -> list[int]:
        """Return descriptors whose frame has not come whole: the caller closes them."""
        left = [number for _, numbers in self._marks for number in numbers]
        self._marks.clear()
        return left


def _parse(text: bytes) -> Frame:
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise ProtocolError(f"a frame is not JSON: {err}") from None
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise ProtocolError("a frame is not an object with a type")
    return frame
