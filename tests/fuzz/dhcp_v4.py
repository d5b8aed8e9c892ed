# SPDX-License-Identifier: Apache-2.0
"""Throw broken requests at the DHCPv4 answers for a while: ``python -m tests.fuzz.dhcp_v4 --seconds 600``.

Requests that a client would send are mutated, most of them with right checksums so that
they get as far as the codec.  It is a failure if anything but silence or an answer that
goes to the port, with an address of the port, comes out, or if memory grows.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

from agent.dhcp import frames
from agent.dhcp.data import BootData, PortData, SubnetData
from agent.dhcp.frames import Datagram
from agent.dhcp.v4_answers import Result, answer_frame
from agent.dhcp.v4_packet import NO_ADDRESS, Header, Message, build, encode_option, parse
from agent.dhcp.v4_port import V4Port, prepare

MAC = bytes.fromhex("fa163e000001")
IDENTITY = bytes.fromhex("02000000002a")
DATA = PortData(
    port="fuzz",
    mac="fa:16:3e:00:00:01",
    server_mac="fa:16:3e:ff:ff:ff",
    hostname="web",
    domain="example.org",
    search=("example.org", "eu.example.org"),
    mtu=1450,
    addresses=(("10.0.0.5", 0), ("10.1.0.7", 1), ("10.2.0.9", 2), ("fd00::5", 3)),
    subnets=(
        SubnetData("10.0.0.0/24", "10.0.0.1", "10.0.0.2", ("9.9.9.9",), (("10.9.0.0/16", "10.0.0.9"),)),
        SubnetData("10.1.0.0/16", "10.1.0.1", "10.1.0.2", routed=True),
        SubnetData("10.2.0.0/24", "10.2.0.1", dhcp=False),
        SubnetData("fd00::/64", "fd00::1", "fd00::2"),
    ),
    options4=((43, bytes(200)), (224, bytes(300)), (66, b"10.0.0.9")),
    boot=(
        BootData(ipxe=False, options4=((67, b"undionly.kpxe"),), next_server="10.0.0.9"),
        BootData(ipxe=True, options4=((67, b"http://10.0.0.9/" + bytes(200)), (43, b""))),
        BootData(architectures=(7, 9), options4=((67, b"snponly.efi"),)),
    ),
)
SERVERS = {bytes((10, 0, 0, 2)), bytes((10, 1, 0, 2))}
ADDRESSES = {bytes((10, 0, 0, 5)), bytes((10, 1, 0, 7)), NO_ADDRESS}
PORT = prepare(DATA)
LARGEST = frames.ETHERNET_LENGTH + DATA.mtu


@dataclass
class Outcome:
    """How many frames became what, and the longest that one of them took, in seconds of processor time."""

    results: dict[Result, int] = field(default_factory=dict)
    answered: int = 0
    slowest: float = 0.0

    @property
    def frames(self) -> int:
        return sum(self.results.values())


def corpus() -> list[bytes]:
    """Return requests as clients send them, and some that have been trouble to servers."""
    asked = bytes((1, 28, 2, 121, 15, 6, 12, 40, 41, 42, 26, 119, 3, 249, 252, 66, 67))
    extras = [
        {55: asked, 57: b"\x05\xdc", 61: b"\xff" + bytes(18), 12: b"host"},
        {93: b"\x00\x07", 77: b"iPXE", 97: bytes(17), 60: b"HTTPClient:Arch:00007", 175: b"\x01\x01\x01", 55: asked},
        {81: b"\x05\x00\x00\x04host\x00", 51: b"\x00\x00\x00\x3c", 80: b"", 82: b"\x01\x04port"},
        {61: bytes(700), 43: bytes(255), 55: bytes(range(256)) * 2},
    ]
    wishes = [
        {},
        {50: bytes((10, 0, 0, 5))},
        {50: bytes((10, 1, 0, 7)), 54: bytes((10, 1, 0, 2))},
        {50: bytes((10, 0, 0, 77))},
        {54: bytes(4)},
    ]
    found = []
    for kind in range(1, 9):
        for extra in extras:
            for wish in wishes:
                header = Header(op=1, xid=kind, chaddr=MAC, ciaddr=bytes((10, 0, 0, 5)) if kind > 6 else NO_ADDRESS)
                found.append(build(Message(header, {53: bytes((kind,)), **wish, **extra}), 1472))
    overloaded = build(Message(Header(op=1, xid=9, chaddr=MAC), {code: bytes(90) for code in range(60, 70)}), 548)
    pieces = overloaded[:240] + encode_option(53, b"\x01") + encode_option(77, b"x") * 400
    return [*found, overloaded, pieces]


def mutate(payload: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return *payload* broken in one to six places, perhaps with a piece of *other*."""
    octets = bytearray(payload)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(octets) + 1) if rng.random() < 0.3 else rng.randrange(200, len(octets) + 1)
        match rng.randrange(7):
            case 0:
                octets[at : at + 1] = bytes((rng.randrange(256),))
            case 1:
                octets[at : at + 1] = bytes((rng.choice((0, 1, 2, 3, 52, 53, 54, 61, 127, 128, 254, 255)),))
            case 2:
                del octets[at : at + rng.randrange(1, 20)]
            case 3:
                octets[at:at] = rng.randbytes(rng.randrange(1, 20))
            case 4:
                octets[at:at] = octets[at : at + rng.randrange(1, 300)]
            case 5:
                start = rng.randrange(len(other))
                octets[at:at] = other[start : start + rng.randrange(1, 300)]
            case _:
                del octets[at:]
        if len(octets) < 240:
            octets += payload[len(octets) :]
    return bytes(octets[: rng.choice((1472, 9000, rng.randrange(1, 600)))] or b"\0")


def frame_of(payload: bytes, rng: random.Random) -> bytes:
    """Return *payload* in a frame, now and then a broken one."""
    good = frames.build_udp4(Datagram(IDENTITY, MAC, NO_ADDRESS, b"\xff" * 4, 68, 67, payload))
    if rng.random() < 0.9:
        return good
    octets = bytearray(good)
    octets[rng.randrange(min(60, len(octets)))] = rng.randrange(256)
    return bytes(octets[: rng.choice((len(octets), rng.randrange(len(octets))))])


def check(frame: bytes, port: V4Port = PORT) -> tuple[Result, bool]:
    """Return what became of *frame* and whether it was answered; raise AssertionError if that must not be."""
    answer, reply = answer_frame(frame, port)
    if reply is None:
        return answer.result, False
    assert reply[:6] in (MAC, frames.BROADCAST_MAC), "it goes to somebody else"
    assert reply[6:12] == frame[:6], "it does not go back to the port it came from"
    assert len(reply) <= LARGEST, f"{len(reply)} octets are too many for the network"
    datagram = frames.parse_udp4(reply)
    message = parse(datagram.payload)
    assert (datagram.src_port, datagram.dst_port) == (67, 68)
    assert datagram.src == message.options[54], "it is not from whom it says"
    assert datagram.src in SERVERS
    assert message.header.op == 2
    assert message.header.yiaddr in ADDRESSES, "it lends an address that is not the port's"
    assert message.options[53] in (b"\x02", b"\x05", b"\x06")
    return answer.result, True


def run(seconds: float, seed: int, limit: int = 1 << 62) -> Outcome:
    """Fuzz for *seconds* of time, at most *limit* frames."""
    rng = random.Random(seed)
    seeds = corpus()
    outcome = Outcome()
    deadline = time.monotonic() + seconds
    while outcome.frames < limit and time.monotonic() < deadline:
        frame = frame_of(mutate(rng.choice(seeds), rng.choice(seeds), rng), rng)
        start = time.thread_time()
        try:
            result, answered = check(frame)
        except Exception as error:
            raise AssertionError(f"seed {seed}: frame {frame.hex()}") from error
        outcome.slowest = max(outcome.slowest, time.thread_time() - start)
        outcome.results[result] = outcome.results.get(result, 0) + 1
        outcome.answered += answered
    return outcome


def resident() -> int:
    """Return the process's resident memory in octets."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    run(min(5, arguments.seconds / 10), arguments.seed)
    before = resident()
    outcome = run(arguments.seconds, arguments.seed)
    grown = resident() - before
    print(f"seed {arguments.seed}: {outcome.frames} frames, {outcome.answered} answered, "
          f"slowest {outcome.slowest * 1e3:.2f} ms, memory {grown / 1024:+.0f} KiB")  # fmt: skip
    for result, count in sorted(outcome.results.items()):
        print(f"  {result:16} {count}")
    if grown > 4 << 20:
        raise SystemExit("memory has grown")


if __name__ == "__main__":
    main()
