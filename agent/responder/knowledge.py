# SPDX-License-Identifier: Apache-2.0
"""All that the responder knows: under a key of the protocol its digest, and what it stands for.

What is put is checked whole before anything changes: bad data leaves what was there.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.core.errors import InputError
from agent.dhcp.data import decode_port
from agent.dhcp.frames6 import packed_mac
from agent.dhcp.port_answers import PortAnswers
from agent.metadata.data import MetadataData, ServiceData, decode_metadata, decode_service

LOG = logging.getLogger(__name__)

DHCP, METADATA, SERVICE = "dhcp", "metadata", "service"


@dataclass(slots=True)
class Record:
    """What a port has asked and was told last; times in Unix seconds.

    ``messages`` by protocol and kind: (when, what came of it), the last ones last.
    """

    messages: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)
    advertised_at: float | None = None
    metadata: dict[str, object] | None = None
    rate_limited: int = 0

    def note(self, protocol: str, message: str, at: float, result: str) -> None:
        """Note a message; there is one of each protocol and kind."""
        self.messages.pop((protocol, message), None)
        self.messages[protocol, message] = (at, result)

    def page(self, connections: int) -> dict[str, object]:
        """Return what is told of the port, as ``agent.responder.protocol`` says."""
        messages = [
            {"at": at, "protocol": protocol, "message": message, "result": result}
            for (protocol, message), (at, result) in reversed(self.messages.items())
        ]
        return {
            "messages": messages,
            "advertised_at": self.advertised_at,
            "metadata": self.metadata,
            "connections": connections,
            "rate_limited": self.rate_limited,
        }


@dataclass(frozen=True, slots=True, eq=False)
class FramePort:
    """A port whose frames are answered; one object for each time that its data changes.

    ``departed`` is the MAC address of the router that its hosts were told of last and that is none now.
    """

    key: str
    identity: bytes
    answers: PortAnswers
    record: Record
    departed: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class MetadataPort:
    """A port whose metadata requests are answered; ``aliases`` are packed, with the instance's address as text."""

    key: str
    data: MetadataData
    aliases: Mapping[bytes, str]
    record: Record


class Knowledge:
    """What is known, found by what a packet has: the identity it is sent to, the alias it comes from.

    ``on_port`` is called with each `FramePort` that is new, ``on_service`` with what is
    the same for all ports before it is in force (it may raise InputError), and
    ``on_alias_lost`` with key and each alias that no longer stands for what it stood
    for, before anything else may have it.
    """

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        self.ports: dict[bytes, FramePort] = {}
        self.aliases: dict[bytes, MetadataPort] = {}
        self.service = ServiceData()
        self.on_port: Callable[[FramePort], None] = _ignore_port
        self.on_alias_lost: Callable[[str, bytes], None] = _ignore_alias
        self.on_service: Callable[[ServiceData], None] = _ignore_service
        self._frame_ports: dict[str, FramePort] = {}
        self._metadata_ports: dict[str, MetadataPort] = {}
        self._records: dict[str, Record] = {}

    def put(self, key: str, digest: str, data: object) -> None:
        """Know *data* under *key* from now on; raise InputError, and change nothing, if it makes no sense."""
        kind, _, port = key.partition(" ")
        if kind == DHCP and port:
            self._put_frames(key, port, data)
        elif kind == METADATA and port:
            self._put_metadata(key, port, data)
        elif key == SERVICE:
            service = decode_service(data)
            self.on_service(service)
            self.service = service
        else:
            raise InputError(f"key {key!r:.60} is not known to this version")
        self.digests[key] = digest

    def delete(self, key: str) -> None:
        """Know nothing under *key* any more."""
        self._drop_frames(key)
        self._drop_metadata(key)
        if key == SERVICE:
            self.service = ServiceData()
            self.on_service(self.service)
        self.digests.pop(key, None)
        port = key.partition(" ")[2]
        if not {f"{DHCP} {port}", f"{METADATA} {port}"} & self.digests.keys():
            self._records.pop(port, None)

    def metadata_port(self, key: str) -> MetadataPort | None:
        """Return what is known under *key* of a port's metadata."""
        return self._metadata_ports.get(key)

    def record(self, port: str) -> Record | None:
        """Return what the port has asked last, None of a port that is not served."""
        return self._records.get(port)

    def _put_frames(self, key: str, port: str, data: object) -> None:
        if not isinstance(data, dict) or not isinstance(data.get("identity"), str):
            raise InputError(f"{key}: there is no identity")
        try:
            identity = packed_mac(data["identity"])
        except ValueError as err:
            raise InputError(f"{key}: identity: {err}") from None
        known = decode_port(data.get("port"))
        before = self._frame_ports.get(key)
        if before is not None and (before.identity, before.answers.data) == (identity, known):
            return  # nobody has to be told anything
        answers = PortAnswers(known, identity)
        self._drop_frames(key)
        taken = self.ports.get(identity)
        if taken is not None:  # whose number was given away while we did not hear of it
            LOG.warning("%s: has the identity of %s, which is forgotten", key, taken.key)
            self.delete(taken.key)
        departed = _departed(before, known.router_mac) if before is not None else ""
        found = FramePort(key, identity, answers, self._records.setdefault(port, Record()), departed)
        self.ports[identity] = self._frame_ports[key] = found
        self.on_port(found)

    def _put_metadata(self, key: str, port: str, data: object) -> None:
        known = decode_metadata(data)
        try:
            aliases = {packed_address(alias): address for alias, address in known.aliases}
        except OSError:
            raise InputError(f"{key}: aliases: not all are addresses") from None
        before = self._metadata_ports.get(key)
        for alias, address in before.aliases.items() if before is not None else ():
            if aliases.get(alias) != address:
                self.on_alias_lost(key, alias)
        self._drop_metadata(key, keep=aliases)
        found = MetadataPort(key, known, aliases, self._records.setdefault(port, Record()))
        for alias in aliases:
            taken = self.aliases.get(alias)
            if taken is not None:
                LOG.warning("%s: has an alias of %s, which is forgotten", key, taken.key)
                self.delete(taken.key)
            self.aliases[alias] = found
        self._metadata_ports[key] = found

    def _drop_frames(self, key: str) -> None:
        old = self._frame_ports.pop(key, None)
        if old is not None:
            del self.ports[old.identity]

    def _drop_metadata(self, key: str, keep: Mapping[bytes, str] | None = None) -> None:
        old = self._metadata_ports.pop(key, None)
        for alias in old.aliases if old is not None else ():
            del self.aliases[alias]
            if keep is None:
                self.on_alias_lost(key, alias)


def _departed(before: FramePort, router_mac: str) -> str:
    """Return which router has gone if a port's is *router_mac* now, as far as it is known."""
    last = before.answers.data.router_mac
    departed = last if last not in ("", router_mac) else before.departed
    return departed if departed != router_mac else ""


def packed_address(text: str) -> bytes:
    """Return an IPv4 or IPv6 address as 4 or 16 octets; OSError if it is none."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def _ignore_port(port: FramePort) -> None:
    del port


def _ignore_alias(key: str, alias: bytes) -> None:
    del key, alias


def _ignore_service(service: ServiceData) -> None:
    del service
