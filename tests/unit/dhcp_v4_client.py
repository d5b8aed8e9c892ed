# SPDX-License-Identifier: Apache-2.0
"""A DHCPv4 client of scapy's: what it sends and how it reads the answers owes nothing to our codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP, DHCPRevOptions
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from agent.dhcp.data import PortData, SubnetData
from agent.dhcp.v4_answers import Answer, Result, answer_frame
from agent.dhcp.v4_port import prepare

MAC = "fa:16:3e:00:00:01"
IDENTITY = "02:00:00:00:00:2a"  # what flows write over the destination of the port's requests
BLUE = SubnetData("10.0.0.0/24", gateway="10.0.0.1", server="10.0.0.2", dns=("9.9.9.9",))
RED = SubnetData("10.1.0.0/16", gateway="10.1.0.1", server="10.1.0.2")
STATIC = SubnetData("10.2.0.0/24", gateway="10.2.0.1", server=None, dhcp=False)
PORT = PortData(
    port="8f7a2e06-0000-4000-8000-000000000001",
    mac=MAC,
    server_mac="fa:16:3e:ff:ff:ff",
    hostname="web-1",
    domain="example.org",
    mtu=1450,
    addresses=(("10.0.0.5", 0),),
    subnets=(BLUE,),
)


@dataclass(frozen=True)
class Reply:
    """An answer as scapy reads it; ``options`` by scapy's names, a single value as itself."""

    eth: Ether
    ip: IP
    udp: UDP
    bootp: BOOTP
    options: Mapping[Any, Any]

    @property
    def kind(self) -> int:
        return self.options["message-type"]


def request(kind: str, *options: Any, flags: int = 0, mac: str = MAC, **fields: Any) -> bytes:
    """Return a request's frame, as it comes to the responder."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    source = fields.get("ciaddr", "0.0.0.0")
    return bytes(
        Ether(src=mac, dst=IDENTITY)
        / IP(src=source, dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=hardware + bytes(10), flags=flags, xid=0x12345678, **fields)
        / DHCP(options=[("message-type", kind), *options, "end"])
    )


def exchange(frame: bytes, port: PortData = PORT) -> tuple[Answer, Reply]:
    """Return our answer to *frame*; there must be one."""
    answer, reply = answer_frame(frame, prepare(port))
    assert reply is not None, answer.result
    return answer, read(reply)


def silence(frame: bytes, port: PortData = PORT) -> Result:
    """Return why there is no answer to *frame*; there must be none."""
    answer, reply = answer_frame(frame, prepare(port))
    assert reply is None
    return answer.result


def read(frame: bytes) -> Reply:
    """Return what scapy makes of a frame; its checksums must be those that scapy computes."""
    parsed = Ether(frame)
    check_checksums(parsed)
    options: dict[Any, Any] = {}
    for option in parsed[DHCP].options:
        if isinstance(option, tuple):
            name, *values = option
            assert name not in options, f"{name} stands there twice"
            options[name] = values[0] if len(values) == 1 else tuple(values)
    return Reply(parsed, parsed[IP], parsed[UDP], parsed[BOOTP], options)


def check_checksums(parsed: Ether) -> None:
    fresh = parsed.copy()
    del fresh[IP].chksum, fresh[UDP].chksum, fresh[IP].len, fresh[UDP].len
    assert bytes(Ether(bytes(fresh))) == bytes(parsed)


def codes(reply: Reply) -> set[int]:
    """Return the option numbers of *reply*."""
    numbers = set()
    for name in reply.options:
        known = DHCPRevOptions.get(name)
        numbers.add(name if isinstance(name, int) else known[0] if known else -1)
    return numbers
