# SPDX-License-Identifier: Apache-2.0
"""What a port is told by DHCPv6 besides addresses: DNS, search list, NTP, boot file, its own options."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import suppress

from agent.dhcp.data import Options, PortData, SubnetData
from agent.dhcp.domain_names import encode_name, encode_names, fqdn
from agent.dhcp.frames6 import packed
from agent.dhcp.v6_packet import INFINITY, Code, FqdnFlags, MessageType, Request, join_options

STATEFUL, STATELESS, SLAAC = "dhcpv6-stateful", "dhcpv6-stateless", "slaac"
IPXE = b"iPXE"  # what iPXE says in its user class

# What the protocol itself says; no option of a port replaces it.
RESERVED = frozenset(
    {
        *(Code.CLIENT_ID, Code.SERVER_ID, Code.IA_NA, Code.IA_TA, Code.IAADDR, Code.ORO, Code.ELAPSED_TIME),
        *(Code.RELAY_MSG, Code.AUTH, Code.UNICAST, Code.STATUS_CODE, Code.RAPID_COMMIT, Code.INTERFACE_ID),
        *(Code.RECONF_MSG, Code.RECONF_ACCEPT, Code.IA_PD, Code.IAPREFIX, Code.PREFERENCE, Code.CLIENT_FQDN),
        *(Code.USER_CLASS, Code.CLIENT_ARCH_TYPE),
    }
)
_NTP_ADDRESS, _NTP_NAME = 1, 3  # suboptions of RFC 5908
_LEAST_REFRESH = 600  # seconds; RFC 8415, section 7.6
LEAST_MTU = 1280  # octets, of any IPv6 link


def is_served(subnet: SubnetData) -> bool:
    """Tell whether DHCPv6 is spoken for a subnet."""
    return subnet.dhcp and subnet.address_mode in (STATEFUL, STATELESS)


def is_stateful(subnet: SubnetData) -> bool:
    """Tell whether DHCPv6 gives the addresses of a subnet."""
    return subnet.dhcp and subnet.address_mode == STATEFUL


def seconds(port: PortData) -> int:
    """Return how long a lease lasts, as it is said on the wire."""
    return INFINITY if port.lease_seconds < 0 else min(port.lease_seconds, INFINITY - 1)


def configuration(request: Request, port: PortData) -> list[tuple[int, bytes]]:
    """Return the options that *request* asks for, all that there are if it does not say.

    The port's own replace ours of that code, those of its boot loader replace both.
    """
    options = _defaults(request, port)
    _replace(options, port.options6)
    ipxe = IPXE in request.user_classes
    for boot in port.boot:
        if boot.applies(ipxe=ipxe, architectures=request.architectures):
            _replace(options, boot.options6)
    wanted = options if request.requested is None else dict.fromkeys(request.requested)
    found = [(code, payload) for code in wanted for payload in options.get(code, ()) if payload]
    return [*_fqdn(request, port), *found]


def _defaults(request: Request, port: PortData) -> dict[int, list[bytes]]:
    subnets = [subnet for subnet in port.subnets if is_served(subnet)]
    servers = dict.fromkeys(server for subnet in subnets for server in subnet.dns if ":" in server)
    names = (port.domain, *port.search) if port.domain else port.search
    options = {
        int(Code.DNS_SERVERS): [b"".join(map(packed, servers))],
        int(Code.DOMAIN_LIST): [encode_names(names)],
    }
    if port.ntp6:
        options[Code.SNTP_SERVERS] = [b"".join(packed(server) for server in port.ntp6 if _is_address(server))]
        options[Code.NTP_SERVER] = [join_options(_time_sources(port.ntp6))]
    if request.type is MessageType.INFORMATION_REQUEST:
        refresh = max(seconds(port), _LEAST_REFRESH)
        options[Code.INFORMATION_REFRESH_TIME] = [refresh.to_bytes(4, "big")]
    return options


def _replace(options: dict[int, list[bytes]], own: Options) -> None:
    if own:
        own = tuple((code, payload) for code, payload in own if code not in RESERVED)
        options.update((code, []) for code, _ in own)
        for code, payload in own:
            options[code].append(payload)


def time_source(server: str) -> tuple[int, bytes]:
    """Return an NTP server, an address or a name, as a suboption (RFC 5908); ValueError if it is neither."""
    return (_NTP_ADDRESS, packed(server)) if _is_address(server) else (_NTP_NAME, encode_name(server))


def _time_sources(servers: tuple[str, ...]) -> Iterator[tuple[int, bytes]]:
    for server in servers:
        with suppress(ValueError):  # one bad server takes nothing else from the port
            yield time_source(server)


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _fqdn(request: Request, port: PortData) -> list[tuple[int, bytes]]:
    """Answer a client that speaks of its name: we update no DNS for it (RFC 4704, section 6)."""
    if request.fqdn is None and Code.CLIENT_FQDN not in (request.requested or ()):
        return []
    name = fqdn(port.hostname, port.domain)
    overridden = FqdnFlags.OVERRIDDEN if (request.fqdn or 0) & FqdnFlags.SERVER_UPDATES else 0
    return [(Code.CLIENT_FQDN, bytes((FqdnFlags.NO_UPDATES | overridden,)) + name)] if name else []
