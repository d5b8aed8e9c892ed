# SPDX-License-Identifier: Apache-2.0
"""What a DHCPv4 server says to a port's requests (RFC 2131 section 4.3), as pure functions.

There are no leases to keep: an address belongs to the port for as long as the store says
so.  Who asks is known from where the request came in; what it says of itself (hardware
address, client id) decides nothing but whether it is answered at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address
from typing import TypeAlias

from agent.dhcp import frames
from agent.dhcp.frames import BROADCAST_MAC, Datagram, PacketError
from agent.dhcp.v4_packet import (
    BOOTREPLY,
    BOOTREQUEST,
    BROADCAST_FLAG,
    ETHERNET,
    FILE_LIMIT,
    MIN_LIMIT,
    NO_ADDRESS,
    SNAME_LIMIT,
    Code,
    Header,
    Message,
    MessageType,
    assemble,
    encode_option,
    parse,
)
from agent.dhcp.v4_port import BootOptions, Lease, V4Port, encode_times
from agent.dhcp.v4_values import pack_names

SERVER_PORT = 67
CLIENT_PORT = 68
BROADCAST = b"\xff" * 4
HEADERS = frames.IPV4_LENGTH + frames.UDP_LENGTH
MIN_LEASE = 120  # seconds; shorter wishes would only make traffic

_KIND = {kind: encode_option(Code.MESSAGE_TYPE, bytes((kind,))) for kind in MessageType}
_ONLY_IF_ASKED = frozenset((Code.MICROSOFT_ROUTES, Code.IPV6_ONLY))
_FQDN_HEAD = 3
_FQDN_SERVER_UPDATES, _FQDN_OVERRIDDEN, _FQDN_WIRE_FORM, _FQDN_NO_UPDATES = 1, 2, 4, 8
_HTTP_CLIENT = b"HTTPClient"  # UEFI's HTTP boot takes only offers that say so


class Result(StrEnum):
    """What became of a request: the label it is counted under."""

    OFFERED = "offered"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"  # NAK: the address is not the port's
    DECLINED = "declined"  # the instance found its address in use by somebody else
    RELEASED = "released"
    MALFORMED = "malformed"
    NOT_DHCP = "not-dhcp"  # BOOTP, or a message that only servers send
    RELAYED = "relayed"  # through a relay agent: an instance is none
    OTHER_HARDWARE = "other-hardware"  # for another device than the port's
    OTHER_SERVER = "other-server"  # the client has chosen another server
    NO_ADDRESS = "no-address"  # the port has no address that DHCP serves


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request; ``payload`` None means silence.

    ``source`` and ``destination`` are packed addresses; ``address`` is what was offered,
    acknowledged, declined or released.
    """

    result: Result
    kind: MessageType | None = None
    payload: bytes | None = None
    source: bytes = NO_ADDRESS
    destination: bytes = BROADCAST
    address: bytes = NO_ADDRESS


def answer_frame(frame: bytes, port: V4Port) -> tuple[Answer, bytes | None]:
    """Return what becomes of a frame with a request, and the frame to send back.

    It goes to where the request came from as seen here: from the address that the
    request was sent to, which on the way in has been made the port's.
    """
    try:
        datagram = frames.parse_udp4(frame)
        if datagram.dst_port != SERVER_PORT:
            return Answer(Result.NOT_DHCP), None
        message = parse(datagram.payload)
    except PacketError:
        return Answer(Result.MALFORMED), None
    answer = respond(message, port)
    if answer.payload is None:
        return answer, None
    reply = Datagram(
        eth_dst=BROADCAST_MAC if answer.destination == BROADCAST else port.mac,
        eth_src=datagram.eth_dst,
        src=answer.source,
        dst=answer.destination,
        src_port=SERVER_PORT,
        dst_port=CLIENT_PORT,
        payload=answer.payload,
    )
    return answer, frames.build_udp4(reply)


def respond(message: Message, port: V4Port) -> Answer:
    """Return what becomes of a client's message."""
    header, options = message.header, message.options
    known = _HANDLERS.get(options.get(Code.MESSAGE_TYPE, b""))
    if header.op != BOOTREQUEST or known is None:
        return Answer(Result.NOT_DHCP)
    kind, handler = known
    if header.giaddr != NO_ADDRESS:
        return Answer(Result.RELAYED, kind)
    if header.chaddr != port.mac or header.htype != ETHERNET:
        return Answer(Result.OTHER_HARDWARE, kind)
    if not port.leases:
        return Answer(Result.NO_ADDRESS, kind)
    return handler(message, port)


def _discover(message: Message, port: V4Port) -> Answer:
    wish = message.options.get(Code.REQUESTED_ADDRESS, NO_ADDRESS)
    lease = port.leases.get(wish) or next(iter(port.leases.values()))
    if Code.RAPID_COMMIT in message.options:
        return _give(MessageType.DISCOVER, MessageType.ACK, message, port, lease)
    return _give(MessageType.DISCOVER, MessageType.OFFER, message, port, lease)


def _request(message: Message, port: V4Port) -> Answer:
    """Answer a client in any of the states that RFC 2131 section 4.3.2 tells apart."""
    options, kind = message.options, MessageType.REQUEST
    address = options.get(Code.REQUESTED_ADDRESS, message.header.ciaddr)  # without: renewing or rebinding
    chosen = options.get(Code.SERVER_ID)
    if chosen is not None and all(lease.server != chosen for lease in port.leases.values()):
        return Answer(Result.OTHER_SERVER, kind)
    if address == NO_ADDRESS:
        return Answer(Result.MALFORMED, kind)
    lease = port.leases.get(address)
    if lease is not None and chosen in (None, lease.server):
        return _give(kind, MessageType.ACK, message, port, lease)
    if address in port.unserved:
        return Answer(Result.NO_ADDRESS, kind)
    return _refuse(message, port, chosen)


def _inform(message: Message, port: V4Port) -> Answer:
    """Answer a client that has its address from elsewhere: all but an address (section 4.3.5)."""
    address = message.header.ciaddr
    lease = port.leases.get(address)
    if lease is None:
        near = (lease for lease in port.leases.values() if address == NO_ADDRESS or lease.holds(address))
        lease = next(near, None)
    if lease is None:
        return Answer(Result.NO_ADDRESS, MessageType.INFORM)
    return _give(MessageType.INFORM, MessageType.ACK, message, port, lease)


def _decline(message: Message, port: V4Port) -> Answer:
    address = message.options.get(Code.REQUESTED_ADDRESS, NO_ADDRESS)
    return _farewell(message, port, Answer(Result.DECLINED, MessageType.DECLINE, address=address))


def _release(message: Message, port: V4Port) -> Answer:
    return _farewell(message, port, Answer(Result.RELEASED, MessageType.RELEASE, address=message.header.ciaddr))


def _farewell(message: Message, port: V4Port, answer: Answer) -> Answer:
    """Return *answer* if it is about an address that we lent, silent as it is."""
    lease = port.leases.get(answer.address)
    if lease is None:
        return Answer(Result.NO_ADDRESS, answer.kind)
    if message.options.get(Code.SERVER_ID, lease.server) != lease.server:
        return Answer(Result.OTHER_SERVER, answer.kind)
    return answer


_Handler: TypeAlias = Callable[[Message, V4Port], Answer]
_HANDLERS: Mapping[bytes, tuple[MessageType, _Handler]] = {
    bytes((kind,)): (kind, handler)
    for kind, handler in (
        (MessageType.DISCOVER, _discover),
        (MessageType.REQUEST, _request),
        (MessageType.INFORM, _inform),
        (MessageType.DECLINE, _decline),
        (MessageType.RELEASE, _release),
    )
}


def _give(asked: MessageType, kind: MessageType, message: Message, port: V4Port, lease: Lease) -> Answer:
    """Return the answer that lends an address, or for an inform only tells the rest."""
    request, inform = message.options, asked is MessageType.INFORM
    boot = _boot_options(request, port)
    table = {**lease.options, **boot.options} if boot else lease.options
    encoded = {**lease.encoded, **boot.encoded} if boot else lease.encoded
    header = _reply_header(message.header, table, NO_ADDRESS if inform else lease.address, boot)
    if kind is MessageType.ACK and message.header.ciaddr != NO_ADDRESS:
        header = replace(header, ciaddr=message.header.ciaddr)
    options = [_KIND[kind], lease.identity]
    if not inform:
        options += _times(request, lease)
    if asked is MessageType.DISCOVER and kind is MessageType.ACK:
        options.append(encode_option(Code.RAPID_COMMIT, b""))
    options += _wanted(request, encoded, (*lease.always, *boot.encoded) if boot else lease.always)
    options += _echoes(request, table, port.name)
    room = min(_size_limit(request), port.limit) - HEADERS
    payload = assemble(header, options, max(room, MIN_LIMIT))
    result = Result.OFFERED if kind is MessageType.OFFER else Result.ACKNOWLEDGED
    return Answer(result, asked, payload, lease.server, _destination(header), lease.address)


def _reply_header(request: Header, table: Mapping[int, bytes], address: bytes, boot: BootOptions | None) -> Header:
    """Return the fixed part; what to boot stands there, too, for who looks only there."""
    file, sname = table.get(Code.BOOT_FILE, b""), table.get(Code.TFTP_SERVER, b"")
    return Header(
        BOOTREPLY,
        request.xid,
        request.chaddr,
        flags=request.flags,
        yiaddr=address,
        siaddr=boot.next_server if boot and boot.next_server != NO_ADDRESS else _next_server(table),
        file=file if len(file) < FILE_LIMIT else b"",
        sname=sname if len(sname) < SNAME_LIMIT else b"",
    )


def _destination(reply: Header) -> bytes:
    """Return where a reply goes (RFC 2131 section 4.1)."""
    if reply.ciaddr != NO_ADDRESS:
        return reply.ciaddr
    if reply.flags & BROADCAST_FLAG or reply.yiaddr == NO_ADDRESS:
        return BROADCAST
    return reply.yiaddr


def _refuse(message: Message, port: V4Port, server: bytes | None) -> Answer:
    """Return a NAK: the client shall forget the address and start anew."""
    request = message.header
    first = next(iter(port.leases.values()))
    options = [
        _KIND[MessageType.NAK],
        encode_option(Code.SERVER_ID, server or first.server),
        encode_option(Code.MESSAGE, b"not an address of this port"),
        *_client_id(message.options),
    ]
    header = Header(op=BOOTREPLY, xid=request.xid, chaddr=request.chaddr, flags=request.flags)
    payload = assemble(header, options)
    return Answer(Result.REFUSED, MessageType.REQUEST, payload, server or first.server, BROADCAST)


def _times(request: Mapping[int, bytes], lease: Lease) -> Iterable[bytes]:
    """Return lease time, T1 and T2; a client may have the address for a shorter time than we would lend it."""
    if Code.LEASE_TIME in request:
        wish = max(int.from_bytes(request[Code.LEASE_TIME]), MIN_LEASE)
        if wish < lease.seconds:
            return encode_times(wish)
    return lease.times


def _wanted(request: Mapping[int, bytes], encoded: Mapping[int, bytes], always: Iterable[int]) -> Iterator[bytes]:
    """Yield the options for what the client asks, in its order, the mask first (RFC 2132 section 3.3).

    Who does not say what it wants gets everything but what only Microsoft or IPv6-mostly hosts understand.
    """
    asked = request.get(Code.PARAMETERS)
    if asked is None:
        return (option for code, option in encoded.items() if code not in _ONLY_IF_ASKED)
    codes = dict.fromkeys((Code.MASK, *asked, *always))
    return (encoded[code] for code in codes if code in encoded)


def _boot_options(request: Mapping[int, bytes], port: V4Port) -> BootOptions | None:
    """Return what the boot loader that asks gets besides, of all that applies to it; None if nothing does."""
    if not port.boot:
        return None
    listed = request.get(Code.ARCHITECTURES, b"")
    architectures = tuple(int.from_bytes(listed[at : at + 2]) for at in range(0, len(listed) - 1, 2))
    ipxe = Code.IPXE in request or b"iPXE" in request.get(Code.USER_CLASS, b"")
    found: BootOptions | None = None
    for entry in port.boot:
        if entry.condition.applies(ipxe=ipxe, architectures=architectures):
            found = entry if found is None else found.overridden_by(entry)
    return found


def _next_server(options: Mapping[int, bytes]) -> bytes:
    """Return the address to load from: that of the TFTP server, if it is given as one."""
    addresses = options.get(Code.TFTP_ADDRESS, b"")
    if len(addresses) >= len(NO_ADDRESS):
        return addresses[: len(NO_ADDRESS)]
    if Code.TFTP_SERVER not in options:
        return NO_ADDRESS  # of nearly all ports: raising an exception for them would cost a tenth of an answer
    try:
        return IPv4Address(options[Code.TFTP_SERVER].decode("ascii")).packed
    except ValueError:
        return NO_ADDRESS


def _echoes(request: Mapping[int, bytes], table: Mapping[int, bytes], name: str) -> Iterator[bytes]:
    """Yield what says whom or what the answer is for."""
    yield from _client_id(request)
    if name and len(request.get(Code.FQDN, b"")) >= _FQDN_HEAD:
        yield encode_option(Code.FQDN, _fqdn(request[Code.FQDN][0], name))
    if table.get(Code.BOOT_FILE):
        if Code.MACHINE_ID in request:
            yield encode_option(Code.MACHINE_ID, request[Code.MACHINE_ID])
        if request.get(Code.VENDOR_CLASS, b"").startswith(_HTTP_CLIENT) and Code.VENDOR_CLASS not in table:
            yield encode_option(Code.VENDOR_CLASS, _HTTP_CLIENT)


def _client_id(request: Mapping[int, bytes]) -> Iterator[bytes]:
    """Yield the client identifier as it came, whatever it is made of (RFC 4361, RFC 6842)."""
    if Code.CLIENT_ID in request:
        yield encode_option(Code.CLIENT_ID, request[Code.CLIENT_ID])


def _fqdn(flags: int, name: str) -> bytes:
    """Return the client's name as the cloud has it (RFC 4702): the client is to update no DNS."""
    answer = flags & (_FQDN_WIRE_FORM | _FQDN_NO_UPDATES)
    if not flags & _FQDN_NO_UPDATES:
        answer |= _FQDN_SERVER_UPDATES | (0 if flags & _FQDN_SERVER_UPDATES else _FQDN_OVERRIDDEN)
    wire = pack_names((name,)) if flags & _FQDN_WIRE_FORM else name.encode()
    return bytes((answer, 255, 255)) + wire


def _size_limit(request: Mapping[int, bytes]) -> int:
    """Return the largest IPv4 packet that the client takes, in octets; 576 if it does not say (RFC 2132 9.10)."""
    return int.from_bytes(request.get(Code.MAX_SIZE, b"\0\0"))
