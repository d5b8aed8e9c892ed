# SPDX-License-Identifier: Apache-2.0
"""Whom the kernel refuses for us, asked through a socket of its own, and for how long."""

import socket
import struct

import pytest

from agent.responder.flood_filter import FLOOD, LONGEST, MUTED, FloodFilter, program

LOUD, QUIET = b"\1\2\3\4", b"\1\2\3\5"


@pytest.fixture
def ends():
    """A pair of sockets; the first reads."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    pair[0].setblocking(False)
    yield pair
    for end in pair:
        end.close()


def passes(ends, name):
    """Tell whether a packet that has *name* at octet 2 comes through."""
    try:
        ends[1].send(b"xx" + name + b"rest")
    except OSError:
        return False  # here the sender is told
    try:
        return ends[0].recv(100) == b"xx" + name + b"rest"
    except BlockingIOError:
        return False


def flood(found, name, now, count=FLOOD):
    for _ in range(count):
        found.note(name, now)


def test_who_floods_is_refused_for_a_moment_and_nobody_else(ends):
    found = FloodFilter(ends[0], 2)
    flood(found, LOUD, 100.0, FLOOD - 1)
    assert passes(ends, LOUD)
    flood(found, LOUD, 100.5, 1)
    assert not passes(ends, LOUD)
    assert passes(ends, QUIET)
    assert found.next_end == 100.5 + MUTED

    found.expire(100.5 + MUTED)
    assert passes(ends, LOUD)
    assert found.next_end is None


def test_who_is_refused_now_and_then_is_not_muted(ends):
    found = FloodFilter(ends[0], 2)
    for second in range(20):
        flood(found, LOUD, 100.0 + 1.1 * second, FLOOD - 1)
    assert passes(ends, LOUD)


def test_who_floods_on_is_refused_for_longer_and_forgiven_when_it_has_been_quiet(ends):
    found = FloodFilter(ends[0], 2)
    now, lengths = 100.0, []
    for _ in range(7):
        flood(found, LOUD, now)
        until = found.next_end or 0.0
        lengths.append(until - now)
        now = until
        found.expire(now)
    assert lengths == [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST, LONGEST]
    now += 3 * LONGEST
    flood(found, LOUD, now)
    assert found.next_end == now + MUTED


def test_a_new_reader_begins_without_what_another_has_left(ends):
    first = FloodFilter(ends[0], 2)
    flood(first, LOUD, 100.0)
    assert not passes(ends, LOUD)
    FloodFilter(ends[0], 2).clear()
    assert passes(ends, LOUD)


def test_many_can_be_muted_and_no_more_than_a_short_program_holds(ends):
    found = FloodFilter(ends[0], 2)
    names = [struct.pack("!I", 1000 + number) for number in range(100)]
    for name in names:
        flood(found, name, 100.0)
    refused = [name for name in names if not passes(ends, name)]
    assert refused == names[:64]
    assert len(program(names[:64], 2)) // 8 < 4096  # BPF_MAXINSNS


def test_where_the_kernel_takes_no_filter_nothing_breaks(ends, caplog):
    caplog.set_level("INFO")
    closed = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    closed.close()
    found = FloodFilter(closed, 2)
    flood(found, LOUD, 100.0)
    flood(found, QUIET, 100.0)
    assert caplog.text.count("refused by us alone") == 1
