# SPDX-License-Identifier: Apache-2.0
"""DHCPv6 messages between client and server: bytes to values and back (RFC 8415, RFC 4704, RFC 5970).

`Message` is what is on the wire, options in their order and not looked into; `Request`
is what a server has to know of a client's message.  Everything that a tenant's bytes
can do wrong is a `PacketError`; the work is bounded by MAX_OPTIONS.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from agent.dhcp.data import Options
from agent.dhcp.frames import PacketError

MAX_OPTIONS = 128  # of a message, or within one option; clients send about ten
MAX_ASSOCIATIONS = 8
DUID_SIZES = range(3, 131)  # octets with the type; RFC 8415, section 11.1
INFINITY = 0xFFFFFFFF  # as a time in seconds

_OPTION = struct.Struct("!HH")
_IA = struct.Struct("!III")
_IAID = struct.Struct("!I")
_LEASE = struct.Struct("!16sII")
_U16 = struct.Struct("!H")
_HEADER = 4  # octets: type, transaction id


class MessageType(IntEnum):
    """RFC 8415, section 7.3."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    RECONFIGURE = 10
    INFORMATION_REQUEST = 11
    RELAY_FORW = 12
    RELAY_REPL = 13


class Code(IntEnum):
    """Option codes; the registry is IANA's "DHCPv6 parameters"."""

    CLIENT_ID = 1
    SERVER_ID = 2
    IA_NA = 3
    IA_TA = 4
    IAADDR = 5
    ORO = 6
    PREFERENCE = 7
    ELAPSED_TIME = 8
    RELAY_MSG = 9
    AUTH = 11
    UNICAST = 12
    STATUS_CODE = 13
    RAPID_COMMIT = 14
    USER_CLASS = 15
    VENDOR_CLASS = 16
    VENDOR_OPTS = 17
    INTERFACE_ID = 18
    RECONF_MSG = 19
    RECONF_ACCEPT = 20
    DNS_SERVERS = 23
    DOMAIN_LIST = 24
    IA_PD = 25
    IAPREFIX = 26
    SNTP_SERVERS = 31
    INFORMATION_REFRESH_TIME = 32
    CLIENT_FQDN = 39
    NTP_SERVER = 56
    BOOTFILE_URL = 59
    BOOTFILE_PARAM = 60
    CLIENT_ARCH_TYPE = 61
    SOL_MAX_RT = 82
    INF_MAX_RT = 83


class StatusCode(IntEnum):
    """RFC 8415, section 21.13."""

    SUCCESS = 0
    UNSPEC_FAIL = 1
    NO_ADDRS_AVAIL = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    USE_MULTICAST = 5
    NO_PREFIX_AVAIL = 6


class FqdnFlags(IntEnum):
    """Flags of the client FQDN option (RFC 4704, section 4.1)."""

    SERVER_UPDATES = 1
    OVERRIDDEN = 2
    NO_UPDATES = 4


@dataclass(frozen=True, slots=True)
class Message:
    """A message of type, transaction id (3 octets) and options; types of relays are none of it."""

    type: int
    transaction: bytes
    options: Options = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """An address (packed) in an association and its lifetimes in seconds."""

    address: bytes
    preferred: int = 0
    valid: int = 0


@dataclass(frozen=True, slots=True)
class Association:
    """IA_NA, IA_TA or IA_PD: what a client keeps under one IAID.

    ``t1`` and ``t2`` are seconds; IA_TA has none.  Prefixes are not looked at: nobody
    gets one.  ``status`` is (code, text), None if it is not said.
    """

    kind: Code
    iaid: int
    t1: int = 0
    t2: int = 0
    leases: tuple[Lease, ...] = ()
    status: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a client says.

    ``requested`` is None when the client has not said what it wants.  ``fqdn`` are the
    flags of its FQDN option, None without; the name in it decides nothing here.
    """

    type: MessageType
    transaction: bytes
    client_id: bytes | None = None
    server_id: bytes | None = None
    associations: tuple[Association, ...] = ()
    requested: tuple[int, ...] | None = None
    rapid_commit: bool = False
    fqdn: int | None = None
    user_classes: tuple[bytes, ...] = ()
    architectures: tuple[int, ...] = ()


def decode(payload: bytes) -> Message:
    """Return the message in a UDP payload; PacketError for what is none, relays' messages too."""
    if len(payload) < _HEADER:
        raise PacketError("DHCPv6 message is cut short")
    if payload[0] in (MessageType.RELAY_FORW, MessageType.RELAY_REPL):
        raise PacketError("DHCPv6 message of a relay")
    return Message(payload[0], payload[1:_HEADER], split_options(payload[_HEADER:]))


def encode(message: Message) -> bytes:
    """Return the UDP payload of *message*."""
    return bytes((message.type,)) + message.transaction + join_options(message.options)


def split_options(data: bytes) -> Options:
    """Return the options that *data* is made of."""
    found: list[tuple[int, bytes]] = []
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < _OPTION.size:
            raise PacketError("DHCPv6 option is cut short")
        code, size = _OPTION.unpack_from(data, offset)
        offset += _OPTION.size
        if size > end - offset:
            raise PacketError(f"DHCPv6 option {code} is cut short")
        if len(found) == MAX_OPTIONS:
            raise PacketError("too many DHCPv6 options")
        found.append((code, data[offset : offset + size]))
        offset += size
    return tuple(found)


def join_options(options: Iterable[tuple[int, bytes]]) -> bytes:
    """Return *options* as they stand in a message or within an option."""
    return b"".join(_OPTION.pack(code, len(payload)) + payload for code, payload in options)


def option_size(option: tuple[int, bytes]) -> int:
    """Return how many octets an option takes."""
    return _OPTION.size + len(option[1])


def message_size(options: Iterable[tuple[int, bytes]]) -> int:
    """Return how many octets a message with *options* takes."""
    return _HEADER + sum(map(option_size, options))


def read_request(message: Message) -> Request:
    """Return what a client's message says.

    Of an option that may stand there once the first counts, but two client or server
    identifiers make the message ambiguous: PacketError, as for malformed options.
    """
    try:
        kind = MessageType(message.type)
    except ValueError:
        raise PacketError(f"DHCPv6 message type {message.type} is not known") from None
    associations: list[Association] = []
    first: dict[int, bytes] = {}
    for code, payload in message.options:
        if code in _ASSOCIATIONS:
            associations.append(decode_association(Code(code), payload))
        elif code not in first:
            first[code] = payload
        elif code in (Code.CLIENT_ID, Code.SERVER_ID):
            raise PacketError(f"DHCPv6 option {code} stands there twice")
    if len(associations) > MAX_ASSOCIATIONS:
        raise PacketError("too many identity associations")
    requested = first.get(Code.ORO)
    fqdn = first.get(Code.CLIENT_FQDN)
    return Request(
        kind,
        message.transaction,
        _duid(first.get(Code.CLIENT_ID)),
        _duid(first.get(Code.SERVER_ID)),
        tuple(associations),
        None if requested is None else _numbers(requested),
        Code.RAPID_COMMIT in first,
        None if not fqdn else fqdn[0],
        _strings(first.get(Code.USER_CLASS, b"")),
        _numbers(first.get(Code.CLIENT_ARCH_TYPE, b"")),
    )


_ASSOCIATIONS = frozenset((Code.IA_NA, Code.IA_TA, Code.IA_PD))


def decode_association(kind: Code, payload: bytes) -> Association:
    """Return the identity association in an option of code *kind*."""
    header = _IAID if kind is Code.IA_TA else _IA
    if len(payload) < header.size:
        raise PacketError("identity association is cut short")
    iaid, t1, t2 = header.unpack_from(payload) if header is _IA else (*header.unpack_from(payload), 0, 0)
    leases: list[Lease] = []
    status: tuple[int, str] | None = None
    for code, value in split_options(payload[header.size :]):
        if code == Code.IAADDR:
            if len(value) < _LEASE.size:
                raise PacketError("address of an identity association is cut short")
            split_options(value[_LEASE.size :])
            leases.append(Lease(*_LEASE.unpack_from(value)))
        elif code == Code.STATUS_CODE and status is None:
            status = decode_status(value)
    return Association(kind, iaid, t1, t2, tuple(leases), status)


def encode_association(association: Association) -> tuple[int, bytes]:
    """Return *association* as an option."""
    if association.kind is Code.IA_TA:
        header = _IAID.pack(association.iaid)
    else:
        header = _IA.pack(association.iaid, association.t1, association.t2)
    inner = [
        (int(Code.IAADDR), _LEASE.pack(lease.address, lease.preferred, lease.valid)) for lease in association.leases
    ]
    if association.status is not None:
        inner.append(encode_status(*association.status))
    return association.kind, header + join_options(inner)


def decode_status(payload: bytes) -> tuple[int, str]:
    """Return code and text of a status code option."""
    if len(payload) < _U16.size:
        raise PacketError("status code is cut short")
    return _U16.unpack_from(payload)[0], payload[_U16.size :].decode("utf-8", "replace")


def encode_status(code: int, text: str) -> tuple[int, bytes]:
    """Return a status code option."""
    return Code.STATUS_CODE, _U16.pack(code) + text.encode()


def encode_numbers(numbers: Sequence[int]) -> bytes:
    """Return the payload of an option that lists 16-bit numbers."""
    return struct.pack(f"!{len(numbers)}H", *numbers)


def encode_strings(strings: Iterable[bytes]) -> bytes:
    """Return the payload of an option that lists octet strings by length (RFC 8415, section 21.15)."""
    return b"".join(_U16.pack(len(string)) + string for string in strings)


def _numbers(payload: bytes) -> tuple[int, ...]:
    if len(payload) % 2:
        raise PacketError("list of numbers of an odd size")
    return struct.unpack(f"!{len(payload) // 2}H", payload)


def _strings(payload: bytes) -> tuple[bytes, ...]:
    found: list[bytes] = []
    while payload:
        end = _U16.size + int.from_bytes(payload[: _U16.size], "big")
        if len(payload) < max(end, _U16.size):
            raise PacketError("user class is cut short")
        if len(found) == MAX_OPTIONS:
            raise PacketError("too many user classes")
        found.append(payload[_U16.size : end])
        payload = payload[end:]
    return tuple(found)


def _duid(payload: bytes | None) -> bytes | None:
    if payload is not None and len(payload) not in DUID_SIZES:
        raise PacketError(f"DUID of {len(payload)} octets")
    return payload
