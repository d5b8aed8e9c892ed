# SPDX-License-Identifier: Apache-2.0
"""Checks of what people and clouds write: each returns the canonical value or raises InputError.

A message names the object and the field and says what would be right:
``network blue: segmentation id 70000 is outside 1..4094``.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.core.errors import InputError
from agent.core.model import NetworkType
from agent.store import ipam
from agent.store.ipam import IPAddress, IPNetwork

NAME_LIMIT = 255
PHYSNET_LIMIT = 64
MIN_MTU, MAX_MTU = 68, 65535  # RFC 791; the largest IP packet
MIN_IPV6_MTU = 1280  # RFC 8200
SEGMENT_LIMITS: Mapping[NetworkType, tuple[int, int]] = {
    NetworkType.VLAN: (1, 4094),
    NetworkType.VXLAN: (1, (1 << 24) - 1),
    NetworkType.GENEVE: (1, (1 << 24) - 1),
}
IPV6_MODES = ("slaac", "dhcpv6-stateful", "dhcpv6-stateless")
AUTOMATIC_MODES = ("slaac", "dhcpv6-stateless")  # the address follows from the MAC address
LOG_EVENTS = ("accept", "drop")
LOG_LIMIT = 10000

OUR_MACS = ("02:48:50:00:", "02:48:50:01:")  # agent.core.service_identity

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9_.-]+")


def words(kind: str) -> str:
    """Return how people call a kind of object: ``security group``."""
    return kind.replace("_", " ")


def a(kind: str) -> str:
    """Return a kind of object with its article."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {words(kind)}"


@dataclass(frozen=True, slots=True)
class Subject:
    """What an error is about: an object, and the line of the file where it stands."""

    kind: str
    name: str
    line: int | None = None

    def error(self, text: str) -> InputError:
        """Return the error *text* about this object."""
        where = "" if self.line is None else f"line {self.line}: "
        return InputError(f"{where}{' '.join(filter(None, (words(self.kind), self.name)))}: {text}")


def is_uuid(text: str) -> bool:
    """Tell whether *text* is an object id: a UUID in its usual form."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def object_id(subject: Subject, text: str) -> uuid.UUID:
    """Return the id that a cloud gives to a new object."""
    if not is_uuid(text):
        raise subject.error(f"id {text!r} is not a UUID")
    return uuid.UUID(text)


def name(kind: str, text: str, line: int | None = None) -> str:
    """Return *text* if an object of *kind* can be called so."""
    subject = Subject(kind, text or '""', line)
    if not text.strip():
        raise subject.error("a name must not be empty")
    if len(text) > NAME_LIMIT or not text.isprintable() or text != text.strip():
        raise subject.error(f"a name has at most {NAME_LIMIT} printable characters and no blanks at its ends")
    if is_uuid(text):
        raise subject.error("a name must not look like an id")
    return text


def host_name(subject: Subject, text: str) -> str:
    """Return *text* if it can be the name of a host (as in its certificate)."""
    if not _HOST_NAME.fullmatch(text):
        raise subject.error(f"host {text!r} is not a host name (letters, digits, '-', '_' and '.')")
    return text


def network_type(subject: Subject, text: str) -> NetworkType:
    """Return the type of a network."""
    try:
        return NetworkType(text)
    except ValueError:
        raise subject.error(f"type {text!r} is not one of {', '.join(NetworkType)}") from None


def physnet(subject: Subject, kind: NetworkType, value: str | None) -> str | None:
    """Return the physical network; flat and vlan must have one, the others none."""
    if kind.is_physical:
        if not value:
            raise subject.error(f"physnet is required for type {kind} (one of the hosts' bridge mappings)")
        if len(value) > PHYSNET_LIMIT or not _LABEL.fullmatch(value):
            raise subject.error(f"physnet {value!r} is not a name of at most {PHYSNET_LIMIT} letters, digits, '-_.'")
        return value
    if value is not None:
        raise subject.error(f"physnet {value} does not go with type {kind}: only flat and vlan have one")
    return None


def segmentation_id(subject: Subject, kind: NetworkType, value: int) -> int:
    """Return the VLAN id or VNI."""
    limits = SEGMENT_LIMITS.get(kind)
    if limits is None:
        raise subject.error(f"segmentation id {value} does not go with type {kind}: remove it")
    if isinstance(value, bool) or not limits[0] <= value <= limits[1]:
        raise subject.error(f"segmentation id {value} is outside {limits[0]}..{limits[1]}")
    return value


def mtu(subject: Subject, value: int, largest: int) -> int:
    """Return the MTU in bytes; *largest* is what the network's underlay can carry."""
    if isinstance(value, bool) or not MIN_MTU <= value <= MAX_MTU:
        raise subject.error(f"mtu {value} is outside {MIN_MTU}..{MAX_MTU}")
    if value > largest:
        raise subject.error(f"mtu {value} is more than the underlay can carry ({largest}): raise the underlay's first")
    return value


def mac(subject: Subject, text: str) -> str:
    """Return a MAC address that an instance may have, in lower case with colons."""
    canonical = text.lower().replace("-", ":")
    if not _MAC.fullmatch(canonical):
        raise subject.error(f"mac_address {text!r} is not a MAC address (aa:bb:cc:dd:ee:ff)")
    if int(canonical[:2], 16) & 1:
        raise subject.error(f"mac_address {text} is a multicast address")
    if canonical == "00:00:00:00:00:00":
        raise subject.error(f"mac_address {text} is not usable")
    if canonical.startswith(OUR_MACS):
        raise subject.error(f"mac_address {text} is one of those that Hostplane itself answers from")
    return canonical


def address(subject: Subject, field: str, text: str) -> IPAddress:
    """Return an IP address."""
    try:
        value = ipaddress.ip_address(text)
    except ValueError:
        raise subject.error(f"{field} {text!r} is not an IP address") from None
    if isinstance(value, ipaddress.IPv6Address) and value.scope_id is not None:
        raise subject.error(f"{field} {text} has a zone, which means nothing here")
    return value


def prefix(subject: Subject, field: str, text: str) -> IPNetwork:
    """Return a prefix without host bits; a bare address is a prefix of one."""
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise subject.error(f"{field} {text!r} is not an address with prefix length") from None
    if interface.ip != interface.network.network_address:
        raise subject.error(f"{field} {text} has host bits set: did you mean {interface.network}?")
    if isinstance(interface.ip, ipaddress.IPv6Address) and interface.ip.scope_id is not None:
        raise subject.error(f"{field} {text} has a zone, which means nothing here")
    return interface.network


def cidr(subject: Subject, text: str) -> IPNetwork:
    """Return the prefix of a subnet."""
    if "/" not in text:
        raise subject.error(f"cidr {text!r} has no prefix length (10.0.0.0/24)")
    network = prefix(subject, "cidr", text)
    if network.prefixlen == 0:
        raise subject.error(f"cidr {network} is the whole address space")
    if network.is_multicast or network.is_loopback or network.is_unspecified:
        raise subject.error(f"cidr {network} cannot be used for hosts")
    if network.version == 6 and network.is_link_local:
        raise subject.error(f"cidr {network} is link-local, which every port has by itself")
    return network


def ipv6_modes(
    subject: Subject, network: IPNetwork, address_mode: str | None, ra_mode: str | None
) -> tuple[str | None, str | None]:
    """Return the modes of a subnet; as in Neutron both agree where both are given."""
    for field, mode in (("ipv6_address_mode", address_mode), ("ipv6_ra_mode", ra_mode)):
        if mode is None:
            continue
        if mode not in IPV6_MODES:
            raise subject.error(f"{field} {mode!r} is not one of {', '.join(IPV6_MODES)}")
        if network.version == 4:
            raise subject.error(f"{field} {mode} does not go with the IPv4 prefix {network}")
        if mode in AUTOMATIC_MODES and network.prefixlen != 64:
            raise subject.error(f"{field} {mode} needs a /64, {network} is none")
    if address_mode is not None and ra_mode is not None and address_mode != ra_mode:
        raise subject.error(f"ipv6_address_mode {address_mode} contradicts ipv6_ra_mode {ra_mode}")
    return address_mode, ra_mode


def host_address(subject: Subject, field: str, value: IPAddress, network: IPNetwork) -> IPAddress:
    """Return *value* if a host in *network* may have it."""
    if value not in network:
        raise subject.error(f"{field} {value} is not in {network}")
    first, last = ipam.host_range(network)
    if not first <= int(value) <= last:
        what = "broadcast" if int(value) > last else "network" if network.version == 4 else "subnet-router anycast"
        raise subject.error(f"{field} {value} is the {what} address of {network}")
    return value


def gateway(subject: Subject, text: str, network: IPNetwork) -> IPAddress:
    """Return the gateway; a link-local one goes with any IPv6 prefix."""
    value = address(subject, "gateway", text)
    if value.version == 6 and value.is_link_local and network.version == 6:
        return value
    return host_address(subject, "gateway", value, network)


def pools(subject: Subject, texts: Iterable[str], network: IPNetwork, router: IPAddress | None) -> tuple[str, ...]:
    """Return allocation pools in order: inside the prefix, without overlap and without the gateway."""
    parsed: list[tuple[IPAddress, IPAddress]] = []
    for text in texts:
        try:
            first, last = ipam.parse_pool(text)
        except ValueError:
            raise subject.error(f"allocation pool {text!r} is not a range FIRST-LAST of addresses") from None
        host_address(subject, "allocation pool address", first, network)
        host_address(subject, "allocation pool address", last, network)
        if router is not None and first.version == router.version and int(first) <= int(router) <= int(last):
            raise subject.error(f"allocation pool {text} contains the gateway {router}: leave it out of the pool")
        parsed.append((first, last))
    parsed.sort(key=lambda pool: int(pool[0]))
    for (first, last), (following, _) in itertools.pairwise(parsed):
        if int(following) <= int(last):
            raise subject.error(f"allocation pools overlap at {following} ({ipam.format_pool(first, last)})")
    return tuple(ipam.format_pool(first, last) for first, last in parsed)


def address_pair(subject: Subject, text: str) -> str:
    """Return an allowed address pair as the store keeps it: ``CIDR`` or ``CIDR MAC``."""
    parts = text.split()
    if not 1 <= len(parts) <= 2:
        raise subject.error(f"allowed address pair {text!r} is not CIDR or CIDR MAC")
    network = prefix(subject, "allowed address pair", parts[0])
    return str(network) if len(parts) == 1 else f"{network} {mac(subject, parts[1])}"


def external_ids(subject: Subject, values: Mapping[str, str]) -> dict[str, str]:
    """Return the notes that a cloud or tool keeps with an object; keys of ours are not for others to write."""
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, str) or not key:
            raise subject.error(f"external_ids {key!r}: keys and values must be text")
        if key.startswith("hostplane-"):
            raise subject.error(f"external_ids {key}: keys that begin with hostplane- are reserved")
    return dict(values)


def encapsulations(subject: Subject, values: Iterable[str]) -> tuple[str, ...]:
    """Return the tunnel types that a host speaks, sorted."""
    known = sorted(kind for kind in NetworkType if kind.is_tunnel)
    for value in values:
        if value not in known:
            raise subject.error(f"encapsulation {value!r} is not one of {', '.join(known)}")
    return tuple(sorted(set(values)))


def bridge_mappings(subject: Subject, values: Mapping[str, str]) -> dict[str, str]:
    """Return a host's mappings from physical network to bridge."""
    for key, bridge in values.items():
        physnet(subject, NetworkType.FLAT, key)
        if not bridge or len(bridge) > 15 or not _LABEL.fullmatch(bridge):
            raise subject.error(f"bridge mapping {key}:{bridge}: {bridge!r} is not a device name of 1 to 15 characters")
    return dict(values)


def group_address(subject: Subject, text: str) -> str:
    """Return an address or prefix of an address group as the store keeps it: a single one without its length."""
    network = prefix(subject, "address", text)
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


def log_events(subject: Subject, values: Iterable[str]) -> list[str]:
    """Return what a security group logs, sorted."""
    for value in values:
        if value not in LOG_EVENTS:
            raise subject.error(f"log {value!r} is not one of {', '.join(LOG_EVENTS)}")
    return sorted(set(values))


def log_limit(subject: Subject, field: str, value: int) -> int:
    """Return how many packets are logged a second, or at once."""
    if isinstance(value, bool) or not 1 <= value <= LOG_LIMIT:
        raise subject.error(f"{field} {value} is outside 1..{LOG_LIMIT}")
    return value
