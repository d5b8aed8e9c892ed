# SPDX-License-Identifier: Apache-2.0
"""Options of a port by name, as Neutron's ``extra_dhcp_opts`` writes them for IPv6.

Names are dnsmasq's (``dnsmasq --help dhcp6``) or numbers; ``option6:`` in front and
underscores for hyphens (as OVN writes them) are fine, too.  Tags may stand before the
name as for IPv4, iPXE's also as ``ipxe6``.  Addresses may stand in brackets.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from agent.core.errors import InputError
from agent.dhcp.data import BootData, Options
from agent.dhcp.domain_names import encode_name
from agent.dhcp.v4_options import Packer, packed, read_name
from agent.dhcp.v4_values import pack_hex, pack_number, pack_time
from agent.dhcp.v6_configuration import RESERVED, time_source
from agent.dhcp.v6_packet import encode_strings, join_options

LAST_CODE = 0xFFFF
_RETRY_TIMES = range(60, 86401)  # seconds; RFC 8415, sections 21.24 and 21.25
_COLON_HEX = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})+")
_DECIMAL = re.compile(r"[0-9]{1,10}")


def _text(value: str) -> bytes:
    return value.encode()


def _addresses(value: str) -> bytes:
    return b"".join(map(_address, _list(value)))


def _address(word: str) -> bytes:
    try:
        return ipaddress.IPv6Address(word.removeprefix("[").removesuffix("]")).packed
    except ValueError:
        raise ValueError(f"{word!r} is not an IPv6 address") from None


def _names(value: str) -> bytes:
    return b"".join(map(encode_name, _list(value)))


def _strings(value: str) -> bytes:
    return encode_strings(word.encode() for word in _list(value))


def _time_sources(value: str) -> bytes:
    return join_options(time_source(word.removeprefix("[").removesuffix("]")) for word in _list(value))


def _retry_time(value: str) -> bytes:
    payload = pack_number(value, 4)
    if int.from_bytes(payload) not in _RETRY_TIMES:
        raise ValueError(f"{value!r} is not a number of {_RETRY_TIMES[0]}..{_RETRY_TIMES[-1]}")
    return payload


def _any(value: str) -> bytes:
    """Return the octets of a value whose type is not known, as dnsmasq guesses it: see `v4_values.pack_any`."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1].encode()
    word = value.strip()
    if word.startswith("0x") or _COLON_HEX.fullmatch(word):
        return pack_hex(word)
    if _DECIMAL.fullmatch(word) and (number := int(word)) < 1 << 32:
        return number.to_bytes(1 if number < 1 << 8 else 2 if number < 1 << 16 else 4)
    try:
        return _addresses(word)
    except ValueError:
        return value.encode()


def _list(value: str) -> list[str]:
    """Return the words of a list with commas; OVN puts braces around it."""
    return [word.strip() for word in value.strip().removeprefix("{").removesuffix("}").split(",")]


# dnsmasq's names, and behind them others that are in use; types by the RFCs that gave the numbers.
_OPTIONS: Mapping[str, tuple[int, Packer]] = {
    "vendor-class": (16, pack_hex), "vendor-opts": (17, pack_hex), "sip-server-domain": (21, _names),
    "sip-server": (22, _addresses), "dns-server": (23, _addresses), "domain-search": (24, _names),
    "nis-server": (27, _addresses), "nis+-server": (28, _addresses), "nis-domain": (29, _names),
    "nis+-domain": (30, _names), "sntp-server": (31, _addresses), "information-refresh-time": (32, pack_time),
    "posix-timezone": (41, _text), "tzdb-timezone": (42, _text), "ntp-server": (56, _time_sources),
    "bootfile-url": (59, _text), "bootfile-param": (60, _strings), "aftr-name": (64, encode_name),
    "sol-max-rt": (82, _retry_time), "inf-max-rt": (83, _retry_time), "dhcp4o6-server": (88, _addresses),
    "captive-portal": (103, _text),
    "bootfile-name": (59, _text),  # as for IPv4, and OVN's
}  # fmt: skip
_BY_CODE: Mapping[int, Packer] = dict(_OPTIONS.values())
_RESERVED_NAMES = frozenset(
    {
        *("client-id", "server-id", "ia-na", "ia-ta", "iaaddr", "oro", "preference", "unicast"),
        *("status", "rapid-commit", "user-class", "fqdn", "ia-pd", "iaprefix", "elapsed-time"),
    }
)


@dataclass(frozen=True, slots=True)
class PortOptions:
    """What a port's own options come to: for ``options6`` and ``boot`` of PortData."""

    options6: Options = ()
    boot: tuple[BootData, ...] = ()


def read_options(options: Iterable[tuple[str, str]]) -> PortOptions:
    """Return what (name, value) pairs come to; raise InputError that names the option and says why.

    An option that is given twice has the later value, one without a value is not sent.
    What has more tags overrides what has fewer.
    """
    plain: dict[int, bytes] = {}
    tagged: dict[BootData, dict[int, bytes]] = {}
    for name, value in options:
        condition, word = read_name(",".join(map(_usual_part, name.split(","))))
        code, payload = _read(name, word, value)
        into = plain if condition == BootData() else tagged.setdefault(condition, {})
        into[code] = payload
    ordered = sorted(tagged.items(), key=lambda item: _tags(item[0]))
    boot = tuple(replace(condition, options6=tuple(found.items())) for condition, found in ordered)
    return PortOptions(tuple(plain.items()), boot)


def _usual_part(part: str) -> str:
    """Return a tag or a name without what says that it is for IPv6."""
    word = part.strip()
    if word.removeprefix("tag:") in ("ipxe6", "!ipxe6"):
        return word.removesuffix("6")
    return word.removeprefix("option6:")


def _tags(condition: BootData) -> int:
    return (condition.ipxe is not None) + bool(condition.architectures)


def _read(name: str, word: str, value: str) -> tuple[int, bytes]:
    code, pack = _type_of(name, word)
    if code in RESERVED:
        raise InputError(f"dhcp option {name}: it cannot be set: the protocol itself says what is in it")
    return code, packed(name, pack, value)


def _type_of(name: str, word: str) -> tuple[int, Packer]:
    if word in _OPTIONS:
        return _OPTIONS[word]
    if word in _RESERVED_NAMES:
        return min(RESERVED), _any
    if word.isascii() and word.isdigit() and len(word) <= 5:
        code = int(word)
        if 1 <= code <= LAST_CODE:
            return code, _BY_CODE.get(code, _any)
        raise InputError(f"dhcp option {name}: {code} is outside 1..{LAST_CODE}")
    raise InputError(f"dhcp option {name}: neither a DHCPv6 option that we know by name nor a number of 1..{LAST_CODE}")
