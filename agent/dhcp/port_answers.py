# SPDX-License-Identifier: Apache-2.0
"""One door for all that the responder reads of a port: a frame in, the frame to send back out."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import chain

from agent.core.errors import AgentError, InputError
from agent.dhcp import answers6, frames6, ra_answers, v4_answers, v4_port, v6_answers
from agent.dhcp.data import PortData
from agent.dhcp.v6_packet import Association, Code, Message, MessageType, Request, encode

DHCPV4, DHCPV6, ROUTER_DISCOVERY, NEIGHBORS = "dhcpv4", answers6.DHCPV6, answers6.ROUTER_DISCOVERY, answers6.NEIGHBORS

_TRANSACTION, _CLIENT = bytes(3), b"\0\3\0\1"  # of nobody
_ETHERTYPE_AT, _IPV4, _IPV6 = slice(12, 14), b"\x08\x00", b"\x86\xdd"


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a frame, as it is counted; ``frame`` None is silence.

    ``protocol`` is "" for what is none of ours, ``message`` "" where it is not known.
    """

    protocol: str
    message: str
    result: str
    frame: bytes | None = None


class PortAnswers:
    """Answers what comes in on a port.

    *identity* are the 6 octets that stand for the port between the switch and us.
    Raises InputError for data that no packet can hold: afterwards nothing raises.
    """

    __slots__ = ("_identity", "_v4", "data")

    def __init__(self, data: PortData, identity: bytes) -> None:
        self.data = data
        self._identity = identity
        self._v4 = v4_port.prepare(data)
        try:
            _rehearse(data, identity)
        except (AgentError, ValueError, ArithmeticError, struct.error) as err:
            raise InputError(f"port {data.port}: {err}") from None

    def answer(self, frame: bytes) -> Answered:
        """Return what comes of a frame from the port; never raises, whatever octets it has."""
        ethertype = frame[_ETHERTYPE_AT]
        if ethertype == _IPV4:
            told, reply = v4_answers.answer_frame(frame, self._v4)
            return Answered(DHCPV4, told.kind.name.lower() if told.kind is not None else "", told.result, reply)
        if ethertype == _IPV6:
            found = answers6.answer_frame(frame, self.data)
            return Answered(found.protocol, found.message, found.result, found.frame)
        return Answered("", "", "malformed")

    def advertisement(self) -> bytes | None:
        """Return the frame of a periodic router advertisement, None if the port gets none."""
        return ra_answers.unsolicited(self.data, self._identity)

    def farewell(self, router_mac: str) -> bytes:
        """Return the frame by which the router that had this MAC address takes leave."""
        return ra_answers.farewell(self.data, router_mac, self._identity)


def _rehearse(data: PortData, identity: bytes) -> None:
    """Put together once what a client could ask for; raises what a tenant's packet would meet."""
    frames6.packed_mac(data.mac)
    frames6.packed_mac(data.server_mac)
    for option in chain(data.options6, *(boot.options6 for boot in data.boot)):
        encode(Message(MessageType.REPLY, _TRANSACTION, (option,)))
    for subnet in data.subnets:
        if subnet.server is not None and ":" in subnet.server:
            frames6.packed(subnet.server)
    ra_answers.unsolicited(data, identity)
    lease = Association(Code.IA_NA, 0)
    for kind in (MessageType.SOLICIT, MessageType.INFORMATION_REQUEST):
        associations = (lease,) if kind is MessageType.SOLICIT else ()
        request = Request(kind, _TRANSACTION, client_id=_CLIENT, associations=associations)
        _, reply = v6_answers.reply_to(request, data)
        if reply is not None:
            encode(reply)
