# SPDX-License-Identifier: Apache-2.0
"""A port's DHCPv4 answers made ready: addresses packed and options encoded once, not for each request."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from agent.core.errors import InputError
from agent.dhcp.data import INFINITE, BootData, Options, PortData, SubnetData
from agent.dhcp.v4_packet import NO_ADDRESS, Code, encode_option
from agent.dhcp.v4_values import pack_address, pack_addresses, pack_names, pack_routes, split_name

METADATA = "169.254.169.254/32"
DEFAULT = "0.0.0.0/0"
ON_LINK = "0.0.0.0"  # noqa: S104 - a next hop, nothing binds to it
NO_DNS = "0.0.0.0"  # noqa: S104 - Neutron: announce no DNS server
INFINITE_SECONDS = 0xFFFFFFFF
TIMES = frozenset((Code.LEASE_TIME, Code.T1, Code.T2))

# What a message is and whom it is from and for: nobody sets these but who writes the message.
RESERVED: Mapping[int, str] = {
    0: "it is padding",
    Code.REQUESTED_ADDRESS: "clients send it",
    Code.OVERLOAD: "it is set where it is needed",
    Code.MESSAGE_TYPE: "it is set in each answer",
    Code.SERVER_ID: "it is the subnet's server address",
    Code.PARAMETERS: "clients send it",
    Code.MESSAGE: "it is set where it is needed",
    Code.MAX_SIZE: "clients send it",
    Code.CLIENT_ID: "it is the client's own",
    Code.RAPID_COMMIT: "it is set where it is needed",
    Code.FQDN: "it is made of host name and domain",
    Code.RELAY_AGENT: "relay agents send it",
    Code.MACHINE_ID: "it is the client's own",
    Code.SUBNET_SELECTION: "clients send it",
    255: "it ends a message",
}


@dataclass(frozen=True, slots=True)
class BootOptions:
    """What some boot loaders get besides.  An empty payload, and nothing in ``encoded``, takes an option away."""

    condition: BootData
    next_server: bytes
    options: Mapping[int, bytes]
    encoded: Mapping[int, bytes]

    def overridden_by(self, other: BootOptions) -> BootOptions:
        """Return both, *other*'s where both say something."""
        return BootOptions(
            self.condition,
            self.next_server if other.next_server == NO_ADDRESS else other.next_server,
            {**self.options, **other.options},
            {**self.encoded, **other.encoded},
        )


@dataclass(frozen=True, slots=True)
class Lease:
    """An address of the port that we serve.

    ``seconds`` is how long it is lent, INFINITE_SECONDS for ever; ``times`` says so as
    options, ``identity`` holds the server identifier.  ``options`` are payloads by code,
    ``encoded`` the same as options; ``always`` are those sent even to who did not ask.
    """

    address: bytes
    server: bytes
    network: tuple[int, int]  # address and mask
    seconds: int
    identity: bytes
    times: tuple[bytes, ...]
    options: Mapping[int, bytes]
    encoded: Mapping[int, bytes]
    always: tuple[int, ...]

    def holds(self, address: bytes) -> bool:
        """Tell whether *address* is of the lease's subnet."""
        network, mask = self.network
        return int.from_bytes(address) & mask == network


@dataclass(frozen=True, slots=True)
class V4Port:
    """What requests of a port are answered from.

    ``leases`` by address, in the order of the port's addresses.  ``unserved`` are its
    addresses on subnets without DHCP.  ``name`` is the host name with its domain, if any.
    ``limit`` is the largest IPv4 packet in octets.
    """

    mac: bytes
    leases: Mapping[bytes, Lease]
    unserved: frozenset[bytes]
    boot: tuple[BootOptions, ...]
    name: str
    limit: int


def prepare(data: PortData) -> V4Port:
    """Return what requests of a port are answered from; raise InputError for values that no packet can hold."""
    try:
        return _prepare(data)
    except (ValueError, OverflowError) as err:
        raise InputError(f"port {data.port}: {err}") from None


def _prepare(data: PortData) -> V4Port:
    leases: dict[bytes, Lease] = {}
    unserved: set[bytes] = set()
    for text, index in data.addresses:
        if ":" in text:
            continue
        subnet, address = data.subnets[index], pack_address(text)
        if subnet.dhcp and subnet.server is not None:
            leases[address] = _lease(data, subnet, address)
        else:
            unserved.add(address)
    return V4Port(
        mac=bytes.fromhex(data.mac.replace(":", "")),
        leases=leases,
        unserved=frozenset(unserved),
        boot=tuple(_boot(entry) for entry in data.boot if entry.options4 or entry.next_server),
        name=_name(data),
        limit=data.mtu,
    )


def _name(data: PortData) -> str:
    name = ".".join(part for part in (data.hostname, data.domain) if part) if data.hostname else ""
    return ".".join(split_name(name)) if name else ""


def _boot(entry: BootData) -> BootOptions:
    server = pack_address(entry.next_server) if entry.next_server else NO_ADDRESS
    options = _checked(entry.options4)
    if not TIMES.isdisjoint(options):
        raise ValueError("options of a boot loader hold a lease time")
    encoded = {code: encode_option(code, payload) if payload else b"" for code, payload in options.items()}
    return BootOptions(entry, server, options, encoded)


def _checked(options: Options) -> dict[int, bytes]:
    """Return *options* by code; raise ValueError for one that would make the message something else."""
    for code, _ in options:
        if code in RESERVED:
            raise ValueError(f"option {code} cannot be set: {RESERVED[code]}")
    return dict(options)


def _lease(data: PortData, subnet: SubnetData, address: bytes) -> Lease:
    network = ipaddress.IPv4Network(subnet.cidr)
    server = pack_address(subnet.server or "")
    own = _checked(data.options4)
    options = {code: payload for code, payload in _options(data, subnet, network, own) if payload}
    seconds, t1, t2 = (int.from_bytes(options.pop(code, b"")) for code in (Code.LEASE_TIME, Code.T1, Code.T2))
    if not seconds:
        seconds = INFINITE_SECONDS if data.lease_seconds == INFINITE else data.lease_seconds
    if seconds <= 0:
        raise ValueError(f"a lease of {seconds} seconds is not possible")
    return Lease(
        address=address,
        server=server,
        network=(int(network.network_address), int(network.netmask)),
        seconds=seconds,
        identity=encode_option(Code.SERVER_ID, server),
        times=encode_times(seconds, t1, t2),
        options=options,
        encoded={code: encode_option(code, payload) for code, payload in options.items()},
        always=_always(options, data.options4),
    )


@lru_cache(maxsize=64)
def encode_times(seconds: int, t1: int = 0, t2: int = 0) -> tuple[bytes, ...]:
    """Return the options for a lease of *seconds*.

    *t1* and *t2* are when the client renews and rebinds, 0 for the usual: at half and
    at seven eighths (RFC 2131 section 4.4.5), and not at all if the lease has no end.
    """
    lease = encode_option(Code.LEASE_TIME, seconds.to_bytes(4))
    if seconds != INFINITE_SECONDS:
        t1, t2 = t1 or seconds // 2, t2 or seconds * 7 // 8
    renewals = ((Code.T1, t1), (Code.T2, t2))
    return lease, *(encode_option(code, value.to_bytes(4)) for code, value in renewals if value)


def _always(options: Mapping[int, bytes], own: Options) -> tuple[int, ...]:
    """Return what is sent unasked.

    The MTU is, as with Neutron: tunnels break whom it does not reach.  So are the port's own
    options: somebody has set them for this port.  IPv6-only is never (RFC 8925).
    """
    wanted = (Code.MTU, *(code for code, _ in own))
    return tuple(dict.fromkeys(code for code in wanted if code in options and code != Code.IPV6_ONLY))


def _options(
    data: PortData, subnet: SubnetData, network: ipaddress.IPv4Network, own: Mapping[int, bytes]
) -> Iterable[tuple[int, bytes]]:
    """Yield the options of an address, the more important first: who asks for none in particular gets this order."""
    gateway = _gateway(subnet)
    if Code.ROUTER in own:  # the default route in option 121 must say the same (RFC 3442)
        gateway = str(ipaddress.IPv4Address(own[Code.ROUTER][:4])) if len(own[Code.ROUTER]) >= 4 else None
    routes = pack_routes(_routes(data.subnets, subnet, network, gateway))
    ours: dict[int, bytes] = {
        Code.MASK: network.netmask.packed,
        Code.ROUTER: pack_address(gateway) if gateway else b"",
        Code.ROUTES: routes,
        Code.MTU: data.mtu.to_bytes(2),
        Code.DNS: pack_addresses(server for server in subnet.dns if ":" not in server and server != NO_DNS),
        Code.HOST_NAME: data.hostname.encode(),
        Code.DOMAIN: data.domain.encode(),
        Code.BROADCAST: network.broadcast_address.packed if network.prefixlen <= 30 else b"",
        Code.SEARCH: pack_names(data.search),
        Code.NTP: pack_addresses(data.ntp4),
    }
    yield from {**ours, **own}.items()
    if Code.MICROSOFT_ROUTES not in own:
        yield Code.MICROSOFT_ROUTES, own.get(Code.ROUTES, routes)


def _gateway(subnet: SubnetData) -> str | None:
    """Return the default route's next hop; as with Neutron a host route serves where there is no gateway."""
    return subnet.gateway or next((hop for destination, hop in subnet.routes if destination == DEFAULT), None)


def _routes(
    subnets: Iterable[SubnetData], subnet: SubnetData, network: ipaddress.IPv4Network, gateway: str | None
) -> Iterable[tuple[str, str]]:
    """Yield the routes of option 121.  Who understands it looks at no router option, so the default is here, too.

    Neutron's order: the network's other subnets are on the link, then host routes, then
    metadata through the router or, without one, through our address, then the default.
    The router option is sent, too: RFC 3442 would rather not, but has clients ignore it,
    and some images know nothing else though they ask for both.
    """
    for other in subnets:
        if ":" not in other.cidr and other.cidr != subnet.cidr:
            yield other.cidr, ON_LINK
    own = [(destination, hop) for destination, hop in subnet.routes if destination != DEFAULT]
    yield from own
    hop = gateway if subnet.routed and gateway else subnet.server
    if hop and all(destination != METADATA for destination, _ in own):
        yield METADATA, hop
    if gateway:
        if ipaddress.IPv4Address(gateway) not in network:
            yield f"{gateway}/32", ON_LINK
        yield DEFAULT, gateway
