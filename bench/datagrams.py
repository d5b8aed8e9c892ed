# SPDX-License-Identifier: Apache-2.0
"""Send UDP datagrams into one end of a hybrid plug and tell the seconds that each took.

``python datagrams.py INSIDE OUTSIDE COUNT PORT``: frames go into the device INSIDE as an
instance would send them; with OUTSIDE not ``-`` the first one is answered there, so that
the connection is established.  Prints seconds a packet.  Runs as a program of its own
inside a host's namespaces, on the standard library alone.
"""

import socket
import struct
import sys
import time

INSTANCE, REMOTE = ("fa:16:3e:00:00:01", "10.0.0.1"), ("fa:16:3e:00:00:02", "10.0.0.2")
SOURCE_PORT = 33_333
PAYLOAD = b"x" * 22  # 64 octets in all, with the checksum of Ethernet


def frame(source: tuple[str, str], target: tuple[str, str], ports: tuple[int, int]) -> bytes:
    """Return an Ethernet frame with a datagram; without UDP checksum, as IPv4 allows (RFC 768)."""
    datagram = struct.pack("!HHHH", *ports, 8 + len(PAYLOAD), 0) + PAYLOAD
    addresses = socket.inet_aton(source[1]) + socket.inet_aton(target[1])
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, socket.IPPROTO_UDP, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    head = head[:10] + struct.pack("!H", checksum) + head[12:]
    macs = b"".join(bytes.fromhex(end[0].replace(":", "")) for end in (target, source))
    return macs + struct.pack("!H", 0x0800) + head + datagram


def main(inside: str, outside: str, count: int, port: int) -> None:
    """Send, answer once if asked to, and measure."""
    request = frame(INSTANCE, REMOTE, (SOURCE_PORT, port))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((inside, 0))
        sender.send(request)
        if outside != "-":
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as answerer:
                answerer.bind((outside, 0))
                answerer.send(frame(REMOTE, INSTANCE, (port, SOURCE_PORT)))
        send, numbers = sender.send, range(count)
        begun = time.perf_counter()
        for _ in numbers:
            send(request)
        print((time.perf_counter() - begun) / count)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
