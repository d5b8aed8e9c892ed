# SPDX-License-Identifier: Apache-2.0
"""The rules of a security group as chains that all its ports share: one rule, one line of iptables.

What iptables cannot say is left out and named: a rule that is not there allows
nothing.  Rules are kept from one round to the next, so that one more in a group of
thousands costs one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.core import naming
from agent.core.errors import Actor, Problem
from agent.core.items import GroupRules, Item
from agent.core.memo import Memo
from agent.core.model import Direction, OwnerId, SecurityGroup, SecurityGroupId, SecurityGroupRule
from agent.core.plan import Group, ItemRef, Key, ObjectId
from agent.l2 import address_sets
from agent.l2 import iptables_text as text
from agent.l2.rule_matches import InexpressibleError, rule_match


@dataclass(frozen=True, slots=True, eq=False)
class RulePlan:
    """One rule: its items, what they require, whose addresses it needs, or why it cannot be planned."""

    rule: SecurityGroupRule
    items: Mapping[Key, str]
    requires: Mapping[ItemRef, frozenset[ItemRef]]
    problem: Problem | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GroupPlan:
    """A security group; ``owners`` are those of the addresses that its rules refer to."""

    source: SecurityGroup
    rules: Mapping[str, RulePlan]
    group: Group
    owners: frozenset[OwnerId]
    problems: tuple[Problem, ...]


def object_id(group: SecurityGroupId) -> ObjectId:
    """Return the object id of a security group."""
    return ObjectId(f"security_group:{group}")


def chains(group: SecurityGroupId) -> Iterable[tuple[int, str]]:
    """Return (family, chain) of all its chains."""
    for family in text.FAMILIES:
        for ingress in (False, True):
            yield family, naming.group_chain(group, ingress)


def plan_security_group(memo: Memo, source: SecurityGroup) -> GroupPlan:
    """Plan the chains of a security group."""
    return memo.evolve(("security_group", source.id), (source,), lambda last: _update(memo, source, last))


def _update(memo: Memo, source: SecurityGroup, last: GroupPlan | None) -> GroupPlan:
    known = last.rules if last is not None and _logs_alike(last.source, source) else {}
    rules: dict[str, RulePlan] = {}
    for rule in source.rules:
        before = known.get(rule.id)
        rules[rule.id] = before if before is not None and before.rule is rule else _plan_rule(source, rule)
    iptables: dict[Key, str] = {text.chain_key(family, chain): text.LIST_CHAIN for family, chain in chains(source.id)}
    requires: dict[ItemRef, frozenset[ItemRef]] = {}
    for plan in rules.values():
        iptables.update(plan.items)
        requires.update(plan.requires)
    able = tuple(plan.rule for plan in rules.values() if plan.problem is None)
    judged: dict[Key, Item] = {f"group {source.id}": GroupRules(able)}
    memo.rebuilt += 1
    return GroupPlan(
        source,
        rules,
        Group(object_id(source.id), {"iptables": iptables, "conntrack": judged}, requires),
        frozenset(rule.remote_owner for rule in able if rule.remote_owner is not None),
        tuple(plan.problem for plan in rules.values() if plan.problem is not None),
    )


def _logs_alike(old: SecurityGroup, new: SecurityGroup) -> bool:
    if not (old.log_accepted or new.log_accepted):
        return True
    return (old.log_accepted, old.log_rate, old.log_burst) == (new.log_accepted, new.log_rate, new.log_burst)


def _plan_rule(group: SecurityGroup, rule: SecurityGroupRule) -> RulePlan:
    try:
        match = rule_match(rule)
    except InexpressibleError as err:
        where = f"security group {group.name or group.id}, rule {rule.id}"
        problem = Problem(object_id(group.id), "rules", f"{where}: {err}; the rule is left out", Actor.CLOUD)
        return RulePlan(rule, {}, {}, problem)
    family, ingress = rule.ip_version, rule.direction is Direction.INGRESS
    chain = naming.group_chain(group.id, ingress)
    target = naming.logged_accept_chain(rule.id) if group.log_accepted else naming.ACCEPT_CHAIN
    line = text.rule(match, text.comment(naming.rule_comment(rule.id)), text.jump(target))
    items = {text.rule_key(family, chain, line): text.NONE}
    needed = [text.chain_ref(family, chain), text.chain_ref(family, target)]
    if group.log_accepted:
        items[text.chain_key(family, target)] = _logged_accept(group, rule)
    if rule.remote_owner is not None:
        needed.append(address_sets.set_ref(rule.remote_owner, family))
    return RulePlan(rule, items, {text.rule_ref(family, chain, line): frozenset(needed)})


def _logged_accept(group: SecurityGroup, rule: SecurityGroupRule) -> str:
    prefix = f"a:{naming.short_hash(rule.id)}"
    return text.chain(
        text.log(limit_name(group, "accept"), group.log_rate, group.log_burst, prefix),
        text.jump(naming.ACCEPT_CHAIN),
    )


def limit_name(group: SecurityGroup, verdict: str) -> str:
    """Return the name of the limit that all the group's logging rules of one *verdict* share.

    It changes with rate and burst: the kernel would go on with the old ones under an old name.
    """
    return "hp-" + naming.short_hash(f"{group.id} {verdict} {group.log_rate} {group.log_burst}")[:12]
