# SPDX-License-Identifier: Apache-2.0
"""Settings of the whole store (``Global.options``): what new networks get when nothing is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.core.errors import InputError
from agent.core.model import NetworkType
from agent.store.validate import MAX_MTU, MIN_IPV6_MTU, SEGMENT_LIMITS, Subject

# Octets that a tunnel adds to an IP packet over IPv4: outer IP 20, UDP 8, VXLAN 8 or
# Geneve 16 with its options, inner Ethernet 14.
TUNNEL_OVERHEAD: Mapping[NetworkType, int] = {NetworkType.VXLAN: 50, NetworkType.GENEVE: 58}
IPV6_EXTRA = 20  # an IPv6 header is that much longer
DEFAULT_MTU = 1500

_SUBJECT = Subject("global", "options")


def _number(options: Mapping[str, str], key: str, default: int, first: int, last: int) -> int:
    text = options.get(key, str(default))
    if not text.isascii() or not text.isdigit() or not first <= int(text) <= last:
        raise _SUBJECT.error(f"{key} {text!r} is not a number in {first}..{last}")
    return int(text)


def underlay_mtu(options: Mapping[str, str]) -> int:
    """``underlay_mtu``: the largest IP packet between tunnel addresses, 1500 by default."""
    return _number(options, "underlay_mtu", DEFAULT_MTU, MIN_IPV6_MTU, MAX_MTU)


def physnet_mtu(options: Mapping[str, str]) -> int:
    """``physnet_mtu``: the largest IP packet on physical networks, 1500 by default."""
    return _number(options, "physnet_mtu", DEFAULT_MTU, MIN_IPV6_MTU, MAX_MTU)


def underlay_ip_version(options: Mapping[str, str]) -> int:
    """``underlay_ip_version``: 4 (default) or 6; what the tunnel addresses are."""
    if options.get("underlay_ip_version", "4") not in ("4", "6"):
        raise _SUBJECT.error(f"underlay_ip_version {options['underlay_ip_version']!r} is neither 4 nor 6")
    return int(options.get("underlay_ip_version", "4"))


def default_mtu(options: Mapping[str, str], kind: NetworkType) -> int:
    """Return the MTU that a network of this type gets: all that its underlay can carry."""
    if kind.is_tunnel:
        extra = IPV6_EXTRA if underlay_ip_version(options) == 6 else 0
        return underlay_mtu(options) - TUNNEL_OVERHEAD[kind] - extra
    return physnet_mtu(options)


def largest_mtu(options: Mapping[str, str], kind: NetworkType) -> int:
    """Return the largest MTU that a network of this type may have; a local one has no underlay."""
    return MAX_MTU if kind is NetworkType.LOCAL else default_mtu(options, kind)


def segment_ranges(options: Mapping[str, str], kind: NetworkType, physnet: str | None) -> list[tuple[int, int]]:
    """Return the inclusive ranges from which segmentation ids are chosen.

    ``vni_ranges`` is ``FIRST:LAST,...`` for vxlan and geneve each by itself;
    ``vlan_ranges`` is ``PHYSNET:FIRST:LAST,...``: a physical network that is not in
    it has all of 1..4094.
    """
    limits = SEGMENT_LIMITS[kind]
    if kind is NetworkType.VLAN:
        chosen = [rest for name, rest in _vlan_ranges(options) if name == physnet]
    else:
        chosen = _ranges("vni_ranges", options.get("vni_ranges", ""), limits)
    return sorted(chosen) or [limits]


def _vlan_ranges(options: Mapping[str, str]) -> list[tuple[str, tuple[int, int]]]:
    result: list[tuple[str, tuple[int, int]]] = []
    for part in filter(None, options.get("vlan_ranges", "").split(",")):
        name, _, text = part.strip().partition(":")
        result += [(name, found) for found in _ranges("vlan_ranges", text, SEGMENT_LIMITS[NetworkType.VLAN])]
    return result


def _ranges(key: str, text: str, limits: tuple[int, int]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.strip().partition(":")
        try:
            pair = int(first), int(last or first)
        except ValueError:
            raise _SUBJECT.error(f"{key} {part!r} is not FIRST:LAST") from None
        if not limits[0] <= pair[0] <= pair[1] <= limits[1]:
            raise _SUBJECT.error(f"{key} {part} is outside {limits[0]}..{limits[1]}")
        result.append(pair)
    return result


_CHECKS: Mapping[str, Callable[[Mapping[str, str]], object]] = {
    "underlay_mtu": underlay_mtu,
    "physnet_mtu": physnet_mtu,
    "underlay_ip_version": underlay_ip_version,
    "vni_ranges": lambda options: segment_ranges(options, NetworkType.VXLAN, None),
    "vlan_ranges": _vlan_ranges,
}


def checked(options: Mapping[str, str]) -> dict[str, str]:
    """Return *options* if each is one that we know with a value that makes sense; raise InputError."""
    for key in options:
        check = _CHECKS.get(key)
        if check is None:
            raise InputError(f"global options: {key} is not one of {', '.join(sorted(_CHECKS))}")
        check(options)
    return dict(options)
