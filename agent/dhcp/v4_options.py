# SPDX-License-Identifier: Apache-2.0
"""Options of a port by name, as Neutron's ``extra_dhcp_opts`` writes them for IPv4.

Names are dnsmasq's (``dnsmasq --help dhcp``) or numbers; ``option:`` in front and
underscores for hyphens (as OVN writes them) are fine, too.  Before the name may stand
``tag:ipxe,``, ``tag:!ipxe,`` or a tag for the client's architecture: then only such
clients get the option.  Values become octets by the option's type; nothing is ever
put into a configuration language, so a value may hold whatever it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from agent.core.errors import InputError
from agent.dhcp.data import BootData, Options
from agent.dhcp.v4_port import RESERVED, TIMES
from agent.dhcp.v4_values import (
    pack_address,
    pack_addresses,
    pack_any,
    pack_flag,
    pack_hex,
    pack_names,
    pack_number,
    pack_routes,
    pack_time,
)

PAYLOAD_LIMIT = 1024
NEXT_SERVER = 255  # dnsmasq's number for what goes into ``siaddr``
Packer: TypeAlias = Callable[[str], bytes]


def _text(value: str) -> bytes:
    return value.encode()


def _addresses(value: str) -> bytes:
    return pack_addresses(_list(value))


def _names(value: str) -> bytes:
    return pack_names(_list(value))


def _address_pairs(value: str) -> bytes:
    addresses = _list(value)
    if len(addresses) % 2:
        raise ValueError(f"{value!r} is not a list of pairs of addresses")
    return pack_addresses(addresses)


def _routes(value: str) -> bytes:
    words = _list(value)
    if len(words) % 2:
        raise ValueError(f"{value!r} is not destination,nexthop[,destination,nexthop]...")
    return pack_routes(zip(words[::2], words[1::2], strict=True))


def _list(value: str) -> list[str]:
    """Return the words of a list with commas; OVN puts braces around it."""
    return [word.strip() for word in value.strip().removeprefix("{").removesuffix("}").split(",")]


_NUMBER1, _NUMBER2, _NUMBER4 = (partial(pack_number, width=width) for width in (1, 2, 4))

# dnsmasq's names and the types of RFC 2132 and of the RFCs that gave the later numbers.
_OPTIONS: Mapping[str, tuple[int, Packer]] = {
    "netmask": (1, pack_address), "time-offset": (2, _NUMBER4), "router": (3, _addresses),
    "time-server": (4, _addresses), "dns-server": (6, _addresses), "log-server": (7, _addresses),
    "lpr-server": (9, _addresses), "hostname": (12, _text), "boot-file-size": (13, _NUMBER2),
    "domain-name": (15, _text), "swap-server": (16, pack_address), "root-path": (17, _text),
    "extension-path": (18, _text),
    "ip-forward-enable": (19, pack_flag), "non-local-source-routing": (20, pack_flag),
    "policy-filter": (21, _address_pairs), "max-datagram-reassembly": (22, _NUMBER2), "default-ttl": (23, _NUMBER1),
    "mtu": (26, _NUMBER2), "all-subnets-local": (27, pack_flag), "broadcast": (28, pack_address),
    "router-discovery": (31, pack_flag), "router-solicitation": (32, pack_address),
    "static-route": (33, _address_pairs), "trailer-encapsulation": (34, pack_flag), "arp-timeout": (35, _NUMBER4),
    "ethernet-encap": (36, pack_flag), "tcp-ttl": (37, _NUMBER1), "tcp-keepalive": (38, _NUMBER4),
    "nis-domain": (40, _text), "nis-server": (41, _addresses), "ntp-server": (42, _addresses),
    "vendor-encap": (43, pack_any), "netbios-ns": (44, _addresses), "netbios-dd": (45, _addresses),
    "netbios-nodetype": (46, _NUMBER1), "netbios-scope": (47, _text), "x-windows-fs": (48, _addresses),
    "x-windows-dm": (49, _addresses), "lease-time": (51, pack_time), "t1": (58, pack_time), "t2": (59, pack_time),
    "vendor-class": (60, _text), "nis+-domain": (64, _text), "nis+-server": (65, _addresses),
    "tftp-server": (66, _text), "bootfile-name": (67, _text), "mobile-ip-home": (68, _addresses),
    "smtp-server": (69, _addresses), "pop3-server": (70, _addresses), "nntp-server": (71, _addresses),
    "www-server": (72, _addresses), "irc-server": (74, _addresses), "user-class": (77, _text),
    "posix-timezone": (100, _text), "tzdb-timezone": (101, _text), "ipv6-only": (108, _NUMBER4),
    "captive-portal": (114, _text), "domain-search": (119, _names), "sip-server": (120, pack_any),
    "classless-static-route": (121, _routes), "vendor-id-encap": (125, pack_hex),
    "tftp-server-address": (150, _addresses), "config-file": (209, _text), "path-prefix": (210, _text),
    "reboot-time": (211, _NUMBER4), "ms-classless-static-route": (249, _routes), "wpad": (252, _text),
    "server-ip-address": (NEXT_SERVER, pack_address),
    "domain-search-list": (119, _names), "next-server": (NEXT_SERVER, pack_address),  # OVN's names
}  # fmt: skip
_BY_CODE: Mapping[int, tuple[int, Packer]] = {entry[0]: entry for entry in _OPTIONS.values()}

# Names of what cannot be set, so that the error says why and not that the name is unknown.
_RESERVED_NAMES: Mapping[str, int] = {
    "requested-address": 50, "option-overload": 52, "message-type": 53, "server-identifier": 54,
    "parameter-request": 55, "message": 56, "max-message-size": 57, "rapid-commit": 80, "fqdn": 81, "agent-id": 82,
    "client-machine-id": 97, "subnet-select": 118,
}  # fmt: skip
_CLIENT_ID_NAMES = ("client-id", "61")  # Neutron finds a port by it; here the port is known from where it is plugged

# Client system architectures by name (IANA's list for RFC 4578 and RFC 5970).
_ARCHITECTURES: Mapping[str, tuple[int, ...]] = {
    "bios": (0,), "efi-ia32": (6,), "efi-x86_64": (7, 9), "efi-arm32": (10,), "efi-arm64": (11,),
    "http-x86_64": (16,), "http-arm64": (19,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PortOptions:
    """What a port's own options come to: for ``options4`` and ``boot`` of PortData."""

    options4: Options = ()
    boot: tuple[BootData, ...] = ()


def read_options(options: Iterable[tuple[str, str]]) -> PortOptions:
    """Return what (name, value) pairs come to; raise InputError that names the option and says why.

    An option that is given twice has the later value.  What has more special tags
    overrides the rest, in whatever order they stand.
    """
    plain: dict[int, bytes] = {}
    tagged: dict[BootData, dict[int, bytes]] = {}
    for name, value in options:
        condition, word = read_name(name)
        if word in _CLIENT_ID_NAMES:
            continue
        code, payload = _read(name, word, value)
        if code in TIMES and condition != BootData():
            raise InputError(f"dhcp option {name}: a time goes for all clients, without tags")
        into = plain if condition == BootData() and code != NEXT_SERVER else tagged.setdefault(condition, {})
        into[code] = payload
    ordered = sorted(tagged.items(), key=lambda item: _weight(item[0]))
    return PortOptions(tuple(plain.items()), tuple(_boot(condition, found) for condition, found in ordered))


def _weight(condition: BootData) -> int:
    """Return how special a condition is: iPXE has its script whatever it runs on, "not iPXE" says least."""
    return {True: 4, False: 1, None: 0}[condition.ipxe] + (2 if condition.architectures else 0)


def _boot(condition: BootData, options: Mapping[int, bytes]) -> BootData:
    server = options.get(NEXT_SERVER, b"")
    others = tuple((code, payload) for code, payload in options.items() if code != NEXT_SERVER)
    return replace(condition, next_server=".".join(map(str, server)), options4=others)


def read_name(name: str) -> tuple[BootData, str]:
    """Return the tags before an option's name, as conditions alone, and the name in its usual form."""
    *tags, word = (part.strip() for part in name.split(","))
    condition = BootData()
    for tag in tags:
        condition = _with_tag(condition, name, tag.removeprefix("tag:"))
    return condition, word.removeprefix("option:").lower().replace("_", "-")


def _with_tag(condition: BootData, name: str, tag: str) -> BootData:
    if tag in ("ipxe", "!ipxe"):
        return replace(condition, ipxe=tag == "ipxe")
    if tag in _ARCHITECTURES:
        return replace(condition, architectures=condition.architectures + _ARCHITECTURES[tag])
    number = tag.removeprefix("arch-")
    if number != tag and number.isascii() and number.isdigit() and len(number) <= 5 and int(number) <= 0xFFFF:
        return replace(condition, architectures=(*condition.architectures, int(number)))
    known = ", ".join(("ipxe", "!ipxe", *_ARCHITECTURES))
    raise InputError(f"dhcp option {name}: the tag {tag!r} is not one of {known}, arch-NUMBER")


def _read(name: str, word: str, value: str) -> tuple[int, bytes]:
    code, pack = _type_of(name, word)
    if code in RESERVED and code != NEXT_SERVER:
        raise InputError(f"dhcp option {name}: it cannot be set: {RESERVED[code]}")
    return code, packed(name, pack, value)


def packed(name: str, pack: Packer, value: str) -> bytes:
    """Return the payload that *pack* makes of *value*, empty for none.  Raises InputError that names the option."""
    try:
        payload = pack(value) if value else b""
    except ValueError as err:
        raise InputError(f"dhcp option {name}: {err}") from None
    if len(payload) > PAYLOAD_LIMIT:
        raise InputError(f"dhcp option {name}: {len(payload)} octets are more than {PAYLOAD_LIMIT}")
    return payload


def _type_of(name: str, word: str) -> tuple[int, Packer]:
    if word in _OPTIONS:
        return _OPTIONS[word]
    if word in _RESERVED_NAMES:
        return _RESERVED_NAMES[word], pack_any
    if word.isascii() and word.isdigit() and len(word) <= 3:
        code = int(word)
        if code <= 255:
            return _BY_CODE.get(code, (code, pack_any))
        raise InputError(f"dhcp option {name}: {code} is outside 1..254")
    raise InputError(f"dhcp option {name}: neither a name that dnsmasq knows nor a number of 1..254")
