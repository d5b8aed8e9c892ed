# SPDX-License-Identifier: Apache-2.0
"""Checks of what instances are told: each returns what the store keeps or raises InputError naming object and field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from agent.core.errors import InputError
from agent.core.port_metadata import read_metadata
from agent.store import service_values
from agent.store.document import HostRoute
from agent.store.validate import Subject

T = TypeVar("T")
V = TypeVar("V")


def value(subject: Subject, field: str, check: Callable[[T], V], given: T) -> V:
    """Return *given* as *check* (of ``service_values``) has it."""
    try:
        return check(given)
    except ValueError as err:
        raise subject.error(f"{field} {err}") from None


def dns_servers(subject: Subject, texts: Iterable[str]) -> dict[int, str]:
    """Return name servers in their order, as the store keeps it."""
    servers = [value(subject, "dns", service_values.dns_server, text) for text in texts]
    _refuse_twice(subject, "dns", servers)
    return dict(enumerate(servers))


def host_routes(subject: Subject, routes: Iterable[HostRoute], version: int) -> list[str]:
    """Return the routes of a subnet of this IP version."""
    found = []
    for route in routes:
        try:
            found.append(" ".join(service_values.host_route(route.destination, route.nexthop, version)))
        except ValueError as err:
            raise subject.error(f"host route {err}") from None
    _refuse_twice(subject, "host route", found)
    return sorted(found)


def _refuse_twice(subject: Subject, field: str, values: list[str]) -> None:
    twice = [text for text in values if values.count(text) > 1]
    if twice:
        raise subject.error(f"{field} {twice[0]} is given twice")


def hostname(subject: Subject, text: str) -> str:
    """Return an instance's host name; empty for none."""
    return value(subject, "hostname", service_values.hostname, text) if text else ""


def dns_domain(subject: Subject, text: str) -> str:
    """Return the domain of a network as it was given: Neutron's end in a dot."""
    value(subject, "dns_domain", service_values.domain, text)
    return text


def dhcp_options(subject: Subject, options: Mapping[str, str]) -> dict[str, str]:
    """Return the DHCP options of a port, by name."""
    _refuse_no_text(subject, "dhcp_options", options)
    try:
        service_values.check_options(options.items())
    except InputError as err:
        raise subject.error(str(err)) from None
    return dict(options)


def metadata(subject: Subject, pairs: Mapping[str, str]) -> dict[str, str]:
    """Return what the metadata of an instance are made of, by key."""
    _refuse_no_text(subject, "metadata", pairs)
    for key, text in pairs.items():
        if "\0" in text:
            raise subject.error(f"metadata: {key}: text cannot hold the character 0 (user data: give user_data_base64)")
    try:
        read_metadata(pairs.items())
    except InputError as err:
        raise subject.error(str(err)) from None
    return dict(pairs)


def _refuse_no_text(subject: Subject, field: str, pairs: Mapping[str, str]) -> None:
    for key, text in pairs.items():
        if not isinstance(key, str) or not isinstance(text, str) or not key.isprintable():
            raise subject.error(f"{field} {key!r}: names and values must be text")
