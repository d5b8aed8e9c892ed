# SPDX-License-Identifier: Apache-2.0
"""Rules of iptables in a router's namespace: which packets have state, which are translated, which may pass.

Single rules for floating IPs and port forwardings are in list chains, each an item of
its own; what is here is the frame that they hang in, the same however many there are.

A mark tells what the first packet of a connection came in by, because rules behind
routing do not see that: ``OUTSIDE_MARK`` for the external network, ``SCOPE_MASK`` for
the address scope.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agent.core import naming
from agent.core.plan import ItemRef, Key, Value
from agent.l2 import iptables_text as text
from agent.l3.local_router import SCOPES, Leg, LocalRouter

MARK_CHAIN: Final = "hp-mark"
OUTSIDE_MARK: Final = 0x1
SCOPE_SHIFT: Final = 8
SCOPE_MASK: Final = SCOPES << SCOPE_SHIFT
INTERNAL_DEVICES: Final = "qr-+"
# Values of driver ``translations`` for the gateway's address: who leaves under it.
ANYBODY: Final = "*"
HAIRPIN: Final = "hairpin"
# Values of it for prefixes: as what leaves who is there.
LEAVES_TRANSLATED: Final = "translated"
LEAVES_AS_IT_IS: Final = "kept"
TRANSLATED: Final = "-m conntrack --ctstate DNAT"
FALLBACK: Final = f"-m mark --mark {naming.FALLBACK_MARK:#x}/{naming.FALLBACK_MARK:#x}"
INVALID: Final = "-m conntrack --ctstate INVALID"
GOES_ON: Final = "! -p icmp -m conntrack --ctstate ESTABLISHED"
UNTRANSLATED: Final = "-m conntrack ! --ctstate SNAT,DNAT"
FROM_INSIDE: Final = f"-m mark ! --mark {OUTSIDE_MARK:#x}/{OUTSIDE_MARK:#x}"

_JUMPS = {
    naming.NOTRACK_CHAIN: ("raw", "PREROUTING"),
    MARK_CHAIN: ("mangle", "PREROUTING"),
    naming.MSS_CHAIN: ("mangle", "FORWARD"),
    naming.FORWARD_CHAIN: ("filter", "FORWARD"),
    naming.INPUT_CHAIN: ("filter", "INPUT"),
    naming.DNAT_CHAIN: ("nat", "PREROUTING"),
    naming.SNAT_CHAIN: ("nat", "POSTROUTING"),
}
_TABLES = {chain: table for chain, (table, _) in _JUMPS.items()} | {naming.FLOATING_CHAIN: "nat"}
# TCP cannot be told otherwise where ICMP is lost; the clamp looks at the ways there and back.
_CLAMP = "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"


def chain_key(namespace: str, family: int, chain: str) -> Key:
    """Return the ``nat`` driver's key of one of the router's chains."""
    return f"{namespace} {family} {_TABLES[chain]} {chain}"


def rule_key(namespace: str, chain: str, rule: str) -> Key:
    """Return the ``nat`` driver's key of one IPv4 rule of a list chain."""
    return f"{chain_key(namespace, 4, chain)} {rule}"


def chain_ref(namespace: str, chain: str) -> ItemRef:
    """Return an IPv4 chain as something to require."""
    return ItemRef("nat", chain_key(namespace, 4, chain))


def passed_chain(namespace: str) -> Key:
    """Return the key of the chain that lets floating IPs out where scopes differ and nothing else is translated."""
    return f"{namespace} 4 filter {naming.FLOATING_CHAIN}"


def passes_floating(local: LocalRouter) -> bool:
    """Tell whether that chain is needed."""
    return local.outside_leg is not None and not local.router.enable_snat and bool(local.scopes(ipv6=False))


def shared_source(local: LocalRouter) -> str | None:
    """Return the address under which those leave who have none of their own, None where there is none."""
    if local.outside_leg is None or not local.place.gateway_host:
        return None
    return next((address.address for address in local.outside_leg.addresses if not address.is_ipv6), None)


def plan_inside(local: LocalRouter, prefixes: Iterable[str], *, leaves: bool) -> dict[Key, Value]:
    """Return the ``translations`` driver's items of the IPv4 *prefixes* that nothing is translated on the way to.

    *leaves* tells that everything else is reached by the gateway.  On a distributed router
    what stays inside has no connection that could end (the notrack rules).
    """
    if local.place.everywhere:
        return {}
    translated = leaves and local.router.enable_snat and not local.scopes(ipv6=False)
    value = LEAVES_TRANSLATED if translated and shared_source(local) is not None else LEAVES_AS_IT_IS
    return {f"{local.namespace} {prefix}": value for prefix in prefixes}


def plan_frame(
    local: LocalRouter, untracked: Iterable[str]
) -> tuple[dict[Key, Value], dict[ItemRef, frozenset[ItemRef]]]:
    """Return the chains of a router, the jumps into them, its notrack rules, and what each requires.

    *untracked* are the IPv4 prefixes that nothing is translated on the way to, of a distributed router.
    """
    items: dict[Key, Value] = {}
    requires: dict[ItemRef, frozenset[ItemRef]] = {}
    space = local.namespace
    for family in (4, 6):
        chains = _chains(local, family)
        for chain, value in chains.items():
            items[chain_key(space, family, chain)] = value
            # A chain goes in after those that it leads to, and not into a namespace of somebody else.
            leads = (naming.FLOATING_CHAIN,) if chain == naming.SNAT_CHAIN else ()
            needs = (ItemRef("nat", chain_key(space, family, each)) for each in leads)
            requires[ItemRef("nat", chain_key(space, family, chain))] = frozenset((local.netns, *needs))
            if chain in _JUMPS:
                table, builtin = _JUMPS[chain]
                jump = text.rule(text.comment(naming.rule_comment(chain)), text.jump(chain))
                key = f"{space} {family} {table} {builtin} {jump}"
                items[key] = text.FIRST
                requires[ItemRef("nat", key)] = frozenset((ItemRef("nat", chain_key(space, family, chain)),))
    if passes_floating(local):
        passed, forward = passed_chain(space), chain_ref(space, naming.FORWARD_CHAIN)
        items[passed] = text.LIST_CHAIN
        requires[ItemRef("nat", passed)] = frozenset((local.netns,))
        requires[forward] = frozenset((*requires[forward], ItemRef("nat", passed)))
    if local.place.everywhere:
        for prefix in untracked:
            rule = text.rule(text.destination(prefix), text.from_device(INTERNAL_DEVICES), "-j CT --notrack")
            key = rule_key(space, naming.NOTRACK_CHAIN, rule)
            items[key] = text.NONE
            requires[ItemRef("nat", key)] = frozenset((chain_ref(space, naming.NOTRACK_CHAIN),))
    return items, requires


def _chains(local: LocalRouter, family: int) -> dict[str, str]:
    """Return the chains of a family; what a router has no use for it does not have.

    For a router without IPv6 that is none, and so one program less that writes or reads them.
    """
    chains: dict[str, str] = {}
    if any(leg.has_family(ipv6=family == 6) for leg in _legs_here(local)):
        chains[naming.MSS_CHAIN] = _CLAMP
    marks = _marks(local, family)
    if marks:
        chains[MARK_CHAIN] = marks
    forward = _forward(local, family)
    if forward:
        chains[naming.FORWARD_CHAIN] = forward
    if family == 4:
        if local.place.everywhere:
            chains[naming.NOTRACK_CHAIN] = text.LIST_CHAIN
        if local.outside_leg is not None:
            chains[naming.DNAT_CHAIN] = text.LIST_CHAIN
            chains[naming.FLOATING_CHAIN] = text.LIST_CHAIN
            chains[naming.SNAT_CHAIN] = _snat(local, local.outside_leg)
            # What belongs to no connection is not translated, so it seems to be for the router itself, which would
            # answer with a reset: while a gateway moves that would end connections that are only seen in part.
            # From inside as well: there are those who send to floating IPs of their own router.  Nor does anybody
            # talk to the router itself but by ICMP: what goes on here began while its floating IP was elsewhere.
            chains[naming.INPUT_CHAIN] = text.chain(text.rule(INVALID, text.DROP), text.rule(GOES_ON, text.DROP))
    return chains


def _legs_here(local: LocalRouter) -> list[Leg]:
    return [*local.legs, *((local.outside_leg,) if local.outside_leg is not None else ())]


def _marks(local: LocalRouter, family: int) -> str:
    scopes = local.scopes(ipv6=family == 6)
    rules = []
    if family == 4 and local.outside_leg is not None:
        rules.append(text.rule(text.from_device(local.outside_leg.device), text.set_mark(OUTSIDE_MARK)))
    for leg in _legs_here(local):
        if scopes and leg.has_family(ipv6=family == 6):
            number = scopes[leg.scope(ipv6=family == 6)] << SCOPE_SHIFT
            rules.append(text.rule(text.from_device(leg.device), f"-j MARK --set-xmark {number:#x}/{SCOPE_MASK:#x}"))
    return text.chain(*rules)


def _of_scope(number: int, *, negated: bool) -> str:
    return f"-m mark {'! ' if negated else ''}--mark {number << SCOPE_SHIFT:#x}/{SCOPE_MASK:#x}"


def _forward(local: LocalRouter, family: int) -> str:
    """Drop what goes from one address scope to another and is not translated, or leaves and could not be.

    What leaves by the gateway and will be translated cannot be told yet; there the rule
    is for routers that do not translate.  What driver ``fallback`` has translated passes.
    """
    scopes = local.scopes(ipv6=family == 6)
    rules, passed = [], text.rule(FALLBACK, "-j RETURN")
    if family == 4 and local.outside_leg is not None:
        rules.append(passed)
        if local.router.enable_snat:
            own = _own_scope(local, local.outside_leg)
            translated = _of_scope(own, negated=True) if own is not None else ""
            rules.append(text.rule(text.to_device(local.outside_leg.device), translated, INVALID, text.DROP))
    for leg in _legs_here(local) if scopes else ():
        if not leg.has_family(ipv6=family == 6):
            continue
        number = scopes[leg.scope(ipv6=family == 6)]
        if leg.is_gateway and family == 4:
            if not local.router.enable_snat:
                rules.append(text.rule(text.to_device(leg.device), text.jump(naming.FLOATING_CHAIN)))
                rules.append(_drop_others(leg, number, family))
            continue
        rules.append(_drop_others(leg, number, family))
    return text.chain(*rules) if rules != [passed] else ""


def _own_scope(local: LocalRouter, outside: Leg) -> int | None:
    """Return the number of the address scope from which what leaves by the gateway is not translated."""
    scope = outside.scope(ipv6=False)
    return local.scopes(ipv6=False).get(scope) if scope else None


def _drop_others(leg: Leg, number: int, family: int) -> str:
    translated = UNTRANSLATED if family == 4 else ""
    return text.rule(text.to_device(leg.device), _of_scope(number, negated=True), translated, text.DROP)


def _snat(local: LocalRouter, outside: Leg) -> str:
    """Return the rules for the source: of whom there is a floating IP, of equal scopes, of all others.

    What comes from inside to a floating IP goes back inside (hairpin): the answer must
    come here, too, to be translated, so the source becomes an external one.
    """
    leaves, hairpin = text.to_device(outside.device), text.rule(FROM_INSIDE, TRANSLATED)
    to_floating = text.jump(naming.FLOATING_CHAIN)
    rules = [text.rule(leaves, to_floating), text.rule(hairpin, to_floating)]
    own, scope = shared_source(local), _own_scope(local, outside)
    if own is not None:
        source = f"-j SNAT --to-source {own}"
        if local.router.enable_snat:
            if scope is not None:
                rules.append(text.rule(leaves, _of_scope(scope, negated=False), "-j RETURN"))
            rules.append(text.rule(leaves, source))
        rules.append(text.rule(hairpin, source))
    return text.chain(*rules)
