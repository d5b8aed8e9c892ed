# SPDX-License-Identifier: Apache-2.0
"""What a port is answered by DHCPv6 (RFC 8415): a pure function of its message and of what we know of it.

There is nothing to remember: the addresses of a port are its own for as long as it has
them, whatever DUIDs and IAIDs its systems choose over time.  So everybody behind the
port gets the port's addresses and nobody else's, `rapid commit` is always granted, a
release is only acknowledged, and a declined address stays the port's (the outcome says
that somebody complained).

Where an address has gone from the port, a renewing client is told lifetimes of 0 for
it and the port's new addresses beside it: the change takes effect without a restart.
Confirm is answered with "not on link" also for addresses of the link that are not the
port's: its packets from them would be dropped.  Nobody gets prefixes or temporary
addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from agent.dhcp import frames6, v6_packet
from agent.dhcp.data import PortData
from agent.dhcp.frames import PacketError
from agent.dhcp.frames6 import DHCPV6_CLIENT, DHCPV6_SERVER, Datagram
from agent.dhcp.v6_configuration import LEAST_MTU, configuration, is_served, is_stateful, seconds
from agent.dhcp.v6_packet import INFINITY, Association, Code, Lease, Message, MessageType, Request, StatusCode

SERVERS_AND_RELAYS = b"\xff\x02" + bytes(11) + b"\1\0\2"  # ff02::1:2
BEST_PREFERENCE = b"\xff"  # ends the client's wait for other servers (RFC 8415, section 18.2.1)
_IPV6_AND_UDP = 48
_DUID_LL, _ETHERNET = 3, 1  # RFC 8415, section 11.4


class Outcome(StrEnum):
    """What came of a message; those after NO_BINDING are silence."""

    ANSWERED = "answered"
    DECLINED = "declined"  # answered; the client has seen another with its address
    RELEASED = "released"
    NO_ADDRESS = "no-address"
    NOT_ON_LINK = "not-on-link"
    USE_MULTICAST = "use-multicast"
    NO_BINDING = "no-binding"
    NOT_SERVED = "not-served"  # no subnet of the port has DHCPv6
    MALFORMED = "malformed"
    RELAYED = "relayed"  # through a relay agent: an instance is none
    NOT_FOR_US = "not-for-us"  # other port, address or group, or a source that no client has
    NOT_FOR_SERVERS = "not-for-servers"
    NO_CLIENT_ID = "no-client-id"
    NO_SERVER_ID = "no-server-id"
    UNEXPECTED_OPTION = "unexpected-option"
    OTHER_SERVER = "other-server"
    UNICAST = "unicast"
    TOO_LARGE = "too-large"  # the answer would not fit into a packet of the link


@dataclass(frozen=True, slots=True)
class Answer:
    """The frame to send, None for silence, and what to count: the message's name and what came of it."""

    message: str
    outcome: Outcome
    frame: bytes | None = None


_T = MessageType
_Reply = tuple[Outcome, Message | None]
_NEEDS_CLIENT_ID = frozenset((_T.SOLICIT, _T.REQUEST, _T.CONFIRM, _T.RENEW, _T.REBIND, _T.RELEASE, _T.DECLINE))
_NEEDS_SERVER_ID = frozenset((_T.REQUEST, _T.RENEW, _T.RELEASE, _T.DECLINE))
_OF_RELAYS = bytes((_T.RELAY_FORW,)), bytes((_T.RELAY_REPL,))
_NO_SERVER_ID = frozenset((_T.SOLICIT, _T.CONFIRM, _T.REBIND))

_TEXTS = {
    StatusCode.NO_ADDRS_AVAIL: "this port has no further addresses",
    StatusCode.NO_BINDING: "not an address of this port",
    StatusCode.NOT_ON_LINK: "not an address for this port",
    StatusCode.USE_MULTICAST: "ask ff02::1:2",
    StatusCode.NO_PREFIX_AVAIL: "no prefixes are delegated here",
}


def answer(datagram: Datagram, port: PortData) -> Answer:
    """Answer a UDP datagram that came in on *port*; never raises for what it holds."""
    envelope = datagram.envelope
    unicast = envelope.dst[0] != 0xFF
    if datagram.dport != DHCPV6_SERVER or not _is_for_us(envelope, port):
        return Answer("", Outcome.NOT_FOR_US)
    if datagram.payload[:1] in _OF_RELAYS:
        return Answer("", Outcome.RELAYED)
    try:
        request = v6_packet.read_request(v6_packet.decode(datagram.payload))
    except PacketError:
        return Answer("", Outcome.MALFORMED)
    outcome, reply = reply_to(request, port, unicast=unicast)
    name = request.type.name.lower().replace("_", "-")
    if reply is None:
        return Answer(name, outcome)
    back = frames6.reply_envelope(envelope, port.server_mac)
    payload = v6_packet.encode(reply)
    if len(payload) > max(port.mtu, LEAST_MTU) - _IPV6_AND_UDP:
        return Answer(name, Outcome.TOO_LARGE)
    return Answer(name, outcome, frames6.build_datagram(back, payload, DHCPV6_SERVER, DHCPV6_CLIENT))


def _is_for_us(envelope: frames6.Envelope, port: PortData) -> bool:
    """Tell whether a client of this link sent to us: to the group from a link-local address, or to one of ours."""
    if envelope.eth_src[0] & 1 or not frames6.is_unicast(envelope.src):
        return False
    if envelope.dst[0] == 0xFF:
        return envelope.dst == SERVERS_AND_RELAYS and frames6.is_link_local(envelope.src)
    return envelope.dst == frames6.link_local(port.server_mac) or any(
        envelope.dst == frames6.packed(subnet.server)
        for subnet in port.subnets
        if subnet.server is not None and ":" in subnet.server
    )


def server_duid(port: PortData) -> bytes:
    """Return our DUID towards a port: of type DUID-LL, and as stable as the MAC that it sees us answer from."""
    return bytes((0, _DUID_LL, 0, _ETHERNET)) + frames6.packed_mac(port.server_mac)


def reply_to(request: Request, port: PortData, *, unicast: bool = False) -> _Reply:
    """Return what comes of *request* and the message to answer with, None for silence.

    *unicast* tells that it was sent to an address of ours and not to the group.
    """
    if not any(map(is_served, port.subnets)):
        return Outcome.NOT_SERVED, None
    answerer = _ANSWERERS.get(request.type)
    if answerer is None:
        return Outcome.NOT_FOR_SERVERS, None
    wrong = _why_discard(request, server_duid(port), unicast=unicast)
    if wrong is not None:
        return wrong, None
    if unicast:  # we never say the Server Unicast option; RFC 8415, section 18.4
        return Outcome.USE_MULTICAST, _message(request, port, [_status(StatusCode.USE_MULTICAST)])
    return answerer(request, port)


def _why_discard(request: Request, duid: bytes, *, unicast: bool) -> Outcome | None:
    """Return why RFC 8415, sections 16 and 18.4, demands silence; None if it does not."""
    if request.type in _NEEDS_CLIENT_ID and request.client_id is None:
        return Outcome.NO_CLIENT_ID
    if request.type in _NEEDS_SERVER_ID and request.server_id is None:
        return Outcome.NO_SERVER_ID
    if request.type in _NO_SERVER_ID and request.server_id is not None:
        return Outcome.UNEXPECTED_OPTION
    if request.type is _T.INFORMATION_REQUEST and request.associations:
        return Outcome.UNEXPECTED_OPTION
    if request.server_id not in (None, duid):
        return Outcome.OTHER_SERVER
    if unicast and request.type not in _NEEDS_SERVER_ID:
        return Outcome.UNICAST
    return None


def _solicit(request: Request, port: PortData) -> _Reply:
    granted = _grant(request, port)
    found = any(association.leases for association in granted)
    outcome = Outcome.ANSWERED if found else Outcome.NO_ADDRESS
    options = [v6_packet.encode_association(association) for association in granted]
    if request.rapid_commit and found:
        options.append((Code.RAPID_COMMIT, b""))
        return outcome, _message(request, port, options, configured=True)
    options.insert(0, (Code.PREFERENCE, BEST_PREFERENCE))
    return outcome, _message(request, port, options, kind=_T.ADVERTISE, configured=True)


def _request(request: Request, port: PortData) -> _Reply:
    """Grant the port's addresses, but where others of foreign prefixes are asked for say so (section 18.3.2)."""
    options: list[tuple[int, bytes]] = []
    outcome = Outcome.ANSWERED
    for association, granted in zip(request.associations, _grant(request, port), strict=True):
        if all(_is_on_link(lease.address, port) for lease in association.leases):
            options.append(v6_packet.encode_association(granted))
            continue
        outcome = Outcome.NOT_ON_LINK
        options.append(_refusal(association, StatusCode.NOT_ON_LINK))
    if outcome is Outcome.ANSWERED and request.associations and not _addresses(port):
        outcome = Outcome.NO_ADDRESS
    return outcome, _message(request, port, options, configured=True)


def _confirm(request: Request, port: PortData) -> _Reply:
    asked = {lease.address for association in request.associations for lease in association.leases}
    if not asked:  # nothing to confirm; section 18.3.3 demands silence
        return Outcome.UNEXPECTED_OPTION, None
    if asked <= set(_addresses(port)):
        return Outcome.ANSWERED, _message(request, port, [_status(StatusCode.SUCCESS)])
    return Outcome.NOT_ON_LINK, _message(request, port, [_status(StatusCode.NOT_ON_LINK)])


def _extend(request: Request, port: PortData) -> _Reply:
    """Answer Renew and Rebind (sections 18.3.4 and 18.3.5)."""
    own = frozenset(_addresses(port))
    options: list[tuple[int, bytes]] = []
    outcome = Outcome.ANSWERED
    for association, granted in zip(request.associations, _grant(request, port), strict=True):
        gone = tuple(Lease(lease.address) for lease in association.leases if lease.address not in own)
        if association.kind is Code.IA_NA and (granted.leases or gone):
            status = None if granted.leases else granted.status
            kept = Association(Code.IA_NA, granted.iaid, granted.t1, granted.t2, granted.leases + gone, status)
            options.append(v6_packet.encode_association(kept))
            continue
        if association.kind is Code.IA_NA:
            outcome = Outcome.NO_BINDING
        options.append(_refusal(association, StatusCode.NO_BINDING))
    return outcome, _message(request, port, options, configured=True)


def _give_back(request: Request, port: PortData) -> _Reply:
    """Answer Release and Decline (sections 18.3.7 and 18.3.8)."""
    own = frozenset(_addresses(port))
    ours = [own.intersection(lease.address for lease in found.leases) for found in request.associations]
    unknown = [
        _refusal(association, StatusCode.NO_BINDING)
        for association, addresses in zip(request.associations, ours, strict=True)
        if not addresses
    ]
    reply = _message(request, port, [*unknown, _status(StatusCode.SUCCESS)])
    if not any(ours):
        return Outcome.NO_BINDING, reply
    return Outcome.DECLINED if request.type is _T.DECLINE else Outcome.RELEASED, reply


def _inform(request: Request, port: PortData) -> _Reply:
    return Outcome.ANSWERED, _message(request, port, [], configured=True)


_ANSWERERS: dict[MessageType, Callable[[Request, PortData], _Reply]] = {
    _T.SOLICIT: _solicit,
    _T.REQUEST: _request,
    _T.CONFIRM: _confirm,
    _T.RENEW: _extend,
    _T.REBIND: _extend,
    _T.RELEASE: _give_back,
    _T.DECLINE: _give_back,
    _T.INFORMATION_REQUEST: _inform,
}


def _grant(request: Request, port: PortData) -> list[Association]:
    """Return the associations of *request* with what each gets, in the same order."""
    valid = seconds(port)
    t1, t2 = (INFINITY, INFINITY) if valid == INFINITY else (valid // 2, valid * 4 // 5)
    shares = iter(_shares([found for found in request.associations if found.kind is Code.IA_NA], _addresses(port)))
    granted: list[Association] = []
    for association in request.associations:
        share = next(shares) if association.kind is Code.IA_NA else ()
        if share:
            leases = tuple(Lease(address, valid, valid) for address in share)
            granted.append(Association(Code.IA_NA, association.iaid, t1, t2, leases))
            continue
        status = StatusCode.NO_PREFIX_AVAIL if association.kind is Code.IA_PD else StatusCode.NO_ADDRS_AVAIL
        granted.append(Association(association.kind, association.iaid, status=(status, _TEXTS[status])))
    return granted


def _shares(associations: Sequence[Association], addresses: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    """Divide a port's addresses: those asked for, then one for each that has none, the rest to the first."""
    left = list(addresses)
    shares: list[list[bytes]] = []
    for association in associations:
        wished = {lease.address for lease in association.leases}
        shares.append([address for address in left if address in wished])
        left = [address for address in left if address not in wished]
    for share in shares:
        if not share and left:
            share.append(left.pop(0))
    if shares:
        shares[0].extend(left)
    return map(tuple, shares)


def _addresses(port: PortData) -> list[bytes]:
    """Return the packed addresses that DHCPv6 gives a port."""
    return [
        frames6.packed(address)
        for address, index in port.addresses
        if ":" in address and is_stateful(port.subnets[index])
    ]


def _is_on_link(address: bytes, port: PortData) -> bool:
    return any(_covers(subnet.cidr, address) for subnet in port.subnets if ":" in subnet.cidr)


@lru_cache(maxsize=4096)
def _prefix(cidr: str) -> tuple[int, int]:
    network = ipaddress.IPv6Network(cidr)
    host_bits = 128 - network.prefixlen
    return int(network.network_address) >> host_bits, host_bits


def _covers(cidr: str, address: bytes) -> bool:
    bits, host_bits = _prefix(cidr)
    return int.from_bytes(address) >> host_bits == bits


def _status(code: StatusCode) -> tuple[int, bytes]:
    return v6_packet.encode_status(code, _TEXTS.get(code, ""))


def _refusal(association: Association, code: StatusCode) -> tuple[int, bytes]:
    refused = Association(association.kind, association.iaid, status=(code, _TEXTS[code]))
    return v6_packet.encode_association(refused)


def _message(
    request: Request,
    port: PortData,
    options: list[tuple[int, bytes]],
    *,
    kind: MessageType = _T.REPLY,
    configured: bool = False,
) -> Message:
    """Put a message together; of the configuration goes in what fits into a packet of the link."""
    duids: list[tuple[int, bytes]] = [(Code.SERVER_ID, server_duid(port))]
    if request.client_id is not None:
        duids.insert(0, (Code.CLIENT_ID, request.client_id))
    options = duids + options
    if configured:
        left = max(port.mtu, LEAST_MTU) - _IPV6_AND_UDP - v6_packet.message_size(options)
        for option in configuration(request, port):
            size = v6_packet.option_size(option)
            if size <= left:
                left -= size
                options.append(option)
    return Message(kind, request.transaction, tuple(options))
