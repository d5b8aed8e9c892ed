# SPDX-License-Identifier: Apache-2.0
"""What instances that mean harm do to the responder: a process for each kind, so that none waits for another.

``python -m tests.fuzz.responder_attacks KIND SECONDS SEED`` in the responder's namespace.
"""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import sys
import time
from collections.abc import Callable, Mapping

from agent.core.service_identity import METADATA4, METADATA_PORT
from tests.fuzz import dhcp_v4
from tests.fuzz.responder_place import EVIL, OUTSIDE, alias_of, identity_of, open_frames
from tests.property import dhcp6_mutations

FRAMES_A_SECOND = 1_000
CONNECTIONS_A_SECOND = 100
HALF_OPEN = 1_000
TARGET = (METADATA4, METADATA_PORT)

_HOST = b" HTTP/1.1\r\nHost: 169.254.169.254\r\n"
_SPOOFED = b"X-Instance-ID: instance-0001\r\nX-Forwarded-For: 10.0.0.1\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_REQUESTS = (
    b"GET /latest/meta-data/instance-id" + _HOST + b"\r\n",
    b"GET /openstack/latest/user_data" + _HOST + _SPOOFED + b"\r\n",
    b"PUT /latest/api/token" + _HOST + b"X-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n",
    b"POST /openstack/latest/password" + _HOST + _CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /" + _HOST + b"Content-Length: 6\r\n" + _CHUNKED + b"\r\n0\r\n\r\nGET /latest/" + _HOST + b"\r\n",
    b"GET /" + _HOST + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
    b"GET http://other/../../etc/passwd" + _HOST + b"Host: b\r\n folded: yes\r\n\r\n",
    b"GET /" + b"a" * 9_000 + _HOST + b"A: b\r\n" * 3_000 + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
)


def broken_frames(seconds: float, dice: random.Random) -> None:
    """Send mutated DHCPv4, DHCPv6, router and neighbor solicitations of all evil ports, and of none."""
    seeds = dhcp_v4.corpus()
    end = time.monotonic() + seconds
    with open_frames(OUTSIDE) as link:
        while (now := time.monotonic()) < end:
            for _ in range(FRAMES_A_SECOND // 50):
                if dice.random() < 0.5:
                    frame = dhcp_v4.frame_of(dhcp_v4.mutate(dice.choice(seeds), dice.choice(seeds), dice), dice)
                else:
                    frame = dhcp6_mutations.mutate(dice.choice(dhcp6_mutations.CORPUS), dice)
                whose = identity_of(dice.choice(EVIL)) if dice.random() < 0.95 else dice.randbytes(6)
                with contextlib.suppress(OSError):  # too long for the device
                    link.send(whose + frame[6:1500])
            time.sleep(max(0.0, now + 0.02 - time.monotonic()))


def flood(seconds: float, dice: random.Random) -> None:
    """Send one evil port's requests as fast as it goes, in bursts of a tenth of a second, five times a second."""
    frame = identity_of(EVIL[0]) + dhcp_v4.frame_of(dhcp_v4.corpus()[0], dice)[6:]
    end = time.monotonic() + seconds
    with open_frames(OUTSIDE) as link:
        while (now := time.monotonic()) < end:
            while time.monotonic() < now + 0.1:
                with contextlib.suppress(OSError):
                    link.send(frame)
            time.sleep(0.1)


def broken_requests(seconds: float, dice: random.Random) -> None:
    """Send mutated HTTP, whole, cut off, dribbled; read some of what comes back."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        with contextlib.suppress(OSError):
            _one_request(dice)
        time.sleep(max(0.0, now + 1 / CONNECTIONS_A_SECOND - time.monotonic()))


def _one_request(dice: random.Random) -> None:
    octets = bytearray(dice.choice(_REQUESTS))
    for _ in range(dice.randrange(4)):
        at = dice.randrange(len(octets) + 1)
        match dice.randrange(5):
            case 0:
                octets[at : at + 1] = dice.randbytes(1)
            case 1:
                del octets[at : at + dice.randrange(1, 20)]
            case 2:
                octets[at:at] = dice.choice((b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\t", b"0", b"\xff"))
            case 3:
                octets[at:at] = octets[: dice.randrange(1, 200)] * dice.choice((1, 2, 50))
            case _:
                octets += dice.choice(_REQUESTS)
    with _connect(alias_of(dice.choice(EVIL))) as link:
        cut = dice.randrange(1, len(octets) + 1)
        link.sendall(octets[:cut])
        if dice.random() < 0.7:
            link.sendall(octets[cut:])
        if dice.random() < 0.5:
            link.recv(dice.choice((1, 100, 1 << 16)))


def half_open(seconds: float, dice: random.Random) -> None:
    """Hold a thousand connections of one port that never ask whole, one octet at a time; open again what is closed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    links: list[socket.socket] = []
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        for link in list(links):
            try:
                link.sendall(b"G" if dice.random() < 0.5 else b"GET / HTTP/1.1\r\nHost: a\r\nA: ")
            except OSError:
                links.remove(link)
                link.close()
        while len(links) < HALF_OPEN and time.monotonic() < end:
            try:
                links.append(_connect(alias_of(EVIL[1])))
            except OSError:
                break
        time.sleep(max(0.0, now + 0.5 - time.monotonic()))


def _connect(address: str) -> socket.socket:
    return socket.create_connection(TARGET, timeout=0.2, source_address=(address, 0))


KINDS: Mapping[str, Callable[[float, random.Random], None]] = {
    "broken-frames": broken_frames,
    "flood": flood,
    "broken-requests": broken_requests,
    "half-open": half_open,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](float(sys.argv[2]), random.Random(int(sys.argv[3])))
