# SPDX-License-Identifier: Apache-2.0
"""What metadata requests of a port are answered from, and its form as JSON values.

This is all that the responder knows.  The agent has validated it.  JSON travels over
the hand-over socket and lies in the responder's file; fields of a later version are
ignored, fields that an earlier one did not write get their default.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContentData:
    """What the store says of an instance; served as it is, without Nova.

    ``user_data`` are octets; ``vendor_data`` is JSON text or empty; ``meta`` are (key,
    value).  ``network_data`` is OpenStack's ``network_data.json`` as JSON text.
    """

    hostname: str = ""
    fqdn: str = ""
    ssh_keys: tuple[str, ...] = ()
    user_data: bytes = b""
    vendor_data: str = ""
    availability_zone: str = ""
    instance_type: str = ""
    meta: tuple[tuple[str, str], ...] = ()
    network_data: str = ""


@dataclass(frozen=True, slots=True)
class MetadataData:
    """What is known of a port.

    ``aliases`` are (alias, address): requests that come from the alias are the
    port's, sent from its address.  ``mac`` and ``addresses`` (fixed ones, in the port's
    order) are its own.  ``content`` None means that Nova is asked.
    """

    port: str
    name: str
    network: str
    mac: str
    instance_id: str
    project: str
    aliases: tuple[tuple[str, str], ...]
    addresses: tuple[str, ...] = ()
    content: ContentData | None = None


@dataclass(frozen=True, slots=True)
class NovaData:
    """How to ask Nova.

    ``ca``, ``certificate`` and ``key`` are PEM text; ``ca`` empty means the system's
    authorities.  ``timeout`` in seconds, for connecting and for each answer.
    """

    url: str
    secret: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    insecure: bool = False
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one port may ask, for IPv4 and for IPv6 each.

    ``rate`` requests a second (0: any number) after the first ``burst``; ``connections``
    at once; ``body`` octets of a request; ``patience`` seconds for a whole request to
    come in, and for a client to take what is sent to it.
    """

    rate: float = 50.0
    burst: int = 200
    connections: int = 64
    body: int = 1 << 16
    patience: float = 10.0


@dataclass(frozen=True, slots=True)
class ServiceData:
    """What is the same for all ports; ``nova`` None where the store names none."""

    nova: NovaData | None = None
    limits: Limits = Limits()
