# SPDX-License-Identifier: Apache-2.0
"""One door for all that the responder reads of IPv6: a frame of a port in, the frame to send back out."""

from __future__ import annotations

from dataclasses import dataclass

from agent.dhcp import frames6, neighbor_answers, ra_answers, v6_answers
from agent.dhcp.data import PortData
from agent.dhcp.frames import PacketError

DHCPV6, ROUTER_DISCOVERY, NEIGHBORS = "dhcpv6", "ra", "nd"


@dataclass(frozen=True, slots=True)
class Answer6:
    """What came of a frame, as it is counted: ``protocol`` "" for what is none of these, ``message`` "" if not known.

    ``frame`` None is silence.
    """

    protocol: str
    message: str
    result: str
    frame: bytes | None = None


def answer_frame(frame: bytes, port: PortData) -> Answer6:
    """Answer a frame that came in on *port*; never raises for what it holds."""
    try:
        asked = frames6.parse(frame)
    except PacketError:
        return Answer6("", "", "malformed")
    if isinstance(asked, frames6.Datagram):
        told = v6_answers.answer(asked, port)
        return Answer6(DHCPV6, told.message, told.outcome, told.frame)
    if asked.type == neighbor_answers.NEIGHBOR_SOLICITATION:
        found = neighbor_answers.answer(asked, port)
        return Answer6(NEIGHBORS, "solicitation", found.outcome, found.frame)
    advertised = ra_answers.answer(asked, port)
    return Answer6(ROUTER_DISCOVERY, "solicitation", advertised.outcome, advertised.frame)
