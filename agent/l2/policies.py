# SPDX-License-Identifier: Apache-2.0
"""Policies: what passes a port, as two chains that all ports with the same security groups share.

A chain first settles what is the same for everybody (connections, what an instance
needs to live, what only servers and routers may say), then asks each group, and drops
what none of them accepts.  The fixed rules are those of Neutron's firewall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent.core import naming
from agent.core.model import SecurityGroup, SecurityGroupId
from agent.core.plan import Group, ItemRef, Key, ObjectId
from agent.l2 import filters, security_groups
from agent.l2 import iptables_text as text

ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT = 133, 134, 135, 136
MLD_QUERY, MLD_REPORT, MLD_DONE, MLD2_REPORT = 130, 131, 132, 143

DHCP_SERVER, DHCP_CLIENT = 67, 68
DHCPV6_CLIENT, DHCPV6_SERVER = 546, 547

_ACCEPT: Final = text.jump(naming.ACCEPT_CHAIN)

# (family, ingress) -> rules
_FIXED: Final[dict[tuple[int, bool], tuple[str, ...]]] = {
    (4, False): (
        text.rule(text.udp_ports(DHCP_CLIENT, DHCP_SERVER), _ACCEPT),
        text.rule(text.udp_ports(DHCP_SERVER, DHCP_CLIENT), text.DROP),
    ),
    (4, True): (text.rule(text.udp_ports(DHCP_SERVER, DHCP_CLIENT), _ACCEPT),),
    (6, False): (
        *(
            text.rule(text.icmpv6_type(kind), _ACCEPT)
            for kind in (
                MLD_QUERY,
                MLD_REPORT,
                MLD_DONE,
                ROUTER_SOLICITATION,
                NEIGHBOR_SOLICITATION,
                NEIGHBOR_ADVERTISEMENT,
                MLD2_REPORT,
            )
        ),
        text.rule(text.icmpv6_type(ROUTER_ADVERTISEMENT), text.DROP),
        text.rule(text.udp_ports(DHCPV6_CLIENT, DHCPV6_SERVER), _ACCEPT),
        text.rule(text.udp_ports(DHCPV6_SERVER, DHCPV6_CLIENT), text.DROP),
    ),
    (6, True): (
        *(
            text.rule(text.icmpv6_type(kind), _ACCEPT)
            for kind in (MLD_QUERY, ROUTER_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT)
        ),
        text.rule(text.udp_ports(DHCPV6_SERVER, DHCPV6_CLIENT), _ACCEPT),
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """What ports with the same security groups share.

    ``groups`` are the known ones of them; ``tracked`` tells that connections are
    followed, ``open`` that everything passes; ``gate`` is what must be in place before
    a port with this policy is opened.
    """

    id: ObjectId
    groups: tuple[SecurityGroupId, ...]
    tracked: bool
    open: bool
    gate: frozenset[ItemRef]


def policy_id(groups: Sequence[SecurityGroupId]) -> ObjectId:
    """Return the object id of the policy of ports with these groups."""
    return ObjectId(f"policy:{naming.short_hash(','.join(sorted(groups)))}")


def make_policy(object_id: ObjectId, groups: tuple[SecurityGroupId, ...], *, tracked: bool) -> Policy:
    """Return the policy with *groups*, sorted."""
    gate = filters.BASE_GATE | _chain_refs(object_id)
    gate |= {text.chain_ref(family, chain) for group in groups for family, chain in security_groups.chains(group)}
    return Policy(object_id, groups, tracked, open=False, gate=gate)


def _chain_refs(object_id: ObjectId) -> frozenset[ItemRef]:
    return frozenset(
        text.chain_ref(family, naming.policy_chain(object_id, ingress))
        for family in text.FAMILIES
        for ingress in (False, True)
    )


_OPEN_ID = ObjectId("policy:open")
# For ports that are plugged hybrid and not filtered.
OPEN = Policy(_OPEN_ID, (), tracked=False, open=True, gate=filters.BASE_GATE | _chain_refs(_OPEN_ID))


def plan_policy(policy: Policy, groups: Sequence[SecurityGroup]) -> Group:
    """Plan the chains of *policy*; *groups* are those that it names."""
    iptables: dict[Key, str] = {}
    requires: dict[ItemRef, frozenset[ItemRef]] = {}
    for family in text.FAMILIES:
        for ingress in (False, True):
            name = naming.policy_chain(policy.id, ingress)
            iptables[text.chain_key(family, name)] = _chain(policy, groups, family, ingress=ingress)
            targets = {text.chain_ref(family, naming.group_chain(group.id, ingress)) for group in groups}
            requires[text.chain_ref(family, name)] = frozenset((text.chain_ref(family, naming.ACCEPT_CHAIN), *targets))
    return Group(policy.id, {"iptables": iptables}, requires)


def _chain(policy: Policy, groups: Sequence[SecurityGroup], family: int, *, ingress: bool) -> str:
    if policy.open:
        return _ACCEPT
    rules: list[str] = []
    if policy.tracked:
        mark = naming.INGRESS_CONNMARK if ingress else naming.EGRESS_CONNMARK
        rules += (
            text.rule(text.state("INVALID"), text.DROP),
            text.rule(text.state("NEW"), text.set_connection_mark(mark, naming.CONNMARK_MASK)),
            text.rule(text.connection_marked(naming.ENDED_CONNMARK), text.DROP),
        )
    rules += _FIXED[family, ingress]
    rules += (text.jump(naming.group_chain(group.id, ingress)) for group in groups)
    rules += (_log_dropped(group) for group in groups if group.log_dropped)
    rules.append(text.DROP)
    return text.chain(*rules)


def _log_dropped(group: SecurityGroup) -> str:
    prefix = f"d:{naming.short_hash(group.id)}"
    return text.log(security_groups.limit_name(group, "drop"), group.log_rate, group.log_burst, prefix)
