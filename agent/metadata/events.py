# SPDX-License-Identifier: Apache-2.0
"""What the loop that owns the sockets has to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from agent.metadata.nova import Exchange


@dataclass(frozen=True, slots=True)
class Send:
    """Octets for the client.  The same object may be on its way to many, so that user data is in memory once."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AskNova:
    """Run *exchange*, and send the client what it yields, before the next event is asked for."""

    exchange: Exchange


@dataclass(frozen=True, slots=True)
class Answered:
    """A request has had its answer: for counters and for people.  ``target`` is what the client wrote, printable."""

    method: str
    target: str
    status: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Leave the client alone for so many seconds: it asks more than it may."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection; nothing comes after it.

    If it is to ``linger``, the client may still be sending: end our half, read and throw
    away a little, then close.  Else the reset that unread octets cause could overtake the answer.
    """

    linger: bool = False


Event: TypeAlias = Send | AskNova | Answered | Pause | Close
