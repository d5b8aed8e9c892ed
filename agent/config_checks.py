# SPDX-License-Identifier: Apache-2.0
"""Checks of single settings: text in, canonical value out, ValueError that says what is expected.

They know no option names; ``agent.config`` puts ``[group] option`` in front.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from agent.core.model import NetworkType
from agent.core.naming import INTEGRATION_BRIDGE

MAX_SOCKET_PATH = 107  # sun_path of unix(7) without its final NUL
MAX_BRIDGE_NAME = 15  # IFNAMSIZ without its final NUL

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?")
_USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_REMOTE = re.compile(r"(?:ssl|tcp):(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]+)")
_BRIDGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def host_name(text: str) -> str:
    """Return *text* if it can name a host in store and certificate."""
    if not _HOST_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a host name (letters, digits, '.', '-' and '_', at most 255)")
    return text


def user_name(text: str) -> str:
    """Return *text* if it can name a system user (useradd(8)); whether there is one is seen when it is needed."""
    if not _USER_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not the name of a system user")
    return text


def remote(text: str) -> str:
    """Return *text* if it is an OVSDB address that a client can connect to."""
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest.startswith("/"):
        if len(os.fsencode(rest)) > MAX_SOCKET_PATH:
            raise ValueError(f"{rest} is longer than the {MAX_SOCKET_PATH} bytes that a socket's path may have")
        return text
    match = _REMOTE.fullmatch(text)
    if not match or not 0 < int(match["port"]) < 65536:
        raise ValueError(f"{text!r} is not ssl:HOST:PORT, tcp:HOST:PORT or unix:/PATH (IPv6 addresses in [])")
    if match["v6"] is not None:
        _parse_ip(match["v6"])
    return text


def remotes(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the addresses of one cluster, each of which must be a ``remote``."""
    result = tuple(remote(text) for text in texts)
    if len(set(result)) != len(result):
        raise ValueError("names an address twice")
    return result


def tunnel_address(text: str) -> str | None:
    """Return the canonical address, or None for an empty setting."""
    if not text:
        return None
    address = _parse_ip(text)
    if address.is_unspecified or address.is_multicast or address.is_link_local:
        raise ValueError(f"{text} cannot be a tunnel's end: other hosts must be able to route to it")
    return str(address)


def listen_address(text: str) -> str:
    """Return the canonical form of an address to listen on."""
    return str(_parse_ip(text))


def encapsulations(texts: Sequence[str]) -> frozenset[NetworkType]:
    """Return the tunnel types named."""
    known = {str(kind): kind for kind in NetworkType if kind.is_tunnel}
    for text in texts:
        if text not in known:
            raise ValueError(f"{text!r} is not one of {', '.join(sorted(known))}")
    return frozenset(known[text] for text in texts)


def bridge_mappings(pairs: Mapping[str, str] | str) -> Mapping[str, str]:
    """Return physical network -> bridge.

    Each bridge once: two physical networks on one bridge would be one segment with
    two names, and flood each other's frames back.
    """
    result: dict[str, str] = {}
    for physnet, bridge in (pairs or {}).items() if isinstance(pairs, Mapping) else ():
        if not physnet or len(physnet) > 64:
            raise ValueError(f"{physnet!r} is not the name of a physical network (1 to 64 characters)")
        if len(bridge) > MAX_BRIDGE_NAME or not _BRIDGE_NAME.fullmatch(bridge):
            raise ValueError(f"{physnet}: {bridge!r} is not the name of a bridge (1 to {MAX_BRIDGE_NAME} characters)")
        if bridge == INTEGRATION_BRIDGE:
            raise ValueError(f"{physnet}: {bridge} is the integration bridge; name the one that holds the uplink")
        if bridge in result.values():
            raise ValueError(f"{bridge} is mapped twice")
        result[physnet] = bridge
    return MappingProxyType(result)


def datapath_type(text: str) -> str:
    """Return *text* if Open vSwitch has such a datapath."""
    if text not in ("", "system", "netdev", "dummy"):
        raise ValueError(f"{text!r} is not empty, 'system' or 'netdev'")
    return text


def absolute_path(text: str) -> Path:
    """Return *text* as a path; a daemon has no useful working directory, so it must be absolute."""
    path = Path(text)
    if not path.is_absolute():
        raise ValueError(f"{text!r} is not an absolute path")
    return path


def optional_path(text: str) -> Path | None:
    """Return *text* as an absolute path, or None for an empty setting."""
    return absolute_path(text) if text else None


def socket_path(text: str) -> Path:
    """Return *text* as a path that fits into a socket's address."""
    path = absolute_path(text)
    if len(os.fsencode(text)) > MAX_SOCKET_PATH:
        raise ValueError(f"{text} is longer than the {MAX_SOCKET_PATH} bytes that a socket's path may have")
    return path


def readable_file(text: str) -> Path | None:
    """Return *text* as the path of a file that we can read, or None for an empty setting."""
    if not text:
        return None
    path = absolute_path(text)
    try:
        with path.open("rb"):
            return path
    except OSError as err:
        raise ValueError(f"{text}: {err.strerror}") from None


def _parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
