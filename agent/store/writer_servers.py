# SPDX-License-Identifier: Apache-2.0
"""The address of a subnet that DHCP is answered from.

It is the subnet's own: no port can have it, and no ``Endpoint`` tells of it, because each
host answers for itself.  It comes from the upper end of the pools, so that ports get
the low addresses that their owner expects.
"""

from __future__ import annotations

from agent.core.service_identity import SERVER_MAC
from agent.store import ipam, service_values, validate
from agent.store.document import Unset
from agent.store.validate import Subject
from agent.store.writer_addresses import check_owner, holders, is_automatic
from agent.store.writer_session import Session
from agent.store.writer_view import Row, optional


def settle(session: Session, subject: Subject, subnet: Row, wish: str | Unset) -> bool:
    """Give *subnet* the address that was wished for, one of its pools, or none; tell whether that changed anything.

    An address that it has stays, unless it has become the gateway's or is none of the subnet's
    (as somebody may have written by hand).  Where there is no room it gets none: its ports
    are worth more than DHCP, and the hosts say what is missing.
    """
    present = optional(subnet.server_address)
    if not isinstance(wish, Unset):
        address: str | None = _wished(session, subject, subnet, wish)
    elif not is_served(subnet):
        address = None
    elif present is not None and _is_sound(subnet, present):
        address = present
    else:
        address = _chosen(session, subnet)
    if address == present and bool(subnet.server_allocation) is (address is not None):
        return False
    network = subnet.network
    claim = [] if address is None else [session.insert("IP_Allocation", network=network, address=address)]
    session.update(subnet, server_address=[] if address is None else [address], server_allocation=claim)
    return True


def _is_sound(subnet: Row, address: str) -> bool:
    """Tell whether DHCP can be answered from what the row says."""
    try:
        return service_values.address(address) in ipam.network(subnet.cidr) and [address] != subnet.gateway_ip
    except ValueError:
        return False


def is_served(subnet: Row) -> bool:
    """Tell whether DHCP serves *subnet*; of IPv6 without a mode others take care."""
    return subnet.enable_dhcp and (":" not in subnet.cidr or bool(subnet.ipv6_address_mode or subnet.ipv6_ra_mode))


def _wished(session: Session, subject: Subject, subnet: Row, wish: str) -> str:
    value = validate.address(subject, "server_address", wish)
    if not is_served(subnet):
        what = "an IPv6 mode" if subnet.enable_dhcp else "dhcp"
        raise subject.error(f"server_address {value} is of no use without {what}: leave it out")
    validate.host_address(subject, "server_address", value, ipam.network(subnet.cidr))
    address = str(value)
    if [address] == subnet.gateway_ip:
        raise subject.error(f"server_address {address} is the gateway")
    if [address] != subnet.server_address:
        session.want_address(subnet.network, address)
        # Also one that a port further on in a file wishes: whoever comes first, the message is about both.
        session.check_later(lambda: check_owner(session, subject, subnet, "server_address", [address]))
    return address


def _chosen(session: Session, subnet: Row) -> str | None:
    network, cidr = subnet.network, ipam.network(subnet.cidr)
    used = session.used_addresses(network)
    if is_automatic(subnet):
        address = ipam.eui64_address(cidr, SERVER_MAC)
        return None if address in used and holders(session, network).get(address) else _taken(used, address)
    # The gateway's is in no pool.
    chosen = ipam.highest_free(cidr, subnet.allocation_pools, used, session.attempt, session.rng)
    return None if chosen is None else _taken(used, chosen)


def _taken(used: set[str], address: str) -> str:
    used.add(address)
    return address
