# SPDX-License-Identifier: Apache-2.0
"""What somebody with root and no idea does to the filters of a host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TypeVar

from tests.fakes.ipset import FakeSet
from tests.fakes.nft import Chain
from tests.fakes.packet_filter import FakeFilter

Item = TypeVar("Item")
Rules = MutableMapping[str, list[str]]


def _pick(among: Sequence[Item], which: int) -> Item | None:
    return among[which % len(among)] if among else None


def _our_chain(table: Rules, which: int) -> str | None:
    return _pick(sorted(chain for chain in table if chain.startswith("hp-")), which)


def _alter_chain(alter: Callable[[list[str]], object]) -> Callable[[FakeFilter, int], None]:
    def do(kernel: FakeFilter, which: int) -> None:
        table = kernel.iptables.tables[("iptables", "ip6tables")[which % 2]]
        if chain := _our_chain(table, which // 2):
            alter(table[chain])

    return do


def _delete_first(rules: list[str]) -> None:
    del rules[:1]


def _accept_in_chain(kernel: FakeFilter, which: int) -> None:
    for table in kernel.iptables.tables.values():
        if (chain := _our_chain(table, which)) and chain != "hp-accept" and "hp-accept" in table:
            table[chain].insert(0, "-j hp-accept")


def _delete_chain(kernel: FakeFilter, which: int) -> None:
    table = kernel.iptables.tables[("iptables", "ip6tables")[which % 2]]
    if gone := _our_chain(table, which // 2):
        del table[gone]
        for rules in table.values():
            rules[:] = [rule for rule in rules if gone not in rule.split()]


def _delete_all_chains(kernel: FakeFilter, which: int) -> None:
    """Restore everybody else's rules over everything."""
    for table in kernel.iptables.tables.values():
        for chain in [chain for chain in table if chain.startswith("hp-")]:
            del table[chain]
        for rules in table.values():
            rules[:] = [rule for rule in rules if '"hp:' not in rule]


def _delete_jump(kernel: FakeFilter, which: int) -> None:
    rules = kernel.iptables.tables["iptables"][("FORWARD", "INPUT")[which % 2]]
    rules[:] = [rule for rule in rules if '"hp:' not in rule]


def _accept_first(kernel: FakeFilter, which: int) -> None:
    for table in kernel.iptables.tables.values():
        table["FORWARD"].insert(0, "-i qbr+ -j ACCEPT")


def _our_set(kernel: FakeFilter, which: int) -> tuple[str, FakeSet] | None:
    return _pick(sorted((name, one) for name, one in kernel.ipsets.sets.items() if name.startswith("hp-")), which)


def _add_element(kernel: FakeFilter, which: int) -> None:
    if found := _our_set(kernel, which):
        found[1].elements["203.0.113.7" if found[1].family == "inet" else "2001:db8:a::1"] = ""


def _delete_elements(kernel: FakeFilter, which: int) -> None:
    if found := _our_set(kernel, which):
        found[1].elements.clear()


def _except_element(kernel: FakeFilter, which: int) -> None:
    found = _our_set(kernel, which)
    if found and (element := _pick(sorted(found[1].elements), which)):
        found[1].elements[element] = "nomatch"


def _resize_set(kernel: FakeFilter, which: int) -> None:
    if found := _our_set(kernel, which):
        found[1].maxelem = 64


def _delete_set(kernel: FakeFilter, which: int) -> None:
    if found := _our_set(kernel, which):
        for table in kernel.iptables.tables.values():
            for rules in table.values():
                rules[:] = [rule for rule in rules if found[0] not in rule.split()]
        del kernel.ipsets.sets[found[0]]


def _add_set(kernel: FakeFilter, which: int) -> None:
    kernel.ipsets.sets["hp-4-odd"] = FakeSet(elements={"192.0.2.1": ""})


def _delete_nft(kernel: FakeFilter, which: int) -> None:
    kernel.nft.tables.pop((("inet", "bridge")[which % 2], "hostplane"), None)


def _alter_nft(kernel: FakeFilter, which: int) -> None:
    table = kernel.nft.tables.get(("bridge", "hostplane"))
    if table is not None:
        table.chains["allowed" if which % 2 else "guard"] = Chain()


def _delete_zone(kernel: FakeFilter, which: int) -> None:
    if (zones := kernel.own_zones()) and (bridge := _pick(sorted(zones), which)):
        del zones[bridge]


def _share_zone(kernel: FakeFilter, which: int) -> None:
    zones = kernel.own_zones()
    for bridge in zones:
        zones[bridge] = min(number or 0 for number in zones.values())


def _unfilter(kernel: FakeFilter, which: int) -> None:
    if suffix := _pick(sorted(kernel.bridges.plugs), which):
        kernel.bridges.alter(suffix, filtered=False)


DEEDS: Mapping[str, Callable[[FakeFilter, int], None]] = {
    "flush a chain": _alter_chain(list.clear),
    "delete a rule": _alter_chain(_delete_first),
    "double a rule": _alter_chain(lambda rules: rules.extend(rules[:1])),
    "reorder a chain": _alter_chain(list.reverse),
    "accept all in a chain": _accept_in_chain,
    "delete a chain": _delete_chain,
    "restore other rules": _delete_all_chains,
    "delete a jump": _delete_jump,
    "accept all before us": _accept_first,
    "add an element": _add_element,
    "delete elements": _delete_elements,
    "except an element": _except_element,
    "resize a set": _resize_set,
    "delete a set": _delete_set,
    "add a set": _add_set,
    "delete a table of nft": _delete_nft,
    "empty the guard": _alter_nft,
    "delete a zone": _delete_zone,
    "give all one zone": _share_zone,
    "switch a bridge's flags off": _unfilter,
}


def meddle(kernel: FakeFilter, deed: str, which: int) -> None:
    """Do *deed* to the *which*-th of those to which it can be done; what is of others counts as theirs afterwards."""
    DEEDS[deed](kernel, which)
    kernel.iptables.count_references()
    kernel.note_foreign()
