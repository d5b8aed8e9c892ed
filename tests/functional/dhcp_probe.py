# SPDX-License-Identifier: Apache-2.0
"""A DHCPv4 client that says exactly what a test wants, each message once, and shows the answer as it came.

Built by scapy; the options of answers are taken apart here, because scapy's reading of
them depends on their number.
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

from tests.functional.filter_packets import mac_bytes
from tests.functional.filter_wire import open_link

BROADCAST = "255.255.255.255"
BROADCAST_MAC = "ff:ff:ff:ff:ff:ff"
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
MASK, ROUTER, DNS, HOST_NAME, DOMAIN, MTU, REQUESTED, LEASE = 1, 3, 6, 12, 15, 26, 50, 51
MESSAGE_TYPE, SERVER_ID, PARAMETERS, CLIENT_ID, TFTP_SERVER, BOOT_FILE, USER_CLASS, ARCHITECTURE = (
    *(53, 54, 55, 61, 66, 67, 77, 93),
)
CLASSLESS_ROUTES, IPXE = 121, 175
COOKIE = b"\x63\x82\x53\x63"
_BROADCAST_FLAG = 0x8000
_numbers = itertools.count(0x48500000)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; ``options`` are payloads by code."""

    kind: int
    address: str
    next_server: str
    source: str
    destination: str
    eth_source: str
    eth_destination: str
    options: Mapping[int, bytes]

    def addresses(self, code: int) -> list[str]:
        """Return an option that is a list of IPv4 addresses."""
        payload = self.options.get(code, b"")
        return [socket.inet_ntoa(payload[at : at + 4]) for at in range(0, len(payload), 4)]

    def text(self, code: int) -> str:
        """Return an option that is text, "" if it is not there."""
        return self.options.get(code, b"").decode()


class DhcpProbe:
    """Speaks for the device of an instance.  Use it with ``with``."""

    def __init__(self, namespace: Path, mac: str) -> None:
        self.mac = mac
        self.link = open_link(namespace)
        self._passed: list[bytes] = []  # frames that came before an answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    def ask(
        self,
        kind: int,
        options: Sequence[tuple[int, bytes]] = (),
        *,
        client: str = "0.0.0.0",
        server: str = BROADCAST,
        server_mac: str = BROADCAST_MAC,
        hardware: str | None = None,
        source_mac: str | None = None,
        timeout: float = 2.0,
    ) -> Reply | None:
        """Send one message and return the answer to it, None if there is none within *timeout* seconds."""
        number = next(_numbers)
        tail = b"".join(bytes((code, len(payload))) + payload for code, payload in options)
        flags = 0 if client != "0.0.0.0" else _BROADCAST_FLAG
        frame = (
            Ether(src=source_mac or self.mac, dst=server_mac)
            / IP(src=client, dst=server)
            / UDP(sport=68, dport=67)
            / BOOTP(op=1, xid=number, chaddr=mac_bytes(hardware or self.mac), ciaddr=client, flags=flags)
            / DHCP(options=[("message-type", kind), tail, "end"])
        )
        self.link.send(bytes(frame))
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.link], [], [], left)[0]:
                frame_in = self.link.recv(65536)
                reply = read_reply(frame_in, number)
                if reply is not None:
                    return reply
                self._passed.append(frame_in)
        return None

    def lease(self, options: Sequence[tuple[int, bytes]] = ()) -> Reply:
        """Go the whole way from discover to acknowledgement; return the latter."""
        offer = self.ask(DISCOVER, options)
        assert offer is not None, "nothing is offered"
        assert offer.kind == OFFER
        chosen = [(REQUESTED, socket.inet_aton(offer.address)), (SERVER_ID, offer.options[SERVER_ID])]
        reply = self.ask(REQUEST, [*chosen, *options])
        assert reply is not None, "the request is not answered"
        assert (reply.kind, reply.address) == (ACK, offer.address)
        return reply

    def resolve(self, address: str, sender: str, timeout: float = 2.0) -> str | None:
        """Ask by ARP for the MAC address of *address*."""
        ask = ARP(op=1, hwsrc=self.mac, psrc=sender, pdst=address)
        self.link.send(bytes(Ether(src=self.mac, dst=BROADCAST_MAC) / ask))
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.link], [], [], left)[0]:
                frame = Ether(self.link.recv(65536))
                if ARP in frame and frame[ARP].op == 2 and frame[ARP].psrc == address:
                    return str(frame[ARP].hwsrc)
        return None

    def heard(self) -> list[bytes]:
        """Return, without waiting, the frames that have come since the last look and answer nothing of ours."""
        found, self._passed = self._passed, []
        while select.select([self.link], [], [], 0)[0]:
            found.append(self.link.recv(65536))
        return found


def read_reply(frame: bytes, number: int) -> Reply | None:
    """Return the answer to message *number*, None if *frame* is something else."""
    packet = Ether(frame)
    if BOOTP not in packet or packet[UDP].dport != 68 or packet[BOOTP].xid != number:
        return None
    octets = bytes(packet[UDP].payload)
    options = _options(octets[240:])
    assert octets[236:240] == COOKIE
    return Reply(
        kind=options[MESSAGE_TYPE][0],
        address=packet[BOOTP].yiaddr,
        next_server=packet[BOOTP].siaddr,
        source=packet[IP].src,
        destination=packet[IP].dst,
        eth_source=packet.src,
        eth_destination=packet.dst,
        options=options,
    )


def is_from_server(frame: bytes) -> bool:
    """Tell whether a frame is a DHCP server's."""
    packet = Ether(frame)
    return UDP in packet and packet[UDP].sport == 67


def _options(octets: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while octets and octets[0] != 255:
        if octets[0] == 0:
            octets = octets[1:]
            continue
        code, size = octets[0], octets[1]
        found[code] = found.get(code, b"") + octets[2 : 2 + size]  # split ones belong together (RFC 3396)
        octets = octets[2 + size :]
    return found
