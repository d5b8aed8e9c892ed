# SPDX-License-Identifier: Apache-2.0
"""Rules of security groups as rows for people."""

from __future__ import annotations

from agent.cli.output import Value
from agent.store.records import SecurityGroupRuleRecord

ANY_PROTOCOL, ANYBODY = "any", "anybody"
COLUMNS = ("direction", "ethertype", "protocol", "ports", "remote", "id", "description")
_ICMP = ("icmp", "icmpv6", "ipv6-icmp")


def cells(rule: SecurityGroupRuleRecord) -> list[Value]:
    """Return what the columns show of *rule*."""
    return [
        rule.direction,
        rule.ethertype,
        rule.protocol or ANY_PROTOCOL,
        ports_text(rule.protocol, rule.port_range_min, rule.port_range_max),
        _remote(rule),
        rule.id,
        rule.description,
    ]


def ports_text(protocol: str | None, low: int | None, high: int | None) -> str:
    """Return a port range; for ICMP, whose type and code are kept there, these."""
    if protocol in _ICMP:
        return " ".join(f"{word} {value}" for word, value in (("type", low), ("code", high)) if value is not None)
    return "" if low is None else str(low) if low == high else f"{low}-{high}"


def _remote(rule: SecurityGroupRuleRecord) -> str:
    if rule.remote_group is not None:
        return f"group {rule.remote_group_name or rule.remote_group}"
    if rule.remote_address_group is not None:
        return f"address group {rule.remote_address_group_name or rule.remote_address_group}"
    return rule.remote_ip_prefix or ANYBODY
