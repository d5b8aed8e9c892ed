# SPDX-License-Identifier: Apache-2.0
"""Routers, floating IPs and port forwardings of a declarative file: what they are called, and their addresses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from agent.store import validate_routers, writer_forwardings, writer_legs
from agent.store.document import UNSET, Document, Entry, FixedIpRequest, FloatingIpFields, RouterFields, Unset
from agent.store.validate import Subject
from agent.store.writer_addresses import reserve
from agent.store.writer_session import Session
from agent.store.writer_view import Row, scalar


def canonical(document: Document) -> Document:
    """Return *document* with floating IPs and port forwardings called as in the store.

    Raises InputError that names object and line.
    """
    return replace(
        document,
        floating_ips=tuple(_floating_ips(document)),
        port_forwardings=tuple(
            replace(
                entry,
                name=writer_forwardings.canonical_name(
                    Subject("port_forwarding", entry.name, entry.line), entry.name, entry.fields
                ),
            )
            for entry in document.port_forwardings
        ),
    )


def _floating_ips(document: Document) -> Iterator[Entry[FloatingIpFields]]:
    for entry in document.floating_ips:
        subject = Subject("floating_ip", entry.name, entry.line)
        yield replace(entry, name=validate_routers.ipv4_address(subject, "address", entry.name))


def of_network(session: Session, entry: Entry[FloatingIpFields], rows: list[Row]) -> list[Row]:
    """Return those of *rows* that are of the network that a floating IP of a file names."""
    if isinstance(entry.fields.network, Unset):
        return rows
    network = session.find("network", entry.fields.network, Subject("floating_ip", entry.name, entry.line))
    return [row for row in rows if row.floating_network == network]


def reserve_addresses(session: Session, document: Document) -> None:
    """Let no gateway, port or DHCP server take by chance what is wished for further on.

    Which network a floating IP is of shows when the subnets are there: until then no external network gives it away.
    """
    wanted = [entry.name for entry in document.floating_ips]
    wanted += [entry.name.partition(":")[0] for entry in document.port_forwardings]
    if wanted:
        for network in session.rows("Network"):
            if network.external:
                for address in wanted:
                    session.want_address(network, address, reserving=True)
    networks = {subnet.name: subnet.fields.network for subnet in document.subnets}
    for entry in document.routers:
        subject = Subject("router", entry.name, entry.line)
        for wish in () if isinstance(entry.fields.interfaces, Unset) else entry.fields.interfaces:
            inside = _network_of(session, subject, networks, wish)
            if inside is not None:
                reserve(session, subject, inside, (wish,))
        wishes = entry.fields.external_fixed_ips
        outside = None if isinstance(wishes, Unset) else _outside(session, subject, entry)
        if outside is not None and not isinstance(wishes, Unset):
            reserve(session, subject, outside, wishes)


def _network_of(
    session: Session, subject: Subject, networks: Mapping[str, str | Unset], wish: FixedIpRequest
) -> Row | None:
    """Return the network of a subnet that may still have to be made; what is not there is refused in its turn."""
    present = session.named("subnet", wish.subnet or "")
    if present:
        return session.row("Network", scalar(present[0], "network"))
    name = networks.get(wish.subnet or "", UNSET)
    return None if isinstance(name, Unset) else session.find("network", name, subject)


def _outside(session: Session, subject: Subject, entry: Entry[RouterFields]) -> Row | None:
    if isinstance(entry.fields.external_network, Unset):
        present = session.named("router", entry.name)
        leg = writer_legs.gateway(session, present[0]) if present else None
        return None if leg is None else session.row("Network", scalar(leg, "network"))
    if entry.fields.external_network is None:
        return None
    return session.find("network", entry.fields.external_network, subject)
