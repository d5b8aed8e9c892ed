# SPDX-License-Identifier: Apache-2.0
"""What an instance sends over IPv6 to be configured, and what it understands of the answer: scapy speaks for it."""

from __future__ import annotations

from dataclasses import replace

from scapy.layers.dhcp6 import (
    DUID_LL,
    DUID_LLT,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptElapsedTime,
    DHCP6OptIA_NA,
    DHCP6OptIAAddress,
    DHCP6OptOptReq,
    DHCP6OptServerId,
)
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether

from agent.dhcp import frames6, ra_answers, v6_answers
from agent.dhcp.data import PortData, SubnetData

MAC = "fa:16:3e:00:00:01"
SERVER_MAC = "fa:16:3e:ff:00:01"
IDENTITY = "06:48:50:00:00:09"  # stands for the port between the switch and us
LINK_LOCAL = "fe80::f816:3eff:fe00:1"
SERVER_LINK_LOCAL = "fe80::f816:3eff:feff:1"
GROUP = "ff02::1:2"

STATEFUL = SubnetData(
    "2001:db8:1::/64",
    gateway="2001:db8:1::1",
    server="2001:db8:1::2",
    dns=("2001:db8::53",),
    address_mode="dhcpv6-stateful",
    ra_mode="dhcpv6-stateful",
)
STATELESS = replace(
    STATEFUL,
    cidr="2001:db8:2::/64",
    server="2001:db8:2::2",
    address_mode="dhcpv6-stateless",
    ra_mode="dhcpv6-stateless",
)
SLAAC = replace(STATEFUL, cidr="2001:db8:3::/64", server="2001:db8:3::2", address_mode="slaac", ra_mode="slaac")
IPV4 = SubnetData("10.0.0.0/24", gateway="10.0.0.1", server="10.0.0.2", dns=("10.0.0.53",))

OWN = "2001:db8:1::5"
PORT = PortData(
    port="2c7d2f3e-6d1a-4f4e-8f6e-000000000001",
    mac=MAC,
    server_mac=SERVER_MAC,
    hostname="web",
    domain="example.org",
    mtu=1450,
    addresses=(("10.0.0.5", 1), (OWN, 0)),
    subnets=(STATEFUL, IPV4),
)
CLIENT_ID = DHCP6OptClientId(duid=DUID_LLT(lladdr=MAC, timeval=1234))
SERVER_ID = DHCP6OptServerId(duid=DUID_LL(lladdr=SERVER_MAC))
OTHER_SERVER_ID = DHCP6OptServerId(duid=DUID_LL(lladdr="fa:16:3e:ff:00:02"))


def udp_frame(message, *, src=LINK_LOCAL, dst=GROUP, dport=547):
    """Return the Ethernet frame in which *message* comes from an instance."""
    return bytes(Ether(src=MAC, dst=IDENTITY) / IPv6(src=src, dst=dst) / UDP(sport=546, dport=dport) / message)


def ia_na(*addresses, iaid=7):
    inner = [DHCP6OptIAAddress(addr=address, preflft=60, validlft=60) for address in addresses]
    return DHCP6OptIA_NA(iaid=iaid, T1=0, T2=0, ianaopts=inner)


def solicit(*codes):
    """Return the message of a usual client that wants an address and the options *codes*."""
    return (
        DHCP6_Solicit(trid=0x123456) / CLIENT_ID / ia_na() / DHCP6OptOptReq(reqopts=list(codes)) / DHCP6OptElapsedTime()
    )


def answer(frame: bytes, port: PortData = PORT) -> v6_answers.Answer:
    parsed = frames6.parse(frame)
    assert isinstance(parsed, frames6.Datagram)
    return v6_answers.answer(parsed, port)


def ask(message, port: PortData = PORT, **how):
    """Return what comes of *message* and the frame that answers it as scapy reads it, None for silence."""
    answered = answer(udp_frame(message, **how), port)
    return answered.outcome, None if answered.frame is None else Ether(answered.frame)


def outcome(message, port: PortData = PORT, **how) -> str:
    """Return what comes of a message that must not be answered."""
    answered, frame = ask(message, port, **how)
    assert frame is None
    return answered


def leases(frame) -> dict[int, list[tuple[str, int, int]]]:
    """Return (address, preferred, valid) by IAID of the answer in *frame*."""
    found: dict[int, list[tuple[str, int, int]]] = {}
    layer = frame.getlayer(DHCP6OptIA_NA)
    while layer is not None:
        addresses = [option for option in layer.ianaopts if isinstance(option, DHCP6OptIAAddress)]
        found[layer.iaid] = [(option.addr, option.preflft, option.validlft) for option in addresses]
        layer = layer.payload.getlayer(DHCP6OptIA_NA)
    return found


def rs_frame(*, src=LINK_LOCAL, dst="ff02::2", hlim=255, options=(), identity=IDENTITY, **fields) -> bytes:
    """Return the Ethernet frame of a router solicitation."""
    message = ICMPv6ND_RS(**fields)
    for option in options:
        message /= option
    return bytes(Ether(src=MAC, dst=identity) / IPv6(src=src, dst=dst, hlim=hlim) / message)


def source_option(mac: str = MAC):
    return ICMPv6NDOptSrcLLAddr(lladdr=mac)


def solicit_router(frame: bytes, port: PortData = PORT):
    """Return what comes of a router solicitation and the answer as scapy reads it, None for silence."""
    parsed = frames6.parse(frame)
    assert isinstance(parsed, frames6.ControlMessage)
    answered = ra_answers.answer(parsed, port)
    return answered.outcome, None if answered.frame is None else Ether(answered.frame)
