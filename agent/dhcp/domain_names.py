# SPDX-License-Identifier: Apache-2.0
"""Domain names as DNS has them on the wire (RFC 1035, section 3.1), as DHCPv6 and RAs carry them: uncompressed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

MAX_LABEL, MAX_NAME = 63, 255  # octets
_LABEL = re.compile(rf"[!-~]{{1,{MAX_LABEL}}}")


@lru_cache(maxsize=4096)
def encode_name(name: str, *, partial: bool = False) -> bytes:
    """Return *name*, with or without its final dot, on the wire; ValueError if it is no domain name.

    A *partial* name lacks the root at its end (RFC 4704, section 4.2).
    """
    labels = name.removesuffix(".").split(".")
    if not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"{name:.80} is no domain name: labels have 1 to {MAX_LABEL} ASCII characters without spaces")
    wire = b"".join(bytes((len(label),)) + label.encode("ascii") for label in labels) + (b"" if partial else b"\0")
    if len(wire) > MAX_NAME:
        raise ValueError(f"{name:.80}... is no domain name: it has more than {MAX_NAME} octets")
    return wire


def encode_names(names: Iterable[str]) -> bytes:
    """Return those of *names* that are domain names, each once, one after the other."""
    return b"".join(dict.fromkeys(wire for name in names if (wire := _name_or_nothing(name))))


def _name_or_nothing(name: str) -> bytes:
    try:
        return encode_name(name)
    except ValueError:  # one bad name takes nothing else from the port
        return b""


def fqdn(hostname: str, domain: str) -> bytes:
    """Return a host's name on the wire, partial if no domain is known; empty if it is no name."""
    try:
        return encode_name(f"{hostname}.{domain}") if domain else encode_name(hostname, partial=True)
    except ValueError:
        return b""
