# SPDX-License-Identifier: Apache-2.0
"""What rows say about DHCP, router advertisements and metadata, added to what ``rows`` makes of them.

A value that makes no sense is left out and told as a ``Doubt``: its object goes on
without it, because an instance without a name server is better off than one without a
network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from agent.core.errors import Actor, InputError, Problem
from agent.core.model import MetadataService, Network, Port, Subnet
from agent.core.port_metadata import read_metadata
from agent.store import rows, service_values
from agent.store.rows import many, mapping, one, optional

_DHCP, _METADATA, _SERVICES = "dhcp", "metadata", "services"
_DEFAULTS = MetadataService(url="")

Pairs = tuple[tuple[str, str], ...]


class Doubt(NamedTuple):
    """A value that was left out.

    ``part`` is that of the object which goes without it, as in ``port:<id>/dhcp``; empty for
    the object as a whole.  ``text`` completes "object: ".
    """

    part: str
    column: str
    text: str
    actor: Actor = Actor.CLOUD


Doubts = list[Doubt]


def _checked(
    doubts: Doubts, part: str, column: str, check: Callable[[Any], Any], value: Any, name: str = "", other: Any = ""
) -> Any:
    """Return *value* as *check* has it; *other*, with a doubt, if it makes no sense."""
    try:
        return check(value)
    except ValueError as err:
        doubts.append(Doubt(part, column, f"{name or column} {err}; left out"))
        return other


def network(row: Any, doubts: Doubts) -> Network:
    """Freeze a Network row."""
    return replace(rows.network(row), dns_domain=_dns_domain(row, doubts))


def subnet(row: Any, doubts: Doubts) -> Subnet:
    """Freeze a Subnet row."""
    frozen = rows.subnet(row)
    return replace(
        frozen,
        server_address=_server_address(row, frozen.cidr, frozen.gateway, doubts),
        dns_servers=_dns_servers(row, doubts),
        host_routes=_host_routes(row, 6 if ":" in frozen.cidr else 4, doubts),
    )


def port(row: Any, doubts: Doubts) -> Port:
    """Freeze a Port row."""
    return replace(
        rows.port(row),
        hostname=_hostname(row, doubts),
        dhcp_options=_dhcp_options(row, doubts),
        metadata=_metadata(row, doubts),
    )


def _dns_domain(row: Any, doubts: Doubts) -> str:
    domain: str = _checked(doubts, _SERVICES, "dns_domain", service_values.domain, one(row, "dns_domain"))
    return domain


def _server_address(row: Any, cidr: str, gateway: str | None, doubts: Doubts) -> str | None:
    """Return what DHCP of a subnet is answered from, None if it is not."""
    text = optional(row, "server_address")

    def check(text: str) -> str:
        value = service_values.address(text)
        if value not in ipaddress.ip_network(cidr) or str(value) == gateway:
            raise ValueError(f"{text} is not an address of its own in {cidr}")
        return str(value)

    address: str | None = (
        None if text is None else _checked(doubts, "", "server_address", check, text, "server address", None)
    )
    return address


def _dns_servers(row: Any, doubts: Doubts) -> tuple[str, ...]:
    texts = [text for _, text in sorted(mapping(row, "dns_nameservers").items())]
    found = (_checked(doubts, "", "dns_nameservers", service_values.dns_server, text, "name server") for text in texts)
    return tuple(dict.fromkeys(server for server in found if server))


def _host_routes(row: Any, version: int, doubts: Doubts) -> Pairs:

    def check(text: str) -> tuple[str, str]:
        return service_values.parse_host_route(text, version)

    texts = sorted(many(row, "host_routes"))
    found = (_checked(doubts, "", "host_routes", check, text, "host route") for text in texts)
    return tuple(sorted({route for route in found if route}))


def problems(noun: str, uuid: str, name: str, doubts: Doubts) -> Iterator[Problem]:
    """Yield what was left out of an object as its problems, or those of a part of it."""
    called = f"{noun.replace('_', ' ')} {name}".strip() if name or noun == "metadata_service" else f"{noun} {uuid}"
    for doubt in doubts:
        object_id = f"{noun}:{uuid}" + (f"/{doubt.part}" if doubt.part else "")
        yield Problem(object_id, doubt.column, f"{called}: {doubt.text}", doubt.actor)


def lacking_servers(subnets: Iterable[Subnet]) -> Iterator[Problem]:
    """Yield those of *subnets* that cannot answer DHCP for want of an address (DHCPv6 goes by link-local ones)."""
    for found in subnets:
        if found.dhcp and found.server_address is None and ":" not in found.cidr:
            text = f"subnet {found.name or found.id}: no server address: DHCP is not served"
            help_text = (
                "once its pools have a free one, write it again (hostplane subnet set SUBNET --dhcp), or say which "
                "with --server-address"
            )
            yield Problem(f"subnet:{found.id}", "server_address", f"{text}; {help_text}", Actor.OPERATOR)


def _hostname(row: Any, doubts: Doubts) -> str:
    text = one(row, "hostname")
    name: str = _checked(doubts, _DHCP, "hostname", service_values.hostname, text) if text else ""
    return name


def _dhcp_options(row: Any, doubts: Doubts) -> Pairs:
    return _judged(
        sorted(mapping(row, "dhcp_options").items()), service_values.check_options, _DHCP, "dhcp_options", doubts
    )


def _metadata(row: Any, doubts: Doubts) -> Pairs:
    return _judged(sorted(mapping(row, "metadata").items()), read_metadata, _METADATA, "metadata", doubts)


def _judged(
    pairs: list[tuple[str, str]],
    check: Callable[[Iterable[tuple[str, str]]], object],
    part: str,
    column: str,
    doubts: Doubts,
) -> Pairs:
    """Return those of *pairs* that make sense together; all of them are looked at once if they do."""
    if _accepts(check, pairs) is None:
        return tuple(pairs)
    kept: list[tuple[str, str]] = []
    for pair in pairs:
        wrong = _accepts(check, [*kept, pair])
        if wrong is None:
            kept.append(pair)
        else:
            doubts.append(Doubt(part, column, f"{wrong}; left out"))
    return tuple(kept)


def _accepts(check: Callable[[Iterable[tuple[str, str]]], object], pairs: list[tuple[str, str]]) -> str | None:
    """Return what *check* objects to, None if nothing."""
    try:
        check(pairs)
    except InputError as err:
        return str(err)
    return None


def metadata_service(row: Any, doubts: Doubts) -> MetadataService:
    """Freeze a Metadata_Service row.

    One that cannot be asked has an empty ``url``: then nobody is, but no instance is
    taken for another one without user data either.
    """
    url = _checked(doubts, "", "url", service_values.service_url, one(row, "url"))
    files = {
        column: _checked(doubts, "", column, service_values.file_path, one(row, column))
        for column in ("secret_file", "ca_file", "client_cert_file", "client_key_file")
    }
    if not files["secret_file"]:
        doubts.append(Doubt("", "secret_file", "without a secret_file no request can be signed; Nova is not asked"))
        url = ""
    if bool(files["client_cert_file"]) is not bool(files["client_key_file"]):
        doubts.append(Doubt("", "client_cert_file", "a client certificate needs its key; both are left out"))
        files |= {"client_cert_file": "", "client_key_file": ""}
    said = one(row, "timeout") or _DEFAULTS.timeout  # 0 is what a row has that says nothing
    timeout = _checked(doubts, "", "timeout", service_values.timeout, said, other=_DEFAULTS.timeout)
    return MetadataService(url=url, **files, insecure=one(row, "insecure"), timeout=timeout)
