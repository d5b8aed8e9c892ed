# SPDX-License-Identifier: Apache-2.0
"""Values of DHCPv4 options as octets.  Text that makes no sense raises ValueError saying what would."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

NAME_LIMIT = 253  # RFC 1035: 255 octets with the first length and the root
LABEL_LIMIT = 63
_POINTER = 0xC000
_POINTER_REACH = 0x3FFF
_COLON_HEX = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})+")
_NUMBER = re.compile(r"0x[0-9a-f]{1,16}|[0-9]{1,20}")
_INFINITE_TIME = b"\xff\xff\xff\xff"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@lru_cache(maxsize=1024)  # all ports of a subnet have the same few
def pack_address(text: str) -> bytes:
    """Return an IPv4 address as 4 octets."""
    try:
        return ipaddress.IPv4Address(text.strip()).packed
    except ValueError:
        raise ValueError(f"{text.strip()!r} is not an IPv4 address") from None


def pack_addresses(texts: Iterable[str]) -> bytes:
    """Return IPv4 addresses one behind the other."""
    return b"".join(pack_address(text) for text in texts)


def pack_number(text: str, width: int) -> bytes:
    """Return a number as *width* octets."""
    word = text.strip().lower()
    try:
        if not _NUMBER.fullmatch(word):
            raise ValueError(word)
        return int(word, 16 if word.startswith("0x") else 10).to_bytes(width)
    except (ValueError, OverflowError):
        raise ValueError(f"{text.strip()!r} is not a number of 0..{256**width - 1}") from None


def pack_time(text: str) -> bytes:
    """Return seconds as 4 octets; the text may end in s, m, h, d or w, or be ``infinite``."""
    word = text.strip().lower()
    if word == "infinite":
        return _INFINITE_TIME
    unit = _UNITS.get(word[-1:], 0)
    digits = word[:-1] if unit else word
    seconds = int(digits) * (unit or 1) if digits.isascii() and digits.isdigit() and len(digits) <= 10 else -1
    if not 0 <= seconds < 0xFFFFFFFF:
        raise ValueError(f"{text.strip()!r} is not a time (seconds, or 10m, 12h, 7d, infinite)")
    return seconds.to_bytes(4)


def pack_flag(text: str) -> bytes:
    """Return one octet, 0 or 1."""
    values = {"0": b"\0", "false": b"\0", "no": b"\0", "1": b"\1", "true": b"\1", "yes": b"\1"}
    if (word := text.strip().lower()) not in values:
        raise ValueError(f"{text.strip()!r} is not true or false")
    return values[word]


def pack_hex(text: str) -> bytes:
    """Return the octets of ``0x0a1b``, ``0a:1b`` or ``0a1b``."""
    digits = text.strip().removeprefix("0x").replace(":", "")
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise ValueError(f"{text.strip()!r} is not made of hexadecimal octets") from None


def pack_routes(routes: Iterable[tuple[str, str]]) -> bytes:
    """Return (destination, next hop) as RFC 3442 wants it: prefix length, significant octets, next hop."""
    return b"".join(_pack_route(destination, hop) for destination, hop in routes)


@lru_cache(maxsize=1024)
def _pack_route(destination: str, hop: str) -> bytes:
    try:
        network = ipaddress.IPv4Network(destination.strip())
    except ValueError:
        raise ValueError(f"{destination.strip()!r} is not an IPv4 network (10.0.0.0/8)") from None
    significant = (network.prefixlen + 7) // 8
    return bytes((network.prefixlen,)) + network.network_address.packed[:significant] + pack_address(hop)


def pack_names(names: Iterable[str]) -> bytes:
    """Return domain names as RFC 3397 wants them: one behind the other, with pointers to common ends."""
    content = bytearray()
    known: dict[str, int] = {}
    for name in names:
        labels = split_name(name)
        for index, label in enumerate(labels):
            rest = ".".join(labels[index:]).lower()
            if rest in known:
                content += (_POINTER | known[rest]).to_bytes(2)
                break
            if len(content) <= _POINTER_REACH:
                known[rest] = len(content)
            content.append(len(label))
            content += label.encode("ascii")
        else:
            content.append(0)
    return bytes(content)


def split_name(name: str) -> list[str]:
    """Return the labels of a domain name; raise ValueError if it is none."""
    stripped = name.strip().removesuffix(".")
    labels = stripped.split(".")
    if not stripped.isascii() or len(stripped) > NAME_LIMIT or not all(0 < len(part) <= LABEL_LIMIT for part in labels):
        raise ValueError(f"{name.strip()!r} is not a domain name")
    return labels


def pack_any(text: str) -> bytes:
    """Return the octets of a value whose type is not known, as dnsmasq guesses it.

    Quoted text is text.  Otherwise addresses, a decimal number (in 1, 2 or 4 octets),
    hexadecimal octets with colons or after ``0x``, and what is none of these is text.
    """
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].encode()
    word = text.strip()
    if word.startswith("0x") or _COLON_HEX.fullmatch(word):
        return pack_hex(word)
    if _NUMBER.fullmatch(word) and (number := int(word)) < 1 << 32:
        return number.to_bytes(1 if number < 1 << 8 else 2 if number < 1 << 16 else 4)
    try:
        return pack_addresses(word.split(","))
    except ValueError:
        return text.encode()
