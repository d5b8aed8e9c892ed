# SPDX-License-Identifier: Apache-2.0
"""Which pings between instances the security groups allow.  Pure.

Written from the Neutron API's description of rules, not from what the agent makes of
them: the demo compares the two.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from agent.store.records import AddressGroupRecord, PortRecord, SecurityGroupRecord, SecurityGroupRuleRecord
from agent.store.writer import Writer

_ECHO = {4: (8, 0), 6: (128, 129)}  # ICMP types of request and reply by IP version
_PROTOCOLS = {4: ("icmp",), 6: ("icmp", "icmpv6", "ipv6-icmp")}  # with IPv6, "icmp" means ICMPv6 as well


@dataclass(frozen=True, slots=True)
class Expected:
    """Whether a request arrives, and whether its sender gets the answer."""

    arrives: bool
    answered: bool


@dataclass(frozen=True, slots=True)
class Filters:
    """The security groups by id, and the prefixes that each group, of either kind, stands for, by id."""

    groups: dict[str, SecurityGroupRecord]
    members: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, writer: Writer) -> Self:
        """Return what the store says now."""
        return cls.of(writer.list_security_groups(), writer.list_address_groups(), writer.list_ports())

    @classmethod
    def of(
        cls,
        groups: Sequence[SecurityGroupRecord],
        address_groups: Iterable[AddressGroupRecord],
        ports: Iterable[PortRecord],
    ) -> Self:
        """Return the filters that these groups and ports make."""
        members = {group.id: group.addresses for group in address_groups}
        members.update(dict.fromkeys((group.id for group in groups), ()))
        for port in ports:
            pairs = (pair.partition(" ")[0] for pair in port.allowed_address_pairs)
            addresses = (*(fixed_ip.address for fixed_ip in port.fixed_ips), *pairs)
            for group in port.security_group_ids:
                members[group] += addresses
        return cls({group.id: group for group in groups}, members)

    def expect(self, source: PortRecord, target: PortRecord, address: str) -> Expected:
        """Return what becomes of an echo request of *source* to *address* of *target*."""
        version = ipaddress.ip_address(address).version
        own = (ip.address for ip in source.fixed_ips if ipaddress.ip_address(ip.address).version == version)
        sender = next(own, None)
        if source.network != target.network or sender is None:
            return Expected(arrives=False, answered=False)
        request, reply = _ECHO[version]
        arrives = self._allow(source, "egress", address, request) and self._allow(target, "ingress", sender, request)
        leaves = self._is_stateful(target) or self._allow(target, "egress", sender, reply)
        returns = self._is_stateful(source) or self._allow(source, "ingress", address, reply)
        return Expected(arrives, arrives and leaves and returns)

    def _is_stateful(self, port: PortRecord) -> bool:
        return all(self.groups[group].stateful for group in port.security_group_ids)

    def _allow(self, port: PortRecord, direction: str, peer: str, icmp_type: int) -> bool:
        if port.security_groups is None:
            return True
        rules = (rule for group in port.security_group_ids for rule in self.groups[group].rules)
        return any(rule.direction == direction and self._matches(rule, peer, icmp_type) for rule in rules)

    def _matches(self, rule: SecurityGroupRuleRecord, peer: str, icmp_type: int) -> bool:
        address = ipaddress.ip_address(peer)
        if rule.ethertype != f"IPv{address.version}":
            return False
        if rule.protocol is not None and rule.protocol not in _PROTOCOLS[address.version]:
            return False
        if rule.protocol is not None and rule.port_range_min not in (None, icmp_type):
            return False
        if rule.protocol is not None and rule.port_range_max not in (None, 0):  # the code
            return False
        owner = rule.remote_group or rule.remote_address_group
        prefixes = self.members[owner] if owner else (rule.remote_ip_prefix,) if rule.remote_ip_prefix else None
        return prefixes is None or any(address in ipaddress.ip_network(prefix) for prefix in prefixes)
