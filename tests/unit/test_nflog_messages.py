# SPDX-License-Identifier: Apache-2.0
"""NFLOG messages as the kernel builds them (nfnetlink_log.c, ctnetlink_glue_build): not all kernels of ours do."""

from __future__ import annotations

import socket
import struct

import pytest

from agent.drivers.nflog import Flow, attribute, parse_packets

NESTED = 0x8000
NOT_A_PACKET = struct.pack("=IHHII", 20, 3, 0, 0, 0) + bytes(4)  # NLMSG_DONE at the end of a batch


def message(family: int, *attributes: bytes) -> bytes:
    body = struct.pack("!BBH", family, 0, 4850) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), 4 << 8, 0, 0, 0) + body


def direction(kind: int, addresses: list[bytes], protocol: list[bytes]) -> bytes:
    inner = attribute(1 | NESTED, b"".join(addresses)) + attribute(2 | NESTED, b"".join(protocol))
    return attribute(kind | NESTED, inner)


def v4(source: str, destination: str) -> list[bytes]:
    return [attribute(1, socket.inet_aton(source)), attribute(2, socket.inet_aton(destination))]


def v6(source: str, destination: str) -> list[bytes]:
    packed = [socket.inet_pton(socket.AF_INET6, address) for address in (source, destination)]
    return [attribute(3, packed[0]), attribute(4, packed[1])]


def ports(protocol: int, source: int, destination: int) -> list[bytes]:
    return [attribute(1, bytes([protocol])), attribute(2, source.to_bytes(2)), attribute(3, destination.to_bytes(2))]


TCP = attribute(
    18 | NESTED,
    direction(1, v4("10.0.0.1", "10.0.0.2"), ports(6, 4000, 80))
    + direction(2, v4("10.0.0.2", "10.0.0.1"), ports(6, 80, 4000))
    + attribute(51, (4097).to_bytes(4)),
)
PING6 = attribute(
    18 | NESTED,
    direction(
        1,
        v6("2001:db8::1", "2001:db8::2"),
        [attribute(1, b"\x3a"), attribute(7, b"\0\7"), attribute(8, b"\x80"), attribute(9, b"\0")],
    ),
)


@pytest.mark.parametrize(
    ("connection", "info", "flow"),
    [
        (TCP, 2, Flow(6, "10.0.0.1", "10.0.0.2", 4000, 80)),
        (TCP, 3, Flow(6, "10.0.0.2", "10.0.0.1", 80, 4000)),
        (PING6, 2, Flow(58, "2001:db8::1", "2001:db8::2", icmp_type=128, icmp_code=0)),
        (attribute(18 | NESTED, b""), 2, None),
    ],
)
def test_a_flow_is_told_in_the_direction_of_the_packet(connection, info, flow):
    (packet,) = parse_packets(message(socket.AF_INET, connection, attribute(19, info.to_bytes(4))))
    assert packet.flow == flow


def test_all_packets_of_a_datagram_are_read():
    def one(number: int) -> bytes:
        return message(
            socket.AF_INET6,
            attribute(1, b"\x86\xdd\2\0"),
            attribute(3, (1_700_000_000).to_bytes(8) + (250_000).to_bytes(8)),
            attribute(4, (7).to_bytes(4)),
            attribute(6, (8).to_bytes(4)),
            attribute(7, (9).to_bytes(4)),
            attribute(10, b"d:0123456789abcdef\0"),
            attribute(12, number.to_bytes(4)),
        )

    packets = list(parse_packets(one(5) + one(6) + NOT_A_PACKET))
    assert [packet.sequence for packet in packets] == [5, 6]
    first = packets[0]
    assert (first.family, first.prefix, first.flow) == (socket.AF_INET6, "d:0123456789abcdef", None)
    assert (first.bridge, first.physical_in, first.physical_out) == (7, 8, 9)
    assert first.time == 1_700_000_000.25
