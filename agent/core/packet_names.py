# SPDX-License-Identifier: Apache-2.0
"""Whose rule and whose port a logged packet is about.

The kernel says the prefix of the rule that logged it (``a:<hash of the rule's id>`` for
what was accepted, ``d:<hash of the group's id>`` for what was dropped) and the bridge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core import naming
from agent.core.model import HostSnapshot, Port, SecurityGroup


@dataclass(frozen=True, slots=True)
class LogRule:
    """Who logs: a group and, for what is accepted, its rule."""

    accepted: bool
    group: str
    group_name: str
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class PacketNames:
    """Rules by prefix and (id, name) of ports by bridge, for the snapshot's groups that log."""

    rules: Mapping[str, LogRule] = field(default_factory=dict)
    ports: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def any_logs(snapshot: HostSnapshot) -> bool:
    """Tell whether any group logs packets."""
    return any(group.log_accepted or group.log_dropped for group in snapshot.security_groups.values())


def packet_names(snapshot: HostSnapshot) -> PacketNames:
    """Return the names for what the groups of *snapshot* log."""
    rules: dict[str, LogRule] = {}
    for group in snapshot.security_groups.values():
        rules.update(_log_rules(group))
    filtered = (port for port in snapshot.ports.values() if port.filtered)
    return PacketNames(rules, dict(_named(port) for port in filtered))


def _log_rules(group: SecurityGroup) -> dict[str, LogRule]:
    found: dict[str, LogRule] = {}
    if group.log_dropped:
        found[f"d:{naming.short_hash(group.id)}"] = LogRule(False, group.id, group.name)
    if group.log_accepted:
        for rule in group.rules:
            found[f"a:{naming.short_hash(rule.id)}"] = LogRule(True, group.id, group.name, rule.id)
    return found


def _named(port: Port) -> tuple[str, tuple[str, str]]:
    return naming.hybrid_bridge_name(port.id), (port.id, port.name)
