# SPDX-License-Identifier: Apache-2.0
"""Sockets that are opened in namespaces for somebody else, on the real kernel.  Needs root."""

from __future__ import annotations

import select
import socket
import struct

import pytest

from agent.core.errors import ApplyError
from agent.drivers import namespace_sockets as sockets
from agent.namespace import inside_named
from tests.ovs.namespace_lab import host, run, within

NAMESPACE = "hpb-sockets"
FRAME = bytes.fromhex("ffffffffffff 020000000001 0800") + bytes(60)


@pytest.fixture(autouse=True)
def _host():
    with host():
        run("ip", "netns", "add", NAMESPACE)
        make_pair()
        yield


def make_pair() -> None:
    run("ip", "link", "add", "outer", "type", "veth", "peer", "name", "inner", "netns", NAMESPACE)
    within(
        NAMESPACE, "ip", "-batch", "-", stdin="link set lo up\nlink set inner up\naddress add 192.0.2.1/32 dev inner\n"
    )
    within(NAMESPACE, "ip", "address", "add", "fe80::2/64", "dev", "inner", "nodad")
    run("ip", "link", "set", "outer", "up")


def arrives(reader: socket.socket, seconds: float) -> bytes | None:
    ready, _, _ = select.select([reader], [], [], seconds)
    return reader.recv(2048) if ready else None


def outside() -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    opened.bind(("outer", 3))
    return opened


def test_frames_come_in_and_go_out_but_what_is_sent_is_not_heard():
    with sockets.open_packet_socket(NAMESPACE, "inner") as inner, outside() as outer:
        outer.send(FRAME)
        data = None
        while data != FRAME:
            data = arrives(inner, 5)
            assert data is not None
        inner.send(FRAME[::-1])
        while data != FRAME[::-1]:
            data = arrives(outer, 5)
            assert data is not None
        heard = arrives(inner, 0)
        assert heard is None or heard[6:12] != FRAME[::-1][6:12]
        assert inner.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= sockets.RECEIVE_BUFFER


def test_a_frame_comes_with_the_tag_that_was_taken_off():
    tagged = FRAME[:12] + struct.pack("!HH", 0x8100, 7) + FRAME[12:]
    with sockets.open_packet_socket(NAMESPACE, "inner") as inner, outside() as outer:
        outer.send(tagged)
        while True:
            assert select.select([inner], [], [], 5)[0]
            data, notes, _, _ = inner.recvmsg(2048, 64)
            if data == FRAME:
                break
        ((_, kind, auxiliary),) = notes
        assert (kind, struct.unpack("=IIIHHHH", auxiliary)[5]) == (8, 7)


@pytest.mark.parametrize("address", ["192.0.2.1", "fe80::2"])
def test_what_listens_is_reached_at_its_address_and_does_not_delay(address):
    with sockets.open_listener(NAMESPACE, "inner", address, 80) as listener:
        client = connect_within(address)
        assert select.select([listener], [], [], 5)[0]
        accepted, _ = listener.accept()
        with client, accepted:
            client.sendall(b"x")
            accepted.settimeout(5)
            assert accepted.recv(1) == b"x"
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def connect_within(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside_named(NAMESPACE):
        client = socket.socket(family, socket.SOCK_STREAM)
        index = socket.if_nametoindex("inner")
    client.settimeout(5)
    client.connect((address, 80, 0, index) if family == socket.AF_INET6 else (address, 80))
    return client


def test_sockets_are_in_place_until_what_they_read_has_gone():
    opened = [
        sockets.open_packet_socket(NAMESPACE, "inner"),
        sockets.open_listener(NAMESPACE, "inner", "192.0.2.1", 80),
        sockets.open_listener(NAMESPACE, "inner", "fe80::2", 80),
    ]
    assert [sockets.is_in_place(each, NAMESPACE, "inner") for each in opened] == [True] * 3

    run("ip", "link", "delete", "outer")
    assert [sockets.is_in_place(each, NAMESPACE, "inner") for each in opened] == [False] * 3
    make_pair()
    # The IPv4 address is of no device in particular, so that socket goes on.
    assert [sockets.is_in_place(each, NAMESPACE, "inner") for each in opened] == [False, True, False]

    run("ip", "netns", "delete", NAMESPACE)
    assert [sockets.is_in_place(each, NAMESPACE, "inner") for each in opened] == [False] * 3
    run("ip", "netns", "add", NAMESPACE)
    run("ip", "link", "delete", "outer")  # its other end is in the old namespace still, which the sockets keep alive
    make_pair()
    assert [sockets.is_in_place(each, NAMESPACE, "inner") for each in opened] == [False] * 3
    for each in opened:
        each.close()


def test_a_namespace_and_a_device_have_numbers_only_while_they_are_there():
    cookie, index = sockets.namespace_cookie(NAMESPACE), sockets.device_index(NAMESPACE, "inner")
    assert cookie
    assert index
    assert sockets.device_index(NAMESPACE, "nowhere") is None
    assert sockets.namespace_cookie("hpb-nowhere") is None

    run("ip", "netns", "delete", NAMESPACE)
    run("ip", "netns", "add", NAMESPACE)
    assert sockets.namespace_cookie(NAMESPACE) not in (None, cookie)


def test_errors_name_namespace_device_and_address():
    with pytest.raises(ApplyError, match=r"^namespace hpb-nowhere: a packet socket: No such file or directory$"):
        sockets.open_packet_socket("hpb-nowhere", "inner")
    with pytest.raises(ApplyError, match=r"^namespace hpb-sockets: a packet socket on device nowhere: No such device$"):
        sockets.open_packet_socket(NAMESPACE, "nowhere")
    text = "^namespace hpb-sockets: listening on 192.0.2.9 port 80 of device inner: Cannot assign requested address$"
    with pytest.raises(ApplyError, match=text):
        sockets.open_listener(NAMESPACE, "inner", "192.0.2.9", 80)
