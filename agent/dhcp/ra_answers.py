# SPDX-License-Identifier: Apache-2.0
"""Router advertisements for a port (RFC 4861, RFC 8106): what they say, to whom they go, and when.

What is said follows Neutron: prefixes of subnets with an RA mode, autonomous unless
addresses come by DHCPv6, the M and O flags by the modes of all of them.  The router's
lifetime is 0 unless a router of ours has one of the subnets; hosts then learn prefixes,
flags and DNS, and no route.  Other than there, DNS is said for every mode: systems that
speak no DHCPv6 have no other source.

No route (RFC 4191) is needed for the metadata service: ``fe80::a9fe:a9fe`` is
link-local, and hosts have every such address on their link without being told.

Each advertisement goes to one port, so that nothing has to be rationed on the link, and
a solicitation is answered at once: the delay of section 6.2.6 is for many hosts that
ask together.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from agent.dhcp import frames6
from agent.dhcp.data import PortData, SubnetData
from agent.dhcp.domain_names import encode_names
from agent.dhcp.frames import PacketError
from agent.dhcp.frames6 import ALL_NODES, ALL_ROUTERS, UNSPECIFIED, ControlMessage, Envelope
from agent.dhcp.ra_packet import (
    HOP_LIMIT,
    ROUTER_ADVERTISEMENT,
    PrefixInformation,
    RouterAdvertisement,
    decode_solicitation,
    encode_advertisement,
)
from agent.dhcp.v6_configuration import LEAST_MTU, SLAAC, STATEFUL, STATELESS

LONGEST_INTERVAL, SHORTEST_INTERVAL = 600.0, 200.0  # seconds; defaults of RFC 4861, section 6.2.1
INITIAL_INTERVAL, INITIAL_COUNT = 16.0, 3  # after a change; section 10
ROUTER_LIFETIME = 1800  # seconds: three of the longest intervals, as there and in RFC 8106, section 5.1
VALID, PREFERRED = 86400, 14400  # seconds; as radvd, and so Neutron, says of prefixes
AUTONOMOUS_LENGTH = 64  # of prefixes that hosts make addresses in (RFC 4862, section 5.5.3; RFC 2464)

_ALL_NODES_MAC = b"\x33\x33\0\0\0\1"
_IPV6_AND_ICMPV6 = 44


class Outcome(StrEnum):
    """What came of a solicitation."""

    ANSWERED = "answered"
    NOT_SERVED = "not-served"  # no subnet of the port has advertisements
    MALFORMED = "malformed"
    NOT_FOR_US = "not-for-us"


@dataclass(frozen=True, slots=True)
class Answer:
    """The frame to send, None for silence, and what to count."""

    outcome: Outcome
    frame: bytes | None = None


def answer(message: ControlMessage, port: PortData) -> Answer:
    """Answer a router solicitation that came in on *port*; never raises for what it holds."""
    envelope = message.envelope
    try:
        decode_solicitation(message)
    except PacketError:
        return Answer(Outcome.MALFORMED)
    ours = ALL_ROUTERS, frames6.link_local(_router_mac(port))
    if envelope.dst not in ours or envelope.eth_src[0] & 1:
        return Answer(Outcome.NOT_FOR_US)
    advertisement = advertise(port)
    if advertisement is None:
        return Answer(Outcome.NOT_SERVED)
    if envelope.src == UNSPECIFIED:
        return Answer(Outcome.ANSWERED, _frame(advertisement, port, envelope.eth_dst, ALL_NODES, _ALL_NODES_MAC))
    return Answer(Outcome.ANSWERED, _frame(advertisement, port, envelope.eth_dst, envelope.src, envelope.eth_src))


def unsolicited(port: PortData, identity: bytes) -> bytes | None:
    """Return the frame of a periodic advertisement, None if the port gets none.

    *identity* are the 6 octets that stand for the port between the switch and us: the
    frame comes from them.
    """
    advertisement = advertise(port)
    return None if advertisement is None else _frame(advertisement, port, identity, ALL_NODES, _ALL_NODES_MAC)


def farewell(port: PortData, router_mac: str, identity: bytes) -> bytes:
    """Return the frame by which a router that is none any more takes leave of the port's hosts.

    They know routers by the link-local address that advertisements come from, so nobody
    else's ends their default route by this one (RFC 4861, section 6.2.5).
    """
    now = advertise(port)
    advertisement = RouterAdvertisement(
        source_mac=frames6.packed_mac(router_mac),
        lifetime=0,
        managed=now is not None and now.managed,
        other=now is not None and now.other,
    )
    return _frame(advertisement, replace(port, router_mac=router_mac), identity, ALL_NODES, _ALL_NODES_MAC)


def next_time(sent: int, now: float, jitter: float) -> float:
    """Return when the next periodic advertisement is due, in the unit and from the origin of *now* (seconds).

    *sent* is how many have gone to the port since its data changed: the first goes out
    at once, the next soon (RFC 4861, section 6.2.4).  *jitter* in [0, 1) is random; it
    keeps the ports of a host apart.
    """
    if sent == 0:
        return now
    if sent < INITIAL_COUNT:
        return now + INITIAL_INTERVAL * (1 + jitter) / 2
    return now + SHORTEST_INTERVAL + jitter * (LONGEST_INTERVAL - SHORTEST_INTERVAL)


def advertise(port: PortData) -> RouterAdvertisement | None:
    """Return what the port's hosts are told, None if nothing is to be said."""
    subnets = [subnet for subnet in port.subnets if ":" in subnet.cidr and (subnet.ra_mode or subnet.routed)]
    if not subnets:
        return None
    modes = {subnet.ra_mode for subnet in subnets}
    names = (port.domain, *port.search) if port.domain else port.search
    return RouterAdvertisement(
        source_mac=frames6.packed_mac(_router_mac(port)),
        lifetime=ROUTER_LIFETIME if any(subnet.routed for subnet in subnets) else 0,
        managed=STATEFUL in modes,
        other=STATELESS in modes,
        mtu=port.mtu if port.mtu >= LEAST_MTU else 0,
        prefixes=_prefixes(subnets),
        dns_servers=_dns_servers(subnets),
        search=encode_names(names),
        dns_lifetime=ROUTER_LIFETIME,
    )


def _router_mac(port: PortData) -> str:
    """Return the MAC address that the advertising router has: hosts take it, and its link-local, for their route."""
    return port.router_mac or port.server_mac


def _prefixes(subnets: Sequence[SubnetData]) -> tuple[PrefixInformation, ...]:
    found = []
    for subnet in subnets:
        if subnet.ra_mode is not None:
            prefix, length = _prefix(subnet.cidr)
            autonomous = subnet.ra_mode in (SLAAC, STATELESS) and length == AUTONOMOUS_LENGTH
            found.append(PrefixInformation(prefix, length, True, autonomous, VALID, PREFERRED))
    return tuple(found)


def _dns_servers(subnets: Sequence[SubnetData]) -> tuple[bytes, ...]:
    texts = [server for subnet in subnets if subnet.ra_mode is not None for server in subnet.dns if ":" in server]
    return tuple(dict.fromkeys(map(frames6.packed, texts)))


@lru_cache(maxsize=4096)
def _prefix(cidr: str) -> tuple[bytes, int]:
    network = ipaddress.IPv6Network(cidr)
    return network.network_address.packed, network.prefixlen


def _frame(
    advertisement: RouterAdvertisement, port: PortData, identity: bytes, destination: bytes, destination_mac: bytes
) -> bytes:
    source = frames6.link_local(_router_mac(port))
    envelope = Envelope(destination_mac, identity, destination, source, HOP_LIMIT)
    body = encode_advertisement(advertisement, max(port.mtu, LEAST_MTU) - _IPV6_AND_ICMPV6)
    return frames6.build_control_message(ControlMessage(envelope, ROUTER_ADVERTISEMENT, 0, body))
