# SPDX-License-Identifier: Apache-2.0
"""Frames and descriptors as they come out of a real socket, cut and glued as the kernel does it."""

import array
import os
import socket

import pytest

from agent.responder import protocol
from agent.responder.protocol import Decoder, ProtocolError


@pytest.fixture
def pair():
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    yield ends
    for end in ends:
        end.close()


def send(end, frame, descriptors=()):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    end.sendmsg([protocol.encode(frame)], rights)


def receive(end, count, size):
    """Return the kinds of *count* frames with what each descriptor is, reading *size* octets at a time."""
    decoder = Decoder()
    found: list = []
    while len(found) < count:
        data, rights, _, _ = socket.recv_fds(end, size, protocol.MAX_DESCRIPTORS)
        for frame, descriptors in decoder.feed(data, rights):
            found.append((frame["type"], [os.read(number, 10) for number in descriptors]))
            for number in descriptors:
                os.close(number)
    return found


def readable(text):
    """Return a descriptor from which *text* can be read."""
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    return reader


@pytest.mark.parametrize("size", [1, 7, 40, 1 << 16])
def test_descriptors_stay_with_their_frame_among_others(pair, size):
    ours, theirs = pair
    one, two = readable(b"one"), readable(b"two")
    send(ours, {"type": "before"})
    send(ours, {"type": "first"}, [one])
    send(ours, {"type": "between"})
    send(ours, {"type": "also between"})
    send(ours, {"type": "second"}, [two])
    send(ours, {"type": "after"})
    assert receive(theirs, 6, size) == [
        ("before", []),
        ("first", [b"one"]),
        ("between", []),
        ("also between", []),
        ("second", [b"two"]),
        ("after", []),
    ]
    for number in (one, two):
        os.close(number)


def test_descriptors_of_a_frame_that_never_comes_whole_can_be_closed(pair):
    ours, theirs = pair
    reader = readable(b"")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reader]))]
    ours.sendmsg([protocol.encode({"type": "socket"})[:-1]], rights)
    os.close(reader)
    data, descriptors, _, _ = socket.recv_fds(theirs, 100, 4)
    decoder = Decoder()
    assert list(decoder.feed(data, descriptors)) == []
    assert decoder.abandon() == descriptors
    assert decoder.abandon() == []
    for number in descriptors:
        os.close(number)


@pytest.mark.parametrize(
    "octets", [b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x01{", b"\0\0\0\x0a" + b'{"type":1}']
)
def test_what_is_no_frame_is_refused(octets):
    with pytest.raises(ProtocolError):
        list(Decoder().feed(octets))


def test_a_frame_may_not_be_longer_than_all_agree():
    with pytest.raises(ProtocolError, match="put frame"):
        protocol.encode({"type": "put", "data": "x" * protocol.MAX_FRAME})
