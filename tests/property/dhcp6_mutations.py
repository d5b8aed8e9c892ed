# SPDX-License-Identifier: Apache-2.0
"""Hostile packets: what usual clients send, changed at random; and what must be true of any answer.

``python -m tests.property.dhcp6_mutations SECONDS [SEED]`` goes on for so long and says
how many packets it tried, what came of them, and what memory it took.
"""

from __future__ import annotations

import gc
import random
import resource
import struct
import sys
import time
import timeit
from collections import Counter
from dataclasses import replace
from functools import partial

from scapy.layers.dhcp6 import (
    USER_CLASS_DATA,
    VENDOR_CLASS_DATA,
    DHCP6_Confirm,
    DHCP6_Decline,
    DHCP6_InfoRequest,
    DHCP6_Rebind,
    DHCP6_RelayForward,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Request,
    DHCP6OptClientArchType,
    DHCP6OptClientFQDN,
    DHCP6OptIA_PD,
    DHCP6OptIA_TA,
    DHCP6OptRapidCommit,
    DHCP6OptUserClass,
    DHCP6OptVendorClass,
)
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether

from agent.core.service_identity import METADATA6
from agent.dhcp import answers6, frames6, neighbor_answers, v6_packet
from agent.dhcp.data import BootData, PortData
from agent.dhcp.frames import ones_sum
from tests.dhcp6_client import (
    CLIENT_ID,
    IDENTITY,
    LINK_LOCAL,
    MAC,
    OWN,
    PORT,
    SERVER_ID,
    SERVER_LINK_LOCAL,
    SERVER_MAC,
    SLAAC,
    STATEFUL,
    STATELESS,
    ia_na,
    rs_frame,
    solicit,
    source_option,
    udp_frame,
)

HOSTILE_PORT = replace(
    PORT,
    subnets=(STATEFUL, STATELESS, SLAAC),
    addresses=((OWN, 0), ("2001:db8:1::6", 0), ("2001:db8:3::1", 2)),
    search=("a.example",),
    ntp6=("2001:db8::123",),
    options6=((17, b"\0\0\0\1abc"),),
    boot=(BootData(ipxe=True, options6=((59, b"http://x"),)),),
)
GIVEN = {frames6.packed(OWN), frames6.packed("2001:db8:1::6")}

_CLASSES = DHCP6OptUserClass(userclassdata=[USER_CLASS_DATA(data=b"iPXE")]) / DHCP6OptVendorClass(
    vcdata=[VENDOR_CLASS_DATA(data=b"PXEClient")], enterprisenum=343
)
_CLIENTS = tuple(
    udp_frame(message)
    for message in (
        solicit(23, 24, 31, 32, 56, 59) / DHCP6OptRapidCommit(),
        solicit(23) / _CLASSES / DHCP6OptClientArchType(archtypes=[7]) / DHCP6OptClientFQDN(flags="S", fqdn="a.b."),
        DHCP6_Request() / CLIENT_ID / SERVER_ID / ia_na(OWN, iaid=1) / ia_na("2001:db8:1::6", iaid=2),
        DHCP6_Confirm() / CLIENT_ID / ia_na(OWN) / DHCP6OptIA_TA(iaid=3),
        DHCP6_Renew() / CLIENT_ID / SERVER_ID / ia_na(OWN, "fd00::1") / DHCP6OptIA_PD(iaid=4),
        DHCP6_Rebind() / CLIENT_ID / ia_na(OWN),
        DHCP6_Release() / CLIENT_ID / SERVER_ID / ia_na(OWN),
        DHCP6_Decline() / CLIENT_ID / SERVER_ID / ia_na(OWN),
        DHCP6_InfoRequest() / CLIENT_ID,
    )
)


def _ns_frame(target: str, *, src: str = LINK_LOCAL, dst: str | None = None) -> bytes:
    """Return the question who has *target*; without *dst* it goes to the target's solicited-node group."""
    group = frames6.packed(target)[-3:].hex()
    header = IPv6(src=src, dst=dst or f"ff02::1:ff{group[:2]}:{group[2:]}", hlim=255)
    asked = Ether(src=MAC, dst=IDENTITY) / header / ICMPv6ND_NS(tgt=target)
    return bytes(asked if src == "::" else asked / ICMPv6NDOptSrcLLAddr(lladdr=MAC))


OURS = SERVER_LINK_LOCAL, METADATA6, *(subnet.server for subnet in (STATEFUL, STATELESS, SLAAC) if subnet.server)
_OTHERS = (
    udp_frame(DHCP6_RelayForward() / CLIENT_ID),
    rs_frame(options=[source_option()]),
    rs_frame(src="::"),
    _ns_frame(METADATA6),
    _ns_frame(SERVER_LINK_LOCAL, dst=SERVER_LINK_LOCAL),
    _ns_frame(OURS[-1]),
    _ns_frame(OURS[-1], src="::"),
    _ns_frame(OWN),
)
CORPUS = _CLIENTS + _OTHERS
_NUMBERS = (0, 1, 2, 3, 5, 6, 13, 25, 0x7F, 0x80, 0xFF, 0xFFFF)
_MESSAGE = 14 + 40  # octets before the UDP or ICMPv6 header


def mutate(frame: bytes, dice: random.Random) -> bytes:
    """Change options of *frame*, or octets in one to four places; mostly lengths and checksums are right again."""
    if frame in _CLIENTS and dice.random() < 0.4:
        return _mutate_options(frame, dice)
    changed = bytearray(frame)
    for _ in range(dice.randint(1, 4)):
        where = dice.randint(min(_MESSAGE, len(changed)) if dice.random() < 0.9 else 0, len(changed))
        match dice.randrange(6):
            case 0:
                changed[where : where + 1] = bytes((dice.randrange(256),))
            case 1:
                struct.pack_into("!H", changed, min(where, len(changed) - 2), dice.choice(_NUMBERS))
            case 2:
                del changed[where : where + dice.randint(1, 20)]
            case 3:
                changed[where:where] = dice.randbytes(dice.randint(1, 20))
            case 4:
                start = dice.randrange(len(changed))
                changed[where:where] = changed[start : start + dice.randint(1, 60)] * dice.choice((1, 1, 2, 30))
            case _:
                del changed[max(where, 20) :]
        if len(changed) < 20:
            changed += bytes(20)
    return repair(bytes(changed)) if dice.random() < 0.9 else bytes(changed)


def _mutate_options(frame: bytes, dice: random.Random) -> bytes:
    """Take options away, double them, mix them with those of other messages, or change the inside of one."""
    head, message = frame[: _MESSAGE + 8], frame[_MESSAGE + 8 :]
    options = list(v6_packet.split_options(message[4:]))
    options += dice.choices(v6_packet.split_options(dice.choice(_CLIENTS)[_MESSAGE + 12 :]), k=dice.randint(0, 3))
    dice.shuffle(options)
    del options[dice.randint(1, len(options)) :]
    if dice.random() < 0.5:
        at = dice.randrange(len(options))
        code, payload = options[at]
        where = dice.randint(0, len(payload))
        options[at] = code, payload[:where] + dice.randbytes(dice.randint(0, 4)) + payload[where + dice.randint(0, 4) :]
    kind = message[0] if dice.random() < 0.8 else dice.randint(1, 12)
    return repair(head + bytes((kind,)) + message[1:4] + v6_packet.join_options(options))


def repair(frame: bytes) -> bytes:
    """Return *frame* with lengths and checksum of UDP or ICMPv6 that fit it, where it is long enough for them."""
    message = bytearray(frame[_MESSAGE:])
    if len(message) < 8:
        return frame
    protocol = frame[20]
    if protocol == frames6.UDP:
        struct.pack_into("!H", message, 4, len(message) & 0xFFFF)
    at = 6 if protocol == frames6.UDP else 2
    message[at : at + 2] = b"\0\0"
    total = ones_sum(bytes(message), ones_sum(frame[22:_MESSAGE], len(message) + protocol))
    struct.pack_into("!H", message, at, 0xFFFF - total)
    return frame[:18] + struct.pack("!H", len(message) & 0xFFFF) + frame[20:_MESSAGE] + bytes(message)


def judge(frame: bytes, port: PortData = HOSTILE_PORT) -> str:
    """Have *frame* answered; return what came of it; fail if the answer is not what may go to that port."""
    answer = answers6.answer_frame(frame, port)
    if answer.frame is not None:
        _judge_answer(frames6.parse(frame).envelope, answer.frame, port)
    return f"{answer.protocol} {answer.message} {answer.result}"


def _judge_answer(asked: frames6.Envelope, answer: bytes, port: PortData) -> None:
    assert len(answer) <= 14 + port.mtu
    said = frames6.parse(answer)
    assert said.envelope.eth_src == asked.eth_dst, "it would reach another port"
    assert not asked.eth_src[0] & 1
    if isinstance(said, frames6.ControlMessage):
        if said.type == neighbor_answers.NEIGHBOR_ADVERTISEMENT:
            assert said.body[4:20] in map(frames6.packed, OURS), "an address that is not ours"
            assert said.body[20:] == b"\2\1" + frames6.packed_mac(SERVER_MAC)
            assert said.envelope.eth_dst in (asked.eth_src, b"\x33\x33\0\0\0\1"), "it would reach somebody else"
        return
    message = v6_packet.decode(said.payload)
    request = v6_packet.read_request(message)
    for association in request.associations:
        given = [lease for lease in association.leases if lease.valid]
        assert {lease.address for lease in given} <= GIVEN, "an address of nobody, or of somebody else"
        assert len(given) == len({lease.address for lease in given})
    everything = [lease.address for found in request.associations for lease in found.leases if lease.valid]
    assert len(everything) == len(set(everything)), "an address twice"


def run(seconds: float, seed: int) -> None:
    """Try packets for so long, and print what came of them."""
    dice = random.Random(seed)
    found: Counter[str] = Counter()
    end = time.monotonic() + seconds
    slowest = 0.0
    gc.freeze()  # scapy's objects are many, and none of ours
    begin_size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while time.monotonic() < end:
        for _ in range(1000):
            frame = mutate(dice.choice(CORPUS), dice)
            begun = time.process_time()
            found[judge(frame)] += 1
            if time.process_time() - begun > slowest:
                # On a busy machine any packet may take long once; what counts is what always does.
                slowest = max(slowest, min(timeit.repeat(partial(judge, frame), number=1, timer=time.process_time)))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin_size
    print(f"{found.total()} packets, seed {seed}, slowest {slowest * 1e6:.0f} us, {grown} KiB more memory")
    for name, count in found.most_common():
        print(f"{count:9} {name}")


if __name__ == "__main__":
    run(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
