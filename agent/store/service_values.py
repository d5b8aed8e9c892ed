# SPDX-License-Identifier: Apache-2.0
"""What DHCP, router advertisements and metadata are made of, one value at a time.

Each function returns the canonical value or raises ValueError (InputError where the
protocol's own code judges) with a phrase that says what is wrong.  Used by who writes
the store, for whom that is an error, and by who reads it and leaves the value out.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from agent.core.errors import InputError
from agent.dhcp import v4_options, v6_options

OPTION6 = "option6:"  # in front of the names of DHCPv6 options, before or behind their tags
LONGEST_NAME = 253  # RFC 1035: 255 octets with the first length and the root
LONGEST_PATH = 4095  # PATH_MAX without its end
LONGEST_TIMEOUT = 600.0  # seconds
PLAIN, TLS = "http", "https"

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_DOMAIN_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_URL_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?\.?")


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address without a zone."""
    try:
        value = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if isinstance(value, ipaddress.IPv6Address) and value.scope_id is not None:
        raise ValueError(f"{text!r} has a zone, which means nothing here")
    return value


def dns_server(text: str) -> str:
    """Return the address of a name server, of either family."""
    value = address(text)
    if value.is_multicast or value.is_loopback:
        raise ValueError(f"{value} is not an address that instances can ask")
    return str(value)


def host_route(destination: str, nexthop: str, version: int) -> tuple[str, str]:
    """Return a route of a subnet of this IP version."""
    if "%" in destination:  # ip_network would keep whatever stands behind it
        raise ValueError(f"{destination!r} has a zone, which means nothing here")
    try:
        network = ipaddress.ip_network(destination)
    except ValueError as err:
        raise ValueError(f"{destination!r} is not a prefix: {err}") from None
    hop = address(nexthop)
    if network.version != version or hop.version != version:
        raise ValueError(f"{destination} by way of {nexthop} is no route of IPv{version}")
    if hop.is_multicast or hop.is_unspecified or hop.is_loopback:
        raise ValueError(f"{nexthop} is not the address of a router")
    return str(network), str(hop)


def parse_host_route(text: str, version: int) -> tuple[str, str]:
    """Return a route as the store keeps it: ``DESTINATION NEXTHOP``."""
    parts = text.split()
    if len(parts) != 2:
        raise ValueError(f"{text!r} is not DESTINATION NEXTHOP")
    return host_route(parts[0], parts[1], version)


def hostname(text: str) -> str:
    """Return a host name, qualified or not (RFC 1123, section 2.1), without the dot at its end."""
    name = text.removesuffix(".")
    if len(name) > LONGEST_NAME or not all(map(_LABEL.fullmatch, name.split("."))):
        raise ValueError(f"{text!r} is not a host name (letters, digits and inner '-', 1 to 63 between dots)")
    if name.rpartition(".")[2].isdigit() and "." in name:
        raise ValueError(f"{text!r} is an address or looks like one")
    return name


def domain(text: str) -> str:
    """Return a domain name without the dot at its end; empty stays so."""
    name = text.removesuffix(".")
    if text and (len(name) > LONGEST_NAME or not all(map(_DOMAIN_LABEL.fullmatch, name.split(".")))):
        raise ValueError(f"{text!r} is not a domain name (letters, digits, '_' and inner '-', 1 to 63 between dots)")
    return name


def check_options(options: Iterable[tuple[str, str]]) -> None:
    """Raise InputError that names the DHCP option which makes no sense, or says the same as another."""
    seen: dict[tuple[object, ...], str] = {}
    for name, value in options:
        for key in _option_keys(name, value):
            if key in seen:
                raise InputError(f"dhcp option {name}: {seen[key]} is the same option")
            seen[key] = name


@lru_cache(maxsize=1024)  # many ports say the same
def _option_keys(name: str, value: str) -> tuple[tuple[object, ...], ...]:
    """Return which option this is, and for which clients; raise InputError."""
    return tuple(_read_option(name, value))


def _read_option(name: str, value: str) -> Iterable[tuple[object, ...]]:
    if "\0" in value:
        raise InputError(f"dhcp option {name}: a value cannot hold the character 0; write it as 0x00...")
    if any(part.strip().startswith(OPTION6) for part in name.split(",")):
        read6 = v6_options.read_options([(name, value)])
        yield from ((6, code) for code, _ in read6.options6)
        yield from ((6, code, boot.ipxe, boot.architectures) for boot in read6.boot for code, _ in boot.options6)
        return
    read4 = v4_options.read_options([(name, value)])
    yield from ((4, code) for code, _ in read4.options4)
    for boot in read4.boot:
        yield from ((4, code, boot.ipxe, boot.architectures) for code, _ in boot.options4)
        if boot.next_server:
            yield (4, v4_options.NEXT_SERVER, boot.ipxe, boot.architectures)


def service_url(text: str) -> str:
    """Return the base of a metadata service's URL: scheme, host and port."""
    wrong = f"{text!r} is not http://HOST[:PORT] or https://HOST[:PORT]"
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError(wrong)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(wrong) from None
    if parts.scheme not in (PLAIN, TLS) or not _is_url_host(host) or port == 0:
        raise ValueError(wrong)
    if "@" in parts.netloc:
        raise ValueError(f"{wrong}: names and passwords do not belong there")
    if parts.path not in ("", "/") or parts.query or parts.fragment or text[-1] in "?#":
        raise ValueError(f"{wrong}: what instances ask for is put behind it")
    where = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{where}" + ("" if port is None else f":{port}")


def _is_url_host(host: str) -> bool:
    if ":" in host:
        address(host)
        return True
    return len(host) <= LONGEST_NAME and bool(_URL_HOST.fullmatch(host))


def is_tls(url: str) -> bool:
    """Tell whether a URL of ``service_url`` is one with certificates."""
    return url.startswith(f"{TLS}:")


def file_path(text: str) -> str:
    """Return the absolute path of a file on the hosts; empty stays so."""
    if text and (not text.startswith("/") or text.endswith("/") or not text.isprintable() or len(text) > LONGEST_PATH):
        raise ValueError(f"{text!r} is not the absolute path of a file")
    return text


def timeout(value: float) -> float:
    """Return a time in seconds."""
    if isinstance(value, bool) or not math.isfinite(value) or not 0 < value <= LONGEST_TIMEOUT:
        raise ValueError(f"{value:g} is not a number of seconds above 0 and up to {LONGEST_TIMEOUT:g}")
    return float(value)
