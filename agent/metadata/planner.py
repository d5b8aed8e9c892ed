# SPDX-License-Identifier: Apache-2.0
"""What the responder is told of a port for its metadata requests, and of the service behind it.

Pure.  A key that makes no sense is left out and said; the rest is served.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Final

from agent.core import service_identity
from agent.core.errors import Actor, InputError, Problem
from agent.core.host_names import instance_name
from agent.core.items import Served
from agent.core.model import MetadataService, Network, Port, Subnet
from agent.core.port_metadata import PortMetadata, read_metadata
from agent.core.served import served
from agent.metadata.data import ContentData, Limits, MetadataData, encode_metadata
from agent.metadata.network_data import network_data

# Octets, as JSON, that the responder holds for all ports together: in memory, and up to three times in its file, which
# its MemoryMax counts as well.  What is more would end it again and again, and with it everybody's DHCP.
ROOM: Final = 32 << 20
_NOTHING_SAID = PortMetadata()


@dataclass(frozen=True, slots=True)
class MetadataPlan:
    """What the responder is told, None for a port that cannot ask, and what is wrong with the port.

    ``aliases`` are (alias, address).  ``asks_service`` tells that somebody else's
    metadata service is asked.
    """

    served: Served | None = None
    aliases: tuple[tuple[str, str], ...] = ()
    asks_service: bool = False
    problems: tuple[Problem, ...] = ()


def plan_port(
    port: Port, network: Network, subnets: tuple[Subnet, ...], number: int, *, service: bool, room: bool = True
) -> MetadataPlan:
    """Plan the metadata of *port*; *subnets* are all of its network, *number* is what stands for it.

    *service* tells that the store names a metadata service: it has what the store does not.
    Without *room* what may be large is left out and said.
    """
    aliases = _aliases(port, subnets, number)
    if not aliases:
        return MetadataPlan()
    problems: tuple[Problem, ...] = ()
    content: ContentData | None = None
    if port.metadata or not service:
        said, problems = _said(port)
        if not room:
            said, problems = replace(said, user_data=b"", vendor_data=""), (*problems, _no_room(port))
        content = _content(port, network, subnets, said)
        instance_id = said.instance_id or port.device_id or port.id
    else:
        instance_id = port.device_id
    data = MetadataData(
        port=port.id,
        name=port.name,
        network=port.network,
        mac=port.mac,
        instance_id=instance_id,
        project=port.project,
        aliases=aliases,
        addresses=tuple(ip.address for ip in port.fixed_ips),
        content=content,
    )
    return MetadataPlan(served(encode_metadata(data)), aliases, content is None, problems)


def plan_service(service: MetadataService | None, limits: Limits) -> Served:
    """Plan what is the same for all ports: the service that is asked, None for none, and the limits.

    One without a URL cannot be asked: its ports are told to come again later.  Files are
    named here; who hands them over reads them.
    """
    asked = asdict(service) if service is not None and service.url else None
    return served({"nova": asked, "limits": asdict(limits)})


def _aliases(port: Port, subnets: tuple[Subnet, ...], number: int) -> tuple[tuple[str, str], ...]:
    """Return (alias, address): of the fixed IPs, and where there is IPv6 of the EUI-64 link-local address."""
    addresses = [ip.address for ip in port.fixed_ips]
    if any(":" in subnet.cidr for subnet in subnets):
        addresses.append(service_identity.link_local(port.mac))
    slots = service_identity.slots(addresses)
    return tuple((service_identity.alias(number, address, slot), address) for address, slot in slots.items())


def _said(port: Port) -> tuple[PortMetadata, tuple[Problem, ...]]:
    """Return what the store says of the instance, and what in it makes no sense."""
    if not port.metadata:
        return _NOTHING_SAID, ()
    try:
        return read_metadata(port.metadata), ()
    except InputError:
        good: list[tuple[str, str]] = []
        problems = []
        for pair in port.metadata:
            try:
                read_metadata((*good, pair))
            except InputError as err:
                text = f"port {port.name or port.id}: {err}"
                problems.append(Problem(f"port:{port.id}/metadata", "metadata", text, Actor.CLOUD))
            else:
                good.append(pair)
        return read_metadata(good), tuple(problems)


def _no_room(port: Port) -> Problem:
    text = (
        f"port {port.name or port.id}: metadata: user_data and vendor_data are not served: the ports of this host have "
        f"more than {ROOM >> 20} MiB together, and this is one of the largest"
    )
    return Problem(f"port:{port.id}/metadata", "metadata", text, Actor.CLOUD)


def _content(port: Port, network: Network, subnets: tuple[Subnet, ...], said: PortMetadata) -> ContentData:
    name = instance_name(port.hostname, (ip.address for ip in port.fixed_ips), network.dns_domain)
    return ContentData(
        hostname=name.host,
        fqdn=name.fqdn,
        ssh_keys=said.ssh_keys,
        user_data=said.user_data,
        vendor_data=said.vendor_data,
        availability_zone=said.availability_zone,
        instance_type=said.instance_type,
        meta=said.meta,
        network_data=network_data(port, network, subnets),
    )
